"""What every integration test shares: it runs the real program `berth` on real jobs and ends by proving that
nothing is left of them: no process, no cgroup, no mount, no network device, no file outside its own folder.

The folder of a test is below /srv (or BERTH_TEST_DIRECTORY): /tmp, /var/tmp, /run, /dev/shm and home are
private inside jobs, and jobs run as an unprivileged user who has to reach it.
"""

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest


def tested_program(variable, fallback):
    """What the variable names, else what is found in PATH; absolute, because tests start it elsewhere."""
    named = os.environ.get(variable)
    return os.path.abspath(named) if named else fallback


BERTH = tested_program("BERTH_PROGRAM", "berth")
BERTHD = tested_program("BERTHD_PROGRAM", "berthd")
RUNNER = tested_program("BERTH_RUNNER_PROGRAM", "berth-runner")
PAYLOAD = tested_program("BERTH_PAYLOAD", "payload")
SOURCE = os.path.abspath(os.environ.get("BERTH_SOURCE", os.path.join(os.path.dirname(__file__), "..", "..")))
BASE = os.environ.get("BERTH_TEST_DIRECTORY", "/srv")

# Long enough for a slow machine; a test never asserts that something was quick.
TIMEOUT = 60

CGROUP_ROOT = "/sys/fs/cgroup"
# Where a sandbox that leaks would leave files. /tmp is left out: other programs live there too.
WATCHED_FOLDERS = ("/", "/dev", "/dev/shm", "/etc", "/home", "/mnt", "/root", "/run", "/srv", "/var/lib", "/var/tmp")


def eventually(condition, seconds=10.0):
    """True as soon as condition() is; the kernel finishes some things a moment after they were asked for."""
    end = time.monotonic() + seconds
    while True:
        if condition():
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.02)


def hierarchies():
    """Every mounted cgroup hierarchy: (mount point, controllers); v2 has none here but "unified"."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split()[:3]
            if kind == "cgroup2":
                found.append((left.split()[4], "unified"))
            elif kind == "cgroup":
                found.append((left.split()[4], options))
    return found


def own_cgroups():
    """This process's cgroup in each mounted hierarchy, as a directory."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split(":", 2) for line in file]
    for mount_point, options in hierarchies():
        for number, controllers, path in rows:
            if (number == "0" and options == "unified") or (controllers and set(controllers.split(",")) <= set(options.split(","))):
                yield os.path.join(mount_point, path.lstrip("/"))


def berth_cgroups():
    """Directories of any running or dead berth in this process's part of the hierarchies: …/berth and below."""
    return {
        path for own in own_cgroups() for path, _, _ in os.walk(os.path.join(own, "berth"))
    }


def detached_controllers():
    """cgroup v1 controllers that have a hierarchy which is mounted nowhere here, as berth makes one of net_cls and hugetlb:
    name -> number of cgroups. It stays while it has one."""
    mounted = {name for _, options in hierarchies() for name in options.split(",")}
    rows = [line.split() for line in read("/proc/cgroups").splitlines()[1:]]
    return {name: int(count) for name, hierarchy, count, _ in rows if hierarchy != "0" and name not in mounted}


def mount_table():
    """The host's mounts without their ids, which say nothing."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return sorted(line.split(" ", 3)[3] for line in file)


def processes():
    """pid -> (program, cgroups, command line) of every process that may be read."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            try:
                program = os.readlink(f"/proc/{name}/exe")
            except FileNotFoundError:
                continue  # a thread of the kernel, or a zombie: on a large machine most of what there is
            except OSError:
                program = ""
            with open(f"/proc/{name}/cgroup", encoding="utf-8") as file:
                cgroups = file.read()
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode(errors="replace")
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if state not in "ZX":
            found[int(name)] = (program, cgroups, command)
    return found


def processes_of(uid):
    """The pids of a user's processes; also of those that may not be dumped, whose files in /proc are root's."""
    found = set()
    for pid in processes():
        with contextlib.suppress(OSError):
            if f"\nUid:\t{uid}\t" in read(f"/proc/{pid}/status"):
                found.add(pid)
    return found


def children(parent):
    """The pids of a process's children."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(read(f"/proc/{name}/stat").rpartition(")")[2].split()[1]) == parent:
                found.append(int(name))
    return found


def cgroup_name(pid):
    """The name of a berth's or a runner's cgroup, run-PID-STARTTIME, as pids come again; in a pid namespace -INODE follows.
    The process must not have been waited for."""
    return f"run-{pid}-{read(f'/proc/{pid}/stat').rpartition(')')[2].split()[19]}"


def cpu_seconds(pid):
    """What a process has used of the CPUs, without its children."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def stays_until_reboot(path):
    """What berth keeps until the next boot (scheduler/runtime_folder.h), and what the mount(8) of a test does."""
    return path == "/run/mount" or (path == "/run/berth" and set(os.listdir(path)) <= {"topology", "cpus"})


def watched_files():
    found = set()
    for folder in WATCHED_FOLDERS:
        try:
            paths = {os.path.join(folder, name) for name in os.listdir(folder)}
            found.update(path for path in paths if not stays_until_reboot(path))
        except OSError:
            pass
    return found


@functools.cache
def shared_payload():
    """A copy of the payload that every test has under a name of its own: jobs' users reach it, and an emulator translates
    its code but once."""
    path = os.path.join(BASE, f".berth-payload-{os.getpid()}")
    shutil.copy(PAYLOAD, path)
    os.chmod(path, 0o755)
    own = os.getpid()
    atexit.register(lambda: os.getpid() == own and os.unlink(path))
    return path


def natively(test):
    """Marks a test that an emulator needs minutes for, and whose part of the kernel others use too."""
    test.natively = True
    return test


class Run:
    """A finished `berth run`."""

    def __init__(self, status, out, err, records):
        self.status = status
        self.out = out
        self.err = err
        self.records = records

    @property
    def record(self):
        assert len(self.records) == 1, f"{len(self.records)} records; standard error: {self.err}"
        return self.records[0]

    @property
    def outcome(self):
        return self.record["outcome"]

    @property
    def usage(self):
        return self.record["usage"]

    def by_name(self, name):
        return next(record for record in self.records if record["spec"]["name"] == name)

    def probes(self):
        """The payload's probe lines as subject -> result."""
        return dict(line.rsplit(" ", 1) for line in self.out.splitlines() if " " in line)

    def __str__(self):
        return f"exit status {self.status}\nout: {self.out[-2000:]}\nerr: {self.err[-3000:]}\n" + json.dumps(
            [record.get("outcome") for record in self.records]
        )


class BerthCase(unittest.TestCase):
    """One test = one folder, one database, as many berths as it likes."""

    needs_root = True
    only_user = None  # a uid that this test's processes alone have
    maxDiff = None

    def setUp(self):
        if os.environ.get("BERTH_GUEST") and hasattr(getattr(self, self._testMethodName), "natively"):
            self.skip("takes minutes in an emulator; run natively")
        if self.needs_root and os.geteuid() != 0:
            self.skip("needs root: it makes cgroups and runs jobs as other users; run scripts/test as root or with sudo")
        shared_payload()
        self.before_mounts = mount_table()
        self.before_links = set(os.listdir("/sys/class/net"))
        self.before_files = watched_files()
        self.before_cgroups = berth_cgroups()
        self.before_detached = detached_controllers()
        self.directory = tempfile.mkdtemp(prefix="berth-test-", dir=BASE)
        os.chmod(self.directory, 0o755)
        self.addCleanup(shutil.rmtree, self.directory, True)
        self.payload = os.path.join(self.directory, "payload")
        os.link(shared_payload(), self.payload)
        self.work = os.path.join(self.directory, "work")
        os.mkdir(self.work)
        os.chmod(self.work, 0o777)
        self.results = os.path.join(self.directory, "results")
        os.mkdir(self.results)
        os.chmod(self.results, 0o777)
        self.database = os.path.join(self.directory, "state", "berth.db")
        self.berths = []
        self.cgroup_names = set()  # of all of them

    def tearDown(self):
        for process in self.berths:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        try:
            self.assert_nothing_left()
        finally:
            self.remove_cgroups()

    def remove_cgroups(self):
        """What a failed test left, so that the next one begins clean."""
        for path in sorted(berth_cgroups(), reverse=True):
            if self.is_own_cgroup(path):
                with contextlib.suppress(OSError):
                    os.rmdir(path)

    def skip(self, reason):
        print(f"\nSKIPPED: {self.id().removeprefix('__main__.')}: {reason}", flush=True)
        raise unittest.SkipTest(reason)

    # -- running --

    def environment(self, **changes):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SUDO_", "XDG_"))}
        environment["LC_ALL"] = "C.UTF-8"
        environment.update(changes)
        return environment

    def job(self, *argv, **spec):
        """A job of the payload: job("exit", 3, time_limit="10s")."""
        job = {"argv": [self.payload, *map(str, argv)], "current_working_directory": self.work, "memory_per_node": "128M"}
        job["name"] = str(argv[0]) if argv else "payload"
        job.update(spec)
        return {key: value for key, value in job.items() if value is not None}

    def with_groups(self, lines):
        """What a program is begun by so that /etc/group has these lines too, for it alone."""
        path = os.path.join(self.directory, "group")
        with open(path, "w", encoding="utf-8") as file:
            file.write(read("/etc/group") + lines)
        return ("unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/group && exec "$@"', path)

    def job_file(self, *jobs):
        path = os.path.join(self.directory, f"jobs-{len(os.listdir(self.directory))}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(list(jobs), file)
        return path

    def note(self, process):
        """A berth of this test's, of which nothing may be left."""
        self.berths.append(process)
        self.cgroup_names.add(cgroup_name(process.pid))

    def start(self, *arguments, environment=None, program=(), **options):
        """Starts berth with these words; with a pipe for each of its streams unless options say otherwise."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            [*program, BERTH, *map(str, arguments)],
            env=self.environment() if environment is None else environment,
            cwd=options.pop("cwd", self.work),
            **options,
        )
        self.note(process)
        return process

    def fifo_of_words(self):
        """A path that jobs read words from, and the descriptor that gives them."""
        words = os.path.join(self.work, "words")
        os.mkfifo(words)
        os.chmod(words, 0o666)
        giver = os.open(words, os.O_RDWR)
        self.addCleanup(os.close, giver)
        return words, giver

    def finish(self, process, timeout=TIMEOUT, given=None):
        try:
            out, err = process.communicate(given, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            self.fail(f"berth did not end within {timeout} s; standard error: {err.decode(errors='replace')}")
        decoded = [(stream or b"").decode(errors="replace") for stream in (out, err)]
        return process.returncode, *decoded

    def berth(self, *arguments, timeout=TIMEOUT, given=None, **options):
        """Runs berth to its end: (exit status, standard output, standard error)."""
        if given is not None:
            options["stdin"] = subprocess.PIPE
        return self.finish(self.start(*arguments, **options), timeout, given)

    def berth_piped(self, text, *arguments, **options):
        """As berth(); in the words {pipe} is what a shell calls <(printf TEXT)."""
        reader, writer = os.pipe()
        try:
            os.write(writer, text.encode())
            os.close(writer)
            words = [str(word).replace("{pipe}", f"/dev/fd/{reader}") for word in arguments]
            return self.berth(*words, pass_fds=(reader,), **options)
        finally:
            os.close(reader)

    def run_start(self, *jobs, arguments=(), **options):
        """Starts `berth run` on a job file; finish with run_finish()."""
        result = os.path.join(self.results, f"{len(self.berths)}.json")
        path = self.job_file(*jobs)
        process = self.start("run", "--database", self.database, "--result", result, *arguments, path, **options)
        process.result_path = result
        return process

    def run_finish(self, process, timeout=TIMEOUT):
        status, out, err = self.finish(process, timeout)
        return Run(status, out, err, self.read_records(process.result_path))

    @staticmethod
    def read_records(path):
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            return []
        value = json.loads(text) if text.strip() else []
        return value if isinstance(value, list) else [value]

    def run_jobs(self, *jobs, arguments=(), timeout=TIMEOUT, **options):
        return self.run_finish(self.run_start(*jobs, arguments=arguments, **options), timeout)

    @staticmethod
    def has_32_bit_calls():
        """Or int $0x80 is a fault on this kernel, outside of jobs too."""
        attempt = subprocess.run([PAYLOAD, "attempt_here", "ia32_syscall"], env={"PAYLOAD_IS_IN_A_JOB": "1"}, capture_output=True)
        return attempt.returncode != -signal.SIGSEGV

    def run_job(self, *argv, arguments=(), **spec):
        return self.run_jobs(self.job(*argv, **spec), arguments=arguments)

    def report(self, arguments=(), **spec):
        """The job's view of itself (payload report) and the run."""
        run = self.run_job("report", arguments=arguments, **spec)
        self.assert_state(run, "COMPLETED")
        return json.loads(run.out), run

    def history(self, *arguments):
        status, out, err = self.berth("history", "--database", self.database, "--json", "-S", "2000-01-01", *arguments)
        self.assertEqual(status, 0, err)
        return json.loads(out)["jobs"]

    def wait_for_job(self, process=None, count=1, word="payload"):
        """Waits until `count` payload processes run on the host; their pids."""
        pids = []

        def has_come():
            pids[:] = self.job_pids(word)
            return len(pids) >= count or (process is not None and process.poll() is not None)

        self.assertTrue(eventually(has_come, 30), "the job did not start")
        if len(pids) < count:
            self.fail("berth ended early: " + self.finish(process)[2])
        return pids

    def job_pids(self, word="payload"):
        own = os.path.join(self.directory, "payload")
        return [pid for pid, (program, _, command) in processes().items() if program == own and word in command]

    # -- asserting --

    def assert_state(self, run, state, cause=None, exit_status=None):
        self.assertEqual(len(run.records), 1, str(run))
        self.assertEqual(run.record["state"], state, str(run))
        self.assertEqual(run.outcome["state"], state, str(run))
        self.assertTrue(run.outcome["message"], "a verdict says why in one sentence")
        if cause is not None:
            self.assertEqual(run.outcome["cause"], cause, str(run))
        if exit_status is not None:
            self.assertEqual(run.status, exit_status, str(run))

    def assert_refused(self, run, *words):
        """Refused before anything ran: 125, no record, and the message has these words."""
        self.assertEqual(run.status, 125, str(run))
        self.assertEqual(run.records, [], str(run))
        for word in words:
            self.assertIn(word, run.err)

    def cgroup_of(self, pid, controller):
        """The directory of a process's cgroup in the hierarchy of a v1 controller; the v2 one for "unified"."""
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            rows = [line.rstrip("\n").split(":", 2) for line in file]
        for mount_point, options in hierarchies():
            for number, controllers, path in rows:
                names = controllers.split(",")
                if controller in names and controller in options.split(",") or (
                    controller == "unified" and number == "0" and options == "unified"
                ):
                    return mount_point + path
        return None

    def read_control(self, pid, controller, name):
        folder = self.cgroup_of(pid, controller)
        if folder is None:
            self.skip(f"this machine has no cgroup v1 controller {controller}")
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return file.read().strip()

    def is_own_cgroup(self, path):
        """Of a directory, or of a line of /proc/PID/cgroup: is it a cgroup of this test's berths, or in one?"""
        return any(f"/berth/{name}{end}" in path + "/" for name in self.cgroup_names for end in "/-")

    def leftovers(self):
        """What is left of this test's berths and jobs, as sentences."""
        left = []
        mine = {process.pid for process in self.berths if process.poll() is None}
        if self.only_user is not None:
            mine |= processes_of(self.only_user)
        own = self.directory + "/"
        programs = set(map(os.path.realpath, (BERTH, BERTHD, RUNNER)))  # what they fork has their command line
        for pid, (program, cgroups, command) in processes().items():
            is_own = program.startswith(own) or (program in programs and own in command)
            if pid in mine or is_own or any(map(self.is_own_cgroup, cgroups.splitlines())):
                left.append(f"process {pid} {command or program}")
        everyone = berth_cgroups()
        left += [f"cgroup {path}" for path in everyone if self.is_own_cgroup(path)]
        # What goes with the last berth: the folder above, and hierarchies. Another one elsewhere on this machine keeps them.
        if not any(os.path.basename(program) in ("berth", "berth-runner") for pid, (program, _, _) in processes().items() if pid not in mine):
            left += [f"cgroup {path}" for path in everyone - self.before_cgroups if path.endswith("/berth")]
            left += [f"{count} cgroups of {name}, which is mounted nowhere" for name, count in detached_controllers().items()
                     if count > self.before_detached.get(name, 0)]
        left += [f"mount {line.strip()}" for line in mount_table() if line not in self.before_mounts]
        left += [f"network device {name}" for name in set(os.listdir("/sys/class/net")) - self.before_links]
        left += [f"file {name}" for name in watched_files() - self.before_files if name != self.directory]
        return left

    def assert_nothing_left(self):
        if eventually(lambda: not self.leftovers(), 10):
            return
        left = sorted(self.leftovers())
        self.fail(f"{len(left)} left behind: " + "; ".join(left[:12]))


class CaseLines(unittest.TextTestResult):
    """Where BERTH_CASES is set: one line "CASE: passed NAME", "CASE: failed NAME" or "CASE: skipped NAME" for each test,
    for scripts/test-matrix."""

    def startTest(self, test):
        super().startTest(test)
        self.known = "passed"

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.known = "skipped"

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.known = "failed"

    def addError(self, test, err):
        super().addError(test, err)
        self.known = "failed"

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.known = "failed"

    def stopTest(self, test):
        super().stopTest(test)
        if os.environ.get("BERTH_CASES"):
            print(f"CASE: {self.known} {test.id().removeprefix('__main__.')}", flush=True)


def main():
    """Runs the calling module; 77 when nothing could run, so that CTest counts it as skipped."""
    for program in (BERTH, PAYLOAD):
        if not os.path.isfile(program):
            print(f"set BERTH_PROGRAM and BERTH_PAYLOAD to the built programs ({program} is not there)")
            sys.exit(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runner = unittest.TextTestRunner(verbosity=2, resultclass=CaseLines)
    result = unittest.main(testRunner=runner, exit=False).result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.testsRun == 0:
        print("there is no test in this module")
        sys.exit(1)
    if result.testsRun == len(result.skipped) and result.skipped:
        print("SKIPPED: all: " + result.skipped[0][1])
        sys.exit(77)
    sys.exit(0)
