"""What somebody who knows Slurm types: sbatch's options and scripts, ids of tasks, scancel's selections, formats."""

import json
import os
import subprocess
import threading
import time
from datetime import datetime

from berth_case import eventually, main
from daemon_case import DaemonCase, UnixConnection


class Submitting(DaemonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def script(self, text, name="job.sh"):
        path = os.path.join(self.work, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def spec(self, job):
        return self.records(job)[-1]["spec"]

    def test_a_per_cent_sign_of_the_folder_is_no_pattern(self):
        folder = os.path.join(self.work, "100%j 5%done")
        os.mkdir(folder)
        os.chmod(folder, 0o777)
        job = self.submit("print_both", current_working_directory=folder)
        self.ok("wait", job)
        self.assertIn("to output", self.logs(job))
        self.assertEqual(os.listdir(folder), [f"berth-{job}.out"])

    def test_a_script_is_read_from_standard_input(self):
        text = b"#!/bin/sh\n#SBATCH -J piped -t 5\necho $SLURM_JOB_NAME\n"
        for arguments in ((), ("-",), ("--comment", "x")):
            job = int(self.ok("submit", "--parsable", *arguments, given=text))
            self.ok("wait", job)
            self.assertEqual((self.logs(job), self.spec(job)["time_limit"]), ("piped\n", "00:05:00"))
        for arguments in ((), ("-",), ("/dev/stdin",)):
            self.assertEqual(self.cli("submit", "--wait", *arguments, given=json.dumps(self.job("exit", 3)).encode())[0], 3)
        for text, said in ((b"echo no\n", "standard input: is neither a script"), (b"", "needs a job")):
            status, _, err = self.cli("submit", given=text)
            self.assertEqual((status, said in err), (125, True), err)

    def test_a_pipe_is_read_once_and_starts_in_the_current_directory(self):
        submit = ("submit", "--socket", self.socket, "--wait", "{pipe}")
        status, _, err = self.berth_piped(json.dumps({"argv": ["sh", "-c", "pwd; exit 5"], "standard_output": "out"}), *submit)
        self.assertEqual(status, 5, err)
        with open(os.path.join(self.work, "out"), encoding="utf-8") as file:
            self.assertEqual(file.read(), self.work + "\n")
        self.assertEqual(self.berth_piped("#!/bin/sh\n#SBATCH -o script.out\nexit 6\n", *submit)[0], 6)

    def test_a_current_directory_that_is_gone_is_missed_only_where_it_is_needed(self):
        lost = os.path.join(self.work, "lost")
        for words, expected in (((self.job_file(self.job("exit", 5)),), 5), (("-D", self.work, "--", self.payload, "exit", "6"), 6), (("-",), 125)):
            os.mkdir(lost)
            status, _, err = self.berth("submit", "--socket", self.socket, "--wait", *words, given=b'{"argv": ["true"]}',
                                        program=("sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', lost))
            self.assertEqual((status, "the current directory is gone" in err), (expected, expected == 125), err)

    def test_dos_line_breaks_are_refused_when_a_script_is_submitted(self):
        with open(self.script(""), "w", encoding="utf-8", newline="") as file:
            file.write("#!/bin/sh\r\necho x\r\n")
        status, out, err = self.cli("submit", file.name)
        self.assertEqual((status, out, f"{file.name}: has DOS line breaks" in err), (125, "", True), err)

    def test_words_after_a_script_are_its_arguments(self):
        path = self.script("#!/bin/sh\necho \"$#:$*\"\n")
        for arguments in (("a", "b c"), ("-c", "2"), ("--foo", "--", "-v"), ("x", "--socket", "y"), ("--help",)):
            job = int(self.ok("submit", "--parsable", path, *arguments))
            self.ok("wait", job)
            self.assertEqual(self.logs(job), f"{len(arguments)}:{' '.join(arguments)}\n")

    def test_a_fault_that_berthd_finds_is_told_of_its_file_among_many(self):
        folder = os.path.join(self.work, "jobs-of-a-long-name" * 10)
        os.mkdir(folder)
        files = [os.path.join(folder, f"{number:03}.json") for number in range(300)]
        for number, path in enumerate(files):
            fit, faulty = (self.job("exit", 0, cpus_per_task=count) for count in (1, 1000))
            with open(path, "w", encoding="utf-8") as file:
                json.dump({7: faulty, 9: [fit, fit, faulty]}.get(number, fit), file)
        status, out, err = self.cli("submit", *files)
        self.assertEqual((status, out), (125, ""))
        first, second = err.splitlines()
        self.assertTrue(first.startswith(f'berth: {files[7]}: job "'), first)
        self.assertTrue(second.startswith(f"{files[9]}: /2: job \""), second)
        self.assertEqual(self.cli("submit", *files[10:])[0], 0)

    def test_one_task_on_one_machine_is_what_a_job_is(self):
        path = self.script("#!/bin/sh\n#SBATCH --nodes=1\n#SBATCH --ntasks=1 --ntasks-per-node=1\n"
                           "#SBATCH --no-requeue\n#SBATCH --mem-per-cpu=20M -c 2\ntrue\n")
        job = int(self.ok("submit", "--parsable", path))
        self.ok("wait", job)
        self.assertEqual((self.spec(job)["memory_per_node"], self.spec(job).get("requeue", False)), ("40M", False))
        self.assertTrue(self.spec(int(self.ok("submit", "--parsable", "--requeue", "-H", path)))["requeue"])
        self.ok("cancel", "--me")
        for arguments in (("-N", 2), ("-n", 4), ("--ntasks-per-node", 2)):
            status, _, err = self.cli("submit", *arguments, "--", "true")
            self.assertEqual(status, 125)
            self.assertIn("use -c", err)

    def test_what_is_not_there_is_refused_with_what_to_do(self):
        for option, remedy in {
            "--partition=long": "no partitions", "--qos=high": "--nice", "--gres=gpu:1": "--device", "--mail-type=END": "berth wait",
            "--constraint=x": "this machine alone", "--nodelist=a": "this machine alone", "--licenses=a": "--slots",
            "--reservation=x": "--cpus", "--oversubscribe": "--cpu-quota", "--tmp=1G": "--tmpfs",
        }.items():
            path = self.script(f"#!/bin/sh\n#SBATCH {option}\ntrue\n")
            for arguments in ((option, "--", "true"), (path,)):
                status, out, err = self.cli("submit", *arguments)
                self.assertEqual((status, out), (125, ""), option)
                self.assertIn(remedy, err)

    def test_the_submitters_umask_is_the_jobs(self):
        command = ["sh", "-c", 'umask $1; shift; exec "$@"', "sh"]
        submit = [os.environ.get("BERTH_PROGRAM", "berth"), "submit", "--socket", self.socket, "--wait", "-o", "out", "--wrap", "umask; touch made"]
        for mask, modes in (("077", {0o600}), ("002", {0o664})):
            subprocess.run([*command, mask, *submit], cwd=self.work, env=self.environment(), check=True, timeout=60)
            paths = [os.path.join(self.work, name) for name in ("out", "made")]
            self.assertEqual({os.stat(path).st_mode & 0o777 for path in paths}, modes)
            with open(paths[0], encoding="utf-8") as file:
                self.assertEqual(file.read(), f"0{mask}\n")
            for path in paths:
                os.unlink(path)

    def test_no_time_limit_has_sbatchs_words(self):
        for word in ("0", "UNLIMITED", "INFINITE"):
            job = int(self.ok("submit", "--parsable", "-H", "-t", word, "--", "true"))
            self.assertNotIn("time_limit", self.spec(job))
            self.ok("cancel", job)
        status, _, err = self.cli("submit", "-a", "3-0", "--", "true")
        self.assertEqual(status, 125)
        self.assertIn("--array", err)

    def test_exclusive_takes_every_cpu(self):
        job = int(self.ok("submit", "--parsable", "--exclusive", "--", self.payload, "exit", "0"))
        self.ok("wait", job)
        self.assertEqual(self.records(job)[-1]["allocation"]["cpu_count"], json.loads(self.ok("slots", "--json"))["cpus"])

    def test_test_only_submits_nothing_and_tells_when(self):
        out = self.ok("submit", "--test-only", "-J", "try", "--", "true")
        self.assertIn('job "try" would start by 20', out)
        blocker = int(self.ok("submit", "--parsable", "--exclusive", "-t", "10", "--", self.payload, "hold", "600"))
        self.wait_for_state(blocker, "RUNNING")
        now = self.ok("submit", "--test-only", "-t", "1", "--", "true")
        later = self.ok("submit", "--test-only", "--begin", "now+3days", "--", "true")
        self.assertLess(now.split(" by ")[1], later.split(" no sooner than ")[1])
        self.assertIn("cannot be told", self.ok("submit", "--test-only", "-H", "--", "true"))
        status, _, err = self.cli("submit", "--test-only", "-c", 4000, "--", "true")
        self.assertEqual(status, 125)
        self.assertIn("4000 CPUs", err)
        self.assertEqual(self.cli("submit", "--test-only", "-d", "afterok:999999", "--", "true")[0], 125)
        self.assertEqual(list(self.queue()), [blocker])
        self.ok("cancel", "--now", blocker)

    def test_a_dependency_is_on_jobs_that_there_are_and_not_in_a_circle(self):
        status, _, err = self.cli("submit", "-d", "afterok:999999", "--", "true")
        self.assertEqual(status, 125)
        self.assertIn("no job 999999", err)
        for text, why in (("aftercorr:1", "not supported"), ("after:1+5", "begin time"), ("afterok:x", "no job id")):
            status, _, err = self.cli("submit", "-d", text, "--", "true")
            self.assertEqual(status, 125)
            self.assertIn(why, err)
        first = self.submit("exit", 0, hold=True)
        second = self.submit("exit", 0, dependency=f"afterany:{first}")
        third = self.submit("exit", 0, dependency=f"afterany:{second}")
        for job in (first, third):
            status, _, err = self.cli("update", "-d", f"afterany:{third}", job)
            self.assertEqual(status, 1)
            self.assertIn("wait for itself", err)
        self.ok("release", first)
        self.ok("wait", third)


class Shrinking(DaemonCase):
    def test_a_job_that_the_pool_has_become_too_small_for_lets_others_pass(self):
        self.start_daemon()
        self.ok("drain")
        large = self.submit("exit", 0, cpus_per_task=2)
        small = self.submit("exit", 0)
        self.stop_daemon()
        self.end_runners()
        self.write_config(pool={"cpus": "0"})
        self.start_daemon()
        self.ok("undrain")
        self.ok("wait", small)
        self.assertEqual(self.queue()[large]["reason"], "BadConstraints")
        self.assertIn("berth update", self.ok("why", large))
        self.ok("update", "-c", 1, large)
        self.ok("wait", large)


class Listings(DaemonCase):
    configuration = {"pool": {"slots": 1}}

    def setUp(self):
        super().setUp()
        self.start_daemon()
        self.first = self.submit("hold", 600, name="first", account="a")
        self.wait_for_state(self.first, "RUNNING")
        self.second = self.submit("hold", 600, name="second", account="b", hold=True, nice=3)
        self.third = self.submit("hold", 600, name="third", account="b", user="postgres")

    def tearDown(self):
        self.ok("cancel", "--now", "--state", "PENDING,RUNNING,SUSPENDED")
        super().tearDown()

    def listed(self, *arguments, **options):
        return self.ok("queue", "-n", "-P", "-o", "JobName", *arguments, **options).split()

    def test_the_queue_has_columns_and_filters(self):
        self.assertEqual(self.ok("queue", "-P", "-o", "JobID,jobname,Priority,Reason").splitlines(),
                         ["JOBID|NAME|PRIORITY|REASON", f"{self.first}|first||None", f"{self.second}|second|-3|JobHeldUser",
                          f"{self.third}|third|0|Resources"])
        self.assertEqual(self.ok("queue", "-n", "-o", "JobName%-9,State%4", "--name", "second"), "second    PEN+\n")
        for arguments, names in (
            (("--name", "first,third"), ["first", "third"]), (("-A", "b"), ["second", "third"]), (("-j", self.second), ["second"]),
            (("-j", f"{self.first}-{self.second}"), ["first", "second"]), (("-u", "postgres"), ["third"]), (("-u", "postgres,0"), ["first", "second", "third"]), (("--me",), ["first", "second"]),
            (("-t", "PD"), ["second", "third"]), (("-t", "ALL"), ["first", "second", "third"]),
        ):
            self.assertEqual(self.listed(*arguments), names, arguments)
        self.assertEqual(self.listed("-u", "00"), ["first", "second"])
        self.assertEqual(self.listed(user="postgres"), ["third"])
        self.assertEqual([job["name"] for job in json.loads(self.ok("queue", "--json", "-A", "b"))["jobs"]], ["second", "third"])
        status, _, err = self.cli("queue", "-o", "Nonsense")
        self.assertEqual(status, 2)
        self.assertIn("JobIDRaw", err)
        self.assertEqual(self.ok("slots", "-n", "-P", "-o", "JobID,CPUs", "--delimiter", ";").split(";")[0], str(self.first))
        self.ok("hold", f"{self.second},{self.third}")
        self.assertEqual(self.ok("queue", "-n", "-P", "--delimiter", ",", "-o", "JobName,Reason", "-A", "b").split(), ["second,JobHeldUser", "third,JobHeldAdmin"])
        self.assertEqual(self.ok("slots", "-n", user="postgres"), "")

    def test_what_is_left_of_a_time_limit_is_listed_as_squeue_does(self):
        def left(job):
            return self.ok("queue", "-n", "-P", "-t", "all", "-o", "TimeLimit,TimeLeft,EndTime", "-j", job).rstrip("\n").split("|")

        def at(text):
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S")

        self.assertEqual(left(self.first), ["UNLIMITED", "UNLIMITED", "N/A"])
        self.assertEqual(left(self.second), ["N/A", "N/A", "N/A"])
        self.ok("cancel", "--now", self.first, self.third)
        self.cli("wait", self.first)
        self.assertEqual(left(self.first), ["N/A", "N/A", self.ok("history", "-n", "-P", "-o", "End", self.first).strip()])
        job = self.submit("hold", 600, time_limit="1h", comment="x" * 5000)
        self.wait_for_state(job, "RUNNING")
        limit, rest, end = left(job)
        start = at(self.ok("history", "-n", "-P", "-o", "Start", job).strip())
        self.assertEqual(limit, "01:00:00")
        self.assertRegex(rest, r"^(00:59:[0-9]{2}|01:00:00)$")
        self.assertLessEqual(abs((at(end) - start).total_seconds() - 3600), 1)
        self.assertEqual(self.queue()[job]["time_limit_usec"], 3_600_000_000)
        self.ok("suspend", job)
        rest, end = left(job)[1:]
        self.assertTrue(eventually(lambda: left(job)[2] > end))  # goes on while the job does not
        seconds = [datetime.strptime(text, "%H:%M:%S") for text in (rest, left(job)[1])]
        self.assertLessEqual(abs((seconds[0] - seconds[1]).total_seconds()), 1)

    def test_a_limit_counts_the_jobs_that_are_selected(self):
        for arguments, names in (
            (("-u", "postgres,redis"), ["third"]), (("-u", "redis,0"), ["first"]), (("--name", "second,third"), ["second"]),
            (("-A", "b"), ["second"]), (("-j", self.third), ["third"]), ((), ["first"]),
        ):
            status, out, err = self.cli("queue", "-n", "-P", "-o", "JobName", "--limit", 1, *arguments)
            self.assertEqual((status, out.split()), (0, names), arguments)
            is_cut = names != ["third"]
            self.assertEqual("there are more" in err, is_cut, arguments)
            listing = json.loads(self.ok("queue", "--json", "--limit", 1, *arguments))
            self.assertEqual(([job["name"] for job in listing["jobs"]], listing["truncated"]), (names, is_cut), arguments)

    def test_what_slurm_says_otherwise_is_refused_with_what_to_say(self):
        for words, said in (
            (("queue", "-o", "%.18i %.9P"), "squeue's letters have names here"), (("queue", "--start"), "use berth why"),
            (("history", "-o", "%.18i"), "squeue's letters have names here"), (("show", f"{self.first}.batch"), "jobs have no steps"),
            (("update", "JobId=1", "TimeLimit=5"), "berth update --time 10 36"), (("history", "--brief"), "-o JobID,State,ExitCode"),
            (("cancel", "-b", self.first), "--batch goes with --signal"), (("cancel", "--now", "-s", "USR1", self.first), "--now does not go with"),
            (("cancel", "-s", "USR9", self.first), "is not a signal"),
        ):
            status, _, err = self.cli(*words)
            self.assertEqual((status, said in err), (2, True), err)
        status, _, err = self.cli("submit", "-q", "normal", "--wrap", "true")
        self.assertEqual((status, "sbatch's -q names a QOS" in err), (125, True), err)

    def test_history_takes_ranges_and_words_of_sacct_that_change_nothing(self):
        names = ("-n", "-P", "-o", "JobName")
        self.assertEqual(self.ok("history", *names, "-j", f"{self.first}-{self.second}").split(), ["first", "second"])
        self.assertEqual(self.ok("history", *names, f"{self.second}-{self.third + 50}").split(), ["second", "third"])
        for command in ("history", "queue"):
            for jobs in ("3-1", "1-100001", "1-x"):
                status, _, err = self.cli(command, "-j", jobs)
                self.assertEqual((status, f'"{jobs}" is no range of at most 100000 jobs (use 36-40)' in err), (2, True), err)
        self.assertEqual(self.listed("-j", f"{self.first},{self.second}_[1-2,4],{self.third}"), ["first", "third"])
        self.assertEqual(self.ok("history", *names, "-X", "-a", "-D").split(), ["first", "second", "third"])

    def test_cancel_with_a_signal_ends_nothing_by_itself(self):
        path = os.path.join(self.work, "got")
        self.ok("update", "--nice", 5, self.second)
        trapping = self.submit(argv=["sh", "-c", f"trap 'echo got > {path}' USR1; echo ready; while :; do sleep 0.1; done"], name="traps")
        self.ok("cancel", "--now", self.first, self.third)
        self.wait_for_state(trapping, "RUNNING")
        self.assertTrue(eventually(lambda: "ready" in self.logs(trapping)))
        self.ok("cancel", "--signal=USR1", "--batch", trapping)
        self.assertTrue(eventually(lambda: os.path.exists(path)))
        os.unlink(path)
        self.ok("cancel", "-s", "USR1", "-b", "--me")  # the one that waits gets none, which is no fault
        self.assertTrue(eventually(lambda: os.path.exists(path)))
        self.assertEqual((self.state(trapping), self.state(self.second)), ("RUNNING", "PENDING"))
        status, _, err = self.cli("cancel", "-s", "USR1", self.second)
        self.assertEqual((status, "does not run" in err), (1, True), err)

    def test_a_job_that_cannot_be_changed_keeps_no_other_from_it(self):
        status, _, err = self.cli("update", "--nice", 9, self.first, self.second)
        self.assertEqual((status, err.count("berth: ")), (1, 1), err)
        self.assertEqual(self.records(self.second)[-1]["spec"]["nice"], 9)
        for option, field in (("--comment", "comment"), ("--account", "account")):
            self.ok("update", option, "text", self.second)
            self.ok("update", option, "none", self.second)
            self.assertFalse(self.records(self.second)[-1]["spec"].get(field))

    def test_jobs_are_cancelled_by_what_they_are(self):
        self.ok("cancel", "--state", "PENDING", "--account", "b", user="postgres")
        self.assertEqual(self.listed(), ["first", "second"])
        self.ok("cancel", "-u", "root", "-t", "PD", self.first)  # named, but not in that state
        self.assertEqual(self.listed(), ["first", "second"])
        self.ok("cancel", "--name", "second,first", "-t", "PENDING")
        self.assertEqual(self.listed(), ["first"])
        self.assertEqual(self.cli("cancel")[0], 2)
        for option in ("--name", "-n", "--user", "-u", "--account", "-A", "--state", "-t"):
            status, _, err = self.cli("cancel", option, "")
            self.assertEqual((status, "is empty" in err), (2, True), err)
        self.assertEqual(self.cli("cancel", "--name", ",")[0], 2)
        for command in ("queue", "cancel"):
            status, _, err = self.cli(command, "--me", "-u", "postgres")
            self.assertEqual((status, "exclude each other" in err), (2, True), err)
        self.assertEqual(self.cli("queue", "--name", "")[0], 2)
        self.assertEqual(self.listed(), ["first"])
        more = [self.submit("hold", 600, name="many") for _ in range(3)]
        self.ok("cancel", f"{more[0]}-{more[-1]}")
        self.assertEqual(self.listed(), ["first"])
        for wrong in ("x", "5-3", "7_[x]", "7_[]", "1-x", "0"):
            self.assertNotEqual(self.cli("cancel", wrong)[0], 0, wrong)


class Tasks(DaemonCase):
    configuration = {"pool": {"slots": 1}}

    def setUp(self):
        super().setUp()
        self.start_daemon()

    def array(self, tasks="0-9", *argv, **spec):
        array = self.submit(*(argv or ("hold", 600)), array=tasks, **spec)
        self.wait_for_state(f"{array}_0", "RUNNING")
        return array

    def left(self, array):
        return self.queue()[array]["queue"]["array_tasks"]

    def answer_to(self, method, path):
        connection = UnixConnection(self.socket)
        connection.request(method, path)
        status = connection.getresponse().status
        connection.close()
        return status

    def test_a_selection_by_state_looks_at_each_task(self):
        array = self.array("0-9")
        running = f"{array}_0"
        self.ok("cancel", "--me", "-t", "PENDING", f"{array}_4", f"{array}_[6-7]", running)
        self.assertEqual((self.left(array), self.state(running)), ("1-3,5,8-9", "RUNNING"))
        status, _, err = self.cli("cancel", "-t", "nothing", array)
        self.assertEqual((status, "nothing" in err), (2, True), err)
        for state in ("SUSPENDED", "COMPLETED"):
            self.assertEqual(self.answer_to("POST", f"/v1/jobs/{array}/cancel?state={state}"), 409)
        for state, answer in (("", 400), ("nothing", 400), ("RUNNING", 409)):
            self.assertEqual(self.answer_to("POST", f"/v1/jobs/{array}_5/cancel?state={state}"), answer)
        self.assertEqual(self.left(array), "1-3,5,8-9", "what is refused leaves a task in its array")
        self.ok("cancel", "--me", "--state", "PENDING")
        self.assertEqual((self.state(running), array in self.queue()), ("RUNNING", False))
        other = self.submit("hold", 600, array="0-3")
        self.ok("cancel", "--me", "--state", "RUNNING")
        self.wait_for_state(f"{other}_0", "RUNNING")
        self.assertEqual(self.left(other), "1-3")

    def test_a_selection_sends_a_running_task_one_signal(self):
        got = os.path.join(self.work, "got")
        script = f"trap 'echo got >> {got}' USR1; echo ready; while :; do sleep 0.1; done"
        array = self.submit(argv=["sh", "-c", script], array="0-3")
        self.wait_for_state(f"{array}_0", "RUNNING")
        self.assertTrue(eventually(lambda: "ready" in self.logs(f"{array}_0")))
        self.ok("cancel", "-s", "USR1", "-t", "PENDING", "--me")
        time.sleep(1)
        self.assertFalse(os.path.exists(got))
        self.ok("cancel", "-s", "USR1", "--me")
        self.assertTrue(eventually(lambda: os.path.exists(got)))
        time.sleep(1)
        with open(got, encoding="ascii") as lines:
            self.assertEqual(lines.read(), "got\n")

    def test_a_task_that_waits_is_listed_by_its_number(self):
        array = self.array("0-9")
        self.assertEqual(self.ok("queue", "-n", "-P", "-o", "JobID", "-j", f"{array}_4").split(), [f"{array}_[1-9]"])
        self.assertEqual(self.ok("queue", "-n", "-P", "-o", "JobID", "-j", f"{array}_40").split(), [])

    def test_a_task_that_waits_is_shown_changed_and_ended_by_its_number(self):
        array = self.array("0-11")
        self.assertIn("PENDING", self.ok("why", f"{array}_5"))
        self.assertIn(f"Job {array}\n", self.ok("show", f"{array}_5"))
        self.assertEqual(self.left(array), "1-11")
        self.ok("cancel", f"{array}_5")
        self.assertEqual((self.left(array), self.state(f"{array}_5")), ("1-4,6-11", "CANCELLED"))
        self.ok("hold", f"{array}_6")
        self.ok("cancel", f"{array}_[7-8,10]")
        self.assertEqual(self.left(array), "1-4,9,11")
        self.ok("update", "--nice", 5, "--comment", "apart", f"{array}_9")
        listed = self.ok("queue", "-n", "-P", "-o", "JobID,Reason,Priority").splitlines()
        self.assertIn(f"{array}_6|JobHeldUser|0", listed)
        self.assertIn(f"{array}_9|Priority|-5", listed)
        self.assertIn(f"{array}_[1-4,11]|Resources|0", listed)
        for action in ("suspend", "resume", "requeue"):
            self.assertEqual(self.cli(action, f"{array}_3")[0], 1, action)
        for missing in (f"{array}_5000", f"{array + 1000}_1"):
            status, _, err = self.cli("cancel", missing)
            self.assertEqual(status, 1)
            self.assertIn("there is no job", err)
        self.assertEqual(self.cli("hold", f"{array}_3", user="postgres")[0], 1)
        self.ok("release", f"{array}_6")
        self.assertIn(f"{array}_6|Priority", self.ok("queue", "-n", "-P", "-o", "JobID,Reason"))
        self.kill_daemon()
        self.start_daemon()
        self.assertEqual(self.left(array), "1-4,11")
        self.ok("cancel", "--now", array)
        self.assertTrue(eventually(lambda: not self.queue()))
        self.assertNotEqual(self.cli("wait", array)[0], 0)

    def test_a_task_is_waited_for_and_followed_before_it_has_started(self):
        array = self.array("0-2", "print_slowly", 3, 0.2)
        waiter = threading.Thread(target=lambda: self.answers.append(self.cli("wait", "--json", f"{array}_1")))
        self.answers = []
        waiter.start()
        self.assertEqual(len(self.ok("logs", "-f", f"{array}_2").splitlines()), 3)
        waiter.join(30)
        self.assertEqual(self.answers[0][0], 0, self.answers)
        self.assertEqual(json.loads(self.answers[0][1])["state"], "COMPLETED")
        self.ok("wait", array)
        self.assertEqual(self.cli("logs", f"{array}_3")[0], 1)

    def test_who_waits_for_a_task_that_never_starts_is_told(self):
        array = self.array("0-5")
        waiter = subprocess.Popen([os.environ.get("BERTH_PROGRAM", "berth"), "wait", "--socket", self.socket, f"{array}_4"],
                                  stderr=subprocess.PIPE, text=True)
        with waiter:
            self.assertTrue(eventually(lambda: self.cli("slots")[0] == 0))
            eventually(lambda: False, 0.3)
            self.ok("cancel", "--now", array)
            self.assertEqual(waiter.wait(20), 143)
            self.assertIn("was cancelled with its array", waiter.stderr.read())
        status, _, err = self.cli("wait", f"{array}_5")
        self.assertEqual((status, err), (143, f"berth: job {array}_5 was cancelled with its array before it started\n"))
        self.assertIn("was cancelled with its array", self.cli("requeue", f"{array}_5")[2])
        self.assertIn("there is no job", self.cli("wait", f"{array}_6")[2])

    def test_history_knows_tasks_by_their_array(self):
        array = self.submit("exit", 0, array="3,5")
        self.ok("wait", array)
        listed = lambda *words: self.ok("history", "-n", "-P", "-o", "JobID,JobIDRaw", *words).split()  # noqa: E731
        tasks = [f"{array}_3|{array + 1}", f"{array}_5|{array + 2}"]
        self.assertEqual(listed("-j", array), [f"{array}|{array}", *tasks])
        self.assertEqual(listed(f"{array}_5"), tasks[1:])
        self.assertEqual(self.records(f"{array}_3")[0]["array_task_id"], 3)
        self.assertIn(f"{array}_3", self.ok("show", array + 1))
        self.assertIn("CPU Efficiency", self.ok("efficiency", f"{array}_3"))

    def test_an_array_ends_though_its_tasks_run_again_or_its_last_one_is_cancelled(self):
        array = self.submit("exit", 3, array="0-1", retry={"max": 1})
        self.assertEqual(self.cli("wait", array)[0], 3)
        self.assertEqual([len(self.records(f"{array}_{task}")) for task in (0, 1)], [2, 2])
        array = self.submit("exit", 3, array="0-1", retry={"max": 1, "backoff": "1h"})
        self.assertTrue(eventually(lambda: all(len(self.records(f"{array}_{task}")) == 2 for task in (0, 1)), 30))
        self.assertEqual({self.state(f"{array}_{task}") for task in (0, 1)}, {"PENDING"})
        self.assertEqual({job["reason"] for job in self.queue().values() if "array_job_id" in job}, {"BeginTime"})
        self.ok("cancel", f"{array}_[0-1]")
        self.assertEqual(self.cli("wait", array)[0], 143)

    def test_who_waits_for_an_array_gets_the_highest_status_of_its_tasks(self):
        for wrap, status in (("exit $((SLURM_ARRAY_TASK_ID + 5))", 7), ("exit 0", 0), ("kill -9 $$", 137)):
            status_now, out, _ = self.cli("submit", "--parsable", "--wait", "-a", "0-2", "--wrap", wrap)
            self.assertEqual(status_now, status, wrap)
            self.assertEqual(self.cli("wait", out.strip())[0], status, wrap)

    def test_a_job_depends_on_one_task(self):
        array = self.array("0-2")
        second = self.submit("exit", 0, dependency=f"afterany:{array}_0")
        never = self.submit("exit", 0, dependency=f"afterok:{array}_2")
        self.assertEqual(self.queue()[second]["reason"], "Dependency")
        self.assertEqual(self.cli("submit", "-d", f"afterok:{array}_7", "--", "true")[0], 125)
        self.ok("hold", array)
        self.ok("cancel", "--now", f"{array}_0")
        self.ok("wait", second)
        self.assertEqual(self.queue()[never]["reason"], "Dependency")
        self.ok("cancel", array)
        self.assertTrue(eventually(lambda: self.queue()[never]["reason"] == "DependencyNeverSatisfied"))
        self.ok("cancel", never)

    def test_the_throttle_is_told_also_of_an_array_that_depended(self):
        first = self.submit("exit", 0)
        self.ok("wait", first)
        self.stop_daemon()
        self.end_runners()
        self.write_config(pool={"slots": 2})
        self.start_daemon()
        array = self.array("0-3%1", dependency=f"afterok:{first}")
        self.assertEqual(self.queue()[array]["reason"], "JobArrayTaskLimit")
        self.ok("cancel", "--now", array)

    def test_singletons_of_an_array_are_separated_without_waiting_for_it(self):
        array = self.array("0-3%1", name="single", dependency="singleton")
        self.ok("hold", f"{array}_2")
        self.ok("release", f"{array}_2")
        other = self.submit("exit", 0, name="single", dependency="singleton")
        self.assertEqual(self.queue()[other]["reason"], "Dependency")
        for task in (0, 1):
            self.wait_for_state(f"{array}_{task}", "RUNNING")
            self.ok("cancel", "--now", f"{array}_{task}")
        self.assertTrue(eventually(lambda: self.state(f"{array}_3") == "RUNNING" or self.state(f"{array}_2") == "RUNNING", 30))
        self.ok("cancel", "--now", array)
        self.ok("wait", other)


class Changing(DaemonCase):
    def test_a_change_leaves_what_it_does_not_name_as_it_has_become(self):
        self.start_daemon()
        first = self.submit("exit", 0)
        self.ok("wait", first)
        job = self.submit("allocate", 100, memory_per_node="64M", dependency=f"afterok:{first}",
                          retry={"max": 1, "on": ["OUT_OF_MEMORY"], "memory_factor": 2, "backoff": "1h"})
        self.assertTrue(eventually(lambda: self.queue().get(job, {}).get("reason") == "BeginTime", 30))
        before = self.queue()[job]["queue"]
        self.assertNotIn("dependency", before)
        self.ok("update", "--comment", "new", job)
        self.assertEqual(self.queue()[job]["queue"], before)
        for time in ("1500ms", "500ms"):
            self.ok("update", "--time", time, job)
            self.assertEqual(self.records(job)[-1]["spec"]["time_limit"], time)
        self.ok("update", "--time", "UNLIMITED", job)
        self.ok("update", "--begin", "now", job)
        self.ok("wait", job)
        self.assertEqual(self.records(job)[-1]["spec"]["comment"], "new")

    def test_a_fulfilled_dependency_is_forgotten(self):
        self.configuration = {"history": {"retain": {"jobs": 0}}}
        self.write_config()
        self.start_daemon()
        first = self.submit("exit", 0, hold=True)
        second = self.submit("exit", 0, hold=True, dependency=f"afterok:{first}")
        self.ok("release", first)
        self.assertTrue(eventually(lambda: "dependency" not in self.queue()[second]["queue"]))
        self.assertTrue(eventually(lambda: self.cli("show", first)[0] == 1, 30), "it stays in the history")
        self.kill_daemon()
        self.start_daemon()
        self.ok("release", second)
        self.assertTrue(eventually(lambda: not self.queue()))

    def test_changes_at_once_leave_a_job_in_the_state_of_the_last(self):
        self.start_daemon()
        self.ok("drain")
        jobs = [self.submit("exit", 0) for _ in range(12)]
        actions = [threading.Thread(target=self.cli, args=(action, *jobs)) for action in ("hold", "release", "hold", "cancel")]
        follower = threading.Thread(target=lambda: self.followed.append(self.cli("logs", "-f", kept)))
        kept = self.submit("print_slowly", 2, 0.1)
        self.followed = []
        follower.start()
        for action in actions:
            action.start()
        for _ in range(20):
            self.ok("hold", kept)
            self.ok("release", kept)
        for action in actions:
            action.join(60)
        self.assertEqual({self.state(job) for job in jobs}, {"CANCELLED"})
        self.assertEqual(sorted(self.queue()), [kept])
        self.ok("undrain")
        self.ok("wait", kept)
        follower.join(30)
        self.assertEqual(len(self.followed[0][1].splitlines()), 2, "logs -f ended while the job was being changed")

    def test_a_job_that_is_requeued_twice_runs_once_more(self):
        self.start_daemon()
        job = self.submit("exit", 0)
        self.ok("wait", job)
        self.ok("drain")
        requests = [threading.Thread(target=self.cli, args=("requeue", job)) for _ in range(4)]
        for request in requests:
            request.start()
        for request in requests:
            request.join(30)
        self.ok("undrain")
        self.assertTrue(eventually(lambda: self.state(job) == "COMPLETED" and not self.queue()))
        self.assertEqual(len(self.records(job)), 2)

    def test_a_suspended_job_is_requeued_and_cancelled(self):
        self.start_daemon()
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        self.ok("suspend", job)
        self.ok("requeue", job)
        self.assertTrue(eventually(lambda: len(self.records(job)) == 2 and self.state(job) == "RUNNING", 30))
        self.ok("suspend", job)
        self.ok("cancel", job)
        self.assertNotEqual(self.cli("wait", job)[0], 0)
        self.assertEqual(self.state(job), "CANCELLED")

    def test_what_ended_without_berthd_runs_again_and_ends_its_array(self):
        self.configuration = {"pool": {"slots": 1}}
        self.write_config()
        self.start_daemon()
        gate = os.path.join(self.work, "gate")
        os.mkfifo(gate)
        os.chmod(gate, 0o666)
        command = ["/bin/sh", "-c", f"read x < {gate}; exit 3"]
        job = self.submit_command(command, retry={"max": 1})
        array = self.submit_command(command, array="0-0")
        for following in (job, array):
            self.assertTrue(eventually(lambda: [one for one in self.queue().values() if one["state"] == "RUNNING"]))
            self.kill_daemon()
            with open(gate, "w", encoding="utf-8") as file:
                file.write("x\n")
            self.assertTrue(eventually(self.spooled, 20))
            self.start_daemon()
            if following == job:
                self.assertTrue(eventually(lambda: self.state(job) == "RUNNING"), "its retry was forgotten")
                with open(gate, "w", encoding="utf-8") as file:
                    file.write("x\n")
                self.assertEqual(self.cli("wait", job)[0], 3)
                self.assertEqual(len(self.records(job)), 2)
        self.assertEqual(self.cli("wait", array)[0], 3)

    def submit_command(self, argv, **spec):
        path = self.job_file({"argv": argv, "current_working_directory": self.work, **spec})
        return int(self.ok("submit", "--parsable", path))


if __name__ == "__main__":
    main()
