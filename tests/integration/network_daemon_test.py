"""Networks of berthd's jobs: shared ones that span its runners, published ports, and what its configuration says."""

import os
import shutil
import signal
import subprocess

from berth_case import eventually, main, natively, read
from daemon_case import BERTHD, DaemonCase
from network_lab import PYTHON, open_lab

PUBLIC = "8.8.8.8"
USER, OTHER = "daemon", "games"  # who is on every Debian


class NetworkDaemonCase(DaemonCase):
    configuration = {"runners": 3, "armed_ahead": 1}

    def setUp(self):
        super().setUp()
        self.lab = open_lab(self)
        self.daemon_prefix = self.lab.inside("host")
        self.before = self.lab.state()

    def tearDown(self):
        self.stop_daemon()
        self.end_runners()  # their networks go with them
        gone = eventually(lambda: self.lab.state() == self.before, 20)
        after = self.lab.state()
        super().tearDown()
        self.assertTrue(gone, str({key: after[key] for key in after if after[key] != self.before[key]}))

    def lab_submit(self, *words, network, name="job", user=USER, argv=None, hold=False, **isolation):
        spec = {
            "name": name,
            "hold": hold,
            "argv": argv or [PYTHON, "-B", self.lab.script, *map(str, words)],
            "current_working_directory": self.work,
            "standard_output": os.path.join(self.work, "out-%j"),
            "memory_per_node": "64M",
            "isolation": {"network": network, **isolation},
        }
        return int(self.ok("submit", "--parsable", self.job_file(spec), user=user))

    def output(self, job):
        return read(os.path.join(self.work, f"out-{job}"))

    def end(self, *jobs):
        for job in jobs:
            self.ok("cancel", job)
        for job in jobs:
            self.wait_for_state(job, "CANCELLED")


class Shared(NetworkDaemonCase):
    def test_a_network_spans_the_jobs_of_all_runners(self):
        """A runner that holds no job would be the next one's; but those of one network meet, also after a restart."""
        self.start_daemon()
        db = self.lab_submit("tcp", 5432, network="shared:app", name="db")
        self.wait_for_state(db, "RUNNING")
        web = self.lab_submit("until", "db", 5432, network="shared:app", name="web")
        other = self.lab_submit("connect", "db", 5432, network="shared:other", name="other")
        stranger = self.lab_submit("connect", "db", 5432, network="shared:app", name="stranger", user=OTHER)
        for job, result in ((web, "db 5432 ok"), (other, "db 5432 unknown"), (stranger, "db 5432 unknown")):
            self.wait_for_state(job, "COMPLETED", 60)
            self.assertIn(result, self.output(job))
        self.kill_daemon()
        self.start_daemon()
        again = self.lab_submit("until", "db", 5432, network="shared:app", name="again")
        self.wait_for_state(again, "COMPLETED", 60)
        self.assertIn("db 5432 ok", self.output(again))
        self.end(db)

    @natively
    def test_its_bridge_goes_with_its_last_job(self):
        self.start_daemon()
        for _ in range(2):
            db = self.lab_submit("tcp", 5432, network="shared:app", name="db")
            web = self.lab_submit("until", "db", 5432, network="shared:app", name="web")
            self.wait_for_state(web, "COMPLETED", 60)
            self.assertIn("ok", self.output(web))
            self.end(db)
        late = self.lab_submit("connect", "db", 5432, network="shared:app", name="late")
        self.wait_for_state(late, "COMPLETED", 60)
        self.assertIn("db 5432 unknown", self.output(late))


class Private(NetworkDaemonCase):
    @natively
    def test_private_jobs_reach_out_and_are_accounted(self):
        self.start_daemon()
        self.lab.serve("internet", "tcp", 80)
        job = self.lab_submit("connect", PUBLIC, 80, "10.9.9.9", 80, network="private")
        self.wait_for_state(job, "COMPLETED", 60)
        self.assertEqual(self.output(job).split("\n")[:2], [f"{PUBLIC} 80 ok", "10.9.9.9 80 denied"])
        usage = self.records(job)[-1]["usage"]
        self.assertGreater(usage["network_receive_bytes"], 0)
        self.assertGreaterEqual(usage["network_denied_packets"], 1)

    @natively
    def test_a_free_port_is_told(self):
        self.start_daemon()
        job = self.lab_submit("tcp", 80, network="private", publish=["127.0.0.1:0:80"])
        self.wait_for_state(job, "RUNNING")
        self.assertTrue(eventually(lambda: "->80/tcp" in self.ok("show", job)))
        self.kill_daemon()
        self.start_daemon()
        line = next(line for line in self.ok("show", job).splitlines() if "->80/tcp" in line)
        port = int(line.split("127.0.0.1:")[1].split("->")[0])
        self.assertEqual(self.lab.ask("host", "until", "127.0.0.1", port), {f"127.0.0.1 {port}": "ok"})
        self.end(job)


class OneBridge(NetworkDaemonCase):
    configuration = {"runners": 1, "armed_ahead": 1}  # all private jobs are behind one router

    @natively
    def test_what_is_for_one_job_reaches_no_other(self):
        """Another user's counters and rate are not hit, by what a job receives in silence, after its end, or shouts."""
        self.start_daemon()
        done, ready, go, told = (os.path.join(self.work, name) for name in ("done", "ready", "go", "told"))
        idle = self.lab_submit("wait", done, network="private", rate={"in": "100K"}, user=OTHER, name="idle")
        count, silent = 200, {"network": "private", "publish": ["127.0.0.1:9999:9999/udp"]}
        server = self.lab_submit("silent", 9999, count, ready, name="silent", **silent)
        self.assertTrue(eventually(lambda: os.path.exists(ready)))
        self.wait_for_state(idle, "RUNNING")
        send = (
            "import socket\nsender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"for _ in range({count}): sender.sendto(bytes(100), ('127.0.0.1', 9999))"
        )
        self.lab.run("host", PYTHON, "-c", send)
        self.wait_for_state(server, "COMPLETED", 60)
        self.assertEqual(self.records(server)[-1]["usage"]["network_receive_packets"], count)
        # Replies to a job that is no more.
        self.lab.serve("internet", "insist", 7, count, go, told)
        goner = self.lab_submit("tell", "203.0.113.1", 7, 1, ready, network="private", name="goner")
        self.wait_for_state(goner, "COMPLETED", 60)
        with open(go, "w", encoding="utf-8"):
            pass
        self.assertTrue(eventually(lambda: os.path.exists(told)))
        loud = self.lab_submit("shout", network="private", name="loud")
        self.wait_for_state(loud, "COMPLETED", 60)
        with open(done, "w", encoding="utf-8"):
            pass
        self.wait_for_state(idle, "COMPLETED", 60)
        usage = self.records(idle)[-1]["usage"]
        self.assertEqual((usage["network_receive_packets"], usage["network_receive_bytes"]), (0, 0))


class Settings(NetworkDaemonCase):
    @natively
    def test_the_hosts_network_is_the_administrators_to_allow(self):
        self.start_daemon()
        path = self.job_file({"name": "bold", "argv": ["/bin/true"], "isolation": {"network": "host"}})
        for user in (None, USER):
            status, _, err = self.cli("submit", path, user=user)
            self.assertNotEqual(status, 0)
            self.assertIn("allow_host", err)
        self.write_config(network={"allow_host": True})
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: self.cli("submit", path, user=USER)[0] == 0))
        self.lab.serve("host", "tcp", 81)
        job = self.lab_submit("connect", "127.0.0.1", 81, network="host")
        self.wait_for_state(job, "COMPLETED", 60)
        self.assertIn("127.0.0.1 81 ok", self.output(job))
        # What waits when it is forbidden again does not run.
        late = self.lab_submit(network="host", argv=["/bin/true"], hold=True)
        self.write_config()
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: self.cli("submit", path, user=USER)[0] != 0))
        self.ok("release", late)
        self.wait_for_state(late, "FAILED")
        self.assertIn("allow_host", self.records(late)[-1]["outcome"]["message"])

    @natively
    def test_ports_of_root_are_the_administrators_to_allow(self):
        self.start_daemon()
        path = self.job_file({"name": "web", "argv": ["/bin/true"], "hold": True, "isolation": {"network": "private", "publish": ["80:80"]}})
        status, _, err = self.cli("submit", path, user=USER)
        self.assertNotEqual(status, 0)
        self.assertIn("allow_privileged_ports", err)
        own = self.lab_submit(network="private", publish=["80:80"], argv=["/bin/true"], user=None)
        self.wait_for_state(own, "COMPLETED", 60)
        self.write_config(network={"allow_privileged_ports": True})
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: self.cli("submit", path, user=USER)[0] == 0))
        job = self.lab_submit(network="private", publish=["80:80"], argv=["/bin/true"])
        self.wait_for_state(job, "COMPLETED", 60)
        # What waits when it is forbidden again does not run.
        late = self.lab_submit(network="private", publish=["80:80"], argv=["/bin/true"], hold=True)
        self.write_config()
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: self.cli("submit", path, user=USER)[0] != 0))
        self.ok("release", late)
        self.wait_for_state(late, "FAILED")
        self.assertIn("allow_privileged_ports", self.records(late)[-1]["outcome"]["message"])

    @natively
    def test_the_pool_is_the_configurations(self):
        self.write_config(network={"pool": "10.77.0.0/16,fd12:3456:789a::/48"})
        self.start_daemon()
        job = self.lab_submit(network="private", argv=[shutil.which("ip"), "-o", "address", "show", "dev", "eth0"])
        self.wait_for_state(job, "COMPLETED", 60)
        self.assertIn("inet 10.77.", self.output(job))
        self.assertIn("inet6 fd12:3456:789a:", self.output(job))

    @natively
    def test_wrong_settings_are_refused(self):
        for network, word in (({"pool": "10.0.0.0/30"}, "/network/pool"), ({"allow_hosts": True}, "allow_host")):
            self.write_config(network=network)
            done = subprocess.run([BERTHD, "--config", self.config_path, "--check-config"], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(word, done.stdout + done.stderr)


if __name__ == "__main__":
    main()
