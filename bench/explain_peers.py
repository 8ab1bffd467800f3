#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What objgraph, guppy3 and pympler take for the same questions, each in the process itself, which
stands still meanwhile: a service that keeps 125 000 sessions, a million objects. Those that are not
installed are left out.

    explain_peers.py [OBJECTS]
"""
import gc
import importlib
import io
import resource
import sys
import time


class Session:
    def __init__(self, n):
        self.name = f"user{n}"
        self.next = n + 1000
        self.data = {"text": f"text{n}", "list": [n] * 24, "number": n + 2000}


def timed(what, f):
    began = time.perf_counter()
    f()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {what} | {seconds:.2f} s | {peak - BEFORE:.0f} MiB |", flush=True)


def objgraph(m):
    one = next(iter(SESSIONS.values()))
    timed("objgraph: types by count", m.typestats)
    timed("objgraph: one chain", lambda: m.find_backref_chain(one, m.is_proper_module))
    timed("objgraph: one chain, drawn as DOT", lambda: m.show_chain(
        m.find_backref_chain(one, m.is_proper_module), output=io.StringIO()))
    timed("objgraph: backreferences of one object as DOT", lambda: m.show_backrefs(
        [one], output=io.StringIO()))


def guppy(m):
    h = m.hpy()
    timed("guppy3: types by size", lambda: str(h.heap()))
    timed("guppy3: one shortest path", lambda: str(h.iso(next(iter(SESSIONS.values()))).shpaths))


def pympler(_):
    muppy = importlib.import_module("pympler.muppy")
    summary = importlib.import_module("pympler.summary")
    timed("pympler: types by size", lambda: summary.summarize(muppy.get_objects()))


SESSIONS = {i: Session(i) for i in range(int(sys.argv[1] if len(sys.argv) > 1 else 1000000) // 8)}
gc.collect()
BEFORE = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("| in the process | time | memory |\n|---|--:|--:|")
for name, run in (("objgraph", objgraph), ("guppy", guppy), ("pympler", pympler)):
    try:
        module = importlib.import_module(name)
    except ImportError:
        print(f"| {name} is not installed | | |")
        continue
    run(module)
