#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A thousand censuses under every build of CPython, each against the truth at its instant.

    tests/matrix/census.py [--program FILE] [--roots DIR] [--only GLOB]... [--rounds N]
        [--pause US] [--keep DIR]

Runs tests/unit/test_census.c, which says what is compared, under the builds of the matrix, one after
the other, and prints the table of docs/census.md. The limit: each truth lies in its interval, and 95 % of
the intervals are at most 1 % wide. (Not those of a program that has switched its collector off: there
all objects are young, and the census says that it is an estimate or takes what it can get.)

--keep: what the program said goes there, a file a build; what is there already is not run again.
"""

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE]

import builds  # noqa: E402

SCENE = re.compile(r"^    (\w+): (\d+), of them (\d+) one-shot, (\d+) estimates, (\d+) wider than 1 % "
                   r"\(widest ([\d.]+) %\); \d+ steps each; (\d+) given up, (\d+) discarded$", re.M)
WRONG = re.compile(r"^  .*, (\w+, census \d+)(?:, by the law)?: type 0x\w+: ", re.M)


class Said:
    """What the program printed."""

    def __init__(self, text):
        scenes = [(m[1], *map(int, m.groups()[1:5]), float(m[6]), int(m[7]), int(m[8]))
                  for m in SCENE.finditer(text)]
        self.total = sum(s[1] for s in scenes)
        self.held = self.total - len(set(WRONG.findall(text)))
        with_gc = [s for s in scenes if s[0] != "nogc"]
        self.with_gc = sum(s[1] for s in with_gc)
        self.wide = sum(s[4] for s in with_gc)
        self.wide_nogc = sum(s[4] for s in scenes) - self.wide
        self.widest = max((s[5] for s in with_gc), default=0)
        self.estimates = sum(s[3] for s in scenes)
        self.given_up = sum(s[6] for s in scenes)
        self.discarded = sum(s[7] for s in scenes)
        self.scenes = len(scenes)

    @property
    def ok(self):
        return self.total and self.held == self.total and self.wide <= 0.05 * self.with_gc


def said_of(name, how, args):
    """The program's output under one build, and whether it was content."""
    kept = args.keep and os.path.join(args.keep, re.sub(r"[^\w.]+", "-", name))
    if kept and os.path.exists(kept):
        with open(kept, encoding="utf-8") as f:
            return f.read()
    folder = tempfile.mkdtemp()
    try:
        build = builds.find(name, how, builds.Roots(args.roots, print), folder)
        try:
            env = dict(os.environ, CENSUS_PYTHON=build.launcher(folder), CENSUS_ROUNDS=str(args.rounds),
                       CENSUS_PAUSE_US=str(args.pause))
            done = subprocess.run([args.program], env=env, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False)
        finally:
            build.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = done.stdout + (f"exit {done.returncode}\n" if done.returncode else "")
    if kept:
        with open(kept, "w", encoding="utf-8") as f:
            f.write(text)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", metavar="FILE",
                        default=os.path.join(HERE, "../../build/san/tests/test_census"))
    parser.add_argument("--roots", metavar="DIR", help="where Debian roots are kept")
    parser.add_argument("--only", action="append", metavar="GLOB", help="builds, by name")
    parser.add_argument("--rounds", type=int, default=84, help="censuses a scene, of twelve")
    parser.add_argument("--pause", type=int, default=1000, metavar="US", help="budget.pause; the daemon's default")
    parser.add_argument("--keep", metavar="DIR")
    args = parser.parse_args()
    if args.keep:
        os.makedirs(args.keep, exist_ok=True)
    failed = False
    print("| build | truth in every interval | wider than 1 %, collector on | widest | collector off: wider "
          "| estimates | given up | discarded |")
    print("|---|---|---|---|---|---|---|---|")
    for name, how in builds.ROWS:
        if args.only and not any(fnmatch.fnmatch(name, g) for g in args.only):
            continue
        try:
            text = said_of(name, how, args)
        except builds.Unavailable as e:
            print(f"| {name} | unavailable: {e} | | | | | | |", flush=True)
            continue
        s = Said(text)
        print(f"| {name} | {s.held} of {s.total} | {s.wide} of {s.with_gc} "
              f"({100 * s.wide / max(s.with_gc, 1):.1f} %) | {s.widest} % | {s.wide_nogc} of "
              f"{s.total - s.with_gc} | {s.estimates} | {s.given_up} | {s.discarded} |", flush=True)
        if not s.ok or "\nexit " in text or s.scenes != 12:
            failed = True
            print(f"{name}: does not hold\n{text[-3000:]}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
