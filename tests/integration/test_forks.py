# SPDX-License-Identifier: MIT
"""Processes of one binary share nothing but code: counts after fork and exec, with threads, with
many of them; and a child that is not watched is left as if nobody had watched its parent."""

import concurrent.futures
import os
import re
import time
import unittest

import harness

FORKS = r"""
class Kid: pass
class Parent: pass
keep = []
children = []
def child():
    # A child of its own until it is told to end: makes objects on demand and tells what it has.
    r, w = os.pipe(); r2, w2 = os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in (w, r2, *(x for c in children for x in c[1:])): os.close(fd)
        while True:
            n = os.read(r, 20)
            if not n: os._exit(0)
            keep.extend(Kid() for _ in range(int(n)))
            [Kid() for _ in range(int(n))]
            os.write(w2, b'done')
    os.close(r); os.close(w2)
    children.append((pid, w, r2))
    return pid
say('up')
while True:
    word, _, n = hear().partition(' ')
    if word == 'fork': say([child() for _ in range(int(n))])
    elif word == 'make':
        keep.extend(Parent() for _ in range(int(n)))
        [Parent() for _ in range(int(n))]
        say(len(keep))
    elif word == 'tell':
        for _, w, r in children: os.write(w, n.encode()); os.read(r, 4)
        say(len(children))
    elif word == 'end':
        for pid, w, r in children: os.close(w); os.close(r); os.waitpid(pid, 0)
        children.clear()
        say('ended')
    elif word == 'exec': os.execv(sys.executable, [sys.executable, sys.argv[0]])
    else: break
"""


def text_of(pid):
    """The executable pages of the file that holds CPython, as this process has them and as the
    file has them."""
    mine, file = b"", b""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb") as mem:
        for line in maps:
            m = re.match(r"(\w+)-(\w+) r-x\w (\w+) \S+ \d+ +(/\S*python\S*)$", line)
            if not m:
                continue
            start, end, offset = (int(x, 16) for x in m.groups()[:3])
            mem.seek(start)
            mine += mem.read(end - start)
            with open(f"/proc/{pid}/root{m[4]}", "rb") as f:
                f.seek(offset)
                page = f.read(end - start)
                file += page + bytes(end - start - len(page))
    return mine, file


def breakpoints(pid):
    """How many bytes of code are not as in the file."""
    mine, file = text_of(pid)
    if not mine:
        raise AssertionError(f"pid {pid} executes no Python")
    return sum(a != b for i in range(0, len(mine), 4096) if mine[i:i + 4096] != file[i:i + 4096]
               for a, b in zip(mine[i:i + 4096], file[i:i + 4096]))


def wait_clean(pids, seconds=60):
    """Without breakpoints, all of them; the limit is against hanging only."""
    end = time.monotonic() + seconds
    left = list(pids)
    while left:
        left = [p for p in left if breakpoints(p)]
        if time.monotonic() > end:
            raise AssertionError(f"breakpoints are left in {left}")
        time.sleep(0.05)


class Forks(harness.RootTest):
    def start(self, python=harness.SYSTEM_PYTHON, **more):
        t = harness.Target(self, FORKS, python, **more)
        t.hear()
        # The children hold the pipes of the target: end them with it.
        self.addCleanup(lambda: t.process.poll() is None and t.say("quit"))
        return t

    def unwatched_children(self, python):
        t = self.start(python)
        d = harness.Daemon(self, t.pid)
        watched = breakpoints(t.pid)
        self.assertGreater(watched, 1)
        kids = t.ask("fork 3")
        wait_clean(kids)
        self.assertGreaterEqual(breakpoints(t.pid), watched, "the target itself stays watched")
        # Nothing of it was lost or counted twice meanwhile.
        for _ in range(3):
            t.ask("make 500")
            wait_clean(t.ask("fork 1"))
        t.ask("tell 100")
        row = d.top(t.pid, "--fresh")
        self.assertEqual(
            {k: row["__main__.Parent"][k] for k in ("allocs", "frees", "count")},
            {"allocs": 3000, "frees": 1500, "count": 1500})
        self.assertNotIn("__main__.Kid", row)
        # One that came while others were being cleaned went unnoticed.
        self.assertGreater(d.ask("status")["targets"][0]["children_cleaned"], 0)
        t.ask("end")

    def test_grandchild_of_a_dead_child(self):
        """Daemonised: its parent is init. And it was forked while the child was not clean yet."""
        code = r"""
say('up')
hear()
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    grandchild = os.fork()
    if grandchild == 0:
        os.close(w)
        hear()
        os._exit(0)
    os.write(w, str(grandchild).encode())
    os._exit(0)
os.waitpid(pid, 0)
say(int(os.read(r, 20)))
hear()
"""
        t = harness.Target(self, code)
        t.hear()
        d = harness.Daemon(self, t.pid)
        pid = t.ask()
        wait_clean([pid])
        self.assertEqual(d.ask("status")["targets"][0]["pid"], t.pid)

    def test_vfork_leaves_the_target_alone(self):
        """Programs started with vfork share the target's memory until they exec."""
        code = r"""
import subprocess
class Run: pass
say('up')
while True:
    n = int(hear())
    for _ in range(n): Run(); subprocess.run(['/bin/true'], check=True)
    say('ran')
"""
        t = harness.Target(self, code)
        t.hear()
        d = harness.Daemon(self, t.pid)
        watched = breakpoints(t.pid)
        t.ask("300")
        self.assertGreaterEqual(breakpoints(t.pid), watched)
        self.assertEqual(d.top(t.pid, "--fresh")["__main__.Run"]["allocs"], 300)

    def test_child_watched_by_rules(self):
        t = self.start(name="forking.py")
        d = harness.Daemon(self, config=dict(
            harness.Daemon.DEFAULTS,
            targets=[{"match": {"cmdline": "*forking.py*"}, "watch": True}]))
        d.wait_for(lambda: [x for x in d.ask("status")["targets"] if x["pid"] == t.pid])
        kids = t.ask("fork 3")
        d.wait_for(lambda: {t.pid, *kids} == {x["pid"] for x in d.ask("status")["targets"]})
        for _ in range(5):
            t.ask("tell 200")
            t.ask("make 300")
        self.assertEqual(d.top(t.pid, "--fresh")["__main__.Parent"]["allocs"], 3000)
        for pid in kids:
            row = d.top(pid, "--fresh")["__main__.Kid"]
            self.assertEqual((row["allocs"], row["frees"], row["count"]), (2000, 1000, 1000))
            self.assertGreater(breakpoints(pid), 1)
        t.ask("end")
        d.wait_for(lambda: [x["pid"] for x in d.ask("status")["targets"]] == [t.pid])
        t.ask("make 10")
        self.assertEqual(d.top(t.pid, "--fresh")["__main__.Parent"]["count"], 1510)

    def test_exec(self):
        """The same pid, another life: counted from nothing."""
        t = self.start(name="again.py")
        d = harness.Daemon(self, config=dict(
            harness.Daemon.DEFAULTS,
            targets=[{"match": {"cmdline": "*again.py*"}, "watch": True}]))
        d.wait_for(lambda: d.ask("status")["targets"])
        t.ask("make 1000")
        self.assertEqual(d.top(t.pid, "--fresh")["__main__.Parent"]["count"], 1000)
        self.assertEqual(t.ask("exec"), "up")
        d.wait_for(lambda: d.log().count("executed another program") == 1)
        d.wait_for(lambda: d.ask("status")["targets"])
        t.ask("make 70")
        row = d.top(t.pid, "--fresh")["__main__.Parent"]
        self.assertEqual((row["allocs"], row["frees"], row["count"]), (140, 70, 70))

    def test_threads(self):
        code = r"""
import threading
class Work: pass
kept = []
def work(n):
    for _ in range(n):
        [Work() for _ in range(10)]
        kept.append(Work())
say('up')
while True:
    n = int(hear())
    threads = [threading.Thread(target=work, args=(n,)) for _ in range(8)]
    [t.start() for t in threads]; [t.join() for t in threads]
    say(len(kept))
"""
        t = harness.Target(self, code)
        t.hear()
        d = harness.Daemon(self, t.pid)
        for i in (1, 2):
            self.assertEqual(t.ask("500"), 4000 * i)
            row = d.top(t.pid, "--fresh")["__main__.Work"]
            self.assertEqual((row["allocs"], row["frees"], row["count"]),
                             (44000 * i, 40000 * i, 4000 * i))


class Many(harness.RootTest):
    ROOM = 256

    def test_more_processes_than_room(self):
        """One binary, as many processes as can be watched and two more."""
        code = r"""
class Thing: pass
kept = []
say('up')
while True:
    n = int(hear())
    kept += [Thing() for _ in range(n)]; [Thing() for _ in range(2 * n)]
    say(len(kept))
"""
        all_of_them = [harness.Target(self, code, name="crowd.py") for _ in range(self.ROOM + 2)]
        for t in all_of_them:
            t.hear()
        d = harness.Daemon(self, config={
            "growth": {"interval": "2s", "warmup": "0s", "window": "20s"},
            "budget": {"pause": "20ms", "cpu": "unlimited"},
            "targets": [{"match": {"cmdline": "*crowd.py*"}, "watch": True}]})
        watched = {x["pid"] for x in d.wait_for(
            lambda: len(d.ask("status")["targets"]) == self.ROOM and d.ask("status")["targets"])}
        inside = [t for t in all_of_them if t.pid in watched]
        outside = [t for t in all_of_them if t.pid not in watched]
        self.assertEqual(len(outside), 2)
        for t in outside:
            why = d.ctl("why", t.pid)
            self.assertIn(f"no room, at most {self.ROOM} processes can be watched", why.out + why.err)
            self.assertEqual(breakpoints(t.pid), 0)
        self.assertEqual(d.log().count("no room"), 1, "said once")
        for i, t in enumerate(inside):
            self.assertEqual(t.ask(str(10 * i + 1)), 10 * i + 1)
        # An idle target's fresh census takes a second of waiting for a hit: many at once, of every fourth.
        some = range(0, len(inside), 4)
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            rows = list(pool.map(lambda i: d.top(inside[i].pid, "--fresh")["__main__.Thing"], some))
        for i, row in zip(some, rows):
            n = 10 * i + 1
            self.assertEqual((row["allocs"], row["frees"], row["count"]), (3 * n, 2 * n, n))
        # Who leaves makes room.
        inside[0].end()
        d.wait_for(lambda: {x["pid"] for x in d.ask("status")["targets"]} & {t.pid for t in outside})
        self.assertEqual(d.stop(), 0)
        for t in inside[1:]:
            self.assertEqual(breakpoints(t.pid), 0, "nothing is left behind")


def add(name, python):
    def test(self):
        self.unwatched_children(python)
    test.__doc__ = f"children that are not watched, on {name}"
    setattr(Forks, "test_children_" + name.replace(".", "_"), test)


for _name, _python in harness.interpreters().items():
    add(_name, _python)

if __name__ == "__main__":
    unittest.main()
