"""A database that is damaged under berthd: noticed at its start and while it serves, refused with the newest copy and the
command that puts it in place; and the copies, which berthd makes."""

import os
import shlex
import shutil
import signal
import sqlite3
import stat
import subprocess

from berth_case import eventually, main, natively
from daemon_case import BERTHD, DaemonCase


class Copied(DaemonCase):
    configuration = {"pool": {"slots": 2}, "history": {"backup": {"every": 1}}}

    def setUp(self):
        super().setUp()
        self.database_path = os.path.join(self.state_folder, "berthd.db")
        self.copy = self.database_path + ".backup"

    def wait_for_copy(self):
        """Until one is there that was begun from now on; its time."""
        mark = os.path.join(self.directory, "mark")
        with open(mark, "w", encoding="utf-8"):
            pass
        begun = os.stat(mark).st_mtime_ns
        self.assertTrue(
            eventually(lambda: os.path.exists(self.copy) and os.stat(self.copy).st_mtime_ns > begun, 30),
            f"no copy is made: {self.read_log()}",
        )

    def damage(self, first=2):
        """Every page from `first` on, with nothing left in the log. SQLite's locks would go with a descriptor of ours only
        in the process that holds them, which is berthd."""
        with sqlite3.connect(self.database_path) as database:
            self.assertEqual(database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], 0)
        size = os.path.getsize(self.database_path)
        offset = (first - 1) * 4096
        self.assertGreater(size, offset)
        with open(self.database_path, "r+b") as file:
            file.seek(offset)
            file.write(b"\xff" * (size - offset))

    def refused_start(self):
        done = subprocess.run([BERTHD, "--config", self.config_path], capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    def restore_as_told(self, text):
        """Runs the very command that a refusal names."""
        command = shlex.split(text.rpartition("stop berthd and run: ")[2].splitlines()[0])
        self.assertEqual(command[0], "berthd")
        done = subprocess.run([BERTHD, *command[1:]], capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout


class AtTheStart(Copied):
    def test_damaged_pages_are_refused_with_the_newest_copy_and_the_command_that_restores_it(self):
        self.start_daemon()
        done = self.submit("exit", 0)
        self.ok("wait", done)
        waiting = self.submit("exit", 0, hold=True)
        self.wait_for_copy()
        late = self.submit("exit", 0, hold=True)
        # No copy may be made after that: the last one has to lack it.
        self.kill_daemon()
        with sqlite3.connect(self.copy) as copy:
            has_late = copy.execute("SELECT count(*) FROM jobs WHERE id = ?", [late]).fetchone() == (1,)
        self.damage()
        told = self.refused_start()
        self.assertIn("damaged", told)
        self.assertRegex(told, r"newest copy is of \d{4}-\d\d-\d\dT[0-9:.]+Z.*" + self.copy)
        said = self.restore_as_told(told)
        kept = [name for name in os.listdir(self.state_folder) if name.startswith("berthd.db.damaged-")]
        self.assertTrue(kept and min(kept, key=len) in said, (kept, said))  # beside its -wal and -shm
        self.start_daemon()
        self.assertEqual(self.state(done), "COMPLETED")
        self.assertEqual(self.state(waiting), "PENDING")
        self.ok("release", waiting)
        new = self.submit("exit", 0)
        self.assertGreater(new, late, "a number was given again")
        self.assertEqual(self.queue()[waiting]["reason"], "NodeDown")
        if not has_late:
            self.assertEqual(self.cli("show", late)[0], 1)
        self.ok("undrain")
        self.ok("wait", waiting, new)
        with sqlite3.connect(f"file:{self.database_path}?mode=ro", uri=True) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone(), ("ok",))

    @natively
    def test_one_damaged_page_in_the_middle_is_enough(self):
        self.start_daemon()
        self.submit("exit", 0, hold=True, comment="x" * 200_000)
        self.stop_daemon()
        with sqlite3.connect(self.database_path) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (root,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'jobs_by_end'").fetchone()
        with open(self.database_path, "r+b") as file:
            file.seek((root - 1) * 4096)
            file.write(b"\xff" * 4096)
        self.assertIn("damaged", self.refused_start())

    @natively
    def test_a_table_that_is_gone_is_damage(self):
        self.start_daemon()
        job = self.submit("exit", 0)
        self.ok("wait", job)
        self.wait_for_copy()
        self.stop_daemon()
        with sqlite3.connect(self.database_path) as database:
            database.execute("DROP TABLE usage")
        told = self.refused_start()
        self.assertRegex(told, "damaged: it lacks .*table usage")
        self.restore_as_told(told)
        self.start_daemon()
        self.assertEqual(self.state(job), "COMPLETED")

    @natively
    def test_what_is_no_database_any_more_is_refused_and_without_a_copy_it_says_so(self):
        self.write_config(history={"backup": {"every": 0}})
        self.start_daemon()
        self.stop_daemon()
        with open(self.database_path, "r+b") as file:
            file.write(b"no database" * 100)
        told = self.refused_start()
        self.assertIn(self.database_path, told)
        self.assertIn("There is no copy of it", told)
        done = subprocess.run([BERTHD, "--config", self.config_path, "--restore"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("there is no copy", done.stderr)

    def test_a_job_that_the_copy_does_not_know_is_named_and_arrays_are_held(self):
        self.start_daemon()
        array = int(self.ok("submit", "--parsable", "-H", "-a", "0-2", "--wrap", "until [ -e end ]; do sleep 0.05; done"))
        self.wait_for_copy()
        kept = os.path.join(self.directory, "kept")
        shutil.copyfile(self.copy, kept)
        self.ok("release", array)
        self.assertTrue(eventually(lambda: any(job["state"] == "RUNNING" for job in self.queue().values())))
        unknown = [job for job, row in self.queue().items() if row["state"] == "RUNNING"]
        self.kill_daemon()
        done = subprocess.run([BERTHD, "--config", self.config_path, "--restore", kept], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.start_daemon()
        for job in unknown:
            self.assertIn(f"job {job} runs in run-", self.read_log())
        self.assertEqual(self.queue()[array]["reason"], "JobHeldAdmin")
        self.ok("cancel", array)
        self.let_end()

    @natively
    def test_a_copy_that_is_damaged_too_is_not_restored(self):
        self.start_daemon()
        self.ok("wait", self.submit("exit", 0))
        self.wait_for_copy()
        self.stop_daemon()
        with open(self.copy, "r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 4096)
        before = self.content()
        done = subprocess.run([BERTHD, "--config", self.config_path, "--restore", self.copy], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(self.copy, done.stderr)
        self.assertEqual(self.content(), before)
        self.start_daemon()

    def content(self):
        with open(self.database_path, "rb") as file:
            return file.read()


class WhileServing(Copied):
    @natively
    def test_no_job_is_taken_any_more_and_running_ones_go_on_and_run_once(self):
        self.start_daemon()
        job = self.submit("print_slowly", 60, 0.1)
        self.wait_for_state(job, "RUNNING")
        self.wait_for_copy()
        self.damage()
        status, _, err = self.cli("history", "-S", "2000-01-01")
        self.assertNotEqual(status, 0)
        self.assertIn("damaged", err)
        self.assertTrue(eventually(lambda: self.cli("submit", "-H", "--", "true")[0] == 125), "jobs are still taken")
        _, _, err = self.cli("submit", "-H", "--", "true")
        self.assertIn(self.copy, err)
        path = os.path.join(self.work, f"berth-{job}.out")
        with open(path, encoding="utf-8") as file:
            seen = len(file.read().splitlines())
        self.assertLess(seen, 60)
        self.assertTrue(eventually(lambda: self.lines(path) == 60, 30), "the running job did not go on")
        # The copy of the sound database stays though one is due every second.
        eventually(lambda: False, 2.5)
        with sqlite3.connect(f"file:{self.copy}?mode=ro", uri=True) as copy:
            self.assertEqual(copy.execute("PRAGMA integrity_check").fetchone(), ("ok",))
        self.stop_daemon()
        self.restore_as_told(err)
        self.start_daemon()
        self.ok("undrain")
        self.assertIn(self.final_state(job), ("COMPLETED", "NODE_FAIL"))
        self.assertEqual(self.lines(path), 60, "it ran a second time")

    def lines(self, path):
        with open(path, encoding="utf-8") as file:
            return len(file.read().splitlines())

    def final_state(self, job):
        self.assertTrue(eventually(lambda: self.state(job) not in ("PENDING", "CONFIGURING", "RUNNING"), 30), self.state(job))
        return self.state(job)

    def start_after_the_copy(self, *argv):
        """A job that runs while it waits in the copy; berthd is dead and its database damaged."""
        self.start_daemon()
        job = self.submit(*argv, hold=True)
        self.wait_for_copy()
        self.write_config(history={"backup": {"every": 0}})
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "read again" in self.read_log()))
        self.ok("release", job)
        self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        with sqlite3.connect(self.copy) as copy:
            self.assertEqual(copy.execute("SELECT state FROM jobs").fetchall(), [("PENDING",)])
            copy.execute("UPDATE queue SET hold = 0")  # as though it had only waited for its turn
        self.damage()
        return job

    @natively
    def test_a_job_that_started_after_the_copy_and_ended_without_a_berthd_has_its_record(self):
        job = self.start_after_the_copy("print_slowly", 20, 0.05)
        self.assertTrue(eventually(self.spooled), "no record was spooled")
        self.restore_as_told(self.refused_start())
        self.start_daemon()
        self.ok("undrain")
        self.assertEqual(self.ok("wait", job), "")
        self.assertEqual((self.state(job), self.records(job)[-1]["attempt"]), ("COMPLETED", 1))
        columns = "AllocCPUS,AllocMem,CPUTime,CPUList,Slot"
        self.assertEqual(self.ok("history", "-n", "-P", "-o", columns, job), "||||\n", "what it was granted nobody knows")
        self.assertEqual(len(self.logs(job).splitlines()), 20, "it ran a second time")

    @natively
    def test_a_job_that_started_after_the_copy_is_held_while_it_runs_and_recorded_at_its_end(self):
        job = self.start_after_the_copy("hold", 600)
        self.restore_as_told(self.refused_start())
        self.start_daemon()
        self.ok("undrain")
        self.assertEqual(self.queue()[job]["reason"], "JobHeldAdmin")
        (pid,) = self.job_pids()
        os.kill(pid, signal.SIGUSR1)
        self.wait_for_state(job, "FAILED")
        self.assertEqual((self.records(job)[-1]["attempt"], self.records(job)[-1]["outcome"]["signal"]), (1, signal.SIGUSR1))
        self.assertEqual(self.queue(), {})


class Copying(Copied):
    @natively
    def test_a_copy_is_private_whole_and_replaced(self):
        self.start_daemon()
        for _ in range(2):
            job = self.submit("exit", 0)
            self.ok("wait", job)
            self.wait_for_copy()
            with sqlite3.connect(f"file:{self.copy}?mode=ro", uri=True) as copy:
                self.assertEqual(copy.execute("PRAGMA integrity_check").fetchone(), ("ok",))
                self.assertEqual(copy.execute("SELECT state FROM jobs WHERE id = ?", [job]).fetchone(), ("COMPLETED",))
        self.assertEqual(stat.S_IMODE(os.stat(self.copy).st_mode), 0o600)

    @natively
    def test_a_copy_that_does_not_fit_is_not_begun_and_a_reload_names_another_file(self):
        small = os.path.join(self.directory, "small")
        os.mkdir(small)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", small], check=True)
        self.addCleanup(subprocess.run, ["umount", small], check=False, capture_output=True)
        self.write_config(history={"backup": {"every": 1, "file": os.path.join(small, "copy")}})
        self.start_daemon()
        self.assertTrue(eventually(lambda: "name another file with history.backup.file" in self.read_log(), 20))
        self.assertEqual(os.listdir(small), [])
        subprocess.run(["umount", small], check=True)
        self.write_config(history={"backup": {"every": 1, "file": os.path.join(self.directory, "copy")}})
        self.daemon.send_signal(signal.SIGHUP)
        self.copy = os.path.join(self.directory, "copy")
        self.wait_for_copy()

    @natively
    def test_a_copy_in_the_place_of_the_database_is_refused_everywhere(self):
        self.start_daemon()
        link = os.path.join(self.directory, "link")
        os.symlink(self.state_folder, link)
        for file in (self.database_path, self.database_path + "-wal", os.path.join(link, "berthd.db"), self.directory):
            self.write_config(history={"backup": {"every": 1, "file": file}})
            done = subprocess.run([BERTHD, "--config", self.config_path, "--check-config"], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 2, file)
            self.assertIn(f'/history/backup/file: "{file}"', done.stderr)
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "stays as it was" in self.read_log()))
        self.stop_daemon()
        done = subprocess.run([BERTHD, "--config", self.config_path], capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 2, done.stderr)

    @natively
    def test_a_file_that_is_no_copy_is_not_overwritten(self):
        file = os.path.join(self.directory, "precious")
        with open(file, "w", encoding="utf-8") as stream:
            stream.write("precious")
        self.write_config(history={"backup": {"every": 1, "file": file}})
        self.start_daemon()
        self.assertTrue(eventually(lambda: f"{file}: is no copy" in self.read_log(), 20))
        with open(file, encoding="utf-8") as stream:
            self.assertEqual(stream.read(), "precious")
        self.assertFalse(os.path.exists(file + ".new"))

    @natively
    def test_every_0_makes_none(self):
        self.write_config(history={"backup": {"every": 0}})
        self.start_daemon()
        self.ok("wait", self.submit("exit", 0))
        eventually(lambda: False, 2)
        self.assertFalse(os.path.exists(self.copy))


class Lost(Copied):
    """What SQLite takes for a sound database, though jobs are missing from it."""

    def setUp(self):
        super().setUp()
        self.start_daemon()
        self.submit("exit", 0, arguments=["--wait"])
        self.wait_for_copy()
        self.write_config(history={"backup": {"every": 0}})
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "read again" in self.read_log()))
        self.last = self.submit("exit", 0, arguments=["--wait"])

    def remove_database(self):
        for name in os.listdir(self.state_folder):
            if name.startswith("berthd.db") and not name.endswith(".backup"):
                os.unlink(os.path.join(self.state_folder, name))

    def goes_on_after_restoring(self, text):
        before = os.stat(self.copy)
        had_one = os.path.exists(self.database_path)
        self.assertEqual("kept as" in self.restore_as_told(text), had_one)
        self.start_daemon()
        self.ok("undrain")
        self.assertEqual(self.state(1), "COMPLETED")
        self.assertGreater(int(self.submit("exit", 0, arguments=["--wait"])), int(self.last))
        self.assertEqual(os.stat(self.copy).st_mtime_ns, before.st_mtime_ns)

    def test_a_missing_database_of_which_there_is_a_copy_is_not_begun_anew(self):
        self.stop_daemon()
        self.remove_database()
        text = self.refused_start()
        self.assertIn("is missing, and there are copies of it", text)
        self.assertFalse(os.path.exists(self.database_path))
        self.goes_on_after_restoring(text)

    @natively
    def test_an_emptied_database_is_refused(self):
        self.stop_daemon()
        self.remove_database()
        with open(self.database_path, "wb"):
            pass
        for _ in range(2):
            self.assertIn(f"it ends with job 0 and event 0, and job {self.last}", self.refused_start())
        self.goes_on_after_restoring(self.refused_start())

    def test_an_older_copy_in_its_place_is_refused(self):
        self.stop_daemon()
        self.remove_database()
        shutil.copy(self.copy, self.database_path)
        text = self.refused_start()
        self.assertIn("has lost its newest jobs: it ends with job 1", text)
        self.goes_on_after_restoring(text)

    @natively
    def test_what_is_lost_may_be_given_up(self):
        self.stop_daemon()
        self.remove_database()
        shutil.copy(self.copy, self.database_path)
        os.unlink(self.refused_start().partition("what is left, remove ")[2].splitlines()[0])
        self.start_daemon()
        self.assertEqual(set(self.queue()), set())

    def test_all_is_in_the_file_after_a_stop(self):
        self.stop_daemon()
        self.assertEqual(os.path.getsize(self.database_path + "-wal") if os.path.exists(self.database_path + "-wal") else 0, 0)
        with sqlite3.connect(f"file:{self.database_path}?mode=ro&immutable=1", uri=True) as database:
            self.assertEqual(database.execute("SELECT count(*) FROM jobs").fetchone(), (2,))

    def test_a_new_database_gives_no_number_again(self):
        job = self.submit("hold", 1000)
        self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        self.remove_database()
        os.unlink(self.copy)
        self.start_daemon()
        other = self.submit("exit", 5)
        self.assertGreater(int(other), int(job))
        self.assertEqual(self.cli("wait", other)[0], 5)
        (pid,) = self.job_pids()  # nobody knows it any more
        os.kill(pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: not self.job_pids()))
        self.assertEqual(self.cli("show", job)[0], 1)


if __name__ == "__main__":
    main()
