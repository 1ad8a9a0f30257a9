"""berth-runner: what one user's job, or a fault in one place, may not cost all the others that it holds."""

import contextlib
import ctypes
import json
import os
import pwd
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading

from berth_case import eventually, hierarchies, main, natively, read
from daemon_case import RUNNER, DaemonCase

PIDFD_GETFD = 438  # the same on every architecture
FIRST, SECOND = "www-data", "backup"

# What a user's process does: many requests over one connection, each answered 200.
ASK_OFTEN = """
import socket, sys
path, request, times = sys.argv[1], sys.argv[2].encode(), int(sys.argv[3])
client = socket.socket(socket.AF_UNIX)
client.settimeout(30)
client.connect(path)
answers = client.makefile("rb")
for _ in range(times):
    client.sendall(request + b" HTTP/1.1\\r\\nHost: b\\r\\nContent-Length: 0\\r\\n\\r\\n")
    assert answers.readline().split()[1] == b"200"
    length = 0
    for line in iter(answers.readline, b"\\r\\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    answers.read(length)
"""

# The same as frames of an attached client.
ATTACH_AND_SIGNAL = """
import socket, sys
path, job, number, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
client = socket.socket(socket.AF_UNIX)
client.settimeout(30)
client.connect(path)
head = f"POST /v1/jobs/{job}/attach HTTP/1.1\\r\\nHost: b\\r\\nConnection: Upgrade\\r\\nUpgrade: berth-stream\\r\\n"
client.sendall(head.encode() + b"Content-Length: 2\\r\\n\\r\\n{}")
received = b""
while b"attempt" not in received:
    received += client.recv(4096)
client.sendall(bytes([4, 0, 0, 0, 1, number]) * times)
"""

# Tells each signal as it comes. They wait in the kernel meanwhile, as all that arrive.
TELLS_SIGNALS = """
import signal
wanted = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGRTMIN + 1}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
while True:
    number = signal.sigwaitinfo(wanted).si_signo
    print(int(number), flush=True)
    if number == signal.SIGTERM:
        break
"""


# Stops a job's init at the moment when its main process has gone: what it has to say then, it has said at once.
STOP_WHEN_GONE = """
import os, signal, sys, time
init, process = map(int, sys.argv[1:])
print("ready", flush=True)
while os.path.exists(f"/proc/{process}"):
    pass
time.sleep(0.0005)
try:
    os.kill(init, signal.SIGSTOP)
except ProcessLookupError:
    pass
"""


class RunnerCase(DaemonCase):
    configuration = {"runners": 1}

    def setUp(self):
        super().setUp()
        self.start_daemon()
        (self.runner,) = self.alive_runners()

    @staticmethod
    def begin_as_user(user, script, *words, **options):
        entry = pwd.getpwnam(user)
        return subprocess.Popen(
            ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups", sys.executable, "-c", script,
             *map(str, words)], **options)

    def as_user(self, user, script, *words):
        with self.begin_as_user(user, script, *words) as process:
            self.assertEqual(process.wait(120), 0)

    def signal_often(self, job, number, times=2000):
        self.as_user(FIRST, ASK_OFTEN, self.socket, f"POST /v1/jobs/{job}/signal?signal={int(number)}", times)

    def submit_telling(self, **spec):
        job = self.submit(argv=["python3", "-c", TELLS_SIGNALS], user=FIRST, **spec)
        self.assertTrue(eventually(lambda: self.cli("logs", job)[1] == "ready\n", 30))
        return job

    def submit_other(self):
        job = self.submit("print_slowly", 100000, 0.05, user=SECOND)
        self.assertTrue(eventually(lambda: self.cli("logs", job)[1], 30))
        return job

    def assert_goes_on(self, job):
        before = self.logs(job)
        self.assertTrue(eventually(lambda: self.logs(job) != before), "the runner does not serve another user's job")

    def end(self, job, *arguments):
        self.ok("cancel", *arguments, job)
        self.cli("wait", job)
        self.assertEqual(self.state(job), "CANCELLED")


class Signals(RunnerCase):
    """More of them than the channel of a job's init holds, while that does not read."""

    @natively
    def test_signals_to_a_suspended_job_hold_nobody_up_and_reach_it_once_each_when_it_is_resumed(self):
        other = self.submit_other()
        job = self.submit_telling()
        self.ok("suspend", job, user=FIRST)
        self.signal_often(job, signal.SIGUSR2)
        self.signal_often(job, signal.SIGUSR1)
        self.signal_often(job, signal.SIGRTMIN + 1, 10)
        self.as_user(FIRST, ATTACH_AND_SIGNAL, self.socket, job, int(signal.SIGUSR2), 3000)
        self.assert_goes_on(other)
        self.end(other)
        self.assertEqual(self.logs(job), "ready\n")
        self.ok("resume", job, user=FIRST)
        self.assertTrue(eventually(lambda: len(self.logs(job).split()) == 4), self.logs(job))
        self.ok("signal", "TERM", job, user=FIRST)
        self.ok("wait", job)
        told = [int(word) for word in self.logs(job).split()[1:]]
        self.assertEqual(sorted(told), sorted(map(int, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGRTMIN + 1))))

    @natively
    def test_the_last_of_stop_and_continue_counts_when_a_job_is_resumed(self):
        job = self.submit_telling()
        self.ok("suspend", job)
        for name in ("CONT", "STOP", "CONT"):
            self.ok("signal", name, job)
        self.ok("resume", job)
        self.ok("signal", "USR1", job)
        self.assertTrue(eventually(lambda: self.logs(job).split() == ["ready", str(int(signal.SIGUSR1))]))
        self.end(job)

    @natively
    def test_a_suspended_job_that_was_signalled_often_is_cancelled(self):
        job = self.submit_telling()
        self.ok("suspend", job)
        self.signal_often(job, signal.SIGUSR1)
        self.end(job)
        self.assertEqual(self.logs(job).split()[-1], str(int(signal.SIGTERM)))

    @natively
    def test_an_init_that_its_user_has_stopped_holds_nobody_up(self):
        other = self.submit_other()
        job = self.submit_telling(time_limit="1h", grace_period="500ms")
        init = self.parent_of(self.process_of(TELLS_SIGNALS))
        self.stop_or_continue(init, signal.SIGSTOP)
        self.signal_often(job, signal.SIGUSR1)
        self.assert_goes_on(other)
        self.ok("suspend", job)
        self.ok("resume", job)
        self.stop_or_continue(init, signal.SIGCONT)
        self.ok("signal", "USR2", job)
        self.assertTrue(eventually(lambda: str(int(signal.SIGUSR2)) in self.logs(job).split()), self.logs(job)[-200:])
        self.stop_or_continue(init, signal.SIGSTOP)
        self.signal_often(job, signal.SIGUSR1)
        self.end(job)
        self.assert_goes_on(other)
        self.end(other)

    @natively
    def test_inits_that_are_stopped_when_their_jobs_have_ended_hold_nobody_up(self):
        script = "until [ -e end ]; do sleep 0.02; done; : a job of this test"
        for _ in range(16):  # more than are left to end by themselves
            job = self.submit(argv=["/bin/sh", "-c", script], user=FIRST)
            self.wait_for_state(job, "RUNNING")
            process = self.process_of(script)
            init = self.parent_of(process)
            with self.begin_as_user(FIRST, STOP_WHEN_GONE, init, process, stdout=subprocess.PIPE) as companion:
                companion.stdout.readline()
                self.let_end()
            if not eventually(lambda: self.state(job) == "COMPLETED", 5):
                self.stop_or_continue(init, signal.SIGCONT)  # it came too early
            self.ok("wait", job)
            os.remove(os.path.join(self.work, "end"))
        self.ok("wait", self.submit("exit", 0, user=SECOND))

    @staticmethod
    def process_of(script):
        """The process whose last argument it is."""
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read().endswith(f"\0{script}\0".encode()):
                    return pid
        return None

    @staticmethod
    def parent_of(pid):
        return int(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])

    def stop_or_continue(self, pid, number):
        self.as_user(FIRST, f"import os; os.kill({pid}, {int(number)})")


class Cancelled(RunnerCase):
    def test_the_one_who_cancelled_it_is_named_and_not_who_had_it_requeued_before(self):
        os.chmod(self.work, 0o777)
        job = self.submit(argv=["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], user=FIRST, grace_period="1h")
        self.assertTrue(eventually(lambda: self.cli("logs", job)[1] == "ready\n", 30))
        self.ok("requeue", job, user=FIRST)
        self.end(job, "--now")
        self.assertEqual(self.records(job)[-1]["outcome"]["message"], "cancelled by root")


class Requeued(RunnerCase):
    """While it is CONFIGURING: its start and the end of that come to its runner at once."""

    @contextlib.contextmanager
    def requeued_before_it_starts(self):
        """Yields the job, its runner stopped."""
        os.kill(self.runner, signal.SIGSTOP)
        try:
            job = self.submit("exit", 0)
            self.wait_for_state(job, "CONFIGURING")
            self.ok("requeue", job)
            yield job
        finally:
            os.kill(self.runner, signal.SIGCONT)

    def assert_runs_again(self, job):
        self.ok("wait", job)
        self.assertEqual([record["state"] for record in self.records(job)], ["PREEMPTED", "COMPLETED"])

    @natively
    def test_a_job_that_is_requeued_before_its_command_runs_runs_again(self):
        with self.requeued_before_it_starts() as job:
            pass
        self.assert_runs_again(job)

    @natively
    def test_a_job_that_is_requeued_before_its_command_runs_runs_again_with_another_berthd(self):
        with self.requeued_before_it_starts() as job:
            self.kill_daemon()
        self.assertTrue(eventually(self.spooled, 30), "its end is not told")
        self.start_daemon()
        self.assert_runs_again(job)


class Leaving(RunnerCase):
    """A runner that got SIGTERM."""

    def runner_of(self, job):
        entries = json.loads(self.ok("slots", "--json"))["running"]
        return int(next(entry["runner"] for entry in entries if entry["job_id"] == job).split("-")[1])

    def test_it_is_given_no_more_jobs_while_its_own_end(self):
        slow = self.submit(argv=["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], grace_period="1h")
        self.assertTrue(eventually(lambda: self.cli("logs", slow)[1] == "ready\n", 30))
        os.kill(self.runner, signal.SIGTERM)
        self.assertTrue(eventually(lambda: "was told to end" in self.read_log()))
        others = [self.submit("exit", 0), self.submit("hold", 600)]
        self.ok("wait", others[0])
        self.wait_for_state(others[1], "RUNNING")
        self.note_runners()
        self.assertNotEqual(self.runner_of(others[1]), self.runner)
        self.assertEqual((self.state(slow), self.runner_of(slow)), ("RUNNING", self.runner))
        self.ok("cancel", "--now", slow)
        self.cli("wait", slow)
        self.assertTrue(eventually(lambda: self.runner not in self.alive_runners()))
        self.assertEqual(self.state(others[1]), "RUNNING")
        self.end(others[1])
        self.assertNotIn("died", self.read_log())

    @natively
    def test_a_job_that_comes_too_late_runs_elsewhere(self):
        for runners in range(2):
            os.kill(self.runner, signal.SIGSTOP)
            try:
                jobs = [self.submit("exit", 0) for _ in range(runners + 1)]
                for job in jobs:
                    self.wait_for_state(job, "CONFIGURING")
                os.kill(self.runner, signal.SIGTERM)
            finally:
                os.kill(self.runner, signal.SIGCONT)
            self.ok("wait", *jobs)
            self.note_runners()
            for job in jobs:
                self.assertEqual([record["state"] for record in self.records(job)], ["PREEMPTED", "COMPLETED"])
            self.assertTrue(eventually(lambda: self.alive_runners() and self.runner not in self.alive_runners()))
            (self.runner,) = self.alive_runners()

    def assert_cancelled_before_they_started(self, *jobs):
        for job in jobs:
            self.assertEqual([record["state"] for record in self.records(job)], ["CANCELLED"])
            self.assertEqual(self.records(job)[-1]["outcome"]["message"], "cancelled by root before it started")
        self.assertEqual(self.queue(), {})

    @natively
    def test_a_job_that_comes_too_late_and_was_cancelled_runs_nowhere(self):
        for has_new_berthd in (False, True):
            os.kill(self.runner, signal.SIGSTOP)
            try:
                job, array = self.submit("exit", 0), int(self.ok("submit", "--parsable", "-a", "3", "--wrap", "exit 0"))
                for one in (job, f"{array}_3"):
                    self.wait_for_state(one, "CONFIGURING")
                os.kill(self.runner, signal.SIGTERM)
                self.ok("cancel", job, array)
                if has_new_berthd:
                    self.kill_daemon()
            finally:
                os.kill(self.runner, signal.SIGCONT)
            if has_new_berthd:
                self.assertTrue(eventually(lambda: self.runner not in self.alive_runners() and self.spooled(), 30))
                self.start_daemon()
            self.cli("wait", job, array)
            self.note_runners()
            self.assert_cancelled_before_they_started(job, f"{array}_3")
            self.assertEqual(self.state(array), "CANCELLED")
            self.assertTrue(eventually(lambda: self.alive_runners() and self.runner not in self.alive_runners()))
            (self.runner,) = self.alive_runners()

    @natively
    def test_it_ends_without_berthd_and_with_one_that_does_not_answer(self):
        self.daemon.send_signal(signal.SIGSTOP)
        os.kill(self.runner, signal.SIGTERM)
        self.assertTrue(eventually(lambda: self.runner not in self.alive_runners()))
        self.daemon.send_signal(signal.SIGCONT)
        self.ok("wait", self.submit("exit", 0))
        self.note_runners()
        self.kill_daemon()
        (runner,) = self.alive_runners()
        os.kill(runner, signal.SIGTERM)
        self.assertTrue(eventually(lambda: not self.alive_runners()))


class BrokenLinks(RunnerCase):
    """The connection between berthd and a runner that lives."""

    def link_of_runner(self):
        """Its end of the connection."""
        (path,) = [f"{self.run_folder}/runners/{name}" for name in os.listdir(f"{self.run_folder}/runners")
                   if name.startswith(f"run-{self.runner}-") and name.endswith(".sock")]
        process = os.pidfd_open(self.runner)
        self.addCleanup(os.close, process)
        for number in os.listdir(f"/proc/{self.runner}/fd"):
            if os.readlink(f"/proc/{self.runner}/fd/{number}").startswith("socket:"):
                descriptor = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, int(number), 0)
                self.assertGreaterEqual(descriptor, 0, os.strerror(ctypes.get_errno()))
                end = socket.socket(fileno=descriptor)
                with contextlib.suppress(OSError):  # of those that are not connected
                    end.getpeername()
                    if end.getsockname() == path:
                        return end
                end.close()
        return self.fail(f"runner {self.runner} has no connection by way of {path}")

    def assert_ended_with_its_jobs(self, job):
        self.wait_for_state(job, "NODE_FAIL")
        self.assertIn(f"(pid {self.runner}) died", self.records(job)[-1]["outcome"]["message"])
        self.assertNotIn(self.runner, self.alive_runners())
        self.assertTrue(eventually(lambda: not self.job_pids()), "a job that was given up runs on")
        self.ok("wait", self.submit("exit", 0))
        self.note_runners()

    def test_a_runner_whose_link_breaks_is_ended_with_its_jobs(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        with self.link_of_runner() as link:
            link.shutdown(socket.SHUT_RDWR)
        self.assert_ended_with_its_jobs(job)

    @natively
    def test_a_runner_that_sends_what_is_no_message_is_ended_with_its_jobs(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        with self.link_of_runner() as link:
            link.sendall(b"\xff" * 64)
        self.assert_ended_with_its_jobs(job)


class LostSockets(RunnerCase):
    def test_a_runner_that_cannot_be_reached_any_more_is_ended_with_its_jobs(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        shutil.rmtree(os.path.join(self.run_folder, "runners"))
        self.start_daemon()
        self.wait_for_state(job, "NODE_FAIL")
        self.assertIn(f"(pid {self.runner}) did not answer, and was killed", self.records(job)[-1]["outcome"]["message"])
        self.assertNotIn(self.runner, self.alive_runners())
        self.assertEqual(self.job_pids(), [])
        self.ok("wait", self.submit("exit", 0))
        self.note_runners()


class Proxy:
    """Between berthd and a runner that it finds when it starts: either end can be cut, and words be changed."""

    replaced = (b"", b"")  # of one length

    def __init__(self, runner_socket):
        self.real = runner_socket.removesuffix(".sock") + ".real"
        os.rename(runner_socket, self.real)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(runner_socket)
        self.listener.listen(1)
        self.runner = socket.socket(socket.AF_UNIX)
        self.daemon = None
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        self.daemon, _ = self.listener.accept()
        self.runner.connect(self.real)
        other = {self.daemon: self.runner, self.runner: self.daemon}
        open_ends = list(other)
        while open_ends:
            for end in select.select(open_ends, [], [])[0]:
                with contextlib.suppress(OSError):
                    piece = end.recv(1 << 16)
                    if piece:
                        other[end].sendall(piece.replace(*self.replaced))
                        continue
                open_ends.remove(end)

    @staticmethod
    def cut(end):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

    def close(self):
        for end in (self.runner, self.daemon, self.listener):
            if end is not None:
                self.cut(end)
                end.close()
        self.thread.join(10)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.real)


class Links(RunnerCase):
    """The link between berthd and a runner breaks, though both live."""

    def put_proxy(self):
        (name,) = [name for name in os.listdir(os.path.join(self.run_folder, "runners")) if name.endswith(".sock") and "streams" not in name]
        self.kill_daemon()
        proxy = Proxy(os.path.join(self.run_folder, "runners", name))
        self.addCleanup(proxy.close)
        self.start_daemon()
        self.assertEqual(self.alive_runners(), {self.runner})
        return proxy

    def frozen_runner(self):
        """Freezes the runner in cgroup v1, where SIGKILL waits for the thaw, as in uninterruptible sleep."""
        mounts = [mount for mount, options in hierarchies() if "freezer" in options.split(",")]
        if not mounts:
            self.skip("the freezer of cgroup v1 is not mounted here")
        folder = os.path.join(mounts[0], f"berth-test-{os.getpid()}")
        os.mkdir(folder)
        self.addCleanup(lambda: eventually(lambda: not os.system(f"rmdir {folder} 2>/dev/null")))
        state = os.path.join(folder, "freezer.state")

        def write(path, text):
            with open(path, "w", encoding="utf-8") as file:
                file.write(str(text))

        self.addCleanup(lambda: write(state, "THAWED"))
        write(os.path.join(folder, "cgroup.procs"), self.runner)
        write(state, "FROZEN")
        self.assertTrue(eventually(lambda: read(state) == "FROZEN\n"))
        return lambda: write(state, "THAWED")

    def test_a_runner_that_does_not_die_at_once_holds_berthd_up_no_longer(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        proxy = self.put_proxy()
        thaw = self.frozen_runner()
        proxy.cut(proxy.daemon)
        self.ok("slots")
        self.assertEqual(self.state(job), "RUNNING", "berthd waited for the runner, or has given its job up")
        self.assertIn(self.runner, self.alive_runners())
        thaw()
        self.wait_for_state(job, "NODE_FAIL")
        self.assertEqual(self.job_pids(), [])
        self.ok("wait", self.submit("exit", 0))
        self.note_runners()

    def test_a_job_that_ended_while_the_link_was_broken_has_its_own_record(self):
        job = self.submit(argv=["/bin/sh", "-c", "until [ -e end ]; do sleep 0.05; done; exit 3"])
        self.wait_for_state(job, "RUNNING")
        proxy = self.put_proxy()
        proxy.cut(proxy.runner)
        self.let_end()
        self.assertTrue(eventually(self.spooled, 30), "the runner does not spool the record")
        self.assertEqual(self.state(job), "RUNNING")
        proxy.cut(proxy.daemon)
        self.assertEqual(self.cli("wait", job)[0], 3)
        (record,) = self.records(job)
        self.assertEqual((record["state"], record["outcome"]["exit_code"]), ("FAILED", 3))
        self.assertIn("wall_usec", record["usage"])
        self.assertTrue(eventually(lambda: not self.spooled()))
        self.ok("wait", self.submit("exit", 0))
        self.note_runners()


    def test_who_cancelled_a_job_is_told_also_when_its_runner_does_not_know(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        self.put_proxy().replaced = (b'"by"', b'"no"')
        self.end(job)
        self.assertEqual(self.records(job)[-1]["outcome"]["message"], "cancelled by root")


class Suspensions(RunnerCase):
    def control_file(self, job):
        """What the job's cgroup is frozen by."""
        (pid,) = self.job_pids()
        for controller, name in (("unified", "cgroup.freeze"), ("freezer", "freezer.state")):
            path = os.path.join(self.cgroup_of(pid, controller) or "", name)
            if os.path.exists(path) and f"job-{job}." in path:
                return path
        self.skip("no freezer here")
        return None

    def test_what_the_kernel_refuses_is_told_and_changes_nothing(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        path = self.control_file(job)
        name = os.path.basename(path)
        self.addCleanup(subprocess.run, ["umount", "-q", path], check=False, stderr=subprocess.DEVNULL)
        for action, done, state, next_state in (
            ("suspend", "suspended", "RUNNING", "SUSPENDED"), ("resume", "resumed", "SUSPENDED", "RUNNING")
        ):
            subprocess.run(["mount", "--bind", "/dev/full", path], check=True)
            status, _, err = self.cli(action, job)
            self.assertEqual((status != 0, f"job {job} cannot be {done}" in err), (True, True), err)
            self.assertIn(name, err)
            self.assertIn("No space left on device", err)
            self.assertEqual(self.state(job), state)
            subprocess.run(["umount", path], check=True)
            self.ok(action, job)
            self.assertEqual(self.state(job), next_state)
        self.ok("cancel", "--now", job)
        self.cli("wait", job)

    def test_a_job_that_is_being_ended_is_not_said_to_be_suspended(self):
        job = self.submit("ignore_term", time_limit="1s", grace_period="10m")
        self.wait_for_state(job, "RUNNING")

        def is_ending():
            if "it is ending" in self.cli("suspend", job)[2]:
                return True
            self.cli("resume", job)  # it was not yet: its time limit goes on
            return False

        self.assertTrue(eventually(is_ending, 30))
        self.assertEqual(self.state(job), "RUNNING")
        self.ok("cancel", "--now", job)
        self.cli("wait", job)
        self.assertEqual(self.state(job), "TIMEOUT")


class SlowRunners(DaemonCase):
    """Runners that do not listen, as while systemd does not answer them."""

    @natively
    def test_berthd_waits_for_a_runner_no_longer_than_seconds_and_serves_meanwhile(self):
        program = os.path.join(self.directory, "slow-runner")
        with open(program, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n[ ! -e {self.directory}/slow ] || exec sleep 600\nexec {RUNNER} \"$@\"\n")
        os.chmod(program, 0o755)
        self.write_config(runner_program=program)
        self.start_daemon()
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        other = next(pid for pid in self.alive_runners() if f"run-{pid}-" not in self.ok("slots", "--json"))
        with open(f"{self.directory}/slow", "w", encoding="utf-8"):
            pass
        os.kill(other, signal.SIGKILL)
        self.assertTrue(eventually(lambda: json.loads(self.ok("slots", "--json"))["runners"] == 1))
        self.ok("wait", self.submit("exit", 0))
        self.assertNotIn("did not listen", self.read_log())
        self.assertTrue(eventually(lambda: "did not listen within 10 s" in self.read_log(), 40))
        os.unlink(f"{self.directory}/slow")
        self.assertTrue(eventually(lambda: json.loads(self.ok("slots", "--json"))["runners"] == 2, 40))
        self.note_runners()
        self.ok("cancel", "--now", job)
        self.cli("wait", job)


class Starts(DaemonCase):
    """A start that comes to nothing, and would again at each decision, is given up."""

    configuration = {"runners": 1}

    def assert_held(self, job, *words):
        self.assertTrue(eventually(lambda: self.queue().get(job, {}).get("reason") == "JobHeldAdmin", 60), self.read_log())
        why = self.ok("why", job)
        for word in ("berthd holds it", *words):
            self.assertIn(word, why)

    def test_a_job_that_its_runner_dies_of_at_each_start_is_held(self):
        self.start_daemon({"BERTH_CRASH_AT": "runner.start_received"})
        job = self.submit("exit", 0, requeue=True)
        self.assert_held(job, "5 attempts in a row", "died")
        self.assertEqual([record["state"] for record in self.records(job)][:5], ["NODE_FAIL"] * 5)
        self.kill_daemon()
        self.end_runners()
        self.start_daemon()
        self.assert_held(job, "5 attempts in a row")
        self.ok("release", job)
        self.ok("wait", job)
        self.assertEqual(self.state(job), "COMPLETED")

    def test_a_job_whose_start_the_database_refuses_is_held(self):
        self.start_daemon()
        job = self.submit("exit", 0, hold=True)
        with contextlib.closing(sqlite3.connect(os.path.join(self.state_folder, "berthd.db"))) as database:
            database.execute("UPDATE jobs SET attempt = 5 WHERE id = ?", (job,))  # not what berthd has in memory
            database.commit()
        self.ok("release", job)
        self.assert_held(job, "its start was refused", "attempt 1 was expected to be 6")
        self.assertEqual(self.read_log().count("was expected to be 6"), 1)
        self.ok("wait", self.submit("exit", 0))
        self.ok("cancel", job)

    @natively
    def test_a_job_behind_one_whose_start_is_refused_starts_at_once(self):
        self.start_daemon()
        self.ok("drain")
        every_cpu = json.loads(self.ok("slots", "--json"))["cpus"]
        refused, behind = (self.submit("exit", 0, cpus_per_task=every_cpu) for _ in range(2))
        with contextlib.closing(sqlite3.connect(os.path.join(self.state_folder, "berthd.db"))) as database:
            database.execute("UPDATE jobs SET attempt = 5 WHERE id = ?", (refused,))
            database.commit()
        self.ok("undrain")
        self.assertTrue(eventually(lambda: self.state(behind) == "COMPLETED", 8), "it waits for the timer")
        self.assert_held(refused, "its start was refused")
        self.ok("cancel", refused)


if __name__ == "__main__":
    main()
