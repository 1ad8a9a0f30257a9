"""Private and shared networks, on a host and an internet of the test's own (network_lab.py)."""

import ipaddress
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time

from berth_case import BERTH, BerthCase, cpu_seconds, eventually, main, natively, processes, read
from network_lab import PYTHON, open_lab, results

PUBLIC, PUBLIC_V6 = "8.8.8.8", "2001:4860::8"


def resident_memory(pid):
    return int(read(f"/proc/{pid}/status").split("VmRSS:")[1].split()[0]) << 10


class NetworkCase(BerthCase):
    def setUp(self):
        super().setUp()
        self.lab = open_lab(self)
        self.before = self.lab.state()

    def leftovers(self):
        left = super().leftovers()
        after = self.lab.state()
        left += [f"{key} of the host: {after[key]}" for key in after if after[key] != self.before[key]]
        return left

    def start(self, *arguments, program=(), **options):
        return super().start(*arguments, program=(*self.lab.inside("host"), *program), **options)

    def lab_job(self, *words, network="private", **isolation):
        name = isolation.pop("name", "client")
        spec = {"argv": [PYTHON, "-B", self.lab.script, *map(str, words)], "name": name}
        spec["current_working_directory"] = self.work
        spec["memory_per_node"] = "128M"
        spec["isolation"] = {"network": network, **isolation}
        return spec

    def ask(self, *words, **isolation):
        run = self.run_jobs(self.lab_job(*words, **isolation))
        self.assert_state(run, "COMPLETED")
        return results(run.out), run

    def with_settings(self, network):
        """What to put in front of a command that is to find these in /etc/berth/berthd.json, in a mount namespace of its own."""
        folder = tempfile.mkdtemp(dir=self.directory)
        os.chmod(folder, 0o755)
        os.mkdir(os.path.join(folder, "berth"))
        with open(os.path.join(folder, "berth", "berthd.json"), "w", encoding="utf-8") as file:
            json.dump({"network": network}, file)
        mount = 'mount -t overlay -o "ro,lowerdir=$1:/etc" overlay /etc && shift && exec "$@"'
        return ("unshare", "--mount", "sh", "-c", mount, "sh", folder)

    def holding(self, first):
        """What to put in front of a command that is to have all descriptors from `first` on open, more than 1024."""
        script = f"import os, sys\nfor number in range({first}, 1100): os.dup2(0, number)\nos.execvp(sys.argv[1], sys.argv[1:])"
        return ("prlimit", "--nofile=1200:1200", PYTHON, "-c", script)

    def server(self, *words, name="server", **isolation):
        return self.lab_job(*words, name=name, **isolation)

    def wait_until(self, name, *words):
        """From a namespace of the lab, until all answer."""
        self.assertEqual(set(self.lab.ask(name, "until", *words).values()), {"ok"})

    def stop(self, process):
        process.send_signal(signal.SIGTERM)
        return self.run_finish(process)


class Egress(NetworkCase):
    def test_public_addresses_are_reached_and_nothing_else(self):
        self.lab.serve("internet", "tcp", 80)
        self.lab.serve("host", "tcp", 81)
        seen, run = self.ask(
            "connect", PUBLIC, 80, PUBLIC_V6, 80, "10.9.9.9", 80, "169.254.169.254", 80, "fd00:99::9", 80,
            "203.0.113.2", 81, "2001:db8::2", 81, "127.0.0.1", 81, "198.18.0.1", 80,
        )  # fmt: skip
        self.assertEqual(seen[f"{PUBLIC} 80"], "ok")
        self.assertIn(seen[f"{PUBLIC_V6} 80"], ("ok", "unreachable"))  # before Linux 6.17 hosts must forward IPv6
        for denied in ("10.9.9.9 80", "169.254.169.254 80", "203.0.113.2 81", "198.18.0.1 80", "2001:db8::2 81"):
            self.assertIn(seen[denied], ("denied", "unreachable"), denied)
        self.assertIn(seen["fd00:99::9 80"], ("denied", "unreachable"))
        self.assertEqual(seen["127.0.0.1 81"], "refused", "the job's own loopback")
        self.assertGreaterEqual(run.usage["network_denied_packets"], 4)
        self.assertGreaterEqual(run.usage["network_connections_peak"], 1)

    @natively
    def test_only_what_rules_name_is_reached(self):
        self.lab.serve("internet", "tcp", 80, 5432)
        tried = ("connect", "10.9.9.9", 80, "10.9.9.9", 5432, PUBLIC, 80)
        seen, _ = self.ask(*tried, egress=[{"cidr": "10.0.0.0/8", "ports": [5432], "protocol": "tcp"}])
        self.assertEqual(seen, {"10.9.9.9 80": "denied", "10.9.9.9 5432": "ok", f"{PUBLIC} 80": "denied"})
        seen, _ = self.ask(*tried, egress="deny")
        self.assertEqual(set(seen.values()), {"denied"})
        seen, _ = self.ask(*tried, egress="allow")
        self.assertEqual(set(seen.values()), {"ok"})
        seen, _ = self.ask(*tried, egress=["public:80", "10.9.9.9:5432"])
        self.assertEqual(seen, {"10.9.9.9 80": "denied", "10.9.9.9 5432": "ok", f"{PUBLIC} 80": "ok"})

    @natively
    def test_the_host_is_denied_whatever_the_policy_says(self):
        self.lab.serve("host", "tcp", 81)
        seen, run = self.ask("connect", "203.0.113.2", 81, egress="allow")
        self.assertEqual(seen, {"203.0.113.2 81": "denied"})
        self.assertGreaterEqual(run.usage["network_denied_packets"], 1)

    def test_names(self):
        log = os.path.join(self.work, "queries")
        zone = '{"allowed.test": ["8.8.8.8"], "denied.test": ["203.0.113.1"], "a.wild.test": ["203.0.113.1"]}'
        self.lab.serve("internet", "dns", log, zone)
        self.lab.serve("internet", "tcp", 80)
        tried = ("connect", PUBLIC, 80, "allowed.test", 80, "denied.test", 80, "a.wild.test", 80, "secret.tunnel.test", 80)
        dns = {"servers": ["203.0.113.1"]}
        seen, run = self.ask(*tried, egress=["allowed.test:80", "*.wild.test"], dns=dns)
        self.assertEqual(
            seen,
            {
                f"{PUBLIC} 80": "denied",  # its address, before its name was asked for
                "allowed.test 80": "ok",
                "denied.test 80": "unknown",
                "a.wild.test 80": "ok",
                "secret.tunnel.test 80": "unknown",
            },
        )
        with open(log, encoding="utf-8") as file:
            asked = file.read()
        self.assertIn("allowed", asked)
        self.assertNotIn("denied", asked, "a denied name never left the machine")
        self.assertNotIn("tunnel", asked)
        self.assertGreater(run.usage["network_denied_packets"], 0)
        seen, _ = self.ask(*tried, dns=dns)
        self.assertEqual(seen["denied.test 80"], "ok", "public addresses by any name")
        seen, _ = self.ask("connect", "allowed.test", 80, egress="deny", dns=dns)
        self.assertEqual(seen, {"allowed.test 80": "unknown"})

    @natively
    def test_a_name_leads_to_no_private_address(self):
        """Whoever answers for an allowed name cannot open the networks around the host with it."""
        zone = {
            "metadata.test": ["169.254.169.254"], "lan.test": ["10.9.9.9"], "lan6.test": ["fd00:99::9"],
            "host.test": ["203.0.113.2"], "both.test": ["10.9.9.9", PUBLIC],
        }  # fmt: skip
        self.lab.serve("internet", "dns", os.path.join(self.work, "queries"), json.dumps(zone))
        self.lab.serve("internet", "tcp", 80)
        self.lab.serve("host", "tcp", 80)
        dns = {"servers": ["203.0.113.1"]}
        tried = [word for name in zone for word in (name, 80)]
        seen, run = self.ask("connect", *tried, PUBLIC, 80, "10.9.9.9", 80, egress=["*.test"], dns=dns)
        self.assertEqual(seen.pop("both.test 80"), "ok")
        self.assertEqual(seen.pop(f"{PUBLIC} 80"), "ok", "both.test has opened it")
        self.assertLessEqual(set(seen.values()), {"denied", "unreachable"}, str(seen))
        self.assertGreaterEqual(run.usage["network_denied_packets"], 4)
        # But where the job file says so.
        rules = ["lan.test@10.9.0.0/16:80", {"host": "metadata.test", "cidr": "10.0.0.0/8"}, "named.test:80"]
        dns["hosts"] = {"named.test": "10.9.9.9"}
        seen, _ = self.ask("connect", "lan.test", 80, "metadata.test", 80, egress=rules[:2], dns=dns)
        self.assertEqual(seen, {"lan.test 80": "ok", "metadata.test 80": "denied"})
        seen, _ = self.ask("connect", "named.test", 80, "lan.test", 80, egress=rules[2:], dns=dns)
        self.assertEqual(seen, {"named.test 80": "ok", "lan.test 80": "unknown"})

    @natively
    def test_what_the_host_leads_elsewhere_is_the_host(self):
        """As a container engine does it: a port of the host's that is another address's."""
        self.lab.container = self.lab.hold()
        self.lab.run("host", "ip", "link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", str(self.lab.container))
        for name, device, address in (("host", "docker0", "172.17.0.1/16"), ("container", "eth0", "172.17.0.2/16")):
            self.lab.run(name, "ip", "address", "add", address, "dev", device)
            self.lab.run(name, "ip", "link", "set", device, "up")
        self.lab.run("container", "ip", "route", "add", "default", "via", "172.17.0.1")
        self.lab.run("host", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.lab.run("host", "nft", "add table ip nat; add chain ip nat to { type nat hook prerouting priority -100; }; "
                     "add rule ip nat to udp dport 9999 dnat to 172.17.0.2")  # fmt: skip
        self.before = self.lab.state()
        listener = subprocess.Popen([*self.lab.inside("container"), PYTHON, "-B", self.lab.script, "hear", "0.0.0.0"], stdout=subprocess.PIPE, text=True)
        self.lab.processes.append(listener)
        self.assertEqual(listener.stdout.readline().strip(), "ready")
        say = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'evil', ('203.0.113.2', 9999))"
        run = self.run_jobs(dict(self.lab_job(egress="allow"), argv=[PYTHON, "-c", say]))
        self.assert_state(run, "COMPLETED")
        self.assertEqual(run.usage["network_denied_packets"], 1)
        self.lab.run("internet", PYTHON, "-c", say.replace("evil", "good"))  # it is there for others
        self.assertEqual(listener.stdout.readline().strip(), "good")

    @natively
    def test_pings(self):
        """Programs that ask for no capability; ICMP follows the policy."""
        script = (
            "import socket, struct, sys\n"
            "for host in sys.argv[1:]:\n"
            "  v6 = ':' in host\n"
            "  with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM, 58 if v6 else 1) as ping:\n"
            "    ping.settimeout(2)\n"
            "    try:\n"
            "      ping.connect((host, 0)); ping.send(struct.pack('>BBHHH', 128 if v6 else 8, 0, 0, 0, 1)); ping.recv(99); print(host, 'ok')\n"
            "    except OSError as error: print(host, 'denied')\n"
        )
        job = dict(self.lab_job(egress=["8.8.8.8/icmp"]), argv=[PYTHON, "-c", script, PUBLIC, "203.0.113.1", "203.0.113.2"])
        run = self.run_jobs(job)
        self.assertEqual(results(run.out), {PUBLIC: "ok", "203.0.113.1": "denied", "203.0.113.2": "denied"}, str(run))

    @natively
    def test_wrong_combinations_are_refused(self):
        run = self.run_jobs(self.lab_job("connect", network="loopback", egress="deny"))
        self.assert_refused(run, "/isolation/egress", "loopback")
        run = self.run_jobs(self.lab_job("connect", egress=["10.0.0.1/8"]))
        self.assert_refused(run, "/isolation/egress/0")


class NameServer(NetworkCase):
    """What a job may do to the forwarder, which serves others too."""

    DNS = {"servers": ["203.0.113.1"]}

    @natively
    def test_a_connection_carries_several_queries(self):
        """As the C library asks for both families when an answer is too long for a datagram."""
        self.lab.serve("internet", "dns", os.path.join(self.work, "queries"), '{"a.test": ["8.8.8.8"], "b.test": ["8.8.8.8"]}')
        seen, run = self.ask("stream-queries", "a.test", "denied.example", "b.test", egress=["*.test"], dns=self.DNS)
        self.assertEqual(seen, {"a.test": "1", "denied.example": "0", "b.test": "1"})
        self.assertEqual(run.usage["network_denied_packets"], 1)

    @natively
    def test_a_broken_connection_is_not_asked_for_again(self):
        log = os.path.join(self.work, "asked")
        self.lab.serve("internet", "mute", 53, log)
        process = self.run_start(self.lab_job("break-query", "a.test", dns=self.DNS))
        self.assertTrue(eventually(lambda: os.path.exists(log), 20))
        time.sleep(3)
        self.assertEqual(read(log), ".")
        self.stop(process)

    @natively
    def test_no_job_keeps_another_from_asking(self):
        self.lab.serve("internet", "dns", os.path.join(self.work, "queries"), '{"a.test": ["8.8.8.8"]}')
        self.lab.serve("internet", "tcp", 80)
        ready = os.path.join(self.work, "ready")
        script = f"import os, sys, time\nwhile not os.path.exists('{ready}'): time.sleep(0.05)\nos.execv(sys.executable, [sys.executable, '-B', *sys.argv[1:]])"
        asker = self.lab_job(dns=self.DNS, name="asker")
        asker["argv"] = [PYTHON, "-c", script, self.lab.script, "connect", "a.test", "80"]
        process = self.run_start(self.lab_job("hold-streams", ready, dns=self.DNS, name="hog"), asker)
        self.assertTrue(eventually(lambda: os.path.exists(self.database) and self.history("-s", "COMPLETED"), 40))
        self.assertLess(int(read(ready)), 400)
        self.assertIn("a.test 80 ok", self.stop(process).out)

    @natively
    def test_no_jobs_datagrams_drown_those_of_another(self):
        ready = os.path.join(self.work, "ready")
        process = self.run_start(
            self.lab_job("drown", ready, egress="deny", name="loud"), self.lab_job("datagram-queries", 60, ready, egress="deny", name="asker")
        )
        self.assertTrue(eventually(lambda: os.path.exists(self.database) and self.history("-s", "COMPLETED"), 160))
        self.assertIn("answered 60\n", self.stop(process).out)

    @natively
    def test_domains_are_searched_past_those_that_are_denied(self):
        self.lab.serve("internet", "dns", os.path.join(self.work, "queries"), '{"db.second.test": ["8.8.8.8"]}')
        self.lab.serve("internet", "tcp", 80)
        dns = {**self.DNS, "search": ["first.test", "second.test"]}
        seen, _ = self.ask("connect", "db", 80, egress=["db.second.test"], dns=dns)
        self.assertEqual(seen, {"db 80": "ok"})


class Host(NetworkCase):
    """The host's own network, and who may have it."""

    def as_user(self, number=4242):
        return self.environment(SUDO_UID=str(number), SUDO_GID=str(number), SUDO_USER="somebody")

    @natively
    def test_root_may_have_the_hosts_network(self):
        self.lab.serve("host", "tcp", 81)
        seen, run = self.ask("connect", "127.0.0.1", 81, PUBLIC, 82, network="host")
        self.assertEqual(seen, {"127.0.0.1 81": "ok", f"{PUBLIC} 82": "refused"})
        for counter in ("network_receive_bytes", "network_transmit_packets", "network_denied_packets"):
            self.assertIsNone(run.usage.get(counter), "the host's devices carry everybody's bytes")
        job = dict(self.lab_job(network="host"), argv=["/bin/cat", "/etc/resolv.conf", "/proc/net/dev"])
        run = self.run_jobs(job)
        self.assertIn(read("/etc/resolv.conf"), run.out)
        self.assertIn("eth0:", run.out)

    @natively
    def test_nothing_of_the_host_can_be_configured(self):
        job = dict(self.lab_job(network="host"), argv=[shutil.which("ip"), "link", "set", "lo", "down"])
        run = self.run_jobs(job)
        self.assert_state(run, "FAILED")
        self.assertIn("Operation not permitted", run.err)

    @natively
    def test_through_sudo_it_is_refused(self):
        run = self.run_jobs(self.lab_job("connect", network="host"), environment=self.as_user())
        self.assert_refused(run, "isolation.network", "host", "allow_host", "/etc/berth/berthd.json")

    @natively
    def test_without_root_it_is_refused(self):
        entry = ("setpriv", "--reuid=4242", "--regid=4242", "--clear-groups")
        os.chmod(self.directory, 0o777)
        job = {"argv": ["/bin/true"], "isolation": {"network": "host"}, "current_working_directory": self.work}
        run = self.run_jobs(job, program=entry)
        self.assert_refused(run, "host", "allow_host")

    @natively
    def test_what_the_administrator_allows_is_permitted(self):
        private = self.with_settings({"allow_host": True, "pool": "10.77.0.0/16"})
        self.lab.serve("host", "tcp", 81)
        run = self.run_jobs(self.lab_job("connect", "127.0.0.1", 81, network="host"), environment=self.as_user(), program=private)
        self.assert_state(run, "COMPLETED")
        self.assertIn("127.0.0.1 81 ok", run.out)
        run = self.run_jobs(dict(self.lab_job(), argv=[shutil.which("ip"), "-o", "-4", "address"]), program=private)
        self.assertIn("inet 10.77.", run.out)


class Pool(NetworkCase):
    """Where addresses come from."""

    def addresses(self, *arguments):
        job = dict(self.lab_job(), argv=[shutil.which("ip"), "-o", "address", "show", "dev", "eth0"])
        run = self.run_jobs(job, arguments=arguments)
        self.assert_state(run, "COMPLETED")
        return [ipaddress.ip_interface(line.split()[3]).ip for line in run.out.splitlines()]

    @natively
    def test_ranges_of_both_families_can_be_chosen(self):
        found = self.addresses("--network-pool", "10.77.0.0/16,fd12:3456:789a::/48")
        self.assertEqual(len(found), 2)
        for address, pool in zip(found, ("10.77.0.0/16", "fd12:3456:789a::/48")):
            self.assertIn(address, ipaddress.ip_network(pool))

    @natively
    def test_what_the_host_has_routes_to_is_avoided(self):
        self.lab.run("host", "ip", "route", "add", "10.77.0.0/17", "via", "203.0.113.1")
        self.lab.run("host", "ip", "-6", "route", "add", "fd12:3456:789a:4d80::/60", "via", "2001:db8::1")
        self.before = self.lab.state()
        found = self.addresses("--network-pool", "10.77.0.0/16,fd12:3456:789a::/48")
        self.assertIn(found[0], ipaddress.ip_network("10.77.128.0/17"))
        self.assertIn(found[1], ipaddress.ip_network("fd12:3456:789a::/48"))
        self.assertNotIn(found[1], ipaddress.ip_network("fd12:3456:789a:4d80::/60"))

    @natively
    def test_a_pool_that_is_taken_whole_is_refused(self):
        self.lab.run("host", "ip", "route", "add", "10.77.8.0/24", "via", "203.0.113.1")
        self.before = self.lab.state()
        run = self.run_jobs(dict(self.lab_job(), argv=["/bin/true"]), arguments=("--network-pool", "10.77.8.0/24"))
        self.assert_state(run, "FAILED", "launch_failed", 125)
        for word in ("no free block", "10.77.8.0/24", "--network-pool"):
            self.assertIn(word, run.outcome["message"])

    @natively
    def test_a_running_jobs_connections_outlive_a_round_of_the_pool(self):
        """Addresses are had again by later jobs, with nothing of their last ones; other jobs do not notice."""
        self.lab.serve("internet", "tcp", 80)
        waiting, go_on = os.path.join(self.work, "waiting"), os.path.join(self.work, "go")
        short = [dict(self.lab_job(name=f"j{number}"), argv=["/bin/true"]) for number in range(260)]  # of 239 addresses
        process = self.run_start(
            self.lab_job("listen", PUBLIC, 80, waiting, go_on, name="long"), *short, arguments=("--network-pool", "10.77.0.0/24")
        )
        self.assertTrue(eventually(lambda: os.path.exists(self.database) and len(self.history("-s", "COMPLETED")) == len(short), 60))
        self.assertTrue(os.path.exists(waiting))
        with open(go_on, "w", encoding="utf-8"):
            pass
        run = self.run_finish(process)
        self.assertIn("later hello", run.out)
        self.assertEqual(run.by_name("long")["state"], "COMPLETED")

    @natively
    def test_wrong_pools_are_refused(self):
        for pool in ("10.77.0.0/25", "0.0.0.0/0", "2001:db8::/48", "10.77.0.0/16,10.78.0.0/16", "somewhere"):
            run = self.run_jobs(dict(self.lab_job(), argv=["/bin/true"]), arguments=("--network-pool", pool))
            self.assert_refused(run, "--network-pool", pool)

    @natively
    def test_berths_with_pools_of_their_own_run_side_by_side(self):
        berths = [
            self.run_start(self.server("tcp", 80, publish=[f"800{number}:80"]), arguments=("--network-pool", f"10.77.{number}.0/24"))
            for number in (1, 2)
        ]
        self.wait_until("host", "127.0.0.1", 8001, "127.0.0.1", 8002)
        for process in berths:
            self.stop(process)


class Ports(NetworkCase):
    def test_two_jobs_have_the_same_ports(self):
        servers = [
            self.server("tcp", 80, 5432, name=f"server{number}", publish=[f"1808{number}:80", f"1543{number}:5432"])
            for number in (1, 2)
        ]
        process = self.run_start(*servers)
        for address in ("127.0.0.1", "::1", "203.0.113.2", "2001:db8::2"):
            self.wait_until("host", address, 18081, address, 18082, address, 15431, address, 15432)
        self.wait_until("internet", "203.0.113.2", 18081, "2001:db8::2", 15432)
        self.stop(process)

    @natively
    def test_datagrams(self):
        process = self.run_start(self.server("udp", 53, publish=["127.0.0.1:5353:53/udp", "[::1]:5353:53/udp"]))
        self.assertTrue(eventually(lambda: "5353" in self.lab.run("host", "cat", "/proc/net/udp") or ":14E9" in self.lab.run("host", "cat", "/proc/net/udp")))
        for address in ("127.0.0.1", "::1"):
            self.assertTrue(eventually(lambda a=address: self.pings(a)), address)
        self.stop(process)

    @natively
    def test_datagrams_are_answered_from_the_address_that_was_asked(self):
        self.lab.run("host", "ip", "address", "add", "203.0.113.3/24", "dev", "eth0")
        self.lab.run("host", "ip", "address", "add", "2001:db8::3/64", "dev", "eth0", "nodad")
        process = self.run_start(self.server("udp", 53, publish=["5353:53/udp"]))
        for address in ("203.0.113.2", "203.0.113.3", "2001:db8::2", "2001:db8::3"):
            self.assertTrue(eventually(lambda a=address: self.pings(a, "internet"), 20), address)
        for address in ("127.0.0.1", "::1", "203.0.113.3"):
            self.assertTrue(eventually(lambda a=address: self.pings(a)), address)
        self.stop(process)

    @natively
    def test_a_side_that_waits_for_the_other_costs_nothing(self):
        """A server that has ended its side and does not read, and a client that has said all."""
        process = self.run_start(self.server("deaf", 80, publish=["127.0.0.1:8080:80"]))
        self.assertTrue(eventually(lambda: self.lab.ask("host", "connect", "127.0.0.1", 8080) == {"127.0.0.1 8080": "silent"}, 20))
        self.lab.serve("host", "stuff", "127.0.0.1", 8080)
        before = cpu_seconds(process.pid)
        time.sleep(3)
        self.assertLess(cpu_seconds(process.pid) - before, 0.3, "seconds of CPU in three seconds of waiting")
        self.stop(process)

    @natively
    def test_without_descriptors_clients_wait(self):
        """Without waking berth all the time."""
        process = self.run_start(self.server("tcp", 80, publish=["127.0.0.1:8080:80"]))
        self.wait_until("host", "127.0.0.1", 8080)
        before = cpu_seconds(process.pid)
        old = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        used = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
        first_free = next(number for number in range(len(used) + 1) if number not in used)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (first_free + 1, old[1]))  # enough for a client, not for its way
        self.assertNotEqual(self.lab.ask("host", "connect", "127.0.0.1", 8080), {"127.0.0.1 8080": "ok"})
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (first_free, old[1]))
        self.assertEqual(self.lab.ask("host", "connect", "127.0.0.1", 8080), {"127.0.0.1 8080": "timeout"})
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, old)
        self.assertLess(cpu_seconds(process.pid) - before, 0.3, "seconds of CPU in four seconds of waiting")
        self.wait_until("host", "127.0.0.1", 8080)
        self.stop(process)

    @natively
    def test_what_waits_for_the_job_takes_no_memory_of_berths(self):
        """It stays in the sockets, where its sender waits."""
        log, count = os.path.join(self.work, "taken"), 200
        process = self.run_start(self.server("mute", 80, log, publish=["127.0.0.1:8080:80"]))
        self.assertTrue(eventually(lambda: self.lab.ask("host", "connect", "127.0.0.1", 8080) == {"127.0.0.1 8080": "timeout"}, 20))
        before = resident_memory(process.pid)
        self.lab.serve("host", "press", "127.0.0.1", 8080, count, 1 << 20)
        self.assertTrue(eventually(lambda: len(read(log)) > count, 20), read(log))
        self.assertLess(resident_memory(process.pid) - before, 4 << 20)
        self.stop(process)

    @natively
    def test_clients_leave_descriptors_for_other_jobs(self):
        log, go, limit = os.path.join(self.work, "taken"), os.path.join(self.work, "go"), 400
        process = self.run_start(
            self.server("mute", 80, log, publish=["127.0.0.1:8080:80"]),
            self.lab_job("wait", go, name="first"),
            *(self.lab_job("connect", name=f"then{number}") for number in range(6)),  # more than were made ahead
            program=("prlimit", f"--nofile={limit}:{limit}"),
        )
        self.assertTrue(eventually(lambda: self.lab.ask("host", "connect", "127.0.0.1", 8080) == {"127.0.0.1 8080": "timeout"}, 20))
        self.lab.serve("host", "press", "127.0.0.1", 8080, limit, 1)
        self.assertTrue(eventually(lambda: len(read(log)) == limit // 4, 20), f"{len(read(log))} clients")
        with open(go, "w", encoding="utf-8"):
            pass
        self.assertTrue(eventually(lambda: len(self.history("-s", "COMPLETED,FAILED")) == 7, 40))
        run = self.stop(process)
        self.assertEqual({run.by_name(f"then{number}")["state"] for number in range(6)}, {"COMPLETED"}, run.err)

    def published(self, port):
        """The rows of connected clients in the host's /proc/net/tcp (proc_net_tcp(5))."""
        rows = [line.split() for line in self.lab.run("host", "cat", "/proc/net/tcp").splitlines()[1:]]
        return [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]

    @natively
    def test_a_client_that_is_gone_without_a_word_is_asked_for(self):
        process = self.run_start(self.server("mute", 80, os.path.join(self.work, "taken"), publish=["127.0.0.1:8080:80"]))
        self.assertTrue(eventually(lambda: self.lab.ask("host", "connect", "127.0.0.1", 8080) == {"127.0.0.1 8080": "timeout"}, 20))
        self.lab.serve("host", "press", "127.0.0.1", 8080, 1, 1)
        keepalive = "02"
        self.assertTrue(eventually(lambda: [row[5].split(":")[0] for row in self.published(8080)] == [keepalive]), self.published(8080))
        self.stop(process)

    def pings(self, address, name="host"):
        try:
            return self.lab.ask(name, "datagram", address, 5353) == {"datagram": "PING"}
        except AssertionError:
            return False

    @natively
    def test_a_taken_port_is_refused(self):
        self.lab.serve("host", "tcp", 8080)
        run = self.run_jobs(self.server("tcp", 80, publish=["8080:80"]))
        self.assert_state(run, "FAILED", "launch_failed", 125)
        self.assertIn("8080:80", run.outcome["message"])
        self.assertIn("choose another port", run.outcome["message"])

    @natively
    def test_a_free_port_is_told(self):
        process = self.run_start(self.server("tcp", 80, publish=["127.0.0.1:0:80"]))

        def told():
            status, out, _ = self.berth("show", "--database", self.database, "1")
            return status == 0 and next((line for line in out.splitlines() if "->80/tcp" in line), None)

        self.assertTrue(eventually(told, 20))
        port = int(told().split("127.0.0.1:")[1].split("->")[0])
        self.wait_until("host", "127.0.0.1", port)
        self.stop(process)


    def test_ports_of_root_are_roots_to_give(self):
        """Who may not bind port 80 of the host does not get it through a berth that root started for them either."""
        somebody = self.environment(SUDO_UID="4242", SUDO_GID="4242", SUDO_USER="somebody")
        for port in ("80:80", "[::1]:1023:80", "53:53/udp"):
            run = self.run_jobs(dict(self.lab_job(publish=[port]), argv=["/bin/true"]), environment=somebody)
            self.assert_refused(run, "isolation.publish", port, "1024", "allow_privileged_ports")
        for environment, port in ((somebody, "1024:80"), (somebody, "0:80"), (None, "80:80")):
            run = self.run_jobs(dict(self.lab_job(publish=[port]), argv=["/bin/true"]), environment=environment)
            self.assert_state(run, "COMPLETED")


class Shared(NetworkCase):
    def test_jobs_of_one_network_find_each_other_by_name(self):
        log = os.path.join(self.work, "queries")
        self.lab.serve("internet", "dns", log, "{}")
        shared = {"network": "shared:app", "dns": {"servers": ["203.0.113.1"]}}
        client = self.lab_job("until", "db", 5432, name="web", **shared)
        other = self.lab_job("connect", "db", 5432, name="other", network="shared:other", dns=shared["dns"])
        process = self.run_start(self.server("tcp", 5432, name="db", **shared), client, other)
        self.assertTrue(eventually(lambda: os.path.exists(self.database) and len(self.history("-s", "COMPLETED")) == 2, 40))
        run = self.stop(process)
        self.assertIn("db 5432 ok", run.out)
        self.assertIn("db 5432 unknown", run.out)

    @natively
    def test_both_families_carry_more_than_a_packet(self):
        """And the router tells the jobs of no shorter way to each other: there is none."""
        self.lab.serve("internet", "dns", os.path.join(self.work, "queries"), "{}")
        shared = {"network": "shared:app", "dns": {"servers": ["203.0.113.1"]}}
        script = (
            "import socket, time\n"
            "end = time.monotonic() + 30\n"
            "while True:\n"
            "  try:\n"
            "    found = socket.getaddrinfo('db', 80, 0, socket.SOCK_STREAM)\n"
            "    socket.create_connection(found[0][4][:2]).close(); break\n"
            "  except (socket.gaierror, ConnectionRefusedError):\n"
            "    if time.monotonic() > end: raise\n"
            "    time.sleep(0.1)\n"
            "for family, _, _, _, address in found:\n"
            "  for _ in range(5):\n"
            "    with socket.create_connection(address[:2], timeout=10) as connection:\n"
            "      connection.sendall(b'send 100000\\n'); size = 0\n"
            "      while size < 100000: size += len(connection.recv(65536))\n"
            "  print(family.name, 'ok')\n"
            "print('redirects', open('/proc/net/snmp6').read().split('Icmp6InRedirects')[1].split()[0])\n"
        )
        client = dict(self.lab_job(name="web", **shared), argv=[PYTHON, "-c", script])
        process = self.run_start(self.server("tcp", 80, name="db", **shared), client)
        self.assertTrue(eventually(lambda: os.path.exists(self.database) and self.history("-s", "COMPLETED,FAILED"), 40))
        run = self.stop(process)
        self.assertIn("AF_INET ok", run.out, str(run))
        self.assertIn("AF_INET6 ok", run.out, str(run))
        self.assertIn("redirects 0\n", run.out, str(run))

    @natively
    def test_what_one_sends_to_a_silent_one_does_not_come_back(self):
        """The bridge knows who is where without having heard of them."""
        self.lab.serve("internet", "dns", os.path.join(self.work, "queries"), "{}")
        shared = {"network": "shared:app", "dns": {"servers": ["203.0.113.1"]}}
        count, ready = 200, os.path.join(self.work, "ready")
        run = self.run_jobs(
            self.server("silent", 9999, count, ready, name="db", **shared), self.lab_job("tell", "db", 9999, count, ready, name="web", **shared)
        )
        self.assertIn("returned 0\n", run.out, str(run))
        self.assertEqual(run.by_name("db")["usage"]["network_receive_packets"], count)

    @natively
    def test_nothing_is_heard_of_others(self):
        """A private job reaches neither another private one nor a shared network's jobs, by any address."""
        process = self.run_start(self.server("tcp", 80), self.server("tcp", 80, name="db", network="shared:app"))
        self.assertTrue(eventually(lambda: len(self.job_addresses()) == 2, 20))
        addresses = [word for address in self.job_addresses() for word in (address, 80)]
        seen, _ = self.ask("connect", *addresses, egress="allow")
        self.assertNotIn("ok", seen.values(), str(seen))
        self.stop(process)

    @natively
    def test_networks_of_two_users_are_two(self):
        """The same name, another user: neither its name nor its address leads there."""
        log = os.path.join(self.work, "queries")
        self.lab.serve("internet", "dns", log, "{}")
        shared = {"network": "shared:app", "dns": {"servers": ["203.0.113.1"]}}
        process = self.run_start(self.server("tcp", 5432, name="db", user="daemon", **shared))
        self.assertTrue(eventually(lambda: len(self.job_addresses()) == 1, 20))
        address = self.job_addresses()[0]
        jobs = [
            self.lab_job("connect", "db", 5432, address, 5432, name="stranger", user="games", egress="allow", **shared),
            self.lab_job("connect", "db", 5432, address, 5432, name="alone", user="daemon", egress="allow"),
        ]
        for job in jobs:
            run = self.run_jobs(job)
            self.assert_state(run, "COMPLETED")
            self.assertNotIn("ok", set(results(run.out).values()), run.out)
        self.stop(process)
        # In one berth too, where both are at once.
        run = self.run_start(self.server("tcp", 5432, name="db", user="daemon", **shared), jobs[0])
        self.assertTrue(eventually(lambda: len(self.history("-s", "COMPLETED")) == 3, 40))
        out = self.stop(run).out
        self.assertIn("db 5432 unknown", out)
        self.assertNotIn(" ok", out)

    def job_addresses(self):
        found = []
        for pid in self.python_pids():
            text = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-o", "-4", "address"], capture_output=True, text=True, check=False).stdout
            found += [line.split()[3].split("/")[0] for line in text.splitlines() if "eth0" in line]
        return found

    def python_pids(self):
        own = os.readlink(f"/proc/{self.lab.host}/ns/net")
        pids = []
        for pid, (_, _, command) in processes().items():
            try:
                network = os.readlink(f"/proc/{pid}/ns/net")
            except OSError:
                continue
            if self.lab.script in command and "tcp" in command.split() and network not in (own, os.readlink("/proc/self/ns/net")):
                pids.append(pid)
        return pids

    def test_spoofing_changes_nothing(self):
        """Even root with raw sockets in the job's namespace cannot speak for others."""
        process = self.run_start(self.server("tcp", 80, publish=["8001:80"]), self.server("tcp", 80, name="b", publish=["8002:80"]))
        everyone = [word for address in ("127.0.0.1", "::1") for port in (8001, 8002) for word in (address, port)]
        self.wait_until("host", *everyone)
        pids = self.python_pids()
        self.assertEqual(len(pids), 2)
        taker, victim = pids
        victim_v4 = self.addresses_of(victim, "-4")[0]
        victim_v6 = next(address for address in self.addresses_of(victim, "-6") if not address.startswith("fe80"))
        listener = subprocess.Popen([*self.lab.inside("internet"), PYTHON, "-B", self.lab.script, "hear", PUBLIC, PUBLIC_V6], stdout=subprocess.PIPE, text=True)
        self.lab.processes.append(listener)
        self.assertEqual(listener.stdout.readline().strip(), "ready")
        spoof = [f"--net=/proc/{taker}/ns/net", PYTHON, "-B", self.lab.script, "spoof", victim_v4, victim_v6, PUBLIC, PUBLIC_V6]
        subprocess.run(["nsenter", *spoof], check=True)
        self.assertEqual(listener.stdout.readline().strip(), "good", "the datagram with another's address came through")
        # Both still have their own connections: a stolen address would lead to the taker, who has counted nothing.
        self.wait_until("host", *everyone)
        self.assertEqual(self.stop(process).by_name("b")["state"], "CANCELLED")

    def addresses_of(self, pid, family):
        text = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-o", family, "address", "show", "dev", "eth0"], capture_output=True, text=True, check=True).stdout
        return [line.split()[3].split("/")[0] for line in text.splitlines()]


class Descriptors(NetworkCase):
    """More than 1024 open ones, for which libnftables is not made."""

    @natively
    def test_a_network_may_come_late(self):
        """Its rules have numbers kept for them; what else berth opens comes first."""
        self.lab.serve("internet", "tcp", 80)
        run = self.run_jobs(self.lab_job("connect", PUBLIC, 80), program=self.holding(40))
        self.assert_state(run, "COMPLETED")
        self.assertIn("ok", run.out)

    @natively
    def test_without_a_low_one_the_job_is_refused(self):
        """And berth goes on."""
        run = self.run_jobs(self.lab_job("connect", PUBLIC, 80), {"argv": ["/bin/true"], "name": "other"}, program=self.holding(3))
        self.assertEqual(run.by_name("client")["outcome"]["cause"], "launch_failed", str(run))
        self.assertIn("below 1024", run.by_name("client")["outcome"]["message"])
        self.assertEqual(run.by_name("other")["state"], "COMPLETED", str(run))


class Measures(NetworkCase):
    SIZE = 8_000_000

    @natively
    def test_accounting_equals_the_transfer(self):
        self.lab.serve("internet", "tcp", 80)
        for verb, counter in (("send", "network_receive_bytes"), ("take", "network_transmit_bytes")):
            _, run = self.ask("transfer", PUBLIC, 80, verb, self.SIZE)
            # 66 bytes of headers per segment of 1448 at most, and some for opening and retransmission.
            self.assertGreaterEqual(run.usage[counter], self.SIZE)
            self.assertLess(run.usage[counter], self.SIZE * 1.07)

    def test_accounting_is_exact_where_nothing_is_sent_twice(self):
        self.lab.serve("internet", "udp", 7)
        count, size = 500, 1000
        _, run = self.ask("pingpong", "203.0.113.1", 7, count, size)  # answers come from there
        for direction in ("receive", "transmit"):
            self.assertEqual(run.usage[f"network_{direction}_packets"], count)
            self.assertEqual(run.usage[f"network_{direction}_bytes"], count * (size + 8 + 20 + 14))  # UDP, IP, Ethernet

    @natively
    def test_a_rate_holds(self):
        self.lab.serve("internet", "tcp", 80)
        cases = [(*way, *speed) for way in (("send", "in"), ("take", "out")) for speed in ((2_000_000, 4_000_000), (30_000_000, 45_000_000))]
        for verb, direction, rate, size in cases:
            # Never faster, and once in three tries not slower either: the machine may be busy.
            ratios = []
            while len(ratios) < 3 and not any(ratio < 1.1 for ratio in ratios):
                seen, _ = self.ask("transfer", PUBLIC, 80, verb, size, rate={direction: rate})
                ratios.append(float(seen["seconds"]) * rate / size)
                self.assertGreater(ratios[-1], 0.9, f"{direction} {rate}")
            self.assertLess(min(ratios), 1.1, f"{direction} {rate}: {ratios}")

    @natively
    def test_a_job_has_no_more_connections_than_it_may(self):
        private = self.with_settings({"connections": 50})
        for address in (PUBLIC, PUBLIC_V6):
            run = self.run_jobs(self.lab_job("flood", address, 120), program=private)
            self.assert_state(run, "COMPLETED")
            self.assertEqual((run.usage["network_connections_peak"], run.usage["network_denied_packets"]), (50, 70), address)
        # One that never has a reply is one, however many packets it is.
        run = self.run_jobs(self.lab_job("flood", PUBLIC, 50, 30), program=private)
        self.assertEqual((run.usage["network_connections_peak"], run.usage.get("network_denied_packets", 0)), (50, 0))
        # Each has its own, and who asks for none has no limit.
        jobs = [self.lab_job("flood", PUBLIC, 40, name=f"flood{number}") for number in range(2)]
        run = self.run_jobs(*jobs, program=private)
        self.assertEqual([record["usage"].get("network_denied_packets", 0) for record in run.records], [0, 0])
        run = self.run_jobs(self.lab_job("flood", PUBLIC, 120), program=self.with_settings({"connections": 0}))
        self.assertEqual(run.usage["network_connections_peak"], 120)


class Cleaning(NetworkCase):
    def test_kill_leaves_nothing(self):
        process = self.run_start(
            self.server("tcp", 80, publish=["8080:80"], egress=["public", "example.test"], rate={"in": "1M"}),
            self.server("tcp", 80, name="db", network="shared:app"),
        )
        self.wait_until("host", "127.0.0.1", 8080)
        links = self.lab.state()["links"]
        self.assertTrue(any(link.startswith("berth") for link in links), str(links))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        self.assertTrue(eventually(lambda: self.lab.state() == self.before, 20), str(self.lab.state()))
        # The next one works, whatever its predecessor was.
        self.lab.serve("internet", "tcp", 80)
        seen, _ = self.ask("connect", PUBLIC, 80)
        self.assertEqual(seen[f"{PUBLIC} 80"], "ok")

    @natively
    def test_kill_at_any_moment_leaves_nothing(self):
        """Jobs that come and go, each step of theirs under way somewhere when berth dies."""
        spec = {"egress": ["public", "example.test"], "rate": {"in": "1M"}}
        for moment in range(6):
            jobs = [
                dict(self.lab_job(network=("private", "shared:app")[number % 2], name=f"j{number}", publish=["0:80"], **spec), argv=["/bin/true"])
                for number in range(60)
            ]
            process = self.run_start(*jobs)
            self.assertTrue(eventually(lambda: any(link.startswith("berth") for link in self.lab.state()["links"]), 20))
            time.sleep(moment * 0.03)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            self.assertTrue(eventually(lambda: self.lab.state() == self.before, 20), str(self.lab.state()))
        self.run_job("exit", 0)  # the next berth removes the killed ones' cgroups

    @natively
    def test_two_berths_do_not_meet(self):
        first = self.run_start(self.server("tcp", 80, publish=["8001:80"], network="shared:app", name="db"))
        self.wait_until("host", "127.0.0.1", 8001)
        links = set(self.lab.state()["links"])
        second = self.run_start(self.server("tcp", 80, publish=["8002:80"], network="shared:app", name="db"))
        self.wait_until("host", "127.0.0.1", 8002)
        self.assertEqual(len([link for link in self.lab.state()["links"] if link.startswith("berth")]), 2)
        os.kill(second.pid, signal.SIGKILL)
        second.wait()
        self.assertTrue(eventually(lambda: set(self.lab.state()["links"]) == links, 20))
        self.wait_until("host", "127.0.0.1", 8001)
        self.stop(first)
        self.run_job("exit", 0)  # the next berth removes the killed one's cgroups

    @natively
    def test_many_jobs_leave_nothing(self):
        count = 500
        jobs = [dict(self.lab_job("connect"), argv=["/bin/true"], name=f"j{number}") for number in range(count)]
        run = self.run_jobs(*jobs, timeout=240)
        self.assertEqual(run.status, 0, run.err[-500:])
        self.assertEqual({record["state"] for record in run.records}, {"COMPLETED"})


class Rootless(NetworkCase):
    """An ordinary user's private networks, through pasta."""

    USER = only_user = 4242

    def setUp(self):
        super().setUp()
        if shutil.which("pasta") is None:
            self.skip("pasta is not installed: scripts/install-packages --test")
        if not os.path.exists("/dev/net/tun"):
            self.skip("there is no /dev/net/tun: modprobe tun")
        self.others_pastas = self.pastas()
        os.chmod(self.directory, 0o777)
        # What udev makes of /dev/net/tun, for those whom the test runs as this user alone.
        self.tun = os.path.join(self.directory, "tun")
        os.mknod(self.tun, 0o666 | stat.S_IFCHR, os.makedev(10, 200))
        os.chmod(self.tun, 0o666)

    def as_user(self, path=None):
        mount = 'mount --bind "$1" /dev/net/tun && shift && exec "$@"'
        user = ("setpriv", f"--reuid={self.USER}", f"--regid={self.USER}", "--clear-groups")
        words = ("unshare", "--mount", "sh", "-c", mount, "sh", path or self.tun, *user)
        return (*words, "env", f"HOME={self.work}")

    def start(self, *arguments, program=None, **options):
        return super().start(*arguments, program=self.as_user() if program is None else program, **options)

    def lab_job(self, *words, **isolation):
        job = super().lab_job(*words, **isolation)
        del job["memory_per_node"]  # needs a cgroup
        return job

    @staticmethod
    def pastas():
        return {pid for pid, (_, _, command) in processes().items() if command.startswith(("pasta", "/usr/bin/pasta"))}

    def leftovers(self):
        return super().leftovers() + [f"pasta {pid}" for pid in self.pastas() - self.others_pastas]

    def test_public_addresses_are_reached_and_nothing_else(self):
        self.lab.serve("internet", "tcp", 80)
        self.lab.serve("host", "tcp", 81)
        seen, run = self.ask(
            "connect", PUBLIC, 80, PUBLIC_V6, 80, "10.9.9.9", 80, "169.254.169.254", 80, "fd00:99::9", 80,
            "203.0.113.2", 81, "2001:db8::2", 81, "127.0.0.1", 81, "198.18.0.1", 81, "fd62:6572:7468:1200::1", 81,
        )  # fmt: skip
        self.assertEqual(seen.pop("127.0.0.1 81"), "refused", "the job's own loopback")
        self.assertEqual(seen.pop(f"{PUBLIC} 80"), "ok")
        self.assertEqual(seen.pop(f"{PUBLIC_V6} 80"), "ok")
        self.assertEqual(set(seen.values()), {"denied"}, str(seen))
        self.assertGreaterEqual(run.usage["network_denied_packets"], len(seen))
        self.assertGreaterEqual(run.usage["network_connections_peak"], 1)

    def test_the_host_is_denied_whatever_the_policy_says(self):
        self.lab.serve("internet", "tcp", 80)
        self.lab.serve("host", "tcp", 81)
        seen, _ = self.ask("connect", "10.9.9.9", 80, "203.0.113.2", 81, "2001:db8::2", 81, egress="allow")
        self.assertEqual(seen, {"10.9.9.9 80": "ok", "203.0.113.2 81": "denied", "2001:db8::2 81": "denied"})

    def test_only_what_rules_name_is_reached(self):
        log = os.path.join(self.work, "queries")
        self.lab.serve("internet", "dns", log, '{"allowed.test": ["8.8.8.8"], "denied.test": ["203.0.113.1"]}')
        self.lab.serve("internet", "tcp", 80, 5432)
        seen, run = self.ask(
            "connect", "10.9.9.9", 80, "10.9.9.9", 5432, PUBLIC, 80, "allowed.test", 80, "denied.test", 80, "data.tunnel.test", 80,
            egress=["10.0.0.0/8:5432/tcp", "allowed.test:80"], dns={"servers": ["203.0.113.1"]},
        )  # fmt: skip
        self.assertEqual(
            seen,
            {
                "10.9.9.9 80": "denied",
                "10.9.9.9 5432": "ok",
                f"{PUBLIC} 80": "denied",  # before its name was asked for
                "allowed.test 80": "ok",
                "denied.test 80": "unknown",
                "data.tunnel.test 80": "unknown",
            },
        )
        asked = read(log)
        self.assertIn("allowed", asked)
        self.assertNotIn("denied", asked)
        self.assertNotIn("tunnel", asked)
        self.assertGreater(run.usage["network_denied_packets"], 2)

    def test_another_source_address_is_no_way_around_the_policy(self):
        self.lab.serve("internet", "tcp", 80)
        script = (
            "import socket\n"
            "for own in ('198.18.0.2', '198.18.0.5', '127.0.0.1'):\n"
            "  try: socket.create_connection(('8.8.8.8', 80), 3, (own, 0)); print(own, 'ok')\n"
            "  except OSError as error: print(own, 'denied')\n"
        )
        job = dict(self.lab_job(egress=["10.0.0.0/8"]), argv=[PYTHON, "-c", script])
        run = self.run_jobs(job)
        self.assertEqual(set(results(run.out).values()), {"denied"}, run.out)

    def test_the_rules_are_not_the_jobs_to_change(self):
        for argv in (["nft", "flush", "ruleset"], ["ip", "link", "set", "eth0", "down"], ["nsenter", "--net=/proc/1/ns/net", "true"]):
            run = self.run_jobs(dict(self.lab_job(), argv=[shutil.which(argv[0]), *argv[1:]]))
            self.assert_state(run, "FAILED")
            self.assertIn("ermi", run.err)  # permission, permitted

    def test_published_ports(self):
        process = self.run_start(self.server("tcp", 80, publish=["8001:80", "127.0.0.1:0:80"]), self.server("tcp", 80, publish=["8002:80"]))
        for address in ("127.0.0.1", "::1", "203.0.113.2", "2001:db8::2"):
            self.wait_until("host", address, 8001, address, 8002)
        self.wait_until("internet", "203.0.113.2", 8001, "2001:db8::2", 8002)
        status, out, err = self.berth("show", "--database", self.database, "1")
        self.assertEqual(status, 0, err)
        port = int(next(line for line in out.splitlines() if "->80/tcp" in line).split("127.0.0.1:")[1].split("->")[0])
        self.wait_until("host", "127.0.0.1", port)
        taken = self.run_jobs(self.server("tcp", 80, publish=["8001:80"]))
        self.assert_state(taken, "FAILED", "launch_failed", 125)
        self.assertIn("choose another port", taken.outcome["message"])
        self.stop(process)

    def test_accounting_and_outgoing_rate(self):
        self.lab.serve("internet", "tcp", 80)
        size = 4_000_000
        for verb, direction in (("send", "receive"), ("take", "transmit")):
            _, run = self.ask("transfer", PUBLIC, 80, verb, size)
            self.assertGreaterEqual(run.usage[f"network_{direction}_bytes"], size)
            self.assertLess(run.usage[f"network_{direction}_bytes"], size * 1.07)
        seen, _ = self.ask("transfer", PUBLIC, 80, "take", size, rate={"out": 2_000_000})
        self.assertGreater(float(seen["seconds"]), size / 2_000_000 * 0.9)

    def test_more_than_1024_open_descriptors(self):
        self.lab.serve("internet", "tcp", 80)
        run = self.run_jobs(self.lab_job("connect", PUBLIC, 80), program=(*self.as_user(), *self.holding(3)))
        self.assert_state(run, "COMPLETED")

    def test_kill_leaves_nothing(self):
        process = self.run_start(self.server("tcp", 80, publish=["8001:80"]))
        self.wait_until("host", "127.0.0.1", 8001)
        berth = next(pid for pid, (program, _, command) in processes().items() if program == os.path.realpath(BERTH) and "--result" in command)
        os.kill(berth, signal.SIGKILL)
        process.wait()
        self.assertTrue(eventually(lambda: not self.leftovers(), 20), str(self.leftovers()))

    def test_what_cannot_be_had_is_refused(self):
        for isolation, words in (
            ({"network": "shared:app"}, ("shared:app", "needs root")),
            ({"network": "private", "rate": {"in": "1M"}}, ("isolation.rate", "needs root")),
        ):
            self.assert_refused(self.run_jobs(dict(self.lab_job(), isolation=isolation)), *words)
        closed = os.path.join(self.directory, "closed")
        os.mknod(closed, 0o600 | stat.S_IFCHR, os.makedev(10, 200))
        run = self.run_jobs(self.lab_job(), program=self.as_user(closed))
        self.assert_refused(run, "/dev/net/tun", "Permission denied", "chmod 0666")
        hidden = ("sh", "-c", 'mount --bind /dev/null /usr/bin/pasta && exec "$@"', "sh", *self.as_user())
        run = self.run_jobs(self.lab_job(), program=("unshare", "--mount", *hidden))
        self.assert_refused(run, "passt", "needs root, or pasta")


class Services(NetworkCase):
    @natively
    def test_pairs_of_nginx_and_redis(self):
        for program in ("nginx", "redis-server"):
            if shutil.which(program, path="/usr/sbin:/usr/bin") is None:
                self.skip(f"{program} is not installed: scripts/install-packages --test")
        configuration = os.path.join(self.work, "nginx.conf")
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(
                "daemon off; pid /tmp/nginx.pid; error_log stderr; worker_processes 1; events {}\n"
                "http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;\n"
                " uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 8080; listen [::]:8080;\n"
                " location / { return 200 nginx; } } }\n"
            )
        # Each job of a pair serves, asks the other one by name, and says so in a file.
        serve = (
            "import socket,subprocess,sys,time\n"
            "server = subprocess.Popen(sys.argv[5:])\n"
            "end = time.monotonic() + 40\n"
            "while True:\n"
            "  try:\n"
            "    with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=5) as s:\n"
            "      s.sendall(sys.argv[4].encode() + b'\\r\\n\\r\\n'); answer = s.recv(100).decode(); break\n"
            "  except OSError:\n"
            "    if time.monotonic() > end: raise\n"
            "    time.sleep(0.1)\n"
            "open(sys.argv[1], 'w').write(answer); server.wait()\n"
        )
        nginx = ("/usr/sbin/nginx", "-c", configuration, "-e", "stderr")
        redis = ("/usr/bin/redis-server", "--save", "", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/tmp")
        berths = []
        for pair in range(4):
            jobs = []
            for name, question, program in (("web", ("cache", "6379", "PING"), nginx), ("cache", ("web", "8080", "GET / HTTP/1.0"), redis)):
                answer = os.path.join(self.work, f"{name}{pair}")
                jobs.append(
                    {
                        "name": name,
                        "argv": [PYTHON, "-c", serve, answer, *question, *program],
                        "isolation": {"network": "shared:app"},
                        "current_working_directory": self.work,
                        "memory_per_node": "96M",
                        "grace_period": "100ms",
                    }
                )
            berths.append(self.run_start(*jobs, arguments=("--database", os.path.join(self.directory, f"{pair}.db"))))
        answers = [os.path.join(self.work, f"{name}{pair}") for name in ("web", "cache") for pair in range(4)]
        self.assertTrue(eventually(lambda: all(os.path.exists(path) and read(path) for path in answers), 60), "not all answered")
        for path in answers:
            self.assertIn("PONG" if "web" in path else "200 OK", read(path))
        for process in berths:
            self.stop(process)


if __name__ == "__main__":
    main()
