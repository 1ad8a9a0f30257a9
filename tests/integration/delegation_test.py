"""Delegation: what an ordinary user's berth may do on a machine with cgroup v2 alone, where a subtree was given to the
user and where none was. The same rules hold for root in a cgroup that is not the tree's root."""

import contextlib
import glob
import os
import subprocess

from berth_case import BerthCase, hierarchies, main, read

USER = 4243
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
FILES = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")


class Delegation(BerthCase):
    def setUp(self):
        if any(kind != "unified" for _, kind in hierarchies() if not kind.endswith("name=systemd")):
            self.skip("a cgroup v1 hierarchy is mounted; scripts/guest boots a machine without")
        if os.path.exists("/run/systemd/system"):
            self.skip("systemd owns the cgroups of this machine; scripts/guest boots a machine without")
        super().setUp()
        self.mount = next(mount for mount, kind in hierarchies() if kind == "unified")
        self.given = os.path.join(self.mount, f"berth-test-{os.getpid()}", "user")
        parent = os.path.dirname(self.given)
        os.makedirs(parent)
        for folder in (self.mount, parent):
            with open(folder + "/cgroup.subtree_control", "w", encoding="ascii") as file:
                file.write(" ".join("+" + name for name in CONTROLLERS))
        os.mkdir(self.given)
        for path in ("", *FILES):
            os.chown(os.path.join(self.given, path), USER, USER)
        self.addCleanup(self.take_back)
        os.mkdir(os.path.join(self.directory, "state"))
        os.chown(os.path.join(self.directory, "state"), USER, USER)

    def take_back(self):
        for folder, _, _ in sorted(os.walk(os.path.dirname(self.given)), reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def as_user(self, *jobs, cgroup=None, **options):
        """berth run by the user, born in `cgroup`."""
        script = 'echo $$ >"$0/cgroup.procs" && exec setpriv --reuid=%d --regid=%d --clear-groups "$@"' % (USER, USER)
        return self.run_start(*jobs, program=["sh", "-c", script, cgroup or self.given], **options)

    def inside(self):
        return sorted(folder for folder, _, _ in os.walk(self.given))

    def test_limits_hold_in_a_delegated_subtree(self):
        process = self.as_user(self.job("hold", 1000, memory_per_node="64M", limits={"pids": 33, "cpu_quota": 0.5, "cpu_weight": 200}))
        pid = self.wait_for_job(process)[0]
        folder = self.cgroup_of(pid, "unified")
        self.assertTrue(folder.startswith(self.given + "/berth/run-"), folder)
        written = {name: read(f"{folder}/{name}").strip() for name in ("memory.max", "pids.max", "cpu.max", "cpu.weight")}
        self.assertEqual(written, {"memory.max": str(64 << 20), "pids.max": "33", "cpu.max": "50000 100000", "cpu.weight": "200"})
        process.terminate()
        self.assert_state(self.run_finish(process), "CANCELLED")

    def test_the_subtree_is_left_as_it_was_found_and_serves_again(self):
        for _ in range(3):
            run = self.run_finish(self.as_user(self.job("exit", 0)))
            self.assert_state(run, "COMPLETED")
            self.assertEqual(self.inside(), [self.given])
            self.assertEqual(read(self.given + "/cgroup.subtree_control").strip(), "")

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


if __name__ == "__main__":
    main()
