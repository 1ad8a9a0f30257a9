"""Slots and queue: what runs beside what, in which order, and how it is stopped."""

import ctypes
import json
import os
import signal
import time

from berth_case import TIMEOUT, BerthCase, children, eventually, main, natively, read


class Queue(BerthCase):
    def sleeper(self, name, seconds=1.0, **spec):
        return self.job("hold", seconds, name=name, **spec)

    @staticmethod
    def overlaps(first, second):
        return first["start"] < second["end"] and second["start"] < first["end"]

    def cpus(self):
        return len(os.sched_getaffinity(0))

    def test_jobs_run_beside_each_other_as_fit(self):
        if self.cpus() < 2:
            self.skip("one CPU only")
        run = self.run_jobs(self.sleeper("a"), self.sleeper("b"))
        self.assertEqual(run.status, 0, str(run))
        self.assertTrue(self.overlaps(run.by_name("a"), run.by_name("b")))

    def test_leases_that_run_at_once_share_no_cpu(self):
        if len(os.sched_getaffinity(0)) < 2:
            self.skip("one CPU only")
        run = self.run_jobs(*[self.sleeper(f"j{i}", 0.3) for i in range(6)])
        overlaps = 0
        for first in run.records:
            for second in run.records:
                if first is not second and self.overlaps(first, second):
                    overlaps += 1
                    self.assertNotEqual(first["allocation"]["cpus"], second["allocation"]["cpus"])
                    self.assertNotEqual(first["allocation"]["slot"], second["allocation"]["slot"])
        self.assertGreater(overlaps, 0)

    @natively
    def test_one_slot_runs_one_at_a_time_in_submit_order(self):
        run = self.run_jobs(*[self.sleeper(name, 0.2) for name in "abcd"], arguments=["--slots", "1"])
        order = sorted(run.records, key=lambda record: record["start"])
        self.assertEqual([record["spec"]["name"] for record in order], list("abcd"))
        self.assertFalse(any(self.overlaps(a, b) for a, b in zip(order, order[1:])))

    @natively
    def test_priority_comes_first_and_nice_lowers_it(self):
        jobs = [
            self.sleeper("low", 0.1), self.sleeper("nice", 0.1, priority=10, nice=100), self.sleeper("high", 0.1, priority=10),
            self.sleeper("higher", 0.1, priority=20),
        ]
        run = self.run_jobs(*jobs, arguments=["--slots", "1"])
        order = sorted(run.records, key=lambda record: record["start"])
        self.assertEqual([record["spec"]["name"] for record in order], ["higher", "high", "low", "nice"])

    def test_cpus_bound_the_pool(self):
        cpu = sorted(os.sched_getaffinity(0))[-1]
        run = self.run_jobs(self.sleeper("a", 0.3), self.sleeper("b", 0.3), arguments=["--cpus", str(cpu)])
        self.assertEqual({record["allocation"]["cpus"] for record in run.records}, {str(cpu)})
        self.assertFalse(self.overlaps(*run.records))

    @natively
    def test_memory_bounds_the_pool(self):
        jobs = [self.sleeper(name, 0.3, memory_per_node="60M") for name in "ab"]
        run = self.run_jobs(*jobs, arguments=["--memory", "100M"])
        self.assertEqual(run.status, 0, str(run))
        self.assertFalse(self.overlaps(*run.records))

    @natively
    def test_memory_without_a_request_is_the_share_of_the_cpus(self):
        run = self.run_jobs(self.sleeper("a", 0.1, memory_per_node=None), arguments=["--memory", "256M", "--cpus", "0"])
        self.assertEqual(run.record["allocation"]["memory"], 256 << 20)

    @natively
    def test_a_job_that_can_never_fit_is_refused_before_anything_runs(self):
        marker = os.path.join(self.work, "ran")
        jobs = [self.job("write", marker, name="fits"), self.sleeper("huge", cpus_per_task=4096)]
        run = self.run_jobs(*jobs)
        self.assert_refused(run, "huge", "4096")
        self.assertFalse(os.path.exists(marker))
        run = self.run_jobs(self.sleeper("fat", memory_per_node="200M"), arguments=["--memory", "100M"])
        self.assert_refused(run, "fat", "200M")

    @natively
    def test_a_refused_run_leaves_no_process_of_the_sandbox_that_it_had_begun(self):
        subreaper = 36  # prctl(2), PR_SET_CHILD_SUBREAPER: what berth leaves unreaped becomes this process's
        self.assertEqual(ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0), 0)
        try:
            for _ in range(10):
                status, _, err = self.berth("run", "--database", self.database, "--cpus-per-task", "4096", "--", "true")
                self.assertEqual(status, 125, err)
            self.assertRaises(ChildProcessError, os.waitpid, -1, os.WNOHANG)
        finally:
            ctypes.CDLL(None).prctl(subreaper, 0, 0, 0, 0)

    def test_cpus_that_are_not_there_are_refused(self):
        status, _, err = self.berth("run", "--database", self.database, "--cpus", "4000", "--", "/bin/true")
        self.assertEqual(status, 125)
        self.assertIn("--cpus", err)

    def test_one_bad_job_does_not_stop_the_rest(self):
        run = self.run_jobs(
            self.job(argv=["/no/such"], name="bad"), self.sleeper("good", 0.1), self.job("memory_bomb", name="fat", memory_per_node="32M")
        )
        states = {record["spec"]["name"]: record["state"] for record in run.records}
        self.assertEqual(states, {"bad": "FAILED", "good": "COMPLETED", "fat": "OUT_OF_MEMORY"})
        self.assertNotEqual(run.status, 0)

    def test_many_jobs_leave_nothing_and_all_have_a_record(self):
        run = self.run_jobs(*[self.job("exit", 0, name=f"j{i}") for i in range(100)])
        self.assertEqual(run.status, 0, str(run)[:2000])
        self.assertEqual(len(run.records), 100)
        self.assertEqual({record["state"] for record in run.records}, {"COMPLETED"})

    @natively
    def test_any_number_of_jobs_needs_no_more_descriptors_than_a_few(self):
        # Ended jobs keep nothing open, however busy berth is with the next ones.
        jobs = [self.job("exit", 0, name=f"j{number}") for number in range(150)]
        run = self.run_jobs(*jobs, program=["prlimit", "--nofile=384"], arguments=["--slots", "2"], timeout=3 * TIMEOUT)
        self.assertEqual({record["state"] for record in run.records}, {"COMPLETED"}, run.err)

    def test_few_descriptors_are_enough_and_too_few_are_refused(self):
        words = ["run", "-q", "--database", self.database, "--", self.payload, "exit", 0]
        self.assertEqual(self.berth(*words, program=("prlimit", "--nofile=64:64"))[0], 0)
        status, _, err = self.berth(*words, program=("prlimit", "--nofile=40:40"))
        self.assertEqual(status, 125)
        self.assertIn("ulimit", err)

    def test_a_launcher_that_was_killed_is_replaced(self):
        jobs = [self.job("hold", 1), self.job("report"), self.job("exit", 0)]
        process = self.run_start(*jobs, arguments=["--slots", "1"], program=("prlimit", "--nofile=300:5000"))
        self.wait_for_job(process, word="hold")
        # An init that is being made has its name too, until its exec.
        launcher = min(pid for pid in children(process.pid) if read(f"/proc/{pid}/comm") == "berth-launcher\n")
        os.kill(launcher, signal.SIGKILL)
        run = self.run_finish(process)
        self.assertEqual([record["state"] for record in run.records], ["COMPLETED"] * 3, run)
        report = json.loads("".join(line.partition("| ")[2] for line in run.out.splitlines() if line.startswith("report")))
        self.assertEqual(report["limits"]["nofile"][0], 300, "what berth raised for itself is no job's")

    @natively
    def test_output_lines_of_several_jobs_carry_their_names(self):
        run = self.run_jobs(self.job("print_both", name="one"), self.job("print_both", name="two"))
        self.assertRegex(run.out, r"(?m)^one\b.*to output$")
        self.assertRegex(run.out, r"(?m)^two\b.*to output$")

    @natively
    def test_progress_is_plain_lines_off_a_terminal(self):
        run = self.run_jobs(self.sleeper("first", 0.1), self.sleeper("second", 0.1))
        self.assertIn("first", run.err)
        self.assertNotIn("\x1b", run.err)

    def test_interrupt_cancels_in_order_with_grace(self):
        process = self.run_start(self.job("trap_term", 0, name="trap", grace_period="30s"), self.sleeper("waiting"), arguments=["--slots", "1"])
        self.assertIn(b"trapping", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        run = self.run_finish(process)
        self.assertEqual({record["state"] for record in run.records}, {"CANCELLED"}, str(run))
        self.assertEqual(run.by_name("trap")["outcome"]["cause"], "cancelled")
        self.assertIn("signal 15", run.out)
        self.assertEqual(run.status, 130)
        self.assertNotIn("start", run.by_name("waiting"))

    def test_interrupt_kills_what_ignores_it_after_the_grace(self):
        process = self.run_start(self.job("ignore_term", grace_period="500ms"))
        self.assertEqual(process.stdout.readline(), b"ignoring\n")
        process.send_signal(signal.SIGTERM)
        run = self.run_finish(process)
        self.assert_state(run, "CANCELLED", "cancelled", 143)
        self.assertEqual(run.outcome["signal"], 9)

    def test_second_interrupt_kills_at_once(self):
        process = self.run_start(self.job("ignore_term", grace_period="1h"))
        self.assertEqual(process.stdout.readline(), b"ignoring\n")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        run = self.run_finish(process, 20)
        self.assert_state(run, "CANCELLED", "cancelled", 130)

    def test_interrupt_before_the_first_job_runs_leaves_nothing(self):
        for delay in (0.0, 0.005, 0.01, 0.02, 0.03, 0.05):
            with self.subTest(delay=delay):
                process = self.run_start(self.sleeper("x", 1000), self.sleeper("y", 1000))
                time.sleep(delay)
                process.send_signal(signal.SIGINT)
                status, _, err = self.finish(process, 30)
                self.assertIn(status, (130, -signal.SIGINT), err)  # the latter before berth asked for the signal
                if os.path.exists(self.database):
                    self.assertLessEqual({record["state"] for record in self.history()}, {"CANCELLED"})
                self.assertTrue(eventually(lambda: not self.leftovers()), str(self.leftovers()))


if __name__ == "__main__":
    main()
