#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a capture costs its target, beside the other ways to look into a process that runs.

    bench/capture.py [--build DIR] [--captures N] [--objects N]... [--roots DIR] [--output FILE]

The target counts the longest time it could not run, by its own clock: that is what every way is
judged by. pyleak-capture's own figure for the whole stop is beside it, and what os.fork() takes the
target itself, alone, between the captures: no copy of a process can be had for less. Wants root, gdb
(gcore) and python3-objgraph; memray, with a gdb and a target of its own, is Debian 13's in a root that
is made in DIR.
Writes the table into FILE (docs/capture.md), between its two marks.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../tests/integration"), os.path.join(HERE, "../tests/matrix")]
PYTHON = "/usr/bin/python3"
MARKS = ("<!-- bench/capture.py -->", "<!-- end -->")

# gap: runs, and tells the longest time it did not. pass: visits every object once, and tells how
# long that took. chain: objgraph's search, during which nobody else in the process runs.
TARGET = r'''
import gc, json, os, select, sys, time
class Leaf: pass
gc.disable()
CACHE = [[i] for i in range(OBJECTS)]
LAST = Leaf(); CACHE.append([LAST])
gc.enable()
def say(x): sys.stdout.write(json.dumps(x) + "\n"); sys.stdout.flush()
def gap():
    now, ready, longest = time.perf_counter, select.select, 0.0
    before = now()
    while True:
        t = now()
        if t - before > longest: longest = t - before
        before = t
        if ready([0], [], [], 0)[0]: break
    return longest
def visit():
    began = time.perf_counter()
    for x in CACHE: y = x
    return time.perf_counter() - began
say("ready")
for line in sys.stdin:
    order = line.strip()
    if order == "gap": say("go"); say(gap())
    elif order == "end": pass
    elif order == "pass": say(visit())
    elif order == "fork":
        t = time.perf_counter()
        pid = os.fork()
        if not pid: os._exit(0)
        took = time.perf_counter() - t
        os.waitpid(pid, 0)
        say(took)
    elif order == "chain":
        import objgraph
        t = time.perf_counter()
        chain = objgraph.find_backref_chain(LAST, objgraph.is_proper_module)
        say([time.perf_counter() - t, len(chain)])
'''


class Target:
    def __init__(self, objects, program=(PYTHON,)):
        self.process = subprocess.Popen([*program, "-c", TARGET.replace("OBJECTS", str(objects))],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self.hear()

    def say(self, order):
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, order):
        self.say(order)
        return self.hear()

    def gap_while(self, action):
        self.ask("gap")
        action()
        self.say("end")
        return self.hear()

    def end(self):
        self.process.kill()
        self.process.wait()


def at(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def ms(seconds):
    return f"{1e3 * seconds:.2f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"


class Captures:
    def __init__(self, lib, target, n):
        self.stops, self.gaps, self.walks, self.lives, self.objects = [], [], [], [], 0
        self.forks = []
        for i in range(n):
            if i % 5 == 0:  # under the same load as those captures
                self.forks.append(target.ask("fork"))
            when = {}
            results = []

            def capture():
                with tempfile.TemporaryFile() as f:
                    results.append(lib.capture(target.pid, f, flags=lib.FORCE, progress=lambda ns, text:
                                               when.setdefault(text.split()[0], ns)))
            gap = target.gap_while(capture)
            r = results[0]
            if r is None or r.code != lib.DONE or r.truncated:
                raise SystemExit(f"a capture failed: {r}, {lib.capture.status}")
            self.gaps.append(gap)
            self.stops.append(r.pause_ns / 1e9)
            self.walks.append(when["read"] - when["looking"] - r.pause_ns)
            self.lives.append((when["writing"] - when["looking"]) / 1e9)
            self.objects = r.objects


def gcore(target):
    folder = tempfile.mkdtemp()
    try:
        return target.gap_while(lambda: subprocess.run(
            ["gcore", "-o", os.path.join(folder, "core"), str(target.pid)], check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    finally:
        shutil.rmtree(folder)


class Memray:
    """`memray attach` of Debian 13, on a target in the same root: its payload must find memray."""

    def __init__(self, roots):
        import builds
        self.root = self.why_not = None
        try:
            self.root = builds.Roots(roots, say=lambda x: print(x, file=sys.stderr)).install(
                "trixie", "python3-memray", "gdb")
        except builds.Unavailable as e:
            self.why_not = str(e)

    def gap(self, objects):
        """How long the target stood still, or None."""
        if not self.root:
            return None
        # gdb reads /proc, and must see the target's files as the target does
        target = Target(objects, ["unshare", "--mount", "/bin/sh", "-c",
                                  'mount -t proc none "$1/proc" && exec chroot "$@"', "sh", self.root,
                                  "/usr/bin/python3"])
        beside = ["nsenter", "--mount", "--target", str(target.pid), "chroot", self.root]
        folder = tempfile.mkdtemp(dir=os.path.join(self.root, "tmp"))
        try:
            done = []
            gap = target.gap_while(lambda: done.append(subprocess.run(
                [*beside, "memray", "attach", "--method", "gdb", "-o",
                 "/tmp/" + os.path.basename(folder) + "/out", str(target.pid)],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)))
            if done[0].returncode == 0:
                return gap
            self.why_not = (done[0].stderr + done[0].stdout).strip()[-200:]
        finally:
            target.end()
            shutil.rmtree(folder)
        return None


def passes(lib, target, n):
    """A pass over all objects alone, and one that a capture is beside of: the longest of those."""
    import threading
    alone = min(target.ask("pass") for _ in range(5))
    beside = []
    for _ in range(n):
        t = threading.Thread(target=lambda: lib.capture(target.pid, flags=lib.FORCE))
        t.start()
        worst = 0.0
        while t.is_alive():
            worst = max(worst, target.ask("pass"))
        t.join()
        beside.append(worst)
    return alone, statistics.median(beside)


def split(parser, path):
    """What is before and behind the two marks in a file."""
    try:
        with open(path, encoding="utf-8") as f:
            text = f.read()
    except (OSError, UnicodeDecodeError) as e:
        parser.error(f"--output {path}: {e}")
    before, first, rest = text.partition(MARKS[0])
    _, second, after = rest.partition(MARKS[1])
    if not first or not second:
        parser.error(f"--output {path}: has no line '{MARKS[0]}' with '{MARKS[1]}' behind it, between which "
                     "the table goes")
    return before, after


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--captures", type=int, default=100)
    parser.add_argument("--objects", type=int, action="append")
    parser.add_argument("--roots", metavar="DIR", help="of other Debian releases; default: BUILD/roots")
    parser.add_argument("--output", metavar="FILE")
    args = parser.parse_args()
    if args.output:
        split(parser, args.output)  # not after an hour of measuring
    os.environ["PYLEAK_BUILD"] = args.build
    import capturelib as lib

    memray = Memray(args.roots or os.path.join(args.build, "roots"))
    lines = ["| objects | whole stop, median | p99 | its own `os.fork()`, median | stop : fork | seen by the "
             "target, median | p99 | walk and stream, ns an object | the copy lives | a pass over all "
             "objects, alone → beside a capture | gcore | memray attach | `find_backref_chain` |",
             "|" + "---:|" * 13]
    for objects in args.objects or (10_000, 1_000_000, 10_000_000):
        target = Target(objects)
        try:
            began = time.monotonic()
            c = Captures(lib, target, args.captures)
            alone, beside = passes(lib, target, 5)
            core = gcore(target)
            try:
                chain = ms(target.ask("chain")[0])
            except json.JSONDecodeError:
                chain = "–"
            target.end()  # memray's has as many objects: room for it
            injected = memray.gap(objects)
            stop, fork = statistics.median(c.stops), statistics.median(c.forks)
            lines.append("| {:,} | {} | {} | {} | {:.2f} | {} | {} | {:.0f} | {} | {} → {} | {} | {} | {} |".format(
                objects, ms(stop), ms(at(c.stops, .99)), ms(fork), stop / fork,
                ms(statistics.median(c.gaps)), ms(at(c.gaps, .99)),
                statistics.median(c.walks) / c.objects, ms(statistics.median(c.lives)), ms(alone),
                ms(beside), ms(core), "does not attach" if injected is None else ms(injected), chain))
            print(f"{objects:,} objects: {args.captures} captures in {time.monotonic() - began:.0f} s",
                  file=sys.stderr)
        finally:
            target.end()
    table = "\n".join(lines) + "\n"
    print(table)
    if memray.why_not:
        print(f"memray: {memray.why_not}", file=sys.stderr)
    if args.output:
        before, after = split(parser, args.output)
        with open(args.output, "w", encoding="utf-8") as f:
            f.write(before + MARKS[0] + "\n" + table + MARKS[1] + after)


if __name__ == "__main__":
    main()
