# SPDX-License-Identifier: MIT
"""outputs.metrics: what Prometheus reads is what pyleakctl says, and nothing else is served."""

import fcntl
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import harness

CONFIG = {"growth": {"interval": "500ms", "warmup": "0s", "window": "5s", "min_objects": 100},
          "budget": {"pause": "20ms", "cpu": "unlimited"}}

TARGET = r"""
class Kept: pass
kept = []
with open('/proc/self/comm', 'wb') as f: f.write(b'a"\\b\nc\xffd')
say('up')
while hear(): kept.extend(Kept() for _ in range(100)); say(len(kept))
"""

LINE = re.compile(r'(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def prometheus():
    """The folder of the real promtool: installed, or out of Debian's package, which is not installed as it
    would start a service."""
    found = shutil.which("promtool")
    if found:
        return os.path.dirname(found), None
    folder = tempfile.mkdtemp()
    done = subprocess.run("apt-get download -q prometheus && dpkg -x prometheus_*.deb x", shell=True,
                          cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder)
        raise unittest.SkipTest("cannot run here: no Debian package of prometheus: "
                                + done.stderr.strip()[-200:])
    return os.path.join(folder, "x/usr/bin"), folder


class Case(harness.RootTest):
    MORE = {}  # configuration

    def setUp(self):
        super().setUp()
        self.t = harness.Target(self, TARGET)
        self.t.hear()
        self.port = free_port()
        self.d = harness.Daemon(self, self.t.pid, config=self.config(self.port))

    def config(self, port):
        return dict(CONFIG, outputs={"metrics": {"listen": f"127.0.0.1:{port}"}}, **self.MORE)

    def get(self, path="/metrics", method="GET", port=None, body=None):
        c = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)
        try:
            c.request(method, path, body=body)
            r = c.getresponse()
            return r.status, r.getheader("Content-Type"), r.read().decode("utf-8")
        finally:
            c.close()

    def metrics(self, **more):
        status, kind, text = self.get(**more)
        self.assertEqual((status, kind), (200, "text/plain; version=0.0.4; charset=utf-8"))
        out, described = {}, set()
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                name = line.split()[2]
                self.assertNotIn(name, described)
                described.add(name)
            if line.startswith("#"):
                continue
            m = LINE.fullmatch(line)
            self.assertTrue(m, line)
            self.assertIn(m[1], described)
            key = (m[1], m[2] or "")
            self.assertNotIn(key, out)
            out[key] = float(m[3])
        return out

    def value(self, name, *labels, **more):
        found = [v for (n, l), v in self.metrics(**more).items()
                 if n == name and all(x in l for x in labels)]
        self.assertLess(len(found), 2)
        return found[0] if found else None


class Metrics(Case):
    def test_says_what_status_says(self):
        self.d.wait_for(lambda: self.value("pyleak_target_objects"))
        mine = f'pid="{self.t.pid}"'
        before = self.d.ask("status")["targets"][0]
        m = self.metrics()
        after = self.d.ask("status")["targets"][0]
        self.assertTrue(all(mine in l for (n, l) in m if n.startswith("pyleak_target_")))
        # The name that the process has given itself, whatever that is.
        self.assertTrue(all('comm="a\\"\\\\b?c?d"' in l for (n, l) in m
                            if n.startswith("pyleak_target_")))
        self.assertIn('(a"\\b?c?d): CPython', self.d.log())

        def one(name, *labels):
            return [v for (n, l), v in m.items() if n == name and all(x in l for x in labels)][0]

        self.assertTrue(before["budget"]["hits"] <= one("pyleak_target_hits_total")
                        <= after["budget"]["hits"])
        self.assertEqual(one("pyleak_target_scope", 'scope="everything"'), 1)
        self.assertEqual(sum(v for (n, _), v in m.items() if n == "pyleak_target_scope"), 1)
        self.assertIn(one("pyleak_target_objects"),
                      (before["census"]["objects"], after["census"]["objects"]))
        self.assertEqual(one("pyleak_targets"), 1)
        # budget.cpu is unlimited: not known is not there.
        self.assertFalse([n for n, _ in m if n == "pyleak_target_budget_ratio"])
        rss = resident_bytes(self.d.process.pid)
        self.assertLess(abs(one("process_resident_memory_bytes") - rss), rss / 4)

    def test_suspects(self):
        def leaks():
            self.t.ask("more")
            return self.value("pyleak_suspect_objects", 'type="__main__.Kept"', 'verdict="leak"')
        n = self.d.wait_for(leaks, 90, "suspect")
        self.assertTrue(100 < n <= self.t.ask("more"))

    def test_suspects_of_one_name(self):
        """Two classes of one name: one sample, of both."""
        t = harness.Target(self, r"""
def make():
    class Same: pass
    return Same
a, b = make(), make()
kept = []
say('up')
n = 0
while hear():
    n += 1
    kept.extend(a() for _ in range(20)); kept.extend(b() for _ in range(2 * n))
    say(len(kept))
""")
        t.hear()
        port = free_port()
        d = harness.Daemon(self, t.pid, config=self.config(port))

        def both():
            told = t.ask("more")
            d.ask("top", t.pid, "--fresh")
            found = [s for s in d.ask("suspects", t.pid)["suspects"] if s["type"].endswith(".Same")
                     and s["verdict"] == "leak"]
            # metrics() itself fails where two samples have the same labels
            n = self.value("pyleak_suspect_objects", 'type="__main__.make.<locals>.Same"', 'verdict="leak"', port=port)
            return len(found) == 2 and n and (told, n)
        told, n = d.wait_for(both, 90, "two suspects")
        self.assertLessEqual(abs(n - told), 300)

    def test_nothing_else(self):
        self.assertEqual(self.get("/")[0], 404)
        self.assertEqual(self.get("/metrics/")[0], 404)
        self.assertEqual(self.get("/" + "x" * 7000)[0], 404)
        self.assertEqual(self.get(method="POST", body="x" * 100000)[0], 405)
        self.assertEqual(self.get(method="HEAD")[0], 200)
        self.assertEqual(self.get(method="HEAD")[2], "")
        with socket.create_connection(("127.0.0.1", self.port), 30) as s:  # no HTTP at all
            s.sendall(b"\0\xff\r\n\r\n" * 10)
            s.settimeout(30)
            try:
                while s.recv(4096):
                    pass
            except ConnectionResetError:
                pass
        # Who connects and says nothing keeps nobody out for long.
        idle = [socket.create_connection(("127.0.0.1", self.port), 30) for _ in range(30)]
        try:
            self.d.wait_for(lambda: self.answers(), 60, "answer beside idle connections")
        finally:
            for s in idle:
                s.close()
        self.assertEqual(self.d.ctl("status").code, 0)

    def answers(self):
        try:
            return self.get()[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def test_reload(self):
        def reload(doc):
            with open(self.d.config, "w", encoding="utf-8") as f:
                f.write(harness.json.dumps(doc))
            self.d.process.send_signal(signal.SIGHUP)

        other = free_port()
        reload(self.config(other))
        self.d.wait_for(lambda: "configuration reloaded" in self.d.log())
        self.assertEqual(self.value("pyleak_targets", port=other), 1)
        with self.assertRaises(ConnectionRefusedError):
            self.get()
        # One that is taken: the old configuration stays in force, and it is said why.
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            reload(self.config(s.getsockname()[1]))
            self.d.wait_for(lambda: "Address already in use; another program does" in self.d.log())
        self.assertEqual(self.value("pyleak_targets", port=other), 1)
        reload(CONFIG)
        self.d.wait_for(lambda: self.d.log().count("configuration reloaded") == 2)
        with self.assertRaises(ConnectionRefusedError):
            self.get(port=other)

    def test_address_taken_at_the_start(self):
        done = subprocess.run(
            [f"{harness.BUILD}/pyleakd", "--config", self.d.config, "--socket",
             self.d.folder + "/other.sock", "--state-dir", self.d.folder + "/other",
             "--pid", str(self.t.pid)], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"cannot listen at 127.0.0.1:{self.port} for metrics: Address already in use",
                      done.stderr)

    def test_prometheus(self):
        """The real one takes every line, and its own linter has nothing to say."""
        folder, leftover = prometheus()
        if leftover:
            self.addCleanup(shutil.rmtree, leftover)
        self.d.wait_for(lambda: self.value("pyleak_target_objects"))
        done = subprocess.run([f"{folder}/promtool", "check", "metrics"], input=self.get()[2],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
        data = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, data, ignore_errors=True)
        with open(f"{data}/prometheus.yml", "w", encoding="utf-8") as f:
            f.write("global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: pyleak\n"
                    f"    static_configs: [{{targets: ['127.0.0.1:{self.port}']}}]\n")
        port = free_port()
        with open(f"{data}/log", "w", encoding="utf-8") as log:
            server = subprocess.Popen(
                [f"{folder}/prometheus", f"--config.file={data}/prometheus.yml",
                 f"--storage.tsdb.path={data}/db", f"--web.listen-address=127.0.0.1:{port}"],
                stderr=log)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)

        def asks():
            try:
                c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                c.request("GET", "/api/v1/query?query=pyleak_target_objects")
                doc = harness.json.loads(c.getresponse().read())
                c.close()
            except (OSError, ValueError, http.client.HTTPException):
                time.sleep(0.3)
                return None
            return doc["data"]["result"]

        found = self.d.wait_for(asks, 90, "series in Prometheus")
        self.assertEqual(found[0]["metric"]["pid"], str(self.t.pid))
        self.assertEqual(found[0]["metric"]["comm"], 'a"\\b?c?d')


class Refusals(Case):
    """A dump that is refused is counted under its reason, and no other."""

    MORE = {"dump": {"pause": "100us", "deadline": "1s"}}
    REASONS = {"pause", "memory", "pressure", "processes", "traced", "stopped", "seccomp", "unsupported",
               "moment", "deadline", "turn", "permission", "queue", "other"}

    def refusals(self):
        found = {labels.partition('"')[2].rstrip('"'): int(v) for (name, labels), v in self.metrics().items()
                 if name == "pyleak_dump_refusals_total"}
        self.assertEqual(set(found), self.REASONS)  # each from the start
        return {reason: n for reason, n in found.items() if n}

    def refused(self, *args):
        answer = self.d.ctl("dump", self.t.pid, *args)
        self.assertEqual(answer.code, 4, answer.err)
        return answer.err

    def test_each_under_its_reason(self):
        self.assertEqual(self.refusals(), {})
        self.assertIn("dump.pause", self.refused())
        self.assertEqual(self.refusals(), {"pause": 1})
        self.assertEqual(self.d.ctl("dump", self.t.pid, "--force").code, 0)
        self.assertEqual(self.refusals(), {"pause": 1})
        self.t.process.send_signal(signal.SIGSTOP)
        try:
            self.d.wait_for(lambda: harness.stopped(self.t.pid))
            self.assertIn("SIGCONT", self.refused("--force"))
        finally:
            self.t.process.send_signal(signal.SIGCONT)
        self.assertEqual(self.refusals(), {"pause": 1, "stopped": 1})

    def test_queue_of_one_user(self):
        """An ordinary user has four places, all who ask have twelve; what is left is for triggers."""
        theirs = subprocess.Popen(
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c",
             "import time; print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
        self.addCleanup(theirs.stdout.close)
        self.addCleanup(theirs.wait)
        self.addCleanup(theirs.kill)
        theirs.stdout.readline()
        d = harness.Daemon(self, self.t.pid, theirs.pid)
        f = d.connect(65534)
        os.makedirs("/run/pyleak", exist_ok=True)
        with open("/run/pyleak/capture.lock", "a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            answers = []
            for _ in range(5):
                f.write(harness.json.dumps({"verb": "dump", "args": {"pid": theirs.pid, "wait": False}}) + "\n")
                f.flush()
                answers.append(harness.json.loads(f.readline()))
            self.assertEqual([a.get("exit", 0) for a in answers], [0, 0, 0, 0, 4], answers)
            self.assertIn("of this user", answers[4]["error"])
            mine = [d.ctl("dump", self.t.pid, "--no-wait").code for _ in range(9)]
            self.assertEqual(mine, [0] * 8 + [4])

    def test_turn_and_queue(self):
        """While another capture runs on this host dumps wait; when too many do, no more are taken."""
        os.makedirs("/run/pyleak", exist_ok=True)
        with open("/run/pyleak/capture.lock", "a", encoding="ascii") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            self.assertIn("another capture", self.refused("--force"))
            self.assertEqual(self.refusals(), {"turn": 1})
            taken = 0
            while self.d.ctl("dump", self.t.pid, "--no-wait").code == 0:
                taken += 1
                self.assertLess(taken, 40)
            self.assertIn("waiting already", self.refused("--no-wait"))
        # one by one they may, and are refused for what they would have been refused for
        self.d.wait_for(lambda: sum(self.refusals().values()) == taken + 3)
        counted = self.refusals()
        self.assertEqual(counted["queue"], 2)
        self.assertEqual(counted["pause"] + counted["turn"], taken + 1)
        self.assertGreater(counted["pause"], 10)


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    unittest.main()
