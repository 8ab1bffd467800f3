# SPDX-License-Identifier: MIT
"""Near a memory limit the capture is given up or refused; the target is never killed."""
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from safetylib import Case, LONG, Target, children, lib, status  # noqa: E402


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
                for _ in range(20 if LONG else 3):
                    result = lib.capture(target.pid, headroom=headroom)
                    # with no headroom asked for, the copy may be the OOM killer's victim
                    self.assertIn(result.code, (lib.DONE, lib.REFUSED) +
                                  (() if headroom else (lib.FAILED,)), result.text)
                    self.assertIsNone(target.process.poll(), "the target was killed")
                    self.assertEqual(children(target.pid), [])
                if headroom == 0.15:
                    self.assertEqual(result.code, lib.REFUSED)
                target.end()


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
