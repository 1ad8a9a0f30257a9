"""Limits: what the kernel was told before the job's first instruction, and that it holds."""

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import stat
import subprocess
import time

from berth_case import BerthCase, cgroup_name, eventually, hierarchies, main, natively, own_cgroups, processes, read


def block_devices():
    return sorted(path for path in glob.glob("/dev/[vsx]d[a-z]") + glob.glob("/dev/nvme0n1") + glob.glob("/dev/loop0") if stat.S_ISBLK(os.stat(path).st_mode))


class Limits(BerthCase):
    def hold(self, **spec):
        """A job that sleeps under these limits: its pid on the host."""
        self.process = self.run_start(self.job("hold", 1000, **spec))
        return self.wait_for_job(self.process)[0]

    def end(self):
        self.process.terminate()
        run = self.run_finish(self.process)
        self.assert_state(run, "CANCELLED")
        return run

    def limit(self, pid, controller, v1_name, v2_name):
        """The text of a limit's control file, whichever version this controller has here."""
        folder = self.cgroup_of(pid, controller)
        name = v1_name
        if folder is None:
            folder, name = self.cgroup_of(pid, "unified"), v2_name
        path = os.path.join(folder or "", name)
        if folder is None or not os.path.exists(path):
            self.skip(f"no controller {controller} on this machine")
        with open(path, encoding="utf-8") as file:
            return file.read().strip()

    def test_memory_that_is_too_little_for_the_set_up_is_refused(self):
        self.assert_refused(self.run_job("exit", 0, memory_per_node="255K"), "/memory_per_node", "at least 256K")
        self.assert_refused(self.run_job("exit", 0, memory_per_node=None, arguments=["--memory", "100K"]), "--memory", "a share of at least 256K")

    def test_job_is_in_its_own_cgroup_of_every_hierarchy(self):
        pid = self.hold()
        unified = self.cgroup_of(pid, "unified") or ""
        # The v2 tree, even a bare one, counts CPU time and kills: then v1's own trees are not needed for it.
        spare = {"cpuacct": "cpu.stat", "freezer": "cgroup.kill"}
        for controller in ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "unified"):
            folder = self.cgroup_of(pid, controller)
            if folder is not None and not os.path.exists(f"{unified}/{spare.get(controller, 'none')}"):
                with self.subTest(controller=controller):
                    self.assertRegex(folder, rf"/berth/{cgroup_name(self.process.pid)}(-\d+)?/(job-1\.1|armed-\d+)$")
        self.end()

    def test_cgroup_namespace_hides_the_path(self):
        report, _ = self.report()
        for line in report["cgroup"].splitlines():
            number, controllers, path = line.split(":", 2)
            if controllers != "name=systemd":
                self.assertEqual(path, "/", line)

    def test_init_and_job_share_the_cgroup_and_berth_is_outside(self):
        pid = self.hold()
        folder = self.cgroup_of(pid, "pids") or self.cgroup_of(pid, "unified")
        with open(folder + "/cgroup.procs", encoding="utf-8") as file:
            members = {int(line) for line in file}
        self.assertIn(pid, members)
        self.assertNotIn(self.process.pid, members)
        self.end()

    def test_memory_and_swap(self):
        pid = self.hold(memory_per_node="64M")
        self.assertEqual(int(self.limit(pid, "memory", "memory.limit_in_bytes", "memory.max")), 64 << 20)
        folder = self.cgroup_of(pid, "memory")
        both = os.path.join(folder, "memory.memsw.limit_in_bytes") if folder else None
        if both and os.path.exists(both):
            self.assertEqual(int(read(both)), 64 << 20, "swap is 0 unless asked for")
        self.end()

    def test_swap_is_added_to_memory_or_refused(self):
        # The root of the v2 tree has no memory.swap.max, though its children have.
        on_v1 = any("memory" in options.split(",") for _, options in hierarchies())
        accounted = os.path.exists("/proc/swaps") and (
            not on_v1 or any(os.path.exists(f"{own}/memory.memsw.limit_in_bytes") for own in own_cgroups())
        )
        if not accounted:
            run = self.run_job("exit", 0, limits={"swap": "32M"})
            self.assert_refused(run, "limits.swap", "swapaccount")
            return
        pid = self.hold(memory_per_node="64M", limits={"swap": "32M"})
        self.assertIn(
            int(self.limit(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")), (96 << 20, 32 << 20)
        )
        self.end()

    def test_memory_high_is_written_or_refused_on_v1(self):
        if self.memory_is_v1():
            self.assert_refused(self.run_job("exit", 0, limits={"memory_high": "32M"}), "limits.memory_high", "v2")
            return
        pid = self.hold(memory_per_node="64M", limits={"memory_high": "32M"})
        self.assertEqual(self.limit(pid, "memory", "", "memory.high"), str(32 << 20))
        self.end()
        run = self.run_job("allocate", 48, memory_per_node="128M", limits={"memory_high": "32M", "swap": "64M"})
        self.assert_state(run, "COMPLETED")
        self.assertLess(run.usage["memory_peak"], 48 << 20, "what is beyond went to swap")

    def test_hits_of_the_memory_limit_by_page_cache_are_not_recorded_as_none(self):
        path = os.path.join(self.work, "holes")
        with open(path, "wb") as file:
            file.truncate(256 << 20)
        run = self.run_jobs(self.job(argv=["sh", "-c", 'cat "$0" >/dev/null', path], memory_per_node="64M"))
        self.assert_state(run, "COMPLETED")
        if run.usage["memory_peak"] < 60 << 20:
            self.skip("reading a file of this file system charges nothing")
        self.assertNotEqual(run.usage.get("memory_limit_hits"), 0, str(run.usage))

    def test_oom_group_ends_the_whole_job_or_is_refused_on_v1(self):
        if self.memory_is_v1():
            self.assert_refused(self.run_job("exit", 0, limits={"oom_group": True}), "limits.oom_group", "v2")
            return
        run = self.run_job("memory_bomb_child", memory_per_node="32M")
        self.assert_state(run, "COMPLETED")
        self.assertEqual(run.out, "child signal 9\n")
        run = self.run_job("memory_bomb_child", memory_per_node="32M", limits={"oom_group": True})
        self.assert_state(run, "OUT_OF_MEMORY", "out_of_memory", 137)
        self.assertEqual(run.outcome["limit"]["name"], "memory_per_node", run)

    @staticmethod
    def memory_is_v1():
        return any("memory" in options.split(",") for _, options in hierarchies())

    def test_cpuset_has_the_leased_cpus_and_nodes(self):
        pid = self.hold(cpus_per_task=1)
        cpus = self.limit(pid, "cpuset", "cpuset.cpus", "cpuset.cpus")
        nodes = self.limit(pid, "cpuset", "cpuset.mems", "cpuset.mems")
        run = self.end()
        self.assertEqual(cpus, run.record["allocation"]["cpus"])
        self.assertEqual(nodes, run.record["allocation"]["memory_nodes"])
        self.assertEqual(run.record["allocation"]["cpu_count"], 1)

    def test_affinity_is_the_lease_whatever_berths_own_was(self):
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            self.skip("one CPU only")
        report, run = self.report(arguments=["--cpus", str(cpus[1])])
        self.assertEqual(report["affinity"], [cpus[1]])
        self.assertEqual(report["status"]["Cpus_allowed_list"], str(cpus[1]))
        process = self.run_start(
            self.job("report", cpus_per_task=2), program=["taskset", "-c", str(cpus[0])], arguments=["--cpus", f"{cpus[0]},{cpus[1]}"]
        )
        run = self.run_finish(process)
        # Its affinity is the machine for it: it refuses, and does not run narrow.
        self.assert_refused(run, "--cpus", str(cpus[1]))

    def test_quota_and_weight(self):
        pid = self.hold(limits={"cpu_quota": 0.5, "cpu_weight": 200})
        text = self.limit(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")
        period = self.limit(pid, "cpu", "cpu.cfs_period_us", "cpu.max").split()[-1]
        self.assertAlmostEqual(int(text.split()[0]) / int(period), 0.5)
        self.assertIn(int(self.limit(pid, "cpu", "cpu.shares", "cpu.weight")), (2048, 200))
        self.end()

    def test_quota_throttles_and_is_counted(self):
        run = self.run_job("spin_for", 2, limits={"cpu_quota": 0.05})  # which it gets on a busy machine too
        self.assert_state(run, "COMPLETED")
        self.assertLess(run.usage["cpu_total_usec"], 1_000_000)
        self.assertGreater(run.usage["throttled_periods"], 0)
        self.assertGreater(run.usage["throttled_time_usec"], 0)

    def test_pids(self):
        pid = self.hold(limits={"pids": 17})
        self.assertEqual(self.limit(pid, "pids", "pids.max", "pids.max"), "18", "17 of the job's, and berth's init")
        self.end()
        run = self.run_job("fork", 50, limits={"pids": 20})
        self.assertEqual(run.out, "children 19 EAGAIN\n")
        self.assertGreater(run.usage["pids_limit_hits"], 0)
        self.assertEqual(run.usage["pids_peak"], 20)

    def test_a_limit_of_one_process_is_the_jobs_own(self):
        run = self.run_job("fork", 1, limits={"pids": 1})
        self.assertEqual((run.status, run.out), (0, "children 0 EAGAIN\n"), run)
        self.assertEqual(self.run_job("exit", 0, limits={"pids": 4194304}).status, 0)

    def test_pids_default_is_4096(self):
        pid = self.hold()
        self.assertEqual(self.limit(pid, "pids", "pids.max", "pids.max"), "4097")
        self.end()

    def test_devices_are_denied_but_for_the_harmless(self):
        pid = self.hold()
        folder = self.cgroup_of(pid, "devices")
        if folder is None:
            results = self.opens_in(self.cgroup_of(pid, "unified"), "/dev/null", "/dev/zero", "/dev/urandom", "/dev/kmsg", *block_devices())
            self.end()
            allowed = {path for path, error in results.items() if error == 0}
            self.assertEqual(allowed, {"/dev/null", "/dev/zero", "/dev/urandom"}, results)
            self.assertEqual({results[path] for path in set(results) - allowed}, {errno.EPERM}, results)
            return
        rows = sorted(read(os.path.join(folder, "devices.list")).splitlines())
        self.end()
        allowed = {re.match(r"([abc]) (\S+) ", row).group(2) for row in rows}
        self.assertEqual(allowed, {"1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2", "136:*"})
        self.assertTrue(all(row.startswith("c ") for row in rows), rows)

    def opens_in(self, folder, *paths):
        """What open(2) says to root in that cgroup, as path -> errno: cgroup v2 has no file that lists the devices."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with open(os.path.join(folder, "cgroup.procs"), "w", encoding="ascii") as file:
                file.write("0")
            results = {}
            for path in paths:
                try:
                    os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                    results[path] = 0
                except OSError as error:
                    results[path] = error.errno
            os.write(writer, json.dumps(results).encode())
            os._exit(0)
        os.close(writer)
        with open(reader, encoding="ascii") as file:
            text = file.read()
        os.waitpid(child, 0)
        return json.loads(text)

    def test_named_device_is_allowed_and_there(self):
        if not os.path.exists("/dev/kvm") and not os.path.exists("/dev/fuse") and not os.path.exists("/dev/net/tun"):
            self.skip("none of /dev/fuse, /dev/kvm, /dev/net/tun is here")
        device = next(path for path in ("/dev/fuse", "/dev/kvm", "/dev/net/tun") if os.path.exists(path))
        number = os.stat(device).st_rdev
        run = self.run_job("stat", device, isolation={"devices": [device]})
        self.assertIn(f"rdev={os.major(number)}:{os.minor(number)}", run.out, str(run))
        run = self.run_job("stat", device)
        self.assertIn("ENOENT", run.out, str(run))

    def test_io_limits(self):
        devices = block_devices()
        if not devices:
            self.skip("no block device")
        number = os.stat(devices[0]).st_rdev
        key = f"{os.major(number)}:{os.minor(number)}"
        limits = {"io": [{"device": devices[0], "read_bps": "10M", "write_bps": 2000000, "read_iops": 100, "write_iops": 50}]}
        pid = self.hold(limits=limits)
        if self.cgroup_of(pid, "blkio") is None:
            self.assertIn(f"{key} rbps=10485760 wbps=2000000 riops=100 wiops=50", self.limit(pid, "io", "", "io.max"))
        else:
            for name, value in (("read_bps", 10 << 20), ("write_bps", 2000000), ("read_iops", 100), ("write_iops", 50)):
                self.assertIn(f"{key} {value}", self.read_control(pid, "blkio", f"blkio.throttle.{name}_device").splitlines())
        self.end()

    def test_io_limit_of_what_is_no_block_device_is_refused(self):
        run = self.run_jobs(self.job("exit", 0, limits={"io": [{"device": "/dev/null", "read_bps": 1}]}))
        self.assert_refused(run, "limits", "/dev/null")

    def test_net_class_is_set_or_refused_by_name(self):
        run = self.run_job("hold", 0.2, limits={"net_class": "10:1"})
        if run.status == 125:
            self.assert_refused(run, "limits.net_class")
            self.skip("this kernel has no net_cls: " + run.err.strip().splitlines()[-1])
        self.assert_state(run, "COMPLETED")
        pid = self.hold(limits={"net_class": "10:1"})
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            self.assertRegex(file.read(), r":net_cls[^:]*:\S*/berth/run-")
        self.end()

    def test_hugetlb_is_limited_or_refused_by_name(self):
        sizes = [os.path.basename(path) for path in glob.glob("/sys/kernel/mm/hugepages/hugepages-2048kB")]
        run = self.run_job("hugepages", 4, limits={"hugetlb": {"2MB": "2M"}})
        if run.status == 125:
            self.assert_refused(run, "limits.hugetlb")
            self.skip("no hugetlb here: " + run.err.strip().splitlines()[-1])
        self.assertTrue(sizes)
        self.assertNotEqual(run.out, "hugepages ok\n", "4 MB of huge pages under a limit of 2 MB")

    def test_unknown_huge_page_size_is_refused(self):
        run = self.run_job("exit", 0, limits={"hugetlb": {"3MB": "3M"}})
        self.assertEqual(run.status, 125, str(run))
        self.assertIn("hugetlb", run.err + str(run.records))

    def test_more_than_berth_itself_may_have_is_refused_before_anything_runs(self):
        first, second = self.job("exit", 0), self.job("exit", 0, limits={"open_files": 2000})
        path = self.job_file(first, second)
        words = ("run", "--database", self.database, path)
        status, _, err = self.berth(*words, program=("prlimit", "--nofile=1000:1000"))
        self.assertEqual(status, 125)
        self.assertIn("limits.open_files: 2000 is more than berth itself may have, 1000", err)
        status, _, err = self.berth("run", "--database", self.database, "--hugetlb", "3MB=3M", "--", "true")
        self.assertEqual(status, 125)
        self.assertIn("--hugetlb: this machine has no huge pages of 3MB", err)
        self.assertFalse(os.path.exists(self.database))

    def test_resource_limits(self):
        report, _ = self.report(
            limits={"open_files": 100, "file_size": "1M", "core_size": 4096, "stack_size": "1M", "locked_memory": "64K"}
        )
        limits = report["limits"]
        self.assertEqual(limits["nofile"], [100, 100])
        self.assertEqual(limits["fsize"], [1 << 20, 1 << 20])
        self.assertEqual(limits["core"], [4096, 4096])
        self.assertEqual(limits["stack"], [1 << 20, 1 << 20])
        self.assertEqual(limits["memlock"], [65536, 65536])

    def test_core_dumps_are_off_unless_asked_for(self):
        for limits in ({}, {"core_size": 0}):
            report, _ = self.report(limits=limits)
            self.assertEqual(report["limits"]["core"], [1, 1], "for 0 a pipe's helper would be run")
        status, out, err = self.berth("run", "--database", self.database, "--", "sh", "-c", "ulimit -c; ulimit -H -c",
                                      program=("prlimit", "--core=0:0"))
        self.assertEqual((status, out), (0, "0\n0\n"), err)
        self.run_jobs(self.job(argv=["sh", "-c", "kill -SEGV $$"]))
        self.assertEqual(os.listdir(self.work), [])

    def test_file_size_limit_is_sigxfsz(self):
        run = self.run_job("fill", self.work, limits={"file_size": "1M"})
        self.assert_state(run, "FAILED", "signalled", 128 + 25)
        self.assertEqual(os.path.getsize(self.work + "/fill"), 1 << 20)

    def test_tmpfs_size_is_that_of_the_private_folders(self):
        run = self.run_job("stat", "/tmp", "/var/tmp", "/run", "/dev/shm", limits={"tmpfs": "16M"})
        for row in run.out.splitlines():
            self.assertIn(f"size={16 << 20}", row)
            self.assertIn("read_only=0", row)

    def test_limit_above_the_pool_is_refused(self):
        run = self.run_jobs(self.job("exit", 0, memory_per_node="100P"))
        self.assert_refused(run, "jobs-")

    def test_limits_hold_for_each_of_two_jobs_at_once(self):
        if len(os.sched_getaffinity(0)) < 2:
            self.skip("one CPU only")
        run = self.run_jobs(
            self.job("memory_bomb", name="bomb", memory_per_node="32M"), self.job("allocate", 40, 1, name="calm", memory_per_node="64M")
        )
        self.assertEqual(run.by_name("bomb")["state"], "OUT_OF_MEMORY")
        self.assertEqual(run.by_name("calm")["state"], "COMPLETED")
        self.assertEqual(run.by_name("calm")["usage"]["oom_kills"], 0)


class Uninterruptible(BerthCase):
    def own_file_system(self):
        """A folder on a file system of its own, and the device that this is on."""
        image, folder = os.path.join(self.directory, "image"), os.path.join(self.directory, "mounted")
        os.mkdir(folder)
        with open(image, "wb") as file:
            file.truncate(16 << 20)
        for command in (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder]):
            if not shutil.which(command[0]) or subprocess.run(command, check=False, capture_output=True).returncode != 0:
                self.skip(f"{command[0]} does not work here")
        self.addCleanup(subprocess.run, ["umount", "-q", folder], check=False, stderr=subprocess.DEVNULL)
        os.chmod(folder, 0o777)
        number = os.stat(folder).st_dev
        return folder, f"/dev/loop{os.minor(number)}"

    @natively
    def test_a_process_in_uninterruptible_sleep_holds_up_no_other_job_on_cgroup_v1(self):
        unified = [mount for mount, options in hierarchies() if options == "unified"]
        controllers = {name for _, options in hierarchies() for name in options.split(",")}
        if not {"freezer", "blkio"} <= controllers:
            self.skip("freezer and blkio are not in cgroup v1 here")
        folder, device = self.own_file_system()
        output = os.path.join(self.work, "slowly.out")
        # One direct write, which its limit makes take 32 s: as long it sleeps, and neither freezes nor dies.
        stuck = self.job(name="stuck", time_limit="3s", grace_period="100ms", limits={"io": [{"device": device, "write_bps": 2048}]},
                         isolation={"mounts": [{"source": folder, "target": "/data", "read_only": False}]})
        stuck["argv"] = ["dd", "if=/dev/zero", "of=/data/file", "bs=64k", "count=1", "oflag=direct"]
        slowly = self.job("print_slowly", 100000, 0.05, standard_output=output)
        without_v2 = "".join(f"umount {mount} && " for mount in unified) + 'exec "$0" "$@"'
        process = self.run_start(stuck, slowly, program=["unshare", "-m", "sh", "-c", without_v2])
        self.assertTrue(eventually(lambda: self.stuck() == ["D"] and os.path.exists(output) and os.path.getsize(output) > 0, 30))
        goes_on = self.goes_on_for(output, 18)
        self.assertEqual(self.stuck(), ["D"], "nothing has been tested")
        self.assertTrue(goes_on, "the other job's output was not passed on for seconds")
        self.assertTrue(eventually(lambda: not self.stuck(), 60))
        process.terminate()
        run = self.run_finish(process)
        subprocess.run(["umount", folder], check=True)
        self.assertEqual((run.by_name("stuck")["state"], run.by_name("print_slowly")["state"]), ("TIMEOUT", "CANCELLED"), str(run))

    @staticmethod
    def stuck():
        """States of the processes that write there."""
        states = []
        for pid, (_, _, command) in processes().items():
            if command.startswith("dd if=/dev/zero of=/data/file "):
                with contextlib.suppress(OSError):
                    states.append(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0])
        return states

    @staticmethod
    def goes_on_for(path, seconds):
        """Whether the file grows all the time."""
        last = time.monotonic()
        end = last + seconds
        size = os.path.getsize(path)
        while time.monotonic() < end and time.monotonic() - last < 5:
            if os.path.getsize(path) != size:
                size, last = os.path.getsize(path), time.monotonic()
            time.sleep(0.05)
        return time.monotonic() >= end


if __name__ == "__main__":
    main()
