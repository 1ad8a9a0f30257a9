"""A berthd of the test's own: sockets, database and runners in the test's folder; its CLI; its end."""

import http.client
import json
import os
import pwd
import signal
import socket
import subprocess
import time

from berth_case import BERTH, BERTHD, RUNNER, BerthCase, eventually

# How much longer than elsewhere a job must run in an emulator, to be met while it does.
PACE = 10 if os.environ.get("BERTH_GUEST") else 1


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=20):
        super().__init__("berth", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class DaemonCase(BerthCase):
    """start_daemon() as often as a test likes; everything of it is gone at the end."""

    configuration = {}
    daemon_prefix = ()  # words in front of berthd's command

    def setUp(self):
        super().setUp()
        self.run_folder = os.path.join(self.directory, "run")
        self.state_folder = os.path.join(self.directory, "state")
        self.socket = os.path.join(self.run_folder, "berthd.sock")
        self.config_path = os.path.join(self.directory, "berthd.json")
        self.write_config()
        self.daemon = None
        self.daemon_log = open(os.path.join(self.directory, "berthd.log"), "ab")  # pylint: disable=consider-using-with
        self.addCleanup(self.daemon_log.close)
        self.runner_pids = set()

    def write_config(self, **changes):
        config = {
            "socket": self.socket,
            "runtime_directory": self.run_folder,
            "state_directory": self.state_folder,
            "runner_program": RUNNER,
            "log_level": "debug",
            "runners": 2,
            **self.configuration,
            **changes,
        }
        with open(self.config_path, "w", encoding="utf-8") as file:
            json.dump(config, file)

    def tearDown(self):
        self.stop_daemon()
        self.end_runners()
        super().tearDown()

    # -- the daemon --

    def start_daemon(self, environment=None):
        self.daemon = subprocess.Popen(  # pylint: disable=consider-using-with
            [*self.daemon_prefix, BERTHD, "--config", self.config_path],
            stdin=subprocess.DEVNULL,
            stdout=self.daemon_log,
            stderr=self.daemon_log,
            env={**self.environment(), **(environment or {})},
            cwd="/",
        )
        self.assertTrue(
            eventually(lambda: self.daemon.poll() is not None or self.cli("slots")[0] == 0, 30), "berthd does not serve"
        )
        self.assertIsNone(self.daemon.poll(), "berthd ended at once: " + self.read_log())
        self.note_runners()
        return self.daemon

    def read_log(self):
        with open(os.path.join(self.directory, "berthd.log"), encoding="utf-8", errors="replace") as file:
            return file.read()[-3000:]

    def note_runners(self):
        """Runners' sockets are named as their cgroups are: run-PID-STARTTIME."""
        folder = os.path.join(self.run_folder, "runners")
        if os.path.isdir(folder):
            names = {name.split(".")[0] for name in os.listdir(folder) if name.startswith("run-")}
            self.cgroup_names |= names
            self.runner_pids |= {int(name.split("-")[1]) for name in names}

    def kill_daemon(self):
        """kill -9."""
        self.note_runners()
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def stop_daemon(self):
        self.note_runners()
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(20)
            self.note_runners()  # one may have been starting

    def pid_of_the_runner(self):
        """Of the one job that runs."""
        (running,) = json.loads(self.ok("slots", "--json"))["running"]
        return int(running["runner"].split("-")[1])

    def alive_runners(self):
        alive = set()
        for pid in self.runner_pids:
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if self.run_folder.encode() in file.read():
                        alive.add(pid)
            except OSError:
                pass
        return alive

    def end_runners(self):
        for pid in self.alive_runners():
            os.kill(pid, signal.SIGTERM)
        if not eventually(lambda: not self.alive_runners(), 20):
            for pid in self.alive_runners():
                os.kill(pid, signal.SIGKILL)
            self.fail("a runner did not end when it was asked to")

    def spooled(self):
        """Whole records only: while one is being written its name ends in .new."""
        folder = os.path.join(self.state_folder, "spool")
        return [name for name in os.listdir(folder) if not name.endswith(".new")]

    # -- the command line --

    def cli(self, *arguments, user=None, given=None, timeout=60):
        """(exit status, standard output, standard error) of `berth`, as root or as another user."""
        command = [BERTH, arguments[0], "--socket", self.socket, *map(str, arguments[1:])]
        if user is not None:
            entry = pwd.getpwnam(user)
            command = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups", *command]
        done = subprocess.run(
            command, cwd=self.work, env=self.environment(), input=given, capture_output=True, timeout=timeout, check=False
        )
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def ok(self, *arguments, **options):
        status, out, err = self.cli(*arguments, **options)
        self.assertEqual(status, 0, f"berth {arguments}: {err}\n{self.read_log()}")
        return out

    def submit(self, *argv, user=None, arguments=(), **spec):
        """The id of one submitted payload job."""
        path = self.job_file(self.job(*argv, **spec))
        return int(self.ok("submit", "--parsable", *arguments, path, user=user))

    def submit_until_told(self, **spec):
        """A job that ends well once let_end() has been called, however slow the machine is."""
        argv = ["/bin/sh", "-c", "until [ -e end ]; do sleep 0.05; done"]
        return self.submit(argv=argv, name="until-told", **spec)

    def let_end(self):
        with open(os.path.join(self.work, "end"), "w", encoding="utf-8"):
            pass

    def state(self, job):
        return json.loads(self.ok("show", "--json", job))["jobs"][-1]["state"]

    def records(self, job):
        return json.loads(self.ok("show", "--json", job))["jobs"]

    def wait_for_state(self, job, state, seconds=30):
        if not eventually(lambda: self.state(job) == state, seconds):
            self.fail(f"job {job} is {self.state(job)}, not {state}: {self.records(job)[-1]}\n{self.read_log()}")

    def queue(self):
        return {job["job_id"]: job for job in json.loads(self.ok("queue", "--json"))["jobs"]}

    def logs(self, job):
        return self.ok("logs", job)

    @staticmethod
    def sleep_until(moment):
        time.sleep(max(0.0, moment - time.monotonic()))
