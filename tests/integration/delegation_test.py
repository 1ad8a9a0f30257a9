"""Delegation: what an ordinary user's berth may do on a machine with cgroup v2 alone, where a subtree was given to the
user and where none was. The same rules hold for root in a cgroup that is not the tree's root."""

import contextlib
import glob
import json
import os
import subprocess

from berth_case import BerthCase, eventually, hierarchies, main, read

USER = 4243
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
FILES = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")


class OnV2Alone(BerthCase):
    """A machine whose cgroups nobody else manages."""

    def setUp(self):
        if any(kind != "unified" for _, kind in hierarchies() if not kind.endswith("name=systemd")):
            self.skip("a cgroup v1 hierarchy is mounted; scripts/guest boots a machine without")
        if os.path.exists("/run/systemd/system"):
            self.skip("systemd owns the cgroups of this machine; scripts/guest boots a machine without")
        super().setUp()

    def pass_on(self, folder, controllers=CONTROLLERS, sign="+"):
        with open(folder + "/cgroup.subtree_control", "w", encoding="ascii") as file:
            file.write(" ".join(sign + name for name in controllers))

    @staticmethod
    def remove(top):
        for folder, _, _ in sorted(os.walk(top), reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


class Delegation(OnV2Alone):
    only_user = USER

    def setUp(self):
        super().setUp()
        self.mount = next(mount for mount, kind in hierarchies() if kind == "unified")
        self.given = os.path.join(self.mount, f"berth-test-{os.getpid()}", "user")
        parent = os.path.dirname(self.given)
        os.makedirs(parent)
        for folder in (self.mount, parent):
            self.pass_on(folder)
        os.mkdir(self.given)
        for path in ("", *FILES):
            os.chown(os.path.join(self.given, path), USER, USER)
        self.addCleanup(self.take_back)
        os.mkdir(os.path.join(self.directory, "state"))
        os.chown(os.path.join(self.directory, "state"), USER, USER)

    def take_back(self):
        self.remove(os.path.dirname(self.given))

    def as_user(self, *jobs, cgroup=None, **options):
        """berth run by the user, born in `cgroup`."""
        return self.run_start(*jobs, program=self.inside_program(cgroup), **options)

    def inside_program(self, cgroup=None):
        script = 'echo $$ >"$0/cgroup.procs" && exec setpriv --reuid=%d --regid=%d --clear-groups "$@"' % (USER, USER)
        return ["sh", "-c", script, cgroup or self.given]

    def inside(self):
        return sorted(folder for folder, _, _ in os.walk(self.given))

    def test_limits_hold_in_a_delegated_subtree(self):
        process = self.as_user(self.job("hold", 1000, memory_per_node="64M", limits={"pids": 33, "cpu_quota": 0.5, "cpu_weight": 200}))
        pid = self.wait_for_job(process)[0]
        folder = self.cgroup_of(pid, "unified")
        self.assertTrue(folder.startswith(self.given + "/berth/run-"), folder)
        written = {name: read(f"{folder}/{name}").strip() for name in ("memory.max", "pids.max", "cpu.max", "cpu.weight")}
        # pids: the job's 33, and berth's init
        self.assertEqual(written, {"memory.max": str(64 << 20), "pids.max": "34", "cpu.max": "50000 100000", "cpu.weight": "200"})
        process.terminate()
        self.assert_state(self.run_finish(process), "CANCELLED")

    def test_the_subtree_is_left_as_it_was_found_and_serves_again(self):
        for _ in range(3):
            run = self.run_finish(self.as_user(self.job("exit", 0)))
            self.assert_state(run, "COMPLETED")
            self.assertEqual(self.inside(), [self.given])
            self.assertEqual(read(self.given + "/cgroup.subtree_control").strip(), "")

    def test_without_cpuset_jobs_keep_to_their_cpus_by_affinity_and_doctor_says_so(self):
        # What systemd gives to users by default, and io and cpu: cpuset is the one that lacks.
        self.pass_on(os.path.dirname(self.given), ["cpuset"], "-")
        cpu = max(os.sched_getaffinity(0))
        process = self.as_user(self.job("report", memory_per_node="64M"), arguments=["--cpus", str(cpu)])
        run = self.run_finish(process)
        self.assert_state(run, "COMPLETED")
        self.assertEqual(json.loads(run.out)["affinity"], [cpu])
        _, out, _ = self.finish(self.start("doctor", program=self.inside_program()))
        rows = out.splitlines()
        number = next(i for i, row in enumerate(rows) if "controller cpuset" in row)
        self.assertIn("was not given it by its parent", rows[number])
        self.assertIn("Delegate=cpu cpuset", rows[number + 1])

    def test_partitions_that_the_delegation_does_not_permit_are_plain_cpusets_with_a_warning(self):
        cpu = max(os.sched_getaffinity(0))
        arguments = ["--slots-partition", "root", "--cpus", str(cpu)]
        run = self.run_finish(self.as_user(self.job("report"), arguments=arguments))
        self.assert_state(run, "COMPLETED")
        self.assertEqual(json.loads(run.out)["affinity"], [cpu])
        self.assertIn("is no partition root itself", run.err)

    def test_a_limit_of_the_subtree_is_named_when_it_kills(self):
        with open(self.given + "/memory.max", "w", encoding="ascii") as file:
            file.write(str(64 << 20))
        with open(self.given + "/memory.swap.max", "w", encoding="ascii") as file:
            file.write("0")
        # berth itself is charged to the subtree too, so that its limit is reached before the job's.
        run = self.run_finish(self.as_user(self.job("memory_bomb", memory_per_node="63M"), arguments=["--memory", "63M"]))
        self.assert_state(run, "OUT_OF_MEMORY", "out_of_memory", 137)
        self.assertEqual(run.outcome["limit"]["name"], "ancestor memory limit", str(run))
        self.assertEqual(run.outcome["limit"]["cgroup"], self.given[len(self.mount):], str(run))

    def test_verdict_names_the_delegated_cgroup(self):
        run = self.run_finish(self.as_user(self.job("memory_bomb", memory_per_node="32M")))
        self.assert_state(run, "OUT_OF_MEMORY", "out_of_memory", 137)
        self.assertTrue(run.outcome["limit"]["cgroup"].startswith(self.given[len(self.mount):] + "/berth/"), str(run))

    def test_without_a_subtree_a_limit_is_refused_and_a_job_without_runs(self):
        job = self.job("exit", 0)
        run = self.run_finish(self.as_user(job, cgroup=self.mount))
        self.assert_refused(run, "memory_per_node", "Delegate=yes")
        del job["memory_per_node"]
        run = self.run_finish(self.as_user(job, cgroup=self.mount))
        self.assert_state(run, "COMPLETED")

    def test_directory_without_its_files_is_no_delegation(self):
        os.chown(self.given + "/cgroup.subtree_control", 0, 0)
        run = self.run_finish(self.as_user(self.job("exit", 0)))
        self.assert_refused(run, "memory_per_node", "no permission")
        self.assertEqual(self.inside(), [self.given])

    def test_cgroup_that_holds_anothers_process_is_not_emptied(self):
        with subprocess.Popen(["sleep", "1000"]) as other:
            try:
                with open(self.given + "/cgroup.procs", "w", encoding="ascii") as file:
                    file.write(str(other.pid))
                run = self.run_finish(self.as_user(self.job("exit", 0)))
                self.assert_refused(run, "memory_per_node", f"pid {other.pid}")
                self.assertEqual(read(self.given + "/cgroup.procs").split(), [str(other.pid)])
            finally:
                other.kill()

    def test_root_in_a_cgroup_of_its_own_gets_every_controller(self):
        path = self.given + "/cgroup.procs"
        process = self.run_start(self.job("hold", 1000, memory_per_node="64M"), program=["sh", "-c", 'echo $$ >"$0"; exec "$@"', path])
        pid = self.wait_for_job(process)[0]
        folder = self.cgroup_of(pid, "unified")
        self.assertTrue(folder.startswith(self.given + "/berth/run-"), folder)
        self.assertEqual(read(folder + "/memory.max").strip(), str(64 << 20))
        self.assertEqual(glob.glob(self.given + "/berth/daemon"), [self.given + "/berth/daemon"])
        process.terminate()
        self.assert_state(self.run_finish(process), "CANCELLED")
        self.assertEqual(self.inside(), [self.given])


SYSTEMD = """#!/usr/bin/python3 -B
# Does what systemd does when busctl(1) asks it for a scope: org.freedesktop.systemd1(5), StartTransientUnit.
import os, sys
words = sys.argv[1:]
scope = next(word for word in words if word.endswith(".scope"))
pid = words[words.index("PIDs") + 3]
assert words[words.index("PIDs") + 1 : words.index("PIDs") + 3] == ["au", "1"], words
assert words[words.index("Delegate") + 1 : words.index("Delegate") + 3] == ["b", "true"], words
assert words[words.index(scope) + 1] == "fail" and words[-1] == "0", words
folder = "@/system.slice/" + scope
os.makedirs(folder)
os.setxattr(folder, "trusted.delegate", b"1")
open(folder + "/cgroup.procs", "w").write(pid)
"""


class UnderSystemd(OnV2Alone):
    """A login session under systemd, whose cgroup holds other processes: berth asks for a scope of its own."""

    def setUp(self):
        super().setUp()
        self.mount = next(mount for mount, kind in hierarchies() if kind == "unified")
        self.top = os.path.join(self.mount, f"berth-test-{os.getpid()}")
        self.session = os.path.join(self.top, "session.scope")
        os.makedirs(self.session)
        os.makedirs(self.top + "/system.slice")
        self.addCleanup(self.remove, self.top)
        for folder in (self.mount, self.top, self.top + "/system.slice"):
            self.pass_on(folder)
        self.other = None
        self.addCleanup(self.end_systemd)  # also when the rest of this fails
        # Where programs look for systemd's being there.
        os.makedirs("/run/systemd/system")
        self.other = subprocess.Popen(["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec sleep 1000', self.session])
        self.assertTrue(eventually(lambda: read(self.session + "/cgroup.procs").split() == [str(self.other.pid)]))

    def tearDown(self):
        self.end_systemd()
        super().tearDown()

    def end_systemd(self):
        for folder in ("/run/systemd/system", "/run/systemd"):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if self.other is not None:
            self.other.kill()
            self.other.wait()

    def in_session(self, *jobs, busctl):
        tools = os.path.join(self.directory, "tools")
        os.mkdir(tools)
        with open(tools + "/busctl", "w", encoding="utf-8") as file:
            file.write(busctl.replace("@", self.top))
        os.chmod(tools + "/busctl", 0o755)
        environment = self.environment(PATH=tools + ":" + os.environ["PATH"])
        program = ["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', self.session]
        return self.run_start(*jobs, program=program, environment=environment)

    def test_berth_moves_to_a_delegated_scope_of_its_own(self):
        process = self.in_session(self.job("hold", 1000, memory_per_node="64M"), busctl=SYSTEMD)
        pid = self.wait_for_job(process)[0]
        folder = self.cgroup_of(pid, "unified")
        self.assertTrue(folder.startswith(f"{self.top}/system.slice/berth-{process.pid}.scope/berth/run-"), folder)
        self.assertEqual(read(folder + "/memory.max").strip(), str(64 << 20))
        self.assertEqual(read(self.session + "/cgroup.procs").split(), [str(self.other.pid)])
        process.terminate()
        self.assert_state(self.run_finish(process), "CANCELLED")

    def test_without_a_scope_a_limit_is_refused_with_the_remedy(self):
        process = self.in_session(self.job("exit", 0), busctl="#!/bin/sh\nexit 1\n")
        self.assert_refused(self.run_finish(process), "memory_per_node", "not delegated", "Delegate=yes")


if __name__ == "__main__":
    main()
