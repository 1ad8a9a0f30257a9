"""How jobs end: each in the right verdict, with nothing left behind."""

import os
import signal
import time
from datetime import datetime

from berth_case import BerthCase, eventually, main, read


class Verdicts(BerthCase):
    def test_exit_zero_is_completed(self):
        run = self.run_job("exit", 0)
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertEqual(run.outcome["exit_code"], 0)

    def test_exit_code_passes_through_as_failed(self):
        run = self.run_job("exit", 42)
        self.assert_state(run, "FAILED", "exited", 42)
        self.assertEqual(run.outcome["exit_code"], 42)

    def test_death_by_signal_is_failed_and_128_plus_its_number(self):
        for number in (signal.SIGKILL, signal.SIGABRT, signal.SIGTERM, signal.SIGUSR1):
            with self.subTest(signal=number.name):
                run = self.run_job("kill_self", int(number))
                self.assert_state(run, "FAILED", "signalled", 128 + number)
                self.assertEqual(run.outcome["signal"], number)

    def test_missing_command_is_127(self):
        run = self.run_jobs(self.job(argv=["no-such-command-here"]))
        self.assert_state(run, "FAILED", "launch_failed", 127)
        self.assertEqual(run.outcome["stage"], "exec")
        self.assertIn("no-such-command-here", run.outcome["message"])

    def test_missing_path_is_127(self):
        run = self.run_jobs(self.job(argv=[self.work + "/none"]))
        self.assert_state(run, "FAILED", "launch_failed", 127)

    def test_unexecutable_file_is_126(self):
        path = os.path.join(self.work, "text")
        with open(path, "w", encoding="utf-8") as file:
            file.write("words")
        for mode in (0o644, 0o755):  # not executable; no format that the kernel knows
            os.chmod(path, mode)
            with self.subTest(mode=oct(mode)):
                run = self.run_jobs(self.job(argv=[path]))
                self.assert_state(run, "FAILED", "launch_failed", 126)
                self.assertIn(path, run.outcome["message"])

    def test_missing_working_directory_is_125_and_named(self):
        run = self.run_jobs(self.job("exit", 0, current_working_directory="/no/such/folder"))
        self.assertEqual(run.status, 125, str(run))
        self.assertIn("/no/such/folder", run.err + str(run.records))

    def test_script_runs_with_its_arguments(self):
        run = self.run_jobs(self.job(argv=["a b", "c"], name="s", script="#!/bin/sh\necho \"$1|$2\"; exit 7\n"))
        self.assert_state(run, "FAILED", "exited", 7)
        self.assertEqual(run.out, "a b|c\n")

    def test_memory_bomb_is_out_of_memory_and_names_limit_and_cgroup(self):
        run = self.run_job("memory_bomb", memory_per_node="32M")
        self.assert_state(run, "OUT_OF_MEMORY", "out_of_memory", 137)
        self.assertEqual(run.outcome["limit"]["name"], "memory_per_node")
        self.assertEqual(run.outcome["limit"]["value"], "32M")
        self.assertIn("/job-", run.outcome["limit"]["cgroup"])
        self.assertGreaterEqual(run.usage["oom_kills"], 1)
        self.assertLessEqual(run.usage["memory_peak"], 32 << 20)
        self.assertGreater(run.usage["memory_peak"], 16 << 20)

    def test_memory_bomb_in_a_script_is_out_of_memory_too(self):
        script = f"#!/bin/sh\n{self.payload} allocate 300\n"
        run = self.run_jobs({"name": "script", "script": script, "memory_per_node": "64M", "current_working_directory": self.work})
        self.assert_state(run, "OUT_OF_MEMORY", "out_of_memory", 137)
        self.assertEqual(run.outcome["limit"]["name"], "memory_per_node")

    def test_memory_bomb_in_a_child_leaves_the_job_completed_with_oom_kills(self):
        run = self.run_job("memory_bomb_child", memory_per_node="32M")
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertIn("child signal 9", run.out)
        self.assertGreaterEqual(run.usage["oom_kills"], 1)

    def test_sigkill_of_its_own_is_not_taken_for_out_of_memory(self):
        run = self.run_job("kill_self", 9, memory_per_node="32M")
        self.assert_state(run, "FAILED", "signalled", 137)
        self.assertNotIn("limit", run.outcome)

    def test_fork_bomb_ends_with_its_main_process(self):
        run = self.run_job("fork_bomb", 1, limits={"pids": 40})
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertGreater(run.usage["pids_limit_hits"], 0)
        self.assertLessEqual(run.usage["pids_peak"], 40)

    def test_fork_bomb_ends_at_its_time_limit(self):
        run = self.run_job("fork_bomb", 1000, limits={"pids": 200}, time_limit="1s", grace_period="200ms")
        self.assert_state(run, "TIMEOUT", "wall_time", 124)

    def test_double_forked_daemon_that_holds_stdout_ends_with_the_job(self):
        run = self.run_job("daemon", 1000)
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertEqual(run.out, "daemon left\n")

    def test_job_that_ignores_term_is_killed_after_its_grace(self):
        run = self.run_job("ignore_term", time_limit="1s", grace_period="500ms")
        self.assert_state(run, "TIMEOUT", "wall_time", 124)
        self.assertEqual(run.outcome["signal"], 9)
        self.assertGreaterEqual(run.usage["wall_usec"], 1_400_000)
        self.assertEqual(run.outcome["limit"]["name"], "time_limit")

    def test_job_that_heeds_term_keeps_its_exit_code_in_the_record(self):
        run = self.run_job("trap_term", 5, time_limit="1s", grace_period="20s")
        self.assert_state(run, "TIMEOUT", "wall_time", 124)
        self.assertEqual(run.outcome["exit_code"], 5)
        self.assertIn("signal 15", run.out)

    def test_closed_stdout_is_not_an_end(self):
        run = self.run_job("close_stdout", 1, 6)
        self.assert_state(run, "FAILED", "exited", 6)
        self.assertGreaterEqual(run.usage["wall_usec"], 1_000_000)

    def test_full_tmpfs_is_the_jobs_own_failure(self):
        run = self.run_job("fill", "/tmp", limits={"tmpfs": "8M"}, memory_per_node="64M")
        self.assert_state(run, "FAILED", "exited", 3)
        self.assertRegex(run.out, r"filled \d+ ENOSPC")
        self.assertLessEqual(int(run.out.split()[1]), 8 << 20)

    def test_tmpfs_counts_as_the_jobs_memory(self):
        run = self.run_job("fill", "/tmp", limits={"tmpfs": "1G"}, memory_per_node="32M")
        self.assert_state(run, "OUT_OF_MEMORY", "out_of_memory", 137)

    def test_the_private_folders_share_one_tmpfs_limit(self):
        script = "#!/bin/sh\nfor d in /tmp /var/tmp /dev/shm /run; do %s fill $d; done; exit 0\n" % self.payload
        run = self.run_jobs(self.job(argv=None, script=script, limits={"tmpfs": "8M"}))
        written = sum(int(line.split()[1]) for line in run.out.splitlines() if line.startswith("filled"))
        self.assertGreater(written, 4 << 20, str(run))
        self.assertLessEqual(written, 8 << 20, str(run))

    def test_forbidden_abi_is_a_seccomp_violation(self):
        for attempt in ("x32_syscall", *(["ia32_syscall"] if self.has_32_bit_calls() else [])):
            with self.subTest(attempt=attempt):
                run = self.run_job("attempt_here", attempt, environment={"PAYLOAD_IS_IN_A_JOB": "1"})
                self.assert_state(run, "FAILED", "seccomp_violation", 128 + signal.SIGSYS)

    def test_cpu_time_limit_counts_the_whole_tree(self):
        run = self.run_job("spin_processes", 100, 4, limits={"cpu_time": "1s"}, grace_period="200ms")
        self.assert_state(run, "TIMEOUT", "cpu_time", 124)
        self.assertEqual(run.outcome["limit"]["name"], "limits.cpu_time")
        self.assertGreaterEqual(run.usage["cpu_total_usec"], 1_000_000)

    def test_cpu_time_limit_leaves_a_sleeper_alone(self):
        run = self.run_job("hold", 1.5, limits={"cpu_time": "1s"})
        self.assert_state(run, "COMPLETED", "exited", 0)

    def test_output_limit_ends_a_chatterbox(self):
        run = self.run_job("print", 100_000_000, limits={"output": "1M"}, grace_period="200ms")
        self.assert_state(run, "FAILED", "output_limit")
        self.assertEqual(run.outcome["limit"]["name"], "limits.output")
        self.assertNotEqual(run.status, 0)
        self.assertLessEqual(len(run.out), 1 << 20)

    def test_output_limit_in_the_first_moment_leaves_the_job_its_grace(self):
        script = "trap 'echo saved >saved; exit 3' TERM; echo 123456789012; sleep 5 & wait"
        run = self.run_jobs(self.job(argv=["sh", "-c", script], limits={"output": 10}))
        self.assert_state(run, "FAILED", "output_limit")
        self.assertEqual(run.outcome["exit_code"], 3)
        self.assertTrue(os.path.exists(os.path.join(self.work, "saved")))
        self.assertIn("start", run.record)
        self.assertIn("wall_usec", run.usage)

    def test_output_limit_counts_both_streams_and_allows_exactly_that_much(self):
        run = self.run_job("print", 1 << 20, limits={"output": "1M"})
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertEqual(run.usage["output_bytes"], 1 << 20)
        self.assertEqual(len(run.out), 1 << 20)
        run = self.run_job("print", (1 << 20) + 1, "err", limits={"output": "1M"})
        self.assert_state(run, "FAILED", "output_limit")

    def test_silence_ends_at_no_output_timeout(self):
        run = self.run_job("hold", 1000, no_output_timeout="1s", grace_period="200ms")
        self.assert_state(run, "TIMEOUT", "no_output", 124)
        self.assertEqual(run.outcome["limit"]["name"], "no_output_timeout")

    def test_what_ignores_term_is_killed_after_its_grace_whatever_limit_it_met(self):
        deaf = f"exec {self.payload} ignore_term"
        cases = {
            "cpu_time": ({"limits": {"cpu_time": "1s"}}, "trap '' TERM; while :; do :; done", "TIMEOUT", 1.0),
            "output_limit": ({"limits": {"output": 5}}, f"trap '' TERM; echo 0123456789; {deaf}", "FAILED", 0.0),
            "no_output": ({"no_output_timeout": "1s"}, deaf, "TIMEOUT", 1.0),
        }
        for cause, (limit, script, state, until_limit) in cases.items():
            with self.subTest(cause=cause):
                run = self.run_jobs(self.job(argv=["/bin/sh", "-c", script], grace_period="500ms", time_limit="30s", **limit))
                self.assert_state(run, state, cause)
                self.assertEqual(run.outcome["signal"], signal.SIGKILL)
                self.assertGreaterEqual(run.usage["wall_usec"], (until_limit + 0.5 - 0.05) * 1e6)
                self.assert_nothing_left()

    def test_slow_output_keeps_a_job_alive(self):
        run = self.run_job("print_slowly", 16, 0.25, no_output_timeout="3s")
        self.assert_state(run, "COMPLETED", "exited", 0)

    def test_warning_signal_comes_before_the_time_limit(self):
        run = self.run_job(
            "trap_term", 0, time_limit="2s", kill_warning_signal="USR1", kill_warning_delay="1s", grace_period="5s"
        )
        self.assert_state(run, "TIMEOUT", "wall_time", 124)
        self.assertEqual(run.out.splitlines(), ["trapping", "signal 10", "signal 15"])

    def test_warning_signal_of_the_main_process_spares_the_others(self):
        child = "trap 'echo child' USR1; echo ready; for i in 1 2 3 4 5 6 7 8; do sleep 0.25; done"
        run = self.run_jobs(
            {
                "argv": ["sh", "-c", 'trap "echo main" USR1; sh -c "$0" & wait; wait', child],
                "time_limit": "8s",
                "kill_warning_signal": "USR1",
                "kill_warning_delay": "7s",
                "kill_warning_flags": ["BATCH_JOB"],
            }
        )
        self.assert_state(run, "COMPLETED", "exited", 0)
        self.assertEqual(run.out.splitlines(), ["ready", "main"])

    def test_time_limit_holds_while_berth_is_stopped(self):
        before = time.monotonic()
        process = self.run_start(self.job("hold", 120, time_limit="1s", grace_period="1s"))
        self.wait_for_job(process, word="hold")
        process.send_signal(signal.SIGSTOP)
        try:
            self.assertTrue(eventually(lambda: not self.job_pids("hold"), 30), "it outlives its time_limit")
            ran = time.monotonic() - before
            time.sleep(3)  # during which it does not run
        finally:
            process.send_signal(signal.SIGCONT)
        run = self.run_finish(process)
        self.assert_state(run, "TIMEOUT", "wall_time", 124)
        self.assertLess(run.usage["wall_usec"], (ran + 2) * 1e6)  # without the three seconds
        self.assertIn("voluntary_switches", run.usage)

    def test_a_job_ends_when_it_does_and_not_when_berth_hears_of_it(self):
        process = self.run_start(self.job("hold", 1))
        self.wait_for_job(process, word="hold")
        process.send_signal(signal.SIGSTOP)
        try:
            self.assertTrue(eventually(lambda: not self.job_pids("hold")))
            time.sleep(2)
        finally:
            process.send_signal(signal.SIGCONT)
        run = self.run_finish(process)
        start, end = (datetime.fromisoformat(run.record[key].replace("Z", "+00:00")) for key in ("start", "end"))
        self.assertAlmostEqual((end - start).total_seconds(), run.usage["wall_usec"] / 1e6, delta=0.1)

    def test_a_berth_that_is_told_to_stop_stops_its_jobs_and_their_time(self):
        output = os.path.join(self.work, "lines")
        job = self.job("print_slowly", 1000, 0.05, time_limit="3s", grace_period=0, standard_output=output)
        process = self.run_start(job)
        self.assertTrue(eventually(lambda: os.path.exists(output) and os.path.getsize(output) > 0))
        process.send_signal(signal.SIGTSTP)
        self.assertTrue(eventually(lambda: read(f"/proc/{process.pid}/stat").rpartition(")")[2].split()[0] == "T"))
        time.sleep(0.3)
        before = os.path.getsize(output)
        time.sleep(9)  # longer than the time limit and the patience of init
        self.assertEqual(os.path.getsize(output), before)
        process.send_signal(signal.SIGCONT)
        run = self.run_finish(process)
        self.assert_state(run, "TIMEOUT", "wall_time", 124)
        self.assertGreater(os.path.getsize(output), before + 10 * len("line 00"))

    def test_job_killed_from_outside_is_signalled(self):
        process = self.run_start(self.job("hold", 1000))
        for pid in self.wait_for_job(process):
            os.kill(pid, signal.SIGKILL)
        run = self.run_finish(process)
        self.assert_state(run, "FAILED", "signalled", 137)

    def test_usage_has_every_counter_of_this_machine(self):
        run = self.run_job("spin", 0.3)
        for name in (
            "wall_usec cpu_total_usec cpu_user_usec cpu_system_usec memory_peak page_faults voluntary_switches "
            "involuntary_switches pids_peak pids_limit_hits oom_kills output_bytes network_receive_bytes "
            "network_transmit_bytes memory_limit_hits"
        ).split():
            self.assertIn(name, run.usage, str(run.usage))
        self.assertGreaterEqual(run.usage["cpu_total_usec"], 300_000)
        self.assertGreaterEqual(run.usage["wall_usec"], 290_000)
        rest = run.usage["cpu_total_usec"] - run.usage["cpu_user_usec"] - run.usage["cpu_system_usec"]
        self.assertNotIn(rest, (1, 2), "rounded apart")

    def test_peak_memory_is_what_was_touched(self):
        run = self.run_job("allocate", 60, 0.5, memory_per_node="128M")
        self.assert_state(run, "COMPLETED")
        self.assertGreaterEqual(run.usage["memory_peak"], 60 << 20)
        self.assertLess(run.usage["memory_peak"], 80 << 20)

    def test_loopback_traffic_is_counted(self):
        run = self.run_job("loopback", 4711, 0.3)
        self.assertEqual(run.out, "loopback ok\n")
        self.assertGreater(run.usage["network_receive_packets"], 0)
        self.assertEqual(run.usage["network_receive_bytes"], run.usage["network_transmit_bytes"])

    def test_loopback_traffic_is_counted_exactly_and_is_no_network_s(self):
        code = (
            "import socket; to = socket.socket(type=socket.SOCK_DGRAM); to.bind(('127.0.0.1', 0))\n"
            "for i in range(200): socket.socket(type=socket.SOCK_DGRAM).sendto(b'x' * 100, to.getsockname()); to.recv(200)"
        )
        for network, packets in (("loopback", 200), ("private", 0)):
            run = self.run_jobs({"argv": ["python3", "-c", code], "isolation": {"network": network}})
            self.assert_state(run, "COMPLETED")
            for direction in ("receive", "transmit"):
                self.assertEqual(run.usage[f"network_{direction}_packets"], packets, network)
                self.assertEqual(run.usage[f"network_{direction}_bytes"], packets * (100 + 8 + 20), network)  # UDP, IP; lo has no Ethernet header

    def test_output_is_passed_on_byte_for_byte_and_streams_stay_apart(self):
        run = self.run_job("print_both")
        self.assertEqual(run.out, "to output\n")
        self.assertIn("to error\n", run.err)


if __name__ == "__main__":
    main()
