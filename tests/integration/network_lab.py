"""Networks for the tests, far from the machine's own: a "host" in which berth runs and an "internet" behind it,
each a network namespace that this process makes and that goes with its holder.

    host (berth runs here)                      internet
    eth0 203.0.113.2  2001:db8::2  ──────────  eth0 203.0.113.1  2001:db8::1
                                               lo   8.8.8.8 2001:4860::8  (public)
                                                    10.9.9.9 169.254.169.254 fd00:99::9  (not public)

Run as a program it is what answers and asks there and in jobs: see main().
"""

import contextlib
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else shutil.which("python3")
PROGRAMS = ("ip", "nft", "nsenter", "unshare")
INTERNET_ADDRESSES = ("8.8.8.8/32", "2001:4860::8/128", "10.9.9.9/32", "169.254.169.254/32", "fd00:99::9/128")


class Lab:
    def __init__(self, directory):
        self.directory = directory
        self.script = os.path.join(directory, "network_lab.py")
        shutil.copy(__file__, self.script)
        self.processes = []
        self.host = self.hold()
        self.internet = self.hold()
        for name in ("host", "internet"):
            self.run(name, "ip", "link", "set", "lo", "up")
        self.run("host", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(self.internet))
        for name, number in (("host", 2), ("internet", 1)):
            self.run(name, "ip", "address", "add", f"203.0.113.{number}/24", "dev", "eth0")
            self.run(name, "ip", "address", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad")
            self.run(name, "ip", "link", "set", "eth0", "up")
        for address in INTERNET_ADDRESSES:
            self.run("internet", "ip", "address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
        self.run("host", "ip", "route", "add", "default", "via", "203.0.113.1")
        self.run("host", "ip", "-6", "route", "add", "default", "via", "2001:db8::1")

    def hold(self):
        """The pid of a holder of a namespace of its own; gone with the lab."""
        process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.processes.append(process)
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{process.pid}/ns/net") == own:
            time.sleep(0.005)
        return process.pid

    def inside(self, name):
        """What to put in front of a command that is to run there."""
        return ["nsenter", f"--net=/proc/{getattr(self, name)}/ns/net", "--"]

    def run(self, name, *command):
        result = subprocess.run([*self.inside(name), *command], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise AssertionError(f"{' '.join(command)} in {name}: {result.stderr}")
        return result.stdout

    def serve(self, name, *words):
        """Starts this file as a program there and waits until it serves."""
        process = subprocess.Popen(
            [*self.inside(name), PYTHON, "-B", self.script, *map(str, words)], stdout=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        assert process.stdout.readline().strip() == "ready", f"{words} did not start"
        return process

    def ask(self, name, *words):
        """Runs this file as a client there: a dict of its lines."""
        return results(self.run(name, PYTHON, "-B", self.script, *map(str, words)))

    def state(self):
        """What berth could leave on the host: links, rules, routes, settings of devices that are not its own."""
        return {
            "links": sorted(line.split(":")[1].split("@")[0].strip() for line in self.run("host", "ip", "-o", "link").splitlines()),
            "tables": self.run("host", "nft", "list", "tables"),
            "routes": self.run("host", "ip", "route") + self.run("host", "ip", "-6", "route"),
            "settings": self.run(
                "host", "sh", "-c", "grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf 2>/dev/null | grep -v /berth"
            ),
        }

    def close(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def open_lab(case):
    """A Lab in the case's directory, which is closed after it; skips the case where there can be none."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            case.skip(f"{program} is not installed: scripts/install-packages --test")
    lab = Lab(case.work)
    case.addCleanup(lab.close)
    return lab


def results(text):
    """Lines "KEY… VALUE" as a dict."""
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if " " in line)


# ---- what runs there and in jobs ----


def talk(connection):
    """One line says what the other side wants: "hello", "later FILE", "send N", "take N"; nothing is a mere connection."""
    with connection, contextlib.suppress(OSError):
        words = connection.makefile("rb").readline().decode().split()
        if not words:
            return
        if words[0] == "hello":
            connection.sendall(f"hello {connection.getpeername()[0]}\n".encode())
        elif words[0] == "later":
            connection.sendall(b"waiting\n")
            while not os.path.exists(words[1]):
                time.sleep(0.05)
            connection.sendall(b"hello\n")
        elif words[0] == "send":
            connection.sendall(bytes(int(words[1])))
        elif words[0] == "take":
            connection.sendall(b"go\n")
            left = int(words[1])
            while left > 0:
                left -= len(connection.recv(65536)) or left
            connection.sendall(b"done\n")


def serve_tcp(ports):
    listeners = []
    for port in ports:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", int(port)))
        listener.listen(64)
        listeners.append(listener)
    print("ready", flush=True)
    while True:
        for listener in select.select(listeners, [], [])[0]:
            threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()


def serve_mute(port, log):
    """Takes connections and never says anything; their number is the length of the log."""
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    print("ready", flush=True)
    taken = []
    while True:
        taken.append(listener.accept()[0])
        with open(log, "a", encoding="utf-8") as file:
            file.write(".")


def serve_deaf(port):
    """Takes connections, ends its own side and reads nothing."""
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    taken = []
    while True:
        taken.append(listener.accept()[0])
        taken[-1].shutdown(socket.SHUT_WR)


def stuff(host, port):
    """Connections that have read to the end, sent more and more and then ended: of some, the end comes after what waits."""
    held = []
    for size in range(1 << 16, 4 << 20, 3 << 15):
        held.append(socket.create_connection((host, int(port)), timeout=40))
        held[-1].recv(1)
        held[-1].settimeout(0.1)
        with contextlib.suppress(socket.timeout):
            held[-1].sendall(bytes(size))
        held[-1].shutdown(socket.SHUT_WR)
    print("ready", flush=True)
    time.sleep(3600)


def press(host, port, count, size):
    """So many connections that have sent so much, or what is taken of it, and stay."""
    held = []
    for _ in range(int(count)):
        with contextlib.suppress(OSError):
            held.append(socket.create_connection((host, int(port)), timeout=10))
            held[-1].setblocking(False)
            held[-1].send(bytes(int(size)))
    print("ready", flush=True)
    time.sleep(3600)


def serve_udp(port):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", int(port)))
    print("ready", flush=True)
    while True:
        data, address = server.recvfrom(2048)
        server.sendto(data.upper(), address)


def silent(port, count, ready):
    """Takes so many datagrams and answers none; `ready` says that it does."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", int(port)))
    touch(ready)
    for _ in range(int(count)):
        server.recv(2048)


def insist(port, count, go, done):
    """Answers one datagram with so many, once there is a file `go`, whether anybody is there or not; `done` says that it has."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", int(port)))
    print("ready", flush=True)
    address = server.recvfrom(2048)[1]
    wait_for(go)
    for _ in range(int(count)):
        server.sendto(bytes(100), address)
    touch(done)
    time.sleep(3600)


def dns_answer(query, zone):
    end, labels = 12, []
    while query[end]:
        labels.append(query[end + 1 : end + 1 + query[end]].decode())
        end += 1 + query[end]
    kind = struct.unpack(">H", query[end + 1 : end + 3])[0]
    addresses = zone.get(".".join(labels).lower())
    records = b""
    count = 0
    for address in addresses or []:
        v6 = ":" in address
        if kind == (28 if v6 else 1):
            data = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, address)
            records += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
            count += 1
    flags = 0x8180 if addresses is not None else 0x8183
    return query[:2] + struct.pack(">HHHHH", flags, 1, count, 0, 0) + query[12 : end + 5] + records


def serve_dns(log, zone):
    zone = json.loads(zone)
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", 53))
    listener = socket.create_server(("::", 53), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    while True:
        for ready in select.select([server, listener], [], [])[0]:
            if ready is server:
                query, address = server.recvfrom(4096)
                server.sendto(dns_answer(query, zone), address)
            else:
                connection = listener.accept()[0]
                query = connection.recv(4096)[2:]
                answer = dns_answer(query, zone)
                connection.sendall(struct.pack(">H", len(answer)) + answer)
                connection.close()
            with open(log, "a", encoding="utf-8") as file:
                file.write(repr(query[12:]) + "\n")


def connect(host, port):
    """"ok", or the name of what went wrong."""
    try:
        with socket.create_connection((host, int(port)), timeout=4) as connection:
            connection.sendall(b"hello\n")
            return "ok" if connection.makefile("rb").readline().startswith(b"hello") else "silent"
    except socket.gaierror:
        return "unknown"
    except socket.timeout:
        return "timeout"
    except OSError as error:
        return {113: "denied", 13: "denied", 111: "refused", 101: "unreachable"}.get(error.errno, str(error.errno))


def transfer(host, port, verb, size):
    start = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{verb} {size}\n".encode())
        if verb == "take":
            stream = connection.makefile("rb")
            stream.readline()
            start = time.monotonic()
            connection.sendall(bytes(int(size)))
            stream.readline()
        else:
            left = int(size)
            while left > 0:
                left -= len(connection.recv(65536)) or left
    print("seconds", time.monotonic() - start)


def listen(host, port, waiting, file):
    """Writes `waiting` when the other side waits for `file`, and says what it then says."""
    with socket.create_connection((host, int(port)), timeout=40) as connection:
        connection.sendall(f"later {file}\n".encode())
        stream = connection.makefile("rb")
        stream.readline()
        touch(waiting)
        print("later", stream.readline().decode().strip(), flush=True)


def dns_query(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    return struct.pack(">H", len(query)) + query


def resolver():
    with open("/etc/resolv.conf", encoding="utf-8") as file:
        return file.readline().split()[1], 53


def stream_queries(*names):
    """All of them on one connection to the name server."""
    with socket.create_connection(resolver(), timeout=10) as connection:
        connection.sendall(b"".join(map(dns_query, names)))
        stream = connection.makefile("rb")
        for name in names:
            reply = stream.read(struct.unpack(">H", stream.read(2))[0])
            print(name, struct.unpack(">H", reply[6:8])[0], flush=True)


def datagram_queries(count, ready):
    """How many of so many queries are answered, one after the other, once there is a file `ready`."""
    wait_for(ready)
    answered = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect(resolver())
        for _ in range(int(count)):
            with contextlib.suppress(socket.timeout):
                client.send(dns_query("a.test")[2:])
                answered += len(client.recv(512)) > 0
            time.sleep(0.01)
    print("answered", answered)


def drown(ready):
    """Queries as fast as they go."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(resolver())
        query = dns_query("a.test")[2:]
        touch(ready)
        while True:
            with contextlib.suppress(OSError):
                client.send(query)


def break_query(name):
    """Asks over a connection and breaks it; then again, in order."""
    connection = socket.create_connection(resolver(), timeout=10)
    connection.sendall(dns_query(name))
    time.sleep(0.2)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    print("broken ok", flush=True)
    time.sleep(3600)


def is_closed(connection):
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def hold_streams(ready):
    """As many connections to the name server as it takes, which say nothing."""
    held = []
    with contextlib.suppress(OSError):
        while len(held) < 2000:
            connection = socket.create_connection(resolver(), timeout=2)
            connection.setblocking(False)
            held.append(connection)
            if len(held) > 200 and is_closed(connection):
                break
    time.sleep(1)  # a busy name server turns the last ones away later
    with open(ready, "w", encoding="utf-8") as file:
        file.write(str(sum(not is_closed(connection) for connection in held)))
    time.sleep(3600)


def flood(host, count, more="0"):
    """One datagram to each of so many ports: a connection each, as connection tracking sees it. After each, so many more of
    the first connection."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(10000, 10000 + int(count)):
            sender.sendto(b"x", (host, port))
            for _ in range(int(more)):
                sender.sendto(b"x", (host, 10000))
    print("sent", count, flush=True)


def wait_for(file):
    while not os.path.exists(file):
        time.sleep(0.02)


def touch(file):
    with open(file, "w", encoding="utf-8"):
        pass


def received():
    """Packets that the job's device has received."""
    with open("/proc/net/dev", encoding="utf-8") as file:
        return next(int(line.split()[2]) for line in file if line.strip().startswith("eth0:"))


def tell(host, port, count, ready):
    """Sends so many datagrams, once there is a file `ready`; what came back meanwhile."""
    wait_for(ready)
    address = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_DGRAM)[0][4]
    before = received()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(int(count)):
            sender.sendto(bytes(100), address)  # small: a receiver's buffer holds some hundred of them
    print("returned", received() - before)


def shout():
    """To everybody and to all nodes, in both families."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address in ("255.255.255.255", "224.0.0.1"):
            sender.sendto(b"hear me", (address, 9999))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        with contextlib.suppress(OSError):  # no route without IPv6
            sender.sendto(b"hear me", ("ff02::1", 9999, 0, socket.if_nametoindex("eth0")))
    print("shouted ok")


def datagram(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(4)
        client.connect((host, int(port)))  # an answer from another address is none
        client.send(b"ping")
        print("datagram", client.recv(100).decode())


def pingpong(host, port, count, size):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        for _ in range(int(count)):
            client.sendto(bytes(int(size)), (host, int(port)))
            client.recv(65536)
    print("pingpong ok")


def checksum(data):
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def v6_packet(source, target, protocol, payload, place):
    """With the checksum at `place` of the payload, that the receiver has no reason to drop it but what it says."""
    pseudo = source + target + struct.pack(">II", len(payload), protocol)
    value = checksum(pseudo + payload) or 0xFFFF
    payload = payload[:place] + struct.pack(">H", value) + payload[place + 2 :]
    return struct.pack(">IHBB", 0x60000000, len(payload), protocol, 255) + source + target + payload


def spoof(victim_v4, victim_v6, public_v4, public_v6):
    """Claims another's addresses in ARP and neighbour discovery, and sends datagrams in its name; then an honest one."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("eth0", 0))
    own = link.getsockname()[4]
    gateway = b"\x02\x62\x74\0\0\0"
    v4, v6 = socket.inet_aton(victim_v4), socket.inet_pton(socket.AF_INET6, victim_v6)
    for target in (b"\xff" * 6, gateway):
        for operation in (1, 2):
            arp = struct.pack(">HHBBH", 1, 0x800, 6, 4, operation) + own + v4 + gateway + v4
            link.send(target + own + b"\x08\x06" + arp)
        # RFC 4861, section 4.4: an unsolicited advertisement that overrides, with the option "my link-layer address".
        advertisement = struct.pack(">BBHI", 136, 0, 0, 0x20000000) + v6 + b"\2\1" + own
        everyone = socket.inet_pton(socket.AF_INET6, "ff02::1")
        link.send(target + own + b"\x86\xdd" + v6_packet(v6, everyone, 58, advertisement, 2))
    evil = struct.pack(">HHHH", 9, 9999, 12, 0) + b"evil"
    header = struct.pack(">BBHHHBBH", 69, 0, 20 + len(evil), 1, 0, 64, 17, 0) + v4 + socket.inet_aton(public_v4)
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    link.send(gateway + own + b"\x08\x00" + header + evil)
    link.send(gateway + own + b"\x86\xdd" + v6_packet(v6, socket.inet_pton(socket.AF_INET6, public_v6), 17, evil, 6))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as honest:
        honest.sendto(b"good", (public_v4, 9999))


def hear(*addresses):
    """Prints each datagram to port 9999."""
    sockets = []
    for address in addresses:
        heard = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        heard.bind((address, 9999))
        sockets.append(heard)
    print("ready", flush=True)
    while True:
        for heard in select.select(sockets, [], [])[0]:
            print(heard.recv(99).decode(), flush=True)


def main(words):
    command, rest = words[0], words[1:]
    if command == "tcp":  # PORT…
        serve_tcp(rest)
    elif command == "udp":  # PORT
        serve_udp(*rest)
    elif command == "silent":  # PORT COUNT READY
        silent(*rest)
    elif command == "insist":  # PORT COUNT GO DONE
        insist(*rest)
    elif command == "dns":  # LOG ZONE
        serve_dns(*rest)
    elif command == "connect":  # HOST PORT…: each pair is tried
        for host, port in zip(rest[::2], rest[1::2]):
            print(host, port, connect(host, port), flush=True)
    elif command == "until":  # HOST PORT…: until each pair answers
        for host, port in zip(rest[::2], rest[1::2]):
            end = time.monotonic() + 20
            while (result := connect(host, port)) != "ok" and time.monotonic() < end:
                time.sleep(0.05)
            print(host, port, result, flush=True)
    elif command == "transfer":  # HOST PORT send|take BYTES
        transfer(*rest)
    elif command == "listen":  # HOST PORT WAITING FILE
        listen(*rest)
    elif command == "stream-queries":  # NAME…
        stream_queries(*rest)
    elif command == "break-query":  # NAME
        break_query(*rest)
    elif command == "datagram-queries":  # COUNT READY
        datagram_queries(*rest)
    elif command == "drown":  # READY
        drown(*rest)
    elif command == "hold-streams":  # READY
        hold_streams(*rest)
    elif command == "deaf":  # PORT
        serve_deaf(*rest)
    elif command == "stuff":  # HOST PORT
        stuff(*rest)
    elif command == "press":  # HOST PORT COUNT BYTES
        press(*rest)
    elif command == "mute":  # PORT LOG
        serve_mute(*rest)
    elif command == "wait":  # FILE
        wait_for(*rest)
    elif command == "tell":  # HOST PORT COUNT READY
        tell(*rest)
    elif command == "shout":
        shout()
    elif command == "datagram":  # HOST PORT
        datagram(*rest)
    elif command == "flood":  # HOST COUNT [MORE]
        flood(*rest)
    elif command == "pingpong":  # HOST PORT COUNT BYTES
        pingpong(*rest)
    elif command == "hear":  # ADDRESS…
        hear(*rest)
    elif command == "spoof":  # VICTIM_V4 VICTIM_V6 PUBLIC_V4 PUBLIC_V6
        spoof(*rest)


if __name__ == "__main__":
    main(sys.argv[1:])
