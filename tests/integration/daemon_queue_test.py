"""When, after what and how often berthd runs a job: begin times, dependencies, arrays, retries, changes, and why."""

import datetime
import json
import os
import re
import signal
import sqlite3
import time

from berth_case import eventually, main, natively
from daemon_case import DaemonCase


class Queueing(DaemonCase):
    configuration = {"pool": {"slots": 2, "memory": "2G"}}

    def setUp(self):
        super().setUp()
        self.start_daemon()

    def order(self, *jobs):
        """The jobs in the order of their starts."""
        starts = {job: self.records(job)[-1]["start"] for job in jobs}
        return sorted(jobs, key=starts.get)

    def blocked(self, **spec):
        """A job that takes the whole pool, and then the ids of what is submitted behind it."""
        job = self.submit("hold", 600, cpus_per_task=2, **spec)
        self.wait_for_state(job, "RUNNING")
        return job

    def submit_array(self, tasks, *arguments):
        """One whose tasks run until let_end() is called."""
        wrap = "until [ -e end ]; do sleep 0.05; done"
        return int(self.ok("submit", "--parsable", "-a", tasks, *arguments, "--wrap", wrap))

    def running(self):
        return sum(job["state"] == "RUNNING" for job in self.queue().values())

    @natively
    def test_priority_and_nice_decide_the_order(self):
        first = self.blocked()
        jobs = [
            self.submit("exit", 0, cpus_per_task=2, nice=5),
            self.submit("exit", 0, cpus_per_task=2),
            self.submit("exit", 0, cpus_per_task=2, priority=7),
        ]
        self.ok("cancel", first)
        self.ok("wait", *jobs)
        self.assertEqual(self.order(*jobs), list(reversed(jobs)))
        status, _, err = self.cli("submit", "--priority", 5, "--", "true", user="www-data")
        self.assertEqual(status, 125)
        self.assertIn("only administrators", err)

    @natively
    def test_a_job_waits_for_its_begin_time_and_ends_at_its_deadline(self):
        job = self.submit("exit", 0, arguments=(), begin_time="now+1hour")
        late = self.submit("exit", 0, hold=True, deadline="now+1")
        self.assertEqual(self.queue()[job]["reason"], "BeginTime")
        self.assertIn("BeginTime", self.ok("why", job))
        self.assertEqual(self.records(job)[0]["reason"], "BeginTime")
        self.assertRegex(self.ok("show", job), r"Reason: +BeginTime\n")
        self.assertEqual(self.ok("history", "-n", "-P", "-o", "JobID,Reason", job, late).split(),
                         [f"{job}|BeginTime", f"{late}|JobHeldUser"])
        self.ok("update", "--begin", "now", job)
        self.ok("wait", job)
        self.wait_for_state(late, "DEADLINE", 20)
        # Its limit would have fitted when it was submitted.
        tight = self.submit("exit", 0, time_limit="58s", grace_period=0, deadline="now+60", hold=True)
        time.sleep(3)
        self.ok("release", tight)
        self.wait_for_state(tight, "DEADLINE")
        for ended in (late, tight):
            self.assertEqual(self.records(ended)[0]["outcome"]["cause"], "deadline")
            self.assertEqual(self.cli("wait", ended)[0], 124)
        for options in (["-t", "2:00:00"], ["-b", "now+50min", "-t", "10"]):
            status, _, err = self.cli("submit", "--deadline", "now+1hour", *options, "--", "true")
            self.assertEqual((status, "cannot end before its deadline" in err), (125, True), err)
        held = self.submit("exit", 0, hold=True, deadline="now+1hour")
        self.assertIn("cannot end before its deadline", self.cli("update", "-t", "2:00:00", held)[2])
        self.ok("cancel", held)

    @natively
    def test_dependencies_hold_release_and_never_hold(self):
        self.ok("drain")
        good, bad = self.submit("exit", 0), self.submit("exit", 3)
        after_good = self.submit("exit", 0, dependency=f"afterok:{good}")
        after_both = self.submit("exit", 0, dependency=f"afterany:{good}:{bad},afterok:{after_good}")
        never = self.submit("exit", 0, dependency=f"afterok:{bad}")
        either = self.submit("exit", 0, dependency=f"afterok:{bad}?afternotok:{bad}")
        self.assertEqual(self.queue()[after_good]["reason"], "Dependency")
        self.kill_daemon()
        self.start_daemon()
        self.ok("undrain")
        self.ok("wait", after_both, either)
        self.assertEqual(self.order(good, after_good, after_both), [good, after_good, after_both])
        self.assertEqual(self.queue()[never]["reason"], "DependencyNeverSatisfied")
        self.ok("update", "--dependency", "none", never)
        self.ok("wait", never)

    @natively
    def test_a_job_waits_for_those_tasks_of_an_array_that_it_names(self):
        array = int(self.ok("submit", "--parsable", "-a", "1-4%1", "--wrap", "until [ -e go-$SLURM_ARRAY_TASK_ID ]; do sleep 0.05; done"))
        both = self.submit("exit", 0, dependency=f"afterok:{array}_3,singleton,afterany:{array}_1", cpus_per_task=1)
        either = self.submit("exit", 0, dependency=f"afterok:{array}_4?afterok:{array}_2")
        whole = self.submit("exit", 0, dependency=f"afterok:{array}")
        ran = []
        for task, freed in ((1, None), (2, either), (3, both), (4, whole)):
            with open(os.path.join(self.work, f"go-{task}"), "w", encoding="utf-8"):
                pass
            self.ok("wait", f"{array}_{task}")
            if freed:
                self.ok("wait", freed, timeout=20)
                ran.append(freed)
            waiting = {job for job in self.queue() if job in (both, either, whole)}
            self.assertEqual(waiting, {both, either, whole} - set(ran), f"after task {task}")

    @natively
    def test_singletons_run_one_after_another(self):
        first = self.submit("hold", 600, name="one")
        self.wait_for_state(first, "RUNNING")
        second = self.submit("exit", 0, name="one", dependency="singleton")
        other = self.submit("exit", 0, name="two", dependency="singleton")
        self.ok("wait", other)
        self.assertEqual(self.queue()[second]["reason"], "Dependency")
        self.ok("cancel", first)
        self.ok("wait", second)

    @natively
    def test_the_tasks_of_an_array_run_within_its_limit_and_it_ends_with_the_last(self):
        script = os.path.join(self.directory, "task")
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\necho $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID\n")
            file.write("env | grep -c ^BERTH_ARRAY_ > all\n")
            for name in ("COUNT", "MIN", "MAX", "STEP"):
                file.write(f"echo $SLURM_ARRAY_TASK_{name} >> all\n")
        array = int(self.ok("submit", "--parsable", "-a", "0-9:3,20%1", script))
        self.assertEqual(self.cli("wait", array)[0], 0)
        self.assertEqual(self.state(array), "COMPLETED")
        for task in (0, 3, 6, 9, 20):
            with open(os.path.join(self.work, f"berth-{array}_{task}.out"), encoding="utf-8") as file:
                self.assertEqual(file.read(), f"{array} {task}\n")
            self.assertEqual(self.ok("logs", f"{array}_{task}"), f"{array} {task}\n")
        with open(os.path.join(self.work, "all"), encoding="utf-8") as file:
            self.assertEqual(file.read().split(), ["6", "5", "0", "20", "3"])
        events = [json.loads(line) for line in self.ok("events").splitlines()]
        running = most = 0
        for event in events:
            if event["job_id"] != array:
                running += {"RUNNING": 1, "COMPLETED": -1}.get(event["state"], 0)
                most = max(most, running)
        self.assertEqual((most, running), (1, 0))

    @natively
    def test_an_array_survives_and_is_cancelled_as_a_whole(self):
        array = self.submit("hold", 600, array="0-99999")
        self.assertTrue(eventually(lambda: sum(job["state"] == "RUNNING" for job in self.queue().values()) == 2))
        self.kill_daemon()
        self.start_daemon()
        self.assertEqual(self.queue()[array]["queue"]["array_tasks"], "2-99999")
        self.ok("cancel", f"{array}_1")
        self.assertTrue(eventually(lambda: self.queue()[array]["queue"]["array_tasks"] == "3-99999"))
        self.ok("cancel", array)
        self.cli("wait", array)
        self.assertTrue(eventually(lambda: not self.queue()))

    @natively
    def test_after_a_job_is_after_its_first_attempt_however_short(self):
        for tasks in ({}, {"array": "0-1"}):
            held = self.submit("exit", 3, hold=True, retry={"max": 2, "backoff": "1h"}, **tasks)
            after = self.submit("exit", 0, dependency=f"after:{held}")
            self.ok("release", held)
            self.ok("wait", after, timeout=20)
            self.assertEqual({job["reason"] for job in self.queue().values()}, {"BeginTime"})
            self.ok("wait", self.submit("exit", 0, dependency=f"after:{held}"), timeout=20)
            self.ok("cancel", held)
            self.cli("wait", held)

    @natively
    def test_a_job_that_fails_runs_again_as_often_as_it_may(self):
        job = self.submit("exit", 75, retry={"max": 2, "exit_codes": [75]})
        self.assertEqual(self.cli("wait", job)[0], 75)
        self.assertEqual([record["attempt"] for record in self.records(job)], [1, 2, 3])
        other = self.submit("exit", 74, retry={"max": 2, "exit_codes": [75]})
        self.cli("wait", other)
        self.assertEqual(len(self.records(other)), 1)

    def test_a_job_out_of_memory_runs_again_with_more(self):
        job = self.submit("allocate", 100, memory_per_node="64M", retry={"max": 3, "on": ["OUT_OF_MEMORY"], "memory_factor": 2})
        self.assertEqual(self.cli("wait", job)[0], 0, self.records(job)[-1])
        self.assertEqual(
            [(record["state"], record["allocation"]["memory"] >> 20) for record in self.records(job)],
            [("OUT_OF_MEMORY", 64), ("COMPLETED", 128)],
        )

    @natively
    def test_more_memory_than_the_pool_has_is_not_waited_for(self):
        job = self.submit("allocate", 100, memory_per_node="64M", retry={"max": 1, "on": ["OUT_OF_MEMORY"], "memory_factor": 100})
        self.cli("wait", job)
        self.assertEqual(self.state(job), "COMPLETED")

    @natively
    def test_nor_by_a_job_that_ran_out_of_memory_while_there_was_no_berthd(self):
        words = ["/bin/sh", "-c", 'until [ -e end ]; do sleep 0.05; done; exec "$@"', "sh", *self.job("allocate", 100)["argv"]]
        job = self.submit(argv=words, memory_per_node="64M", retry={"max": 1, "on": ["OUT_OF_MEMORY"], "memory_factor": 100})
        self.wait_for_state(job, "RUNNING")
        self.kill_daemon()
        self.let_end()
        self.assertTrue(eventually(self.spooled, 30))
        self.start_daemon()
        self.ok("wait", job)
        self.assertEqual([record["state"] for record in self.records(job)], ["OUT_OF_MEMORY", "COMPLETED"])

    def test_the_memory_that_a_retry_was_given_is_kept_over_restarts(self):
        words = '[ $BERTH_ATTEMPT = 1 ] && exec "$@"; until [ -e end$BERTH_ATTEMPT ]; do sleep 0.05; done; exit 3'
        job = self.submit(argv=["/bin/sh", "-c", words, "sh", *self.job("allocate", 100)["argv"]], memory_per_node="64M",
                          retry={"max": 3, "memory_factor": 2})
        for attempt in (2, 3):
            self.assertTrue(eventually(lambda attempt=attempt: (self.records(job)[-1]["attempt"], self.state(job)) == (attempt, "RUNNING"), 30))
            self.kill_daemon()
            if attempt == 3:  # which the next berthd hears of when it starts
                self.leave("end3")
                self.assertTrue(eventually(self.spooled, 30))
            self.start_daemon()
            self.leave("end2")
        self.wait_for_state(job, "RUNNING")
        self.leave("end4")
        self.cli("wait", job)
        self.assertEqual([record["allocation"]["memory"] >> 20 for record in self.records(job)], [64, 128, 128, 128])

    def leave(self, name):
        with open(os.path.join(self.work, name), "w", encoding="utf-8"):
            pass

    def test_a_job_with_requeue_runs_again_after_its_runner_died(self):
        job = self.submit("print_slowly", 20, 0.1, requeue=True)
        self.wait_for_state(job, "RUNNING")
        runner = json.loads(self.ok("slots", "--json"))["running"][0]["runner"]
        os.kill(int(runner.split("-")[1]), 9)
        self.assertEqual(self.cli("wait", job)[0], 0)
        self.assertEqual([record["state"] for record in self.records(job)], ["NODE_FAIL", "COMPLETED"])

    @natively
    def test_why_names_the_rule_and_the_expected_start(self):
        self.blocked(time_limit="1h")
        job = self.submit("exit", 0, cpus_per_task=2, time_limit="1h")
        behind = self.submit("exit", 0, cpus_per_task=2)
        why = json.loads(self.ok("why", "--json", job))
        self.assertEqual(why["reason"], "Resources")
        self.assertIn("expected_start", why)
        why = json.loads(self.ok("why", "--json", behind))
        self.assertEqual((why["reason"], why["jobs_before"]), ("Priority", 1))
        self.assertGreater(why["expected_start"], json.loads(self.ok("why", "--json", job))["expected_start"])
        for waiting in self.queue():
            self.cli("cancel", "--now", waiting)
            self.cli("wait", waiting)

    def why(self, job):
        return json.loads(self.ok("why", "--json", job))

    @natively
    def test_why_promises_no_start_that_a_begin_time_or_a_dependency_can_undo(self):
        running = self.blocked(time_limit="1h")
        early = self.submit("exit", 0, cpus_per_task=2, time_limit="1h", begin_time=5)
        behind = self.submit("exit", 0, cpus_per_task=2, time_limit="1h")
        why = self.why(early)
        self.assertEqual((why["reason"], "begin_time" in why, "expected_start" in why), ("BeginTime", True, False))
        self.assertIn("starts no sooner than: ", self.ok("why", early))
        self.assertNotIn("expected_start", self.why(behind))
        first = self.submit("exit", 0, cpus_per_task=2, time_limit="1h", priority=9)
        self.assertIn("expected_start", self.why(first))
        self.assertNotIn("expected_start", self.why(self.submit("exit", 0, cpus_per_task=2, deadline=30)))
        self.ok("cancel", early)
        self.assertIn("expected_start", self.why(behind))
        dependent = self.submit("exit", 0, cpus_per_task=2, dependency=f"afterok:{running}", priority=1)
        self.assertNotIn("expected_start", self.why(behind))
        self.assertIn("no sooner than", self.ok("submit", "--test-only", "-b", "now+1hour", "--", "true"))
        self.ok("suspend", running)
        self.assertIn("berth resume", self.why(running)["explanation"])
        self.ok("cancel", "--now", dependent, behind, first, running)

    @natively
    def test_why_counts_each_task_of_an_array_that_comes_first(self):
        self.blocked(time_limit="1h")
        self.submit("exit", 0, cpus_per_task=2, time_limit="1h", array="0-2")
        behind = self.submit("exit", 0, cpus_per_task=2, time_limit="1h")
        expected = datetime.datetime.fromisoformat(self.why(behind)["expected_start"].rstrip("Z"))
        self.assertGreater(expected, datetime.datetime.utcnow() + datetime.timedelta(hours=3.9))
        for waiting in self.queue():
            self.cli("cancel", "--now", waiting)

    @natively
    def test_what_others_write_into_their_jobs_moves_no_terminal(self):
        hostile = "no\x1b]0;title\x07\x9b31m\u202ex\x7f"
        job = self.submit(argv=["/" + hostile], user="www-data", comment="c\x9b\u202e")
        unwritten = self.submit("exit", 0, user="www-data", standard_output=f"/tmp/{hostile}/x")
        for one in (job, unwritten):
            self.wait_for_state(one, "FAILED")
        path = os.path.join(self.state_folder, "berthd.db")
        shown = [self.cli(*words)[1:] for words in (
            ("why", job, unwritten), ("why", "--json", job), ("logs", unwritten), ("attach", job), ("exec", job, "--", "true"),
            ("show", job), ("show", "--json", job, unwritten), ("events",), ("history", "--long"), ("history", "--json"),
            ("queue", "--json", "--state", "all"), ("queue", "--json", "--name", "x,exit", "--state", "all"),
            ("efficiency", "--json", job), ("report", "--json"), ("cancel", job))]
        shown += [self.berth(*words, "--database", path)[1:] for words in (("show", job), ("show", "--json", job), ("history", "--json"))]
        for text in ("".join(pair) for pair in shown):
            self.assertEqual(re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text), [], text)
        (record,) = json.loads(self.ok("show", "--json", job))["jobs"]
        self.assertEqual((record["spec"]["argv"], record["spec"]["comment"]), (["/" + hostile], "c\x9b\u202e"))
        self.assertIn("no?]0;title??31m?x?", self.ok("why", job))
        with open(os.path.join(self.directory, "berthd.log"), encoding="utf-8") as file:
            self.assertNotIn("\x9b", file.read())

    @natively
    def test_a_waiting_job_is_changed_and_a_running_one_is_not(self):
        first = self.blocked()
        job = self.submit("hold", 600, cpus_per_task=2)
        self.ok("update", "-c", 1, "--mem", "70M", "-t", "1:00", "--job-name", "changed", job)
        self.assertEqual(self.cli("update", "-c", 4000, job)[0], 1)
        status, _, err = self.cli("update", "--nice", "x", job)
        self.assertEqual((status, '--nice: "x" is not a whole number' in err), (2, True), err)
        for none in ("UNLIMITED", "0", "none"):
            self.ok("update", "-t", none, job)
            self.assertNotIn("time_limit", self.records(job)[-1]["spec"])
            self.ok("update", "-t", "1:00", job)
        self.assertEqual(self.cli("update", "-t", 1, first)[0], 1)
        self.ok("cancel", first)
        self.wait_for_state(job, "RUNNING")
        record = self.records(job)[-1]
        self.assertEqual(
            (record["spec"]["cpus_per_task"], record["allocation"]["memory"] >> 20, record["spec"]["time_limit"]),
            (1, 70, "00:01:00"),
        )
        self.ok("cancel", job)
        self.cli("wait", job)

    @natively
    def test_a_task_that_got_its_number_late_keeps_its_place_among_singletons(self):
        first = self.submit_until_told()
        array = int(self.ok("submit", "--parsable", "-J", "until-told", "-d", "singleton", "-a", "1-2", "--wrap", "true"))
        last = self.submit("exit", 0, name="until-told", dependency="singleton")
        self.ok("hold", f"{array}_1")
        self.ok("release", f"{array}_1")
        self.let_end()
        self.ok("wait", first, f"{array}_1", array, last, timeout=30)
        self.assertEqual(self.order(f"{array}_1", last)[1], last)

    @natively
    def test_a_job_goes_by_its_new_name_and_account_everywhere(self):
        job = self.submit("exit", 0, name="before", account="old", hold=True)
        self.ok("update", "-J", "after", "-A", "acc", job)
        self.assertEqual(self.ok("queue", "-n", "-P", "-o", "JobID,JobName,Account", "--name", "after").strip(), f"{job}|after|acc")
        self.assertEqual(self.ok("history", "-n", "-P", "-o", "JobID", "-A", "acc").strip(), str(job))
        self.assertEqual(self.ok("queue", "-n", "--name", "before"), "")
        self.ok("release", job)
        self.ok("wait", job)
        self.assertEqual([row["account"] for row in json.loads(self.ok("report", "--by", "account", "--json"))["rows"]], ["acc"])
        first, second = (self.submit("hold", 600, name=name, dependency="singleton", hold=True) for name in ("x", "y"))
        self.ok("update", "-J", "x", "-d", "singleton", second)
        self.ok("release", first, second)
        self.wait_for_state(first, "RUNNING")
        self.assertEqual(self.queue()[second]["reason"], "Dependency")
        self.ok("cancel", "--name", "x")
        self.assertTrue(eventually(lambda: not self.queue()))

    @natively
    def test_what_waits_behind_a_cancelled_job_starts_at_once(self):
        running = self.submit("hold", 600, cpus_per_task=1)
        self.wait_for_state(running, "RUNNING")
        large = self.submit("exit", 0, cpus_per_task=2)
        behind = self.submit("hold", 600, cpus_per_task=1)
        self.assertEqual(self.state(behind), "PENDING")
        self.ok("cancel", large)
        self.wait_for_state(behind, "RUNNING", 5)
        self.ok("cancel", running, behind)

    @natively
    def test_a_suspended_job_is_reckoned_with_as_one_without_a_limit(self):
        suspended = self.submit("hold", 600, cpus_per_task=1, time_limit="1s")
        self.wait_for_state(suspended, "RUNNING")
        self.ok("suspend", suspended)
        large = self.submit("exit", 0, cpus_per_task=2)
        eventually(lambda: False, 1.5)  # its limit would have passed
        self.assertNotIn("expected_start", json.loads(self.ok("why", "--json", large)))
        self.ok("wait", self.submit("exit", 0, cpus_per_task=1, time_limit="5s"))  # passes the large one
        self.ok("resume", suspended)
        self.assertEqual(self.cli("wait", suspended)[0], 124)
        self.ok("wait", large)

    @natively
    def test_a_job_that_is_being_ended_is_not_suspended(self):
        script = "trap '' TERM; touch ready-$BERTH_JOB_ID; until [ -e end ]; do sleep 0.05; done"
        first, second = (self.submit(argv=["/bin/sh", "-c", script], grace_period="60s") for _ in range(2))
        for job in (first, second):
            self.assertTrue(eventually(lambda job=job: os.path.exists(os.path.join(self.work, f"ready-{job}"))))
        self.ok("cancel", first)
        self.assertIn("is being ended", self.cli("suspend", first)[2])
        self.ok("suspend", second)
        self.ok("cancel", second)
        self.assertEqual([self.state(job) for job in (first, second)], ["RUNNING", "RUNNING"])
        self.let_end()
        for job in (first, second):
            self.cli("wait", job)
            self.assertEqual(self.state(job), "CANCELLED")

    @natively
    def test_a_job_cancelled_between_two_attempts_has_a_record_of_that(self):
        job = self.submit("exit", 3, retry={"max": 3, "backoff": "1h"})
        self.assertTrue(eventually(lambda: self.queue().get(job, {}).get("reason") == "BeginTime"))
        self.ok("cancel", job)
        records = self.records(job)
        self.assertEqual([record["state"] for record in records], ["FAILED", "CANCELLED"])
        self.assertNotIn("start", records[1])
        self.assertIn("cancelled by root", self.ok("why", job))
        self.assertEqual(self.cli("wait", job)[0], 143)
        self.ok("requeue", job)
        self.assertTrue(eventually(lambda: len(self.records(job)) == 3))
        self.ok("cancel", job)

    @natively
    def test_a_deadline_that_has_passed_is_refused(self):
        status, _, err = self.cli("submit", "--deadline", "now-1hour", "--", "true")
        self.assertEqual(status, 125)
        self.assertIn("the deadline has passed already", err)
        held = self.submit("exit", 0, hold=True)
        self.assertIn("the deadline has passed already", self.cli("update", "--deadline", "now-1hour", held)[2])
        job = self.submit("exit", 0, deadline="now+2")
        self.ok("wait", job)
        self.assertTrue(eventually(lambda: "deadline has passed" in self.cli("requeue", job)[2]))
        self.ok("cancel", held)

    @natively
    def test_a_job_does_not_come_to_wait_for_itself(self):
        array = int(self.ok("submit", "--parsable", "-H", "-a", "0-2", "--wrap", "true"))
        self.ok("hold", f"{array}_1")
        self.assertIn("would wait for itself", self.cli("update", "-d", f"afterany:{array}", f"{array}_1")[2])
        after = self.submit("exit", 0, dependency=f"afterany:{array}")
        self.assertIn("would wait for itself", self.cli("update", "-d", f"afterany:{after}", f"{array}_1")[2])
        self.ok("update", "-d", f"afterany:{array}_0", f"{array}_1")
        first = self.submit("exit", 0, name="one", hold=True)
        other = self.submit("exit", 0, name="two", hold=True)
        second = self.submit("exit", 0, name="one", dependency="singleton")
        self.assertIn("would wait for itself", self.cli("update", "-d", f"afterok:{second}", first)[2])
        self.ok("update", "-d", f"afterok:{second}", other)
        self.assertIn("would wait for itself", self.cli("update", "-J", "one", other)[2])
        self.ok("cancel", array, after, second, first, other)

    @natively
    def test_the_throttle_of_an_array_holds_for_its_tasks_with_numbers_of_their_own(self):
        array = int(self.ok("submit", "--parsable", "-a", "0-2%1", "--wrap", "until [ -e end ]; do sleep 0.05; done"))
        self.assertTrue(eventually(lambda: any(job["state"] == "RUNNING" for job in self.queue().values())))
        self.ok("hold", f"{array}_2")
        self.ok("release", f"{array}_2")
        eventually(lambda: False, 0.3)
        states = sorted(job["state"] for job in self.queue().values())
        self.assertEqual(states, ["PENDING", "PENDING", "RUNNING"])
        self.assertIn("JobArrayTaskLimit", self.ok("why", f"{array}_2"))
        ended = self.submit("exit", 0)
        self.ok("wait", ended)
        for job in (array, f"{array}_2"):  # a fulfilled dependency lifts no throttle
            self.ok("update", "-d", f"afterany:{ended}", job)
        eventually(lambda: False, 0.3)
        self.assertEqual(sum(job["state"] == "RUNNING" for job in self.queue().values()), 1)
        self.let_end()
        self.ok("wait", array)
        starts = sorted(
            (record["start"], record["end"]) for task in range(3) for record in self.records(f"{array}_{task}")
        )
        self.assertTrue(all(before[1] <= after[0] for before, after in zip(starts, starts[1:])), starts)

    @natively
    def test_a_cancelled_array_ends_with_the_last_of_its_running_tasks(self):
        wrap = 'trap "" TERM; : >started; until [ -e end ]; do sleep 0.05; done'
        array = int(self.ok("submit", "--parsable", "-a", "0-3%1", "--grace", "30s", "--wrap", wrap))
        after = self.submit("exit", 0, dependency=f"afterany:{array}")
        self.assertTrue(eventually(lambda: os.path.exists(os.path.join(self.work, "started"))))
        self.ok("cancel", array)
        eventually(lambda: False, 0.3)
        self.assertEqual(self.queue()[after]["reason"], "Dependency")
        self.kill_daemon()
        self.start_daemon()
        record = self.records(array)[-1]
        self.assertEqual((record["state"], "end" in record), ("PENDING", False))
        self.ok("cancel", array)
        self.let_end()
        self.assertEqual(self.cli("wait", array)[0], 143)
        self.ok("wait", after)
        array_end, task_end = self.records(array)[-1], self.records(f"{array}_0")[-1]
        self.assertEqual((array_end["state"], array_end["end"]), ("CANCELLED", task_end["end"]))
        self.assertIn("nothing to cancel", self.cli("cancel", array)[2])

    @natively
    def test_an_array_past_its_deadline_ends_with_the_last_of_its_running_tasks(self):
        array = self.submit_array("0-3%1", "--deadline", "now+2")
        after = self.submit("exit", 0, dependency=f"afternotok:{array}")
        self.assertTrue(eventually(lambda: array not in self.queue(), 20))
        self.assertEqual((self.state(array), self.state(f"{array}_0")), ("PENDING", "RUNNING"))
        self.assertEqual(self.queue()[after]["reason"], "Dependency")
        self.let_end()
        self.ok("wait", after)
        self.assertEqual((self.state(array), self.state(f"{array}_0")), ("DEADLINE", "COMPLETED"))
        self.assertIn("ended with its array", self.cli("wait", f"{array}_1")[2])

    @natively
    def test_an_array_is_open_again_while_a_requeued_task_runs(self):
        script = "[ $SLURM_RESTART_COUNT = 1 ] || exit 1; until [ -e end ]; do sleep 0.05; done"
        array = int(self.ok("submit", "--parsable", "-a", "0-1", "--wrap", script))
        after = self.submit("exit", 0, dependency=f"afterok:{array}")
        self.assertEqual(self.cli("wait", array)[0], 1)
        self.assertEqual(self.queue()[after]["reason"], "DependencyNeverSatisfied")
        self.ok("requeue", f"{array}_0")
        self.wait_for_state(f"{array}_0", "RUNNING")
        record = self.records(array)[-1]
        self.assertEqual((record["state"], "end" in record), ("PENDING", False))
        self.assertEqual(self.queue()[after]["reason"], "Dependency")
        self.ok("requeue", f"{array}_1")
        self.kill_daemon()
        self.start_daemon()
        self.let_end()
        self.ok("wait", array, after)
        self.assertEqual(self.state(array), "COMPLETED")
        self.ok("requeue", f"{array}_1")
        self.cli("wait", array)
        self.assertEqual(self.state(array), "FAILED")

    @natively
    def test_an_array_that_is_cancelled_when_all_its_tasks_run_is_cancelled(self):
        array = self.submit_array("0-1")
        self.assertTrue(eventually(lambda: self.running() == 2))
        self.assertEqual(self.ok("queue", "-n", "-P", "-o", "JobID").split(), [f"{array}_0", f"{array}_1"])
        self.ok("cancel", array)
        self.assertEqual(self.cli("wait", array)[0], 143)
        self.assertEqual(self.state(array), "CANCELLED")

    @natively
    def test_after_an_array_is_after_the_start_of_its_last_task(self):
        array = self.submit_array("0-2")
        after = self.submit("exit", 0, cpus_per_task=1, dependency=f"after:{array}")
        either = self.submit("exit", 0, dependency=f"afterok:{array}?after:{array}")
        self.assertTrue(eventually(lambda: self.running() == 2))
        eventually(lambda: False, 0.3)
        self.assertEqual({self.queue()[job]["reason"] for job in (after, either)}, {"Dependency"})
        self.ok("cancel", f"{array}_0")
        self.wait_for_state(f"{array}_2", "RUNNING")
        self.assertTrue(eventually(lambda: self.queue()[after]["reason"] != "Dependency"))
        self.ok("cancel", f"{array}_1")
        self.ok("wait", after, either)
        self.assertEqual(self.state(f"{array}_2"), "RUNNING")
        late = self.submit("exit", 0, dependency=f"after:{array}")
        self.ok("wait", late)
        self.let_end()
        self.cli("wait", array)

    @natively
    def test_a_change_of_an_array_is_one_of_all_its_tasks_that_wait(self):
        first = self.blocked()
        array = self.submit_array("0-3")
        self.ok("update", "--nice", 3, f"{array}_1")
        self.ok("hold", f"{array}_2")
        self.ok("hold", array)
        self.ok("update", "--mem", "70M", "-t", "5", array)
        self.kill_daemon()
        self.start_daemon()
        self.ok("cancel", first)
        self.cli("wait", first)
        waiting = [job for job in self.queue().values() if job["state"] == "PENDING"]
        self.assertEqual(sorted(job.get("array_task_id", -1) for job in waiting), [-1, 1, 2])
        self.assertEqual({job["reason"] for job in waiting}, {"JobHeldUser"})
        self.assertEqual({job["queue"]["memory"] for job in waiting}, {70 << 20})
        self.assertEqual({job["queue"]["priority"] for job in waiting}, {0, -3})
        self.ok("release", array)
        self.let_end()
        self.ok("wait", array)
        self.assertEqual({self.records(f"{array}_{task}")[-1]["spec"]["time_limit"] for task in range(4)}, {"00:05:00"})
        for verb in ("hold", "release", "suspend", "resume"):
            self.assertEqual(self.cli(verb, array)[0], 1, verb)

    @natively
    def test_an_array_is_held_while_its_tasks_wait_to_run_again(self):
        array = self.submit("exit", 3, array="0-1", retry={"max": 1, "backoff": "2s"})
        self.assertTrue(eventually(lambda: {job["reason"] for job in self.queue().values() if "reason" in job} == {"BeginTime"}))
        self.ok("hold", array)
        eventually(lambda: False, 2.5)
        self.assertEqual({job["reason"] for job in self.queue().values() if "reason" in job}, {"JobHeldUser"})
        self.assertIn("no task runs", self.cli("signal", "USR1", array)[2])
        self.ok("release", array)
        self.cli("wait", array)
        self.assertEqual([len(self.records(f"{array}_{task}")) for task in (0, 1)], [2, 2])
        self.assertIn("no task waits", self.cli("hold", array)[2])

    @natively
    def test_the_tasks_of_an_array_are_suspended_and_signalled_together(self):
        wrap = "trap 'exit 9' USR1; while :; do sleep 0.05; done"
        array = int(self.ok("submit", "--parsable", "-a", "0-4", "--wrap", wrap))
        states = lambda: sorted(job["state"] for job in self.queue().values())  # noqa: E731
        self.assertTrue(eventually(lambda: states() == ["PENDING", "RUNNING", "RUNNING"]))
        self.ok("suspend", array)
        self.assertEqual(states(), ["PENDING", "SUSPENDED", "SUSPENDED"])
        self.assertIn("SUSPENDED, not RUNNING", self.cli("suspend", array)[2])
        self.ok("resume", f"{array}_0")
        self.ok("resume", array)
        self.assertEqual(states(), ["PENDING", "RUNNING", "RUNNING"])
        eventually(lambda: False, 0.3)
        self.ok("signal", "USR1", array)
        for task in (0, 1):
            self.assertEqual(self.cli("wait", f"{array}_{task}")[0], 9)
        self.ok("cancel", array)
        self.cli("wait", array)

    @natively
    def test_berth_run_refuses_what_needs_a_queue(self):
        status, _, err = self.berth("run", "--database", self.database, self.job_file(self.job("exit", 0, hold=True)))
        self.assertEqual(status, 125)
        self.assertIn("berth submit", err)


class Retaining(DaemonCase):
    configuration = {"history": {"retain": {"jobs": 2}}}

    @natively
    def test_ended_jobs_leave_the_history_by_number_and_by_age_but_not_those_that_others_wait_for(self):
        self.start_daemon()
        needed = self.submit("exit", 0)
        self.ok("wait", needed)
        never = self.submit("exit", 0, hold=True)
        dependent = self.submit("exit", 0, dependency=f"afterok:{needed},afterok:{never}")
        jobs = [self.submit("exit", 0) for _ in range(4)]
        self.cli("wait", *jobs)  # the first of them may be gone already
        self.kill_daemon()
        self.start_daemon()
        listed = lambda: {int(line) for line in self.ok("history", "-n", "-P", "-o", "JobIDRaw").split()}  # noqa: E731
        open_jobs = {never, dependent}
        self.assertTrue(eventually(lambda: len(listed() - open_jobs) == 2, 30), str(listed()))
        self.assertIn(needed, listed())
        self.assertTrue(os.path.exists(os.path.join(self.work, f"berth-{jobs[0]}.out")), "the output is the user's")
        self.write_config(history={"retain": {"age": "1s"}})
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: listed() == open_jobs | {needed}, 30), str(listed()))
        self.ok("release", never)
        self.ok("wait", dependent)

    @natively
    def test_the_room_of_jobs_that_left_the_history_is_given_back_to_the_disk(self):
        self.write_config(history={"retain": {"age": "1h"}})
        self.start_daemon()
        self.ok("wait", *[self.submit("exit", 0, comment=str(number) * (1 << 20)) for number in range(8)])
        with sqlite3.connect(f"file:{self.state_folder}/berthd.db?mode=ro", uri=True) as database:
            size = lambda: database.execute("PRAGMA page_count").fetchone()[0] * database.execute("PRAGMA page_size").fetchone()[0]  # noqa: E731
            self.assertGreater(size(), 8 << 20)
            self.write_config(history={"retain": {"jobs": 0}})
            self.daemon.send_signal(signal.SIGHUP)
            self.assertTrue(eventually(lambda: size() < 5 << 20, 30), f"{size()} bytes are left")


if __name__ == "__main__":
    main()
