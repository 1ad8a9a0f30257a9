"""berth run --pty: a job on a terminal of its own, joined to the user's."""

import os
import signal
import time

from berth_case import BERTH, BerthCase, eventually, main, read
from terminal_case import Terminal, TerminalChecks


class RunningOnATerminal(TerminalChecks, BerthCase):
    def terminal(self, *command, arguments=()):
        terminal = Terminal([BERTH, "run", "--database", self.database, "--mem", "128M", "--pty", *arguments, "--", *command],
                            cwd=self.work, env=self.environment(TERM="vt100"))
        self.addCleanup(terminal.close)
        self.note(terminal.process)
        return terminal

    def test_keys_output_size_and_status(self):
        self.check_keys_size_and_status(self.terminal)
        record = self.history()[-1]
        self.assertEqual((record["state"], record["outcome"]["exit_code"]), ("FAILED", 5))
        self.assertGreater(record["usage"]["output_bytes"], 20)

    def test_it_is_the_controlling_terminal_of_the_jobs_session_on_its_own_devpts(self):
        self.assertEqual(self.check_controlling_terminal(self.terminal), ("2", "2"))

    def test_several_jobs_show_their_progress_in_lines_that_are_written_anew(self):
        words, giver = self.fifo_of_words()
        jobs = [self.job(argv=["/bin/sh", "-c", f"read word < {words}"], name=name) for name in ("first", "second")]
        for term, is_live in (("vt100", True), ("dumb", False)):
            terminal = Terminal([BERTH, "run", "--database", self.database, self.job_file(*jobs)], cwd=self.work,
                                env=self.environment(TERM=term))
            self.addCleanup(terminal.close)
            self.note(terminal.process)
            text = terminal.expect("first")
            os.write(giver, b"word\n" * 2)
            text += terminal.expect("second") + terminal.expect("JobID")
            self.assertEqual(terminal.finish(), 0)
            self.assertEqual("\x1b[" in text, is_live, repr(text))

    def test_control_c_goes_to_the_job(self):
        self.check_control_c(self.terminal)

    def on_a_terminal(self, *argv, **spec):
        """berth without --pty: the keys are its own, and no process of its job has this terminal."""
        terminal = Terminal([BERTH, "run", "-q", "--database", self.database, self.job_file(self.job(*argv, **spec))],
                            cwd=self.work, env=self.environment(TERM="vt100"))
        self.addCleanup(terminal.close)
        self.note(terminal.process)
        return terminal

    def test_without_pty_control_c_cancels_the_job_in_order(self):
        terminal = self.on_a_terminal("trap_term", 5, grace_period="30s")
        terminal.expect("trapping")
        terminal.type("\x03")
        terminal.expect("signal 15")
        self.assertEqual(terminal.finish(), 130)
        (record,) = self.history()
        self.assertEqual((record["state"], record["outcome"]["exit_code"]), ("CANCELLED", 5))

    def test_without_pty_a_second_control_c_kills(self):
        terminal = self.on_a_terminal("ignore_term", grace_period="1h")
        terminal.expect("ignoring")
        terminal.type("\x03")
        time.sleep(0.3)
        self.assertIsNone(terminal.process.poll())
        terminal.type("\x03")
        self.assertEqual(terminal.finish(), 130)
        self.assertEqual(self.history()[-1]["outcome"]["signal"], signal.SIGKILL)

    def test_without_pty_control_z_stops_berth_with_its_job(self):
        terminal = self.on_a_terminal("print_slowly", 1000, 0.05)
        terminal.expect("line 0")
        terminal.type("\x1a")
        stopped = lambda: read(f"/proc/{terminal.process.pid}/stat").rpartition(")")[2].split()[0] == "T"  # noqa: E731
        self.assertTrue(eventually(stopped))
        terminal.process.send_signal(signal.SIGCONT)
        terminal.expect("line")
        terminal.type("\x03")
        self.assertEqual(terminal.finish(), 130)
        self.assertEqual(self.history()[-1]["state"], "CANCELLED")

    def test_signals_and_limits_end_the_job_and_restore_the_terminal(self):
        terminal = self.terminal(self.payload, "hold", "100")
        self.wait_for_job(word="hold")
        self.assertTrue(eventually(lambda: not terminal.is_restored()))
        terminal.process.send_signal(signal.SIGTERM)
        self.assertEqual(terminal.finish(), 143)
        self.assertTrue(terminal.is_restored())
        terminal = self.terminal(self.payload, "hold", "100", arguments=["-t", "1s"])
        self.assertEqual(terminal.finish(), 124)
        self.assertTrue(terminal.is_restored())
        terminal = self.terminal("yes", arguments=["--output-limit", "100K"])
        self.assertEqual(terminal.finish(), self.history()[-1]["outcome"]["exit_status"])
        self.assertEqual(self.history()[-1]["outcome"]["cause"], "output_limit")

    def test_a_killed_berth_takes_the_job_with_it(self):
        terminal = self.terminal(self.payload, "hold", "100")
        self.wait_for_job(word="hold")
        terminal.process.kill()
        terminal.process.wait()
        self.assertTrue(eventually(lambda: not self.job_pids("hold")))
        self.assertEqual(self.berth("run", "--database", self.database, "--", "true")[0], 0)  # collects what is left

    def test_without_a_terminal_of_ones_own_the_job_has_one_all_the_same(self):
        status, out, err = self.berth("run", "--database", self.database, "--pty", "--", "sh", "-c", "tty; cat", given=b"line\n")
        self.assertEqual(status, 0, err)
        self.assertIn("/dev/pts/0", out)
        self.assertIn("line", out)

    def test_what_does_not_go_with_it_is_refused(self):
        for words in (["-o", "file", "--", "true"], ["--stdin", "--", "true"], [self.job_file(self.job("exit", 0))]):
            status, _, err = self.berth("run", "--database", self.database, "--pty", *words)
            self.assertEqual(status, 125)
            self.assertIn("--pty", err)
        self.assertFalse(os.path.exists(os.path.join(self.work, "file")))


if __name__ == "__main__":
    main()
