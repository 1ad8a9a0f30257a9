"""Several berths on one machine: none leases a CPU that a job of another has."""

import os
import signal
import time

from berth_case import eventually, main, read
from daemon_case import DaemonCase

CPUS = sorted(os.sched_getaffinity(0))


class Sharing(DaemonCase):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skip("not root: berths of users have their own file")
        if len(CPUS) < 2:
            self.skip("one CPU only")
        self.two = ["--cpus", f"{CPUS[0]},{CPUS[1]}"]

    def hold(self, cpus=1, pool=None, **options):
        """A `berth run` whose job sleeps until hold is ended; its CPUs."""
        words = ["--cpus", pool] if pool is not None else self.two
        process = self.start(
            "run", "--database", os.path.join(self.directory, f"db-{len(self.berths)}"), *words, "-c", cpus, "-D", self.work,
            "--memory", "128M", "--", "sh", "-c", "grep Cpus_allowed_list /proc/self/status; exec sleep 1000", **options,
        )  # fmt: skip
        line = process.stdout.readline().decode()
        self.assertIn("Cpus_allowed_list", line)
        return process, line.split()[1]

    def end(self, process):
        process.terminate()
        self.finish(process)

    def other(self, *arguments, command=("true",), overlap="never"):
        database = os.path.join(self.directory, f"db-{len(self.berths)}")
        pool = [] if "--cpus" in arguments else self.two
        words = ["--database", database, "-D", self.work, "--memory", "128M", *pool, *arguments]
        return self.start("run", *words, "--overlap", overlap, "--", *command)

    def wait_until_it_waits(self, process):
        self.assertIn(b"waiting for CPUs", process.stderr.readline())

    def test_two_runs_get_different_cpus(self):
        first, one = self.hold()
        second, two = self.hold()
        self.assertEqual({one, two}, {str(CPUS[0]), str(CPUS[1])})
        self.end(first)
        self.end(second)

    def test_a_run_waits_for_cpus_says_so_and_starts(self):
        first, _ = self.hold(2)
        process = self.other()
        time.sleep(1.5)
        self.assertIsNone(process.poll())
        self.end(first)
        status, _, err = self.finish(process)
        self.assertEqual(status, 0, err)
        self.assertIn("waiting for CPUs, which other berths on this machine use (--overlap last", err)
        self.assertEqual(err.count("waiting for CPUs"), 1)

    def test_a_waiting_run_can_be_interrupted(self):
        first, _ = self.hold(2)
        process = self.other("--result", os.path.join(self.directory, "result"))
        self.wait_until_it_waits(process)
        process.send_signal(signal.SIGINT)
        status, _, err = self.finish(process)
        self.assertEqual(status, 130, err)
        self.assertEqual(self.read_records(os.path.join(self.directory, "result"))[0]["state"], "CANCELLED")
        self.end(first)

    def test_where_no_cpu_is_free_jobs_overlap_rather_than_wait(self):
        first, _ = self.hold(2)
        for overlap in ("last", "always"):
            status, _, err = self.finish(self.other(overlap=overlap))
            self.assertEqual((status, "waiting" in err), (0, False), err)
        second, cpu = self.hold()
        self.end(first)
        self.end(second)
        self.assertIn(cpu, {str(CPUS[0]), str(CPUS[1])})

    def test_jobs_that_need_each_other_do_not_wait_for_ever(self):
        pairs = []
        for _ in range(3):
            meeting = os.path.join(self.work, f"meeting-{len(self.berths)}")
            os.mkfifo(meeting)
            os.chmod(meeting, 0o666)
            jobs = [{"name": word, "argv": ["sh", "-c", f"echo x {sign} {meeting}" if sign == ">" else f"cat {meeting}"],
                     "current_working_directory": self.work, "memory_per_node": "32M"} for word, sign in (("one", ">"), ("two", "<"))]
            path = self.job_file(*jobs)
            database = os.path.join(self.directory, f"db-{len(self.berths)}")
            pairs.append(self.start("run", "--database", database, *self.two, path))
        for pair in pairs:
            status, _, err = self.finish(pair)
            self.assertEqual(status, 0, err)

    def test_another_word_is_refused(self):
        status, _, err = self.finish(self.other(overlap="often"))
        self.assertEqual(status, 125)
        self.assertIn("is not never, last or always", err)

    def test_cpus_of_a_killed_run_are_free_again(self):
        first, _ = self.hold(2)
        first.kill()
        first.wait()
        status, _, err = self.finish(self.other())
        self.assertEqual((status, "waiting" in err), (0, False), err)
        # Its leftovers are seen to by the next command on its database.
        self.assertEqual(self.berth("run", "--database", os.path.join(self.directory, "db-0"), "--", "true")[0], 0)

    def test_different_cpus_do_not_wait_for_each_other(self):
        first, _ = self.hold(pool=str(CPUS[0]))
        one = self.other("--cpus", CPUS[0])
        self.wait_until_it_waits(one)
        status, _, err = self.finish(self.other("--cpus", CPUS[1]))
        self.assertEqual((status, "waiting" in err), (0, False), err)
        self.assertIsNone(one.poll())
        self.end(first)
        self.assertEqual(self.finish(one)[0], 0)

    def test_who_came_later_waits_for_a_cpu_that_another_waits_for(self):
        first, _ = self.hold(pool=str(CPUS[0]))
        one = self.other("-c", 2)
        self.wait_until_it_waits(one)
        late = self.other("--cpus", CPUS[1])
        self.wait_until_it_waits(late)
        self.assertIsNone(one.poll())
        self.end(first)
        self.assertEqual(self.finish(one)[0], 0)
        self.assertEqual(self.finish(late)[0], 0)

    def test_a_stopped_run_holds_nobody_up(self):
        first, _ = self.hold(1)
        wide = self.other("-c", 2)
        self.wait_until_it_waits(wide)
        wide.send_signal(signal.SIGTSTP)
        self.assertTrue(eventually(lambda: read(f"/proc/{wide.pid}/stat").rsplit(")", 1)[1].split()[0] == "T"))
        status, _, err = self.finish(self.other())
        self.assertEqual((status, "waiting" in err), (0, False), err)
        self.end(first)
        wide.send_signal(signal.SIGCONT)
        self.assertEqual(self.finish(wide)[0], 0)

    def test_a_wide_job_is_not_starved_by_narrow_ones(self):
        # Each narrow job ends when there is a word for it: two are there until the wide one is in line, and after it
        # has run the others are.
        words, giver = self.fifo_of_words()
        script = f"echo began; read word < {words}"
        jobs = [self.job(argv=["/bin/sh", "-c", script], name=f"j{number}") for number in range(40)]
        narrow = self.run_start(*jobs, arguments=[*self.two, "--overlap", "never", "--no-prefix"])
        for _ in range(2):
            self.assertEqual(narrow.stdout.readline(), b"began\n")
        wide = self.other("-c", 2)
        self.wait_until_it_waits(wide)
        os.write(giver, b"word\n" * 2)
        self.assertEqual(self.finish(wide)[0], 0)
        self.assertIsNone(narrow.poll(), "the wide job had to wait for all of the narrow ones")
        os.write(giver, b"word\n" * 38)
        run = self.run_finish(narrow)
        self.assertEqual({record["state"] for record in run.records}, {"COMPLETED"}, str(run))

    def test_berthd_and_run_keep_apart(self):
        self.write_config(pool={"cpus": self.two[1]})
        self.start_daemon()
        process, cpu = self.hold()
        job = self.submit("hold", 1000)
        self.wait_for_state(job, "RUNNING")
        self.assertNotEqual(self.records(job)[0]["allocation"]["cpus"], cpu)
        self.assertIn("; 1 other berths'", self.ok("slots"))
        waiting = self.submit("exit", 0)
        self.assertTrue(eventually(lambda: "other berths' jobs" in self.ok("why", waiting)), self.ok("why", waiting))
        self.end(process)
        self.wait_for_state(waiting, "COMPLETED")
        self.ok("cancel", "--now", job)

    def test_jobs_keep_their_cpus_while_berthd_is_gone(self):
        self.write_config(pool={"cpus": self.two[1]})
        self.start_daemon()
        jobs = [self.submit("hold", 1000) for _ in range(2)]
        for job in jobs:
            self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        process = self.other()
        time.sleep(1)
        self.assertIsNone(process.poll(), "it took a CPU of a job whose berthd was killed")
        self.start_daemon()
        time.sleep(0.5)
        self.assertIsNone(process.poll(), "it took a CPU of a job that the new berthd took over")
        self.ok("cancel", "--now", jobs[0])
        self.assertEqual(self.finish(process)[0], 0)
        self.ok("cancel", "--now", jobs[1])


if __name__ == "__main__":
    main()
