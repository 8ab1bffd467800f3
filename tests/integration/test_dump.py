# SPDX-License-Identifier: MIT
"""Dumps through the daemon: the right holder, and a target that does not notice."""

import os
import signal
import stat
import threading
import time
import unittest
import urllib.request
import xml.etree.ElementTree as ET

import harness

TUTORIAL = r"""
class MyBigFatObject: pass
def computate_something(n, _cache=[]):
    _cache.append(MyBigFatObject())
for i in range(5000): computate_something(i)
say('up')
hear()
"""

HOLDERS = r"""
import threading
class InModule: pass
class InClass: pass
class InSlot: pass
class InClosure: pass
class InFrame: pass
class InDefault: pass
MODULE_LIST = [InModule() for _ in range(300)]
class Registry:
    items = [InClass() for _ in range(300)]
class Slotted:
    __slots__ = ('held',)
KEPT = Slotted(); KEPT.held = [InSlot() for _ in range(300)]
def make():
    inner = [InClosure() for _ in range(300)]
    def use(): return inner
    return use
FUNCTION = make()
def default(x=[InDefault() for _ in range(300)]): pass
def worker(started, stop):
    mine = [InFrame() for _ in range(300)]
    started.set()
    stop.wait()
started, stop = threading.Event(), threading.Event()
threading.Thread(target=worker, args=(started, stop), daemon=True).start()
started.wait()
say('up')
hear()
"""

SERVICE = r"""
import http.server, threading
class Session:
    def __init__(self, n): self.n = n; self.data = {'n': n}
SESSIONS = {}
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        n = int(self.path[1:]); SESSIONS[n] = Session(n)
        body = str(sum(range(n % 1000))).encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)
say(s.server_port)
s.serve_forever()
"""


def read(path):
    with open(path, "rb") as f:
        return f.read()


class Dumps(harness.RootTest):
    def only_path(self, doc, name):
        suspect = next(s for s in doc["suspects"] if s["type"] == name)
        return suspect, suspect["paths"][0]

    def test_less_than_the_whole(self):
        """With little memory for the graph the dump still tells who holds the suspects."""
        code = ("class Session: pass\nclass Ballast: pass\nCACHE = {i: [Session()] for i in range(2000)}\n"
                "ballast = [[Ballast()] for i in range(150000)]\nsay(1); hear()")
        t = harness.Target(self, code)
        t.hear()
        d = harness.Daemon(self, t.pid, env=dict(os.environ, PYLEAK_CAPTURE_MEMORY_MIB="6"))
        doc = d.ask("dump", t.pid, "--type", "__main__.Session")
        self.assertEqual(doc["truncated"]["level"], "neighbourhood")
        self.assertIn("memory", doc["truncated"]["reason"])
        suspect, path = self.only_path(doc, "__main__.Session")
        self.assertEqual((suspect["instances"], path["share"]), (2000, 1.0))
        self.assertEqual((path["root"]["kind"], path["root"]["name"]), ("module", "__main__"))
        self.assertEqual(path["steps"][0]["label"], "CACHE")

    def test_tutorial_leak(self):
        t = harness.Target(self, TUTORIAL)
        t.hear()
        d = harness.Daemon(self, t.pid)
        doc = d.ask("dump", t.pid, "--type", "__main__.MyBigFatObject")
        suspect, path = self.only_path(doc, "__main__.MyBigFatObject")
        self.assertEqual(suspect["instances"], 5000)
        self.assertEqual((path["share"], path["instances"]), (1.0, 5000))
        self.assertEqual(path["root"], {"kind": "module", "name": "__main__"} |
                         {k: v for k, v in path["root"].items() if k not in ("kind", "name")})
        edges = [s["edge"] for s in path["steps"]]
        self.assertEqual(edges[:2], [".computate_something", ".__defaults__"])
        self.assertEqual(path["steps"][-1]["type"], "__main__.MyBigFatObject")
        self.assertEqual(doc["trigger"], "manual")
        self.assertEqual(doc["pid"], t.pid)
        self.assertEqual(doc["skipped"], 0)
        self.assertIsNone(doc["truncated"])
        for key in ("at", "id", "pause_us", "predicted_pause_us", "duration_ms", "objects", "edges"):
            self.assertIsNotNone(doc[key], key)
        for key in ("snapshot", "dot", "svg", "json", "html"):
            self.assertTrue(os.path.exists(doc["files"][key]), key)
            self.assertEqual(stat.S_IMODE(os.stat(doc["files"][key]).st_mode), 0o600)
        svg = ET.parse(doc["files"]["svg"]).getroot()
        self.assertTrue(svg.tag.endswith("svg"))
        self.assertIn(b"MyBigFatObject", read(doc["files"]["svg"]))
        self.assertEqual(d.ask("dumps", "list")["dumps"][0]["state"], "done")
        self.assertEqual(d.ask("dumps", "show", doc["id"])["id"], doc["id"])
        shown = d.ctl("dumps", "show", doc["id"])
        self.assertIn("computate_something", shown.out)
        for ending, magic in (("svg", b"<?xml"), ("dot", b"strict digraph"), ("json", b"{"), ("html", b"<!")):
            out = os.path.join(d.folder, "out." + ending)
            self.assertEqual(d.ctl("dumps", "show", doc["id"], "-o", out).code, 0)
            self.assertEqual(read(out)[:len(magic)], magic)
        self.assertEqual(d.ask("dumps", "path", doc["id"])["path"], os.path.dirname(doc["files"]["svg"]))
        self.assertEqual(d.ctl("dumps", "rm", doc["id"]).code, 0)
        self.assertFalse(os.path.exists(doc["files"]["svg"]))
        self.assertEqual(d.ctl("dumps", "show", doc["id"]).code, 1)

    def holders(self, python):
        t = harness.Target(self, HOLDERS, python)
        t.hear()
        d = harness.Daemon(self, t.pid)
        names = ("InModule", "InClass", "InSlot", "InClosure", "InFrame", "InDefault")
        args = [x for n in names for x in ("--type", "__main__." + n)]
        doc = d.ask("dump", t.pid, *args)
        found = {}
        for n in names:
            suspect, path = self.only_path(doc, "__main__." + n)
            self.assertEqual((suspect["instances"], path["share"]), (300, 1.0), n)
            found[n] = (path["root"]["kind"], path["root"]["name"],
                        " ".join(s["edge"] for s in path["steps"]))
        for n, words in (("InModule", ".MODULE_LIST"), ("InClass", ".Registry .items"),
                         ("InSlot", ".KEPT .held"), ("InDefault", ".default .__defaults__")):
            self.assertEqual(found[n][:2], ("module", "__main__"), n)
            self.assertTrue(found[n][2].startswith(words), found[n])
        self.assertEqual(found["InClosure"][:2], ("module", "__main__"))
        self.assertIn(".FUNCTION", found["InClosure"][2])
        self.assertIn("inner", found["InClosure"][2])
        self.assertEqual(found["InFrame"][0], "frame")
        self.assertIn("worker", found["InFrame"][1])
        self.assertIn("local mine", found["InFrame"][2])

    def test_service_answers_while_it_is_dumped(self):
        t = harness.Target(self, SERVICE)
        port = t.hear()
        failed, answered, stop = [], [0], threading.Event()

        def load(k):
            n = k * 1000000
            while not stop.is_set():
                n += 1
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{n}", timeout=20) as r:
                        if int(r.read()) != sum(range(n % 1000)):
                            failed.append((n, "wrong answer"))
                    answered[0] += 1
                except OSError as e:
                    failed.append((n, str(e)))

        threads = [threading.Thread(target=load, args=(k,)) for k in range(4)]
        for x in threads:
            x.start()
        self.addCleanup(stop.set)
        d = harness.Daemon(self, t.pid)
        time.sleep(1)
        for _ in range(8):
            doc = d.ask("dump", t.pid, "--type", "__main__.Session")
            suspect, path = self.only_path(doc, "__main__.Session")
            self.assertEqual(path["root"]["name"], "__main__")
            self.assertEqual(path["steps"][0]["edge"], ".SESSIONS")
            self.assertGreater(path["share"], 0.95)
        stop.set()
        for x in threads:
            x.join()
        self.assertEqual(failed, [])
        self.assertGreater(answered[0], 100)
        kids = read(f"/proc/{t.pid}/task/{t.pid}/children").split()
        self.assertEqual(kids, [], "no copy and no zombie stays")

    def test_trigger_on_verdict(self):
        code = ("class Session: pass\nSESSIONS = []\nsay('up')\n"
                "while True:\n    SESSIONS.extend(Session() for _ in range(20)); time.sleep(0.02)\n")
        t = harness.Target(self, code)
        t.hear()
        config = dict(harness.Daemon.DEFAULTS, triggers=[
            {"name": "leak", "when": {"verdict": "leak"}, "do": ["dump"], "cooldown": "1h", "per_day": 4}])
        d = harness.Daemon(self, t.pid, config=config)
        dump = d.wait_dump()
        self.assertEqual((dump["state"], dump["trigger"]), ("done", "verdict"), dump)
        doc = d.ask("dumps", "show", dump["id"])
        suspect, path = self.only_path(doc, "__main__.Session")
        self.assertEqual(path["steps"][0]["edge"], ".SESSIONS")
        s = d.ask("suspects", t.pid)["suspects"]
        self.assertEqual([x["dump"] for x in s if x["type"] == "__main__.Session"], [dump["id"]])
        time.sleep(3)
        self.assertEqual(len(d.ask("dumps", "list")["dumps"]), 1, "cooldown")
        # The newest that is there.
        newer = d.ask("dump", t.pid, "--type", "__main__.Session")["id"]
        for newest in (newer, dump["id"]):
            s = d.ask("suspects", t.pid)["suspects"]
            self.assertEqual([x["dump"] for x in s if x["type"] == "__main__.Session"], [newest])
            if newest == newer:
                d.ask("dumps", "rm", newer)
        # The cooldown survives a restart of the daemon.
        self.assertEqual(d.stop(), 0)
        again = harness.Daemon(self, t.pid, config=config, args=("--state-dir", d.state))
        again.wait_for(lambda: [x for x in again.ask("suspects", t.pid)["suspects"]
                                if x["verdict"] == "leak"])
        time.sleep(2)
        self.assertEqual(len(again.ask("dumps", "list")["dumps"]), 1)

    def test_trigger_on_thresholds(self):
        t = harness.Target(self, "class Big: pass\nk = [Big() for _ in range(4000)]\nsay(1)\nhear()\n")
        t.hear()
        config = dict(harness.Daemon.DEFAULTS, triggers=[
            {"name": "many", "when": {"count_above": {"type": "__main__.Big", "count": 3000},
                                      "rss_above": "1MiB"}, "do": ["dump"]},
            {"name": "never", "when": {"rss_above": "1TiB"}, "do": ["dump"]}])
        d = harness.Daemon(self, t.pid, config=config)
        dump = d.wait_dump()
        self.assertEqual((dump["state"], dump["trigger"]), ("done", "threshold"), dump)
        self.assertNotIn("never", d.log())

    def test_refusals(self):
        t = harness.Target(self, TUTORIAL)
        t.hear()
        d = harness.Daemon(self, t.pid, config=dict(harness.Daemon.DEFAULTS, dump={"pause": "100us"}))
        a = d.ctl("dump", t.pid, "--type", "MyBigFatObject")
        self.assertEqual(a.code, 4)
        self.assertIn("dump.pause", a.err)
        self.assertEqual(len(a.err.strip().splitlines()), 1)
        self.assertEqual(d.ctl("dump", t.pid, "--type", "MyBigFatObject", "--force").code, 0)
        t.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        a = d.ctl("dump", t.pid, "--type", "MyBigFatObject", "--force")
        self.assertEqual(a.code, 4, a.err)
        t.process.send_signal(signal.SIGCONT)
        self.assertEqual(d.ctl("dump", t.pid, "--type", "__main__.NoSuchThing", "--force").code, 1)
        states = {x["state"] for x in d.ask("dumps", "list")["dumps"]}
        self.assertLessEqual(states, {"done", "refused", "failed"})
        left = [x for x in os.listdir(f"{d.state}/dumps") if x.startswith(".")]
        self.assertEqual(left, [])

    def test_no_wait_and_stop_while_dumping(self):
        t = harness.Target(self, TUTORIAL)
        t.hear()
        d = harness.Daemon(self, t.pid)
        a = d.ask("dump", t.pid, "--type", "MyBigFatObject", "--no-wait")
        self.assertEqual(a["state"], "running")
        self.assertEqual(d.stop(), 0)
        self.assertIsNone(t.process.poll())
        t.say()
        self.assertEqual(t.process.wait(timeout=20), 0, "the target is well")

    def test_seccomp_target(self):
        code = TUTORIAL.replace("hear()", r"""
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
# A filter that allows everything: Seccomp: 2, as under every container runtime.
prog = struct.pack('HBBI', 6, 0, 0, 0x7fff0000)
buf = ctypes.create_string_buffer(prog)
fprog = struct.pack('HxxxxxxQ', 1, ctypes.addressof(buf))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, fprog, 0, 0) == 0
say('filtered')
hear()
""")
        t = harness.Target(self, code)
        t.hear()
        t.hear()
        d = harness.Daemon(self, t.pid)
        self.assertIn("seccomp", d.ask("status")["targets"][0]["reason"])
        a = d.ctl("--json", "dump", t.pid, "--type", "MyBigFatObject")
        if a.code == 0:
            self.assertEqual(a.json["suspects"][0]["instances"], 5000)
        else:
            self.assertEqual(a.code, 4, a.err)
            self.assertIn("seccomp", a.err)
        self.assertIsNone(t.process.poll())


def add(name, python):
    def test(self):
        self.holders(python)
    test.__doc__ = f"holders on {name}"
    setattr(Dumps, "test_holders_" + name.replace(".", "_"), test)


for _name, _python in harness.interpreters().items():
    add(_name, _python)

if __name__ == "__main__":
    unittest.main()
