"""berthd's API: what it answers against what schemas/berthd.openapi.json says; HTTP that is odd, broken or hostile;
and who may see what."""

import contextlib
import json
import os
import pwd
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from berth_case import SOURCE, eventually, main, natively, read
from daemon_case import DaemonCase, UnixConnection

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


# What another user's process does: one request, its answer on standard output.
ASK = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(20)
client.connect(sys.argv[1])
client.sendall(sys.stdin.buffer.read())
while True:
    piece = client.recv(65536)
    if not piece:
        break
    sys.stdout.buffer.write(piece)
"""


class ApiCase(DaemonCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, body) of one request of root's."""
        connection = UnixConnection(self.socket)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), text

    def answer(self, method, path, body=None):
        return json.loads(self.ask(method, path, body)[2])

    def raw(self, data, half_closed=False, seconds=20):
        """Everything that comes until berthd closes."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(seconds)
            client.connect(self.socket)
            client.sendall(data)
            if half_closed:
                client.shutdown(socket.SHUT_WR)
            received = b""
            while True:
                piece = client.recv(65536)
                if not piece:
                    return received
                received += piece

    def ask_as(self, user, method, path, body=""):
        """(status, body) of another user's request."""
        entry = pwd.getpwnam(user)
        request = f"{method} {path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        done = subprocess.run(
            ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups", sys.executable, "-c", ASK, self.socket],
            input=request.encode(), capture_output=True, check=True, timeout=30)
        head, _, text = done.stdout.partition(b"\r\n\r\n")
        return int(head.split()[1]), text.decode()

    def refused_connections(self, count, users):
        """How many of each user's are, who have so many at once; root gets in meanwhile."""
        holder = ("import socket, sys, time\n"
                  f"held = [socket.socket(socket.AF_UNIX) for _ in range({count})]\n"
                  "answers = []\n"
                  "for one in held:\n"
                  "    one.connect(sys.argv[1])\n"
                  "time.sleep(1)\n"
                  "for one in held:\n"
                  "    one.setblocking(False)\n"
                  "    try:\n"
                  "        head, _, body = one.recv(1000).decode().partition('\\r\\n\\r\\n')\n"
                  "        if f'Content-Length: {len(body)}\\r\\n' in head and 'api.connections_per_user' in body:\n"
                  "            answers.append(head[:12])\n"
                  "    except BlockingIOError:\n"
                  "        pass\n"
                  "print(answers.count('HTTP/1.1 503'), flush=True)\n"
                  "sys.stdin.read()\n")
        with contextlib.ExitStack() as stack:
            refused = []
            for user in users:
                entry = pwd.getpwnam(user)
                other = stack.enter_context(subprocess.Popen(
                    ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", sys.executable, "-c", holder,
                     self.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
                refused.append(int(other.stdout.readline()))
            self.ok("slots")
        return refused

    def allow_large_bodies(self):
        self.write_config(api={"body": 64 << 20})
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "read again" in self.read_log()))

    def connections(self):
        """How many berthd holds."""
        with open("/proc/net/unix", encoding="utf-8") as file:
            return sum(line.split()[-1] == self.socket and line.split()[5] == "03" for line in file)


class Description(ApiCase):
    """The server against its description."""

    def setUp(self):
        super().setUp()
        with open(os.path.join(SOURCE, "schemas", "berthd.openapi.json"), encoding="utf-8") as file:
            self.api = json.load(file)
        self.checked = set()

    def resolve(self, schema):
        while "$ref" in schema:
            found = self.api
            for name in schema["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            schema = found
        return schema

    def faults(self, value, schema, where=""):
        """What of the value the schema does not say; a member that it does not name is a fault too."""
        schema = self.resolve(schema)
        if "enum" in schema and value not in schema["enum"]:
            yield f"{where}: {value!r} is none of {schema['enum']}"
        if "oneOf" in schema and sum(not list(self.faults(value, one)) for one in schema["oneOf"]) != 1:
            yield f"{where}: {value!r} is not one of the kinds"
        for one in schema.get("allOf", []):
            yield from self.faults(value, one, where)
        kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
        kind = schema.get("type")
        if kind and (not isinstance(value, kinds[kind]) or (kind in ("integer", "number") and isinstance(value, bool))):
            yield f"{where}: {value!r} is no {kind}"
            return
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.faults(item, schema.get("items", {}), f"{where}/{index}")
        if isinstance(value, dict):
            yield from (f"{where}: {name} is missing" for name in schema.get("required", []) if name not in value)
            for name, member in value.items():
                if name in schema.get("properties", {}):
                    yield from self.faults(member, schema["properties"][name], f"{where}/{name}")
                elif isinstance(schema.get("additionalProperties"), dict):
                    yield from self.faults(member, schema["additionalProperties"], f"{where}/{name}")
                elif "properties" in schema:
                    yield f"{where}: {name} is not described"

    def check(self, method, template, path=None, body=None, status=200, headers=None):
        """One request: its status and its answer are as described. Returns the answer."""
        operation = self.api["paths"][template][method.lower()]
        got, answer_headers, text = self.ask(method, path or template, body, headers)
        self.assertEqual(got, status, f"{method} {path}: {text!r}")
        described = operation["responses"].get(str(got)) or operation["responses"].get(f"{got // 100}XX")
        self.assertIsNotNone(described, f"{method} {template}: {got} is not described")
        kind = answer_headers["Content-Type"]
        self.assertIn(kind, described["content"], f"{method} {template}: the kind of the answer is not described")
        schema = described["content"][kind].get("schema", {})
        value = text.decode()
        if kind == "application/json":
            value = json.loads(text)
            self.assertEqual(list(self.faults(value, schema)), [], f"{method} {path or template}")
        elif kind == "application/x-ndjson":
            for line in value.splitlines():
                self.assertEqual(list(self.faults(json.loads(line), schema)), [], f"{method} {template}")
        named = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"}
        used = {pair.split("=")[0] for pair in (path or "").partition("?")[2].split("&") if pair}
        self.assertEqual(used - named, set(), f"{method} {template}: parameters that are not described")
        self.checked.add((method, template))
        return value

    def test_every_described_path_has_its_methods_and_no_others(self):
        for template, operations in self.api["paths"].items():
            path = template.replace("{job_id}", "1")
            described = {method.upper() for method in operations}
            status, headers, text = self.ask("OPTIONS", path)
            self.assertEqual((status, text), (204, b""), path)
            allowed = set(headers["Allow"].split(", "))
            self.assertEqual(allowed - {"HEAD", "OPTIONS"}, described, path)
            self.assertEqual("HEAD" in allowed, "GET" in described, path)
            for method in set(METHODS) - described:
                status, headers, text = self.ask(method, path)
                self.assertEqual((status, set(headers["Allow"].split(", "))), (405, allowed), f"{method} {path}")
                self.assertIn("error", json.loads(text))
        for path in ("/", "/v1", "/v1/", "/v2/jobs", "/v1/nothing", "/v1/jobs/1/nothing", "/v1/jobs/1/cancel/2", "/v1/jobsx", "*"):
            status, _, text = self.ask("GET", path)
            self.assertEqual(status, 404, path)
            self.assertIn("/v1/", json.loads(text)["error"])

    def test_every_answer_is_as_described(self):
        job = self.job("hold", 600, account="lab", time_limit="1h", retry={"max": 1})
        jobs = "/v1/jobs"
        first = self.check("POST", jobs, f"{jobs}?directory={self.work}&file=x", json.dumps(job), 201)["job_ids"][0]
        self.wait_for_state(first, "RUNNING")
        waiting = self.job("hold", 600, hold=True, begin_time="now+1hour", deadline="now+2hours", dependency=f"afterany:{first}")
        second = self.check("POST", jobs, f"{jobs}?directory={self.work}", json.dumps([waiting]), 201)["job_ids"][0]
        array = self.check("POST", jobs, f"{jobs}?directory={self.work}", json.dumps(self.job("hold", 600, array="0-9%1")), 201)["job_ids"][0]
        self.assertTrue(eventually(lambda: self.queue().get(array + 1, {}).get("state") == "RUNNING"))
        self.check("POST", jobs, None, '{"argv": 5}', 422)
        self.check("POST", jobs, f"{jobs}?directory=here", json.dumps(job), 400)
        self.check("POST", jobs, f"{jobs}?test_only=1", json.dumps(self.job("exit", 0, memory_per_node="64M")))
        self.check("GET", jobs)
        self.check("GET", jobs, f"{jobs}?state=PENDING,RUNNING&user=0&limit=2")
        self.check("GET", jobs, f"{jobs}?limit=-1", status=400)
        self.check("GET", jobs, f"{jobs}?limit=18446744073709551615")
        one = "/v1/jobs/{job_id}"
        for what in ("json", "text", "efficiency", "efficiency-json"):
            self.check("GET", one, f"/v1/jobs/{first}?as={what}")
        self.check("GET", one, f"/v1/jobs/{array}_0")
        self.check("GET", one, f"/v1/jobs/{first}?as=xml", status=400)
        self.check("GET", one, "/v1/jobs/999999", status=404)
        self.check("GET", one, "/v1/jobs/x", status=400)
        for number in (first, second, array):
            self.check("GET", one + "/why", f"/v1/jobs/{number}/why")
        self.check("PATCH", one, f"/v1/jobs/{second}", '{"comment": "new", "begin_time": null, "dependency": null}')
        self.check("PATCH", one, f"/v1/jobs/{second}", '{"argv": ["x"]}', 422)
        self.check("PATCH", one, f"/v1/jobs/{first}", '{"comment": "new"}', 409)
        for action in ("hold", "release"):
            self.check("POST", f"{one}/{action}", f"/v1/jobs/{array}/{action}")
        for action in ("suspend", "resume"):
            self.check("POST", f"{one}/{action}", f"/v1/jobs/{first}/{action}")
        self.check("POST", one + "/signal", f"/v1/jobs/{first}/signal?signal=CONT")
        self.check("POST", one + "/signal", f"/v1/jobs/{first}/signal?signal=CONT&batch=1")
        self.check("POST", one + "/signal", f"/v1/jobs/{first}/signal?signal=NONE", status=400)
        for stream in ("exec", "attach"):
            self.check("POST", f"{one}/{stream}", f"/v1/jobs/{first}/{stream}", "{}", 426)
        for path in ("/v1/slots", "/v1/top", "/v1/report", "/metrics"):
            self.check("GET", path)
        for by in ("user", "account", "name", "day"):
            self.check("GET", "/v1/report", f"/v1/report?by={by}&start=today&end=now&users=root&accounts=lab")
        for path in ("/v1/report", "/v1/history"):
            self.check("GET", path, f"{path}?as=parsable2&format=Jobs&noheader=1&delimiter=," if "report" in path else
                       f"{path}?as=table&format=JobID&noheader=1&last=3")
            self.check("GET", path, f"{path}?as=nonsense", status=400)
            for wrong in ("format=Bogus", "format=Jobs%250", "start=someday", "zone=Tokyo"):
                self.check("GET", path, f"{path}?as=table&{wrong}", status=400)
        self.assertIn('did you mean \\"users\\"?', self.ask("GET", "/v1/history?usres=root")[2].decode())
        self.assertEqual(self.answer("GET", "/v1/history?last=x"), {"error": 'last: "x" is not a number of jobs (use 10)'})
        self.assertEqual(self.ask("POST", "/v1/drain?now=1")[0], 400)
        self.check("GET", "/v1/history")
        self.check("GET", "/v1/history", f"/v1/history?jobs={array}_0&users=root&states=RUNNING&names=x&start=today&end=now")
        self.check("POST", "/v1/drain")
        self.check("POST", "/v1/undrain")
        for number in (second, array, first):
            self.check("POST", one + "/cancel", f"/v1/jobs/{number}/cancel?at_once=1")
        for number in (second, first):
            self.check("GET", one + "/wait", f"/v1/jobs/{number}/wait")
        self.check("GET", one + "/output", f"/v1/jobs/{first}/output?stream=output&offset=0&follow=1")
        self.check("GET", one + "/output", f"/v1/jobs/{first}/output?stream=both", status=400)
        self.check("GET", one, f"/v1/jobs/{first}")
        self.check("GET", one + "/why", f"/v1/jobs/{first}/why")
        self.check("GET", "/v1/events", "/v1/events?after=0&follow=0")
        self.check("POST", one + "/requeue", f"/v1/jobs/{first}/requeue")
        self.check("POST", one + "/cancel", f"/v1/jobs/{first}/cancel?at_once=1")
        self.check("GET", "/v1/history")
        described = {(method.upper(), path) for path, operations in self.api["paths"].items() for method in operations}
        self.assertEqual(described - self.checked, set(), "routes of the description that nothing asked for")
        self.assertTrue(eventually(lambda: not self.queue()))


class Metrics(ApiCase):
    FIGURE = re.compile(r'([a-z_]+)(?:\{[a-z]+="([^"\\]*)"\})? ([0-9.e+-]+)')

    def figures(self):
        """{(name, label's value): figure} of the page, in the format that Prometheus reads."""
        status, headers, text = self.ask("GET", "/metrics")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/plain; version=0.0.4; charset=utf-8"))
        figures, types, helped = {}, {}, set()
        for line in text.decode().splitlines():
            if line.startswith("# HELP "):
                helped.add(line.split()[2])
            elif line.startswith("# TYPE "):
                _, _, name, types[name] = line.split()
            else:
                name, label, figure = self.FIGURE.fullmatch(line).groups()
                self.assertEqual(types[name], "counter" if name.endswith("_total") else "gauge", line)
                figures[name, label] = float(figure)
        self.assertEqual(helped, set(types))
        self.assertEqual({name for name, _ in figures} | {"berth_attempts_ended_total"}, helped)
        return figures

    def test_jobs_attempts_and_the_pool_are_counted(self):
        before = self.figures()
        self.assertEqual(before["berth_jobs_submitted_total", None], 0)
        self.assertEqual(before["berth_cpus", None], before["berth_cpus_free", None] + before["berth_cpus_withheld", None])
        self.submit("exit", 0)
        self.submit("exit", 3)
        self.submit("spin", 0.2)
        self.submit("exit", 0, hold=True)
        running = self.submit("hold", 600)
        self.wait_for_state(running, "RUNNING")
        wanted = {"COMPLETED": 2, "FAILED": 1}
        self.assertTrue(eventually(lambda: all(self.figures().get(("berth_attempts_ended_total", state)) == count for state, count in wanted.items())), self.figures())
        after = self.figures()
        self.assertEqual(after["berth_jobs_submitted_total", None], 5)
        self.assertEqual(after["berth_attempts_started_total", None], 4)
        self.assertEqual((after["berth_jobs", "PENDING"], after["berth_jobs", "RUNNING"]), (1, 1))
        self.assertGreaterEqual(after["berth_attempts_cpu_seconds_total", None], 0.2)
        self.assertEqual(after["berth_cpus_free", None], before["berth_cpus_free", None] - 1)
        self.assertLess(after["berth_memory_free_bytes", None], before["berth_memory_free_bytes", None])
        self.assertEqual((after["berth_draining", None], after["berth_database_usable", None]), (0, 1))
        self.assertGreater(after["process_resident_memory_bytes", None], 2**20)
        self.assertGreater(after["process_open_fds", None], 5)
        self.ok("suspend", running)
        self.ok("drain")
        suspended = self.figures()
        self.assertEqual((suspended["berth_jobs", "SUSPENDED"], suspended["berth_draining", None]), (1, 1))
        self.ok("undrain")
        self.ok("cancel", "--now", *self.queue())


class Http(ApiCase):
    configuration = {"api": {"body": "2M", "connections": 12, "connections_per_user": 8}}

    def test_a_job_that_does_not_fit_is_named_by_file_and_place(self):
        jobs = json.dumps([self.job("exit", 0), self.job("exit", 0, cpus_per_task=4000, deadline="2001-01-01")])
        status, _, text = self.ask("POST", "/v1/jobs?file=two.json", jobs)
        faults = json.loads(text)["faults"]
        self.assertEqual(status, 422)
        self.assertEqual([(fault["file"], fault["pointer"]) for fault in faults], [("two.json", "/1"), ("two.json", "/1/deadline")])
        self.assertNotIn("--cpus", str(faults))

    def test_a_change_that_names_a_field_twice_is_refused(self):
        job = self.submit("exit", 0, hold=True)
        status, _, text = self.ask("PATCH", f"/v1/jobs/{job}", b'{"name": "a", "name": "b"}')
        self.assertEqual((status, json.loads(text)["faults"][0]["pointer"]), (422, "/name"), text)
        self.ok("cancel", job)

    def test_what_is_no_request_is_answered_and_closed(self):
        for request, status in (
            (b"nonsense\r\n\r\n", 400),
            (b"GET /v1/slots HTTP/3.7\r\n\r\n", 400),
            (b"GET /v1/slots HTTP/1.1\r\nHost b\r\n\r\n", 400),
            (b"GET /v1/slots HTTP/1.1\r\n\r\n", 400),
            (b"GET /v1/slots HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (b"POST /v1/jobs HTTP/1.1\r\nHost: b\r\nContent-Length: x\r\n\r\n", 400),
            (b"POST /v1/jobs HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
            (b"GET /v1/slots HTTP/1.1\r\nHost: b\r\nX: " + b"x" * 40000 + b"\r\n\r\n", 431),
            (b"POST /v1/jobs HTTP/1.1\r\nHost: b\r\nContent-Length: 3000000\r\n\r\n", 413),
        ):
            answer = self.raw(request)
            self.assertEqual(int(answer.split()[1]), status, request[:60])
            self.assertIn("error", json.loads(answer.partition(b"\r\n\r\n")[2]), request[:60])
        self.assertEqual(self.raw(b"GET /v1/slots HTTP/1.1\r\nHo", half_closed=True), b"")
        self.ok("slots")

    def test_a_target_may_name_the_host(self):
        for target in (b"http://localhost/v1/slots", b"HTTP://b:80/v1/slots?", b"/v1/slots"):
            answer = self.raw(b"GET " + target + b" HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
            self.assertIn(b"200 OK", answer, target)
            self.assertIn(b"free_cpus", answer, target)
        self.assertIn(b" 404 ", self.raw(b"GET http://localhost HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n"))
        self.assertIn(b"200 OK", self.raw(b"GET /v1/slots HTTP/1.0\r\n\r\n"))

    @natively
    def test_a_target_with_a_nul_is_refused_rather_than_cut_there(self):
        job = self.submit("exit", 0)
        self.ok("wait", job)
        for target in (f"/v1/jobs/{job}%00", f"/v1/jobs/{job}%00/cancel", "/v1/history?names=a%00b", "/v1/jobs?state%00=PENDING"):
            status, _, text = self.ask("GET", target)
            self.assertEqual((status, "(%00)" in json.loads(text)["error"]), (400, True), (target, text))
        self.assertEqual(self.ask("GET", "/v1/history?names=a%2500b")[0], 200)  # a per cent sign and two digits
        self.ok("slots")

    def test_protocols_are_named_in_any_case(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        upgrade = b"Connection: upgrade\r\nUpgrade: BERTH-Stream\r\nContent-Length: 2\r\n\r\n{}"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(self.socket)
            client.sendall(f"POST /v1/jobs/{job}/attach HTTP/1.1\r\nHost: b\r\n".encode() + upgrade)
            self.assertTrue(client.recv(1000).startswith(b"HTTP/1.1 101"))
        self.ok("cancel", "--now", job)

    def test_one_connection_too_many_gets_its_answer_however_late_it_asks(self):
        held = []
        for _ in range(8):
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].connect(self.socket)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(self.socket)
            eventually(lambda: False, 0.3)
            client.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: b\r\nContent-Length: 1000000\r\n\r\n" + b" " * 1000000)
            head, _, body = client.recv(65536).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 503 "), head)
        self.assertIn("api.connections_per_user", json.loads(body)["error"])
        for client in held:
            client.close()
        self.ok("slots")

    def test_a_head_is_the_get_without_its_body(self):
        _, headers, text = self.ask("GET", "/v1/slots")
        answer = self.raw(b"HEAD /v1/slots HTTP/1.1\r\nHost: b\r\n\r\nGET /v1/slots HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
        head, _, rest = answer.partition(b"\r\n\r\n")
        self.assertIn(f"Content-Length: {headers['Content-Length']}".encode(), head)
        self.assertTrue(rest.startswith(b"HTTP/1.1 200"), rest[:80])
        self.assertTrue(rest.endswith(text))
        answer = self.raw(b"HEAD /v1/events?follow=1 HTTP/1.1\r\nHost: b\r\n\r\n")
        self.assertTrue(answer.endswith(b"\r\n\r\n"), answer)

    def test_requests_sent_ahead_are_answered_in_turn(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        wanted = f"GET /v1/jobs/{job}/wait HTTP/1.1\r\nHost: b\r\n\r\n".encode()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.socket)
            client.settimeout(20)
            client.sendall(wanted + b"GET /v1/slots HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
            self.ok("cancel", "--now", job)
            received = b""
            while piece := client.recv(65536):
                received += piece
        self.assertEqual(received.count(b"HTTP/1.1 200 OK"), 2)
        self.assertLess(received.index(b"exit_status"), received.index(b"free_cpus"))

    def test_bodies_come_in_chunks_too(self):
        body = json.dumps(self.job("exit", 0)).encode()
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:])) + b"0\r\n\r\n"
        answer = self.raw(f"POST /v1/jobs?directory={self.work} HTTP/1.1\r\nHost: b\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunks)
        self.assertIn(b"201 Created", answer)
        self.ok("wait", json.loads(answer.partition(b"\r\n\r\n")[2])["job_ids"][0])

    def test_what_one_request_may_cost_everybody_is_bounded(self):
        tested = self.answer("POST", "/v1/jobs?test_only=1", json.dumps([{"argv": ["true"], "time_limit": 5}] * 150))["jobs"]
        self.assertEqual([number for number, job in enumerate(tested) if "expected_start" in job], list(range(100)))
        impossible = json.dumps([{"argv": ["true"], "cpus_per_task": 60000}] * 500)
        status, _, text = self.ask("POST", "/v1/jobs", impossible)
        self.assertEqual((status, len(json.loads(text)["faults"])), (422, 101))
        self.assertIn("the first 100", json.loads(text)["faults"][-1]["message"])
        self.assertEqual(self.ask("GET", f"/v1/history?jobs={','.join(f'1_{n}' for n in range(1500))}")[0], 200)
        wide = ",".join(str(3 * n) if n else "0-1" for n in range(10_000))
        array = self.answer("POST", "/v1/jobs", json.dumps({"argv": ["true"], "array": wide + ",40000-40009", "hold": True}))
        self.assertIn("error", array)
        array = self.answer("POST", "/v1/jobs", json.dumps({"argv": ["true"], "array": wide.rsplit(",", 1)[0] + ",40000-40009", "hold": True}))["job_ids"][0]
        self.assertEqual(self.ask("POST", f"/v1/jobs/{array}_40000/cancel")[0], 200)
        status, _, text = self.ask("POST", f"/v1/jobs/{array}_40005/cancel")
        self.assertEqual((status, "ranges and single tasks" in text.decode()), (409, True), text)

    def test_a_change_of_an_array_is_looked_at_once_for_all_tasks(self):
        job = {"argv": ["true"], "hold": True}
        base = self.answer("POST", "/v1/jobs", json.dumps(job))["job_ids"][0]
        array = self.answer("POST", "/v1/jobs", json.dumps(dict(job, array="0-11")))["job_ids"][0]
        for task in range(11):
            self.assertEqual(self.ask("POST", f"/v1/jobs/{array}_{task}/hold")[0], 200)
        self.assertEqual(self.ask("PATCH", f"/v1/jobs/{array}", json.dumps({"begin_time": "now+1hour", "comment": "later"}))[0], 200)
        listed = [job for job in self.answer("GET", "/v1/jobs")["jobs"] if job["job_id"] != base]
        self.assertEqual((len(listed), len({job["queue"]["begin_time"] for job in listed})), (12, 1))

    def test_what_the_tasks_of_an_array_depend_on_is_bounded_of_all_of_them_together(self):
        job = {"argv": ["true"], "hold": True}
        needed = self.answer("POST", "/v1/jobs", json.dumps(dict(job, array="0-9999")))["job_ids"][0]
        array = self.answer("POST", "/v1/jobs", json.dumps(dict(job, array="0-10")))["job_ids"][0]
        for task in range(9):
            self.assertEqual(self.ask("POST", f"/v1/jobs/{array}_{task}/hold")[0], 200)
        on_tasks = "afterok" + "".join(f":{needed}_{task}" for task in range(10_000))
        change = lambda **fields: self.ask("PATCH", f"/v1/jobs/{array}", json.dumps(fields))  # noqa: E731
        self.assertEqual(change(dependency=on_tasks)[0], 200)
        self.assertEqual(self.ask("POST", f"/v1/jobs/{array}_9/hold")[0], 200)
        status, _, text = change(name="other")
        self.assertEqual((status, b"more than 100000 jobs to depend on together" in text), (413, True), text)
        self.assertEqual(change(dependency=None)[0], 200)
        self.assertEqual(change(name="other")[0], 200)
        between = self.answer("POST", "/v1/jobs", json.dumps(dict(job, dependency=on_tasks)))["job_ids"][0]
        status, _, text = change(dependency=f"afterok:{between}")
        self.assertEqual((status, b"whether a job would wait for itself" in text), (413, True), text)
        self.assertEqual(self.ask("PATCH", f"/v1/jobs/{array}_0", json.dumps({"dependency": f"afterok:{between}"}))[0], 200)

    def test_the_list_of_an_array_is_not_read_for_each_of_its_tasks_that_is_depended_on(self):
        job = {"argv": ["true"], "hold": True}
        tasks = range(0, 20_000, 2)
        array = self.answer("POST", "/v1/jobs", json.dumps(dict(job, array=",".join(map(str, tasks)))))["job_ids"][0]
        many = [dict(job, dependency="afterok" + "".join(f":{array}_{task}" for task in tasks))] * 4
        status, _, text = self.ask("POST", "/v1/jobs", json.dumps(many))  # answered before the connection times out
        self.assertEqual(status, 201, text)

    def test_a_hold_that_changes_nothing_is_no_event(self):
        job = self.answer("POST", "/v1/jobs", json.dumps({"argv": ["true"], "hold": True}))["job_ids"][0]
        for _ in range(3):
            self.assertEqual(self.ask("POST", f"/v1/jobs/{job}/hold")[0], 200)
        events = [json.loads(line) for line in self.ask("GET", "/v1/events")[2].splitlines()]
        self.assertEqual([event for event in events if event.get("detail", {}).get("action") == "hold"], [])

    def test_runners_are_asked_for_samples_ten_times_a_second_at_most(self):
        answers = []
        begun = time.monotonic()
        threads = [threading.Thread(target=lambda: answers.append(self.ask("GET", "/v1/top")[0])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        answers += [self.ask("GET", "/v1/top")[0] for _ in range(5)]
        self.assertEqual(answers, [200] * 9)
        self.assertGreater(time.monotonic() - begun, 0.4)

    def test_many_jobs_in_one_request_are_taken_in_order_or_none_of_them(self):
        jobs = [{"argv": ["/bin/true"], "name": f"n{number} ],[", "hold": True} for number in range(2500)]
        numbers = self.answer("POST", "/v1/jobs", json.dumps(jobs))["job_ids"]
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(jobs))))
        for index in (0, 249, 250, 1777, 2499):
            self.assertIn(json.dumps(jobs[index]["name"]), self.ask("GET", f"/v1/jobs/{numbers[index]}")[2].decode())
        faulty = list(jobs)
        faulty[1777] = dict(jobs[1777], nice="x")
        faulty[3] = dict(jobs[3], cpus_per_task=0)
        status, _, text = self.ask("POST", "/v1/jobs?file=many.json", json.dumps(faulty))
        self.assertEqual(status, 422)
        lines = json.loads(text)["faults"]
        self.assertEqual([fault["pointer"] for fault in lines], ["/3/cpus_per_task", "/1777/nice"])
        impossible = list(jobs)
        impossible[2] = dict(jobs[2], nice=-1, cpus_per_task=100000)
        self.assertEqual(self.ask("POST", "/v1/jobs", json.dumps(impossible))[0], 422)
        self.assertEqual(self.answer("POST", "/v1/jobs", json.dumps(jobs[:1]))["job_ids"], [numbers[-1] + 1])

    @natively
    def test_no_request_takes_more_memory_than_what_it_says_is_worth(self):
        self.allow_large_bodies()

        def resident():
            return int(read(f"/proc/{self.daemon.pid}/statm").split()[1]) * resource.getpagesize()

        before = resident()
        for body in (b"[" + b"{}," * 200_000 + b"{}]", b'{"argv": ["true"' + b',""' * 3_000_000 + b"]}"):
            status, _, text = self.ask("POST", "/v1/jobs", body)
            self.assertEqual((status, b"at most 100000 jobs" in text), (413, True), text)
        begin = b"POST /v1/jobs HTTP/1.1\r\nHost: berthd\r\nTransfer-Encoding: chunked\r\n\r\n"
        for endless in (b"1;" + b"x" * (1 << 20), b"0\r\n" + b"a: b\r\n" * 100_000):
            self.assertIn(b" 431 ", self.raw_as_far_as_taken(begin + endless))
        self.assertLess(resident() - before, 256 << 20)

    @natively
    def test_a_job_longer_than_a_command_line_can_be_is_refused(self):
        self.allow_large_bodies()
        longest = {f"V{number}": "x" * 100_000 for number in range(45)}
        for size, status in ((45, 422), (40, 201)):
            job = self.job("exit", 0, hold=True, environment=dict(list(longest.items())[:size]))
            got, _, text = self.ask("POST", "/v1/jobs", json.dumps(job))
            self.assertEqual((got, b"longer than 4 MiB" in text), (status, status == 422), text[:500])

    @natively
    def test_a_request_too_deep_or_too_long_is_refused_and_harms_nobody(self):
        job = self.submit("exit", 0, hold=True)
        deep = "[" * 250_000 + "]" * 250_000
        many = [{"argv": ["true"], "dependency": "afterany" + "".join(f":{number}" for number in range(1, 6001))}] * 17
        for method, path, body, status, why in (
            ("PATCH", f"/v1/jobs/{job}", f'{{"retry":{deep}}}', 422, b"nested too deeply"),
            ("PATCH", "/v1/jobs/99999", f'{{"retry":{deep}}}', 404, b"99999"),
            ("POST", "/v1/jobs", f'{{"argv":{deep}}}', 422, b"nested too deeply"),
            ("PATCH", f"/v1/jobs/{job}", '{"comment": "' + "x" * (1 << 20) + '"}', 413, b"512 KiB"),
            ("POST", "/v1/jobs", json.dumps(many), 413, b"at most 100000 jobs to depend on"),
        ):
            answered, _, text = self.ask(method, path, body)
            self.assertEqual(answered, status, text)
            self.assertIn(why, text)
        self.assertIsNone(self.daemon.poll())

    def raw_as_far_as_taken(self, data):
        """As raw(), but berthd need not read all of it."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(self.socket)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(data)
            return client.recv(65536)

    def test_a_client_that_asks_before_it_sends_a_body_is_told_to_go_on(self):
        body = json.dumps(self.job("exit", 0)).encode()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.socket)
            client.settimeout(20)
            client.sendall(f"POST /v1/jobs?directory={self.work} HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            self.assertTrue(client.recv(1000).startswith(b"HTTP/1.1 100"))
            client.sendall(body)
            self.assertIn(b"201 Created", client.recv(65536))

    def test_one_whose_sending_half_is_shut_gets_its_answer(self):
        job = self.submit("print_slowly", 4, 0.2)
        answer = self.raw(f"GET /v1/jobs/{job}/wait HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n".encode(), half_closed=True)
        self.assertIn(b'"exit_status":0', answer)
        for path in ("/v1/jobs", "/v1/history", f"/v1/jobs/{job}", "/v1/top"):  # those of the reading thread
            self.assertIn(b"200 OK", self.raw(f"GET {path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n".encode(), half_closed=True), path)
        job = self.submit("print_slowly", 4, 0.2)
        answer = self.raw(f"GET /v1/jobs/{job}/output?follow=1 HTTP/1.1\r\nHost: b\r\n\r\n".encode(), half_closed=True)
        self.assertIn(self.logs(job).splitlines()[-1].encode(), answer)

    def test_streams_for_http_1_0_come_without_chunks(self):
        job = self.submit("exit", 0)
        self.ok("wait", job)
        head, _, body = self.raw(b"GET /v1/events HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
        self.assertNotIn(b"chunked", head)
        self.assertEqual(len([json.loads(line) for line in body.splitlines()]), 4)

    def test_clients_that_vanish_leave_nothing(self):
        job = self.submit("hold", 600)
        self.wait_for_state(job, "RUNNING")
        before = self.connections()
        for request in (
            f"GET /v1/jobs/{job}/wait HTTP/1.1\r\nHost: b\r\n\r\n",
            f"GET /v1/jobs/{job}/wait HTTP/1.1\r\nHost: b\r\n\r\nGET /v1/slots HTTP/1.1\r\nHost: b\r\n\r\n",
            f"GET /v1/jobs/{job}/output?follow=1 HTTP/1.1\r\nHost: b\r\n\r\n",
            "GET /v1/events?follow=1&after=now HTTP/1.1\r\nHost: b\r\n\r\n",
            "GET /v1/events?follow=1&after=now HTTP/1.1\r\nHost: b\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
            "POST /v1/jobs HTTP/1.1\r\nHost: b\r\nContent-Length: 100\r\n\r\n{",
            "POST /v1/jobs HTTP/1.1\r\nHost: b\r\nContent-Length: 2000000\r\n\r\n{",
            "GET /v1/slots HTT",
            "",
        ):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.socket)
                client.sendall(request.encode())
                eventually(lambda: False, 0.1)
        # Or less: the last answer's connection may have been on its way out.
        self.assertTrue(eventually(lambda: self.connections() <= before), f"{self.connections()} connections, not {before}")
        self.ok("cancel", "--now", job)

    def test_connections_and_large_bodies_are_bounded_and_root_still_gets_in(self):
        self.assertEqual(self.refused_connections(20, ("postgres", "redis")), [12, 16])
        held = []
        for index in range(5):
            client = socket.socket(socket.AF_UNIX)
            client.connect(self.socket)
            client.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: b\r\nContent-Length: 2000000\r\n\r\n{")
            client.settimeout(20 if index == 4 else None)
            held.append(client)
            eventually(lambda: False, 0.1)
        self.assertTrue(held[-1].recv(1000).startswith(b"HTTP/1.1 503"))
        for client in held:
            client.close()
        self.ok("slots")

    def test_more_requests_than_may_be_asked_are_refused(self):
        self.write_config(api={"requests_per_second": 1})
        self.daemon.send_signal(1)
        self.assertTrue(eventually(lambda: "read again" in self.read_log()))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.socket)
            client.settimeout(20)
            client.sendall(b"GET /v1/slots HTTP/1.1\r\nHost: b\r\n\r\n" * 50)
            received = b""
            while received.count(b"HTTP/1.1 ") < 50:
                received += client.recv(65536)
        self.assertIn(b"429 Too Many Requests", received)
        self.write_config()
        self.daemon.send_signal(1)
        self.assertTrue(eventually(lambda: self.cli("slots")[0] == 0))

    @natively
    def test_who_asks_for_much_keeps_others_waiting_for_one_answer_of_it(self):
        text = "x" * 1000
        many = [{"argv": ["true"], "hold": True, "environment": {f"V{number}": text for number in range(100)}}]
        self.assertEqual(self.ask("POST", "/v1/jobs", json.dumps(many * 4))[0], 201)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(10)]
        with contextlib.ExitStack() as stack:
            for client in clients:
                stack.enter_context(client)
                client.connect(self.socket)
                client.sendall(b"GET /v1/history HTTP/1.1\r\nHost: b\r\n\r\n")
            select.select(clients, [], [], 20)  # the first answer comes
            self.assertEqual(self.ask_as("www-data", "GET", "/v1/jobs")[0], 200)
            answered = sum(bool(select.select([client], [], [], 0)[0]) for client in clients)
        self.assertLess(answered, len(clients), "the others came first")

    def test_a_reader_that_does_not_read_holds_nobody_up(self):
        job = self.submit("print_slowly", 3, 0.1)
        self.ok("wait", job)
        slow = []
        for path in (f"/v1/jobs/{job}/output?follow=1", "/v1/events", "/v1/history", "/v1/jobs?state=all"):
            client = socket.socket(socket.AF_UNIX)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.connect(self.socket)
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: b\r\n\r\n".encode())
            slow.append(client)
        self.assertEqual(self.cli("submit", "--wait", "--", self.payload, "exit", "3")[0], 3)
        for client in slow:
            client.close()


class SmallAnswers(ApiCase):
    def start_daemon(self, environment=None):
        return super().start_daemon({"BERTH_MOST_ANSWER": str(64 << 10)})

    def refused(self, path):
        status, _, text = self.ask("GET", path)
        self.assertEqual(status, 413, text[:300])
        return json.loads(text)["error"]

    @natively
    def test_an_answer_too_large_is_refused_with_what_to_ask_for_instead(self):
        jobs = [{"argv": ["/bin/true"], "name": f"n{number}", "hold": True, "begin_time": "2099-01-01T00:00:00"} for number in range(300)]
        numbers = self.answer("POST", "/v1/jobs", json.dumps(jobs))["job_ids"]
        self.assertIn("limit or state", self.refused("/v1/jobs"))
        self.assertEqual(len(self.answer("GET", "/v1/jobs?limit=10")["jobs"]), 10)
        self.assertIn("berth history -S, -E, --last", self.refused("/v1/history?as=json"))
        self.assertEqual(len(self.answer("GET", "/v1/history?as=json&last=5")["jobs"]), 5)
        wide = ",".join(["Partition%25900"] * 18)
        self.assertIn("narrower columns", self.refused(f"/v1/history?as=table&last=10&format={wide}"))
        for number in numbers[:100]:
            self.ask("POST", f"/v1/jobs/{number}/cancel")
        self.assertIn("berth report -S, -E", self.refused("/v1/report?by=name"))
        self.assertEqual(self.answer("GET", "/v1/report?by=user")["rows"][0]["jobs"], 100)
        # A comment of 40 KiB, once with each attempt or once.
        job = self.submit("exit", 3, comment="x" * (40 << 10), retry={"max": 2, "backoff": 0})
        self.cli("wait", job)
        self.assertIn(f"berth show {job} without --json", self.refused(f"/v1/jobs/{job}?as=json"))
        self.assertEqual(self.ask("GET", f"/v1/jobs/{job}?as=text")[0], 200)
        self.assertEqual(self.ask("GET", f"/v1/history?as=json&jobs={job}&last=1")[0], 200)
        for _ in range(40):
            self.ask("POST", f"/v1/jobs/{numbers[200]}/release")
            self.ask("POST", f"/v1/jobs/{numbers[200]}/hold")
        self.assertIn("events, more than one answer has room for", self.refused(f"/v1/jobs/{numbers[200]}?as=text"))

    @natively
    def test_a_line_has_so_many_columns_and_characters_and_no_more(self):
        for path in ("history", "report"):
            column = "User" if path == "history" else "Key"
            for words, fault in ((f"format={','.join([column] * 201)}", "at most 200"),
                                 (f"format={','.join([column + '%251000'] * 17)}", "at most 16384"),
                                 (f"delimiter={'x' * 17}", "delimiter: is longer than 16 bytes")):
                status, _, text = self.ask("GET", f"/v1/{path}?as=table&{words}")
                self.assertEqual((status, fault in text.decode()), (400, True), text)


class Descriptors(ApiCase):
    daemon_prefix = ("prlimit", "--nofile=100:256")

    @natively
    def test_the_hard_limit_is_berthds_and_root_gets_in_when_users_have_what_is_theirs(self):
        with open(f"/proc/{self.daemon.pid}/limits", encoding="utf-8") as file:
            (files,) = [line.split()[3:5] for line in file if line.startswith("Max open files")]
        self.assertEqual(files, ["256", "256"])
        job = self.submit("report")
        self.assertEqual(self.cli("wait", job)[0], 0)
        self.assertEqual(json.loads(self.logs(job))["limits"]["nofile"], [100, 256], "what berthd raised for itself is no job's")
        first, second = self.refused_connections(60, ("postgres", "redis"))
        self.assertEqual((first, second > 20, second < 60), (0, True, True), second)
        self.assertEqual(self.cli("wait", self.submit("exit", 3))[0], 3)


class Authorisation(ApiCase):
    def test_no_route_shows_or_changes_anothers_job(self):
        mine = self.submit("hold", 600, user="postgres", name="secret-name")
        self.wait_for_state(mine, "RUNNING")
        array = self.submit("hold", 600, user="postgres", name="secret-array", array="0-3%1")
        held = self.submit("hold", 600, user="postgres", name="secret-held", hold=True)
        self.assertTrue(eventually(lambda: self.queue().get(held - 1 + 2, {}).get("state") == "RUNNING" or len(self.queue()) == 4))
        with open(os.path.join(SOURCE, "schemas", "berthd.openapi.json"), encoding="utf-8") as file:
            paths = json.load(file)["paths"]
        for template, operations in paths.items():
            for method in operations:
                if "{job_id}" in template:
                    for job in (mine, array, held, f"{array}_0", f"{array}_2"):
                        status, text = self.ask_as("redis", method.upper(), template.replace("{job_id}", str(job)) + ("?signal=KILL" if template.endswith("signal") else ""), "{}")
                        wanted = (404, 426) if template.endswith(("exec", "attach")) else (404,)
                        self.assertIn(status, wanted, f"{method} {template} of {job}: {text}")
                        self.assertNotIn("secret", text)
                elif method == "get":
                    status, text = self.ask_as("redis", "GET", template)
                    self.assertEqual(status, 200, template)
                    self.assertNotIn("secret", text, template)
                    self.assertNotIn("postgres", text, template)
                    self.assertFalse(re.search(rf'"job_id":\s*{mine}\b', text), f"{template}: {text}")
        self.assertEqual(self.ask_as("redis", "POST", "/v1/drain")[0], 403)
        _, text = self.ask_as("redis", "GET", f"/v1/jobs?user={pwd.getpwnam('postgres').pw_uid}")
        self.assertNotIn("secret", text)
        for path in ("/v1/history?users=postgres", f"/v1/history?jobs={mine},{array}", "/v1/report?users=postgres", f"/v1/history?as=parsable2&jobs={mine}&format=JobName"):
            self.assertNotIn("secret", self.ask_as("redis", "GET", path)[1], path)
        status, text = self.ask_as("redis", "POST", f"/v1/jobs?directory={self.work}", json.dumps({"argv": ["true"], "dependency": f"afterany:{mine}"}))
        self.assertEqual(status, 422, text)
        self.assertIn(f"no job {mine} of yours", text)
        self.assertEqual({self.state(job) for job in (mine, array, held)}, {"RUNNING", "PENDING"})
        self.ok("cancel", "--now", mine, array, held)

    def test_a_users_link_as_a_device_does_not_tell_what_root_sees(self):
        links = [os.path.join("/dev/shm", f"{os.path.basename(self.directory)}-{number}") for number in range(2)]
        secret = os.path.join(self.state_folder, "berthd.db")
        self.assertTrue(os.path.exists(secret))
        for link, target in zip(links, (secret, secret + "-there-is-none")):
            os.symlink(target, link)
            os.chown(link, pwd.getpwnam("postgres").pw_uid, -1, follow_symlinks=False)
        answers = []
        for link in links:
            for asked in ({"isolation": {"devices": [link]}}, {"limits": {"io": [{"device": link, "read_bps": 1}]}}):
                status, text = self.ask_as("postgres", "POST", "/v1/jobs", json.dumps({"argv": ["true"], **asked}))
                answers.append((status, text.replace(link, "LINK")))
            os.unlink(link)
        self.assertEqual({status for status, _ in answers}, {422}, answers)
        self.assertEqual(answers[:2], answers[2:])

    def test_users_narrow_their_own_history_by_user_and_see_nobody_elses(self):
        jobs = {user: self.submit("exit", 0, user=user) for user in ("postgres", "redis")}
        self.ok("wait", *jobs.values())
        listed = lambda user, *words: self.ok("history", "-n", "-P", "-o", "JobID", *words, user=user).split()  # noqa: E731
        own = [str(jobs["redis"])]
        for words in ((), ("-u", "redis"), ("-u", "postgres,redis"), ("-u", pwd.getpwnam("redis").pw_uid)):
            self.assertEqual(listed("redis", *words), own, words)
        for user in ("postgres", "nosuchuser", "99999"):
            self.assertEqual(listed("redis", "-u", user), [], user)
        self.assertEqual(listed(None, "-u", "postgres"), [str(jobs["postgres"])])

    def test_a_hold_of_an_administrators_is_not_weakened_by_the_users_own(self):
        job = self.submit("exit", 0, user="postgres", hold=True)
        self.ok("hold", job)
        self.ok("hold", job, user="postgres")
        self.assertEqual(self.cli("release", job, user="postgres")[0], 1)
        self.assertEqual(self.queue()[job]["reason"], "JobHeldAdmin")
        self.ok("release", job)
        self.ok("wait", job, user="postgres")

    def test_only_administrators_raise_a_priority_and_what_they_gave_is_kept(self):
        job = self.submit("exit", 0, user="postgres", hold=True)
        self.ok("update", "--nice=-50", job)
        self.ok("update", "--comment", "mine", job, user="postgres")
        self.assertEqual(self.queue()[job]["queue"]["priority"], 50)
        self.assertEqual(self.cli("update", "--nice=-60", job, user="postgres")[0], 1)
        self.ok("update", "--nice", 10, job, user="postgres")
        self.ok("update", "--nice", 0, job, user="postgres")
        self.assertEqual(self.cli("update", "--priority", 1, job, user="postgres")[0], 1)
        self.ok("cancel", job)

    def test_output_and_input_are_found_with_the_submitters_rights(self):
        secret = os.path.join(self.directory, "secret")
        with open(secret, "w", encoding="utf-8") as file:
            file.write("secret")
        os.chmod(secret, 0o600)
        job = self.submit("exit", 0, user="postgres", standard_input=secret)
        self.cli("wait", job)
        self.assertEqual(self.records(job)[-1]["outcome"]["cause"], "launch_failed")
        link = os.path.join(self.work, "link")
        os.symlink(secret, link)
        for field in ("standard_output", "standard_error", "standard_input"):
            job = self.submit("exit", 0, user="postgres", **{field: link})
            self.cli("wait", job)
            self.assertEqual(self.records(job)[-1]["outcome"]["cause"], "launch_failed", field)
        # What was the job's file when it ran is another's link when it is read.
        job = self.submit("print_both", user="postgres")
        self.ok("wait", job)
        path = os.path.join(self.work, f"berth-{job}.out")
        os.unlink(path)
        os.symlink(secret, path)
        status, out, _ = self.cli("logs", job, user="postgres")
        self.assertEqual((status, out), (1, ""))
        os.unlink(path)
        os.mkfifo(path)
        os.chmod(path, 0o666)
        self.assertEqual(self.cli("logs", job, user="postgres")[0], 1)
        os.unlink(path)
        job = self.submit("exit", 0, user="postgres", current_working_directory="/root")
        self.cli("wait", job)
        self.assertEqual(self.records(job)[-1]["outcome"]["cause"], "launch_failed")

    def test_a_fifo_as_standard_input_holds_up_no_other_job(self):
        self.write_config(runners=1)
        self.stop_daemon()
        self.end_runners()
        self.start_daemon()
        fifo = os.path.join(self.work, "fifo")
        os.mkfifo(fifo)
        os.chmod(fifo, 0o666)
        hung = self.submit("exit", 0, user="postgres", standard_input=fifo)
        other = self.submit("exit", 0)
        self.ok("wait", other)
        self.ok("wait", hung, user="postgres")


class AdministratorsGroup(ApiCase):
    """Members of the configured group who are not root; /etc/group is the test's own."""

    configuration = {"administrators": "operators"}

    def setUp(self):
        groups = tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="berth-test-groups-")  # pylint: disable=consider-using-with
        self.addCleanup(groups.close)
        groups.write(read("/etc/group") + "operators:x:59999:www-data\n")
        groups.flush()
        os.chmod(groups.name, 0o644)
        self.daemon_prefix = ("unshare", "--mount", "sh", "-c", f'mount --bind {groups.name} /etc/group && exec "$@"', "sh")
        super().setUp()

    def may(self, user, job):
        """Whether this user sees, changes and ends the job, and stops and starts the pool: all of it, or nothing."""
        answers = [job in (row["job_id"] for row in json.loads(self.ok("queue", "--json", user=user))["jobs"])]
        for words in (("show", job), ("hold", job), ("release", job), ("update", "--nice=-5", job), ("drain",), ("undrain",), ("cancel", job)):
            answers.append(self.cli(*words, user=user)[0] == 0)
        self.assertEqual(len(set(answers)), 1, f"{user}: {answers}")
        return answers[0]

    def test_its_members_see_and_change_every_job_and_others_do_not(self):
        jobs = [self.submit("hold", 600, user="postgres", begin_time="now+1hour") for _ in range(2)]
        self.assertFalse(self.may("redis", jobs[0]))
        self.assertTrue(self.may("www-data", jobs[0]), "a member by /etc/group")
        # redis: the group that its account names. What was known of users is forgotten with the configuration.
        self.write_config(administrators="redis")
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "read again" in self.read_log()))
        self.assertFalse(self.may("www-data", jobs[1]))
        self.assertTrue(self.may("redis", jobs[1]), "its own group")

    def test_a_group_that_is_not_there_has_no_members(self):
        self.write_config(administrators="no-such-group")
        self.daemon.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "read again" in self.read_log()))
        job = self.submit("hold", 600, user="postgres", begin_time="now+1hour")
        self.assertFalse(self.may("www-data", job))
        self.ok("cancel", job)


class OneRunner(ApiCase):
    configuration = {"runners": 1}

    @natively
    def test_signals_to_a_suspended_job_hold_up_no_other_and_come_when_it_goes_on(self):
        script = "trap 'echo usr1' USR1; trap 'exit 3' USR2; while :; do sleep 0.05; done"
        suspended = self.submit(argv=["/bin/sh", "-c", script], name="trap")
        other = self.submit_until_told()
        self.wait_for_state(other, "RUNNING")
        self.wait_for_state(suspended, "RUNNING")
        self.ok("suspend", suspended)
        for signal_name in 1000 * ["USR1", "URG", "CONT"]:
            self.assertEqual(self.ask("POST", f"/v1/jobs/{suspended}/signal?signal={signal_name}")[0], 200)
        self.let_end()
        self.ok("wait", other)
        self.ok("signal", "USR2", suspended)
        self.ok("resume", suspended)
        self.assertEqual(self.cli("wait", suspended)[0], 3)
        self.assertEqual(self.logs(suspended).count("usr1"), 1)
        frozen = self.submit("hold", 600)
        self.wait_for_state(frozen, "RUNNING")
        self.ok("suspend", frozen)
        for _ in range(10):
            self.ok("signal", "URG", frozen)
        self.ok("cancel", frozen)
        self.assertEqual(self.cli("wait", frozen)[0], 143)


class WithoutFreezer(ApiCase):
    daemon_prefix = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', "sh")

    @natively
    def test_a_suspension_is_refused_and_jobs_go_on(self):
        job = self.submit_until_told(memory_per_node=None)
        self.wait_for_state(job, "RUNNING")
        status, _, text = self.ask("POST", f"/v1/jobs/{job}/suspend")
        self.assertEqual((status, b"suspension cannot be enforced here: cgroup /" in text), (422, True), text)
        self.let_end()
        self.ok("wait", job)


if __name__ == "__main__":
    main()
