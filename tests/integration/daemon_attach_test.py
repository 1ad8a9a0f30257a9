"""berth attach: joining jobs of berthd's, on the terminals that their runners keep, or to look on."""

import os
import shutil
import signal
import socket
import subprocess
import time

from berth_case import BERTH, eventually, main, natively
from daemon_case import PACE, RUNNER, DaemonCase
from terminal_case import Terminal

SO_PASSRIGHTS = 83  # asm-generic/socket.h
LEAVE = "\x10\x11"  # Ctrl-P Ctrl-Q


class AttachCase(DaemonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def submit_terminal(self, *command, arguments=(), **options):
        return int(self.ok("submit", "--pty", "--parsable", *arguments, "--", *command, **options))

    def running(self, *command, arguments=(), **options):
        job = self.submit_terminal(*command, arguments=arguments, **options)
        self.wait_for_state(job, "RUNNING")
        return job

    def attach(self, job, *arguments, **size):
        terminal = Terminal([BERTH, "attach", "--socket", self.socket, *arguments, str(job)], cwd=self.work,
                            env=self.environment(TERM="vt100"), **size)
        self.addCleanup(terminal.close)
        return terminal

    def watch(self, job, *arguments):
        client = subprocess.Popen([BERTH, "attach", "--socket", self.socket, *arguments, str(job)],  # pylint: disable=consider-using-with
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.work)
        self.addCleanup(self.close, client)
        return client

    def opened(self):
        """The descriptors of all runners."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.alive_runners())

    def opened_at_rest(self):
        """The same, when none of them makes a sandbox or takes one away."""
        readings = [-1, self.opened()]
        while readings[-3:] != [readings[-1]] * 3:
            time.sleep(0.03)
            readings.append(self.opened())
        return readings[-1]

    def watch_a_running(self, job, *arguments):
        before = self.opened_at_rest()
        client = self.watch(job, *arguments)
        self.assertTrue(eventually(lambda: self.opened() > before), "the runner does not serve it")
        return client

    @staticmethod
    def close(client):
        if client.poll() is None:
            client.kill()
        client.wait()
        client.stdout.close()
        client.stderr.close()


SHELL = ("sh", "-c", "while read line; do echo \"got:$line\"; test \"$line\" != end || exit 7; done")

# No shell: bash drops a signal that comes while it runs the trap for it, or while a child of its own ends.
TELLS_ITS_SIZE = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
os.write(1, b"ready\\n")
while signal.sigwait({signal.SIGWINCH}):
    size = os.get_terminal_size(0)
    os.write(1, b"%d %d\\n" % (size.lines, size.columns))
"""


class Terminals(AttachCase):
    @natively
    def test_a_queued_terminal_is_joined_left_and_joined_again(self):
        job = self.running("sh", "-c", "echo before; stty size; read a; echo one:$a; until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo resized; "
                           "read b; echo two:$b; exit 5")
        self.assertTrue(eventually(lambda: "24 80" in self.logs(job)), "no terminal while nobody is attached")
        terminal = self.attach(job)
        self.assertTrue(eventually(lambda: not terminal.is_restored()), "never raw")
        terminal.type("first\r")
        terminal.expect("one:first")
        terminal.type(LEAVE)
        self.assertEqual(terminal.finish(), 0)
        self.assertIn("detached", terminal.seen)
        self.assertTrue(terminal.is_restored())
        self.assertEqual(self.state(job), "RUNNING")
        terminal = self.attach(job, rows=50, columns=132)
        terminal.expect("resized")
        terminal.type("second\r")
        terminal.expect("two:second")
        self.assertEqual(terminal.finish(), 5)
        self.assertTrue(terminal.is_restored())
        log = self.logs(job).replace("\r", "")
        for line in ("before", "one:first", "two:second"):
            self.assertIn(line + "\n", log)

    @natively
    def test_the_window_is_followed_and_a_program_is_told_to_draw_again(self):
        job = self.running("python3", "-c", TELLS_ITS_SIZE)
        self.assertTrue(eventually(lambda: "ready" in self.logs(job)))
        terminal = self.attach(job, rows=24, columns=80)  # what it has already: it is told all the same
        terminal.expect("24 80")
        terminal.resize(41, 111)
        terminal.expect("41 111")
        terminal.type("\x03")
        self.assertEqual(terminal.finish(), 130)

    @natively
    def test_control_c_goes_to_the_job_and_other_keys_can_leave_it(self):
        job = self.running("sh", "-c", "trap 'echo caught' INT; echo ready; while :; do read line && echo got:$line; done")
        terminal = self.attach(job, "--detach-keys", "ctrl-a,d")
        self.assertTrue(eventually(lambda: not terminal.is_restored()))
        terminal.type("\x03")
        terminal.expect("caught")
        terminal.type("x\x01y\r")  # no more than the beginning of the sequence: it is the job's
        terminal.expect("got:x\x01y|got:xy|got:x.*y")
        terminal.type("\x01d")
        self.assertEqual(terminal.finish(), 0)
        self.assertEqual(self.state(job), "RUNNING")
        status, _, err = self.cli("attach", "--detach-keys", "ctrl-", job)
        self.assertEqual((status, "is no key" in err), (125, True), err)

    @natively
    def test_several_see_the_same_and_all_may_type(self):
        job = self.running(*SHELL)
        one = self.attach(job)
        two = self.attach(job)
        looker = self.watch(job, "--no-stdin")
        self.assertTrue(eventually(lambda: not one.is_restored() and not two.is_restored()))
        time.sleep(0.3)
        one.type("alpha\r")
        one.expect("got:alpha")
        two.expect("got:alpha")
        two.type("beta\r")
        one.expect("got:beta")
        one.type(LEAVE)
        self.assertEqual(one.finish(), 0)
        two.type("end\r")
        self.assertEqual(two.finish(), 7)
        out, _ = looker.communicate(timeout=20)
        self.assertIn(b"got:alpha", out)
        self.assertIn(b"got:end", out)
        self.assertEqual(looker.returncode, 7)

    def test_it_waits_for_a_job_through_a_restart_of_berthd(self):
        job = self.submit(argv=["sh", "-c", "exit 7"], hold=True)
        client = self.watch(job)
        self.assertIn(b"waiting until it starts", client.stderr.readline())
        self.kill_daemon()
        self.start_daemon()
        self.ok("release", job)
        _, err = client.communicate(timeout=60)
        self.assertEqual(client.returncode, 7, err)

    def test_it_survives_berthd(self):
        job = self.running(*SHELL)
        terminal = self.attach(job)
        self.assertTrue(eventually(lambda: not terminal.is_restored()))
        terminal.type("before\r")
        terminal.expect("got:before")
        self.kill_daemon()
        terminal.type("while it is gone\r")
        terminal.expect("got:while it is gone")
        terminal.type(LEAVE)
        self.assertEqual(terminal.finish(), 0)
        self.start_daemon()
        terminal = self.attach(job)
        self.assertTrue(eventually(lambda: not terminal.is_restored()))
        terminal.type("end\r")
        terminal.expect("got:end")
        self.assertEqual(terminal.finish(), 7)
        log = self.logs(job)
        for word in ("before", "while it is gone", "end"):
            self.assertIn("got:" + word, log)
        self.assertEqual(len(self.records(job)), 1)

    @natively
    def test_a_killed_client_or_a_lost_line_leaves_the_job_alone(self):
        job = self.running(*SHELL)
        terminal = self.attach(job)
        self.assertTrue(eventually(lambda: not terminal.is_restored()))
        terminal.process.kill()
        terminal.process.wait()
        again = self.attach(job)
        self.assertTrue(eventually(lambda: not again.is_restored()))
        again.process.send_signal(signal.SIGHUP)
        self.assertEqual(again.finish(), 129)
        self.assertTrue(again.is_restored())
        third = self.attach(job)
        self.assertTrue(eventually(lambda: not third.is_restored()))
        third.type("end\r")
        third.expect("got:end")
        self.assertEqual(third.finish(), 7)

    def test_limits_hold_and_the_verdict_is_told(self):
        job = self.running("sleep", "100", arguments=["-t", f"{2 * PACE}s"])
        terminal = self.attach(job)
        self.assertEqual(terminal.finish(), 124)
        self.assertIn("time", terminal.seen)
        self.assertTrue(terminal.is_restored())
        self.assertEqual(self.state(job), "TIMEOUT")
        job = self.running("sh", "-c", f"sleep {PACE}; yes", arguments=["--output-limit", "100K", "-o", "/dev/null"])
        terminal = self.attach(job)
        self.assertNotEqual(terminal.finish(), 0)
        self.assertEqual(self.records(job)[-1]["outcome"]["cause"], "output_limit")

    @natively
    def test_what_is_piped_in_is_typed(self):
        job = self.running(*SHELL)
        status, out, err = self.cli("attach", job, given=b"one\nend\n")
        self.assertEqual(status, 7, err)
        self.assertIn("got:one", out)

    @natively
    def test_a_terminal_has_a_type_and_no_other_input_or_error(self):
        job = self.running("sh", "-c", "echo type:$TERM; tty; sleep 100", arguments=["--export", "NONE"])
        self.assertTrue(eventually(lambda: "/dev/pts/0" in self.logs(job)))
        self.assertIn("type:xterm", self.logs(job))
        for option in ("-i", "-e"):
            status, _, err = self.cli("submit", "--pty", option, "/dev/null", "--", "true")
            self.assertEqual(status, 125)
            self.assertIn("does not go with --pty", err)
        path = self.job_file(self.job("exit", 0, terminal=True))
        status, _, err = self.berth("run", "--database", self.database, path)
        self.assertEqual(status, 125)
        self.assertIn("--pty", err)


class WithoutTerminal(AttachCase):
    @natively
    def test_output_and_error_are_shown_from_now_on_and_the_status_is_the_jobs(self):
        go_on = os.path.join(self.work, "go")
        script = f"echo old; while ! test -e {go_on}; do sleep 0.05; done; echo out; echo err >&2; exit 3"
        for split in (False, True):
            spec = {"standard_error": os.path.join(self.work, "errors")} if split else {}
            job = self.submit(argv=["sh", "-c", script], **spec)
            self.assertTrue(eventually(lambda job=job: "old" in self.cli("logs", job)[1]))
            client = self.watch_a_running(job)
            with open(go_on, "w", encoding="utf-8"):
                pass
            out, err = client.communicate(timeout=20)
            os.unlink(go_on)
            self.assertEqual((client.returncode, out), (3, b"out\n" if split else b"out\nerr\n"))
            self.assertIn(b"err\n" if split else b"", err)
            self.assertIn("old", self.logs(job))

    @natively
    def test_one_that_waits_is_joined_before_its_first_byte(self):
        job = self.submit(argv=["sh", "-c", "echo at once; exit 4"], hold=True)
        clients = [self.watch(job) for _ in range(2)]
        for client in clients:
            line = client.stderr.readline()
            self.assertIn(b"JobHeldUser", line)
        status, _, err = self.cli("attach", "--no-wait", job)
        self.assertEqual(status, 125)
        self.assertIn("does not run", err)
        self.ok("release", job)
        for client in clients:
            out, _ = client.communicate(timeout=20)
            self.assertEqual((client.returncode, out), (4, b"at once\n"))

    @natively
    def test_a_signal_leaves_it_unless_it_is_to_be_passed_on(self):
        job = self.submit("trap_term", 9, 100)
        self.assertTrue(eventually(lambda: "trapping" in self.cli("logs", job)[1]))
        client = self.watch_a_running(job)
        client.send_signal(signal.SIGINT)
        _, err = client.communicate(timeout=20)
        self.assertEqual(client.returncode, 130)
        self.assertIn(b"goes on", err)
        self.assertEqual(self.state(job), "RUNNING")
        client = self.watch_a_running(job, "--sig-proxy")
        client.send_signal(signal.SIGTERM)
        client.communicate(timeout=20)
        self.assertEqual(client.returncode, 9)
        self.assertEqual(self.cli("wait", job)[0], 9)

    @natively
    def test_the_next_attempt_is_joined_too(self):
        script = "echo attempt $BERTH_JOB_ID; test -e second && exit 6; touch second; exit 1"
        job = self.submit(argv=["sh", "-c", script], hold=True, retry={"max": 1})
        client = self.watch(job)
        client.stderr.readline()
        self.ok("release", job)
        out, _ = client.communicate(timeout=30)
        self.assertEqual((client.returncode, out.decode()), (6, f"attempt {job}\n" * 2))

    @natively
    def test_a_slow_reader_misses_some_and_holds_nothing_up(self):
        job = self.submit(argv=["sh", "-c", "until [ -e go ]; do sleep 0.05; done; head -c 30000000 /dev/zero; echo; echo last"])
        self.wait_for_state(job, "RUNNING")
        client = self.watch_a_running(job)
        with open(os.path.join(self.work, "go"), "w", encoding="utf-8"):
            pass
        self.assertEqual(self.cli("wait", job)[0], 0, "the job waits for its reader")
        out, err = client.communicate(timeout=20)
        self.assertEqual(client.returncode, 0)
        self.assertLess(len(out), 30_000_000)
        self.assertIn(b"left out", err)
        with open(os.path.join(self.work, f"berth-{job}.out"), "rb") as file:
            self.assertEqual(len(file.read()), 30_000_006)

    @natively
    def test_only_the_owner_and_administrators_and_only_what_runs_or_will(self):
        job = self.submit("hold", 120, user="www-data")
        self.wait_for_state(job, "RUNNING")
        status, _, err = self.cli("attach", job, user="backup")
        self.assertEqual((status, f"no job {job} of yours" in err), (125, True), err)
        administrator = self.watch_a_running(job)
        self.assertIsNone(administrator.poll())
        self.ok("cancel", "--now", job)
        self.assertEqual(administrator.wait(20), 137)
        status, _, err = self.cli("attach", job)
        self.assertEqual(status, 137)
        self.assertIn("has ended, as CANCELLED", err)
        array = self.submit("hold", 60, array="2-3", hold=True)
        status, _, err = self.cli("attach", array)
        self.assertEqual((status, f"berth attach {array}_2" in err), (125, True), err)
        self.ok("release", array)
        for state in ("RUNNING", "CANCELLED"):
            self.wait_for_state(f"{array}_3", state)
            status, _, err = self.cli("attach", array)
            self.assertEqual((status, f"berth attach {array}_2" in err), (125, True), err)
            for words in ((), ("-f",)):
                status, _, err = self.cli("logs", *words, array)
                self.assertEqual((status, f"berth logs {array}_2" in err), (1, True), err)
            self.cli("cancel", "--now", array)
        self.assertEqual(self.cli("attach", 9999)[0], 125)

    @natively
    def test_a_runner_that_dies_ends_it(self):
        job = self.submit("hold", 120)
        self.wait_for_state(job, "RUNNING")
        client = self.watch_a_running(job)
        for pid in self.alive_runners():
            os.kill(pid, signal.SIGKILL)
        _, err = client.communicate(timeout=30)
        self.assertEqual(client.returncode, 125)
        self.assertIn(b"runner went away", err)
        self.assertEqual(self.state(job), "NODE_FAIL")
        self.note_runners()

    def stream(self, job):
        """A client of the job that has been attached, and reads nothing from then on."""
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(20)
        client.connect(self.socket)
        client.sendall(f"POST /v1/jobs/{job}/attach HTTP/1.1\r\nHost: berth\r\nConnection: Upgrade\r\n"
                       "Upgrade: berth-stream\r\nContent-Length: 0\r\n\r\n".encode())
        received = b""
        while b'"attempt":1' not in received:
            received += client.recv(4096)
        return client

    def test_nobody_sends_descriptors_to_the_api_or_to_a_runner(self):
        """The last close of a file may take long, and the event loop that it is sent to would wait for it."""
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        with socket.socket(socket.AF_UNIX) as client, open("/dev/null", "rb") as file:
            try:
                client.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
            except OSError as error:
                self.skip(f"this kernel has no SO_PASSRIGHTS (Linux 6.16): {error}")
            client.connect(self.socket)
            for receiver in (client, self.stream(job)):
                with self.assertRaises(PermissionError):
                    socket.send_fds(receiver, [b"G"], [file.fileno()])
        self.ok("cancel", "--now", job)

    def test_an_outdated_runner_ends_only_when_its_clients_have_got_everything(self):
        self.stop_daemon()
        self.end_runners()
        program = os.path.join(self.directory, "berth-runner")
        shutil.copy(RUNNER, program)
        self.write_config(runner_program=program, runners=1)
        self.start_daemon()
        (before,) = self.alive_runners()
        script = "until [ -e begin ]; do sleep 0.05; done; head -c 900000 /dev/zero; until [ -e end ]; do sleep 0.05; done"
        job = self.submit(argv=["/bin/sh", "-c", script])
        self.wait_for_state(job, "RUNNING")
        client = self.stream(job)
        with open(os.path.join(self.work, "begin"), "w", encoding="utf-8"):
            pass
        output = os.path.join(self.work, f"berth-{job}.out")
        self.assertTrue(eventually(lambda: os.path.getsize(output) == 900_000, 30))
        self.kill_daemon()
        shutil.copy(RUNNER, program + ".new")
        os.rename(program + ".new", program)
        self.start_daemon()
        self.let_end()
        self.ok("wait", job)
        self.assertTrue(eventually(lambda: "it ends" in self.read_log()))
        time.sleep(1)  # for a runner that would not wait for its client
        received = b""
        while piece := client.recv(1 << 16):
            received += piece
        self.assertGreater(len(received), 900_000, "what the client had not read was lost")
        self.assertIn(b'"exit_status":0', received[-100:])
        self.assertTrue(eventually(lambda: before not in self.alive_runners()), "the outdated runner does not end")

    @natively
    def test_clients_of_one_user_take_neither_the_runners_descriptors_nor_its_memory(self):
        self.stop_daemon()
        self.end_runners()
        self.write_config(runners=1)
        self.start_daemon()
        job = self.submit(argv=["sh", "-c", "until test -e go; do sleep 0.05; done; head -c 6000000 /dev/zero; exec sleep 100"])
        other = self.submit("hold", 100, user="www-data")
        for one in (job, other):
            self.wait_for_state(one, "RUNNING")
        clients = [self.stream(job) for _ in range(128)]
        for command in (("attach", job), ("exec", job, "--", "true")):
            status, _, err = self.cli(*command)
            self.assertEqual((status, "128 commands" in err), (125, True), err)
        self.assertEqual(self.cli("exec", other, "--", "echo", "in", user="www-data")[1], "in\n")
        with open(os.path.join(self.work, "go"), "w", encoding="utf-8"):
            pass
        self.assertTrue(eventually(lambda: os.path.getsize(os.path.join(self.work, f"berth-{job}.out")) == 6_000_000))
        (runner,) = self.alive_runners()
        with open(f"/proc/{runner}/status", encoding="utf-8") as file:
            memory = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        self.assertLess(memory, 64 * 1024, "KiB of the runner's for clients that do not read")
        clients[1].close()
        self.assertTrue(eventually(lambda: self.cli("exec", job, "--", "true")[0] == 0), "a client that is gone is still counted")

    @natively
    def test_without_an_upgrade_the_api_says_how_to_ask(self):
        job = self.submit("hold", 60)
        done = subprocess.run(["curl", "-s", "-w", "%{http_code}", "-X", "POST", "--unix-socket", self.socket,
                               f"http://berth/v1/jobs/{job}/attach"], capture_output=True, check=True)
        self.assertIn(b"426", done.stdout)
        self.ok("cancel", job)


if __name__ == "__main__":
    main()
