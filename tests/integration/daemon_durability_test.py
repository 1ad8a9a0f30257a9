"""What berthd promises when it dies again and again, when its jobs' limits fall into a time without it, and when its
folder cannot be written."""

import collections
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time

from berth_case import BERTH, eventually, main, natively
from daemon_case import BERTHD, PACE, DaemonCase, UnixConnection

FINAL = ("COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "PREEMPTED", "NODE_FAIL", "DEADLINE")


class Durability(DaemonCase):
    configuration = {"log_level": "warning", "armed_ahead": 0}

    def final_records(self):
        with sqlite3.connect(f"file:{self.state_folder}/berthd.db?mode=ro", uri=True) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            marks = ",".join("?" * len(FINAL))
            return collections.Counter(database.execute(f"SELECT job_id, attempt FROM events WHERE state IN ({marks})", FINAL))

    @natively
    def test_a_hundred_jobs_run_once_each_under_kill_9_again_and_again(self):
        ran = os.path.join(self.work, "ran")
        script = os.path.join(self.directory, "leave-a-line")
        with open(script, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\necho $BERTH_JOB_ID.$BERTH_ATTEMPT >> {ran}\nsleep 0.1\n")
        os.chmod(script, 0o755)
        with open(ran, "w", encoding="utf-8"):
            pass
        os.chmod(ran, 0o666)
        self.start_daemon()
        spec = {"argv": [script], "current_working_directory": self.work, "memory_per_node": "64M", "standard_output": "/dev/null"}
        out = self.ok("submit", "--parsable", self.job_file(*[spec] * 100))
        jobs = [int(word) for word in out.split()]
        self.assertEqual(len(jobs), 100)
        for kill in range(8):
            before = len(self.final_records())
            self.assertTrue(
                eventually(lambda before=before: len(self.final_records()) >= min(before + 8, 100), 60), f"stuck after kill {kill}"
            )
            self.kill_daemon()
            self.start_daemon()
        for first in range(0, 100, 20):
            self.ok("wait", *jobs[first:first + 20])
        with open(ran, encoding="utf-8") as file:
            self.assertEqual(sorted(file.read().split()), sorted(f"{job}.1" for job in jobs))
        self.assertEqual(self.final_records(), {(job, 1): 1 for job in jobs})

    @natively
    def test_a_hundred_running_jobs_are_taken_over_after_kill_9_and_none_is_lost_or_run_again(self):
        hundred = {"BERTH_IMAGINED_CPUS": "100"}
        words, giver = self.fifo_of_words()
        ran = os.path.join(self.work, "ran")
        with open(ran, "w", encoding="utf-8"):
            pass
        os.chmod(ran, 0o666)
        # Each ends when there is a word for it.
        argv = ["/bin/sh", "-c", f"echo $BERTH_JOB_ID.$BERTH_ATTEMPT >> {ran}; read word < {words}"]
        spec = {"argv": argv, "current_working_directory": self.work, "memory_per_node": "32M", "standard_output": "/dev/null"}

        def running():
            return sum(job["state"] == "RUNNING" for job in self.queue().values())

        def all_run(count):
            self.assertTrue(eventually(lambda: running() == count, 120), f"{running()} of {count} run\n{self.read_log()}")

        self.start_daemon(hundred)
        jobs = [int(word) for word in self.ok("submit", "--parsable", self.job_file(*[spec] * 100)).split()]
        all_run(100)
        for _ in range(3):
            self.kill_daemon()
            self.start_daemon(hundred)
        all_run(100)
        self.assertEqual(self.final_records(), {})
        # Sixty end while there is no berthd; the next one dies when it has taken in twenty of their records.
        self.kill_daemon()
        os.write(giver, b"word\n" * 60)
        self.assertTrue(eventually(lambda: len(self.spooled()) == 60, 120), f"{len(self.spooled())} are spooled")
        dying = subprocess.run(
            [BERTHD, "--config", self.config_path], env=self.environment(BERTH_CRASH_AT="spool.after_commit:20", **hundred),
            stdout=self.daemon_log, stderr=self.daemon_log, timeout=60, check=False,
        )
        self.assertEqual((dying.returncode, len(self.final_records()), len(self.spooled())), (-signal.SIGKILL, 20, 41))
        self.start_daemon(hundred)
        all_run(40)
        # The others end while berthd does.
        os.write(giver, b"word\n" * 40)
        self.kill_daemon()
        self.start_daemon(hundred)
        for first in range(0, 100, 20):
            self.ok("wait", *jobs[first:first + 20])
        with open(ran, encoding="utf-8") as file:
            self.assertEqual(sorted(file.read().split()), sorted(f"{job}.1" for job in jobs))
        self.assertEqual(self.final_records(), {(job, 1): 1 for job in jobs})

    def test_limits_end_jobs_while_there_is_no_berthd(self):
        self.start_daemon()
        slow = self.submit("hold", 600, time_limit=f"{3 * PACE}s")
        silent = self.submit("ignore_term", 600, no_output_timeout=f"{3 * PACE}s", grace_period="500ms")
        self.wait_for_state(slow, "RUNNING")
        self.wait_for_state(silent, "RUNNING")
        self.kill_daemon()
        self.assertTrue(eventually(lambda: len(self.spooled()) == 2, 90), "the runners did not end them")
        self.assertEqual(self.job_pids(), [])
        self.start_daemon()
        ends = [self.records(job)[-1]["outcome"] for job in (slow, silent)]
        self.assertEqual([(end["cause"], end["signal"]) for end in ends], [("wall_time", 15), ("no_output", 9)])
        self.assertEqual(self.final_records(), {(slow, 1): 1, (silent, 1): 1})


class Locked(DaemonCase):
    """The database is somebody else's for longer than a transaction waits for it (10 s), which then fails."""

    configuration = {"pool": {"slots": 2, "memory": "2G"}, "armed_ahead": 0}

    @contextlib.contextmanager
    def locked(self):
        database = sqlite3.connect(f"{self.state_folder}/berthd.db", isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            database.close()

    def wait_for_failure(self):
        self.assertTrue(eventually(lambda: "database is locked" in self.read_log(), 30), self.read_log())

    def submit_until(self, file):
        return int(self.ok("submit", "--parsable", "--wrap", f"until [ -e {file} ]; do sleep 0.05; done"))

    def leave(self, name):
        with open(os.path.join(self.work, name), "w", encoding="utf-8"):
            pass

    def test_jobs_whose_runner_dies_while_their_start_is_committed_run_again_as_they_ask(self):
        self.start_daemon()
        self.ok("drain")
        jobs = [self.submit("exit", 0, cpus_per_task=1, requeue=True), self.submit("exit", 0, cpus_per_task=1, retry={"max": 3})]
        with self.locked():
            self.ok("undrain")
            self.assertTrue(eventually(lambda: json.loads(self.ok("slots", "--json"))["free_slots"] == 0, 8), "they do not start")
            for runner in self.alive_runners():
                os.kill(runner, signal.SIGKILL)
            self.assertTrue(eventually(lambda: not self.alive_runners(), 8), "the runners live")
        for job in jobs:
            self.assertEqual(self.cli("wait", job)[0], 0)
            self.assertEqual([record["state"] for record in self.records(job)], ["NODE_FAIL", "COMPLETED"])
        self.note_runners()

    @natively
    def test_a_job_that_is_requeued_while_its_start_cannot_be_committed_waits_again(self):
        self.start_daemon()
        job = self.submit("exit", 0, hold=True)
        self.ok("release", job)
        self.ok("wait", job)
        held = self.submit_until_told(hold=True, cpus_per_task=1)
        first = [self.submit_until(name) for name in ("one", "two")]
        for one in first:
            self.wait_for_state(one, "RUNNING")
        self.ok("release", held)
        with self.locked():
            self.leave("one")  # with whose end the other's start is committed
            self.assertTrue(eventually(lambda: self.cli("requeue", held)[0] == 0, 8), "it does not start")
            self.wait_for_failure()
        self.wait_for_state(held, "RUNNING")
        self.let_end()
        self.leave("two")
        self.ok("wait", held, *first)

    def ask(self, method, path, body=None):
        """A request that berthd has taken, and has not answered."""
        connection = UnixConnection(self.socket, 60)
        self.addCleanup(connection.close)
        connection.request(method, path, body)
        for _ in range(2):
            self.ok("slots")  # asked later, and answered when the other has been seen to
        return connection

    def leases(self):
        return {entry["job_id"] for entry in json.loads(self.ok("slots", "--json"))["running"]}

    def ask_to_submit(self, **spec):
        return self.ask("POST", f"/v1/jobs?directory={self.work}", json.dumps(self.job("exit", 0, standard_output="/dev/null", **spec)))

    @staticmethod
    def answer_of(connection):
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    @natively
    def test_a_job_whose_cancellation_is_being_committed_is_ending(self):
        self.start_daemon()
        jobs = [self.submit("exit", 0, hold=True), int(self.ok("submit", "--parsable", "-H", "-a", "0-1", "--wrap", "exit 0"))]
        with self.locked():
            cancels = [self.ask("POST", f"/v1/jobs/{job}/cancel") for job in jobs for _ in range(2)]
            refused = [(job, self.cli(action, job)[2]) for job in jobs for action in ("hold", "release", "requeue")]
            status, answer = self.answer_of(self.ask("POST", f"/v1/jobs/{jobs[0]}/cancel?state=RUNNING"))
        self.assertEqual([self.answer_of(connection)[0] for connection in cancels], [200] * 4)
        for job, text in refused:
            self.assertIn(f"job {job} is ending; try again", text)
        self.assertEqual((status, "is PENDING: it is in none of these states" in answer["error"]), (409, True), answer)
        self.assertIn("is CANCELLED: there is nothing to cancel", self.cli("cancel", jobs[0])[2])

    def retain_no_history(self):
        self.write_config(history={"retain": {"jobs": 0}})
        self.daemon.send_signal(signal.SIGHUP)
        time.sleep(1)  # it looks for what may go 50 ms later

    def ended_job(self):
        job = self.submit("exit", 0)
        self.ok("wait", job)
        return job

    @natively
    def test_what_a_submission_depends_on_stays_in_the_history_while_that_is_committed(self):
        self.start_daemon()
        ended = self.ended_job()
        array = int(self.ok("submit", "--parsable", "-a", "0-1", "-o", "/dev/null", "--wrap", "exit 3"))
        self.cli("wait", array)
        with self.locked():
            self.ask_to_submit(hold=True)  # a transaction that cannot begin; those below are the next one
            dependents = [self.ask_to_submit(dependency=text) for text in (f"afterok:{ended}", f"afternotok:{array}_1")]
            self.retain_no_history()
        for connection in dependents:
            status, answer = self.answer_of(connection)
            self.assertEqual(status, 201, answer)
            self.ok("wait", *answer["job_ids"])
        gone = lambda: self.cli("show", ended)[0] != 0 and self.cli("show", array)[0] != 0  # noqa: E731
        self.assertTrue(eventually(gone, 30), "nothing needs them any more")

    @natively
    def test_a_task_whose_number_is_being_committed_can_be_depended_on(self):
        self.start_daemon()
        self.ok("drain")
        array = int(self.ok("submit", "--parsable", "-a", "0-9", "-o", "/dev/null", "--wrap", "exit 0"))
        held = self.submit("exit", 0, hold=True, dependency=f"afterok:{array}_0:{array}_9")
        other = self.submit("exit", 0, hold=True)
        with self.locked():
            self.ask("POST", f"/v1/jobs/{array}_9/hold")
            self.ok("undrain")
            self.assertTrue(eventually(lambda: json.loads(self.ok("slots", "--json"))["free_slots"] == 0, 8), "no task starts")
            release = self.ask("POST", f"/v1/jobs/{held}/release")
            self.assertEqual(self.queue()[held]["reason"], "Dependency")
            dependent = self.ask_to_submit(dependency=f"afterok:{array}_0:{array}_9")
            change = self.ask("PATCH", f"/v1/jobs/{other}", json.dumps({"dependency": f"afterok:{array}_0:{array}_9"}))
        for connection, wanted in ((release, 200), (change, 200), (dependent, 201)):
            status, answer = self.answer_of(connection)
            self.assertEqual(status, wanted, answer)
        self.ok("release", f"{array}_9", other)
        self.ok("wait", held, other, *answer["job_ids"])

    @natively
    def test_a_submission_that_depends_on_what_the_history_has_just_lost_is_refused(self):
        self.start_daemon()
        ended = self.ended_job()
        waiting = self.submit("exit", 0, hold=True)
        with self.locked():
            self.ask_to_submit(hold=True)
            self.retain_no_history()
            dependent = self.ask_to_submit(dependency=f"afterok:{ended}")
            change = self.ask("PATCH", f"/v1/jobs/{waiting}", json.dumps({"dependency": f"afterok:{ended}"}))
            nice = self.ask("PATCH", f"/v1/jobs/{waiting}", json.dumps({"nice": 5}))
        status, answer = self.answer_of(dependent)
        self.assertEqual((status, answer["faults"][0]["pointer"]), (422, "/dependency"), answer)
        self.assertIn(f"there is no job {ended} any more", answer["error"])
        status, answer = self.answer_of(change)
        self.assertEqual((status, f"there is no job {ended} any more" in answer["error"]), (404, True), answer)
        status, answer = self.answer_of(nice)  # what comes after it would record it
        self.assertEqual((status, "was refused, and so is this" in answer["error"]), (409, True), answer)
        self.assertNotIn("dependency", self.queue()[waiting]["queue"])
        self.ok("release", waiting)
        self.ok("wait", waiting)

    @natively
    def test_a_job_that_was_cancelled_before_its_start_was_sent_ends_after_a_kill(self):
        self.start_daemon({"BERTH_CRASH_AT": "start.after_send"})
        self.ok("drain")
        job = self.submit("hold", 600)
        with self.locked():
            self.ask_to_submit(hold=True)  # a transaction that cannot begin; what is below is the next one
            self.ok("undrain")
            self.assertTrue(eventually(lambda: job in self.leases(), 5), "it does not start")
            self.ask("POST", f"/v1/jobs/{job}/cancel")
        self.assertTrue(eventually(lambda: self.daemon.poll() is not None, 30), "its start was not sent")
        self.start_daemon()
        self.assertTrue(eventually(lambda: self.state(job) == "CANCELLED", 20), self.records(job)[-1])

    @natively
    def test_a_suspension_that_was_not_recorded_is_none_after_a_restart(self):
        self.start_daemon()
        job = self.submit(argv=["/bin/sh", "-c", "until [ -e end ]; do echo >> ticks; sleep 0.05; done"])
        ticks = os.path.join(self.work, "ticks")
        self.assertTrue(eventually(lambda: os.path.exists(ticks)))
        self.wait_for_state(job, "RUNNING")
        with self.locked():
            suspend = subprocess.Popen(  # pylint: disable=consider-using-with
                [BERTH, "suspend", str(job), "--socket", self.socket], env=self.environment(), stderr=subprocess.DEVNULL
            )
            self.assertTrue(eventually(lambda: self.frozen(ticks)), "it was not suspended")
            self.kill_daemon()
            suspend.wait(20)
        self.start_daemon()
        self.assertEqual(self.state(job), "RUNNING")
        self.assertTrue(eventually(lambda: not self.frozen(ticks)), "it is still suspended")
        self.let_end()
        self.ok("wait", job)

    def frozen(self, ticks):
        """The file does not grow, which it does all 50 ms else."""
        before = os.path.getsize(ticks)
        time.sleep(0.6)
        return os.path.getsize(ticks) == before

    @natively
    def test_each_task_of_an_array_runs_once_although_starts_could_not_be_committed(self):
        self.start_daemon()
        for job in (self.submit_until("one"), self.submit_until("two")):
            self.wait_for_state(job, "RUNNING")
        array = int(self.ok("submit", "--parsable", "-a", "1-4", "-o", "/dev/null", "--wrap", "echo $SLURM_ARRAY_TASK_ID >> ran"))
        waiter = subprocess.Popen([BERTH, "wait", f"{array}_1", "--socket", self.socket], env=self.environment())  # pylint: disable=consider-using-with
        with self.locked():
            self.leave("one")  # its end and the start of task 1 are the transaction that fails
            time.sleep(3)
            self.leave("two")  # behind which that of task 2 waits
            self.wait_for_failure()
        self.ok("wait", array)
        with open(os.path.join(self.work, "ran"), encoding="utf-8") as file:
            self.assertEqual(sorted(file.read().split()), ["1", "2", "3", "4"])
        self.assertEqual(waiter.wait(20), 0, "the number of task 1, which came at the second try, was not waited for")
        tasks = self.ok("history", "-n", "-P", "-o", "JobID", array).split()
        self.assertEqual(sorted(tasks), [str(array), *(f"{array}_{task}" for task in range(1, 5))])


class Throwing(DaemonCase):
    """Memory runs out in the middle of something, once."""

    configuration = {"armed_ahead": 0}

    def submit_some(self):
        job = int(self.ok("submit", "--parsable", "-o", "/dev/null", "--wrap", "exit 0"))
        array = int(self.ok("submit", "--parsable", "-a", "0-2%1", "-o", "/dev/null", "--wrap", "exit 0"))
        dependent = int(self.ok("submit", "--parsable", "-d", f"afterok:{job}", "-o", "/dev/null", "--wrap", "exit 0"))
        return [job, array, dependent]

    def assert_thrown(self):
        self.assertIn("bad_alloc", self.read_log())

    @natively
    def test_jobs_are_queued_and_started_when_it_went_wrong_at_first(self):
        for point in ("queue.entered:1", "queue.entered:2", "queue.entered:3", "start.leased:1", "start.leased:2", "start.before_commit:2"):
            with self.subTest(point):
                self.start_daemon({"BERTH_THROW_AT": point})
                self.ok("wait", *self.submit_some())
                self.assert_thrown()
                self.stop_daemon()

    @natively
    def test_a_job_that_could_not_be_started_is_tried_again_when_nothing_else_happens(self):
        self.start_daemon({"BERTH_THROW_AT": "start.leased"})
        self.ok("wait", self.submit("exit", 0))
        self.assert_thrown()

    @natively
    def test_a_job_that_could_not_be_started_holds_up_no_other(self):
        self.start_daemon({"BERTH_THROW_AT": "start.leased"})
        self.ok("drain")
        every_cpu = json.loads(self.ok("slots", "--json"))["cpus"]
        first, second = (self.submit("exit", 0, cpus_per_task=every_cpu) for _ in range(2))
        self.ok("undrain")
        self.ok("wait", first, second)
        self.assert_thrown()
        self.assertLess(*(self.records(job)[-1]["start"] for job in (second, first)))

    @natively
    def test_a_submission_is_answered_also_when_it_goes_wrong_after_its_commit(self):
        self.start_daemon({"BERTH_THROW_AT": "submit.after_commit"})
        self.ok("wait", *self.submit_some())
        self.assert_thrown()

    @natively
    def test_what_depends_on_a_job_starts_also_when_its_end_could_not_be_looked_up(self):
        for dependency in ("afterok:{}", "singleton"):
            with self.subTest(dependency):
                self.start_daemon({"BERTH_THROW_AT": "release.read:2"})  # behind that of its start
                job = self.submit_until_told()
                self.wait_for_state(job, "RUNNING")
                dependent = self.submit("exit", 0, name="until-told", dependency=dependency.format(job))
                self.let_end()
                self.ok("wait", job, dependent)
                self.assert_thrown()
                os.unlink(os.path.join(self.work, "end"))
                self.stop_daemon()

    @natively
    def test_what_a_runner_has_told_is_not_lost(self):
        for point in ("run.received", "end.received", "end.decided"):
            with self.subTest(point):
                self.start_daemon({"BERTH_THROW_AT": point})
                job = self.submit("exit", 0)
                self.ok("wait", job, timeout=10)
                self.assert_thrown()
                self.assertIn("start", self.records(job)[-1])
                self.assertEqual(json.loads(self.ok("slots", "--json"))["running"], [])
                self.stop_daemon()

    @natively
    def test_an_attempt_that_cannot_be_sent_ends_and_says_why(self):
        for requeue, state in ((False, "NODE_FAIL"), (True, "COMPLETED")):
            self.start_daemon({"BERTH_THROW_AT": "start.after_commit"})
            job = self.submit("exit", 0, requeue=requeue)
            self.cli("wait", job)
            self.assertEqual(self.state(job), state)
            first = self.records(job)[0]["outcome"]
            self.assertEqual((first["cause"], "could not send it to its berth-runner: std::bad_alloc" in first["message"]), ("node_fail", True), first)
            self.assertEqual(json.loads(self.ok("slots", "--json"))["running"], [])
            self.ok("wait", self.submit("exit", 0))
            self.stop_daemon()


class ReadOnly(DaemonCase):
    def tearDown(self):
        self.stop_daemon()
        self.end_runners()
        subprocess.run(["umount", self.state_folder], check=False, capture_output=True)
        super().tearDown()

    @natively
    def test_a_read_only_file_system_is_refused_by_name_until_it_can_be_written(self):
        os.mkdir(self.state_folder)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=0700", "none", self.state_folder], check=True)
        self.start_daemon()
        job = self.submit("exit", 0)
        self.ok("wait", job)
        self.stop_daemon()
        self.end_runners()
        subprocess.run(["mount", "-o", "remount,ro", self.state_folder], check=True)
        done = subprocess.run([BERTHD, "--config", self.config_path], capture_output=True, text=True, check=False, timeout=30)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Read-only file system", done.stderr)
        self.assertIn(self.state_folder, done.stderr)
        subprocess.run(["mount", "-o", "remount,rw", self.state_folder], check=True)
        self.start_daemon()
        self.assertEqual(self.state(job), "COMPLETED")


if __name__ == "__main__":
    main()
