"""Isolation: what a job sees of the machine, and what it has of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys

from berth_case import BERTH, BerthCase, main, read

NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time")


class Isolation(BerthCase):
    def test_all_eight_namespaces_differ_from_the_hosts(self):
        report, _ = self.report()
        for name in NAMESPACES:
            with self.subTest(namespace=name):
                self.assertTrue(report["namespaces"][name])
                self.assertNotEqual(report["namespaces"][name], os.readlink(f"/proc/self/ns/{name}"))

    def test_two_jobs_share_no_namespace(self):
        # At the same time: the kernel may give a namespace the number of one that is gone.
        first = self.run_start(self.job("hold", 1000, cpus_per_task=1))
        pids = set(self.wait_for_job(first))
        second = self.run_start(self.job("hold", 1000, cpus_per_task=1))
        both = self.wait_for_job(second, count=2)
        pids.update(both)
        self.assertEqual(len(pids), 2)
        for name in NAMESPACES:
            self.assertEqual(len({os.readlink(f"/proc/{pid}/ns/{name}") for pid in pids}), 2, name)
        for process in (first, second):
            process.terminate()
            self.assert_state(self.run_finish(process), "CANCELLED")

    def test_only_loopback_is_there_and_it_is_up(self):
        run = self.run_job("interfaces")
        self.assertEqual(run.out, "lo up\n")

    def test_network_none_has_not_even_loopback_up(self):
        run = self.run_job("interfaces", isolation={"network": "none"})
        self.assertEqual(run.out, "lo down\n")
        run = self.run_job("loopback", 4711, isolation={"network": "none"})
        self.assertEqual((run.record["outcome"]["cause"], "ok" in run.out), ("exited", False), str(run))

    def test_loopback_works_and_two_jobs_may_take_the_same_port(self):
        jobs = [self.job("loopback", 4711, 1, name=name) for name in ("a", "b")]
        run = self.run_jobs(*jobs, arguments=["--no-prefix"])
        self.assertEqual(run.out, "loopback ok\n" * 2, str(run))

    def test_hostname_is_the_jobs_name_or_as_asked(self):
        report, _ = self.report(name="nightly_build 7")
        self.assertRegex(report["hostname"], r"^nightly-build-7$")
        report, _ = self.report(isolation={"hostname": "box.example"})
        self.assertEqual(report["hostname"], "box.example")
        self.assertNotEqual(os.uname().nodename, "box.example")

    def test_init_is_pid_1_and_the_job_pid_2(self):
        report, _ = self.report()
        self.assertEqual((report["pid"], report["ppid"]), (2, 1))
        run = self.run_job("processes")
        self.assertEqual(sorted(run.out.split()), ["1", "2"])

    def test_init_reaps_orphans(self):
        run = self.run_job("orphans", 20)
        self.assertEqual(run.out, "others 0\n")

    def test_job_leads_a_session_of_its_own_without_a_terminal(self):
        report, _ = self.report()
        self.assertEqual((report["sid"], report["pgid"]), (report["pid"], report["pid"]))
        self.assertEqual(report["has_tty"], 0)

    def test_no_capability_no_new_privileges_and_a_seccomp_filter(self):
        for isolation in ({}, {"user": "0"}):
            report, _ = self.report(isolation=isolation)
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                self.assertEqual(int(report["status"][name], 16), 0, f"{name} {isolation}")
            self.assertEqual(report["status"]["NoNewPrivs"], "1")
            self.assertEqual(report["status"]["Seccomp"], "2")

    def test_seccomp_none_has_no_filter_but_keeps_the_rest(self):
        report, _ = self.report(isolation={"seccomp": "none"})
        self.assertEqual(report["status"]["Seccomp"], "0")
        self.assertEqual(report["status"]["NoNewPrivs"], "1")
        self.assertEqual(int(report["status"]["CapBnd"], 16), 0)

    def test_descriptors_are_0_1_2_and_no_more(self):
        report, _ = self.report()
        self.assertEqual(sorted(report["descriptors"]), ["0", "1", "2"])
        self.assertEqual(report["descriptors"]["0"], "/dev/null")

    def test_inherited_descriptors_do_not_leak(self):
        secret = os.path.join(self.directory, "secret")
        with open(secret, "w", encoding="utf-8") as file:
            file.write("x")
        fds = [os.open(secret, os.O_RDONLY) for _ in range(5)] + [os.open("/", os.O_RDONLY | os.O_DIRECTORY)]
        high = os.dup2(fds[0], 900, inheritable=True)
        try:
            process = self.run_start(self.job("report"), pass_fds=fds + [high])
            run = self.run_finish(process)
        finally:
            for fd in fds + [high]:
                os.close(fd)
        self.assertEqual(sorted(json.loads(run.out)["descriptors"]), ["0", "1", "2"])

    def test_signal_mask_and_dispositions_are_reset(self):
        def spoil():
            for number in (signal.SIGUSR1, signal.SIGPIPE, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])

        process = self.run_start(self.job("report"), preexec_fn=spoil)
        report = json.loads(self.run_finish(process).out)
        self.assertEqual(report["ignored_signals"], [])
        self.assertEqual(report["blocked_signals"], [])

    def test_a_parent_that_ignores_sigchld_changes_nothing(self):
        process = self.run_start(self.job("exit", 3), preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
        self.assert_state(self.run_finish(process, 20), "FAILED", "exited", 3)

    def test_umask_is_022_whatever_berths_own_was(self):
        process = self.run_start(self.job("report"), preexec_fn=lambda: os.umask(0o077))
        self.assertEqual(json.loads(self.run_finish(process).out)["umask"], 0o022)

    def test_umask_is_the_callers_for_a_command_and_the_files_own_for_a_job_file(self):
        files = [os.path.join(self.work, name) for name in ("command", "file")]
        command = [BERTH, "run", "--database", self.database, "-o", files[0], "--", "sh", "-c", "umask; touch made"]
        subprocess.run(command, cwd=self.work, env=self.environment(), preexec_fn=lambda: os.umask(0o077), check=True, timeout=60)  # pylint: disable=subprocess-popen-preexec-fn
        made = os.path.join(self.work, "made")
        self.assertEqual((read(files[0]), [oct(os.stat(path).st_mode & 0o777) for path in (files[0], made)]), ("0077\n", ["0o600", "0o600"]))
        run = self.run_job("report", umask="007", standard_output=files[1])
        self.assertEqual(run.status, 0, run.err)
        self.assertEqual((json.loads(read(files[1]))["umask"], os.stat(files[1]).st_mode & 0o777), (0o007, 0o660))

    def test_environment_is_the_given_one_over_a_minimum(self):
        environment = self.environment(SECRET_TOKEN="leak", LD_PRELOAD="")
        process = self.run_start(self.job("report", environment={"A": "1", "PATH": "/usr/bin"}), environment=environment)
        seen = json.loads(self.run_finish(process).out)["environment"]
        self.assertEqual(seen.pop("A"), "1")
        self.assertEqual(seen.pop("PATH"), "/usr/bin")
        self.assertNotIn("SECRET_TOKEN", seen)
        self.assertLessEqual(set(seen), {"HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "PWD"} | {k for k in seen if k.startswith(("BERTH_", "SLURM_"))})

    def test_working_directory_is_the_one_asked_for_and_writable(self):
        report, _ = self.report()
        self.assertEqual(report["cwd"], self.work)
        run = self.run_job("write", self.work + "/made")
        self.assertEqual(run.probes(), {self.work + "/made": "ok"})
        self.assertEqual(read(self.work + "/made"), "berth\n")

    def test_nothing_else_of_the_host_is_writable(self):
        run = self.run_job("find_writable", "/", "/proc", self.work)
        rows = [line.split(" ", 1)[1] for line in run.out.splitlines() if line.startswith("writable")]
        private = ("/tmp", "/var/tmp", "/run", "/dev/shm", "/home", "/root", "/dev/pts", "/dev/mqueue", "/dev")
        unexpected = [row for row in rows if not row.startswith(tuple(folder + "/" for folder in private)) and row not in private]
        self.assertEqual(unexpected, [])
        self.assertIn("/tmp", rows)

    def test_root_is_read_only_even_for_root_inside(self):
        paths = ["/etc/passwd", "/usr/bin/x", "/berth-marker", "/srv/marker", "/var/lib/marker", "/boot/marker"]
        for user in (None, "0"):
            run = self.run_job("write", *paths, isolation={"user": user} if user else {})
            for path, result in run.probes().items():
                self.assertIn(result, ("EROFS", "EACCES", "EPERM", "ENOENT"), path)
            self.assertEqual(len(run.probes()), len(paths), str(run))

    def test_read_only_holds_for_a_file_that_the_user_owns(self):
        path = os.path.join(self.directory, "theirs")
        with open(path, "w", encoding="utf-8") as file:
            file.write("x")
        os.chmod(path, 0o666)
        run = self.run_job("open", path)
        self.assertEqual(run.probes(), {path: "EROFS"})

    def test_private_folders_are_empty_writable_and_the_jobs_own(self):
        marker = f"berth-integration-{os.getpid()}"
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            host = os.path.join(folder, marker)
            with open(host, "w", encoding="utf-8") as file:
                file.write("host")
            try:
                with self.subTest(folder=folder):
                    run = self.run_job("write", f"{folder}/{marker}-job")
                    self.assertEqual(run.probes(), {f"{folder}/{marker}-job": "ok"})
                    self.assertFalse(os.path.exists(f"{folder}/{marker}-job"))
                    run = self.run_job("read", host, f"{folder}/{marker}-job")
                    self.assertEqual(set(run.probes().values()), {"ENOENT"})
            finally:
                os.unlink(host)

    def test_home_is_private(self):
        report, _ = self.report()
        home = report["environment"]["HOME"]
        run = self.run_job("write", home + "/file")
        self.assertEqual(run.probes(), {home + "/file": "ok"}, str(run))
        self.assertFalse(os.path.exists(home + "/file"))
        run = self.run_job("list", home)
        self.assertEqual(run.out.splitlines(), [home])

    def test_other_homes_are_not_seen(self):
        run = self.run_job("read", "/root/.bashrc", "/root/.profile", "/root/.ssh/authorized_keys")
        self.assert_state(run, "COMPLETED")
        self.assertEqual(len(run.probes()), 3, str(run))
        self.assertNotIn("ok", run.probes().values(), str(run))

    def test_dev_is_minimal(self):
        run = self.run_job("list", "/dev")
        names = {os.path.basename(line) for line in run.out.splitlines()[1:]}
        self.assertLessEqual(
            names,
            {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr"},
        )
        run = self.run_job("write", "/dev/null", "/dev/zero", "/dev/full")
        self.assertEqual(run.probes(), {"/dev/null": "ok", "/dev/zero": "ok", "/dev/full": "ENOSPC"})
        run = self.run_job("read", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/null")
        self.assertEqual(list(run.probes().values()), ["ok", "ok", "ok", "empty"])

    def test_dev_itself_takes_no_new_file(self):
        run = self.run_job("write", "/dev/new", isolation={"user": "0"})
        self.assertNotEqual(run.probes()["/dev/new"], "ok")

    def test_proc_is_masked(self):
        run = self.run_job("read", "/proc/1/environ")
        self.assert_state(run, "COMPLETED")
        self.assertNotIn("ok", run.probes().values(), str(run))
        run = self.run_job("open", "/proc/sys/kernel/hostname", "/proc/irq", isolation={"user": "0"})
        self.assertNotIn("ok", run.probes().values(), str(run))
        # /dev/null lies over each file, and nothing is in the folders, where the kernel has them.
        files = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger", "/proc/kmsg"]
        masked = self.run_job("stat", *files).out.splitlines()
        self.assertEqual(len(masked), len(files))
        for line in masked:
            self.assertRegex(line, r"rdev=1:3\b|ENOENT$")
        self.assertIn("rdev=1:3", str(masked))
        run = self.run_jobs(self.job(argv=["sh", "-c", "cd /proc; for each in acpi scsi; do test ! -d $each || ls -A $each; done"]))
        self.assert_state(run, "COMPLETED")
        self.assertEqual(run.out, "")

    def test_bind_mounts_read_only_and_writable(self):
        for name in ("ro", "rw"):
            os.mkdir(os.path.join(self.directory, name))
            os.chmod(os.path.join(self.directory, name), 0o777)
            with open(os.path.join(self.directory, name, "file"), "w", encoding="utf-8") as file:
                file.write(name)
        mounts = [
            {"source": self.directory + "/ro", "target": "/data-ro"},
            {"source": self.directory + "/rw", "target": "/data-rw", "read_only": False},
        ]
        run = self.run_job("show", "/data-ro/file", "/data-rw/file", isolation={"mounts": mounts})
        self.assertEqual(run.out, "rorw", str(run))
        run = self.run_job("write", "/data-ro/new", "/data-rw/new", isolation={"mounts": mounts})
        self.assertEqual(run.probes(), {"/data-ro/new": "EROFS", "/data-rw/new": "ok"})
        self.assertTrue(os.path.exists(self.directory + "/rw/new"))

    def test_mount_below_a_read_only_folder_works_or_says_what_to_do(self):
        mounts = [{"source": self.work, "target": "/usr/share/berth-none/deep"}]
        run = self.run_job("stat", "/usr/share/berth-none/deep", isolation={"mounts": mounts})
        if run.status == 0:
            self.assertIn("read_only=1", run.out)
        else:
            self.assertEqual(run.status, 125, str(run))
            self.assertIn("/usr/share/berth-none/deep", run.outcome["message"])
            self.assertIn("exist", run.outcome["message"], "the remedy: a target that exists, or one below /")
        self.assertFalse(os.path.exists("/usr/share/berth-none"))

    def test_many_mounts_work_and_too_many_are_refused_at_once(self):
        mounts = [{"source": "/usr/bin", "target": f"/tmp/{number}"} for number in range(400)]
        self.assert_state(self.run_job("exit", 0, isolation={"mounts": mounts[:119]}), "COMPLETED")
        run = self.run_job("exit", 0, isolation={"mounts": mounts[:118], "tmpfs": {"/tmp/x": "1M"}, "devices": ["/dev/null"]})
        self.assert_refused(run, "/isolation: has 120 mounts, tmpfs and devices, more than the 119 possible")
        self.assert_refused(self.run_job("exit", 0, isolation={"mounts": mounts}), "/isolation: has 400 mounts")

    def test_root_stays_read_only_with_a_mount_directly_below_it(self):
        run = self.run_job("write", "/scratch/file", "/berth-marker", isolation={"tmpfs": {"/scratch": "1M"}})
        self.assertEqual(run.probes(), {"/scratch/file": "ok", "/berth-marker": "EROFS"}, str(run))

    def test_bind_of_one_file(self):
        path = os.path.join(self.directory, "one")
        with open(path, "w", encoding="utf-8") as file:
            file.write("content")
        run = self.run_job("show", "/tmp/seen", isolation={"mounts": [{"source": path, "target": "/tmp/seen"}]})
        self.assertEqual(run.out, "content", str(run))

    def test_bind_of_what_is_not_there_is_a_launch_failure_that_names_it(self):
        run = self.run_job("exit", 0, isolation={"mounts": [{"source": "/no/such", "target": "/tmp/x"}]})
        self.assertEqual(run.status, 125, str(run))
        self.assertIn("/no/such", run.err + str(run.records))

    def test_a_file_on_a_folder_and_a_folder_on_a_file_are_named(self):
        for source, target, said in (
            ("/etc/passwd", "/mnt", "it is a folder in the job, and what is mounted is a file"),
            ("/etc", "/etc/passwd", "is a file in the job; mount a folder on a folder"),
        ):
            run = self.run_job("exit", 0, isolation={"mounts": [{"source": source, "target": target}]})
            self.assertEqual(run.status, 125, str(run))
            self.assertIn(f"cannot mount at {target}: ", run.outcome["message"])
            self.assertIn(said, run.outcome["message"])
        run = self.run_job("exit", 0, isolation={"tmpfs": {"/etc/passwd": "1M"}})
        self.assertIn("is a file in the job", run.outcome["message"])

    def test_a_mount_that_hides_the_working_directory_is_named(self):
        folder = os.path.join(self.directory, "hidden")
        os.makedirs(os.path.join(folder, "inner"))
        run = self.run_job(
            "exit", 0, current_working_directory=folder + "/inner", isolation={"tmpfs": {folder: "1M"}}
        )
        self.assertEqual(run.status, 125, str(run))
        self.assertIn(f"no working directory {folder}/inner in what is mounted at {folder}", run.outcome["message"])

    def test_tmpfs_mount_has_its_size(self):
        run = self.run_job("fill", "/scratch", isolation={"tmpfs": {"/scratch": "4M"}})
        self.assertEqual(run.out, f"filled {4 << 20} ENOSPC\n", str(run))

    def test_a_mount_point_with_a_long_path_is_made(self):
        target = "/tmp" + ("/" + 100 * "x") * 8
        run = self.run_job("write", target + "/file", isolation={"tmpfs": {target: "1M"}})
        self.assertEqual(run.probes(), {target + "/file": "ok"}, str(run))

    def make_root(self):
        root = os.path.join(self.directory, "root")
        for folder in ("", "/tmp", "/proc", "/dev", "/etc", "/bin", "/work"):
            os.mkdir(root + folder)
            os.chmod(root + folder, 0o777)
        with open(self.payload, "rb") as source, open(root + "/bin/payload", "wb") as target:
            target.write(source.read())
        os.chmod(root + "/bin/payload", 0o755)
        with open(root + "/etc/inside", "w", encoding="utf-8") as file:
            file.write("own root")
        return root

    def test_own_root_directory_is_all_there_is(self):
        root = self.make_root()
        spec = {"argv": ["/bin/payload", "show", "/etc/inside", "/etc/passwd"], "current_working_directory": "/"}
        run = self.run_jobs(self.job(**spec, isolation={"root": root}))
        self.assertEqual(run.out, "own root/etc/passwd ENOENT\n", str(run))
        run = self.run_jobs(self.job(argv=["/bin/payload", "write", "/etc/x"], current_working_directory="/", isolation={"root": root}))
        self.assertEqual(run.probes(), {"/etc/x": "EROFS"}, str(run))

    def test_own_root_may_be_writable(self):
        root = self.make_root()
        spec = {"argv": ["/bin/payload", "write", "/etc/x"], "current_working_directory": "/"}
        run = self.run_jobs(self.job(**spec, isolation={"root": {"path": root, "writable": True}}))
        self.assertEqual(run.probes(), {"/etc/x": "ok"}, str(run))
        self.assertTrue(os.path.exists(root + "/etc/x"))

    def test_a_mount_directly_below_an_own_root_leaves_the_files_there(self):
        root = self.make_root()
        os.rename(root + "/bin/payload", root + "/payload")
        mounts = {"mounts": [{"source": self.work, "target": "/new/data", "read_only": False}], "tmpfs": {"/scratch": "1M"}}
        spec = {"argv": ["/payload", "write", "/result", "/new/data/file"], "current_working_directory": "/"}
        run = self.run_jobs(self.job(**spec, isolation={"root": root, **mounts}))
        self.assertEqual(run.probes(), {"/result": "EROFS", "/new/data/file": "ok"}, str(run))
        self.assertEqual(set(os.listdir(root)), {"bin", "dev", "etc", "payload", "proc", "tmp", "work"})

    def test_a_long_link_directly_below_an_own_root_is_there_beside_a_new_mount(self):
        root = self.make_root()
        os.symlink("tmp/../" * 80 + "etc/inside", root + "/link")
        spec = {"argv": ["/bin/payload", "show", "/link"], "current_working_directory": "/"}
        run = self.run_jobs(self.job(**spec, isolation={"root": root, "tmpfs": {"/scratch": "1M"}}))
        self.assertEqual(run.out, "own root", str(run))

    def test_what_is_written_to_a_writable_own_root_with_a_new_mount_stays(self):
        for mode, result in ((0o777, "ok"), (0o755, "EROFS")):
            with self.subTest(mode=oct(mode)):
                root = self.make_root()
                os.chmod(root, mode)
                isolation = {"root": {"path": root, "writable": True}, "tmpfs": {"/scratch": "1M"}}
                spec = {"argv": ["/bin/payload", "write", "/result", "/work/result", "/scratch/file"], "current_working_directory": "/"}
                run = self.run_jobs(self.job(**spec, isolation=isolation))
                self.assertEqual(run.probes(), {"/result": result, "/work/result": "ok", "/scratch/file": "ok"}, str(run))
                self.assertEqual(os.path.exists(root + "/result"), result == "ok")
                self.assertTrue(os.path.exists(root + "/work/result"))
                shutil.rmtree(root)

    def test_an_overlay_over_an_own_root_takes_a_new_mount(self):
        root = self.make_root()
        os.rename(root + "/bin/payload", root + "/payload")
        for mode in (0o777, 0o755):
            os.chmod(root, mode)
            isolation = {"root": root, "overlay": True, "tmpfs": {"/scratch": "1M"}}
            spec = {"argv": ["/payload", "write", "/result", "/work/result", "/scratch/file"], "current_working_directory": "/"}
            run = self.run_jobs(self.job(**spec, isolation=isolation))
            self.assertEqual(set(run.probes().values()), {"ok"}, str(run))
            self.assertEqual(set(os.listdir(root)), {"bin", "dev", "etc", "payload", "proc", "tmp", "work"})
            self.assertEqual(os.listdir(root + "/work"), [])

    def test_berths_own_files_land_in_nothing_that_is_mounted(self):
        mine = os.path.join(self.directory, "mine")
        os.mkdir(mine)
        os.chmod(mine, 0o777)
        script = "#!/bin/sh\necho ran $0; touch /run/made 2>/dev/null"
        for target in ("/run", "/var/run") if os.path.islink("/var/run") else ("/run",):
            isolation = {"mounts": [{"source": mine, "target": target, "read_only": False}]}
            for _ in range(2):
                run = self.run_jobs(self.job(argv=None, script=script, isolation=isolation))
                self.assertEqual(run.out, "ran /run/berth/script\n", str(run))
                self.assertEqual((set(os.listdir(mine)), os.listdir(mine + "/berth")), ({"berth", "made"}, []))
        isolation["mounts"][0]["read_only"] = True
        run = self.run_jobs(self.job(argv=None, script=script, isolation=isolation))
        self.assertEqual(run.out, "ran /run/berth/script\n", str(run))
        os.rmdir(mine + "/berth")
        run = self.run_jobs(self.job(argv=None, script=script, isolation=isolation))
        self.assertIn("make that folder in what is at /run", run.outcome["message"])
        isolation = {"mounts": [{"source": mine, "target": "/run/berth", "read_only": False}]}
        run = self.run_jobs(self.job(argv=None, script=script, isolation=isolation))
        self.assertIn("berth's own files for the job are there", run.outcome["message"])
        self.assert_state(self.run_job("exit", 0, isolation=isolation), "COMPLETED")
        isolation = {"tmpfs": {"/run": "1M"}}
        self.assertEqual(self.run_jobs(self.job(argv=None, script=script, isolation=isolation)).out, "ran /run/berth/script\n")

    def test_a_script_in_an_own_root_needs_a_run_folder(self):
        root = self.make_root()
        script = "#!/bin/payload show\nwords"
        spec = {"argv": None, "script": script, "current_working_directory": "/"}
        self.assert_refused(self.run_jobs(self.job(**spec, isolation={"root": root})), f"there is no {root}/run")
        os.mkdir(root + "/run")
        for isolation in ({"root": root}, {"root": {"path": root, "writable": True}}):
            self.assertIn("words", self.run_jobs(self.job(**spec, isolation=isolation)).out)
        os.rmdir(root + "/run")
        os.makedirs(root + "/var/run")
        os.chmod(root + "/var/run", 0o777)
        os.symlink("var/run", root + "/run")
        for _ in range(2):
            run = self.run_jobs(self.job(**spec, isolation={"root": {"path": root, "writable": True}}))
            self.assertIn("words", run.out, str(run))
            self.assertEqual(os.listdir(root + "/var/run/berth"), [])
        mine = os.path.join(self.directory, "mine")
        os.mkdir(mine)
        isolation = {"root": {"path": root, "writable": True}, "mounts": [{"source": mine, "target": "/run/berth"}]}
        run = self.run_jobs(self.job(**spec, isolation=isolation))
        self.assertIn("berth's own files for the job are there", run.outcome["message"])

    def test_a_job_may_bring_the_run_folder_of_its_own_root(self):
        spec = {"argv": None, "script": "#!/bin/payload show\nwords", "current_working_directory": "/"}
        root = self.make_root()
        for target in ("/run", "/new"):
            run = self.run_jobs(self.job(**spec, isolation={"root": root, "tmpfs": {target: "1M"}}))
            self.assertIn("words", run.out, str(run))

    def test_a_tmpfs_takes_no_place_of_berths_own_files(self):
        for target in ("/run/berth", "/run/berth/script"):
            run = self.run_jobs(self.job(argv=None, script="#!/bin/sh\ntrue", isolation={"tmpfs": {target: "1M"}}))
            self.assertIn("berth's own files for the job are there", run.outcome["message"])

    def test_links_in_an_own_root_do_not_lead_out(self):
        root = self.make_root()
        os.symlink(self.work, root + "/etc/out")
        os.rmdir(root + "/work")
        os.symlink("../../../../../.." + self.work, root + "/work")
        spec = {"argv": ["/bin/payload", "write", "/etc/out/victim", "/work/victim"], "current_working_directory": "/tmp"}
        isolation = {"root": {"path": root, "writable": True}}
        run = self.run_jobs(self.job(**spec, isolation=isolation))
        self.assertEqual(run.probes(), {"/etc/out/victim": "ENOENT", "/work/victim": "ENOENT"}, str(run))
        self.assertEqual(os.listdir(self.work), [], str(run))
        run = self.run_jobs(self.job(**spec, isolation={**isolation, "tmpfs": {"/work/inner": "1M"}}))
        self.assert_state(run, "FAILED", "launch_failed", 125)
        self.assertIn("cannot mount at /work/inner", run.outcome["message"])
        self.assertEqual(os.listdir(self.work), [], str(run))

    def test_no_link_of_an_own_root_leads_a_mount_into_proc_sys_or_dev(self):
        root = self.make_root()
        os.mkdir(root + "/sys")
        for name, target in (("p", "/proc"), ("s", "../sys"), ("d", "dev"), ("whole", "/"), ("fine", "etc")):
            os.symlink(target, f"{root}/{name}")
        spec = {"argv": ["/bin/payload", "list", "/fine"], "current_working_directory": "/"}
        for target in ("/p", "/p/sys", "/p/self/fd", "/s", "/d", "/d/null", "/d/shm", "/whole", "/p/1/root/etc"):
            source = "/etc/passwd" if target == "/d/null" else self.work
            isolation = {"root": {"path": root, "writable": True}, "mounts": [{"source": source, "target": target}]}
            with self.subTest(target=target):
                run = self.run_jobs(self.job(**spec, isolation=isolation))
                self.assertEqual(run.status, 125, str(run))
                self.assertIn(f"cannot mount at {target}: links in the job's root lead to / itself, into /proc", run.outcome["message"])
        isolation = {"root": {"path": root, "writable": True}, "mounts": [{"source": self.work, "target": "/fine"}]}
        self.assertEqual(self.run_jobs(self.job(**spec, isolation=isolation)).status, 0)

    def test_links_of_an_own_root_in_place_of_private_folders_stay_inside(self):
        root = self.make_root()
        os.mkdir(root + "/var")
        os.symlink("/tmp", root + "/var/tmp")
        os.symlink("../../../.." + self.work, root + "/home")
        os.symlink("/proc/1/root", root + "/root")
        run = self.run_jobs(
            self.job(
                argv=["/bin/payload", "write", "/var/tmp/file", "/home/file", "/root/etc/file"],
                current_working_directory="/tmp",
                isolation={"root": {"path": root, "writable": True}},
            )
        )
        self.assertEqual(run.probes()["/var/tmp/file"], "ok", str(run))
        self.assertEqual(os.listdir(self.work), [])
        self.assertEqual(os.listdir(root + "/tmp"), [], "its /tmp is the job's own")

    def test_overlay_takes_writes_and_throws_them_away(self):
        run = self.run_job("write", "/opt/berth-marker", "/etc/berth-marker", "/berth-marker", isolation={"overlay": True})
        results = run.probes()
        self.assertEqual(set(results.values()), {"ok"}, str(run))
        for path in results:
            self.assertFalse(os.path.exists(path))

    def test_overlay_gives_no_rights_that_the_user_lacks(self):
        for user in ({}, {"user": "0"}):
            run = self.run_job("write", "/usr/local/share/berth-marker", "/etc/passwd", isolation={"overlay": True, **user})
            self.assertEqual(set(run.probes().values()), {"EACCES"}, str(run))

    def test_overlay_over_an_own_root_leaves_it_as_it_was(self):
        root = self.make_root()
        run = self.run_jobs(
            self.job(argv=["/bin/payload", "write", "/etc/new", "/etc/inside"], current_working_directory="/",
                     isolation={"root": root, "overlay": True})
        )
        self.assertEqual(run.probes()["/etc/new"], "ok", str(run))
        self.assertFalse(os.path.exists(root + "/etc/new"))
        self.assertEqual(read(root + "/etc/inside"), "own root")

    def test_time_offset_moves_the_jobs_clocks(self):
        report, _ = self.report(isolation={"time_offset": {"monotonic": 86400, "boottime": 172800}})
        own = float(read("/proc/uptime").split()[0])
        self.assertGreater(report["monotonic"], own + 86000)
        self.assertGreater(report["boottime"], own + 172000)

    def test_standard_input_is_empty_or_the_named_file(self):
        path = os.path.join(self.directory, "input")
        with open(path, "w", encoding="utf-8") as file:
            file.write("given\n")
        run = self.run_job("copy_input", standard_input=path)
        self.assertEqual(run.out, "given\n", str(run))
        run = self.run_job("copy_input")
        self.assertEqual(run.out, "")

    def test_output_files_and_their_patterns(self):
        run = self.run_job("print_both", standard_output=self.work + "/%j-%x.out", standard_error=self.work + "/%A.err")
        self.assertEqual(read(self.work + "/1-print_both.out"), "to output\n", str(run))
        self.assertEqual(read(self.work + "/1.err"), "to error\n")
        self.assertEqual(run.out, "")


if __name__ == "__main__":
    sys.exit(main())
