"""Slots on a larger machine: CPUs and memory nodes that belong together, hardware threads, cpuset partitions. The
machine that scripts/guest boots has two memory nodes, and with cgroup v2 two threads in each core."""

import glob
import json
import os

from berth_case import BerthCase, hierarchies, main, read


def cpus_of(text):
    """The kernel's list format ("0-2,5") as a set."""
    found = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found


def nodes():
    """Memory nodes that have CPUs: node -> CPUs."""
    found = {}
    for path in glob.glob("/sys/devices/system/node/node[0-9]*"):
        cpus = cpus_of(read(path + "/cpulist"))
        if cpus:
            found[int(os.path.basename(path).removeprefix("node"))] = cpus
    return found


def cores():
    """Each core as the set of its threads."""
    return {frozenset(cpus_of(read(path))) for path in glob.glob("/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")}


class Slots(BerthCase):
    def several_nodes(self):
        found = nodes()
        if len(found) < 2:
            self.skip("one memory node only; scripts/guest boots a machine with two")
        return found

    def several_threads(self):
        found = cores()
        if max(len(core) for core in found) < 2:
            self.skip("one thread in each core; scripts/guest boots a machine with two")
        return found

    def at_once(self, count, arguments=(), **spec):
        """So many jobs that sleep at the same time: their pids and the berth."""
        jobs = [self.job("hold", 1000, name=f"j{number}", **spec) for number in range(count)]
        process = self.run_start(*jobs, arguments=arguments)
        return self.wait_for_job(process, count), process

    def end(self, process):
        process.terminate()
        run = self.run_finish(process)
        self.assertEqual({record["state"] for record in run.records}, {"CANCELLED"}, str(run))
        return run

    def allowed(self, pid, what="Cpus"):
        row = next(line for line in read(f"/proc/{pid}/status").splitlines() if line.startswith(what + "_allowed_list:"))
        return cpus_of(row.partition(":")[2])

    def test_cpus_and_memory_of_a_job_are_of_one_node(self):
        machine = self.several_nodes()
        report, run = self.report(cpus_per_task=2)
        cpus = cpus_of(report["status"]["Cpus_allowed_list"])
        memory = cpus_of(report["status"]["Mems_allowed_list"])
        self.assertEqual(len(cpus), 2)
        self.assertEqual(len(memory), 1)
        self.assertLessEqual(cpus, machine[memory.pop()])
        self.assertEqual(cpus, cpus_of(run.record["allocation"]["cpus"]))

    def test_pages_are_on_the_node_of_the_cpus(self):
        machine = self.several_nodes()
        jobs = [self.job("numa", 64, name=f"j{number}", cpus_per_task=len(machine[0])) for number in range(2)]
        run = self.run_jobs(*jobs, arguments=["--no-prefix"])
        used = set()
        for record in run.records:
            allocation = record["allocation"]
            node = int(allocation["memory_nodes"])
            used.add(node)
            self.assertEqual(cpus_of(allocation["cpus"]), machine[node])
        self.assertEqual(used, set(list(machine)[:2]), "two jobs that fill a node each get one each")
        # What the jobs saw themselves, /proc/self/numa_maps: each has its 16384 pages on its own node.
        for node in used:
            run = self.run_jobs(self.job("numa", 64, cpus_per_task=1), arguments=["--cpus", str(min(machine[node]))])
            pages = [line.split() for line in run.out.splitlines()]
            self.assertGreaterEqual(sum(int(count) for _, count in pages), 16384, run.out)
            self.assertEqual({name for name, _ in pages}, {f"N{node}"}, run.out)

    def test_a_job_larger_than_a_node_gets_the_memory_of_both(self):
        machine = self.several_nodes()
        report, _ = self.report(cpus_per_task=len(machine[0]) + 1)
        self.assertEqual(cpus_of(report["status"]["Mems_allowed_list"]), set(list(machine)[:2]))

    def test_cores_are_given_before_threads(self):
        machine = self.several_threads()
        pids, process = self.at_once(len(machine), cpus_per_task=1, memory_per_node="32M")
        taken = [self.allowed(pid) for pid in pids]
        self.end(process)
        used = [core for core in machine for cpus in taken if cpus & core]
        self.assertEqual(len(used), len(set(used)), f"two jobs share a core while another is free: {taken}")

    def test_exclusive_cores_are_shared_by_no_two_jobs(self):
        machine = self.several_threads()
        jobs = [self.job("report", name=f"j{number}", cpus_per_task=1, memory_per_node="32M") for number in range(2 * len(machine))]
        run = self.run_jobs(*jobs, arguments=["--slots-smt", "exclusive", "--no-prefix", "--slots", "1"])
        decoder = json.JSONDecoder()
        text = run.out
        for _ in jobs:
            report, end = decoder.raw_decode(text)
            text = text[end:].lstrip()
            self.assertIn(frozenset(cpus_of(report["status"]["Cpus_allowed_list"])), machine)
        pids, process = self.at_once(len(machine), ["--slots-smt", "exclusive"], cpus_per_task=1, memory_per_node="32M")
        taken = [frozenset(self.allowed(pid)) for pid in pids]
        self.end(process)
        self.assertEqual(set(taken), machine, "each core to one job, with all its threads")

    def test_half_a_core_cannot_be_exclusive(self):
        core = sorted(max(self.several_threads(), key=len))
        run = self.run_jobs(self.job("exit", 0), arguments=["--slots-smt", "exclusive", "--cpus", str(core[0])])
        self.assert_refused(run, f"CPU {core[1]} shares a core with CPU {core[0]}")

    def test_wrong_words_are_refused(self):
        for option in ("--slots-smt", "--slots-partition"):
            status, _, err = self.berth("run", "--database", self.database, option, "some", "--", "/bin/true")
            self.assertEqual(status, 125)
            self.assertIn(option, err)


class Partitions(BerthCase):
    def setUp(self):
        super().setUp()
        self.online = cpus_of(read("/sys/devices/system/cpu/online"))
        self.mount = next((mount for mount, kind in hierarchies() if kind == "unified"), None)
        on_v1 = any("cpuset" in kind.split(",") for _, kind in hierarchies())
        if on_v1 or self.mount is None:
            self.reason = "the cpuset controller is cgroup v1 here"
        elif os.path.exists("/run/systemd/system"):
            self.reason = "systemd owns the root cgroup here"
        else:
            self.reason = "" if len(self.online) > 2 else "a pool of two CPUs and one beside it are needed"

    def needed(self):
        if self.reason:
            self.skip(self.reason + "; scripts/guest boots a machine that has partitions")
        return sorted(self.online)[-2:]

    def outside(self):
        """CPUs of the processes that are in no partition."""
        return cpus_of(read(self.mount + "/cpuset.cpus.effective"))

    def start_job(self, kind, pool, **spec):
        arguments = ["--slots-partition", kind, "--cpus", ",".join(map(str, pool))]
        process = self.run_start(self.job("hold", 1000, **spec), arguments=arguments)
        pid = self.wait_for_job(process)[0]
        return process, pid, self.cgroup_of(pid, "unified")

    def test_a_partition_keeps_everything_else_off_its_cpus(self):
        pool = self.needed()
        for kind in ("root", "isolated"):
            with self.subTest(kind=kind):
                process, pid, folder = self.start_job(kind, pool, cpus_per_task=2)
                self.assertEqual(read(folder + "/cpuset.cpus.partition").strip(), kind)
                self.assertEqual(cpus_of(read(folder + "/cpuset.cpus.effective")), set(pool))
                self.assertEqual(os.sched_getaffinity(pid), set(pool))
                self.assertEqual(self.outside(), self.online - set(pool))
                process.terminate()
                self.assert_state(self.run_finish(process), "CANCELLED")
                self.assertEqual(self.outside(), self.online, "the CPUs are back")

    def test_jobs_follow_each_other_on_the_cpus_of_a_partition(self):
        pool = self.needed()
        jobs = [self.job("exit", 0, name=f"j{number}") for number in range(6)]
        run = self.run_jobs(*jobs, arguments=["--slots-partition", "isolated", "--cpus", ",".join(map(str, pool))])
        self.assertEqual({record["state"] for record in run.records}, {"COMPLETED"}, str(run))
        self.assertNotIn("plain cpusets", run.err)
        self.assertEqual(self.outside(), self.online)

    def test_two_berths_have_partitions_side_by_side_and_one_without_is_refused(self):
        first, second = self.needed()
        one, _, _ = self.start_job("root", [first])
        two = self.run_start(self.job("hold", 1000), arguments=["--slots-partition", "root", "--cpus", str(second)])
        self.wait_for_job(two, count=2)
        self.assertEqual(self.outside(), self.online - {first, second})
        self.assert_refused(self.run_jobs(self.job("exit", 0)), "--slots-partition", "another berth")
        one.terminate()
        self.run_finish(one)
        self.assertEqual(self.outside(), self.online - {second})
        two.terminate()
        self.run_finish(two)
        self.assertEqual(self.outside(), self.online)

    def test_what_the_kernel_does_not_permit_is_said_and_plain_cpusets_serve(self):
        everything = ",".join(map(str, sorted(self.online)))
        run = self.run_jobs(self.job("exit", 0), arguments=["--slots-partition", "root", "--cpus", everything])
        self.assert_state(run, "COMPLETED")
        self.assertIn("plain cpusets", run.err)

    def test_doctor_tells_whether_partitions_can_be_had(self):
        _, out, _ = self.berth("doctor")
        row = next(line for line in out.splitlines() if "cpuset partitions" in line)
        self.assertEqual("plain cpusets" in row, bool(self.reason) and "one beside it" not in self.reason, row)


if __name__ == "__main__":
    main()
