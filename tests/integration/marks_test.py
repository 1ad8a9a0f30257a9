"""The administrator's firewall rules match the packets of a job: by net_cls and, on cgroup v2, by its cgroup. The rules
are those of docs/cgroups.md, word for word."""

import os
import re
import shutil
import subprocess

from berth_case import SOURCE, BerthCase, eventually, hierarchies, main, read

PAGE = os.path.join(SOURCE, "docs/cgroups.md")


class Marks(BerthCase):
    def setUp(self):
        super().setUp()
        if shutil.which("nft") is None:
            self.skip("no nft here: apt-get install nftables")
        # In a network namespace of its own: a kernel without nf_tables, or without the needed module, says so here.
        probe = "table inet probe { chain output { type filter hook output priority 0; meta cgroup 1 counter; }; }"
        done = subprocess.run(["unshare", "--net", "nft", probe], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.skip("this kernel takes no nftables rules: " + done.stderr.strip().splitlines()[0])

    def example(self, word):
        """The block of docs/cgroups.md that has this word."""
        blocks = re.findall(r"```nft\n(.*?)```", read(PAGE), re.DOTALL)
        return next(block for block in blocks if word in block)

    def counted(self, rules, **spec):
        """Packets that the rules counted of a job and, beforehand, of a process beside it in the same namespace."""
        script = "echo > ready; while [ ! -e go ]; do sleep 0.1; done; ./../payload loopback 4711; echo > done; sleep 1000"
        job = self.job(name="talker", argv=["/bin/sh", "-c", script], **spec)
        process = self.run_start(job)
        self.assertTrue(eventually(lambda: os.path.exists(self.work + "/ready") or process.poll() is not None, 30))
        if process.poll() is not None:
            return None, self.run_finish(process)
        shell = next(pid for pid in self.children_of(process) if "go ]" in self.command_of(pid))
        inside = ["nsenter", f"--net=/proc/{shell}/ns/net"]
        path = next(row for row in read(f"/proc/{shell}/cgroup").splitlines() if row.startswith("0::")).removeprefix("0::/") if "cgroupv2" in rules else ""
        rules = rules.replace("berth/run-1234-5678/job-1.1", path)
        subprocess.run([*inside, "nft", "-f", "-"], input=rules, text=True, check=True)
        subprocess.run([*inside, self.payload, "loopback", "4712"], check=True, stdout=subprocess.DEVNULL)
        before = self.packets(inside)
        with open(self.work + "/go", "w", encoding="ascii"):
            pass
        self.assertTrue(eventually(lambda: os.path.exists(self.work + "/done"), 30))
        after = self.packets(inside)
        process.terminate()
        self.run_finish(process)
        return (before, after), None

    def children_of(self, process):
        mark = f"/berth/run-{process.pid}-"
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    if mark in read(f"/proc/{name}/cgroup"):
                        yield int(name)
                except OSError:
                    continue

    @staticmethod
    def command_of(pid):
        try:
            return read(f"/proc/{pid}/cmdline")
        except OSError:
            return ""

    def packets(self, inside):
        out = subprocess.run([*inside, "nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        return int(re.search(r"counter packets (\d+)", out).group(1))

    def check(self, counted):
        before, after = counted
        self.assertEqual(before, 0, "a process that is in no job is not matched")
        self.assertGreater(after, 0)

    def test_packets_of_a_net_class_are_matched(self):
        counted, run = self.counted(self.example("meta cgroup"), limits={"net_class": "10:1"})
        if counted is None:
            self.assert_refused(run, "limits.net_class")
            self.skip("this kernel has no net_cls: " + run.err.strip().splitlines()[-1])
        self.check(counted)

    def test_packets_of_a_v2_cgroup_are_matched(self):
        if not any(mount == "/sys/fs/cgroup" and kind == "unified" for mount, kind in hierarchies()):
            self.skip("cgroup v2 is not at /sys/fs/cgroup, where nft looks; scripts/guest boots a machine with v2 alone")
        self.check(self.counted(self.example("socket cgroupv2"))[0])


if __name__ == "__main__":
    main()
