"""A system clock that is set hours forwards or backwards while jobs wait and run: what goes by it changes with it, and
nothing else does. The machine's own clock is left alone: tests/payloads/clock_shift.c shifts berthd's and its runners'."""

import json
import os
import sqlite3
import struct
import time
from datetime import datetime

from berth_case import eventually, main, natively, tested_program
from daemon_case import PACE, DaemonCase

HOUR = 3600


class ShiftedClock(DaemonCase):
    configuration = {"pool": {"slots": 2}}

    def setUp(self):
        super().setUp()
        self.shift_file = os.path.join(self.directory, "shift")
        self.set_clock(0)
        self.shifting = {"LD_PRELOAD": tested_program("BERTH_CLOCK_SHIFT", "clock_shift"), "CLOCK_SHIFT_FILE": self.shift_file}
        self.start_daemon(self.shifting)

    def set_clock(self, hours):
        """From the machine's own."""
        self.hours = hours
        if not os.path.exists(self.shift_file):
            with open(self.shift_file, "wb") as file:
                file.write(bytes(8))
        with open(self.shift_file, "r+b", buffering=0) as file:
            file.write(struct.pack("=q", hours * HOUR))

    def seconds_of(self, text):
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()

    def berthds_now(self):
        return time.time() + self.hours * HOUR


class Clock(ShiftedClock):
    @natively
    def test_the_test_shifts_the_clock_of_berthd_and_of_its_runners(self):
        self.set_clock(1000)
        job = self.submit("exit", 0)
        self.ok("wait", job)
        for moment in ("submit", "start", "end"):
            self.assertLess(abs(self.seconds_of(self.records(job)[-1][moment]) - self.berthds_now()), HOUR, moment)

    @natively
    def test_a_begin_time_comes_with_the_clock(self):
        job = self.submit("exit", 0, begin_time="now+2hours")
        self.set_clock(-5)
        self.assertEqual(self.queue()[job]["reason"], "BeginTime")
        self.set_clock(3)
        self.ok("wait", job)
        self.assertIn("forwards", self.read_log())

    @natively
    def test_a_begin_time_that_had_come_comes_again_when_the_clock_was_set_back(self):
        argv = ["/bin/sh", "-c", "until [ -e end-$BERTH_ARRAY_TASK_ID ]; do sleep 0.05; done"]
        array = self.submit(argv=argv, array="0-1%1", begin_time="now+2hours")
        before = self.submit("exit", 0, hold=True)
        after = self.submit("exit", 0, dependency=f"afterok:{before}", begin_time="now+2hours")
        self.set_clock(3)
        self.wait_for_state(f"{array}_0", "RUNNING")
        self.set_clock(0)
        for task in range(2):
            with open(os.path.join(self.work, f"end-{task}"), "w", encoding="utf-8"):
                pass
        self.ok("wait", f"{array}_0")
        self.ok("release", before)
        self.ok("wait", before)
        self.assertEqual([self.queue()[job]["reason"] for job in (array, after)], ["BeginTime"] * 2)
        self.set_clock(3)
        self.ok("wait", array, after)

    @natively
    def test_a_deadline_passes_with_the_clock_and_not_when_it_goes_backwards(self):
        job = self.submit("exit", 0, hold=True, deadline="now+2hours")
        self.set_clock(-5)
        fits = self.submit("exit", 0, time_limit="1h", deadline="now+2hours")
        self.ok("wait", fits)
        self.assertEqual(self.state(job), "PENDING")
        self.set_clock(3)
        self.wait_for_state(job, "DEADLINE")

    @natively
    def test_time_limits_do_not_go_by_it(self):
        short = self.submit("hold", 600, time_limit=f"{4 * PACE}s")
        long = self.submit("hold", 600, time_limit="1h", no_output_timeout="30min")
        self.wait_for_state(short, "RUNNING")
        self.wait_for_state(long, "RUNNING")
        self.set_clock(-7)
        self.wait_for_state(short, "TIMEOUT", 90)
        self.set_clock(7)
        another = self.submit("hold", 600, time_limit=f"{4 * PACE}s")
        self.wait_for_state(another, "TIMEOUT", 90)
        self.assertEqual(self.state(long), "RUNNING")
        # Also over a berthd that starts with the other clock.
        self.kill_daemon()
        self.start_daemon(self.shifting)
        self.assertEqual(self.state(long), "RUNNING")
        self.ok("cancel", long)
        self.cli("wait", long)
        for job in (short, another):
            wall = self.records(job)[-1]["usage"]["wall_usec"]
            self.assertTrue(4_000_000 <= wall < HOUR * 1_000_000, wall)
        rows = json.loads(self.ok("report", "--json", "--by", "name", "-S", "2000-01-01", "-E", "2100-01-01"))["rows"]
        self.assertTrue(all(0 < row["elapsed_usec"] < 3 * HOUR * 1_000_000 for row in rows), rows)

    @natively
    def test_no_elapsed_time_of_a_running_job_is_negative(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        self.set_clock(-1)
        (entry,) = json.loads(self.ok("top", "--json"))["jobs"]
        self.assertEqual(entry["elapsed_usec"], 0)
        self.ok("cancel", "--now", job)
        self.cli("wait", job)

    @natively
    def test_the_expected_start_is_in_the_time_of_the_clock(self):
        blocking = [self.submit("hold", 600, time_limit="1h") for _ in range(2)]
        for job in blocking:
            self.wait_for_state(job, "RUNNING")
        waiting = self.submit("exit", 0, time_limit="10min")
        for hours in (0, 9, -9):
            self.set_clock(hours)
            expected = self.seconds_of(json.loads(self.ok("why", "--json", waiting))["expected_start"])
            self.assertTrue(0 < expected - self.berthds_now() < 2 * HOUR, f"{hours}: {expected - self.berthds_now()}")
        self.ok("cancel", *blocking)
        self.ok("wait", waiting)

    @natively
    def test_a_clock_set_backwards_keeps_the_order_of_events_and_the_queue_going(self):
        first = self.submit("exit", 0)
        self.ok("wait", first)
        self.set_clock(-1)
        second = self.submit("print_slowly", 10, 0.1, dependency=f"afterok:{first}")
        self.wait_for_state(second, "RUNNING")
        self.set_clock(-2)
        self.ok("wait", second)
        events = [json.loads(line) for line in self.ok("events").splitlines()]
        self.assertEqual([event["job_id"] for event in events], [first] * 4 + [second] * 4)
        self.assertEqual([event["state"] for event in events], ["PENDING", "CONFIGURING", "RUNNING", "COMPLETED"] * 2)
        with sqlite3.connect(f"file:{self.state_folder}/berthd.db?mode=ro", uri=True) as database:
            start, end = database.execute("SELECT start_us, end_us FROM attempts WHERE job_id = ?", [second]).fetchone()
        self.assertLess(end, start, "the clock was not set back while it ran")
        elapsed = self.ok("history", "-P", "-n", "-S", "2000-01-01", "-o", "JobID,Elapsed").split()
        self.assertTrue(all(line.split("|")[1].startswith("00:00:0") for line in elapsed), elapsed)


class Retention(ShiftedClock):
    configuration = {"history": {"retain": {"age": "1h"}}}

    @natively
    def test_a_clock_set_forwards_makes_no_history_old(self):
        job = self.submit("exit", 0)
        self.ok("wait", job)
        self.set_clock(24)
        marker = self.submit("exit", 0)
        self.ok("wait", marker)
        # A step of forgetting comes at least every ten seconds, and with each reading of the configuration.
        time.sleep(11)
        self.assertEqual(self.state(job), "COMPLETED")
        # A berthd that starts with this clock has no reason to mistrust it.
        self.stop_daemon()
        self.start_daemon(self.shifting)
        self.assertTrue(eventually(lambda: self.cli("show", job)[0] == 1, 30), "the test would not notice")
        self.assertEqual(self.state(marker), "COMPLETED")


if __name__ == "__main__":
    main()
