"""Attempts to get out. Each must fail, with the walls up and, where it makes a difference, without seccomp."""

import ctypes
import glob
import json
import os
import pty
import resource
import select
import shutil
import signal
import socket
import stat
import sys
import time

from berth_case import BERTH, BerthCase, main, read

# What the kernel answers when it refuses; anything else means that it got further than it should.
REFUSALS = {"EPERM", "EACCES", "ENOSYS", "EROFS", "SIGSYS", "ENOENT", "ESRCH", "EALREADY", "ENODATA"}
# In the user namespace of a root without seccomp some of these are refused later, by what is not there.
REFUSALS_WITHOUT_SECCOMP = REFUSALS | {"EINVAL", "EBADF", "ENOTTY", "EIO", "ENODEV", "EFAULT", "ENOTBLK", "EOPNOTSUPP", "ENOKEY"}

# Without a filter these give a process nothing that it does not have, or only over itself.
HARMLESS_WITHOUT_SECCOMP = {
    "unshare_user", "clone3_user", "clone_user", "keyctl", "add_key", "request_key", "userfaultfd_user_mode", "ia32_syscall",
    "perf_event_open", "open_keys", "x32_syscall", "userfaultfd",
}


class Escape(BerthCase):
    def attempts(self, *names, isolation=None, **spec):
        run = self.run_job("attempts", *names, environment={"PAYLOAD_IS_IN_A_JOB": "1"}, isolation=isolation or {}, **spec)
        self.assert_state(run, "COMPLETED", "exited", 0)
        return run.probes()

    def assert_probed(self, run, count):
        """The job ran, and tried each of its probes."""
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertEqual(len(run.probes()), count, str(run))

    def assert_all_refused(self, results, refusals, but=()):
        self.assertGreater(len(results), 80)
        holes = {name: result for name, result in results.items() if result not in refusals and name not in but}
        if holes.get("ia32_syscall") == "SIGSEGV" and not self.has_32_bit_calls():
            del holes["ia32_syscall"]
        self.assertEqual(holes, {})

    def test_every_attempt_is_refused(self):
        # A core limit of 0 is a hard one; the default raises nothing.
        self.assert_all_refused(self.attempts(), REFUSALS | {"EINVAL"})

    def test_every_attempt_is_refused_to_root_inside(self):
        results = self.attempts(isolation={"user": "0"})
        self.assert_all_refused(results, REFUSALS | {"EINVAL"})

    def test_without_seccomp_the_other_walls_hold(self):
        for user in ({}, {"user": "0"}):
            with self.subTest(user=user):
                results = self.attempts(isolation={"seccomp": "none", **user})
                self.assert_all_refused(results, REFUSALS_WITHOUT_SECCOMP, HARMLESS_WITHOUT_SECCOMP)

    def test_dangerous_calls_are_refused_by_the_filter_itself(self):
        # EPERM or ENOSYS from the filter, before the kernel looks at the arguments.
        names = (
            "mount_tmpfs umount_proc pivot_root chroot fsopen fspick fsmount open_tree_clone move_mount mount_setattr unshare_user "
            "unshare_net clone3_user clone_user setns_own_user setns_own_net keyctl add_key request_key bpf perf_event_open "
            "userfaultfd userfaultfd_user_mode init_module finit_module delete_module kexec_load kexec_file_load tiocsti "
            "tiocsti_high_bits tioclinux tioclinux_high_bits open_by_handle_at"
        ).split()
        results = self.attempts(*names)
        self.assertEqual({name: result for name, result in results.items() if result not in ("EPERM", "ENOSYS")}, {})
        self.assertEqual(set(results), set(names))

    def test_foreign_abis_are_killed(self):
        results = self.attempts("ia32_syscall", "x32_syscall")
        self.assertIn(results["ia32_syscall"], ("SIGSYS", "ENOSYS") if self.has_32_bit_calls() else ("SIGSEGV",))
        self.assertIn(results["x32_syscall"], ("SIGSYS", "ENOSYS"))

    def python(self, program, **spec):
        """A job that runs these lines; `tell(action)` prints what an action gave, or the error's name."""
        prologue = (
            "import errno, os, resource, socket, sys\n"
            "def tell(action):\n"
            "    try: print(action())\n"
            "    except OSError as error: print(errno.errorcode[error.errno])\n"
        )
        return self.job(argv=["/usr/bin/python3", "-I", "-c", prologue + program], name="python", **spec)

    def test_what_shows_the_host_is_covered_in_chroots_too(self):
        chroot = os.path.join(self.directory, "a chroot")
        for name in ("proc", "sys", "dev", "data"):
            os.makedirs(os.path.join(chroot, name))
        with open(os.path.join(chroot, "file"), "w", encoding="utf-8"):
            pass
        mount = ("cd \"$0\" && mount --bind /proc proc && mount --rbind /sys sys && mount --rbind /dev dev && "
                 "mount -t tmpfs none data && mkdir data/kept && mount -t tmpfs none proc/fs && mount --bind /proc/uptime file && "
                 "cd - > /dev/null && exec \"$@\"")
        job = {"argv": ["/bin/sh", "-c", f"cd '{chroot}' && ls proc sys dev data; cat file; exit 0"], "memory_per_node": None}
        # An ordinary user may not reach the program where it was built.
        program = shutil.copy(BERTH, self.directory)
        user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", f'shift; exec {program} "$@"', "sh")
        for words in ((), user):
            run = self.run_jobs(self.job(**job), arguments=("--database", ":memory:"),
                                program=("unshare", "--mount", "sh", "-c", mount, chroot, *words))
            self.assert_state(run, "COMPLETED")
            self.assertEqual(run.out, "data:\nkept\n\ndev:\n\nproc:\n\nsys:\n", str(run))
        os.chmod(chroot, 0o700)  # which an ordinary user cannot look into: nor may it keep that user's jobs from running
        job["argv"][-1] = f"ls '{chroot}'"
        run = self.run_jobs(self.job(**job), arguments=("--database", ":memory:"), program=("unshare", "--mount", "sh", "-c", mount, chroot, *user))
        self.assert_state(run, "COMPLETED")
        self.assertEqual(run.out, "", str(run))

    def test_sockets_are_of_families_that_belong_to_a_network_namespace(self):
        # unix, inet, inet6, netlink and packet; AF_VSOCK (40) and others belong to no network namespace.
        allowed = (1, 2, 10, 16, 17)
        program = (
            "for family in range(1, 64): tell(lambda: socket.socket(family, socket.SOCK_DGRAM) and 'ok')\n"
            "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
            "number = 198 if os.uname().machine == 'aarch64' else 41\n"
            "high = lambda family: libc.syscall(number, ctypes.c_ulong((1 << 32) | family), 1, 0)\n"
            "print(high(2) > 2, high(40), errno.errorcode[ctypes.get_errno()])\n"
            "tell(lambda: socket.socketpair(30, socket.SOCK_STREAM))\n"  # AF_TIPC
        )
        for network in ("loopback", "none"):
            run = self.run_jobs(self.python(program, isolation={"network": network}))
            *single, high, pair = run.out.splitlines()
            self.assertEqual(len(single), 63, str(run))
            results = dict(enumerate(single, 1))
            self.assertEqual({family for family, result in results.items() if result != "EAFNOSUPPORT"}, set(allowed), str(run))
            self.assertEqual([results[family] for family in allowed], ["ok", "ok", "ok", "ok", "EPERM"], str(run))
            self.assertEqual((high, pair), ("True -1 EAFNOSUPPORT", "EAFNOSUPPORT"))

    def test_newer_calls_than_the_library_knows_are_refused_too(self):
        program = (
            "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
            "for call in ((467, -100, b'/tmp', 0, None, 0), (157, 62, 0, 0, 0, None)):\n"  # open_tree_attr; prctl(PR_SCHED_CORE)
            "    print(libc.syscall(*call), errno.errorcode[ctypes.get_errno()])\n"
        )
        if os.uname().machine != "x86_64":
            self.skip("the number of prctl here is another one")
        run = self.run_jobs(self.python(program))
        self.assertEqual(run.out, "-1 EPERM\n-1 EINVAL\n", str(run))

    def test_real_time_priorities_of_the_caller_are_not_the_jobs(self):
        before = {limit: resource.getrlimit(limit) for limit in (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE)}
        try:
            try:
                for limit in before:
                    resource.setrlimit(limit, (30, 30))
            except ValueError as error:
                self.skip(f"limits of the caller cannot be raised: {error}")
            run = self.run_jobs(self.python("print(resource.getrlimit(resource.RLIMIT_RTPRIO), resource.getrlimit(resource.RLIMIT_NICE))\n"
                                            "tell(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))"))
        finally:
            for limit, values in before.items():
                resource.setrlimit(limit, values)
        self.assertEqual(run.out, "(0, 0) (0, 0)\nEPERM\n", str(run))

    def test_init_is_not_limited_by_the_job(self):
        limit = "tell(lambda: resource.prlimit({}, resource.RLIMIT_NOFILE, (64, 64)))"
        run = self.run_jobs(self.python(f"{limit.format(1)}\n{limit.format('os.getpid()')}"))
        self.assertRegex(run.out, r"^EPERM\n\(\d+, \d+\)\n$", str(run))

    def test_init_is_not_slowed_down_by_the_job(self):
        idle = "os.SCHED_IDLE, os.sched_param(0)"
        ways = (
            "os.setpriority(os.PRIO_PROCESS, {}, 19)",
            "os.setpriority(os.PRIO_PGRP, {}, 19)",
            "os.sched_setaffinity({}, os.sched_getaffinity(0))",
            "os.sched_setparam({}, os.sched_param(0))",
            f"os.sched_setscheduler({{}}, {idle})",
        )
        for way in ways:
            run = self.run_jobs(self.python(f"tell(lambda: {way.format(1)})\ntell(lambda: {way.format(0)})"))
            self.assertEqual(run.out, "EPERM\nNone\n", way + str(run))
        run = self.run_jobs(self.python("tell(lambda: os.setpriority(os.PRIO_USER, 0, 19))"))
        self.assertEqual(run.out, "EPERM\n", str(run))

    def test_the_callers_session_is_not_slowed_down_by_the_job(self):
        own = "/proc/self/autogroup"  # sched(7)
        if not os.path.exists(own):
            self.skip("this kernel has no autogroups (CONFIG_SCHED_AUTOGROUP)")
        before = read(own)
        write = "os.open('/proc/1/autogroup', os.O_WRONLY)"
        run = self.run_jobs(self.python(f"tell(lambda: os.write({write}, b'15'))", isolation={"user": "root"}))
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertEqual(read(own), before)

    def test_a_job_that_deafens_init_ends(self):
        # Without the filter it may; then init must neither spin nor go on without ears.
        orphan = "if os.fork() == 0:\n    os.fork()\n    os._exit(0)\n"  # its end wakes init
        program = f"import time\nresource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))\n{orphan}time.sleep(1000)"
        run = self.run_jobs(self.python(program, isolation={"seccomp": "none"}))
        self.assert_state(run, "FAILED", "signalled")

    def test_host_processes_are_not_seen_or_signalled(self):
        run = self.run_job("processes")
        self.assertEqual(sorted(run.out.split()), ["1", "2"])
        victim = os.fork()
        if victim == 0:
            time.sleep(300)
            os._exit(0)
        try:
            run = self.run_job("signal", 9, victim, os.getpid(), os.getppid())
            self.assertEqual(set(run.probes().values()), {"ESRCH"}, str(run))
            self.assertEqual(os.waitpid(victim, os.WNOHANG), (0, 0))
        finally:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)

    def test_killing_everything_kills_only_itself(self):
        other = self.run_start(self.job("hold", 1000))
        (pid,) = self.wait_for_job(other, word="hold")
        run = self.run_job("signal", 9, -1)
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertEqual(self.job_pids("hold"), [pid])
        other.terminate()
        self.assert_state(self.run_finish(other), "CANCELLED")

    def test_another_jobs_tmp_is_not_seen(self):
        marker = f"berth-integration-{os.getpid()}"
        files = [f"{folder}/{marker}" for folder in ("/tmp", "/dev/shm", "/var/tmp")]
        write = "; ".join(f"echo secret > {path}" for path in files)
        writer = self.run_start(self.job(argv=None, script=f"#!/bin/sh\nset -e; {write}; cat {' '.join(files)}; exec sleep 1000\n"))
        for _ in files:
            self.assertEqual(writer.stdout.readline(), b"secret\n")
        run = self.run_job("read", *files)  # while the writer is there
        self.assertEqual(run.probes(), {path: "ENOENT" for path in files}, str(run))
        self.assertIsNone(writer.poll())
        writer.terminate()
        self.run_finish(writer)

    def test_host_ports_on_loopback_are_not_reached(self):
        with socket.socket() as server, socket.socket(socket.AF_UNIX) as abstract:
            server.bind(("127.0.0.1", 0))
            server.listen()
            name = f"berth-integration-{os.getpid()}"
            abstract.bind("\0" + name)
            abstract.listen()
            with socket.create_connection(server.getsockname()):
                pass
            run = self.run_job("connect", "127.0.0.1", server.getsockname()[1])
            self.assertEqual(run.probes(), {"connect": "ECONNREFUSED"})
            run = self.run_job("connect_abstract", name)
            self.assertEqual(run.probes(), {"connect_abstract": "ECONNREFUSED"})

    def test_nothing_is_reached_over_the_network(self):
        for address in ("8.8.8.8", "10.0.0.1", "169.254.169.254", "192.168.0.1"):
            run = self.run_job("connect", address, 80)
            self.assertEqual(run.probes(), {"connect": "ENETUNREACH"}, address)

    def test_no_raw_sockets(self):
        run = self.run_job("raw_socket", isolation={"user": "0"})
        self.assert_probed(run, 2)
        self.assertNotIn("ok", run.probes().values(), str(run))

    def test_unix_sockets_of_the_host_are_not_reached_through_run(self):
        run = self.run_job("list", "/run")
        self.assertEqual(run.out.splitlines(), ["/run"])

    def test_block_devices_are_not_opened(self):
        devices = [path for path in glob.glob("/dev/*") if stat.S_ISBLK(os.stat(path).st_mode)]
        if not devices:
            self.skip("no block device")
        run = self.run_job("read", *devices)
        self.assert_probed(run, len(devices))
        self.assertEqual({result for result in run.probes().values() if result == "ok"}, set(), str(run))
        # A node that lies in a folder the job may read and write is no way in either.
        number = os.stat(devices[0]).st_rdev
        node = os.path.join(self.work, "node")
        os.mknod(node, 0o666 | stat.S_IFBLK, number)
        os.chmod(node, 0o666)
        run = self.run_job("read", node)
        self.assertIn(run.probes()[node], ("EPERM", "EACCES"), str(run))
        run = self.run_job("read", node, isolation={"seccomp": "none", "user": "0"})
        self.assertIn(run.probes()[node], ("EPERM", "EACCES"), str(run))

    def test_kernel_memory_and_log_are_not_read(self):
        paths = ["/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/dev/mem", "/dev/port", "/sys/kernel/debug", "/sys/firmware/dmi/tables/DMI"]
        run = self.run_job("read", *paths, isolation={"user": "0"})
        self.assertEqual(len(run.probes()), len(paths), str(run))
        for path, result in run.probes().items():
            self.assertIn(result, REFUSALS | {"EISDIR", "empty"}, path)
        self.assertIn(self.attempts("syslog_read")["syslog_read"], REFUSALS)

    def test_no_file_of_cgroups_proc_or_sys_may_be_written(self):
        for user in ({}, {"user": "0"}):
            run = self.run_job("find_writable", "/sys", isolation=user)
            self.assertIn("count 0", run.out, str(run))
            # Files that everybody may write are no less a way in: /proc/pressure is mode 0666.
            run = self.run_job("find_writable", "/proc", "/proc/self", "/proc/thread-self", "/proc/1", "/proc/2", isolation=user)
            self.assertIn("count 0", run.out, str(run))

    def test_limits_are_not_raised_through_the_cgroup_file_system(self):
        names = ["memory/memory.limit_in_bytes", "pids/pids.max", "pids.max", "memory.max", "devices/devices.allow", "cgroup.procs",
                 "cpuset/tasks", "unified/cgroup.procs", "memory/cgroup.procs", "memory/release_agent", "release_agent"]
        run = self.run_job("open", *["/sys/fs/cgroup/" + name for name in names], isolation={"user": "0"})
        self.assertEqual(len(run.probes()), len(names), str(run))
        self.assertNotIn("ok", run.probes().values(), str(run))

    def test_leaked_descriptors_are_not_used(self):
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        os.set_inheritable(root, True)
        try:
            process = self.run_start(self.job("read", *[f"/proc/self/fd/{fd}/etc/hostname" for fd in (3, 4, 5, 6, 7, 8, root)]), pass_fds=[root])
            run = self.run_finish(process)
        finally:
            os.close(root)
        self.assertEqual(set(run.probes().values()), {"ENOENT"}, str(run))

    def test_the_callers_keyring_is_not_inherited(self):
        keyctl = "import ctypes, os, sys; keyctl = lambda *words: ctypes.CDLL(None).syscall(KEYCTL, *words); "
        keyctl = keyctl.replace("KEYCTL", "219" if os.uname().machine == "aarch64" else "250")
        # KEYCTL_JOIN_SESSION_KEYRING, and KEYCTL_DESCRIBE of the session's keyring (-3).
        caller = keyctl + "assert keyctl(1, b'callers') > 0; os.execvp(sys.argv[1], sys.argv[1:])"
        job = keyctl + "text = ctypes.create_string_buffer(99); keyctl(6, -3, text, 99); print(text.value.decode())"
        program = [sys.executable, "-c", caller]
        run = self.run_jobs(
            {"name": "keys", "argv": ["/usr/bin/python3", "-c", job], "isolation": {"seccomp": "none"}, "current_working_directory": self.work},
            program=program,
        )
        self.assert_state(run, "COMPLETED")
        self.assertIn(";_ses", run.out)
        self.assertNotIn("callers", run.out)

    def test_the_callers_place_before_the_oom_killer_is_not_inherited(self):
        run = self.run_jobs(
            {"name": "cat", "argv": ["cat", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj"], "current_working_directory": self.work},
            program=["choom", "-n", "300", "--"],
        )
        self.assertEqual(run.out.split(), ["0", "0"], str(run))

    def test_no_memory_for_filters_is_taken_by_sockets(self):
        attach = (
            "import errno, socket, struct\n"
            "for option in (26, 50, 51, 52):\n"  # SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF
            "    try: socket.socket().setsockopt(socket.SOL_SOCKET, option, struct.pack('HxxxxxxP', 1, 0))\n"
            "    except OSError as error: print(errno.errorcode[error.errno])\n"
            "socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)\n"
        )
        run = self.run_jobs({"name": "attach", "argv": ["/usr/bin/python3", "-c", attach], "current_working_directory": self.work})
        self.assert_state(run, "COMPLETED")
        self.assertEqual(run.out.split(), ["EPERM"] * 4)

    def test_one_job_does_not_use_up_what_others_and_root_have(self):
        if os.geteuid() != 0:
            self.skip("not root: a user's jobs and the user itself have one account")
        watch = "import ctypes, time\nnumber = 0\nwhile ctypes.CDLL(None).inotify_init() >= 0: number += 1\nprint(number, flush=True)\n"
        argv = ["/usr/bin/python3", "-c"]
        first = self.run_start({"name": "first", "argv": [*argv, watch + "time.sleep(1000)"], "current_working_directory": self.work})
        most = int(first.stdout.readline())
        self.assertGreater(most, 1)
        run = self.run_jobs(*[{"name": str(i), "argv": [*argv, watch], "current_working_directory": self.work} for i in range(2)],
                            arguments=["--no-prefix"])
        self.assertEqual(run.out.split(), [str(most)] * 2, str(run))
        libc = ctypes.CDLL(None)
        descriptor = libc.inotify_init()
        self.assertGreaterEqual(descriptor, 0)
        os.close(descriptor)
        first.terminate()
        self.run_finish(first)

    def test_runtime_is_not_written_through_init(self):
        # CVE-2019-5736: the container's runtime overwritten through /proc/PID/exe.
        run = self.run_job("open", "/proc/1/exe", "/proc/self/exe", isolation={"user": "0"})
        self.assert_probed(run, 2)
        self.assertNotIn("ok", run.probes().values(), str(run))
        run = self.run_job("read", "/proc/1/root/etc/hostname", "/proc/1/cwd/etc/hostname", "/proc/1/fd/0", "/proc/1/fd/3", "/proc/1/environ",
                           isolation={"user": "0"})
        self.assert_probed(run, 5)
        self.assertNotIn("ok", run.probes().values(), str(run))

    def test_working_directory_does_not_lead_out(self):
        # CVE-2024-21626: a working directory outside of the root.
        secret = os.path.join(self.directory, "secret")
        with open(secret, "w", encoding="utf-8") as file:
            file.write("x")
        os.chmod(secret, 0o600)
        run = self.run_job("read", "../../../../../../../../root/.bashrc", "../secret")
        self.assert_probed(run, 2)
        self.assertNotIn("ok", run.probes().values(), str(run))
        run = self.run_jobs(self.job("exit", 0, current_working_directory="/proc/self/fd/3"))
        self.assertEqual(run.status, 125, str(run))

    def test_working_directory_that_is_a_link_does_not_bring_the_host_in(self):
        for real in ("/", "/proc", "/sys/fs", "/tmp"):
            link = os.path.join(self.directory, "link" + real.replace("/", "-"))
            os.symlink(real, link)
            for name in (link, self.directory + "/../.." + real):
                with self.subTest(directory=name):
                    run = self.run_job("exit", 0, current_working_directory=name)
                    self.assert_state(run, "FAILED", "launch_failed", 125)
                    self.assertIn(f"leads to {real}, which is the job's own", run.outcome["message"])

    def test_sudo_does_not_lend_roots_groups(self):
        # Only root's group may enter; the calling user, for whom the folder is opened, has no such group.
        closed = os.path.join(self.directory, "closed")
        inner = os.path.join(closed, "inner")
        os.makedirs(inner)
        os.chmod(inner, 0o777)
        os.chmod(closed, 0o750)
        caller = self.environment(SUDO_UID="4242", SUDO_GID="4242", SUDO_USER="nobody-else")
        for spec in ({"current_working_directory": inner}, {"isolation": {"mounts": [{"source": inner, "target": "/tmp/inner"}]}}):
            run = self.run_jobs(self.job("exit", 0, **spec), environment=caller)
            self.assert_state(run, "FAILED", "launch_failed", 125)
            self.assertIn(f"{inner}: Permission denied", run.outcome["message"])

    def test_a_folder_as_standard_input_does_not_lead_out(self):
        folder = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            status, out, err = self.berth("run", "--database", self.database, "--stdin", "--", "ls", "/proc/self/fd/0/", stdin=folder)
        finally:
            os.close(folder)
        self.assertEqual((status, out), (125, ""), err)
        self.assertIn("standard_input: it is a folder", err)

    def test_standard_input_is_not_opened_for_writing(self):
        path = os.path.join(self.work, "input")
        with open(path, "w", encoding="utf-8") as file:
            file.write("first\nsecond\n")
        os.chmod(path, 0o666)
        program = "tell(lambda: os.open('/proc/self/fd/0', os.O_WRONLY)); tell(lambda: os.ftruncate(0, 0)); print(sys.stdin.read())"
        outside = os.path.join(self.directory, "elsewhere")
        os.mkdir(outside)
        os.rename(path, outside + "/input")
        run = self.run_jobs(self.python(program, standard_input=outside + "/input"))
        self.assertEqual(run.out, "EROFS\nEINVAL\nfirst\nsecond\n\n", str(run))
        with open(outside + "/input", "rb", buffering=0) as file:
            file.read(len("first\n"))  # what the caller has read stays read
            command = self.python(program)["argv"]
            status, out, err = self.berth("run", "--database", self.database, "--", *command, stdin=file)
        self.assertEqual((status, out), (0, "EROFS\nEINVAL\nsecond\n\n"), err)
        os.chmod(outside, 0o755)
        os.chmod(outside + "/input", 0o622)  # the caller of sudo may write it and not read it
        caller = self.environment(SUDO_UID="4242", SUDO_GID="4242", SUDO_USER="nobody-else")
        with open(outside + "/input", "rb", buffering=0) as file:
            status, out, err = self.berth("run", "--database", self.database, "--", *command, stdin=file, environment=caller)
        self.assertEqual((status, out), (0, "EROFS\nEINVAL\nfirst\nsecond\n\n"), err)

    def test_standard_input_is_opened_as_the_caller(self):
        # The addresses of the kernel are those of the one who opened it.
        if not int(read("/proc/kallsyms").split()[0], 16):
            self.skip("this root sees no address of the kernel")
        caller = self.environment(SUDO_UID="4242", SUDO_GID="4242", SUDO_USER="nobody-else")
        with open("/proc/kallsyms", "rb") as file:
            status, out, err = self.berth("run", "--database", self.database, "--", "head", "-n", "1", stdin=file, environment=caller)
        self.assertEqual(status, 0, err)
        self.assertEqual(int(out.split()[0], 16), 0)

    def test_nothing_is_typed_into_the_terminal(self):
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        try:
            process = self.run_start(
                self.job("attempts", "tiocsti", "tiocsti_high_bits", "tioclinux", environment={"PAYLOAD_IS_IN_A_JOB": "1"}),
                stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            )
            deadline = time.monotonic() + 60
            text = b""
            while time.monotonic() < deadline:
                ended = process.poll() is not None
                if select.select([master], [], [], 0.1)[0]:
                    text += os.read(master, 65536)
                elif ended:
                    break
            # What was injected would now be waiting as input.
            ready = select.select([slave], [], [], 0.2)[0]
            self.assertEqual(ready, [], "the terminal has input that nobody typed")
        finally:
            os.close(master)
            os.close(slave)
        words = [line.split()[:2] for line in text.decode(errors="replace").splitlines() if line.startswith("tioc")]
        self.assertEqual([name for name, _ in words], ["tiocsti", "tiocsti_high_bits", "tioclinux"], text)
        self.assertLessEqual({result for _, result in words}, {"EPERM", "ENOTTY", "EBADF"}, text)
        self.assert_state(self.run_finish(process), "COMPLETED", "exited", 0)

    def test_no_process_outlives_the_job(self):
        for _ in range(3):
            run = self.run_job("daemon", 1000)
            self.assert_state(run, "COMPLETED")
            self.assertEqual(self.job_pids(), [], "a process outlived its job")

    def test_set_group_id_programs_give_nothing(self):
        # Of a group that the job has and is mapped: that of no other would change it, whatever berth does.
        path = os.path.join(self.work, "as-group")
        shutil.copy(self.payload, path)
        os.chown(path, 0, 4343)
        os.chmod(path, 0o2755)
        in_devs = self.with_groups("devs:x:4343:daemon\n")
        run = self.run_jobs(self.job(argv=[path, "report"], isolation={"user": "daemon"}), program=in_devs)
        self.assert_state(run, "COMPLETED")
        report = json.loads(run.out)
        self.assertEqual(len(set(report["status"]["Gid"].split())), 1, report["status"]["Gid"])
        self.assertIn("4343", report["gid_map"].split(), report["groups"])

    def test_what_may_be_written_gives_no_ids_and_has_no_devices(self):
        mounts = [{"source": self.results, "target": "/data", "read_only": False}]
        report, _ = self.report(isolation={"mounts": mounts})
        options = {row.split()[4]: row.split()[5].split(",") for row in report["mountinfo"].splitlines()}
        for path in (self.work, "/data", "/tmp", "/var/tmp", "/dev/shm", "/run", "/"):
            self.assertLessEqual({"nosuid", "nodev"}, set(options[path]), path)

    def test_job_runs_as_nobody_known_to_the_host(self):
        process = self.run_start(self.job("hold", 1000, isolation={"user": "0"}))
        pid = self.wait_for_job(process)[0]
        status = read(f"/proc/{pid}/status")
        uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
        self.assertNotIn("0", uids, "root inside is root outside")
        process.terminate()
        self.run_finish(process)

    def test_supervisor_is_not_reached_by_files_that_the_job_swaps(self):
        # The output file is opened before the job runs; a link that the job puts in its place changes nothing.
        victim = os.path.join(self.directory, "victim")
        with open(victim, "w", encoding="utf-8") as file:
            file.write("whole")
        out = os.path.join(self.work, "out")
        script = f"#!/bin/sh\nrm -f {out}; ln -s {victim} {out}; echo written; sleep 0.3; echo more\n"
        self.assert_state(self.run_jobs(self.job(argv=None, script=script, standard_output=out)), "COMPLETED", "exited", 0)
        self.assertEqual(os.readlink(out), victim, "the job swapped it")
        self.assertEqual(read(victim), "whole")

    def test_roots_berth_follows_no_link_that_a_job_made(self):
        # Each path below is what a job file says; an earlier job made a link of a folder on it.
        secret = os.path.join(self.directory, "secret")
        os.mkdir(secret, 0o700)
        for name in ("out", "in"):
            with open(os.path.join(secret, name), "w", encoding="utf-8") as file:
                file.write("whole")
        os.mkdir(os.path.join(secret, "folder"), 0o777)
        link = os.path.join(self.work, "link")
        self.assert_state(self.run_jobs(self.job(argv=["ln", "-s", secret, link])), "COMPLETED")
        ways = {
            "standard_output": {"standard_output": link + "/out"},
            "standard_input": {"standard_input": link + "/in"},
            "working directory": {"current_working_directory": link + "/folder"},
            "mount": {"isolation": {"mounts": [{"source": link + "/folder", "target": "/tmp/folder"}]}},
            "root": {"isolation": {"root": link + "/folder"}, "current_working_directory": "/"},
        }
        for way, spec in ways.items():
            with self.subTest(way=way):
                run = self.run_jobs(self.job(argv=["cat"], **spec))
                self.assertEqual((run.status, run.out), (125, ""), str(run))
        self.assertEqual(read(secret + "/out"), "whole")

    def test_links_of_root_are_followed(self):
        target = os.path.join(self.directory, "target")
        os.mkdir(target)
        os.chmod(target, 0o777)
        link = os.path.join(self.directory, "link")
        os.symlink("../" + os.path.basename(self.directory) + "/target", link)
        run = self.run_jobs(self.job(argv=["cat"], standard_output=link + "/out", standard_input="/proc/self/cwd/../link/in",
                                     current_working_directory=link))
        self.assert_state(run, "FAILED", "launch_failed", 125)  # there is no input yet
        with open(target + "/in", "w", encoding="utf-8") as file:
            file.write("words")
        run = self.run_jobs(self.job(argv=["cat"], standard_output=link + "/out", standard_input="/proc/self/cwd/../link/in",
                                     current_working_directory=link))
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertEqual(read(target + "/out"), "words")


if __name__ == "__main__":
    main()
