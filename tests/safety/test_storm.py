# SPDX-License-Identifier: MIT
"""Targets that end, exec, fork, and start threads while they are captured, at any moment: a clean
result or a clean refusal, and nothing of ours stays."""
import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from safetylib import Case, LONG, Target, builds, children, lib, status  # noqa: E402

TIMEOUT = 3600 if LONG else 600
CLEAN = {lib.DONE, lib.NO, lib.REFUSED}
BIG = "big = [[i] for i in range(100000)]\n"


class Ends(Case):
    """What ends the target comes at a random moment of the capture."""

    def one(self, code, delay, act, python):
        target = Target(self, BIG + code, python)
        target.hear()
        seen = []

        def later(helper):
            def run():
                time.sleep(delay)
                seen.extend(children(target.pid))
                act(target)
            thread.append(threading.Thread(target=run))
            thread[0].start()

        thread = []
        result = lib.capture(target.pid, started=later)
        thread[0].join()
        self.assertIsNotNone(result, f"the helper died: {lib.capture.status}")
        self.assertIn(result.code, CLEAN, result.text)
        for copy in seen:  # if it was there then, it is not now
            self.assertIn((status(copy, "State") or "Z")[0], "ZX")
        return target, result.code

    def all(self, code, act, ended, python):
        rng = random.Random(code)
        codes = collections.Counter()
        for _ in range(100 if LONG else 6):
            target, got = self.one(code, rng.uniform(0, 0.12), act, python)
            codes[got] += 1
            ended(target)
            target.end()
        return codes

    def check(self, name, python):
        def killed(target):
            self.assertEqual(target.process.wait(20), -signal.SIGKILL)

        def left(target):
            self.assertEqual(target.process.wait(20), 3)

        def became_another(target):
            self.assertEqual(target.hear(), "another program")

        self.all("say(1); hear()", lambda t: t.process.kill(), killed, python)
        self.all("say(1); hear(); sys.exit(3)", lambda t: t.say(), left, python)
        self.all("import threading\ndef f():\n    hear(); os._exit(3)\n"
                 "threading.Thread(target=f).start()\nsay(1)\nwhile True: sum(range(1000))",
                 lambda t: t.say(), left, python)
        execs = "hear()\nos.execv('/bin/echo', ['echo', '\"another program\"'])"
        self.all("say(1); " + execs, lambda t: t.say(), became_another, python)
        # by another thread than the main one, whose number it takes
        self.all("import threading\ndef f():\n    " + execs.replace("\n", "\n    ") +
                 "\nthreading.Thread(target=f).start()\nsay(1)\nwhile True: sum(range(1000))",
                 lambda t: t.say(), became_another, python)

    def test_any_moment(self):
        for name, python in builds(self):
            with self.subTest(name):
                self.check(name, python)


class Storms(Case):
    def flag(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        return os.path.join(folder, "stop")

    def storm(self, code, python, captures):
        flag = self.flag()
        target = Target(self, code.replace("STOP", repr(flag)), python)
        target.hear()
        codes = collections.Counter()
        for _ in range(captures):
            result = lib.capture(target.pid)
            self.assertIn(result.code, CLEAN, result.text)
            # a thread that ends while it is asked to stop is no debugger's
            self.assertNotEqual(result.refusal, "traced", result.text)
            self.assertEqual((result.skipped, result.truncated), (0, 0), result.text)
            codes[result.code] += 1
            self.assertEqual(status(target.pid, "TracerPid"), "0")
        open(flag, "w").close()
        self.assertGreater(codes[lib.DONE], captures // 2, codes)
        return target.hear()

    def test_threads(self):
        """Threads are started and end all the time: everyone does its work."""
        code = r'''
import threading
bad, done = [], 0
def work(n):
    if sum(range(n)) != n * (n - 1) // 2: bad.append(n)
say("ready")
while not os.path.exists(STOP):
    some = [threading.Thread(target=work, args=(i * 100,)) for i in range(20)]
    for t in some: t.start()
    for t in some: t.join()
    done += len(some)
say([bad, done])
'''
        for name, python in builds(self, "3.13"):
            with self.subTest(name):
                bad, done = self.storm(code, python, 200 if LONG else 10)
                self.assertEqual(bad, [])
                self.assertGreater(done, 100)

    def test_forks(self):
        """Children are forked and waited for all the time, by number and with waitpid(-1): each is
        met once, with its own status, and no other."""
        code = r'''
import signal
bad, done, chld = [], 0, [0]
say("ready")
while not os.path.exists(STOP):
    mine = {}
    for i in range(4):
        pid = os.fork()
        if pid == 0: os._exit(40 + i)
        mine[pid] = 40 + i
    while mine:
        pid, status = os.waitpid(-1, 0)
        if mine.pop(pid, None) != status >> 8: bad.append([pid, status])
        done += 1
try: bad.append(os.waitpid(-1, os.WNOHANG))
except ChildProcessError: pass
say([bad, done])
'''
        for name, python in builds(self):
            with self.subTest(name):
                bad, done = self.storm(code, python, 200 if LONG else 10)
                self.assertEqual(bad, [])
                self.assertGreater(done, 50)

    def test_signals(self):
        """A signal every few hundred microseconds: the copy is made beside them, and none is taken for a
        reason not to."""
        code = r'''
import signal
ticks = 0
def tick(s, f):
    global ticks
    ticks += 1
big = [[i] for i in range(50000)]
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
say("ready")
bad = done = 0
while not os.path.exists(STOP):
    bad += sum(range(2000)) != 1999000
    done += 1
signal.setitimer(signal.ITIMER_REAL, 0)
say([bad + len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), min(done, ticks)])
'''
        for name, python in builds(self, "3.13"):
            with self.subTest(name):
                bad, done = self.storm(code, python, 200 if LONG else 10)
                self.assertEqual(bad, 0)
                self.assertGreater(done, 100)

    def test_churn(self):
        """A heap that changes as fast as it can, in threads, with collections: no fault, no
        truncation, and what holds still is all there."""
        code = r'''
import collections, gc, threading
class Kept: pass
class Node: pass
kept = [Kept() for _ in range(5000)]
stop = False
def churn(n):
    d, q, s = {}, collections.deque(maxlen=500), set()
    while not stop:
        for i in range(300):
            x = Node(); x.next = Node(); x.next.back = x; x.data = [i] * (i % 40)
            d[i] = x; q.append((x, i)); s.add(x)
            if i % 7 == 0: d.pop(i - 3, None)
        s.clear(); d.clear()
        exec("def f(a, *b, c=1): return [a for _ in b]\nf(1, 2)")
        if n == 0: gc.collect()
for n in range(3): threading.Thread(target=churn, args=(n,)).start()
say("ready"); hear()
stop = True
say(len(kept))
'''
        for name, python in builds(self, "3.13"):
            with self.subTest(name):
                target = Target(self, code, python)
                target.hear()
                for _ in range(300 if LONG else 5):
                    result, snap = self.snapshot(target.pid)
                    self.assertEqual((result.skipped, result.truncated), (0, 0), result.text)
                    self.assertEqual(sum(n.type == "__main__.Kept" for n in snap.nodes), 5000)
                self.assertEqual(target.ask(), 5000)
                self.check_well(target)


if __name__ == "__main__":
    unittest.main()
