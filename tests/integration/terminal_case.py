"""A user's terminal: programs run on a pseudo-terminal of the test's own, and what they print is waited for."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time


class TerminalChecks:
    """What holds for a job's terminal and a further command's alike, for a TestCase. `start(*command)` gives a Terminal."""

    def check_keys_size_and_status(self, start):
        new_size = 'until [ "$(stty size)" = "40 120" ]; do sleep 0.05; done'
        terminal = start("sh", "-c", f"stty size; echo $TERM; {new_size}; echo resized; read line; echo got:$line; exit 5")
        self.assertIn("33 101", terminal.expect("vt100"))
        terminal.resize(40, 120)
        terminal.expect("resized")
        terminal.type("word\r")
        terminal.expect("got:word")
        self.assertEqual(terminal.finish(), 5)
        self.assertTrue(terminal.is_restored(), "the terminal is left raw")

    def check_control_c(self, start):
        terminal = start("sh", "-c", "trap 'echo caught' INT; echo ready; read line; read line; echo end:$line")
        terminal.expect("ready")
        terminal.type("\x03")
        terminal.expect("caught")
        terminal.type("\rlast\r")
        terminal.expect("end:")
        self.assertEqual(terminal.finish(), 0)
        self.assertTrue(terminal.is_restored())

    def check_controlling_terminal(self, start):
        """Returns the command's process and session."""
        terminal = start("sh", "-c", "tty; ps -o pid=,sid=,tty= $$; echo text > /dev/tty; ls -l /proc/self/fd; echo done")
        text = terminal.expect("done")
        self.assertIn("/dev/pts/0", text)
        pid, sid = re.search(r"(\d+)\s+(\d+)\s+pts/0", text).groups()
        self.assertEqual(pid, sid)
        self.assertIn("text", text)
        self.assertNotRegex(text, r"[3-9] -> /dev/(ptmx|pts)")
        self.assertEqual(terminal.finish(), 0)
        return pid, sid


class Terminal:
    """A process on a pseudo-terminal of the test's own, as a user's is."""

    def __init__(self, command, rows=33, columns=101, **options):
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.seen = ""
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **options)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, pattern, seconds=20):
        """What was printed up to and with `pattern`; it is taken out of what the next call sees."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            if time.monotonic() > end:
                raise AssertionError(f"no {pattern!r} in {self.seen!r}")
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    pass
        found = re.search(pattern, self.seen)
        taken, self.seen = self.seen[: found.end()], self.seen[found.end():]
        return taken

    def finish(self, seconds=20):
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        while select.select([self.master], [], [], 0)[0]:  # its last words
            self.seen += os.read(self.master, 65536).decode(errors="replace")
        return self.process.wait(1)

    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.before

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)
