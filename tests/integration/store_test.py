"""The database under the program: two at once, killed at any moment, full or broken."""

import glob
import json
import os
import random
import shutil
import signal
import sqlite3
import time

from berth_case import BerthCase, berth_cgroups, cpu_seconds, eventually, hierarchies, main, own_cgroups

FINAL = {"COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "NODE_FAIL"}
NO_ROOM = "No space left|disk is full"


class Store(BerthCase):
    def check_integrity(self):
        connection = sqlite3.connect(self.database)
        try:
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            self.assertEqual(connection.execute("PRAGMA foreign_key_check").fetchall(), [])
        finally:
            connection.close()

    def make_left(self, cgroup):
        """As if a berth had left it; it goes with its parents at the latest with the test."""
        os.makedirs(cgroup)
        self.addCleanup(lambda: os.path.exists(cgroup) and os.removedirs(cgroup))

    def recover(self):
        """The next command on the database: finds and closes what a dead berth left."""
        run = self.run_job("exit", 0, name="next")
        self.assertEqual(run.status, 0, str(run))
        return run

    def test_record_is_in_the_database_and_in_the_result_alike(self):
        run = self.run_job("exit", 3, comment="why", account="physics")
        rows = self.history()
        self.assertEqual(len(rows), 1)
        for key in ("job_id", "state", "outcome", "usage", "spec", "allocation", "submit", "start", "end"):
            self.assertEqual(rows[0][key], run.record[key], key)
        self.check_integrity()

    def test_database_folder_is_private(self):
        self.run_job("exit", 0)
        self.assertEqual(os.stat(os.path.dirname(self.database)).st_mode & 0o077, 0)

    def test_database_may_be_a_symbolic_link(self):
        elsewhere = os.path.join(self.work, "elsewhere.db")
        self.assertEqual(self.berth("run", "--database", elsewhere, "--", "/bin/true")[0], 0)
        link = os.path.join(self.work, "link.db")
        os.symlink(elsewhere, link)
        status, _, err = self.berth("run", "--database", link, "--", "/bin/true")
        self.assertEqual((status, err.count("cannot")), (0, 0), err)
        rows = json.loads(self.berth("history", "--json", "--database", elsewhere)[1])
        self.assertEqual([row["state"] for row in rows["jobs"]], ["COMPLETED", "COMPLETED"])

    def test_root_makes_no_database_through_a_jobs_link(self):
        database, made = os.path.join(self.work, "own.db"), os.path.join(self.directory, "made-by-root")
        script = f"ln -s {made} {database}"
        self.assertEqual(self.berth("run", "--database", self.database, "-D", self.work, "--", "/bin/sh", "-c", script)[0], 0)
        for words in (("run", "--database", database, "--", "/bin/true"), ("history", "--database", database)):
            status, _, err = self.berth(*words)
            self.assertNotEqual(status, 0, err)
            self.assertIn("symbolic link of another user", err)
        self.assertFalse(os.path.lexists(made))

    def test_database_that_may_only_be_read_is_refused(self):
        self.run_job("exit", 0)
        folder = os.path.dirname(self.database)
        for name in os.listdir(folder):
            os.chmod(os.path.join(folder, name), 0o644)
        while os.path.commonpath([folder, self.directory]) == self.directory:
            os.chmod(folder, 0o755)
            folder = os.path.dirname(folder)
        nobody = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
        status, _, err = self.berth("run", "--database", self.database, "--", "/bin/true", **nobody)
        self.assertEqual(status, 125, err)
        self.assertIn(f"{self.database}: the database or its folder may only be read", err)
        self.assertEqual(len(self.history()), 1)

    def test_a_run_names_what_the_machine_lacks_for_each_job(self):
        run = self.run_jobs(
            self.job("exit", 0, name="wide", cpus_per_task=65536),
            self.job("exit", 0, name="class", limits={"open_files": 1073741816}),
        )
        self.assertEqual(run.status, 125, str(run))
        self.assertIn('job "wide"', run.err)
        self.assertIn('job "class"', run.err)

    def test_refused_run_makes_no_database(self):
        status, _, err = self.berth("run", "--database", self.database, "--cpus-per-task", "65536", "--", "/bin/true")
        self.assertEqual(status, 125, err)
        self.assertIn("can never run here", err)
        self.assertFalse(os.path.exists(self.database))

    def test_two_runs_at_once_share_one_database(self):
        processes = [self.run_start(*[self.job("exit", 0, name=f"p{n}-{i}") for i in range(20)]) for n in range(3)]
        for process in processes:
            run = self.run_finish(process)
            self.assertEqual(run.status, 0, str(run)[:3000])
            self.assertEqual(len(run.records), 20)
        rows = self.history()
        self.assertEqual(len(rows), 60)
        self.assertEqual(len({row["job_id"] for row in rows}), 60)
        self.assertEqual({row["state"] for row in rows}, {"COMPLETED"})
        self.check_integrity()

    def test_killed_berth_takes_its_jobs_with_it(self):
        process = self.run_start(self.job("ignore_term"))
        self.wait_for_job(process)
        # A start is recorded a few milliseconds later, in case that the job has ended by then.
        self.assertTrue(eventually(lambda: self.history()[0]["state"] == "RUNNING"))
        process.kill()
        process.wait()
        self.assertTrue(eventually(lambda: not self.job_pids()), "the jobs of a killed berth live on")
        self.recover()
        first = self.history()[0]
        self.assertEqual((first["state"], first["outcome"]["cause"]), ("NODE_FAIL", "node_fail"))
        self.assertIn("end", first)
        self.assertNotIn("wall_usec", first["usage"])
        self.check_integrity()
        job = str(first["job_id"])
        listed = self.berth("history", "--database", self.database, "-n", "-P", "-o", "Elapsed,ElapsedRaw,CPUTime,CPUTimeRAW", job)
        self.assertEqual(listed[1], "|||\n")
        self.assertNotIn("Elapsed", self.berth("show", "--database", self.database, job)[1])
        efficiency = self.berth("efficiency", "--database", self.database, job)[1]
        self.assertIn("Job Wall-clock time: not measured\n", efficiency)
        rows = json.loads(self.berth("report", "--database", self.database, "--by", "name", "--json")[1])["rows"]
        sums = next(row for row in rows if row["name"] == first["spec"]["name"])
        self.assertEqual(sums["states"], {"NODE_FAIL": 1})
        for key in ("elapsed_usec", "cpu_granted_usec", "memory_granted_byte_seconds"):
            self.assertNotIn(key, sums)

    def test_record_of_a_killed_berth_tells_what_the_cgroup_still_knew(self):
        process = self.run_start(self.job("allocate", 50, 1000))
        self.assertEqual(process.stdout.readline(), b"allocated 50\n")
        process.kill()
        process.wait()
        self.recover()
        usage = self.history()[0]["usage"]
        self.assertGreaterEqual(usage.get("memory_peak", 0), 50 << 20, str(usage))

    def test_record_of_a_killed_berth_has_the_cpu_time_of_a_job_in_a_sandbox_that_was_made_ahead(self):
        # In cgroup v2 such a job's cgroup keeps the name that it had before.
        process = self.run_start(self.job("hold", 0.5), self.job("spin_for", 60), arguments=("--slots", "1"))
        self.assertTrue(eventually(lambda: any(cpu_seconds(pid) > 0.5 for pid in self.job_pids("spin_for"))), "the last job does not run")
        process.kill()
        process.wait()
        self.recover()
        last = [row for row in self.history() if row["state"] == "NODE_FAIL"]
        self.assertEqual(len(last), 1)
        self.assertGreaterEqual(last[0]["usage"].get("cpu_total_usec", 0), 400_000, str(last[0]["usage"]))

    def test_killed_at_random_moments_every_job_has_one_final_record(self):
        generator = random.Random(20261123)
        whole = 0.0  # what a run takes that is not killed, on this machine
        rows = []
        rounds = 0
        while rounds < 13 or (rounds < 60 and all(row["state"] != "NODE_FAIL" for row in rows)):
            jobs = [self.job("hold", generator.random() / 20, name=f"r{rounds}-{i}") for i in range(8)]
            rounds += 1
            begin = time.monotonic()
            process = self.run_start(*jobs)
            if not whole:
                self.assertEqual(self.run_finish(process).status, 0)
                whole = time.monotonic() - begin
                continue
            time.sleep(generator.random() * whole)
            if process.poll() is not None:
                whole *= 0.7  # the first one, or this one, was slow
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.assertTrue(eventually(lambda: not self.job_pids()), "the jobs of a killed berth live on")
            if rounds >= 13:
                self.recover()
                rows = [row for row in self.history() if row["spec"]["name"] != "next"]
        self.assertEqual({row["state"] for row in rows} - FINAL, set())
        self.assertEqual(len({(row["job_id"], row["attempt"]) for row in rows}), len(rows))
        self.assertEqual(len(rows) % 8, 0, "a submit is all or nothing")
        self.assertTrue(any(row["state"] == "NODE_FAIL" for row in rows), "no kill met a run")
        for row in rows:
            self.assertIn("outcome", row)
        self.check_integrity()

    def test_a_tree_that_is_left_in_any_one_hierarchy_is_removed(self):
        # As by a berth that was killed while it removed its tree from one hierarchy after the other.
        process = self.run_start(self.job("hold", 1000))
        self.wait_for_job(process)
        used = [own for own in sorted(set(own_cgroups())) if glob.glob(f"{own}/berth/run-{process.pid}-*")]
        process.terminate()
        self.run_finish(process)
        self.assertTrue(used)
        for own in used:
            left = os.path.join(own, "berth", "run-2147483647-1")
            with self.subTest(cgroup=left):
                self.make_left(os.path.join(left, "armed-1"))  # a sandbox that no job was in yet
                self.recover()
                self.assertFalse(os.path.exists(left))

    def test_a_tree_is_left_alone_where_its_berths_pid_says_nothing(self):
        # Not even of a dead one: here a pid of that number may be anybody, or nobody, who lives elsewhere.
        own = sorted(set(own_cgroups()))[0]
        left = os.path.join(own, "berth", "run-2147483647-1")
        elsewhere = f"{left}-4026530000"
        self.make_left(left)
        status, _, err = self.berth(
            "run", "--database", self.database, "--", "/bin/true", program=["unshare", "--pid", "--fork", "--mount-proc"]
        )
        self.assertEqual(status, 0, err)
        self.assertTrue(os.path.exists(left), "removed by a berth of another pid namespace")
        self.make_left(elsewhere)
        self.recover()
        self.assertFalse(os.path.exists(left))
        self.assertTrue(os.path.exists(elsewhere), "removed, though it is of another pid namespace")
        os.removedirs(elsewhere)

    def test_a_tree_that_holds_spares_alone_is_removed_and_one_with_a_job_is_not(self):
        # Spares keep the names of jobs that have ended; another database's job has its cgroup of memory too.
        hierarchies = {name: own for own in own_cgroups() for name in ("memory", "pids") if f"/{name}" in own}
        if len(hierarchies) < 2:
            self.skip("memory and pids are not in cgroup v1 here")
        trees = {name: os.path.join(own, "berth", "run-2147483647-1") for name, own in hierarchies.items()}
        for tree in (trees["memory"], os.path.join(trees["pids"], "job-17.1")):
            self.make_left(tree)
        self.recover()
        self.assertEqual([tree for tree in trees.values() if os.path.exists(tree)], [])
        jobs = [os.path.join(tree, "job-18.1") for tree in trees.values()]
        for job in jobs:
            self.make_left(job)
        self.recover()
        self.assertEqual([job for job in jobs if not os.path.exists(job)], [])
        for job in jobs:
            os.removedirs(job)

    def kill_with_a_job(self, database):
        """The cgroups of a berth that was killed while it ran a job."""
        process = self.start("run", "--database", database, "--", self.payload, "hold", 1000)
        self.wait_for_job(process)
        process.kill()
        process.wait()
        self.assertTrue(eventually(lambda: not self.job_pids()), "the jobs of a killed berth live on")
        left = [path for path in berth_cgroups() if f"/berth/run-{process.pid}-" in path]
        self.assertTrue(left)
        return left

    @staticmethod
    def still_there(paths):
        return [path for path in paths if os.path.exists(path)]

    def needs_marks(self):
        if not any(options == "unified" for _, options in hierarchies()):
            self.skip("cgroup v1 alone has no extended attributes")

    def test_what_a_killed_berth_left_goes_with_its_database(self):
        self.needs_marks()
        folder = os.path.join(self.directory, "temporary")
        database = os.path.join(folder, "berth.db")
        left = self.kill_with_a_job(database)
        self.recover()
        self.assertEqual(self.still_there(left), left, "removed though the database is there, which has no record of it yet")
        run = self.berth("run", "--database", database, "--", "/bin/true")
        self.assertEqual(run[0], 0, run[2])
        first = json.loads(self.berth("history", "--database", database, "--json")[1])["jobs"][0]
        self.assertEqual(first["state"], "NODE_FAIL")
        self.assertIn("memory_peak", first["usage"])
        self.assertEqual(self.still_there(left), [])
        left = self.kill_with_a_job(database)
        shutil.rmtree(folder)
        self.recover()
        self.assertEqual(self.still_there(left), [])

    def test_what_a_killed_berth_left_goes_when_its_database_was_made_anew(self):
        self.needs_marks()
        database = os.path.join(self.directory, "temporary", "berth.db")
        left = self.kill_with_a_job(database)
        shutil.rmtree(os.path.dirname(database))
        self.assertEqual(self.berth("run", "--database", database, "--", "/bin/true")[0], 0)
        self.assertEqual(self.still_there(left), [])

    def test_what_a_killed_berth_left_stays_for_a_database_that_is_only_hidden(self):
        self.needs_marks()
        folder = os.path.join(self.directory, "temporary")
        database = os.path.join(folder, "berth.db")
        left = self.kill_with_a_job(database)
        for step in (f"mount -t tmpfs none {folder}", f"mv {database} {database}.moved"):
            elsewhere = ["unshare", "-m", "sh", "-c", f'{step} && exec "$0" "$@"']
            status, _, err = self.berth("run", "--database", self.database, "--", "/bin/true", program=elsewhere)
            self.assertEqual(status, 0, err)
            self.assertEqual(self.still_there(left), left, "removed by a berth that sees other mounts")
        os.rename(database + ".moved", database)
        self.assertEqual(self.berth("run", "--database", database, "--", "/bin/true")[0], 0)
        self.assertEqual(self.still_there(left), [])

    def test_a_living_berths_jobs_are_not_taken_for_orphans(self):
        process = self.run_start(self.job("hold", 1000, name="long"))
        self.wait_for_job(process)
        run = self.run_job("exit", 0, name="other")
        self.assertEqual(run.status, 0, str(run))
        self.assertTrue(self.job_pids("hold"), "another berth's living job was killed")
        process.terminate()
        run = self.run_finish(process)
        self.assert_state(run, "CANCELLED")

    def test_what_is_no_database_is_refused_and_kept(self):
        path = os.path.join(self.directory, "text.db")
        with open(path, "w", encoding="utf-8") as file:
            file.write("these are words\n" * 100)
        status, _, err = self.berth("run", "--database", path, "--", "/bin/true")
        self.assertEqual(status, 125, err)
        self.assertIn(path, err)
        with open(path, encoding="utf-8") as file:
            self.assertTrue(file.read().startswith("these are words"))

    def test_newer_database_is_refused(self):
        self.run_job("exit", 0)
        connection = sqlite3.connect(self.database)
        connection.execute("PRAGMA user_version = 9999")
        connection.commit()
        connection.close()
        status, _, err = self.berth("run", "--database", self.database, "--", "/bin/true")
        self.assertEqual(status, 125, err)
        self.assertIn("newer", err)

    def test_history_of_no_database_creates_none(self):
        status, _, err = self.berth("history", "--database", self.database)
        self.assertFalse(os.path.exists(self.database))
        self.assertEqual((status, self.database in err), (1, True), err)

    def test_unwritable_database_is_refused_before_anything_runs(self):
        marker = os.path.join(self.work, "ran")
        path = "/proc/no/such/berth.db"
        status, _, err = self.berth("run", "--database", path, "-D", self.work, "--", "/usr/bin/touch", marker)
        self.assertEqual(status, 125, err)
        self.assertIn("/proc/no", err)
        self.assertFalse(os.path.exists(marker))

    def test_a_database_that_the_disk_has_no_room_for_is_not_made_by_half(self):
        refused = 0
        for size in range(16, 256, 16):
            folder = f"{self.directory}/small"
            script = (
                f"mkdir -p {folder} && mount -t tmpfs -o size={size}k none {folder} && "
                f'"$0" run -q --database {folder}/berth.db -- /bin/true; '
                f"mount -o remount,size=10m {folder} && "
                f'"$0" run -q --database {folder}/berth.db -- /bin/true && ls {folder}'
            )
            status, out, err = self.finish(self.start(program=["unshare", "-m", "sh", "-c", script]))
            self.assertEqual(status, 0, f"{size}k: {err}")
            self.assertLessEqual(set(out.split()), {"berth.db", "berth.db-wal", "berth.db-shm"}, f"{size}k: {err}")
            if err:
                self.assertRegex(err, NO_ROOM)
                refused += 1
        self.assertGreater(refused, 0, "each of these sizes is enough")

    def test_full_disk_is_refused_with_the_remedy(self):
        # A small file system in a mount namespace of its own, so that the host's table stays as it is.
        script = (
            f"mkdir -p {self.directory}/small && mount -t tmpfs -o size=64k none {self.directory}/small && "
            f"dd if=/dev/zero of={self.directory}/small/ballast bs=1k count=64 2>/dev/null; "
            f"exec \"$0\" run --database {self.directory}/small/berth.db -- /bin/true"
        )
        process = self.start(program=["unshare", "-m", "sh", "-c", script])
        status, _, err = self.finish(process)
        self.assertEqual(status, 125, err)
        self.assertRegex(err, NO_ROOM)
        self.assertIn("--database", err)


if __name__ == "__main__":
    main()
