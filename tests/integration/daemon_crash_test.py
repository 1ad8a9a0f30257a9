"""kill -9 of berthd and of its runners at every named point (scheduler/crash_point.h), under load, and then: no
acknowledged job lost or left undone, no job run twice without being asked to, one final record per attempt, events that
replay, and nothing left."""

import collections
import glob
import os
import re
import signal
import sqlite3
import subprocess
import threading

from berth_case import SOURCE, eventually, main, natively
from daemon_case import BERTHD, DaemonCase

FINAL = {"COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "PREEMPTED", "NODE_FAIL", "DEADLINE"}
# What may follow what: a cancellation is an event that changes no state, and a requeue makes a job wait again after
# whatever ended its attempt, or before it has started.
NEXT = {
    None: {"PENDING"},
    "PENDING": {"PENDING", "CONFIGURING"} | FINAL,
    "CONFIGURING": {"CONFIGURING", "RUNNING", "PENDING"} | FINAL,
    "RUNNING": {"RUNNING", "SUSPENDED", "PENDING"} | FINAL,
    "SUSPENDED": {"SUSPENDED", "RUNNING"} | FINAL,
    **{state: {"PENDING"} for state in FINAL},
}


def crash_points():
    found = []
    for source in glob.glob(os.path.join(SOURCE, "scheduler", "*.cpp")):
        with open(source, encoding="utf-8") as file:
            found += re.findall(r'crash_point\("([^"]+)"\)', file.read())
    return sorted(set(found))


class Crashing(DaemonCase):
    configuration = {"log_level": "warning", "armed_ahead": 0}

    def script(self):
        """Of a job that leaves a line where it ran, and sleeps for its argument's seconds."""
        script = os.path.join(self.directory, "leave-a-line")
        if not os.path.exists(script):
            with open(script, "w", encoding="utf-8") as file:
                file.write(f"#!/bin/sh\necho $BERTH_JOB_ID $BERTH_ATTEMPT >> {self.work}/ran/$BERTH_JOB_ID\nexec sleep \"$1\"\n")
            os.makedirs(f"{self.work}/ran", exist_ok=True)
            os.chmod(f"{self.work}/ran", 0o777)
        return script

    def load(self, acknowledged):
        """Some clients at once. Ends when berthd is gone, or all is done."""
        script = self.script()

        def client(pause):
            for _ in range(3):
                status, out, _ = self.cli("submit", "--parsable", "-o", "/dev/null", script, pause)
                if status == 0:
                    acknowledged["jobs"].append(int(out))
                    acknowledged["run"].append(int(out))
                status, out, _ = self.cli("submit", "--parsable", "-o", "/dev/null", "-H", script, pause)
                if status == 0:
                    acknowledged["jobs"].append(int(out))
                    if self.cli("cancel", out.strip())[0] == 0:
                        acknowledged["cancelled"].append(int(out))

        clients = [threading.Thread(target=client, args=(pause,)) for pause in ("0", "0.05")]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        # One that has ended runs again, one that runs is cancelled.
        for job in acknowledged["jobs"][:1]:
            self.cli("wait", job)
            if self.daemon.poll() is None:
                acknowledged["requeued"].append(job)  # also when the answer is lost
                self.cli("requeue", job)
        status, out, _ = self.cli("submit", "--parsable", "-o", "/dev/null", script, "600")
        if status == 0:
            acknowledged["jobs"].append(int(out))
            eventually(lambda: self.daemon.poll() is not None or self.cli("show", out.strip())[1].find("RUNNING") >= 0, 5)
            self.cli("cancel", "--now", out.strip())

    def finish_everything(self):
        for job, entry in self.queue().items():
            if entry["state"] == "PENDING" and entry.get("reason") == "JobHeldUser":
                self.cli("cancel", "--now", job)
        for job in list(self.queue()):
            self.cli("cancel", "--now", job) if self.runs_for_ever(job) else None
        self.assertTrue(eventually(lambda: not self.queue(), 30), f"jobs do not end: {self.queue()}\n{self.read_log()}")

    def runs_for_ever(self, job):
        return self.records(job)[-1]["spec"].get("argv", [""])[-1] == "600"

    def check(self, point, acknowledged):
        with sqlite3.connect(f"file:{self.state_folder}/berthd.db?mode=ro", uri=True) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            states = dict(database.execute("SELECT id, state FROM jobs"))
            lost = [job for job in acknowledged["jobs"] if job not in states]
            self.assertEqual(lost, [], f"{point}: acknowledged jobs are lost")
            self.assertEqual({job for job, state in states.items() if state not in FINAL}, set(), point)
            wrong = [job for job in acknowledged["cancelled"] if states[job] != "CANCELLED"]
            self.assertEqual(wrong, [], f"{point}: cancelled jobs are not")
            records = collections.Counter(
                database.execute("SELECT job_id, attempt FROM events WHERE state IN (%s)" % ",".join(f"'{s}'" for s in FINAL))
            )
            # A job that waited again may end without a further attempt, under the number of its last one.
            doubled = {key: count for key, count in records.items() if count > 1 and key[0] not in acknowledged["requeued"]}
            self.assertEqual(doubled, {}, f"{point}: more than one final record")
            open_attempts = database.execute("SELECT count(*) FROM attempts WHERE end_us IS NULL").fetchone()
            self.assertEqual(open_attempts, (0,), point)
            self.replay(database, states, point)
        for job in os.listdir(f"{self.work}/ran"):
            with open(f"{self.work}/ran/{job}", encoding="utf-8") as file:
                lines = file.read().splitlines()
            self.assertEqual(len(lines), len(set(lines)), f"{point}: an attempt ran twice: {lines}")
            if int(job) not in acknowledged["requeued"]:
                self.assertEqual(len(lines), 1, f"{point}: job {job} ran twice: {lines}")
        self.check_runs(point, acknowledged, states)

    def check_runs(self, point, acknowledged, states):
        """Who neither was cancelled nor waited again has done its work, but where its runner died."""
        ends = {job: states[job] for job in acknowledged["run"] if job not in acknowledged["requeued"]}
        failed = [job for job, state in ends.items() if state != "COMPLETED"]
        if point.startswith("runner."):  # each dies in its turn
            self.assertEqual({ends[job] for job in failed} - {"NODE_FAIL"}, set(), f"{point}: {ends}")
        else:
            self.assertEqual(failed, [], f"{point}: {ends}")
        without = [job for job in ends if job not in failed and not os.path.exists(f"{self.work}/ran/{job}")]
        self.assertEqual(without, [], f"{point}: COMPLETED, and never ran")

    def replay(self, database, states, point):
        """Each event is a legal step from the one before it, and the last one is the state that the job has."""
        last = {}
        attempts = {}
        for job, attempt, state in database.execute("SELECT job_id, attempt, state FROM events ORDER BY sequence"):
            self.assertIn(state, NEXT[last.get(job)], f"{point}: job {job} from {last.get(job)}")
            self.assertGreaterEqual(attempt, attempts.get(job, 0), f"{point}: job {job}")
            last[job] = state
            attempts[job] = attempt
        self.assertEqual(last, states, f"{point}: events do not lead to the states")
        waiting = database.execute("SELECT count(*) FROM queue").fetchone()
        self.assertEqual(waiting, (0,), f"{point}: ended jobs are in the queue")

    def assert_nothing_leaked(self, point):
        """Beside what every test proves at its end: processes, cgroups, mounts, devices."""
        for folder in (os.path.join(self.state_folder, "spool"), os.path.join(self.run_folder, "runners")):
            self.assertTrue(eventually(lambda folder=folder: not os.listdir(folder)), f"{point}: {os.listdir(folder)}")

    def crash_at(self, point):
        acknowledged = {"jobs": [], "run": [], "cancelled": [], "requeued": []}
        in_runner = point.startswith("runner.")
        if point.startswith("spool.") or point in ("runner.spool_written", "runner.spooled"):
            self.leave_a_spooled_record(point, acknowledged)
        else:
            self.start_daemon({"BERTH_CRASH_AT": point})
            self.load(acknowledged)
        if in_runner:
            self.assertTrue(eventually(lambda: len(self.alive_runners()) < len(self.runner_pids), 10), f"{point} was not reached")
            self.stop_daemon()
        else:
            self.assertTrue(eventually(lambda: self.daemon.poll() is not None, 10), f"{point} was not reached")
            self.assertEqual(self.daemon.returncode, -signal.SIGKILL, self.read_log())
        self.note_runners()
        self.start_daemon()
        self.finish_everything()
        self.check(point, acknowledged)
        self.stop_daemon()
        self.end_runners()
        self.assert_nothing_leaked(point)

    def leave_a_spooled_record(self, point, acknowledged):
        self.start_daemon({"BERTH_CRASH_AT": point} if point.startswith("runner.") else None)
        job = int(self.ok("submit", "--parsable", "-o", "/dev/null", self.script(), "0.4"))
        acknowledged["jobs"].append(job)
        acknowledged["run"].append(job)
        self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        spool = os.path.join(self.state_folder, "spool")
        # At runner.spool_written the runner dies before the record has its name.
        self.assertTrue(eventually(self.spooled if point != "runner.spool_written" else lambda: os.listdir(spool)), point)
        if point.startswith("spool."):
            self.daemon = subprocess.Popen(  # pylint: disable=consider-using-with
                [BERTHD, "--config", self.config_path],
                env=self.environment(BERTH_CRASH_AT=point), stdout=self.daemon_log, stderr=self.daemon_log,
            )


def test_of(point):
    def test(self):
        self.crash_at(point)

    return test


# Where cgroups and processes are left behind rather than rows.
ALSO_IN_GUESTS = ("start.after_send", "end.before_commit", "runner.launched")

for each_point in crash_points():
    each_test = test_of(each_point)
    setattr(Crashing, "test_" + re.sub(r"\W", "_", each_point), each_test if each_point in ALSO_IN_GUESTS else natively(each_test))


if __name__ == "__main__":
    main()
