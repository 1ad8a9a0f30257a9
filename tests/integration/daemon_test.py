"""berthd: jobs of several users through its socket, and what survives kill -9 of it."""

import contextlib
import grp
import json
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from datetime import datetime, timezone

from berth_case import BERTH, eventually, main, natively, read
from daemon_case import BERTHD, PACE, RUNNER, DaemonCase


class Submitting(DaemonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def test_a_job_runs_and_its_record_and_status_come_back(self):
        job = self.submit("exit", 3)
        status, _, _ = self.cli("wait", job)
        self.assertEqual(status, 3)
        record = self.records(job)[-1]
        self.assertEqual((record["state"], record["outcome"]["exit_code"]), ("FAILED", 3))
        self.assertIn("cpu_total", str(record["usage"]))

    @natively
    def test_output_goes_to_a_file_in_the_working_directory_that_logs_prints(self):
        job = self.submit("print_both")
        self.ok("wait", job)
        path = os.path.join(self.work, f"berth-{job}.out")
        with open(path, encoding="utf-8") as file:
            self.assertEqual(self.logs(job), file.read())
        self.assertTrue(self.logs(job))

    @natively
    def test_logs_follow_a_running_job_to_its_end(self):
        job = self.submit("print_slowly", 3, 0.3)
        self.assertEqual(len(self.ok("logs", "-f", job).splitlines()), 3)

    def test_logs_begin_anew_with_a_file_that_is_truncated(self):
        job = self.submit(argv=["sh", "-c", "echo a long first line; until [ -e end ]; do sleep 0.05; done; echo second; echo third"])
        follower = self.start("logs", "--socket", self.socket, "-f", job)
        self.assertEqual(follower.stdout.readline(), b"a long first line\n")
        os.truncate(os.path.join(self.work, f"berth-{job}.out"), 0)
        self.let_end()
        self.assertEqual(self.finish(follower)[:2], (0, "second\nthird\n"))

    def test_logs_that_began_anew_go_on_in_place_when_berthd_comes_back(self):
        job = self.submit(argv=["sh", "-c", "printf 'a long first line\\n'; until [ -e more ]; do sleep 0.05; done; echo second;"
                                " until [ -e end ]; do sleep 0.05; done; printf 'third and last, a longer line than the first\\n'"])
        follower = self.start("logs", "--socket", self.socket, "-f", job)
        self.assertEqual(follower.stdout.readline(), b"a long first line\n")
        os.truncate(os.path.join(self.work, f"berth-{job}.out"), 0)
        with open(os.path.join(self.work, "more"), "w", encoding="utf-8"):
            pass
        self.assertEqual(follower.stdout.readline(), b"second\n")
        self.kill_daemon()
        self.let_end()
        self.start_daemon()
        self.assertEqual(self.finish(follower)[:2], (0, "third and last, a longer line than the first\n"))

    def test_logs_begin_anew_with_a_file_that_was_truncated_while_berthd_was_away(self):
        job = self.submit(argv=["sh", "-c", "echo a long first line; until [ -e end ]; do sleep 0.05; done; echo second"])
        follower = self.start("logs", "--socket", self.socket, "-f", job)
        self.assertEqual(follower.stdout.readline(), b"a long first line\n")
        self.kill_daemon()
        os.truncate(os.path.join(self.work, f"berth-{job}.out"), 0)
        self.start_daemon()
        self.let_end()
        self.assertEqual(self.finish(follower)[:2], (0, "second\n"))

    def test_logs_of_what_went_to_dev_null_say_so(self):
        job = int(self.ok("submit", "--parsable", "-o", "/dev/null", "--", "true"))
        for words in ((), ("-f",)):
            status, _, err = self.cli("logs", *words, job)
            self.assertEqual((status, err), (1, f"berth: job {job} has no output: it goes to /dev/null\n"))

    @natively
    def test_a_command_after_dashes_a_wrapped_line_and_a_script_are_jobs(self):
        status, out, err = self.cli("submit", "--wait", "--", self.payload, "exit", "4")
        self.assertEqual((status, out.startswith("Submitted batch job ")), (4, True), err)
        self.assertEqual(self.cli("submit", "--wait", "--wrap", "exit 5")[0], 5)
        script = os.path.join(self.directory, "script")
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\nexit $1\n")
        self.assertEqual(self.cli("submit", "--wait", script, "6")[0], 6)

    @natively
    def test_the_sbatch_lines_of_a_script_are_options_that_the_command_line_overrides(self):
        script = os.path.join(self.directory, "script")
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n#SBATCH -J first --mem=70M\n# a comment\n#SBATCH --comment='two words'  # why\n\n"
                       "true\n#SBATCH -J late\n")
        job = int(self.ok("submit", "--parsable", "--mem", "80M", script))
        self.ok("wait", job)
        spec = self.records(job)[-1]["spec"]
        self.assertEqual((spec["name"], spec["comment"], spec["memory_per_node"]), ("first", "two words", "80M"))
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n#SBATCH --partition=long\ntrue\n")
        status, _, err = self.cli("submit", script)
        self.assertEqual(status, 125)
        self.assertIn(f"{script}: line 2: ", err)

    def test_jobs_run_as_their_submitter_who_sees_only_their_own(self):
        mine = self.submit("report", user="www-data")
        root = self.submit("exit", 0)
        self.ok("wait", mine, user="www-data")
        self.assertEqual(self.records(mine)[-1]["job_user"], "www-data")
        self.assertEqual(os.stat(os.path.join(self.work, f"berth-{mine}.out")).st_uid, __import__("pwd").getpwnam("www-data").pw_uid)
        status, _, err = self.cli("show", root, user="www-data")
        self.assertEqual(status, 1)
        self.assertIn(f"no job {root}", err)
        self.assertNotIn(f"\n{root}|", "\n" + self.ok("history", "-P", "-n", user="www-data"))
        status, _, err = self.cli("cancel", mine, user="backup")
        self.assertEqual(status, 1)
        self.assertIn(f"no job {mine} of yours", err)

    def test_a_user_gets_no_file_of_others_by_output_mount_or_identity(self):
        secret = os.path.join(self.directory, "secret")
        with open(secret, "w", encoding="utf-8") as file:
            file.write("secret")
        os.chmod(secret, 0o600)
        job = self.submit("exit", 0, user="www-data", standard_output=secret, open_mode="append")
        self.assertNotEqual(self.cli("wait", job, user="www-data")[0], 0)
        self.assertNotEqual(self.cli("logs", job, user="www-data")[0], 0)
        hidden = os.path.join(self.directory, "hidden")
        os.makedirs(os.path.join(hidden, "inner"))
        os.chmod(hidden, 0o700)
        job = self.submit("list", "/data", user="www-data",
                          isolation={"mounts": [{"source": os.path.join(hidden, "inner"), "target": "/data"}]})
        self.assertNotEqual(self.cli("wait", job, user="www-data")[0], 0)
        self.assertEqual(self.records(job)[-1]["outcome"]["cause"], "launch_failed")
        status, _, err = self.cli("submit", "--user", "backup", "--", "true", user="www-data")
        self.assertEqual(status, 125)
        self.assertIn("only root can run a job as another user", err)
        for user in ("2147400000", "2147400000:2147400000"):
            self.assertEqual(self.cli("submit", "--user", user, "--", "true", user="www-data")[0], 125, user)

    def test_what_is_the_kernels_own_is_neither_read_nor_written_for_a_user(self):
        account = pwd.getpwnam("www-data")
        ids = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with subprocess.Popen(["sleep", "1000"], start_new_session=True, **ids) as own:
            try:
                group = f"/proc/{own.pid}/autogroup"
                before = read(group) if os.path.exists(group) else ""
                outputs = (group, f"/proc/{own.pid}/oom_score_adj", "/proc/self/maps", f"/proc/{self.daemon.pid}/stat")
                jobs = [self.submit(argv=["echo", "-10"], user="www-data", standard_output=path) for path in outputs if os.path.exists(path)]
                for job in jobs:
                    self.assertEqual(self.cli("wait", job, user="www-data")[0], 125)
                    self.assertEqual(read(group) if before else "", before)
                    self.assertEqual(read(f"/proc/{own.pid}/oom_score_adj"), "0\n")
                    status, out, err = self.cli("logs", job, user="www-data")
                    self.assertEqual((status, out), (1, ""), err)
            finally:
                own.kill()
        for path in ("/proc/kallsyms", "/proc/self/maps", "/proc/thread-self/smaps", "/sys/kernel/notes", "/proc/cpuinfo"):
            job = self.submit(argv=["cat"], user="www-data", standard_input=path)
            self.assertEqual(self.cli("wait", job, user="www-data")[0], 125, path)
            self.assertIn(f"{path} (it is the kernel's own", self.records(job)[-1]["outcome"]["message"])

    def test_what_is_written_for_a_user_takes_set_user_id_bits_away(self):
        backup = pwd.getpwnam("backup")
        path = os.path.join(self.directory, "program")
        for argv, mode in ((["echo", "words"], "append"), (["true"], "truncate")):
            with open(path, "w", encoding="utf-8") as file:
                file.write("whole\n")
            os.chown(path, backup.pw_uid, backup.pw_gid)
            os.chmod(path, 0o6777)
            self.ok("wait", self.submit(argv=argv, user="www-data", standard_output=path, open_mode=mode))
            self.assertEqual(os.stat(path).st_mode & 0o7777, 0o777, mode)
        self.assertEqual(read(path), "")

    def test_a_job_that_never_ran_has_no_exit_code_that_reads_as_a_success(self):
        lost = self.submit("exit", 0, standard_output="/nope/out")
        missing = self.submit("exit", 0, argv=["/nope/program"])
        held = self.submit("exit", 0, hold=True)
        self.ok("cancel", held)
        for job, status, cell in ((lost, 125, "125:0"), (missing, 127, "127:0"), (held, 143, "143:0")):
            self.assertEqual(self.cli("wait", job)[0], status)
            outcome = self.records(job)[-1]["outcome"]
            self.assertFalse({"exit_code", "signal"} & set(outcome), outcome)
            self.assertEqual(outcome["exit_status"], status)
            self.assertEqual(self.ok("history", "-n", "-P", "-o", "ExitCode", "-j", job).strip(), cell)
            self.assertNotIn("exit_code", self.ok("efficiency", "--json", job))
            self.assertNotIn("exit_code", self.ok("show", "--json", job))
        array = self.submit("exit", 11, array="0-1")
        self.assertEqual(self.cli("wait", array)[0], 11)
        self.assertEqual(self.ok("history", "-n", "-P", "-o", "State,ExitCode", "-j", array).splitlines()[0], "FAILED|")

    def test_a_user_names_itself_its_groups_and_root_inside_alone(self):
        account = pwd.getpwnam("www-data")
        shadow = grp.getgrnam("shadow").gr_gid
        status, _, err = self.cli("submit", "--user", f"{account.pw_uid}:{shadow}", "--", "true", user="www-data")
        self.assertEqual(status, 125)
        self.assertIn(f"user www-data is not in group {shadow}", err)
        shared = os.path.join(self.directory, "shared")
        os.mkdir(shared)
        os.chmod(shared, 0o777)
        self.ok("submit", "--wait", "-D", shared, "-o", "/dev/null", "--", "touch", "default")
        for user, inside in ((f"{account.pw_uid}:{account.pw_gid}", "www-data"), ("root", "root"), ("0:0", "root")):
            name = user.replace(":", "-")
            words = ["-D", shared, "-o", "/dev/null", "--user", user, "--", "sh", "-c", f"id -un > {name}"]
            self.ok("submit", "--wait", *words, user="www-data")
            made = os.stat(os.path.join(shared, name))
            self.assertEqual((made.st_uid, made.st_gid), (account.pw_uid, account.pw_gid), user)
            with open(os.path.join(shared, name), encoding="utf-8") as file:
                self.assertEqual(file.read().strip(), inside)
        self.assertNotEqual(os.stat(os.path.join(shared, "default")).st_uid, account.pw_uid)

    @natively
    def test_faults_and_what_never_fits_are_refused_as_a_whole(self):
        before = self.ok("history", "-P", "-n")
        path = self.job_file(self.job("exit", 0), self.job("exit", 0, cpus_per_task=4000))
        status, _, err = self.cli("submit", path)
        self.assertEqual(status, 125)
        self.assertIn("4000 CPUs", err)
        path = self.job_file({"argv": ["true"], "tiem_limit": "1h"})
        status, _, err = self.cli("submit", path)
        self.assertEqual(status, 125)
        self.assertIn("time_limit", err)
        self.assertEqual(self.ok("history", "-P", "-n"), before)

    @natively
    def test_without_berthd_a_command_says_what_to_do(self):
        self.stop_daemon()
        status, _, err = self.cli("queue")
        self.assertEqual(status, 1)
        self.assertIn("no berthd answers", err)


class Changing(DaemonCase):
    configuration = {"pool": {"slots": 1}}

    def setUp(self):
        super().setUp()
        self.start_daemon()

    def test_waiting_and_running_jobs_are_cancelled(self):
        first = self.submit("hold", 600)
        second = self.submit("exit", 0)
        self.wait_for_state(first, "RUNNING")
        self.assertEqual(self.queue()[second]["reason"], "Resources")
        self.ok("cancel", second)
        self.assertEqual(self.state(second), "CANCELLED")
        self.ok("cancel", first)
        self.assertEqual(self.cli("wait", first)[0], 143)
        self.assertEqual(self.state(first), "CANCELLED")
        self.assertEqual(self.records(first)[-1]["outcome"]["message"], "cancelled by root")
        self.assertEqual(self.cli("cancel", first)[0], 1)

    @natively
    def test_who_cancelled_a_running_job_is_known_to_the_next_berthd(self):
        slow = ["/bin/sh", "-c", "trap 'sleep 1; exit 3' TERM; echo ready; while :; do sleep 0.05; done"]
        job = self.submit(argv=slow, name="slow")
        self.assertTrue(eventually(lambda: self.cli("logs", job)[1] == "ready\n"))
        self.ok("cancel", job)
        self.kill_daemon()
        self.start_daemon()
        self.cli("wait", job)
        outcome = self.records(job)[-1]["outcome"]
        self.assertEqual((outcome["message"], outcome["exit_code"]), ("cancelled by root", 3))

    @natively
    def test_a_held_job_waits_for_its_release_and_an_administrators_hold_for_an_administrator(self):
        first = self.submit("hold", 600)
        self.wait_for_state(first, "RUNNING")
        job = self.submit("exit", 0, user="www-data")
        self.ok("hold", job)
        self.assertEqual(self.queue()[job]["reason"], "JobHeldAdmin")
        self.ok("cancel", first)
        self.cli("wait", first)
        self.assertEqual(self.cli("release", job, user="www-data")[0], 1)
        self.assertEqual(self.state(job), "PENDING")
        self.ok("release", job)
        self.ok("wait", job)

    def test_a_suspended_job_stands_still_and_its_time_limit_waits(self):
        limit = 2 * PACE
        job = self.submit("print_slowly", 1000, 0.05, time_limit=f"{limit}s")
        self.assertTrue(eventually(lambda: self.state(job) == "RUNNING" and self.logs(job)))
        self.ok("suspend", job)
        self.assertEqual(self.state(job), "SUSPENDED")
        time.sleep(0.3)
        before = self.logs(job)
        time.sleep(limit)
        self.assertEqual((self.state(job), self.logs(job)), ("SUSPENDED", before))
        self.ok("resume", job)
        self.assertTrue(eventually(lambda: self.logs(job) != before))
        self.assertEqual(self.cli("wait", job)[0], 124)
        self.assertEqual(self.state(job), "TIMEOUT")
        self.assertGreaterEqual(self.records(job)[-1]["usage"]["wall_usec"], limit * 1_000_000)

    def test_elapsed_time_leaves_out_what_a_job_was_suspended_for(self):
        job = self.submit("print_slowly", 1000, 0.05)
        self.wait_for_state(job, "RUNNING")
        seconds = 4
        for restart in (False, True):
            self.ok("suspend", job)
            eventually(lambda: False, seconds / 2)
            if restart:
                self.kill_daemon()
                self.start_daemon()
            self.ok("resume", job)
        listed = json.loads(self.ok("queue", "--json"))["jobs"][0]
        suspended = listed["suspended_usec"] / 1e6
        self.assertGreater(suspended, seconds - 0.5)
        record = self.records(job)[0]
        between = lambda start, end: (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()  # noqa: E731
        now = datetime.now(timezone.utc).isoformat()
        started = record["start"].replace("Z", "+00:00")
        for shown in (self.ok("history", "-n", "-P", "-o", "ElapsedRaw", job), json.loads(self.ok("top", "--json"))["jobs"][0]["elapsed_usec"] / 1e6):
            self.assertLess(float(shown), between(started, now) - suspended + 1.5)
        self.ok("cancel", "--now", job)
        self.cli("wait", job)
        record = self.records(job)[0]
        whole = between(started, record["end"].replace("Z", "+00:00"))
        self.assertLess(abs(whole - suspended - record["usage"]["wall_usec"] / 1e6), 1.5, record)

    def test_a_wait_with_a_timeout_leaves_the_job_alone(self):
        failed, held = self.submit("exit", 3), self.submit("exit", 0, hold=True)
        self.assertEqual(self.cli("wait", failed)[0], 3)
        self.assertEqual(self.cli("wait", "--timeout", "0", failed)[0], 3)
        status, out, err = self.cli("wait", "--json", "--timeout", "1100ms", failed, held)
        self.assertEqual((status, err), (124, f"berth: job {held} is not over after 00:00:01, and goes on\n"))
        self.assertEqual([json.loads(line)["job_id"] for line in out.splitlines()], [failed])
        self.assertEqual(self.state(held), "PENDING")
        status, _, err = self.cli("wait", "--timeout", "soon", held)
        self.assertEqual(status, 125)
        self.assertRegex(err, '^command line: --timeout: .*soon')
        self.ok("release", held)
        self.assertEqual(self.cli("wait", "--timeout", "1min", held)[0], 0)

    def test_a_wait_with_a_timeout_ends_in_time_while_berthd_is_away(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        waiter = self.start("wait", "--socket", self.socket, "--timeout", "2", job)
        self.assertTrue(eventually(lambda: os.path.exists(f"/proc/{waiter.pid}/fd/3")))
        eventually(lambda: False, 0.5)
        self.kill_daemon()
        status, _, err = self.finish(waiter, timeout=30)
        self.assertEqual((status, f"job {job} is not over" in err), (124, True), err)
        self.start_daemon()
        self.ok("cancel", "--now", job)
        self.cli("wait", job)

    def test_a_signal_reaches_a_running_job(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        self.ok("signal", "USR1", job)
        self.assertEqual(self.cli("wait", job)[0], 128 + signal.SIGUSR1)

    def test_a_signal_for_the_main_process_spares_the_others(self):
        child = 'trap "echo child" USR1; echo ready; until [ -e end ]; do sleep 0.05; done'
        job = self.submit(argv=["sh", "-c", 'trap "echo main; : >end" USR1; sh -c "$0" & wait; wait', child])
        self.assertTrue(eventually(lambda: self.cli("logs", job)[1].split() == ["ready"]))
        self.ok("signal", "--batch", "USR1", job)
        self.assertEqual(self.cli("wait", job)[0], 0)
        self.assertEqual(self.logs(job).splitlines(), ["ready", "main"])

    @natively
    def test_a_requeued_job_runs_again_with_a_record_of_its_own(self):
        job = self.submit("exit", 0)
        self.ok("wait", job)
        self.ok("requeue", job)
        self.assertTrue(eventually(lambda: len(self.records(job)) == 2 and self.state(job) == "COMPLETED"))
        self.assertEqual([record["attempt"] for record in self.records(job)], [1, 2])

    @natively
    def test_a_drained_pool_starts_nothing_until_undrained(self):
        self.ok("drain")
        job = self.submit("exit", 0)
        self.assertEqual(self.queue()[job]["reason"], "NodeDown")
        self.assertEqual(self.cli("undrain", user="www-data")[0], 1)
        self.stop_daemon()
        self.start_daemon()
        self.assertEqual(self.state(job), "PENDING")
        self.ok("undrain")
        self.ok("wait", job)

    @natively
    def test_events_tell_every_change_in_order(self):
        job = self.submit("exit", 0)
        self.ok("wait", job)
        events = [json.loads(line) for line in self.ok("events").splitlines()]
        self.assertEqual(
            [event["state"] for event in events if event["job_id"] == job],
            ["PENDING", "CONFIGURING", "RUNNING", "COMPLETED"],
        )
        self.assertEqual([event["sequence"] for event in events], sorted(event["sequence"] for event in events))

    @natively
    def test_following_events_goes_on_when_berthd_comes_back(self):
        self.ok("wait", self.submit("exit", 0))
        path = os.path.join(self.directory, "events")
        with open(path, "wb") as file:
            reader = subprocess.Popen([BERTH, "events", "-f", "--after", "now", "--socket", self.socket],  # pylint: disable=consider-using-with
                                      stdout=file, stderr=subprocess.DEVNULL)
        self.note(reader)
        self.assertTrue(eventually(lambda: self.is_read_by(reader.pid)))
        eventually(lambda: False, 1)  # until it has been told what it comes after
        self.kill_daemon()
        self.start_daemon()
        jobs = [self.submit("exit", 0)]  # before the reader is back, or after
        self.ok("wait", jobs[0])
        self.stop_daemon()
        self.start_daemon()
        jobs.append(self.submit("exit", 0))
        self.ok("wait", jobs[1])
        whole = [event for event in self.ok("events").splitlines() if json.loads(event)["job_id"] in jobs]
        self.assertEqual(len(whole), 8)

        def printed():
            with open(path, encoding="utf-8") as file:
                return file.read().splitlines()

        self.assertTrue(eventually(lambda: printed() == whole), f"{printed()}, not {whole}")
        self.assertIsNone(reader.poll())

    @staticmethod
    def is_read_by(pid):
        """Has the process a connection?"""
        links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        return any(link.startswith("socket:") for link in links)


class Limits(DaemonCase):
    configuration = {"user_limits": {"running_jobs": 1, "waiting_jobs": 3}, "api": {"body": "10K"}}

    @natively
    def test_limits_of_a_user_keep_jobs_waiting_and_bound_what_waits(self):
        self.start_daemon()
        mine = [self.submit("hold", 600) for _ in range(2)]
        other = self.submit("hold", 600, user="www-data")
        self.wait_for_state(other, "RUNNING")
        self.wait_for_state(mine[0], "RUNNING")
        self.assertEqual(self.state(mine[1]), "PENDING")
        path = self.job_file(*[self.job("exit", 0) for _ in range(3)])
        status, _, err = self.cli("submit", path)
        self.assertEqual(status, 125)
        self.assertIn("user_limits.waiting_jobs", err)
        path = self.job_file(self.job("exit", 0))
        commands = [[BERTH, "submit", "--socket", self.socket, path] for _ in range(8)]  # at once
        clients = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
        self.assertEqual(sorted(client.wait() for client in clients), [0, 0] + [125] * 6)
        self.assertEqual(sum(job["state"] == "PENDING" for job in self.queue().values()), 3)
        path = self.job_file(self.job("exit", 0, comment="x" * 20000))
        self.assertIn("api.body", self.cli("submit", path)[2])
        # By CPUs and by memory: the second waits for what the first has, and another user's does not.
        self.ok("cancel", *self.queue())
        self.assertTrue(eventually(lambda: not self.queue()))
        for limits in ({"cpus": 1}, {"memory": "200M"}):
            self.write_config(user_limits=limits, api={})
            self.daemon.send_signal(signal.SIGHUP)
            self.assertTrue(eventually(lambda limits=limits: self.read_log().count("read again") >= (1 if "cpus" in limits else 2)))
            mine = [self.submit("hold", 600) for _ in range(2)]
            other = self.submit("hold", 600, user="www-data")
            self.wait_for_state(other, "RUNNING")
            self.wait_for_state(mine[0], "RUNNING")
            self.assertEqual(self.state(mine[1]), "PENDING", limits)
            if "cpus" in limits:
                self.ok("cancel", *mine, other)
                self.assertTrue(eventually(lambda: not self.queue()))
        # Less strict from now on, and no job notices.
        self.write_config(user_limits={}, api={})
        self.daemon.send_signal(signal.SIGHUP)
        self.ok("cancel", other)
        self.wait_for_state(mine[1], "RUNNING")
        self.assertEqual(self.state(mine[0]), "RUNNING")
        self.ok("cancel", *mine)
        self.cli("wait", *mine)

    @natively
    def test_a_faulty_configuration_is_refused_with_every_fault_and_ignored_by_sighup(self):
        self.start_daemon()
        self.write_config(runners="many")
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "stays as it was" in self.read_log()))
        done = subprocess.run([BERTHD, "--config", self.config_path, "--check-config"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("/runners", done.stderr)
        self.ok("slots")

    def check_config(self, **changes):
        self.write_config(**changes)
        done = subprocess.run([BERTHD, "--config", self.config_path, "--check-config"], capture_output=True, text=True, check=False, timeout=20)
        self.assertEqual(done.returncode, 2, done.stderr)
        return done.stderr

    @natively
    def test_what_a_start_would_refuse_check_config_refuses(self):
        told = self.check_config(pool={"cpus": "0,4000", "memory": "9000T"}, runner_program="/nonexistent", armed_ahead=-1, foo=1)
        for pointer in ("/pool/cpus: CPUs 4000 are not there", "/pool/memory: ", "/runner_program: ", "/armed_ahead: ", "/foo: "):
            self.assertIn(pointer, told)
        self.assertIn("/runner_program", self.check_config(runner_program=self.config_path))

    @natively
    def test_a_reload_names_what_waits_for_a_restart_and_reads_no_fifo(self):
        self.start_daemon()
        self.write_config(runners=3, pool={"slots": 1})
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "runners, pool.slots: changed" in self.read_log()))
        os.unlink(self.config_path)
        os.mkfifo(self.config_path)
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "is not a regular file" in self.read_log()))
        self.ok("slots")

    @natively
    def test_a_second_berthd_and_berth_run_leave_the_database_alone(self):
        self.start_daemon()
        self.ok("wait", self.submit("exit", 0))
        done = subprocess.run([BERTHD, "--config", self.config_path], capture_output=True, text=True, check=False, timeout=20)
        self.assertEqual(done.returncode, 1)
        self.assertIn("another berthd uses it", done.stderr)
        status, _, err = self.berth("run", "--database", f"{self.state_folder}/berthd.db", "--", "true")
        self.assertEqual(status, 125)
        self.assertIn("berth submit", err)

    def refused_start(self, **changes):
        self.write_config(**changes)
        done = subprocess.run([BERTHD, "--config", self.config_path], capture_output=True, text=True, check=False, timeout=20)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    @natively
    def test_a_second_berthd_leaves_the_runners_of_the_first_alone(self):
        self.start_daemon()
        job = self.submit_until_told()
        self.wait_for_state(job, "RUNNING")
        apart = {name: os.path.join(self.directory, name) for name in ("socket", "state_directory")}
        self.assertIn(f"{self.run_folder}: another berthd uses it", self.refused_start(**apart))
        self.let_end()
        self.ok("wait", job)
        # One folder for both is locked once.
        self.stop_daemon()
        self.end_runners()
        self.write_config(state_directory=self.run_folder)
        self.start_daemon()

    @natively
    def test_what_another_has_at_the_place_of_the_socket_stays(self):
        self.start_daemon()
        apart = {name: os.path.join(self.directory, name) for name in ("runtime_directory", "state_directory")}
        self.assertIn(f"{self.socket}: another berthd serves there", self.refused_start(**apart))
        self.ok("slots")
        file = os.path.join(self.directory, "important")
        with open(file, "w", encoding="utf-8") as stream:
            stream.write("important")
        self.assertIn(f"{file}: is not a socket", self.refused_start(socket=file, **apart))
        with open(file, encoding="utf-8") as stream:
            self.assertEqual(stream.read(), "important")
        # At its stop berthd leaves what has taken the place of its socket.
        os.unlink(self.socket)
        os.rename(file, self.socket)
        self.stop_daemon()
        self.assertTrue(os.path.isfile(self.socket))
        os.unlink(self.socket)
        self.write_config()
        self.start_daemon()
        self.kill_daemon()
        self.start_daemon()
        self.stop_daemon()
        self.assertFalse(os.path.exists(self.socket))


class Surviving(DaemonCase):
    def test_running_jobs_and_their_output_go_on_without_berthd_and_are_taken_over(self):
        self.start_daemon()
        job = self.submit("print_slowly", 40, 0.05 * PACE)
        self.wait_for_state(job, "RUNNING")
        waiting = self.submit("exit", 0, cpus_per_task=os.cpu_count())
        self.kill_daemon()
        path = os.path.join(self.work, f"berth-{job}.out")
        size = os.path.getsize(path)
        self.assertTrue(eventually(lambda: os.path.getsize(path) > size), "its output stopped with berthd")
        self.start_daemon()
        self.ok("wait", job, waiting)
        self.assertEqual(len(self.logs(job).splitlines()), 40)
        self.assert_one_record_per_attempt()

    def test_a_job_that_ends_without_berthd_is_recorded_once_by_the_next(self):
        self.start_daemon()
        job = self.submit_until_told()
        self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        self.let_end()
        spool = os.path.join(self.state_folder, "spool")
        self.assertTrue(eventually(self.spooled), "no record was spooled")
        self.start_daemon()
        self.ok("wait", job)
        self.assertTrue(eventually(lambda: not os.listdir(spool)))
        self.assert_one_record_per_attempt()
        self.kill_daemon()
        self.start_daemon()
        self.assert_one_record_per_attempt()

    @natively
    def test_a_record_that_is_spooled_twice_ends_no_attempt_that_waits(self):
        self.start_daemon()
        script = "until [ -e end ]; do sleep 0.05; done; exit 3"
        job = self.submit(argv=["/bin/sh", "-c", script], retry={"max": 2, "backoff": "1h"})
        self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        self.let_end()
        self.assertTrue(eventually(self.spooled), "no record was spooled")
        [name] = self.spooled()
        record = os.path.join(self.state_folder, "spool", name)
        copy = os.path.join(self.directory, name)
        shutil.copy2(record, copy)
        self.start_daemon()
        self.assertEqual(self.queue()[job]["state"], "PENDING")
        self.kill_daemon()
        shutil.copy2(copy, record)  # as though it had been killed before it removed the file
        self.start_daemon()
        self.assertEqual([record["state"] for record in self.records(job)], ["FAILED", "PENDING"])
        self.assertEqual(self.records(job)[-1]["reason"], "BeginTime")
        self.assertEqual(self.queue()[job]["state"], "PENDING")
        self.assert_one_record_per_attempt()

    def test_a_record_is_taken_in_though_its_runner_is_gone_too(self):
        self.start_daemon()
        job = self.submit_until_told()
        self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        self.let_end()
        self.assertTrue(eventually(self.spooled))
        self.end_runners()
        self.start_daemon()
        self.assertEqual(self.state(job), "COMPLETED")
        self.assert_one_record_per_attempt()

    @natively
    def test_a_runner_that_does_not_answer_the_next_berthd_is_ended_with_its_jobs(self):
        self.start_daemon()
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        pid = self.pid_of_the_runner()
        os.kill(pid, signal.SIGSTOP)
        self.kill_daemon()
        self.start_daemon()
        self.assertEqual(self.state(job), "NODE_FAIL")
        self.assertIn(f"(pid {pid}) did not answer, and was killed", self.records(job)[-1]["outcome"]["message"])
        self.assertNotIn(pid, self.alive_runners())
        self.assertEqual(self.job_pids(), [])
        self.ok("wait", self.submit("exit", 0))
        self.assert_one_record_per_attempt()

    @natively
    def test_a_record_that_is_spooled_while_berthd_waits_for_runners_counts(self):
        self.start_daemon()
        job = self.submit_until_told()
        self.wait_for_state(job, "RUNNING")
        pid = self.pid_of_the_runner()
        self.kill_daemon()
        self.let_end()
        self.assertTrue(eventually(self.spooled, 30))
        (name,) = self.spooled()
        record = os.path.join(self.state_folder, "spool", name)
        os.rename(record, os.path.join(self.directory, name))
        os.kill(pid, signal.SIGSTOP)  # it will be given ten seconds
        spooling = threading.Timer(3, os.rename, (os.path.join(self.directory, name), record))
        spooling.start()
        self.start_daemon()
        spooling.join()
        self.assertNotIn(pid, self.alive_runners())
        self.assertEqual(self.state(job), "COMPLETED")
        self.assert_one_record_per_attempt()

    def test_runners_of_the_build_before_an_upgrade_end_when_they_have_no_job(self):
        program = os.path.join(self.directory, "berth-runner")
        shutil.copy(RUNNER, program)
        self.write_config(runner_program=program)
        self.start_daemon()
        before = self.alive_runners()
        self.assertEqual(len(before), 2)
        job = self.submit_until_told()
        self.wait_for_state(job, "RUNNING")
        busy = self.pid_of_the_runner()
        self.kill_daemon()
        self.start_daemon()
        self.assertEqual(self.alive_runners(), before)

        self.kill_daemon()
        shutil.copy(RUNNER, program + ".new")
        os.rename(program + ".new", program)
        self.start_daemon()
        self.assertTrue(eventually(lambda: self.alive_runners() & before == {busy}))
        self.assertEqual(len(self.alive_runners() - before), 2)
        self.ok("wait", self.submit("exit", 0))
        self.assertEqual(self.state(job), "RUNNING")
        self.assertEqual(self.pid_of_the_runner(), busy)
        self.let_end()
        self.ok("wait", job)
        self.assertTrue(eventually(lambda: not self.alive_runners() & before))
        self.assertNotIn("died", self.read_log())
        self.assert_one_record_per_attempt()

    def test_what_goes_wrong_with_one_runner_or_job_ends_no_berthd(self):
        self.start_daemon()
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        (running,) = json.loads(self.ok("slots", "--json"))["running"]
        name = os.path.join(self.run_folder, "runners", running["runner"] + ".sock")
        os.unlink(name)
        os.makedirs(name + "/in the way")  # of removing what the runner leaves
        os.kill(int(running["runner"].split("-")[1]), signal.SIGKILL)
        self.wait_for_state(job, "NODE_FAIL")
        self.assertTrue(eventually(lambda: "Directory not empty" in self.read_log()))
        self.assertEqual(json.loads(self.ok("slots", "--json"))["runners"], 2)
        self.assertEqual(self.cli("wait", self.submit("exit", 0))[0], 0)
        self.assertIsNone(self.daemon.poll())
        shutil.rmtree(name)

    def test_the_jobs_of_a_runner_that_is_killed_fail_and_others_go_on(self):
        self.start_daemon()
        first = self.submit("hold", 600)
        second = self.submit("hold", 600)
        self.wait_for_state(first, "RUNNING")
        self.wait_for_state(second, "RUNNING")
        by_job = {job["job_id"]: job["runner"] for job in json.loads(self.ok("slots", "--json"))["running"]}
        self.assertNotEqual(by_job[first], by_job[second])
        os.kill(int(by_job[first].split("-")[1]), signal.SIGKILL)
        self.wait_for_state(first, "NODE_FAIL")
        self.assertEqual(self.state(second), "RUNNING")
        third = self.submit("exit", 0)
        self.ok("wait", third)
        self.note_runners()
        self.ok("cancel", second)
        self.cli("wait", second)

    @natively
    def test_wait_and_logs_go_on_over_a_restart(self):
        self.start_daemon()
        job = self.submit(argv=["sh", "-c", "echo before; until [ -e end ]; do sleep 0.05; done; echo after; exit 7"])
        self.wait_for_state(job, "RUNNING")
        words = ([BERTH, "wait", str(job)], [BERTH, "logs", "-f", str(job)])
        wait, logs = [
            subprocess.Popen([*command, "--socket", self.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for command in words
        ]
        self.assertEqual(logs.stdout.readline(), "before\n")
        self.stop_daemon()
        self.start_daemon()
        self.let_end()
        self.assertEqual(logs.communicate(timeout=30)[0], "after\n")
        self.assertEqual(logs.returncode, 0)
        self.assertIn("waiting for it to come back", wait.communicate(timeout=30)[1])
        self.assertEqual(wait.returncode, 7)

    def test_an_acknowledged_cancel_survives_and_no_attempt_follows(self):
        self.start_daemon()
        stubborn = 'trap "" TERM; : >{}; while :; do sleep 0.1; done'
        requeued = int(self.ok("submit", "--parsable", "--grace", f"{4 * PACE}s", "--wrap", stubborn.format("one")))
        limited = int(
            self.ok("submit", "--parsable", "--retry", 3, "-t", "1s", "--grace", f"{8 * PACE}s", "--wrap", stubborn.format("two"))
        )
        self.assertTrue(eventually(lambda: {"one", "two"} <= set(os.listdir(self.work))))
        eventually(lambda: False, 1.5)  # the grace period after the time limit
        self.ok("requeue", requeued)
        self.ok("cancel", requeued, limited)
        self.assertIn("being cancelled", self.cli("requeue", requeued)[2])
        self.kill_daemon()
        self.start_daemon()
        self.assertEqual(self.cli("wait", requeued)[0], 137)
        self.assertEqual(self.cli("wait", limited)[0], 124)
        self.assertEqual(self.state(requeued), "CANCELLED")
        self.assertEqual(len(self.records(requeued)) + len(self.records(limited)), 2)

    def test_a_released_hold_does_not_come_back(self):
        self.start_daemon()
        job = self.submit(argv=["sh", "-c", "until [ -e end ]; do sleep 0.05; done; exit 3"], hold=True, retry={"max": 1})
        self.ok("release", job)
        self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        self.start_daemon()
        self.let_end()
        self.assertTrue(eventually(lambda: len(self.records(job)) == 2 and self.state(job) == "FAILED"))

    def test_waiting_jobs_survive(self):
        self.start_daemon()
        self.ok("drain")
        jobs = [self.submit("exit", 0) for _ in range(5)]
        self.kill_daemon()
        self.start_daemon()
        self.assertEqual(sorted(self.queue()), jobs)
        self.ok("undrain")
        self.ok("wait", *jobs)

    def assert_one_record_per_attempt(self):
        with sqlite3.connect(f"file:{self.state_folder}/berthd.db?mode=ro", uri=True) as database:
            doubled = database.execute(
                "SELECT job_id, attempt, count(*) FROM events WHERE state NOT IN ('PENDING','CONFIGURING','RUNNING',"
                "'SUSPENDED') GROUP BY 1, 2 HAVING count(*) > 1"
            ).fetchall()
            self.assertEqual(doubled, [])
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone(), ("ok",))


    def test_a_job_that_cannot_be_read_any_more_is_kept_and_ends_for_good(self):
        self.start_daemon()
        fails = self.submit(argv=["/bin/sh", "-c", "until [ -e end ]; do sleep 0.05; done; exit 3"], retry={"max": 1})
        goes_on = self.submit("hold", 600, retry={"max": 1})
        for job in (fails, goes_on):
            self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        self.let_end()
        self.assertTrue(eventually(lambda: len(self.spooled()) == 1, 30), "it does not end")
        with contextlib.closing(sqlite3.connect(f"{self.state_folder}/berthd.db")) as database:
            database.execute("""UPDATE jobs SET spec = replace(spec, '"max":1', '"max":"?"')""")
            database.commit()
        self.start_daemon()
        self.assertEqual(self.state(fails), "FAILED")
        self.assertEqual(self.state(goes_on), "RUNNING")
        self.assertEqual(self.read_log().count("cannot be read from the database"), 2)
        self.ok("cancel", "--now", goes_on)
        self.cli("wait", goes_on)
        self.assertEqual(self.state(goes_on), "CANCELLED")


class Trouble(DaemonCase):
    def tearDown(self):
        self.stop_daemon()
        self.end_runners()
        subprocess.run(["umount", self.state_folder], check=False, capture_output=True)
        super().tearDown()

    def test_a_job_whose_output_is_lost_says_so(self):
        self.start_daemon()
        small = os.path.join(self.directory, "small")
        os.mkdir(small)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "none", small], check=True)
        try:
            job = self.submit("print", 1 << 20, standard_output=os.path.join(small, "out"))
            self.ok("wait", job)
            message = self.records(job)[-1]["outcome"]["message"]
        finally:
            subprocess.run(["umount", small], check=False)
        self.assertIn(f"its output is incomplete: {small}/out: No space left on device", message)

    def test_output_of_a_user_leaves_the_blocks_that_are_kept_for_root(self):
        image = os.path.join(self.directory, "image")
        small = os.path.join(self.directory, "small")
        os.mkdir(small)
        with open(image, "wb") as file:
            file.truncate(16 << 20)
        try:
            subprocess.run(["mkfs.ext4", "-q", "-m", "40", image], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "loop", image, small], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.skip(f"no file system with blocks that are kept for root: {error}")
        try:
            os.chmod(small, 0o777)
            self.start_daemon()
            job = self.submit("print", 15 << 20, user="www-data", standard_output=os.path.join(small, "out"))
            self.ok("wait", job)
            left = os.statvfs(small)
            message = self.records(job)[-1]["outcome"]["message"]
        finally:
            self.stop_daemon()
            self.end_runners()
            subprocess.run(["umount", small], check=False)
        self.assertGreater(left.f_bfree * left.f_frsize, 4 << 20)
        self.assertIn(f"its output is incomplete: {small}/out: No space left on device", message)

    def start_on_a_small_disk(self):
        os.mkdir(self.state_folder)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "none", self.state_folder], check=True)
        self.start_daemon()

    def fill_the_disk(self):
        """The file that does; its end is the end of the trouble."""
        filler = os.path.join(self.state_folder, "filler")
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        status = 0
        for _ in range(200):  # the log has some room left
            status, _, err = self.cli("submit", "-H", "--", "true")
            if status != 0:
                break
        self.assertEqual(status, 125)
        self.assertIn("full", err)
        return filler

    def assert_cancel_is_refused(self, job):
        status, _, err = self.cli("cancel", job, timeout=10)
        self.assertEqual((status != 0, "not while the database cannot be used" in err), (True, True), err)

    def test_a_full_disk_refuses_new_jobs_and_keeps_running_ones_and_their_records(self):
        self.start_on_a_small_disk()
        job = self.submit("print_slowly", 20, 0.1 * PACE)
        self.wait_for_state(job, "RUNNING")
        filler = self.fill_the_disk()
        self.assertTrue(eventually(lambda: len(self.logs(job).splitlines()) == 20, 60), "the running job did not go on")
        os.remove(filler)
        self.wait_for_state(job, "COMPLETED")
        self.ok("wait", self.submit("exit", 0))

    @natively
    def test_a_job_whose_end_does_not_fit_on_the_disk_is_not_cancelled_and_nobody_waits(self):
        self.start_on_a_small_disk()
        job = self.submit_until_told()
        self.wait_for_state(job, "RUNNING")
        filler = self.fill_the_disk()
        self.let_end()
        self.assertTrue(eventually(lambda: not json.loads(self.ok("slots", "--json"))["running"], 30), "it does not end")
        self.assert_cancel_is_refused(job)
        os.remove(filler)
        self.wait_for_state(job, "COMPLETED")

    @natively
    def test_an_array_whose_tasks_wait_again_is_not_cancelled_on_a_full_disk(self):
        self.start_on_a_small_disk()
        array = int(self.ok("submit", "--parsable", "-a", "0-1", "--retry", "3", "--retry-backoff", "1h", "-o", "/dev/null", "--wrap", "exit 3"))
        waits = lambda: {job.get("reason") for job in self.queue().values()} == {"BeginTime"} and len(self.queue()) == 2  # noqa: E731
        self.assertTrue(eventually(waits, 30), self.queue())
        filler = self.fill_the_disk()
        self.assert_cancel_is_refused(array)
        os.remove(filler)
        self.assertTrue(eventually(lambda: self.cli("cancel", array)[0] == 0, 30), "the database does not work again")
        self.wait_for_state(array, "CANCELLED")
        self.assertEqual(self.records(f"{array}_1")[-1]["state"], "CANCELLED")

    def test_a_disk_with_little_room_does_not_pass_for_one_that_works(self):
        self.start_on_a_small_disk()
        left = os.statvfs(self.state_folder)
        filler = os.path.join(self.state_folder, "filler")
        with open(filler, "wb", buffering=0) as file:
            file.write(bytes(left.f_bavail * left.f_frsize - (512 << 10)))
        large = self.job_file(self.job("exit", 0, comment="x" * (2 << 20)))
        status, _, err = self.cli("submit", large)
        self.assertEqual(status, 125)
        self.assertIn("full", err)
        time.sleep(3)  # it is tried every second
        self.assertNotIn("works again", self.read_log())
        self.assertEqual(self.cli("submit", "-H", "--", "true")[0], 125)
        os.remove(filler)
        self.assertTrue(eventually(lambda: "works again" in self.read_log(), 30))
        self.ok("wait", int(self.ok("submit", "--parsable", large)))

    def test_after_a_restart_of_the_machine_what_ran_has_failed_and_what_waited_waits(self):
        self.start_daemon()
        job, again = self.submit("hold", 600), self.submit("hold", 600, requeue=True)
        self.wait_for_state(job, "RUNNING")
        self.wait_for_state(again, "RUNNING")
        self.ok("drain")
        waiting = self.submit("exit", 0)
        self.kill_daemon()
        for pid in self.alive_runners():
            os.kill(pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: not self.alive_runners()))
        with sqlite3.connect(f"{self.state_folder}/berthd.db") as database:
            database.execute("UPDATE supervisors SET boot_id = 'another' WHERE pid <> 0")
        self.start_daemon()
        self.assertEqual([self.state(job), self.state(waiting)], ["NODE_FAIL", "PENDING"])
        record = self.records(job)[-1]
        self.assertIn("restarted", record["outcome"]["message"])
        self.assertEqual(record["end"], record["start"], "it ended with the machine, which was before")
        self.assertEqual(self.ok("queue", "-t", "NODE_FAIL", "-n", "-P", "-o", "Time"), "\n")
        self.assertEqual([self.queue()[again]["attempt"], self.records(again)[-1]["attempt"]], [2, 2])
        self.ok("cancel", again)
        self.ok("undrain")
        self.ok("wait", waiting)


if __name__ == "__main__":
    main()
