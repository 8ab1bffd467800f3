#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Is what the daemon says of a Python true, on every build that it promises to count?

    tests/matrix/matrix.py [--build DIR] [--roots DIR] [--only GLOB]... [--output FILE]

Each row starts churn.py under one build of CPython and pyleakd beside it, lets it churn, and compares
what pyleakctl top says with what the target says of itself, type by type:

  * `exact` is the target's own number, and `estimate` is within count_bound of it, which is at most
    the larger of 64 and 2 %;
  * what the census found (`tracked`) is within tracked_bound of gc.get_objects();
  * from one census to the next, births minus deaths of an exact type are the change of its level;
  * the program's classes are `exact`; list, dict, tuple, set and function at least `estimate`.

The table goes to FILE as Markdown, what does not hold to stderr; exit 1 if anything does not. Rows that
need another Debian release run in a root below DIR, made when it is missing (root, debootstrap).
"""

import argparse
import fnmatch
import json
import os
import platform
import select
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../integration")]

import builds  # noqa: E402
import harness  # noqa: E402

CONTAINERS = ("list", "dict", "tuple", "set", "function")
# The collector does not know these, so there is no truth about them in Python: see test_untracked.py.
UNKNOWN = ("str", "bytes", "bytearray", "int", "float", "complex", "code")
# Enough for 1000 births and deaths of every class in each of the windows that the law is checked on.
WINDOWS, ROUNDS = 4, 80
PATIENCE = 300  # seconds for one answer of the target
CONFIG = {"growth": {"interval": "1s", "warmup": "0s", "window": "1h", "min_objects": 1000000},
          "budget": {"cpu": "unlimited", "pause": "1ms"}}


class Scope:
    """What the harness wants of a TestCase."""

    def __init__(self):
        self.cleanups = []

    def addCleanup(self, f, *args, **more):  # pylint: disable=invalid-name
        self.cleanups.append((f, args, more))

    def assertEqual(self, a, b, message=""):  # pylint: disable=invalid-name
        if a != b:
            raise AssertionError(f"{a!r} is not {b!r}: {message}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        while self.cleanups:
            f, args, more = self.cleanups.pop()
            f(*args, **more)


class Target:
    def __init__(self, scope, build, program):
        here, there = build.folder()
        scope.addCleanup(shutil.rmtree, here, ignore_errors=True)
        name = os.path.basename(program)
        shutil.copy(program, os.path.join(here, name))
        self.process = build.popen(os.path.join(there, name), stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        scope.addCleanup(self.end)
        self.pid = self.process.pid
        self.hello = self.hear()

    def hear(self):
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
                raise AssertionError(f"the target does not answer within {PATIENCE} s")
            more = os.read(self.process.stdout.fileno(), 1 << 20)
            if not more:
                raise AssertionError(f"the target ended with {self.process.wait()}")
            line += more
        return json.loads(line)

    def ask(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()
        return self.hear()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Row:
    """What came out for one build."""

    def __init__(self, name):
        self.name = name
        self.version = self.unavailable = None
        self.sites = ""
        self.failures = []
        self.checked = {"exact": 0, "estimate": 0, "blind": 0}
        self.quality = {}  # of the containers, and of "classes": the worst

    def fail(self, type_name, text):
        self.failures.append((type_name, text))

    @property
    def ok(self):
        return not self.failures


def check_level(row, name, said, real):
    """One type's count against the truth."""
    quality, count, bound = said["quality"], said["count"], said["count_bound"]
    if quality == "exact":
        if count != real:
            row.fail(name, f"count {count} is exact, the truth is {real}")
    elif quality == "estimate":
        if count is None or bound is None:
            row.fail(name, f"estimate without a number: count {count}, bound {bound}")
        elif abs(count - real) > bound:
            row.fail(name, f"count {count} ± {bound}, the truth is {real}")
        elif bound > max(64, real * 0.02):
            row.fail(name, f"count {count} ± {bound} is no estimate: at most "
                           f"{max(64, int(real * 0.02))} allowed")


def check_census(row, now):
    """What was counted in a census: one has just been taken, and nothing has happened since."""
    tracked, reachable = now.truth["tracked"], now.truth["reachable"]
    for name, said in sorted(now.fresh.items()):
        if name in UNKNOWN:
            continue
        real = tracked.get(name, 0)
        if said["tracked"] is not None and \
                abs(said["tracked"] - real) > (said["tracked_bound"] or 0):
            row.fail(name, f"tracked {said['tracked']} ± {said['tracked_bound']}, "
                           f"gc.get_objects() has {real}")
        # Dicts and tuples of plain values leave the collector's sight. (So are static types out of
        # it, but nobody made them.)
        check_level(row, name, said, reachable.get(name, 0) if name in ("dict", "tuple") else real)
    for name, n in sorted(tracked.items()):
        if name not in now.fresh:
            row.fail(name, f"not in top, {n} are alive")


def net(top, name):
    said = top.get(name, {})
    return (said.get("allocs") or 0) - (said.get("frees") or 0)


def check_counters(row, before, after, estimates):
    """What was counted from one census to the next, against what has changed."""
    for name, said in sorted(before.top.items()):
        # Classes made at run time share a name, and what they counted goes when they go.
        if after.top.get(name, {}).get("types") != 1 or said.get("types") != 1:
            continue
        kind = "reachable" if name in ("dict", "tuple") else "tracked"
        level = after.truth[kind].get(name, 0)
        counted = net(after.top, name) - net(before.top, name)
        real = level - before.truth[kind].get(name, 0)
        if "exact" in (said["quality"], said["rates_quality"]):
            if counted != real:
                row.fail(name, f"exact, but births - deaths = {counted}, the level changed by {real}")
        elif estimates and said["quality"] == "estimate" and \
                abs(counted - real) > max(64, level * 0.02):
            row.fail(name, f"estimate, but births - deaths = {counted}, the level of {level} "
                           f"changed by {real}")


def check_promises(row, last):
    """The qualities that every build must reach."""
    worst = ["blind", "estimate", "exact"]

    def quality_of(name):
        return last.top.get(name, {"quality": "blind"})["quality"]

    for said in last.top.values():
        row.checked[said["quality"]] += 1
    for name in sorted(set(last.truth["users"]) & set(last.truth["tracked"])):
        quality = quality_of(name)
        if quality != "exact":
            row.fail(name, f"a class of the program is {quality}")
        row.quality["classes"] = min(row.quality.get("classes", "exact"), quality, key=worst.index)
    for name in CONTAINERS:
        row.quality[name] = quality_of(name)
        if row.quality[name] == "blind":
            row.fail(name, "blind, at least an estimate is due")


class Instant:
    """What the daemon says and what is true, while the target waits."""

    def __init__(self, daemon, target):
        # A census is exact whatever the counters are worth; without --fresh, top says what the
        # counters are worth until the next one.
        self.fresh = daemon.top(target.pid, "--fresh")
        self.top = daemon.top(target.pid)
        self.truth = target.ask("truth")


def run(build, row, windows=WINDOWS, rounds=ROUNDS, estimates=True):
    with Scope() as scope:
        t = Target(scope, build, os.path.join(HERE, "churn.py"))
        row.version = t.hello["python"]
        t.ask(f"work {rounds // 4}")  # every type exists, free lists are full
        d = harness.Daemon(scope, t.pid, config=CONFIG)
        seen = [Instant(d, t)]
        for _ in range(windows):
            t.ask(f"work {rounds}")
            seen.append(Instant(d, t))
        for before, after in zip(seen, seen[1:]):
            check_census(row, after)
            check_counters(row, before, after, estimates)
        check_promises(row, seen[-1])
        status = d.ask("status")["targets"][0]
        row.sites = status.get("sites") or ""
        if status.get("dropped"):
            row.fail("-", f"{status['dropped']} hits were not counted")


def row_of(name, how, roots, run_it=run):
    row = Row(name)
    folder = tempfile.mkdtemp()
    try:
        build = builds.find(name, how, roots, folder)
        try:
            run_it(build, row)
        finally:
            build.end()
    except builds.Unavailable as e:
        row.unavailable = str(e)
    except (AssertionError, OSError, subprocess.SubprocessError) as e:
        row.fail("-", f"{type(e).__name__}: {e}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def row_refused(roots):
    """A free-threaded build is recognised, and told clearly that it is not supported."""
    row = Row("Debian sid, free-threaded")
    try:
        build = builds.free_threaded(roots)
        with Scope() as scope:
            t = Target(scope, build, os.path.join(HERE, "churn.py"))
            row.name, row.version = build.name, t.hello["python"]
            done = subprocess.run([f"{harness.BUILD}/pyleakd", "--pid", str(t.pid)], check=False,
                                  capture_output=True, text=True, timeout=60)
            row.sites = "refused"
            if done.returncode != 1 or "free-threaded" not in done.stderr:
                row.fail("-", f"not refused by name: exit {done.returncode}, {done.stderr.strip()}")
    except builds.Unavailable as e:
        row.unavailable = str(e)
    return row


# ---- the table ----------------------------------------------------------------------------------


def system():
    with open("/etc/os-release", encoding="utf-8") as f:
        pretty = dict(x.strip().split("=", 1) for x in f if "=" in x).get("PRETTY_NAME", "?")
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    return pretty.strip('"'), kernel


def table(rows):
    pretty, kernel = system()
    lines = [
        "# What is counted how well, build by build",
        "",
        f"Made by `make matrix` on {pretty}, Linux {kernel}. Each build runs a program that makes and",
        "drops objects of every kind (`tests/matrix/churn.py`) under the daemon, which is then compared",
        "with what the target says of itself, type by type. Each census equals `gc.get_objects()`. In",
        "the table is what counting is worth between two censuses: `exact`, births and deaths are the",
        "whole change; `estimate`, within the bound that `top` shows; `blind`, no level is claimed.",
        "*Classes* is the worst of the program's own classes; *types* all that were compared, exact /",
        "estimate / blind (a type must be born and die a thousand times before it is called exact).",
        "",
        "| build | version | classes | " + " | ".join(CONTAINERS) + " | types | result |",
        "|---|---|---|" + "---|" * len(CONTAINERS) + "---|---|",
    ]
    for r in rows:
        if r.unavailable:
            cells = ["unavailable: " + r.unavailable] + [""] * (len(CONTAINERS) + 3)
        elif r.sites == "refused":
            cells = [r.version] + [""] * (len(CONTAINERS) + 2) + ["refused by name" if r.ok else "FAILED"]
        else:
            c = r.checked
            cells = [r.version or "?", r.quality.get("classes", "?")]
            cells += [r.quality.get(x, "?") for x in CONTAINERS]
            cells += [f"{c['exact']} / {c['estimate']} / {c['blind']}",
                      "holds" if r.ok else f"{len(r.failures)} do not hold"]
        lines.append("| " + " | ".join([r.name] + cells) + " |")
    lines += ["", "Where the counting happens:", ""]
    lines += [f"* {r.name}: {r.sites}" for r in rows if r.sites and r.sites != "refused"]
    broken = {}  # what -> where
    for r in rows:
        for name, text in r.failures:
            broken.setdefault((name, text.splitlines()[0]), []).append(r.name)
    if broken:
        lines += ["", "What does not hold:", ""]
        lines += [f"* `{name}`: {text}: " + ("on every build" if len(where) == sum(
            1 for r in rows if r.version) else "; ".join(where))
                  for (name, text), where in broken.items()]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(HERE, "../../build"), metavar="DIR")
    parser.add_argument("--roots", metavar="DIR", help="where Debian roots are kept")
    parser.add_argument("--only", action="append", metavar="GLOB", help="rows, by name")
    parser.add_argument("--output", metavar="FILE", help="the table; default: stdout")
    args = parser.parse_args()
    if os.geteuid():
        parser.error("root is needed to attach to processes")
    harness.BUILD = os.path.abspath(args.build)

    def say(text):
        print(text, file=sys.stderr, flush=True)

    def wanted(name):
        return not args.only or any(fnmatch.fnmatch(name, g) for g in args.only)

    roots = builds.Roots(args.roots, say)
    rows = []
    for name, how in builds.ROWS:
        if wanted(name):
            rows.append(row_of(name, how, roots))
    if wanted("free-threaded"):
        rows.append(row_refused(roots))
    for row in rows:
        say(f"{row.name}: " + (f"unavailable: {row.unavailable}" if row.unavailable else
                               f"{row.version}: " + ("holds" if row.ok else
                                                     f"{len(row.failures)} do not hold")))
        for name, text in row.failures:
            say(f"    {name}: {text}")
    text = table(rows)
    if args.output:
        with open(args.output, "w", encoding="utf-8") as f:
            f.write(text)
    else:
        print(text, end="")
    if not any(r.version for r in rows):
        say("no row could be run")
        return 1
    return 1 if any(not r.ok for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
