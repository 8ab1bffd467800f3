# SPDX-License-Identifier: MIT
"""Near a memory limit the capture is given up or refused; the target is never killed."""
import collections
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from safetylib import BUILD, Case, LONG, SYSTEM_PYTHON, Target, children, lib, status  # noqa: E402


class Memory(Case):
    LIMIT = 150 << 20

    def group(self):
        """A control group of its own, v1 or v2; its folder and the file with its limit."""
        for top, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                          ("/sys/fs/cgroup", "memory.max")):
            path = os.path.join(top, f"pyleak-test-{os.getpid()}")
            if not os.path.exists(os.path.join(top, "cgroup.procs")):
                continue
            try:
                os.mkdir(path)
            except OSError:
                continue
            if os.path.exists(os.path.join(path, name)):
                self.addCleanup(self.remove, path)
                with open(os.path.join(path, name), "w") as f:
                    f.write(str(self.LIMIT))
                return path
            os.rmdir(path)
        self.skipTest("cannot run here: no memory control group can be made")

    def remove(self, path):
        end = time.monotonic() + 10
        while True:
            try:
                return os.rmdir(path)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def test_no_oom_kill(self):
        """A target that writes to all its memory while it is captured, near its limit: the capture
        is given up, or refused, and the OOM killer stays out of it."""
        path = self.group()
        code = """
class N:
    def __init__(self, i): self.i = [i]
big = [N(i) for i in range(400000)]
say(1)
n = 0
while True:
    for x in big: x.i.append(1); x.i.pop()
    n += 1
"""

        def enter():
            with open(os.path.join(path, "cgroup.procs"), "w") as f:
                f.write(str(os.getpid()))

        target = Target(self, code, preexec_fn=enter)
        target.hear()
        codes = []
        for headroom in (0.9, 0.15, 0.05):
            result = lib.capture(target.pid, headroom=headroom)
            codes.append(result.code)
            self.assertIn(result.code, (lib.DONE, lib.REFUSED), result.text)
            self.assertIsNone(target.process.poll())
            self.assertEqual(children(target.pid), [])
        self.assertEqual(codes[0], lib.REFUSED)
        for name in ("memory.oom_control", "memory.events"):
            try:
                with open(os.path.join(path, name)) as f:
                    self.assertIn("oom_kill 0\n", f.read())
            except FileNotFoundError:
                pass
        target.end()


class Tight(Memory):
    """A limit of 105 % of what the target uses; it writes to everything meanwhile."""

    test_no_oom_kill = None

    def test_five_percent_above(self):
        path = self.group()
        name = next(n for n in ("memory.max", "memory.limit_in_bytes")
                    if os.path.exists(os.path.join(path, n)))
        code = """
class N:
    def __init__(self, i): self.i = [i]
big = [N(i) for i in range(200000)]
say(1); hear()
n = 0
while True:
    for x in big: x.i.append(1); x.i.pop()
    n += 1
"""

        def enter():
            with open(os.path.join(path, "cgroup.procs"), "w") as f:
                f.write(str(os.getpid()))

        for headroom in (0.15, 0.01, 0.0):
            with self.subTest(headroom=headroom):
                with open(os.path.join(path, name), "w") as f:
                    f.write(str(self.LIMIT))
                target = Target(self, code, preexec_fn=enter)
                target.hear()
                rss = int(status(target.pid, "VmRSS").split()[0]) << 10
                with open(os.path.join(path, name), "w") as f:
                    f.write(str(rss * 105 // 100))
                target.say()
                said = collections.Counter()
                for _ in range(20 if LONG else 3):
                    result = lib.capture(target.pid, headroom=headroom)
                    # with no headroom asked for, the copy may be the OOM killer's victim
                    self.assertIn(result.code, (lib.DONE, lib.REFUSED) +
                                  (() if headroom else (lib.FAILED,)), result.text)
                    self.assertIsNone(target.process.poll(), "the target was killed")
                    self.assertEqual(children(target.pid), [])
                    said[result.refusal or result.text or "captured"] += 1
                if headroom == 0.15:
                    self.assertEqual(result.code, lib.REFUSED)
                for text, n in said.items():
                    print(f"headroom {headroom:g}, {n} times: {text}", flush=True)
                target.end()


class Victim(Memory):
    """The limit comes nearer while the copy lives, and the target writes to everything it has."""

    test_no_oom_kill = None
    COUNT = 300000
    CODE = """
class N:
    def __init__(self, i): self.i = [i]
big = [N(i) for i in range(COUNT)]
say(1)
while hear(): say(sum(x.i[0] for x in big))  # a reference count is written: every page is copied
""".replace("COUNT", str(COUNT))
    RIGHT = sum(range(COUNT))

    def setUp(self):
        self.path = self.group()
        v2 = os.path.exists(os.path.join(self.path, "memory.max"))
        self.limit, self.usage, self.events = (
            ("memory.max", "memory.current", "memory.events") if v2 else
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"))

        def enter():
            with open(os.path.join(self.path, "cgroup.procs"), "w", encoding="ascii") as f:
                f.write(str(os.getpid()))

        self.target = Target(self, self.CODE, preexec_fn=enter)
        self.target.hear()

    def read(self, name):
        with open(os.path.join(self.path, name), encoding="ascii") as f:
            return f.read()

    def kills(self):
        return int(re.search("^oom_kill (.*)$", self.read(self.events), re.M)[1])

    def allow(self, bytes_):
        with open(os.path.join(self.path, self.limit), "w", encoding="ascii") as f:
            f.write(str(bytes_))

    def allow_more(self, bytes_):
        self.allow(int(self.read(self.usage)) + bytes_)

    def copy(self):
        """Its pid, once it is ready, nobody else is traced, and as long as nobody has killed it; or 0."""
        for pid in children(self.target.pid):
            try:
                with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as f:
                    adjusted = f.read() == "1000\n"
            except OSError:
                continue
            if (adjusted and status(pid, "VmRSS") and not int(status(pid, "SigPnd") or "f", 16) & 256 and
                    status(self.target.pid, "TracerPid") == "0"):
                return pid
        return 0

    def capture(self, meanwhile):
        """A capture, and meanwhile(helper) as soon as there is a copy."""
        beside = []

        def wait_and_see(helper):
            end = time.monotonic() + 30
            while not self.copy() and helper.poll() is None and time.monotonic() < end:
                pass
            meanwhile(helper)

        def started(helper):
            beside.append(threading.Thread(target=wait_and_see, args=(helper,)))
            beside[0].start()

        result = lib.capture(self.target.pid, headroom=0, started=started)
        beside[0].join()
        return result

    def test_the_copy_is_the_victim(self):
        """Nobody watches over the target, as its helper is stopped, and the limit comes nearer than any guard
        would have let it: the OOM killer takes the copy, and what was read of it is no snapshot. (The
        target may be next, when the kernel looks again before the copy's memory is back: what the
        guard is for.)"""
        told = []

        def tighten(helper):
            helper.send_signal(signal.SIGSTOP)
            try:
                # what it was at in the kernel it ends
                while helper.poll() is None and any(status(f"{helper.pid}/task/{tid}", "State")[0] != "T"
                                                    for tid in os.listdir(f"/proc/{helper.pid}/task")):
                    pass
                left = self.copy()
                if not left:
                    return  # this machine was too busy to catch it
                self.allow_more(4 << 20)
                self.target.say("all")
                while not self.kills():
                    self.assertEqual(self.target.process.poll(), None, "killed, and not by the OOM killer")
                told.append(self.copy())
            finally:
                helper.send_signal(signal.SIGCONT)

        end = time.monotonic() + 60
        while not told and time.monotonic() < end:
            result = self.capture(tighten)
            if result.refusal == "pressure":  # of the tests before; it is of the last ten seconds
                time.sleep(1)
        self.assertEqual(told, [0], result)
        self.assertIn((result.code, result.refusal), ((lib.FAILED, ""), (lib.REFUSED, "memory"), (lib.NO, "")),
                      result)
        if self.kills() == 1:
            self.assertEqual(self.target.hear(), self.RIGHT)
            self.assertRegex(result.text, "copy died .out of memory, or killed.|ran short during the capture")
            self.assertEqual(children(self.target.pid), [])
        else:
            print("the target was the OOM killer's next", flush=True)

    def test_given_up_in_time(self):
        """On a busy host: the copy, the nicest process there is, ends before the target has used up what
        the guard keeps free."""
        busy = [subprocess.Popen([SYSTEM_PYTHON, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
        for process in busy:
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
        codes = collections.Counter()
        for _ in range(100 if LONG else 5):
            self.allow(self.LIMIT)

            def tighten(_):
                self.allow_more(10 << 20)  # the guard gives up at 8 MiB
                self.assertEqual(self.target.ask("all"), self.RIGHT)

            result = self.capture(tighten)
            self.assertIsNone(self.target.process.poll(), "the target was killed")
            self.assertIn(result.code, (lib.DONE, lib.REFUSED), result)
            codes[result.refusal or result.code] += 1
            self.assertEqual(children(self.target.pid), [])
        self.assertTrue({"memory", "pressure"} & set(codes), f"it was never near its limit: {codes}")
        self.assertEqual(self.kills(), 0)


class Pressure(Memory):
    """Who shares a control group with the target waits for memory all the time: pressure stall information
    says so, before a capture (refused) and while the copy lives (given up)."""

    test_no_oom_kill = None
    LIMIT = 40 << 20

    # Reads all over a file that its group has no room for.
    THRASH = """
import mmap, random
with open(FILE, "wb") as f:
    for i in range(4 * LIMIT >> 20): f.write(os.urandom(1 << 20))
with open(FILE, "rb") as f: m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
pages = len(m) // 4096
say("ready"); hear()
while True: m[random.randrange(pages) * 4096]
"""

    def groups(self):
        """For target and neighbour: lists of the cgroup.procs to enter; and their parent's memory.pressure.
        Its limit is the neighbour's alone. Under systemd's hybrid hierarchy v1 limits and v2 tells."""
        with open("/proc/self/mountinfo", encoding="utf-8") as f:
            v2 = [x.split()[4] for x in f if " - cgroup2 " in x]
        if not v2 or not os.path.exists("/proc/pressure/memory"):
            self.skipTest("cannot run here: this kernel has no pressure stall information")
        v1 = "/sys/fs/cgroup/memory"
        top = os.path.join(v2[0], f"pyleak-test-{os.getpid()}")
        made = [top, top + "/target", top + "/neighbour"]
        if os.path.exists(v1 + "/cgroup.procs"):
            made.append(os.path.join(v1, os.path.basename(top)))
        for path in made:
            os.mkdir(path)
            self.addCleanup(self.remove, path)
        limited, name = made[-1], "memory.limit_in_bytes"
        if len(made) == 3:
            name = "memory.max"
            with open(top + "/cgroup.subtree_control", "w", encoding="ascii") as f:
                f.write("+memory")
        with open(os.path.join(limited, name), "w", encoding="ascii") as f:
            f.write(str(self.LIMIT))
        return [made[1]], sorted({made[2], limited}), top + "/memory.pressure"

    @staticmethod
    def enter(groups):
        def now():
            for path in groups:
                with open(path + "/cgroup.procs", "w", encoding="ascii") as f:
                    f.write(str(os.getpid()))
        return now

    @staticmethod
    def full(pressure):
        with open(pressure, encoding="ascii") as f:
            return float(f.read().partition("full avg10=")[2].split()[0])

    def test_pressure(self):
        mine, other, pressure = self.groups()
        # Large: a copy of a million objects lives too shortly for others to stand still for long meanwhile.
        target = Target(self, "big = [[i] for i in range(3000000)]\nsay(1)\nwhile hear(): say(2)",
                        preexec_fn=self.enter(mine))
        target.hear()
        file = os.path.join(BUILD, f"thrash-{os.getpid()}")  # a folder in memory would not do
        self.addCleanup(lambda: os.path.exists(file) and os.unlink(file))
        neighbour = Target(self, self.THRASH.replace("FILE", repr(file)).replace("LIMIT", str(self.LIMIT)),
                           preexec_fn=self.enter(other))
        neighbour.hear()
        # It begins some moments before the copy is made: too late, and a quick copy is done before
        # anybody has stood still for long enough; too early, and there is none. Then once more, when
        # it is calm again.
        neighbour.say()
        result = None
        for attempt in range(12):
            os.kill(neighbour.pid, signal.SIGSTOP)
            end = time.monotonic() + 60
            while self.full(pressure) >= 4 or self.full("/proc/pressure/memory") >= 4:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.1)
            os.kill(neighbour.pid, signal.SIGCONT)
            time.sleep(0.15 * (attempt % 6))
            result = lib.capture(target.pid, headroom=0)
            if result.code != lib.DONE and result.tries:
                break
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "pressure"), result.text)
        self.assertRegex(result.text, "(its control group|this host) stood still for memory during the capture")
        self.assertGreater(result.pause_ns, 0)
        self.check_well(target)
        self.assertEqual(target.ask("go on"), 2)
        end = time.monotonic() + 60
        while self.full(pressure) < 7:
            self.assertLess(time.monotonic(), end, "there is no pressure here")
            time.sleep(0.1)
        result = lib.capture(target.pid, headroom=0)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "pressure"), result.text)
        self.assertRegex(result.text, "(its control group|this host) stood still for memory")
        self.assertEqual((result.tries, result.pause_ns), (0, 0))
        self.assertEqual(target.ask("go on"), 2)
        target.end()
        neighbour.end()


class Huge(Case):
    def test_huge_pages_come_back(self):
        """A write beside the copy splits a huge page; afterwards they are all there again."""
        with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="ascii") as f:
            if "[never]" in f.read():
                self.skipTest("cannot run here: this kernel has transparent huge pages off")
        code = """
import ctypes, mmap
SIZE = 96 << 20
m = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(14)  # MADV_HUGEPAGE
for i in range(0, SIZE, 4096): m[i] = 1
big = [[i] for i in range(200000)]
say(1)
n = 0
while True:
    for i in range(0, SIZE, 1 << 20): m[i] = n & 255
    n += 1
"""
        target = Target(self, code)
        target.hear()

        def huge():
            with open(f"/proc/{target.pid}/smaps_rollup", encoding="ascii") as f:
                return next(int(x.split()[1]) for x in f if x.startswith("AnonHugePages"))

        before = huge()
        if before < 64 << 10:
            self.skipTest("cannot run here: this host has not enough huge pages free")
        least, over = [before], threading.Event()

        def watch():
            while not over.wait(0.005):
                least.append(huge())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            result = lib.capture(target.pid)
        finally:
            over.set()
            watcher.join()
        self.assertEqual(result.code, lib.DONE, result.text)
        self.assertLess(min(least), before, "nothing was split: this proves nothing")
        self.assertGreaterEqual(huge(), before * 95 // 100)
        self.assertIsNone(target.process.poll())


if __name__ == "__main__":
    unittest.main()
