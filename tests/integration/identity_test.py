"""Who a job runs as: never the host's root."""

import contextlib
import json
import os
import pwd
import subprocess
import sys

from berth_case import BerthCase, main, read

# A user that no machine has an account for; setpriv takes bare numbers.
TEST_UID = 54321


def account():
    """An ordinary account with a number above 0 that every Debian has."""
    return pwd.getpwnam("daemon")


class Identity(BerthCase):
    def outside_ids(self, pid):
        rows = dict(line.split(":\t", 1) for line in read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
        return [int(word) for word in rows["Uid"].split()], [int(word) for word in rows["Gid"].split()]

    def held(self, isolation=None, **options):
        process = self.run_start(self.job("hold", 1000, isolation=isolation or {}), **options)
        pid = self.wait_for_job(process)[0]
        ids = self.outside_ids(pid)
        groups = next(line for line in read(f"/proc/{pid}/status").splitlines() if line.startswith("Groups:")).split()[1:]
        process.terminate()
        run = self.run_finish(process)
        return ids, groups, run

    def test_plain_root_runs_jobs_as_an_unprivileged_id(self):
        (uids, gids), groups, run = self.held()
        self.assertEqual(len(set(uids)), 1)
        self.assertGreater(uids[0], 65535)
        self.assertGreater(gids[0], 65535)
        self.assertNotIn("0", groups)
        self.assertEqual(run.record["job_user_id"], uids[0])
        self.assertEqual(run.record["user_id"], 0)

    def test_sudo_runs_jobs_as_the_invoking_user(self):
        user = account()
        environment = self.environment(SUDO_UID=str(user.pw_uid), SUDO_GID=str(user.pw_gid), SUDO_USER=user.pw_name)
        (uids, gids), _, run = self.held(environment=environment)
        self.assertEqual(set(uids), {user.pw_uid})
        self.assertEqual(set(gids), {user.pw_gid})
        self.assertEqual((run.record["user"], run.record["job_user"]), (user.pw_name, user.pw_name))

    def test_sudo_from_root_is_not_root(self):
        (uids, _), _, _ = self.held(environment=self.environment(SUDO_UID="0", SUDO_GID="0", SUDO_USER="root"))
        self.assertNotIn(0, uids)

    def test_isolation_user_by_name_number_and_group(self):
        user = account()
        for text, uid, gid in (
            (user.pw_name, user.pw_uid, user.pw_gid), (str(user.pw_uid), user.pw_uid, user.pw_gid), ("4242:4343", 4242, 4343)
        ):
            with self.subTest(user=text):
                (uids, gids), _, run = self.held({"user": text})
                self.assertEqual((set(uids), set(gids)), ({uid}, {gid}))
                self.assertEqual(run.record["job_user_id"], uid)

    def test_root_inside_is_an_unprivileged_id_outside(self):
        report, _ = self.report(isolation={"user": "root"})
        self.assertEqual((report["uid"], report["gid"]), (0, 0))
        (uids, gids), _, _ = self.held({"user": "0"})
        self.assertGreater(min(uids), 65535)
        self.assertGreater(min(gids), 65535)
        for field in ("uid_map", "gid_map"):
            for row in report[field].splitlines():
                inside, outside, count = map(int, row.split())
                self.assertGreater(outside, 0, f"{field}: {row}")

    def test_files_that_the_job_makes_belong_to_its_user(self):
        user = account()
        run = self.run_job("write", self.work + "/file", isolation={"user": user.pw_name})
        self.assertEqual(run.probes(), {self.work + "/file": "ok"}, str(run))
        self.assertEqual(os.stat(self.work + "/file").st_uid, user.pw_uid)

    def test_unknown_user_is_refused(self):
        run = self.run_job("exit", 0, isolation={"user": "no-such-user-here"})
        self.assert_refused(run, "no-such-user-here")

    def test_root_of_a_user_namespace_that_lacks_the_id_is_told_so(self):
        status, _, err = self.berth("run", "--database", self.database, "--", self.payload, "exit", 0, program=("unshare", "-Urm"))
        self.assertEqual(status, 125)
        self.assertIn("is not mapped", err)
        self.assertIn("--user", err)

    def test_a_user_of_many_groups_has_all_of_them_or_is_refused(self):
        for numbers, message in (
            (range(70000, 70256), None), (range(70000, 70257), "257 supplementary groups"),
            (range(1 << 31, (1 << 31) + 200), "for one id map")
        ):
            many = self.with_groups("".join(f"g{number}:x:{number}:daemon\n" for number in numbers))
            status, out, err = self.berth(
                "run", "--database", self.database, "--user", "daemon", "--", "/usr/bin/id", "-G", program=many
            )
            if message:
                self.assertEqual((status, message in err), (125, True), err)
            else:
                self.assertEqual((status, len(out.split())), (0, 257), out + err)

    def test_root_group_is_refused(self):
        run = self.run_job("exit", 0, isolation={"user": "4242:0"})
        self.assert_refused(run, "isolation.user")

    def test_environment_names_the_user(self):
        user = account()
        report, _ = self.report(isolation={"user": user.pw_name})
        self.assertEqual((report["environment"]["USER"], report["environment"]["LOGNAME"]), (user.pw_name, user.pw_name))

    def test_files_of_root_are_not_read(self):
        path = os.path.join(self.directory, "secret")
        with open(path, "w", encoding="utf-8") as file:
            file.write("x")
        os.chmod(path, 0o600)
        for isolation in ({}, {"user": "0"}, {"user": "daemon"}):
            run = self.run_job("read", path, "/etc/shadow", isolation=isolation)
            self.assertEqual(set(run.probes().values()), {"EACCES"}, str(isolation))

    def working_directory(self, folder, user, program=()):
        """Where a command that is run in this folder, for a user through sudo, works; and what berth says about it."""
        entry = pwd.getpwnam(user)
        environment = self.environment(SUDO_UID=str(entry.pw_uid), SUDO_GID=str(entry.pw_gid), SUDO_USER=user) if entry.pw_uid else None
        status, out, err = self.berth(
            "run", "--database", self.database, "--", "/bin/pwd", cwd=folder, environment=environment, program=program
        )
        self.assertEqual(status, 0, err)
        return out.strip(), err

    def test_a_shared_folder_is_entered_by_the_users_groups_and_not_by_roots(self):
        shared = os.path.join(self.directory, "shared")
        os.mkdir(shared)
        os.chown(shared, 0, 4343)
        os.chmod(shared, 0o770)
        in_devs = self.with_groups("devs:x:4343:daemon\n")
        self.assertEqual(self.working_directory(shared, "daemon", in_devs)[0], shared)
        self.assertIn("cannot enter", self.working_directory(shared, "daemon")[1])
        os.chown(shared, 0, 0)
        for user in ("daemon", "root"):
            where, warning = self.working_directory(shared, user)
            self.assertEqual(where, "/tmp")
            self.assertIn("cannot enter", warning)

    def test_an_own_root_is_looked_at_as_the_invoking_user(self):
        user = account()
        environment = self.environment(SUDO_UID=str(user.pw_uid), SUDO_GID=str(user.pw_gid), SUDO_USER=user.pw_name)
        private = os.path.join(self.directory, "private")
        os.makedirs(private + "/there")
        os.chmod(private, 0o700)
        link = os.path.join(self.directory, "link")
        os.symlink(private, link)
        os.lchown(link, user.pw_uid, user.pw_gid)
        for way in (private, link):
            for name in ("there", "absent"):
                run = self.run_jobs(self.job("exit", 0, isolation={"root": f"{way}/{name}"}), environment=environment)
                self.assert_refused(run, f"isolation.root: {way}/{name}: Permission denied")
        os.chmod(private, 0o711)
        for name, message in (("there", "/there/proc is not a directory; make it"), ("absent", "/absent: No such file")):
            run = self.run_jobs(self.job("exit", 0, isolation={"root": f"{private}/{name}"}), environment=environment)
            self.assert_refused(run, message)

    def test_output_files_are_opened_as_the_invoking_user(self):
        user = account()
        private = os.path.join(self.directory, "private")
        os.mkdir(private, 0o700)
        environment = self.environment(SUDO_UID=str(user.pw_uid), SUDO_GID=str(user.pw_gid), SUDO_USER=user.pw_name)
        process = self.run_start(self.job("print_both", standard_output=private + "/out"), environment=environment)
        run = self.run_finish(process)
        self.assertFalse(os.path.exists(private + "/out"), "written with root's rights: " + str(run))
        self.assertEqual(run.status, 125, str(run))
        self.assertIn(private + "/out", run.err + str(run.records))

    def test_output_files_are_written_as_the_invoking_user(self):
        user = account()
        paths = [os.path.join(self.work, name) for name in ("output", "error", "result")]
        for path in paths:
            with open(path, "w", encoding="utf-8") as file:
                file.write("")
            os.chown(path, 34, 34)
            os.chmod(path, 0o6777)
        environment = self.environment(SUDO_UID=str(user.pw_uid), SUDO_GID=str(user.pw_gid), SUDO_USER=user.pw_name)
        words = ["-o", paths[0], "-e", paths[1], "--open-mode", "append", "--result", paths[2]]
        status, _, err = self.berth("run", "--database", self.database, *words, "--", self.payload, "print_both", environment=environment)
        self.assertEqual(status, 0, err)
        for path in paths:
            self.assertGreater(os.path.getsize(path), 0)
            self.assertEqual(os.stat(path).st_mode & 0o7777, 0o777, "written with root's capabilities: " + path)


class WithoutRoot(BerthCase):
    """berth started by an ordinary user: it works, or refuses with the one sentence that tells what to do."""

    only_user = TEST_UID

    def setUp(self):
        super().setUp()
        self.state = os.path.join(self.directory, "user")
        os.mkdir(self.state)
        os.chown(self.state, TEST_UID, TEST_UID)
        self.database = os.path.join(self.state, "berth.db")
        # The program may lie below a folder that only root enters; a copy is as good.
        self.program = os.path.join(self.directory, "berth")
        subprocess.run(["cp", os.environ["BERTH_PROGRAM"], self.program], check=True)

    def as_user(self, *jobs, processes=None):
        jobs_path = self.job_file(*jobs)
        result = os.path.join(self.state, "result.json")
        environment = self.environment(HOME=self.state, BERTH=self.program)
        few = ["prlimit", f"--nproc={processes}"] if processes else []
        with contextlib.suppress(FileNotFoundError):
            os.unlink(result)
        process = self.start(
            "run", "--database", self.database, "--result", result, jobs_path, environment=environment,
            program=["setpriv", f"--reuid={TEST_UID}", f"--regid={TEST_UID}", "--clear-groups", *few, "sh", "-c", 'shift; exec "$BERTH" "$@"', "sh"],
        )
        process.result_path = result
        return self.run_finish(process)

    def test_it_works_or_says_what_to_do(self):
        # Limits by cgroup need delegation; without a request for them a user namespace is enough.
        run = self.as_user(self.job("report", memory_per_node=None))
        if run.status == 125 and not os.environ.get("BERTH_GUEST"):  # whose kernel permits user namespaces
            sentence = run.err.strip().splitlines()[-1]
            self.assertRegex(sentence, r"sudo|sysctl|delegat|root")
            self.skip("berth says that it does not work without root here: " + sentence)
        self.assert_state(run, "COMPLETED", "exited", 0)
        report = json.loads(run.out)
        for name in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"):
            self.assertNotEqual(report["namespaces"][name], os.readlink(f"/proc/self/ns/{name}"), name)
        self.assertEqual(int(report["status"]["CapEff"], 16), 0)
        self.assertEqual(report["status"]["NoNewPrivs"], "1")
        self.assertEqual(report["hostname"], "report")
        self.assertEqual(run.record["user_id"], TEST_UID)
        self.assertEqual(run.record["job_user_id"], TEST_UID)

    def test_a_working_directory_that_is_changed_meanwhile_is_not_entered(self):
        os.mkdir(os.path.join(self.state, "real"))
        link = os.path.join(self.state, "link")
        os.symlink("real", link)
        job = self.job("exit", 0, argv=["/bin/sh", "-c", "[ . -ef / ] || ls"], memory_per_node=None, current_working_directory=link)
        if self.as_user(job).status != 0:
            self.skip("an ordinary user's berth does not work here")
        flip = "import os\nwhile True:\n  for place in '/', 'real':\n    os.symlink(place, 'new')\n    os.rename('new', 'link')"
        with subprocess.Popen([sys.executable, "-c", flip], cwd=self.state) as flipping:
            try:
                runs = [self.as_user(job) for _ in range(40)]
            finally:
                flipping.kill()
        self.assertEqual({run.out for run in runs}, {""})
        for run in runs:
            self.assertRegex(run.outcome["message"], "completed|changed while|is the job's own|links in the job's root", str(run))

    def test_few_processes_are_enough_and_too_few_are_refused(self):
        job = self.job("exit", 0, memory_per_node=None)
        if self.as_user(job).status != 0:
            self.skip("an ordinary user's berth does not work here")
        self.assert_state(self.as_user(job, processes=8), "COMPLETED")
        self.assert_refused(self.as_user(job, processes=2), "there may be no more processes", "ulimit -u")

    def test_limit_that_it_cannot_enforce_is_refused_by_name(self):
        run = self.as_user(self.job("exit", 0, memory_per_node="64M"))
        if run.status == 0:
            self.skip("cgroups are delegated to an ordinary user here")
        self.assert_refused(run, "memory_per_node")

    def test_wall_and_output_limits_hold_without_cgroups(self):
        run = self.as_user(self.job("ignore_term", memory_per_node=None, time_limit="1s", grace_period="200ms"))
        if run.status == 125:
            self.skip("berth refuses to run without root here: " + run.err.strip().splitlines()[-1])
        self.assert_state(run, "TIMEOUT", "wall_time", 124)
        run = self.as_user(self.job("print", 100_000, memory_per_node=None, limits={"output": 1000}))
        self.assert_state(run, "FAILED", "output_limit")
        self.assertEqual(len(run.out), 1000)

    def test_fork_bomb_and_daemon_end_with_the_namespace(self):
        run = self.as_user(self.job("daemon", 1000, memory_per_node=None))
        if run.status == 125:
            self.skip("berth refuses to run without root here: " + run.err.strip().splitlines()[-1])
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assert_state(self.as_user(self.job("fork_bomb", 1, memory_per_node=None), processes=60), "COMPLETED", "exited", 0)

    def test_another_user_is_refused(self):
        run = self.as_user(self.job("exit", 0, memory_per_node=None, isolation={"user": "daemon"}))
        self.assertEqual(run.status, 125, str(run))
        self.assertEqual(run.records, [])

    def test_another_group_is_refused_and_the_own_one_is_taken(self):
        run = self.as_user(self.job("exit", 0, memory_per_node=None, isolation={"user": f"{TEST_UID}:4343"}))
        self.assert_refused(run, "isolation.user: only root can run a job in another group")
        run = self.as_user(self.job("exit", 0, memory_per_node=None, isolation={"user": f"{TEST_UID}:{TEST_UID}"}))
        self.assertEqual(run.status, 0, str(run))


if __name__ == "__main__":
    main()
