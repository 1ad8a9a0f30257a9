"""The Debian package on a machine that Debian's systemd runs (scripts/guest --package): installed, its berthd restarted,
reloaded, killed, upgraded and stopped while a user's job runs, removed and purged. Each test begins and ends without it."""

import json
import os
import pwd
import subprocess
import sys
import unittest

from berth_case import eventually

PACKAGE = "/guest/package/berth.deb"
PAYLOAD = "/guest/build/tests/payload"
USER = "alice"
PATIENCE = 300  # an emulator's
CONFIGURATION = {"runners": 2}


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, **options)
    return done.returncode, done.stdout, done.stderr


def ok(*command, **options):
    status, out, err = run(*command, **options)
    if status != 0:
        journal = run("journalctl", "-b", "-n", "40", "--no-pager", "-o", "cat")[1]
        raise AssertionError(f"{command}: {status}\n{out}\n{err}\n{journal}")
    return out


def files_of_berth():
    """What an installed, or carelessly removed, package has on the file system."""
    found = set()
    for top in ("/etc", "/lib", "/usr/bin", "/usr/sbin", "/usr/libexec", "/usr/lib/systemd", "/usr/share", "/var/lib", "/run", "/sys/fs/cgroup"):
        for folder, folders, files in os.walk(top):
            if "dpkg" in folder:
                continue
            found.update(os.path.join(folder, name) for name in folders + files if "berth" in name)
    return found


def berth_processes():
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            program = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if "berth" in os.path.basename(program) or program == PAYLOAD:
            found.add((int(pid), program))
    return found


class ToldAtOnce(unittest.TextTestResult):
    """A guest that is ended has told what had failed."""

    def addFailure(self, test, err):
        super().addFailure(test, err)
        print(self.failures[-1][1], flush=True)

    def addError(self, test, err):
        super().addError(test, err)
        print(self.errors[-1][1], flush=True)


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(os.path.join(os.path.dirname(PACKAGE), "status"), encoding="utf-8") as file:
            status = file.read()
        with open("/var/lib/dpkg/status", "w", encoding="utf-8") as file:
            file.write(status)
        for line in status.splitlines():
            if line.startswith("Package: "):
                name = line.split()[1]
                for list_name in (f"{name}.list", f"{name}:amd64.list"):
                    with open(f"/var/lib/dpkg/info/{list_name}", "a", encoding="utf-8"):
                        pass
        ok("useradd", "--create-home", "--shell", "/bin/sh", USER)

    def setUp(self):
        self.before = files_of_berth()
        self.home = pwd.getpwnam(USER).pw_dir
        os.makedirs("/etc/berth", exist_ok=True)
        with open("/etc/berth/berthd.json", "w", encoding="utf-8") as file:
            json.dump(CONFIGURATION, file)
        ok("dpkg", "-i", PACKAGE)
        self.assertTrue(eventually(lambda: run("berth", "slots")[0] == 0, PATIENCE), self.journal())

    def tearDown(self):
        ok("dpkg", "-P", "berth")
        self.assertTrue(eventually(lambda: not berth_processes(), PATIENCE), berth_processes())
        self.assertTrue(eventually(lambda: files_of_berth() == self.before, PATIENCE), files_of_berth() - self.before)
        units = ok("systemctl", "list-units", "--all", "--no-legend", "--plain", "*berth*")
        self.assertEqual(units.strip(), "")

    def journal(self):
        return run("journalctl", "-u", "berthd", "-n", "40", "--no-pager", "-o", "cat")[1]

    def berth(self, *arguments):
        """As the user, in their home."""
        entry = pwd.getpwnam(USER)
        return ok("setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups", "/usr/bin/berth", *map(str, arguments), cwd=self.home)

    def submit(self, *arguments):
        return int(self.berth("submit", "--parsable", *arguments))

    def record(self, job):
        return json.loads(self.berth("show", "--json", job))["jobs"][-1]

    def wait_for_state(self, job, state):
        self.assertTrue(eventually(lambda: self.record(job)["state"] == state, PATIENCE), f"{self.record(job)}\n{self.journal()}")

    def start_holding(self):
        """A job that runs until it is told not to: its id, and its process on the machine."""
        job = self.submit("--mem", "64M", "--", PAYLOAD, "hold", "600")
        self.wait_for_state(job, "RUNNING")
        self.assertTrue(eventually(lambda: self.holding() is not None, PATIENCE), "it does not run")
        return job, self.holding()

    @staticmethod
    def holding():
        return next((pid for pid, program in berth_processes() if program == PAYLOAD), None)

    @staticmethod
    def main_pid():
        return int(ok("systemctl", "show", "-p", "MainPID", "--value", "berthd"))

    def check_cgroup(self, pid):
        """On v2 in a scope of its runner's, which outlives the service; on v1 systemd leaves the controllers' cgroups alone."""
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            cgroups = {controllers: path for _, controllers, path in (line.rstrip("\n").split(":", 2) for line in file)}
        if "memory" in cgroups:
            self.assertIn("/berthd.service/berth/", cgroups["memory"])
            limit = f"/sys/fs/cgroup/memory{cgroups['memory']}/memory.limit_in_bytes"
        else:
            self.assertIn(".scope/", cgroups[""])
            self.assertNotIn("berthd.service", cgroups[""])
            limit = f"/sys/fs/cgroup{cgroups['']}/memory.max"
        with open(limit, encoding="utf-8") as file:
            self.assertEqual(int(file.read()), 64 << 20)

    def test_a_users_job_has_its_walls_and_limits_and_systemds_hardening_breaks_none(self):
        _, pid = self.start_holding()
        self.check_cgroup(pid)
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
        filters = ok("/usr/bin/berth", "run", "--database", "/tmp/run.db", "--", "/bin/grep", "Seccomp_filters", "/proc/self/status")
        self.assertEqual(status["Seccomp_filters"].strip(), filters.split()[1], "filters of the unit are the job's too")
        for name in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"):
            self.assertNotEqual(os.readlink(f"/proc/{pid}/ns/{name}"), os.readlink(f"/proc/self/ns/{name}"), name)
        data = os.path.join(self.home, "data")
        os.mkdir(data)
        os.chown(data, pwd.getpwnam(USER).pw_uid, -1)
        job = self.submit("--network", "private", "--time-offset", "boottime=1000", "--mount", f"{data}:/data:rw", "--", "/bin/sh", "-c", "id -u; hostname; echo here > /data/file")
        self.berth("wait", job)
        with open(os.path.join(self.home, f"berth-{job}.out"), encoding="utf-8") as file:
            self.assertEqual(file.read().split(), [str(pwd.getpwnam(USER).pw_uid), "sh"])
        self.assertTrue(os.path.exists(os.path.join(data, "file")))
        for path in (os.path.join(data, "file"), os.path.join(self.home, f"berth-{job}.out")):
            os.unlink(path)
        os.rmdir(data)

    def test_a_job_goes_on_while_berthd_is_reloaded_restarted_killed_stopped_and_upgraded(self):
        job, pid = self.start_holding()
        before = self.main_pid()
        ok("systemctl", "reload", "berthd")
        self.assertEqual(self.main_pid(), before)
        self.assertTrue(eventually(lambda: "read again" in self.journal(), PATIENCE))
        ok("systemctl", "restart", "berthd")
        self.assertNotEqual(self.main_pid(), before)
        self.assertEqual((self.record(job)["state"], self.holding()), ("RUNNING", pid))
        os.kill(self.main_pid(), 9)
        self.assertTrue(eventually(lambda: run("berth", "slots")[0] == 0, PATIENCE), "systemd does not start it again")
        self.assertEqual((self.record(job)["state"], self.holding()), ("RUNNING", pid))
        ok("systemctl", "stop", "berthd")
        self.assertEqual(self.holding(), pid)
        ok("systemctl", "start", "berthd")
        before = self.main_pid()
        ok("dpkg", "-i", PACKAGE)
        self.assertNotEqual(self.main_pid(), before)
        self.assertEqual((self.record(job)["state"], self.record(job)["attempt"], self.holding()), ("RUNNING", 1, pid))
        self.berth("cancel", job)
        self.wait_for_state(job, "CANCELLED")

    def test_removal_ends_jobs_and_keeps_records_until_it_is_purged(self):
        _, pid = self.start_holding()
        ok("dpkg", "-r", "berth")
        self.assertTrue(eventually(lambda: not berth_processes(), PATIENCE), f"{pid}: {berth_processes()}")
        self.assertTrue(os.path.exists("/var/lib/berth/berthd.db"))
        self.assertFalse(os.path.lexists("/etc/systemd/system/multi-user.target.wants/berthd.service"))
        ok("dpkg", "-i", PACKAGE)
        self.assertEqual(self.unit_states(), ["active", "enabled"])

    @staticmethod
    def unit_states():
        return [run("systemctl", question, "berthd")[1].strip() for question in ("is-active", "is-enabled")]

    def test_an_upgrade_starts_and_enables_nothing_that_the_administrator_stopped_or_disabled(self):
        ok("systemctl", "stop", "berthd")
        ok("dpkg", "-i", PACKAGE)
        self.assertEqual(self.unit_states(), ["inactive", "enabled"])
        ok("systemctl", "disable", "berthd")
        ok("dpkg", "-i", PACKAGE)
        self.assertEqual(self.unit_states(), ["inactive", "disabled"])
        ok("dpkg", "-r", "berth")
        ok("dpkg", "-i", PACKAGE)
        self.assertEqual(self.unit_states(), ["inactive", "disabled"])


if __name__ == "__main__":
    if not os.path.exists(PACKAGE):
        print("SKIPPED: all: the package is tested by scripts/guest --package alone")
        sys.exit(77)
    unittest.main(testRunner=unittest.TextTestRunner(verbosity=2, resultclass=ToldAtOnce))
