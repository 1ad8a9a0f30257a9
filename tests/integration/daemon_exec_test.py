"""berth exec: further commands beside running jobs, their walls, their terminal, and their end."""

import fcntl
import json
import os
import select
import signal
import subprocess
import time

from berth_case import BERTH, eventually, main, natively, processes
from daemon_case import DaemonCase
from terminal_case import Terminal, TerminalChecks


def is_full(pipe):
    """A writer would wait."""
    writer = os.open(f"/proc/self/fd/{pipe.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [writer], [], 0)[1]
    finally:
        os.close(writer)


class ExecCase(DaemonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def running(self, *argv, **spec):
        job = self.submit(*(argv or ("hold", 120)), **spec)
        self.wait_for_state(job, "RUNNING")
        return job

    def run_in(self, job, *command, arguments=(), **options):
        return self.cli("exec", *arguments, job, "--", *command, **options)

    def terminal(self, job, *command, arguments=()):
        terminal = Terminal([BERTH, "exec", "--socket", self.socket, "-t", *arguments, str(job), "--", *command],
                            cwd=self.work, env=self.environment(TERM="vt100"))
        self.addCleanup(terminal.close)
        return terminal

    def inside(self, job):
        """What `payload report` tells of a command beside the job."""
        status, out, err = self.run_in(job, self.payload, "report")
        self.assertEqual(status, 0, err)
        return json.loads(out)

    def host_pids(self, word):
        return self.job_pids(word)


class Streams(ExecCase):
    @natively
    def test_streams_and_status_are_the_commands(self):
        job = self.running()
        self.assertEqual(self.run_in(job, "sh", "-c", "echo out; echo err >&2; exit 7"), (7, "out\n", "err\n"))
        big = os.urandom(3_000_000).hex().encode()
        status, out, _ = self.run_in(job, "cat", given=big)
        self.assertEqual((status, out.encode() == big), (0, True))
        self.assertEqual(self.run_in(job, "sh", "-c", "kill -15 $$")[0], 143)
        self.assertEqual(self.run_in(job, "no-such-command")[0], 127)
        self.assertEqual(self.run_in(job, "/etc/passwd")[0], 126)
        self.assertEqual(self.run_in(job, "cat", arguments=["--no-stdin"], given=b"unread"), (0, "", ""))

    def test_a_reader_that_goes_away_leaves_the_terminal_as_it_was(self):
        job = self.running()
        command = f"{BERTH} exec --socket {self.socket} -t {job} -- sh -c 'while echo line; do sleep 0.05; done' | head -n 1; echo over"
        terminal = Terminal(["sh", "-c", command], cwd=self.work, env=self.environment(TERM="vt100"))
        self.addCleanup(terminal.close)
        terminal.expect("over")
        self.assertTrue(terminal.is_restored(), "the terminal is left raw")
        with subprocess.Popen([BERTH, "exec", "--socket", self.socket, str(job), "--", "sh", "-c", "while echo line; do sleep 0.05; done"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            client.stdout.readline()
            client.stdout.close()
            self.assertEqual((client.wait(60), client.stderr.read()), (-signal.SIGPIPE, b""))

    def test_signals_are_taken_while_nobody_reads_its_output(self):
        job = self.running()
        with subprocess.Popen([BERTH, "exec", "--socket", self.socket, str(job), "--", "yes", "unread"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            client.stdout.read(1)
            self.assertTrue(eventually(lambda: is_full(client.stdout)))
            client.send_signal(signal.SIGTERM)
            passed_on = eventually(lambda: all(command != "yes unread " for _, _, command in processes().values()))
            for _ in range(2):
                client.send_signal(signal.SIGTERM)
                time.sleep(0.2)
            ended = eventually(lambda: client.poll() is not None)
            client.kill()
        self.assertEqual((passed_on, ended, client.returncode), (True, True, 143))

    def unread_after_its_end(self, job, **streams):
        """A client that has been told its command's end, status 7, while most of the 5000 bytes of output wait in it."""
        opened = lambda: sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.alive_runners())  # noqa: E731
        before = opened()
        script = "echo > begun; while ! test -e go; do sleep 0.1; done; head -c 5000 /dev/zero; exit 7"
        client = subprocess.Popen([BERTH, "exec", "--socket", self.socket, "-D", self.work, str(job), "--", "sh", "-c", script],
                                  stdout=subprocess.PIPE, **streams)
        self.addCleanup(client.kill)
        fcntl.fcntl(client.stdout, fcntl.F_SETPIPE_SZ, 4096)
        self.assertTrue(eventually(lambda: os.path.exists(f"{self.work}/begun")))
        client.send_signal(signal.SIGSTOP)  # so that it receives all at once
        os.close(os.open(f"{self.work}/go", os.O_CREAT))
        self.assertTrue(eventually(lambda: opened() <= before), "the runner serves it yet")
        client.send_signal(signal.SIGCONT)
        self.assertTrue(eventually(lambda: is_full(client.stdout)))
        return client

    def test_input_after_the_commands_end_is_left_to_who_reads_next(self):
        job = self.running()
        source, sink = os.pipe()
        self.addCleanup(os.close, source)
        with self.unread_after_its_end(job, stdin=source) as client:
            os.write(sink, b"next")
            os.close(sink)
            self.assertEqual((len(client.stdout.read()), client.wait(60)), (5000, 7))
        self.assertEqual(os.read(source, 100), b"next")

    def test_a_signal_after_the_commands_end_ends_the_client_that_nobody_reads(self):
        job = self.running()
        with self.unread_after_its_end(job, stdin=subprocess.DEVNULL) as client:
            client.send_signal(signal.SIGTERM)
            self.assertTrue(eventually(lambda: client.poll() is not None))
            self.assertEqual(client.returncode, 143)

    @natively
    def test_a_process_left_in_the_background_holds_nothing_up(self):
        job = self.running()
        status, out, _ = self.run_in(job, "sh", "-c", "sleep 100 & echo begun", timeout=30)
        self.assertEqual((status, out), (0, "begun\n"))

    @natively
    def test_environment_and_directory_are_the_jobs_unless_named(self):
        job = self.running(environment={"COLOUR": "green"})
        script = "echo $COLOUR $SHAPE $BERTH_JOB_ID $PWD"
        self.assertEqual(self.run_in(job, "sh", "-c", script)[1], f"green {job} {self.work}\n")
        out = self.run_in(job, "sh", "-c", script, arguments=["--env", "SHAPE=round", "-D", "/tmp"])[1]
        self.assertEqual(out, f"green round {job} /tmp\n")
        status, _, err = self.run_in(job, "true", arguments=["-D", "/nonexistent"])
        self.assertEqual(status, 125)
        self.assertIn("/nonexistent", err)

    @natively
    def test_signals_are_passed_on_and_the_end_of_the_client_is_the_commands(self):
        job = self.running()
        command = [BERTH, "exec", "--socket", self.socket, str(job), "--", self.payload, "trap_term", "9", "100"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=self.work) as client:
            self.assertEqual(client.stdout.readline(), b"trapping\n")
            client.send_signal(signal.SIGTERM)
            client.stdout.read()
            self.assertEqual(client.wait(20), 9)
        command[-3:] = ["hold", "99", "x"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=self.work) as client:
            self.assertTrue(eventually(lambda: self.host_pids("hold 99")))
            client.kill()
        self.assertTrue(eventually(lambda: not self.host_pids("hold 99")), "it outlives its client")
        self.assertEqual(self.state(job), "RUNNING")

    @natively
    def test_a_slow_reader_holds_up_its_own_command_alone(self):
        job = self.running()
        command = [BERTH, "exec", "--socket", self.socket, str(job), "--", "cat", "/dev/zero"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=self.work) as slow:
            time.sleep(1)
            self.assertEqual(self.run_in(job, "echo", "quick")[1], "quick\n")
            slow.kill()
            slow.stdout.close()


class Walls(ExecCase):
    def test_it_is_in_all_the_namespaces_and_the_cgroup_with_the_jobs_rights(self):
        job = self.running()
        report = self.inside(job)
        (pid,) = self.host_pids("hold 120")
        for name in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"):
            self.assertEqual(report["namespaces"][name], os.readlink(f"/proc/{pid}/ns/{name}"), name)
        status = report["status"]
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            own = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        for field in ("Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
                      "Cpus_allowed_list", "SigBlk", "SigIgn"):
            self.assertEqual(status[field].strip(), own[field].strip(), field)
        inside = self.run_in(job, "cat", "/proc/2/status")[1]  # of the job's main process, with the numbers that hold inside
        for field in ("Uid", "Gid"):
            self.assertIn(f"{field}:\t{status[field]}\n", inside)
        self.assertEqual(status["CapBnd"], "0000000000000000")
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
        self.assertEqual(sorted(report["descriptors"]), ["0", "1", "2"])
        self.assertTrue(all(value.startswith("pipe:") for value in report["descriptors"].values()))
        with subprocess.Popen([BERTH, "exec", "--socket", self.socket, str(job), "--", self.payload, "hold", "77"],
                              stdin=subprocess.DEVNULL, cwd=self.work) as client:
            self.assertTrue(eventually(lambda: self.host_pids("hold 77")))
            (beside,) = self.host_pids("hold 77")
            with open(f"/proc/{pid}/cgroup", encoding="utf-8") as one, open(f"/proc/{beside}/cgroup", encoding="utf-8") as two:
                self.assertEqual(one.read(), two.read())
            client.kill()

    def test_no_way_out_that_the_job_has_not(self):
        job = self.running()
        status, out, err = self.run_in(job, self.payload, "attempts", "mount_tmpfs", "setns_init_mount", "ptrace_init",
                                       "pidfd_getfd_init", "unshare_user", "tiocsti", "kill_init", "open_init_root",
                                       "bpf", "sethostname", arguments=["--env", "PAYLOAD_IS_IN_A_JOB=1"])
        self.assertEqual(status, 0, err)
        results = dict(line.rsplit(" ", 1) for line in out.splitlines())
        self.assertEqual([name for name, result in results.items() if result == "ok"], [])
        self.assertEqual(len(results), 10)

    def test_what_it_uses_counts_against_the_jobs_limits_and_in_its_record(self):
        job = self.running("hold", 15, limits={"pids": 20})
        self.assertEqual(self.run_in(job, self.payload, "spin", "1")[0], 0)
        status, _, _ = self.run_in(job, self.payload, "memory_bomb")
        self.assertEqual(status, 137)
        status, out, _ = self.run_in(job, self.payload, "fork", "50")
        self.assertNotIn("50", out)
        self.assertEqual(self.state(job), "RUNNING")
        self.cli("cancel", job)
        self.cli("wait", job)
        usage = self.records(job)[-1]["usage"]
        self.assertGreaterEqual(usage["oom_kills"], 1)
        self.assertGreaterEqual(usage["cpu_total_usec"], 900_000)

    def test_a_job_without_room_for_a_process_goes_on(self):
        job = self.running(argv=["sh", "-c", "for i in 1 2 3 4 5 6; do sleep 100 & done; wait"], limits={"pids": 7})
        self.assertTrue(eventually(lambda: self.run_in(job, "true")[0] != 0))
        status, _, err = self.run_in(job, "true")
        self.assertEqual(status, 125)
        self.assertIn("limits.pids", err)
        self.assertEqual(self.state(job), "RUNNING")

    def test_the_end_of_the_job_is_the_commands(self):
        job = self.running()
        command = [BERTH, "exec", "--socket", self.socket, str(job), "--", self.payload, "ignore_term", "100"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self.work) as client:
            self.assertTrue(eventually(lambda: self.host_pids("ignore_term")))
            self.ok("cancel", "--now", job)
            self.assertIn(b"its job has ended", client.stderr.read())
            self.assertEqual(client.wait(20), 137)
        self.assertTrue(eventually(lambda: not self.host_pids("ignore_term")))

    @natively
    def test_only_the_owner_and_administrators_and_only_where_something_runs(self):
        job = self.running(user="www-data")
        self.assertEqual(self.run_in(job, "id", "-un", user="www-data")[1], "www-data\n")
        self.assertEqual(self.run_in(job, "id", "-un")[1], "www-data\n")
        status, _, err = self.run_in(job, "true", user="backup")
        self.assertEqual(status, 125)
        self.assertIn(f"no job {job} of yours", err)
        self.ok("suspend", job)
        status, _, err = self.run_in(job, "true")
        self.assertEqual((status, "resume it" in err), (125, True), err)
        self.ok("resume", job)
        self.assertEqual(self.run_in(job, "true")[0], 0)
        self.ok("cancel", job)
        self.cli("wait", job)
        status, _, err = self.run_in(job, "true")
        self.assertEqual((status, "does not run" in err), (125, True), err)
        status, _, err = self.cli("exec", job)
        self.assertEqual(status, 125)
        self.assertIn("needs one job and a command", err)

    def test_a_command_survives_berthd_as_its_job_does(self):
        job = self.running()
        with subprocess.Popen([BERTH, "exec", "--socket", self.socket, str(job), "--", "cat"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, cwd=self.work) as client:
            client.stdin.write(b"before\n")
            client.stdin.flush()
            self.assertEqual(client.stdout.readline(), b"before\n")
            self.kill_daemon()
            client.stdin.write(b"after\n")
            client.stdin.flush()
            self.assertEqual(client.stdout.readline(), b"after\n")
            self.start_daemon()
            client.stdin.close()
            self.assertEqual(client.wait(20), 0)
        self.assertEqual(self.run_in(job, "echo", "again")[1], "again\n")

    @natively
    def test_without_an_upgrade_the_api_says_how_to_ask(self):
        job = self.running()
        done = subprocess.run(["curl", "-s", "-w", "%{http_code}", "-X", "POST", "--unix-socket", self.socket, "-d", '{"argv":["id"]}',
                               f"http://berth/v1/jobs/{job}/exec"], capture_output=True, check=True)
        self.assertIn(b"426", done.stdout)
        self.assertIn(b"berth-stream", done.stdout)


class Terminals(TerminalChecks, ExecCase):
    def start_beside_a_job(self, *command):
        return self.terminal(self.running(), *command)

    @natively
    def test_a_terminal_has_the_callers_size_and_follows_it(self):
        self.check_keys_size_and_status(self.start_beside_a_job)

    @natively
    def test_control_c_goes_to_the_command_and_berth_goes_on(self):
        self.check_control_c(self.start_beside_a_job)

    def test_it_is_the_controlling_terminal_of_a_session_of_its_own_on_the_jobs_devpts(self):
        self.check_controlling_terminal(self.start_beside_a_job)

    @natively
    def test_a_killed_client_hangs_the_terminal_up(self):
        job = self.running()
        terminal = self.terminal(job, self.payload, "hold", "55")
        self.assertTrue(eventually(lambda: self.host_pids("hold 55")))
        terminal.process.kill()
        self.assertTrue(eventually(lambda: not self.host_pids("hold 55")))

    @natively
    def test_the_terminal_is_restored_when_the_job_ends(self):
        job = self.running()
        terminal = self.terminal(job, "sleep", "100")
        self.assertTrue(eventually(lambda: not terminal.is_restored()), "never raw")
        self.ok("cancel", "--now", job)
        self.assertEqual(terminal.finish(), 137)
        self.assertTrue(terminal.is_restored())


if __name__ == "__main__":
    main()
