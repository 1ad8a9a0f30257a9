"""berth report and berth top: sums over what ended, and what running jobs use."""

import json
import os
import re
import subprocess
import time

from berth_case import BERTH, eventually, main, natively
from daemon_case import DaemonCase
from terminal_case import Terminal


class Reporting(DaemonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def rows(self, *arguments, **options):
        report = json.loads(self.ok("report", "--json", *arguments, **options))
        return {row[report["by"]]: row for row in report["rows"]}

    def ended(self, *argv, **spec):
        options = {key: spec.pop(key) for key in ("user",) if key in spec}
        job = self.submit(*argv, **options, **spec)
        self.cli("wait", job)
        return job

    @natively
    def test_sums_by_user_account_name_and_day_agree_with_the_records(self):
        jobs = [self.ended("spin", 1, account="blue"), self.ended("exit", 3, account="blue"),
                self.ended("hold", 60, time_limit="1s"), self.ended("exit", 0, user="www-data")]
        records = [self.records(job)[-1] for job in jobs]
        by_user = self.rows()
        self.assertEqual({name: row["jobs"] for name, row in by_user.items()}, {"root": 3, "www-data": 1})
        root = by_user["root"]
        self.assertEqual(root["states"], {"COMPLETED": 1, "FAILED": 1, "TIMEOUT": 1})
        self.assertEqual(root["cpu_total_usec"], sum(record["usage"]["cpu_total_usec"] for record in records[:3]))
        self.assertGreaterEqual(root["cpu_total_usec"], 900_000)
        self.assertEqual(root["cpu_granted_usec"], root["elapsed_usec"], "one CPU each")
        self.assertAlmostEqual(root["memory_granted_byte_seconds"] / (128 << 20), root["elapsed_usec"] / 1e6, delta=0.01)
        self.assertEqual(root["elapsed_max_usec"], max(record["usage"]["wall_usec"] for record in records[:3]))
        self.assertEqual(root["memory_peak"], max(record["usage"]["memory_peak"] for record in records[:3]))
        by_account = self.rows("--by", "account")
        self.assertEqual({name: row["jobs"] for name, row in by_account.items()}, {"blue": 2, "": 2})
        self.assertEqual(self.rows("--by", "name")["exit"]["attempts"], 2)
        self.assertRegex(next(iter(self.rows("--by", "day"))), r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}$")
        self.assertEqual(self.rows("-S", "now+1hour"), {})
        self.assertEqual(self.rows("-E", "now-1hour"), {})
        self.assertEqual(list(self.rows("-u", "www-data")), ["www-data"])
        self.assertEqual(list(self.rows("-A", "blue")), ["root"])
        self.assertEqual(list(self.rows(user="www-data")), ["www-data"], "users get their own")
        text = self.ok("report", "-n", "-P", "-o", "user,Jobs,Timeout,TotalCPU", "-u", "root")
        self.assertRegex(text, r"^root\|3\|1\|00:00:0[0-9]\n$")
        self.assertIn("OutOfMemory", self.ok("report"))
        self.assertIn("MemGiBh", self.ok("report", "--helpformat"))
        for words in (["--by", "colour"], ["-o", "Colour"], ["-S", "someday"]):
            status, _, err = self.cli("report", *words)
            self.assertEqual(status, 2, err)
            self.assertRegex(err, f"command line: -.*{words[1]}")

    @natively
    def test_a_delimiter_may_be_empty_and_a_format_may_not(self):
        job = self.submit("exit", 0)
        self.ok("wait", job)
        for words in (("history", "-o", "JobID,State"), ("report", "-o", "Jobs,Completed")):
            written = self.ok(*words, "-n", "-P")
            self.assertEqual(self.ok(*words, "-n", "-P", "--delimiter", ""), written.replace("|", ""))
            status, _, err = self.cli(words[0], "-o", "")
            self.assertEqual((status, "names no column" in err), (2, True), err)

    @natively
    def test_without_berthd_it_reads_the_database_of_berth_run(self):
        run = self.run_job("spin", 1)
        self.assertEqual(run.status, 0)
        out = subprocess.run([BERTH, "report", "--database", self.database, "-n", "-P", "-o", "Jobs,Completed"],
                             capture_output=True, check=True)
        self.assertEqual(out.stdout, b"1|1\n")


class Zones(DaemonCase):
    """Callers whose time zone is not berthd's."""

    zone = "UTC"

    def environment(self, **changes):
        return super().environment(TZ=self.zone, **changes)

    def shown(self, form, instant):
        return subprocess.run(["date", f"+{form}", "-d", instant], env=self.environment(), capture_output=True, check=True,
                              text=True).stdout.strip()

    @natively
    def test_times_are_read_and_printed_in_the_callers_zone(self):
        self.start_daemon()
        job = self.submit("exit", 0)
        self.cli("wait", job)
        time.sleep(1)
        record = self.records(job)[-1]
        days = set()
        for self.zone in ("<-12>12", "<+14>-14", "CET-1CEST,M3.5.0,M10.5.0/3"):
            start = self.shown("%FT%T", record["start"])
            self.assertEqual(self.ok("history", "-n", "-P", "-o", "Start,Submit", job),
                             f"{start}|{self.shown('%FT%T', record['submit'])}\n")
            self.assertEqual(self.ok("queue", "-t", "all", "-n", "-P", "-o", "Start"), start + "\n")
            self.assertRegex(self.ok("show", job), rf" Start: +{start}\n")
            self.assertEqual(self.ok("history", "-n", "-P", "-o", "JobID", "-S", start), f"{job}\n")
            self.assertEqual(self.ok("history", "-n", "-P", "-o", "JobID", "-S", self.shown("%FT%T", "now")), "")
            for everything in ("1970-01-01", "now-25000days"):
                self.assertEqual(self.ok("history", "-n", "-P", "-o", "JobID", "-S", everything), f"{job}\n")
            day = self.shown("%F", record["end"])
            days.add(day)
            report = json.loads(self.ok("report", "--by", "day", "--json", "-S", start))
            self.assertEqual([row["day"] for row in report["rows"]], [day])
        self.assertGreaterEqual(len(days), 2)
        self.assertEqual(self.cli("history", "-S", "someday")[0], 2)

    def test_begin_times_of_job_files_and_of_updates_are_the_callers(self):
        self.start_daemon()
        self.zone = "<+14>-14"
        job = self.submit("exit", 0, begin_time="2100-01-01T00:00")
        self.assertEqual(self.queue()[job]["queue"]["begin_time"], "2099-12-31T10:00:00.000000Z")
        path = os.path.join(self.directory, "twice.json")
        with open(path, "w", encoding="utf-8") as file:
            file.write('{"argv": ["true"], "begin_time": "2100-01-01", "name": "a", "name": "b"}')
        self.assertIn("/name: is given twice", self.cli("submit", path)[2])
        self.ok("update", job, "--begin", "2100-01-02T00:00")
        self.assertEqual(self.queue()[job]["queue"]["begin_time"], "2100-01-01T10:00:00.000000Z")
        status, _, err = self.cli("update", job, "--begin", "someday")
        self.assertNotEqual(status, 0)
        self.assertIn("someday", err)
        self.ok("cancel", job)


class Watching(DaemonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def test_what_running_jobs_use_against_what_they_have(self):
        spinning = self.submit("spin", 100, time_limit="10min")
        holding = self.submit("allocate", 40, 100, user="www-data")
        for job in (spinning, holding):
            self.wait_for_state(job, "RUNNING")
        self.assertTrue(eventually(lambda: self.look()[holding].get("memory", 0) > 35 << 20))
        first, second = [json.loads(line) for line in self.ok("top", "--json", "-n", "2", "-d", "1.5").splitlines()]
        self.assertGreater(second["at_usec"], first["at_usec"])
        jobs = {job["job_id"]: job for job in second["jobs"]}
        self.assertEqual(set(jobs), {spinning, holding})
        self.assertGreater(jobs[spinning]["cpu_percent"], 0.3)  # however busy the machine is
        self.assertLess(jobs[holding]["cpu_percent"], jobs[spinning]["cpu_percent"])
        self.assertEqual((jobs[spinning]["processes"], jobs[spinning]["cpus"]), (1, 1))
        self.assertEqual(jobs[spinning]["time_limit_usec"], 600_000_000)
        self.assertNotIn("time_limit_usec", jobs[holding])
        self.assertEqual(jobs[holding]["memory_limit"], 128 << 20)
        self.ok("suspend", spinning)
        self.assertEqual(self.look()[spinning]["state"], "SUSPENDED")
        self.ok("resume", spinning)
        own = json.loads(self.ok("top", "--json", user="www-data"))
        self.assertEqual([job["job_id"] for job in own["jobs"]], [holding])
        text = self.ok("top")
        self.assertNotIn("\x1b", text)
        self.assertIn("2 running, 0 waiting", text)
        self.assertRegex(text, rf"{spinning} +spin +root +RUNNING")
        for job in (spinning, holding):
            self.ok("cancel", "--now", job)
            self.cli("wait", job)
        self.assertEqual(self.look(), {})

    def look(self):
        return {job["job_id"]: job for job in json.loads(self.ok("top", "--json"))["jobs"]}

    @natively
    def test_on_a_terminal_it_goes_on_until_control_c(self):
        job = self.submit("hold", 60)
        self.wait_for_state(job, "RUNNING")
        terminal = Terminal([BERTH, "top", "--socket", self.socket, "-d", "0.2"], cwd=self.work, env=self.environment(TERM="vt100"))
        self.addCleanup(terminal.close)
        for _ in range(3):
            terminal.expect(re.escape("\x1b[H") + "1 running")
        terminal.type("\x03")
        self.assertEqual(terminal.finish(), -2)


if __name__ == "__main__":
    main()
