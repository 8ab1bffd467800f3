# SPDX-License-Identifier: MIT
"""The daemon as a user meets it: what it answers, how it begins and ends, what it says when
something is wrong."""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time
import unittest

import harness

IDLE = r"""
class Session: pass
keep = [Session() for _ in range(12345)]
say('up')
hear()
"""

LEAK = r"""
class Session:
    def __init__(self): self.data = {}
SESSIONS = {}
n = 0
say('up')
while True:
    for _ in range(10): n += 1; SESSIONS[n] = Session(); [object() for _ in range(50)]
    time.sleep(0.01)
"""


class Watching(harness.RootTest):
    def test_idle_target_that_leaked_before(self):
        t = harness.Target(self, IDLE)
        t.hear()
        d = harness.Daemon(self, t.pid)
        row = d.top(t.pid)["__main__.Session"]
        self.assertEqual((row["count"], row["tracked"], row["tracked_bound"]), (12345, 12345, 0))
        census = d.ask("status")["targets"][0]["census"]
        self.assertEqual(census["pause_us_max"], 0, "an idle target is read without stopping it")
        text = d.ctl("top", t.pid)
        self.assertIn("__main__.Session", text.out)
        self.assertIn("12,345", text.out.replace("\u202f", ",").replace(" 345", ",345"))

    def test_idle_target_is_not_read_again(self):
        """As long as it does not run its levels are what they were, and known to be of now."""
        t = harness.Target(self, IDLE.replace("hear()", "keep += [[] for _ in range(500000)]; gc.collect()\n"
                                              "say('full'); hear()"))
        t.hear(), t.hear()
        d = harness.Daemon(self, t.pid)

        def census():
            return d.ask("status")["targets"][0]["census"]

        def cpu():
            with open(f"/proc/{d.process.pid}/stat", encoding="ascii") as f:
                return sum(int(x) for x in f.read().rpartition(")")[2].split()[11:13]) / os.sysconf("SC_CLK_TCK")

        first = d.wait_for(census)
        self.assertEqual(first["way"], "outside")
        time.sleep(3)  # and what the collector does not track
        before, spent = census(), cpu()
        time.sleep(8)
        spent = cpu() - spent
        after = census()
        self.assertGreater(after["at"], before["at"])
        self.assertEqual(after["objects"], first["objects"])
        self.assertLess(spent, 0.2, "a walk takes a tenth of a second")
        row = d.top(t.pid)["__main__.Session"]
        self.assertEqual((row["count"], row["count_bound"], row["tracked"]), (12345, 0, 12345))

    # budget.pause: 1ms holds no walk over millions of objects
    LARGE = {"growth": {"interval": "500ms", "warmup": "0s", "window": "5s"},
             "budget": {"pause": "1ms", "cpu": "unlimited"}}

    def test_heap_above_the_bound(self):
        code = IDLE.replace("hear()", "keep += [[] for _ in range(3000000)]; gc.collect(); say('full')\n"
                            "while True: [Session() for _ in range(100)]; time.sleep(0.001)")
        t = harness.Target(self, code)
        t.hear(), t.hear()
        d = harness.Daemon(self, t.pid, config=self.LARGE)
        row = d.top(t.pid, "--fresh")["__main__.Session"]
        self.assertLessEqual(row["tracked"] - row["tracked_bound"], 12345 + 100)
        self.assertGreaterEqual(row["tracked"] + row["tracked_bound"], 12345)
        self.assertLess(row["tracked_bound"], 1000)
        self.assertLessEqual(abs(row["count"] - 12345), 100 + row["count_bound"])
        census = d.ask("status")["targets"][0]["census"]
        self.assertEqual(census["way"], "stepwise")
        self.assertGreater(census["steps"], 20)
        self.assertGreater(census["objects"], 3000000)
        self.assertLess(census["width"], 30000)
        self.assertFalse(census["estimate"])
        rows = d.top(t.pid)
        self.assertGreaterEqual(rows["list"]["tracked"] + rows["list"]["tracked_bound"], 3000000)
        self.assertGreater(rows["__main__.Session"]["allocs"], 0)

    def test_huge_young_generation(self):
        code = "gc.disable()\n" + IDLE.replace(
            "hear()", "keep += [[] for _ in range(1000000)]; say('full')\n"
            "while True: [Session() for _ in range(100)]; time.sleep(0.001)")
        t = harness.Target(self, code)
        t.hear(), t.hear()
        d = harness.Daemon(self, t.pid, config=self.LARGE)
        row = d.top(t.pid, "--fresh")["__main__.Session"]
        census = d.ask("status")["targets"][0]["census"]
        self.assertEqual((census["way"], census["estimate"]), ("stepwise", True))
        self.assertGreater(row["tracked_bound"], 0)
        self.assertEqual(row["quality"], "estimate")
        self.assertLessEqual(abs(row["tracked"] - 12345), 100 + row["tracked_bound"])

    def test_no_census(self):
        """It collects all the time: no pass ever ends, and one step is not enough."""
        code = IDLE.replace("hear()", "keep += [[] for _ in range(500000)]; say('full')\n"
                            "while True: gc.collect(); [Session() for _ in range(100)]")
        t = harness.Target(self, code)
        t.hear(), t.hear()
        d = harness.Daemon(self, t.pid, config=self.LARGE)
        status = d.wait_for(
            lambda: next((x for x in d.ask("status")["targets"] if "no census" in x["reason"]), None))
        self.assertIsNone(status["census"])
        self.assertIn("by full collection", status["reason"])
        self.assertIn("a dump gives the level", status["reason"])
        row = d.top(t.pid)["__main__.Session"]
        self.assertIsNone(row["count"], "a level that is not known is null")
        self.assertGreater(d.wait_for(lambda: d.top(t.pid)["__main__.Session"]["allocs"]), 0)
        refused = d.ctl("top", t.pid, "--fresh")
        self.assertEqual(refused.code, 4)
        self.assertIn("too large", refused.err)

    def test_one_cause_one_verdict(self):
        """A Session, its dict, its list and its string: one suspect, one alert, one dump."""
        t = harness.Target(self, r"""
class Session:
    def __init__(self, i): self.name = f'session {i}' * 20; self.d = {'n': [i]}; self.l = [i]
kept = []
say('up')
while True:
    kept.append(Session(len(kept))); time.sleep(0.001)
""")
        t.hear()
        d = harness.Daemon(self, t.pid, config=dict(harness.Daemon.DEFAULTS, triggers=[
            {"name": "leak", "when": {"verdict": "leak"}, "do": ["dump"], "cooldown": "1h"}]))
        d.wait_for(lambda: [x for x in d.ask("suspects", t.pid)["suspects"]
                            if x["type"] == "__main__.Session" and x["verdict"] == "leak"
                            and {"dict", "list"} <= set(x["companions"])])
        d.wait_for(lambda: d.ask("dumps")["dumps"])
        time.sleep(4)
        # str and int are read now and then: in windows of seconds that is a staircase of its own.
        d.wait_for(lambda: {x["type"] for x in d.ask("suspects", t.pid)["suspects"]}
                   - {"str", "int"} == {"__main__.Session"})
        fired = [x for x in d.log().splitlines() if "trigger leak" in x]
        self.assertEqual(len([x for x in fired if "Session" in x]), 1, fired)

    def test_growth_and_verdict(self):
        t = harness.Target(self, LEAK)
        t.hear()
        d = harness.Daemon(self, t.pid)
        s = d.wait_for(lambda: [x for x in d.ask("suspects", t.pid)["suspects"]
                                if x["type"] == "__main__.Session" and x["verdict"] == "leak"])[0]
        self.assertEqual(s["pid"], t.pid)
        self.assertGreater(s["delta"], 100)
        self.assertGreater(s["rate_per_hour"], 0)
        self.assertTrue(s["reason"])
        grown = {x["type"]: x for x in d.ask("growth", t.pid, "--since", "3s")["types"]}
        self.assertGreater(grown["__main__.Session"]["delta"], 100)
        again = {x["type"] for x in d.ask("growth", t.pid, "--since", "3s")["types"]}
        self.assertIn("__main__.Session", again, "asking changes nothing")
        points = d.ask("history", t.pid, "--type", "Session")["points"]
        self.assertGreater(len(points), 3)
        self.assertEqual(points, sorted(points, key=lambda p: p["at"]))
        self.assertEqual(d.ctl("history", t.pid, "--type", "NoSuch").code, 1)
        for verb in (("status",), ("top", t.pid), ("growth", t.pid), ("suspects",), ("why", t.pid),
                     ("history", t.pid, "--type", "Session"), ("dumps",)):
            a = d.ctl(*verb)
            self.assertEqual(a.code, 0, a.err)
            self.assertTrue(a.out.strip(), verb)

    def test_lost_events(self):
        """What was lost once is told for ever, and made up for by the next census: a leak is found."""
        t = harness.Target(self, r"""
import threading
class Kept: pass
kept = []
def leak():
    while True: kept.append(Kept()); time.sleep(0.002)
say('up')
hear()
for i in range(20000): type('Passing', (), {})(); i % 100 or gc.collect()
say('made')
threading.Thread(target=leak, daemon=True).start()
hear()
""")
        t.hear()
        d = harness.Daemon(self, t.pid)
        d.wait_for(lambda: d.ask("status")["targets"][0]["census"])
        d.process.send_signal(signal.SIGSTOP)  # nobody empties the ring of events
        try:
            t.ask()
        finally:
            d.process.send_signal(signal.SIGCONT)
        d.wait_for(lambda: d.ask("status")["targets"][0]["dropped"] > 100)
        d.wait_for(lambda: [x for x in d.ask("suspects", t.pid)["suspects"]
                            if x["type"] == "__main__.Kept" and x["verdict"] == "leak"])
        row = d.top(t.pid, "--fresh")
        self.assertNotIn("__main__.Passing", [k for k, x in row.items() if x["count"]])
        status = d.ask("status")["targets"][0]
        self.assertEqual(status["state"], "lossy")
        self.assertIn("events were lost", status["reason"])

    def test_rules(self):
        yes = harness.Target(self, IDLE, name="wanted.py")
        no = harness.Target(self, IDLE, name="unwanted.py")
        out = harness.Target(self, IDLE, name="wanted-not.py", extra_env={"PYLEAK": "off"})
        for x in (yes, no, out):
            x.hear()
        d = harness.Daemon(self, config={"targets": [
            {"match": {"cmdline": "*/unwanted.py"}, "watch": False},
            {"match": {"cmdline": "*wanted*.py", "user": "root", "exe": "/usr/bin/python3*"}}]})
        d.wait_for(lambda: yes.pid in [x["pid"] for x in d.ask("status")["targets"]])
        self.assertEqual([x["pid"] for x in d.ask("status")["targets"]], [yes.pid])
        self.assertIn("targets[0]", d.ask("why", no.pid)["rule"])
        self.assertIn("PYLEAK=off", d.ask("why", out.pid)["rule"])
        self.assertFalse(d.ask("why", no.pid)["watched"])
        self.assertTrue(d.ask("why", yes.pid)["watched"])
        late = harness.Target(self, IDLE, name="wanted-late.py")
        d.wait_for(lambda: late.pid in [x["pid"] for x in d.ask("status")["targets"]])
        yes.end()
        d.wait_for(lambda: yes.pid not in [x["pid"] for x in d.ask("status")["targets"]])
        with open(d.config, "w", encoding="utf-8") as f:
            json.dump({"targets": [{"match": {"cmdline": "*/unwanted.py"}}]}, f)
        d.process.send_signal(signal.SIGHUP)
        d.wait_for(lambda: [no.pid] == [x["pid"] for x in d.ask("status")["targets"]])
        with open(d.config, "w", encoding="utf-8") as f:
            f.write("growth: {interval: soon}\n")
        d.process.send_signal(signal.SIGHUP)
        d.wait_for(lambda: "the old one stays in force" in d.log())
        self.assertEqual([no.pid], [x["pid"] for x in d.ask("status")["targets"]])

    def test_many_at_once(self):
        """Many new processes: the daemon answers between the one and the other."""
        many = [harness.Target(self, IDLE, name="one-of-many.py") for _ in range(16)]
        for t in many:
            t.hear()
        d = harness.Daemon(self, config={"targets": [{"match": {"cmdline": "*none of them*"}}]})
        with open(d.config, "w", encoding="utf-8") as f:
            json.dump({"targets": [{"match": {"cmdline": "*one-of-many.py*"}}]}, f)
        s = socket.socket(socket.AF_UNIX)
        self.addCleanup(s.close)
        s.connect(d.socket)
        f = s.makefile("rw", encoding="utf-8")
        self.addCleanup(f.close)
        d.process.send_signal(signal.SIGHUP)
        watched, end = set(), time.monotonic() + 60
        while 16 not in watched:
            f.write(json.dumps({"verb": "status"}) + "\n")
            f.flush()
            watched.add(len(json.loads(f.readline())["result"]["targets"]))
            self.assertLess(time.monotonic(), end, watched)
        self.assertGreater(len(watched), 3, watched)

    def test_hold_outlives_a_reload(self):
        t = harness.Target(self, IDLE)
        t.hear()
        d = harness.Daemon(self, t.pid, config=dict(harness.Daemon.DEFAULTS, triggers=[
            {"name": "big", "when": {"rss_above": "1MiB"}, "hold": "5s", "do": ["dump"]}]))
        for i in range(9):
            time.sleep(1)
            d.process.send_signal(signal.SIGHUP)
            d.wait_for(lambda n=i: d.log().count("configuration reloaded") > n)
        self.assertEqual(d.log().count("trigger big"), 1, d.log())

    def test_refused_dump_starts_no_cooldown(self):
        t = harness.Target(self, IDLE)
        t.hear()
        config = dict(harness.Daemon.DEFAULTS, dump={"pause": "100us"}, triggers=[
            {"name": "big", "when": {"rss_above": "1MiB"}, "do": ["dump"], "cooldown": "6h"}])
        d = harness.Daemon(self, t.pid, config=config)
        self.assertEqual(d.wait_dump()["state"], "refused")
        self.assertEqual(d.stop(), 0)
        self.assertEqual(d.log().count("trigger big"), 1, "not with every sample")
        config["dump"]["pause"] = "1m"
        again = harness.Daemon(self, t.pid, config=config, args=["--state-dir", d.state])
        again.wait_for(lambda: "done" in [x["state"] for x in again.ask("dumps")["dumps"]], what="dump")
        self.assertEqual(again.stop(), 0)
        third = harness.Daemon(self, t.pid, config=config, args=["--state-dir", d.state])
        time.sleep(2)
        self.assertEqual(third.log().count("trigger big"), 0, "and this one has")

    def test_pid_is_used_again(self):
        """--pid means that process, not whoever has its number later."""
        first = harness.Target(self, IDLE)
        first.hear()
        d = harness.Daemon(self, first.pid, config=dict(harness.Daemon.DEFAULTS, targets=[
            {"match": {"cmdline": "*none of them*"}}]))
        self.assertEqual(d.ask("why", first.pid)["rule"], "--pid")
        first.end()
        for _ in range(50):
            with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as f:
                f.write(str(first.pid - 1))
            again = harness.Target(self, IDLE)
            if again.pid == first.pid:
                break
            again.end()
        else:
            self.skipTest("cannot run here: others take every pid")
        again.hear()
        d.wait_for(lambda: not d.ask("status")["targets"])
        time.sleep(5)
        self.assertFalse(d.ask("status")["targets"])
        self.assertIn("none of the 1 rules", d.ask("why", again.pid)["rule"])

    def test_exec_becomes_another_target(self):
        code = "say('up'); hear(); os.execv(sys.executable, [sys.executable, '-c', " \
               "\"import sys\\nclass After: pass\\nk = [After() for _ in range(777)]\\n" \
               "print('1', flush=True); sys.stdin.readline()\"])"
        t = harness.Target(self, code, name="before-exec.py")
        t.hear()
        d = harness.Daemon(self, config=dict(harness.Daemon.DEFAULTS, targets=[
            {"match": {"user": "root", "cmdline": "*before-exec*"}},
            {"match": {"cmdline": "*class After*"}}]))
        d.wait_for(lambda: [x["pid"] for x in d.ask("status")["targets"]] == [t.pid])
        t.ask()
        d.wait_for(lambda: "executed another program" in d.log())
        d.wait_for(lambda: [x["pid"] for x in d.ask("status")["targets"]] == [t.pid])
        self.assertEqual(d.top(t.pid)["__main__.After"]["count"], 777)

    def test_target_that_ends(self):
        t = harness.Target(self, IDLE)
        t.hear()
        d = harness.Daemon(self, t.pid)
        t.end()
        self.assertEqual(d.process.wait(timeout=20), 0, "the last --pid target is gone")


class Ending(harness.RootTest):
    def test_nothing_stays(self):
        t = harness.Target(self, LEAK)
        t.hear()
        before = harness.links()
        d = harness.Daemon(self, t.pid)
        self.assertGreater(harness.links(), before)
        self.assertEqual(d.stop(), 0)
        self.assertEqual(harness.links(), before)
        self.assertFalse(os.path.exists(d.socket))
        self.assertIsNone(t.process.poll())

    def test_killed_daemon_detaches(self):
        t = harness.Target(self, LEAK)
        t.hear()
        before = harness.links()
        d = harness.Daemon(self, t.pid)
        d.process.kill()
        d.process.wait()
        deadline = time.monotonic() + 10
        while harness.links() > before and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(harness.links(), before)
        self.assertTrue(os.path.exists(d.socket))
        again = harness.Daemon(self, t.pid, args=("--socket", d.socket))  # a stale one is replaced
        again.socket = d.socket
        self.assertEqual(again.ask("status")["targets"][0]["pid"], t.pid)

    def test_live_socket(self):
        t = harness.Target(self, IDLE)
        t.hear()
        d = harness.Daemon(self, t.pid)
        a = harness.pyleakd("--pid", str(t.pid), "--socket", d.socket, "--state-dir",
                            os.path.join(d.folder, "other"))
        self.assertEqual(a.code, 2)
        self.assertIn(str(d.process.pid), a.err)
        self.assertEqual(d.ask("status")["targets"][0]["pid"], t.pid)


class Mistakes(harness.RootTest):
    """One clear line each, the right exit code, nothing left behind."""

    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.before = harness.links()

    def tearDown(self):
        self.assertEqual(harness.links(), self.before)

    def run_daemon(self, *args, **more):
        return harness.pyleakd("--socket", f"{self.folder}/s", "--state-dir", f"{self.folder}/st",
                               *args, **more)

    def one_line(self, a, code, *words):
        self.assertEqual(a.code, code, a.err)
        lines = a.err.strip().splitlines()
        self.assertEqual(len(lines), 1, a.err)
        for w in words:
            self.assertIn(w, lines[0])

    def test_no_such_pid(self):
        gone = subprocess.Popen(["true"])
        gone.wait()
        self.one_line(self.run_daemon("--pid", str(gone.pid)), 1, str(gone.pid), "no such process")

    def test_not_a_python(self):
        p = subprocess.Popen(["sleep", "100"])
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        self.one_line(self.run_daemon("--pid", str(p.pid)), 1, str(p.pid), "not a Python")

    def test_too_old(self):
        for version in ("3.7", "3.6", "2.7"):
            found = [v for v in os.listdir(os.path.expanduser("~/.pyenv/versions"))
                     if v.startswith(version)] if os.path.isdir(
                         os.path.expanduser("~/.pyenv/versions")) else []
            if not found:
                continue
            python = os.path.expanduser(f"~/.pyenv/versions/{found[0]}/bin/python")
            p = subprocess.Popen([python, "-c", "import time; time.sleep(100)"])
            self.addCleanup(p.wait)
            self.addCleanup(p.kill)
            time.sleep(0.5)
            self.one_line(self.run_daemon("--pid", str(p.pid)), 1, version, "3.8")

    def test_config_with_three_mistakes(self):
        path = f"{self.folder}/bad.yaml"
        with open(path, "w", encoding="utf-8") as f:
            f.write("growth:\n  interval: soon\n  windw: 30m\nbudget:\n  cpu: 140%\n")
        for args in (("--check-config",), ()):
            a = self.run_daemon("--config", path, *args)
            self.assertEqual(a.code, 2)
            for place in (":2:13:", ":3:3:", ":5:8:"):
                self.assertIn(f"{path}{place}", a.err)
        a = harness.pyleakd("--check-config", "--config", f"{self.folder}/none.yaml")
        self.one_line(a, 2, "none.yaml")

    def test_usage(self):
        self.one_line(self.run_daemon("--frobnicate"), 2, "--frobnicate", "--help")
        self.one_line(self.run_daemon("--pid", "many"), 2, "many")
        self.one_line(self.run_daemon("--json"), 2, "--json", "--support")
        self.one_line(self.run_daemon("--support", "--check-config"), 2, "only one")
        self.assertEqual(harness.pyleakd("--version").code, 0)
        self.assertIn("--state-dir", harness.pyleakd("--help").out)

    def test_no_privilege(self):
        t = harness.Target(self, IDLE)
        t.hear()
        drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        a = harness.Answer(subprocess.run(
            drop + [os.path.abspath(f"{harness.BUILD}/pyleakd"), "--pid", str(t.pid), "--socket",
                    f"{self.folder}/s", "--state-dir", f"{self.folder}/st"],
            capture_output=True, text=True, timeout=60, check=False, cwd="/"))
        if "Permission denied" in a.err and "setpriv" in a.err:
            self.skipTest("cannot run here: the build folder is closed to other users")
        self.one_line(a, 4, "CAP_")

    def test_no_daemon(self):
        a = harness.Answer(subprocess.run(
            [f"{harness.BUILD}/pyleakctl", "--socket", f"{self.folder}/none", "status"],
            capture_output=True, text=True, timeout=60, check=False))
        self.one_line(a, 3, f"{self.folder}/none")


class Requests(harness.RootTest):
    def test_strange_requests(self):
        t = harness.Target(self, IDLE)
        t.hear()
        d = harness.Daemon(self, t.pid)
        s = socket.socket(socket.AF_UNIX)
        self.addCleanup(s.close)
        s.connect(d.socket)
        f = s.makefile("rw", encoding="utf-8")
        self.addCleanup(f.close)
        for q in ({"verb": "top"}, {"verb": "top", "args": {"pid": "1"}},
                  {"verb": "top", "args": {"pid": -1}}, {"verb": "top", "args": {"pid": 2 ** 62}},
                  {"verb": "nonsense"}, {"args": {}}, {"verb": 7}, [], 3, {"verb": "history", "args": {
                      "pid": t.pid}}, {"verb": "growth", "args": {"pid": t.pid, "since": "never"}},
                  {"verb": "dump", "args": {"pid": t.pid, "types": [7]}},
                  {"verb": "dumps.show", "args": {"id": "../../etc/passwd"}},
                  {"verb": "dumps.rm", "args": {"id": ""}}):
            f.write(json.dumps(q) + "\n")
            f.flush()
            answer = json.loads(f.readline())
            self.assertFalse(answer["ok"], q)
            self.assertIn(answer["exit"], (1, 2), q)
        self.assertEqual(d.ask("status")["targets"][0]["pid"], t.pid)

    def test_another_users_process(self):
        """One that is not watched: who it belongs to is looked at first, and nothing else is told."""
        t, other = harness.Target(self, IDLE), harness.Target(self, IDLE, name="secret-name.py")
        t.hear(), other.hear()
        d = harness.Daemon(self, t.pid)
        f = d.connect(65534)
        for pid in (t.pid, other.pid):
            for verb in ("top", "growth", "history", "suspects", "dump", "why"):
                f.write(json.dumps({"verb": verb, "args": {"pid": pid}}) + "\n")
                f.flush()
                answer = json.loads(f.readline())
                self.assertEqual(answer.get("exit"), 4, (verb, answer))
                self.assertIn("belongs to user root", answer["error"])

    def test_ctl_errors(self):
        t = harness.Target(self, IDLE)
        t.hear()
        d = harness.Daemon(self, t.pid)
        self.assertEqual(d.ctl("top", 1).code, 1)
        self.assertEqual(d.ctl("top").code, 2)
        self.assertEqual(d.ctl("frobnicate").code, 2)
        self.assertEqual(d.ctl("dumps", "show", "nothing").code, 1)
        self.assertEqual(d.ctl("growth", t.pid, "--since", "never").code, 2)
        for a in (d.ctl("top", 1), d.ctl("top"), d.ctl("frobnicate")):
            self.assertEqual(len(a.err.strip().splitlines()), 1, a.err)


class Control(harness.RootTest):
    def test_attach_and_detach(self):
        """They go before the rules, and --pid is no more than an attach at the start."""
        wanted = harness.Target(self, IDLE, name="wanted.py")
        out = harness.Target(self, IDLE, name="wanted-not.py", extra_env={"PYLEAK": "off"})
        wanted.hear(), out.hear()
        d = harness.Daemon(self, config={"targets": [{"match": {"cmdline": "*wanted*.py"}}]})

        def watched():
            return sorted(x["pid"] for x in d.ask("status")["targets"])

        d.wait_for(lambda: watched() == [wanted.pid])
        why = d.ask("attach", out.pid)
        self.assertEqual((why["watched"], why["rule"], why["pid"]), (True, "pyleakctl attach", out.pid))
        self.assertTrue(d.ask("attach", out.pid)["watched"], "once more is no mistake")
        self.assertEqual(watched(), sorted((wanted.pid, out.pid)))
        self.assertTrue(d.top(out.pid, "--fresh"))
        why = d.ask("detach", wanted.pid)
        self.assertEqual((why["watched"], why["rule"]), (False, "pyleakctl detach"))
        d.process.send_signal(signal.SIGHUP)
        time.sleep(5)  # two scans
        self.assertEqual(watched(), [out.pid])
        self.assertEqual(d.ctl("detach", wanted.pid).code, 1)
        self.assertIn("pyleakctl detach", d.ask("why", wanted.pid)["reason"])
        self.assertTrue(d.ask("attach", wanted.pid)["watched"])
        self.assertTrue(d.ask("detach", out.pid)["python"] is None)
        self.assertEqual(watched(), [wanted.pid])
        for pid, code in ((1 << 22, 1), (d.process.pid, 1), (0, 2)):
            self.assertEqual(d.ctl("attach", pid).code, code, pid)
        self.assertEqual(watched(), [wanted.pid])

    def test_last_pid_detached(self):
        """The daemon ends when the last --pid target has ended, not when it is let go of."""
        t = harness.Target(self, IDLE)
        t.hear()
        d = harness.Daemon(self, t.pid)
        d.ask("detach", t.pid)
        self.assertEqual(d.ask("status")["targets"], [])
        self.assertTrue(d.ask("attach", t.pid)["watched"])
        t.end()
        self.assertEqual(d.process.wait(30), 0)

    def test_pause(self):
        t = harness.Target(self, """
class Session: pass
kept = []
while True:
    kept.extend(Session() for i in range(1000)); say(len(kept)); hear()
""", name="paused.py")
        given = harness.Target(self, IDLE)
        t.hear(), given.hear()
        d = harness.Daemon(self, given.pid, config=dict(
            harness.Daemon.DEFAULTS, targets=[{"match": {"cmdline": "*/paused.py"}}]))
        d.wait_for(lambda: len(d.ask("status")["targets"]) == 2)
        d.top(t.pid, "--fresh")
        t.ask()
        d.top(t.pid, "--fresh")
        points = d.ask("history", t.pid, "--type", "Session")["points"]
        self.assertGreater(harness.links(), 0)
        paused = d.ask("pause")
        self.assertEqual((paused["paused"], paused["targets"]), (True, 0))
        d.wait_for(lambda: harness.links() == 0)
        for verb in ("pause", "status"):
            self.assertIn("paused", d.ctl(verb).out)
        self.assertTrue(d.ask("status")["paused"])
        for verb in ("top", "dump"):
            a = d.ctl(verb, t.pid)
            self.assertEqual(a.code, 1)
            self.assertIn("pyleakctl resume", a.err)
        self.assertEqual(d.ctl("attach", t.pid).code, 4)
        d.process.send_signal(signal.SIGHUP)
        time.sleep(3)
        self.assertEqual((harness.links(), d.ask("status")["targets"]), (0, []))
        t.ask()
        self.assertFalse(d.ask("resume")["paused"])
        d.wait_for(lambda: len(d.ask("status")["targets"]) == 2)
        self.assertEqual(d.top(t.pid, "--fresh")["__main__.Session"]["count"], 3000)
        again = d.ask("history", t.pid, "--type", "Session")["points"]
        self.assertEqual(again[0], points[0], "what was known is known")
        self.assertEqual(d.ask("why", given.pid)["rule"], "--pid")

    def test_waiting_dumps(self):
        """One that has begun is finished; who waits for the turn of another is told."""
        big = harness.Target(self, "big = [[i] for i in range(1500000)]\nsay('up'); hear()\n")
        t = harness.Target(self, IDLE)
        big.hear(), t.hear()
        d = harness.Daemon(self, big.pid, t.pid)
        for verb, pids in (("detach", [t.pid]), ("pause", [t.pid])):
            first = d.ask("dump", big.pid, "--type", "list", "--no-wait", "--force")["id"]
            second = d.ask("dump", t.pid, "--type", "Session", "--no-wait", "--force")["id"]
            d.ask(verb, *(pids if verb == "detach" else []))
            states = {x["id"]: x["state"] for x in d.ask("dumps")["dumps"]}
            self.assertEqual(states[second], "refused", states)
            self.assertEqual(states[first], "running", states)
            show = d.ctl("dumps", "show", second)
            self.assertEqual(show.code, 1)
            self.assertIn(f"pyleakctl {'detach' if verb == 'detach' else 'resume'}", show.err)
            d.wait_for(lambda: {x["id"]: x["state"] for x in d.ask("dumps")["dumps"]}[first] == "done",
                       what="the dump that had begun")
            if verb == "detach":
                d.ask("attach", t.pid)

    def test_control_is_for_few(self):
        t = harness.Target(self, IDLE)
        t.hear()
        d = harness.Daemon(self, t.pid)
        f = d.connect(65534)
        for verb in ("attach", "detach", "pause", "resume"):
            f.write(json.dumps({"verb": verb, "args": {"pid": t.pid}}) + "\n")
            f.flush()
            answer = json.loads(f.readline())
            self.assertEqual(answer.get("exit"), 4, (verb, answer))
        self.assertEqual([x["pid"] for x in d.ask("status")["targets"]], [t.pid])
        support = d.ctl("--json", "support")
        self.assertEqual((support.code, t.pid in [x["pid"] for x in support.json["pythons"]]), (0, True))

    def on_terminal(self, d, *args):
        """pyleakctl on a terminal of 24 lines and 100 columns: the process, and our end of it."""
        ours, its = pty.openpty()
        self.addCleanup(os.close, ours)
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        p = subprocess.Popen([f"{harness.BUILD}/pyleakctl", "--socket", d.socket, *map(str, args)], stdin=its,
                             stdout=its, stderr=its, env=dict(os.environ, TERM="xterm"))
        self.addCleanup(os.close, its)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        return p, ours, its

    def screen(self, ours, until):
        text, end = "", time.monotonic() + 30
        while not until(text):
            if not select.select([ours], [], [], 1)[0]:
                self.assertLess(time.monotonic(), end, text)
                continue
            text += os.read(ours, 1 << 16).decode()
        return text

    def test_watch(self):
        """The terminal is afterwards as it was, however it ends."""
        t = harness.Target(self, "class Kept: pass\nkept = [Kept() for i in range(3333)]\nsay('up'); hear()\n")
        t.hear()
        d = harness.Daemon(self, t.pid)
        d.top(t.pid, "--fresh")
        for args, shown in (((t.pid, "-n", 100), "3 333"), ((), str(t.pid))):
            for signum in (None, signal.SIGTERM, signal.SIGINT):
                p, ours, its = self.on_terminal(d, "watch", *args, "--interval", "300ms")
                before = termios.tcgetattr(its)
                text = self.screen(ours, lambda text, n=shown: text.count("q: quit") > 2 and n in text)
                self.assertTrue(text.startswith("\033[?1049h"), text)
                frame = text.split("\033[H")[2]
                self.assertLessEqual(frame.count("\n"), 23)
                self.assertNotEqual(termios.tcgetattr(its), before)
                if signum:
                    p.send_signal(signum)
                else:
                    os.write(ours, b"q")
                self.assertTrue(self.screen(ours, lambda text: "\033[?1049l" in text).endswith("\033[?1049l"))
                self.assertEqual(p.wait(10), -signum if signum else 0)
                self.assertEqual(termios.tcgetattr(its), before)
        a = d.ctl("watch")
        self.assertEqual((a.code, len(a.err.splitlines())), (2, 1), a.err)
        p, ours, _ = self.on_terminal(d, "watch", os.getpid())
        self.assertIn("is not watched", self.screen(ours, lambda text: "\n" in text))
        self.assertEqual(p.wait(10), 1)


if __name__ == "__main__":
    unittest.main()
