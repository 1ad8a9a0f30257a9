"""The command line: every command, its exit status and its output."""

import json
import os
import re
import signal
import socket

from berth_case import BERTH, BerthCase, SOURCE, TIMEOUT, berth_cgroups, children, eventually, main, natively, read
from terminal_case import Terminal


class WithoutJobs(BerthCase):
    """What needs no root."""

    needs_root = False

    def test_version(self):
        status, out, _ = self.berth("version")
        self.assertEqual(status, 0)
        self.assertRegex(out, r"^berth \d+\.\d+\.\d+\n$")
        status, out, _ = self.berth("version", "--json")
        self.assertIn("version", json.loads(out))
        self.assertEqual(self.berth("--version")[0], 0)

    def test_help_of_every_command_has_examples(self):
        status, out, _ = self.berth("--help")
        self.assertEqual(status, 0)
        for command in ("run", "check", "history", "show", "efficiency", "doctor", "version"):
            self.assertIn(command, out)
            status, text, err = self.berth(command, "--help")
            self.assertEqual((status, err), (0, ""))
            self.assertIn(f"berth {command}", text)
            self.assertRegex(text, "(?i)example")
            self.assertEqual(self.berth("help", command)[1], text)

    def test_usage_errors(self):
        for words, expected in (
            (["run", "--no-such"], 125), (["run"], 125), (["history", "--no-such"], 1), (["no-such-command"], None), ([], None),
            (["check"], None), (["run", "--mem", "2GX", "--", "/bin/true"], 125), (["run", "--root", "", "--", "/bin/true"], 125),
            (["run", "--result", "", "--", "/bin/true"], 125),
            (["run", "--stdin", "-i", "/dev/null", "--", "/bin/true"], 125), (["run", "--network", "private", "--egress", "10.0.0.0/8", "--egress", "allow", "--", "/bin/true"], 125), (["submit", "--wrap", ""], 125), (["submit", "-d", "", "--", "/bin/true"], 125),
        ):
            with self.subTest(words=words):
                status, _, err = self.berth(*words)
                self.assertNotEqual(status, 0)
                if expected == 125:
                    self.assertEqual(status, 125)
                self.assertTrue(err)

    def test_a_wrong_list_of_cpus_is_quoted_once(self):
        status, _, err = self.berth("run", "--cpus", "x", "--", "/bin/true")
        self.assertEqual((status, '--cpus: "x" is not a list of CPUs' in err), (125, True), err)

    def test_misspelt_option_is_answered_with_the_nearest(self):
        _, _, err = self.berth("run", "--cpus-per-tsk", "1", "--", "/bin/true")
        self.assertIn("--cpus-per-task", err)

    def test_options_of_slurm_that_are_not_there_say_what_to_use(self):
        self.assertIn("sacct's -q names a QOS", self.berth("history", "-q", "normal")[2])
        status, _, err = self.berth("run", "--array", "0-3", "--", "/bin/true")
        self.assertEqual(status, 125)
        self.assertIn("berth submit", err)

    def test_examples_are_valid(self):
        folder = os.path.join(SOURCE, "examples")
        files = sorted(os.path.join(path, name) for path, _, names in os.walk(folder) for name in names if name.endswith(".json"))
        self.assertGreaterEqual(len(files), 5)
        status, out, err = self.berth("check", *files)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out.count(": ok"), len(files))

    def test_check_names_all_faults_at_once(self):
        job = {
            "argv": ["x"], "memory_per_node": "2GX", "cpus_per_tsk": 1, "limits": {"pid": 3, "pids": 0}, "qos": "high",
            "isolation": {"mounts": [{"source": "relative", "target": "/x"}]},
        }
        path = self.job_file(job, {"argv": []})
        status, out, err = self.berth("check", path)
        self.assertEqual(status, 1)
        rows = err.splitlines()
        for words in (
            ("/0/memory_per_node", "2GX", "512M"), ("/0/cpus_per_tsk", "cpus_per_task"), ("/0/limits/pid", "pids"), ("/0/limits/pids",),
            ("/0/qos", "not supported yet"), ("/1",),
        ):
            self.assertTrue(any(all(word in row for word in words) and row.startswith(path) for row in rows), f"{words} in {err}")

    def test_run_refuses_a_faulty_file_and_creates_nothing(self):
        path = self.job_file({"argv": ["x"], "typo": 1})
        status, _, err = self.berth("run", "--database", self.database, path)
        self.assertEqual(status, 125)
        self.assertIn("typo", err)
        self.assertFalse(os.path.exists(self.database))

    def test_json_with_comments_or_doubled_keys_is_refused(self):
        for text in ('{"argv": ["x"] /* no */}', '{"argv": ["x"], "argv": ["y"]}', '{"argv": ["x"],}', "", "[]", "{"):
            path = os.path.join(self.directory, "text.json")
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            with self.subTest(text=text):
                status, _, err = self.berth("check", path)
                self.assertEqual(status, 1, text)
                self.assertIn(path, err)

    def test_check_reads_standard_input(self):
        status, out, _ = self.berth("check", "-", given=b'{"argv": ["/bin/true"]}')
        self.assertEqual(status, 0)
        self.assertIn("ok, 1 job", out)

    @natively  # an emulator takes a minute to read so many
    def test_check_says_what_is_too_much_for_berthd(self):
        jobs = "[" + ",".join(['{"argv":["x"]}'] * 100_001) + "]"
        status, out, _ = self.berth("check", "-", given=jobs.encode())
        self.assertEqual(status, 0)
        self.assertIn("-: ok, 100001 jobs\n-: berth run takes it, berth submit does not: one request holds at most 100000 jobs", out)

    def test_check_takes_scripts_and_pipes(self):
        self.assertEqual(self.berth_piped('[{"argv": ["x"]}, {"argv": ["y"]}]', "check", "{pipe}")[0], 0)
        self.assertEqual(self.berth_piped("#!/bin/sh\n#SBATCH -t 5\ntrue\n", "check", "{pipe}")[0], 0)
        self.assertIn("-: ok, 1 job", self.berth("check", "-", given=b"#!/bin/sh\ntrue\n")[1])
        status, _, err = self.berth("check", "-", given=b"#!/bin/sh\n#SBATCH --partition=long\n")
        self.assertEqual((status, "there are no partitions" in err), (1, True), err)

    def test_a_folder_whose_name_is_not_utf8_is_refused_as_a_working_directory(self):
        folder = os.path.join(os.fsencode(self.directory), b"caf\xe9")
        os.mkdir(folder)
        with open(os.path.join(folder, b"job.json"), "w", encoding="utf-8") as file:
            file.write('{"argv": ["/bin/true"]}')
        for words in (("check",), ("run", "--database", self.database)):
            status, _, err = self.berth(*words, "job.json", cwd=folder)
            self.assertNotEqual(status, 0)
            self.assertIn("job.json: /current_working_directory: is left out, and the name of the folder", err)
        self.assertFalse(os.path.exists(self.database))

    def test_schema_is_json_schema_draft_7(self):
        status, out, _ = self.berth("check", "--schema")
        self.assertEqual(status, 0)
        self.assertIn("draft-07", json.loads(out)["$schema"])

    def test_doctor_tells_of_every_namespace_and_controller(self):
        status, out, _ = self.berth("doctor", "--json")
        findings = json.loads(out)
        subjects = " ".join(finding["subject"] for finding in findings)
        for word in "user pid mount network ipc uts cgroup time".split():
            self.assertRegex(subjects, rf"(?i)namespace {word}")
        for word in "cpu cpuacct cpuset memory pids devices freezer blkio net_cls hugetlb".split():
            self.assertRegex(subjects, rf"(?i)controller {word}\b")
        self.assertRegex(subjects, "(?i)swap")
        for finding in findings:
            self.assertIn(finding["level"], ("ok", "limited", "missing"))
            if finding["level"] != "ok":
                self.assertTrue(finding["remedy"], f"no remedy: {finding}")
        self.assertEqual(status, 1 if any(finding["level"] == "missing" for finding in findings) else 0)

    def test_full_or_closed_standard_output_is_noticed(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            for words in ({"stdout": full}, {"program": ("sh", "-c", 'exec "$@" >&-', "sh")}):
                status, _, err = self.berth("check", "--schema", **words)
                self.assertEqual(status, 1)
                self.assertIn("standard output", err)

    def test_numbers_of_top_have_bounds_that_are_told(self):
        absent = self.environment(BERTH_SOCKET=os.path.join(self.directory, "absent.sock"))
        for words, expected, said in (
            (["-n", "100000"], 1, "no berthd answers"), (["-n", "0"], 2, '"0" is not a number from 1 to 4294967295'),
            (["-d", "100000"], 2, '"100000" is not a number of seconds above 0 and up to 86400 (a day)'),
        ):
            status, _, err = self.berth("top", *words, environment=absent)
            self.assertEqual((status, said in err), (expected, True), err)

    def test_records_are_berthds_or_those_of_a_database(self):
        for words in (["history"], ["report"], ["show", "1"], ["efficiency", "1"]):
            status, _, err = self.berth("--socket", "s", *words, "--database", self.database)
            self.assertEqual((status, "--socket and --database exclude each other" in err), (2, True), err)
            status, _, err = self.berth("--socket", self.payload, *words)  # nobody listens there
            self.assertEqual((status, "no berthd answers" in err, "--database reads what it recorded" in err), (1, True, True), err)

    def answered_by(self, answer, *words):
        """What a command does whose request a stand-in for berthd answers so before it closes the connection."""
        path = os.path.join(self.directory, "stand-in.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            listener.settimeout(TIMEOUT)
            process = self.start(*words, environment=self.environment(BERTH_SOCKET=path))
            connection = listener.accept()[0]
            os.unlink(path)
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
            return self.finish(process)

    def test_an_answer_of_berthd_that_is_cut_off_is_a_failure(self):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
        for words in (["history", "-P"], ["queue", "--json"], ["submit", "--wrap", "true"], ["exec", "1", "--", "true"]):
            for answer in (b"", head, head + b"JobID|State\n1|COMP"):
                status, out, err = self.answered_by(answer, *words)
                self.assertEqual((status, out), (125 if words[0] in ("submit", "exec") else 1, ""), err)
                self.assertIn("went away while it was asked", err)


class WithJobs(BerthCase):
    def run_command(self, *words, arguments=(), **options):
        return self.berth("run", "--database", self.database, "-D", self.work, *arguments, "--", self.payload, *words, **options)

    def test_a_private_directory_is_no_place_to_start_in_unawares(self):
        said = "is an empty directory of its own for each job"
        self.assertIn(said, self.berth("run", "--database", self.database, "--", "true", cwd="/tmp")[2])
        for words in (("-D", "/tmp"), ("--mount", "/tmp:/tmp:rw")):
            self.assertNotIn(said, self.berth("run", "--database", self.database, *words, "--", "true", cwd="/tmp")[2])

    def test_doctor_exits_with_0_where_jobs_of_a_user_run(self):
        user = {"program": ("setpriv", "--reuid=4243", "--regid=4243", "--clear-groups")}
        database = os.path.join(self.results, "berth.db")
        status, _, err = self.berth("run", "--database", database, "--", "true", **user)
        doctor, out, _ = self.berth("doctor", **user)
        self.assertEqual(doctor == 0, status == 0, out + err)

    def test_exit_status_is_the_jobs(self):
        for code in (0, 1, 99, 123, 255):
            self.assertEqual(self.run_command("exit", code)[0], code)

    def test_one_command_is_transparent(self):
        status, out, err = self.run_command("print_both", arguments=["-q"])
        self.assertEqual((status, out, err), (0, "to output\n", "to error\n"))

    def test_standard_input_is_passed_on(self):
        status, out, _ = self.run_command("copy_input", arguments=["-q"], given=b"typed\n" * 10000)
        self.assertEqual((status, out), (0, "typed\n" * 10000))

    def test_closed_standard_streams_are_not_taken_for_anything_else(self):
        def closed(words):
            return ("sh", "-c", f'exec "$@" {words}', "sh")

        self.assertEqual(self.run_command("copy_input", arguments=["-q"], program=closed("<&-")), (0, "", ""))
        self.assertEqual(self.run_command("print_both", arguments=["-q"], program=closed("2>&-")), (0, "to output\n", ""))
        self.assertEqual(self.run_command("exit", 0, arguments=["-q"], program=closed(">&-"))[0], 0)
        status, out, err = self.run_command("print_both", arguments=["-q"], program=closed(">&-"))
        self.assertEqual((status, out, "to error\n" in err, "cannot write to standard output: Bad file descriptor" in err), (125, "", True, True))
        result = os.path.join(self.results, "closed.json")
        status, _, _ = self.run_command("print_both", arguments=["--json", "--result", result], program=closed("<&- >&- 2>&-"))
        self.assertEqual((status, self.read_records(result)[0]["usage"]["output_bytes"]), (125, 19))

    def test_output_that_is_lost_to_a_full_disk_is_a_failure_of_the_run(self):
        for arguments, command, expected in (
                (["-q"], ["print_both"], 125), (["--json"], ["exit", 0], 125), (["-q"], ["exit", 0], 0), (["--json"], ["exit", 3], 3)):
            with self.subTest(arguments=arguments, command=command), open("/dev/full", "w", encoding="utf-8") as full:
                status, _, err = self.run_command(*command, arguments=arguments, stdout=full)
                self.assertEqual(status, expected, err)
                self.assertEqual(expected == 0, "No space left" not in err, err)

    def test_a_limit_on_the_size_of_files_is_a_refusal_and_not_a_death(self):
        status, _, err = self.run_command("exit", 0, program=("prlimit", "--fsize=0"))
        self.assertEqual(status, 125, err)
        self.assertIn("berth:", err)

    def test_options_describe_the_job(self):
        _, out, _ = self.run_command(
            "exit", 0, arguments=["--json", "-J", "name", "-c", "1", "--mem", "64M", "-t", "1:00", "--cpu-time", "30s", "--pids", "9", "-A",
                                  "acc", "--comment", "text", "--hostname", "box", "--env", "A=b,c", "--nice", "3", "--signal", "USR1@10"]
        )
        record = json.loads(out)
        spec = record["spec"]
        self.assertEqual((spec["name"], spec["account"], spec["comment"], spec["nice"]), ("name", "acc", "text", 3))
        self.assertEqual(spec["environment"]["A"], "b,c")
        self.assertEqual(spec["isolation"]["hostname"], "box")
        self.assertEqual(record["allocation"]["memory"], 64 << 20)
        self.assertEqual(spec["limits"]["pids"], 9)

    def test_export_all_leaves_session_variables_out(self):
        environment = self.environment(KEEP="1", SSH_AUTH_SOCK="/x", SUDO_COMMAND="y", SUDO_PROMPT="z")
        _, out, _ = self.run_command("report", arguments=["-q"], environment=environment)
        seen = json.loads(out)["environment"]
        self.assertEqual(seen.get("KEEP"), "1")
        self.assertNotIn("SSH_AUTH_SOCK", seen)
        self.assertFalse([name for name in seen if name.startswith("SUDO_")])
        _, out, _ = self.run_command("report", arguments=["-q", "--export", "NONE"], environment=environment)
        self.assertNotIn("KEEP", json.loads(out)["environment"])

    def test_json_of_run_is_the_record_and_output_goes_to_standard_error(self):
        _, out, err = self.run_command("print_both", arguments=["--json"])
        self.assertEqual(json.loads(out)["state"], "COMPLETED")
        self.assertIn("to output", err)

    def test_usr1_and_usr2_are_the_jobs(self):
        script = "trap 'echo one' USR1; trap 'echo two; exit 5' USR2; echo ready; while :; do sleep 0.05; done"
        process = self.start("run", "--database", self.database, "--", "sh", "-c", script)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        eventually(lambda: False, 0.2)
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(process.stdout.readline(), b"one\n")
        process.send_signal(signal.SIGUSR2)
        status, out, _ = self.finish(process)
        self.assertEqual((status, out), (5, "two\n"))

    def test_the_sbatch_lines_of_a_script_are_options(self):
        script = os.path.join(self.work, "limited.sh")
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n#SBATCH -t 0:01 -o out.txt\necho begun\nsleep 3\n#SBATCH --mem=1\n")
        run = ("run", "--database", self.database)
        self.assertEqual(self.berth(*run, script)[0], 124)
        self.assertEqual(read(os.path.join(self.work, "out.txt")), "begun\n")
        self.assertEqual(self.berth(*run, "-t", "1:00", script)[0], 0)
        for line, fault in (
            ("-a 0-3", "use berth submit"), ("--database x", "for the command line alone"), ("-- ls", "-- is no option"),
            ("-q normal", "berth's -q is --quiet"), ("--mem=0", '--mem: "0" is not greater than 0'), ("--grace 0x", '--grace: "0x" '),
            ("--mem-per-cpu 0", '--mem-per-cpu: "0" is not greater than 0'), ("-J 'a", "has a quote that does not end"), ("--slots 0", '--slots: "0" '),
            ("-J a/b", '--job-name: "a/b" '), ("--cpus-per-task=0", "--cpus-per-task: 0 "), ("--comment", "needs a value"), ("--output=", "needs a value"),
        ):
            with open(script, "w", encoding="utf-8") as file:
                file.write(f"#!/bin/sh\n\n#SBATCH {line}\ntrue\n")
            status, _, err = self.berth(*run, script)
            self.assertEqual(status, 125, err)
            self.assertTrue(err.startswith(f"{script}: line 3: "), err)
            self.assertIn(fault, err)
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n#SBATCH --foo\n#SBATCH -c 2\n#SBATCH --partition=x\ntrue\n")
        self.assertEqual(re.findall(r": line (\d): berth run: --(\w+) is not", self.berth(*run, script)[2]), [("2", "foo"), ("4", "partition")])
        self.assertIn("command line: --mem: ", self.berth(*run, "--mem", "0", "--", "true")[2])

    def test_a_script_for_the_queue_can_be_tried_by_run(self):
        script = os.path.join(self.work, "queued.sh")
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n#SBATCH --requeue --hold\n#SBATCH -W --parsable\necho $SLURM_SUBMIT_DIR\n")
        os.mkdir(os.path.join(self.work, "inner"))
        status, out, err = self.berth("run", "--database", self.database, "-D", "inner", script)
        self.assertEqual((status, out), (0, self.work + "\n"), err)
        self.assertEqual(self.berth("run", "--database", self.database, "--requeue", "--", "true")[0], 125)

    def test_what_a_machine_refuses_is_told_of_the_option(self):
        run = ("run", "--database", self.database)
        status, _, err = self.berth(*run, "--time-offset", "boottime=-999999999", "--", "true")
        self.assertEqual(status, 125)
        self.assertRegex(err, r'job "true": --time-offset: boottime -999999999 would be before .* \(use -[0-9]+ or more\)')
        self.assertRegex(self.berth(*run, "-c", "9999", "--", "true")[2], "as an option -c")

    def test_script_file(self):
        path = os.path.join(self.directory, "script")
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\necho script $#; exit 4\n")
        status, out, _ = self.berth("run", "-q", "--database", self.database, "-D", self.work, path)
        self.assertEqual((status, out), (4, "script 0\n"))
        status, out, _ = self.berth("run", "-q", "--database", self.database, path, "-v", "--", "--json")
        self.assertEqual((status, out), (4, "script 3\n"))

    def test_job_file_on_standard_input(self):
        text = json.dumps([self.job("exit", 5)]).encode()
        self.assertEqual(self.berth("run", "--database", self.database, "-", given=text)[0], 5)
        self.assertEqual(self.berth("run", "--database", self.database, "/dev/stdin", given=text)[0], 5)

    def test_standard_input_is_the_job_where_it_is_named_alone(self):
        run = ("run", "-q", "--database", self.database)
        self.assertEqual(self.berth(*run, "-", given=json.dumps(self.job("exit", 5)).encode())[0], 5)
        script = b'#!/bin/sh\n#SBATCH --comment=x\necho "$SLURM_JOB_NAME"; cat; exit 4\n'
        self.assertEqual(self.berth(*run, "-D", self.work, "-", given=script), (4, "stdin\n", ""))
        status, _, err = self.berth(*run, "-", given=b"echo no\n")
        self.assertEqual((status, "standard input: is neither a script" in err), (125, True), err)
        self.assertEqual(self.history()[-1]["spec"]["comment"], "x")

    def test_a_qos_is_told_from_quiet(self):
        status, _, err = self.berth("run", "-q", "normal")
        self.assertEqual((status, "sbatch's -q names a QOS" in err), (125, True), err)

    def test_without_a_job_standard_input_is_neither_read_nor_waited_for(self):
        reader, writer = os.pipe()  # open, and silent but for this
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        os.write(writer, b"#!/bin/sh\n")
        for words in ((), ("--mem", "abc")):
            status, _, err = self.berth("run", "--database", self.database, *words, stdin=reader)
            self.assertEqual(status, 125)
            self.assertIn("berth run needs a job", err)
            self.assertIn("berth run - reads standard input", err)
        self.assertEqual(os.read(reader, 100), b"#!/bin/sh\n")

    def test_a_terminal_is_not_waited_for_when_no_job_is_named(self):
        terminal = Terminal([BERTH, "submit"], cwd=self.work, env=self.environment())
        self.addCleanup(terminal.close)
        self.note(terminal.process)
        self.assertNotEqual(terminal.finish(), 0)
        self.assertIn("berth submit needs a job", terminal.seen)

    def test_a_pipe_is_read_once_and_starts_in_the_current_directory(self):
        run = ("run", "-q", "--database", self.database)
        job = json.dumps({"argv": ["sh", "-c", "pwd; exit 5"], "standard_output": "out"})
        self.assertEqual(self.berth_piped(job, *run, "{pipe}")[::2], (5, ""))
        self.assertEqual(read(os.path.join(self.work, "out")), self.work + "\n")
        script = "#!/bin/sh\n#SBATCH --comment=x\necho script $#; exit 4\n"
        self.assertEqual(self.berth_piped(script, *run, "{pipe}"), (4, "script 0\n", ""))
        name = '#!/bin/sh\necho "$SLURM_JOB_NAME"; cat\n'
        self.assertEqual(self.berth(*run, "-", given=name.encode()), (0, "stdin\n", ""))

    def test_a_current_directory_that_is_gone_is_missed_only_where_it_is_needed(self):
        def berth(*words, **options):
            lost = os.path.join(self.work, "lost")
            os.mkdir(lost)
            program = ("sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', lost)
            return self.berth("run", "-q", "--database", self.database, *words, program=program, **options)

        self.assertEqual(berth("-D", self.work, "--", "pwd"), (0, f"{self.work}\n", ""))
        self.assertEqual(berth(self.job_file(self.job("exit", 5)))[0], 5)
        self.assertEqual(berth("-", given=json.dumps(self.job("exit", 6)).encode())[0], 6)
        for words, fault in (
            (("--", "pwd"), "command line: --chdir: is left out, and the current directory is gone"),
            (("-D", "x", "--", "pwd"), 'command line: --chdir: "x" is relative, and the current directory is gone'),
            (("-D", self.work, "--mount", "x:/x", "--", "pwd"), '"x" is relative, and the current directory is gone'),
            (("-D", self.work, "-o", "x", "--", "pwd"), 'command line: --output: "x" is relative'),
        ):
            status, _, err = berth(*words)
            self.assertEqual((status, fault in err, err.count("\n")), (125, True, 1), err)
        status, _, err = berth("-", given=b'{"argv": ["pwd"]}')
        self.assertEqual((status, "standard input: /current_working_directory: is left out" in err), (125, True), err)

    def test_a_program_without_dashes_is_told_from_a_job_file(self):
        large = os.path.join(self.directory, "large")
        with open(large, "wb") as file:
            file.truncate(65 << 20)
        os.chmod(large, 0o755)
        for program in (self.payload, large):
            status, _, err = self.berth("run", "--database", self.database, program)
            self.assertEqual((status, f"a command goes after --: -- {program} " in err), (125, True), err)

    def test_what_is_no_script_is_told_as_sbatch_tells_it(self):
        script = os.path.join(self.work, "script")
        for text, fault in (
            ("echo hi\n", "is neither a script, whose first line begins with #!"), ("\n#!/bin/sh\n", "is neither a script"),
            ("#!/bin/sh\r\necho\r\n", "has DOS line breaks"), ("#! sh\n", '"#! sh\\n" does not begin with an interpreter'),
        ):
            with open(script, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            for command, expected in ((("run", "--database", self.database), 125), (("check",), 1)):
                status, _, err = self.berth(*command, script)
                self.assertEqual((status, err.startswith(f"{script}: {fault}")), (expected, True), err)

    def test_a_missing_interpreter_is_named(self):
        for line, error in (("#!/nope/sh -e", "/nope/sh, the interpreter in the script's first line: No such file"), ("#!/bin", "/bin, the interp")):
            status, _, err = self.berth("run", "--database", self.database, "-", given=f"{line}\necho\n".encode())
            self.assertIn(status, (126, 127))
            self.assertIn(f"cannot execute {error}", err)

    def test_a_script_is_given_alone(self):
        script = os.path.join(self.directory, "script")
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n")
        status, _, err = self.berth("run", "--database", self.database, self.job_file(self.job("exit", 0)), script)
        self.assertEqual((status, f"{script}: is a script" in err), (125, True), err)

    def prepare(self):
        self.run_jobs(self.job("exit", 0, name="good", account="a"), self.job("exit", 3, name="bad", account="b"), arguments=["--slots", "1"])

    def listing(self, *words):
        status, out, err = self.berth("history", "--database", self.database, *words)
        self.assertEqual(status, 0, err)
        return out

    def test_history_has_saccts_columns(self):
        self.prepare()
        rows = self.listing().splitlines()
        self.assertIn("JobID", rows[0])
        self.assertRegex(rows[1], r"^[- ]+$")
        out = self.listing("-n", "-P", "-o", "JobID,JobName,State,ExitCode")
        self.assertEqual(out, "1|good|COMPLETED|0:0\n2|bad|FAILED|3:0\n")
        columns = self.listing("--helpformat").split()
        for name in (
            "JobID JobName Partition Account AllocCPUS State ExitCode Submit Start End Elapsed TotalCPU UserCPU SystemCPU MaxRSS User"
        ).split():
            self.assertIn(name, columns)

    def test_history_filters(self):
        self.prepare()
        def ids(*words):
            return self.listing("-n", "-P", "-o", "JobID", *words).split()

        self.assertEqual(ids("-s", "FAILED"), ["2"])
        self.assertEqual(ids("-s", "CD,F"), ["1", "2"])
        self.assertEqual(ids("-u", "root"), ["1", "2"])
        self.assertEqual(ids("-u", "daemon"), [])
        self.assertEqual(ids("-A", "b"), ["2"])
        self.assertEqual(ids("--name", "good"), ["1"])
        self.assertEqual(ids("2"), ["2"])
        self.assertEqual(ids("--last", "1"), ["2"])
        self.assertEqual(ids("-S", "2000-01-01", "-E", "2000-01-02"), [])
        self.assertEqual(ids("-S", "now-1hour"), ["1", "2"])
        status, _, err = self.berth("history", "--database", self.database, "-s", "NOSUCH")
        self.assertEqual(status, 2)
        self.assertIn("NOSUCH", err)

    def test_show_tells_everything_of_a_job(self):
        self.prepare()
        status, out, _ = self.berth("show", "--database", self.database, "2")
        self.assertEqual(status, 0)
        for word in ("bad", "FAILED", "exited with status 3", "CONFIGURING", "RUNNING", "memory_per_node"):
            self.assertIn(word, out)
        status, out, _ = self.berth("show", "--database", self.database, "--json", "2")
        shown = json.loads(out)
        self.assertEqual(shown["jobs"][0]["outcome"]["exit_code"], 3)
        self.assertEqual([event["state"] for event in shown["events"]], ["PENDING", "CONFIGURING", "RUNNING", "FAILED"])
        status, _, err = self.berth("show", "--database", self.database, "999")
        self.assertEqual(status, 1)
        self.assertIn("999", err)

    def test_show_and_efficiency_take_ranges_of_a_database_too(self):
        self.prepare()
        shown = json.loads(self.berth("show", "--database", self.database, "--json", "1-2")[1])["jobs"]
        self.assertEqual([job["spec"]["name"] if "spec" in job else job["name"] for job in shown], ["good", "bad"])
        self.assertEqual(len(json.loads(self.berth("efficiency", "--database", self.database, "--json", "1-2")[1])), 2)
        for operand, said in (("1-3", "there is no job 3 in "), ("1_[2,4]", "there is no job 1_2 in ")):
            status, _, err = self.berth("show", "--database", self.database, operand)
            self.assertEqual((status, said in err), (1, True), err)

    def test_efficiency_is_seffs(self):
        self.run_jobs(self.job("spin_for", 1, memory_per_node="100M"))
        status, out, _ = self.berth("efficiency", "--database", self.database, "1")
        self.assertEqual(status, 0)
        self.assertRegex(out, r"CPU Efficiency: +\d+\.\d+%")
        self.assertRegex(out, r"Memory Efficiency: +\d+\.\d+%")
        status, out, _ = self.berth("efficiency", "--database", self.database, "--json", "1")
        figures = json.loads(out)
        figures = figures[0] if isinstance(figures, list) else figures.get("jobs", [figures])[0]
        used, granted = figures["cpu_utilized_usec"], figures["core_walltime_usec"]
        self.assertAlmostEqual(figures["cpu_efficiency_percent"], 100 * used / granted, places=3)
        self.assertEqual(figures["memory_granted"], 100 << 20)

    def test_result_that_cannot_be_written_is_refused_before_anything_runs(self):
        marker = os.path.join(self.work, "ran")
        status, _, err = self.berth("run", "--database", self.database, "--result", "/no/such/file", "--", "/usr/bin/touch", marker)
        self.assertEqual(status, 125)
        self.assertIn("/no/such/file", err)
        self.assertFalse(os.path.exists(marker))

    def test_result_has_never_the_record_of_the_run_before(self):
        result = os.path.join(self.results, "record.json")
        for cause in ("refused", "killed"):
            self.assertEqual(self.run_command("exit", 0, arguments=["--result", result])[0], 0)
            self.assertEqual(self.read_records(result)[0]["state"], "COMPLETED")
            if cause == "refused":
                self.assertEqual(self.run_command("exit", 0, arguments=["--result", result, "-c", "1000"])[0], 125)
            else:
                process = self.start("run", "--database", self.database, "--result", result, "--", "sh", "-c", "echo runs; sleep 100")
                self.assertEqual(process.stdout.readline(), b"runs\n")
                process.kill()
                self.finish(process)
            self.assertEqual(read(result), "", cause)
        self.run_command("exit", 0)  # removes what the one that was killed left

    def test_test_only_tells_which_jobs_would_start_and_leaves_nothing(self):
        result = os.path.join(self.results, "record.json")
        with open(result, "w", encoding="utf-8") as file:
            file.write("of the run before")
        marker = os.path.join(self.work, "ran")
        file = self.job_file(self.job("touch", marker, name="one", cpus_per_task=1), self.job("exit", 0, name="two", cpus_per_task=1))
        only = ("run", "--test-only", "--database", self.database, "--slots", "1", "--result", result)
        status, out, err = self.berth(*only, file)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out, 'job "one" would start now, on 1 CPUs, with 128M of memory\n'
                              'job "two" would start when others have ended, on 1 CPUs, with 128M of memory\n')
        jobs = json.loads(self.berth(*only, "--json", file)[1])["jobs"]
        self.assertEqual(jobs[0], {"name": "one", "cpus": 1, "memory": 128 << 20, "starts_now": True, "overlaps": False})
        self.assertFalse(jobs[1]["starts_now"])
        for words in (["-c", "4000", "--", "true"], ["--user", "no-such-user", "--", "true"], ["--no-such", "--", "true"], ["--pty", "-o", "x", "--", "true"]):
            with self.subTest(words=words):
                refused = self.berth("run", "--database", self.database, *words)
                self.assertEqual(refused[0], 125)
                self.assertEqual(self.berth("run", "--test-only", "--database", self.database, *words), refused)
        self.assertEqual(read(result), "of the run before")
        self.assertFalse(os.path.exists(os.path.dirname(self.database)))
        self.assertFalse(os.path.exists(marker))
        self.assertEqual(berth_cgroups(), self.before_cgroups)

    def test_reader_that_goes_away_ends_the_writer_as_in_a_pipeline(self):
        words = ["run", "-q", "--database", self.database, "-D", self.work, "--", "/usr/bin/head", "-c", 10_000_000, "/dev/zero"]
        process = self.start(*words)
        process.stdout.read(100)
        process.stdout.close()
        process.stdout = None
        status, _, err = self.finish(process)
        outcome = self.history()[0]["outcome"]
        self.assertEqual((status, outcome["cause"], outcome["signal"]), (141, "signalled", 13), err)

    def test_a_signal_that_leaves_output_unread_is_the_runs_status(self):
        for code, expected in ((0, 143), (3, 3)):
            with self.subTest(code=code):
                script = f"head -c 1000000 /dev/zero; exit {code}"
                process = self.start("run", "-q", "--database", self.database, "--", "sh", "-c", script)
                process.stdout.read(1)
                self.assertTrue(eventually(lambda process=process: not children(process.pid)))  # the run is over
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(TIMEOUT), expected)

    def test_log_levels(self):
        quiet = self.run_command("exit", 0, arguments=["-q"])[2]
        self.assertEqual(quiet, "")
        self.run_command("exit", 0)
        loud = self.run_command("exit", 0, arguments=["-vv"])[2]
        self.assertTrue(re.search(r"job 3\b|job-3\b", loud), "-vv tells nothing of job 3: " + loud)
        self.assertEqual(self.run_command("exit", 0, arguments=["--log-level", "nonsense"])[0], 125)


if __name__ == "__main__":
    main()
