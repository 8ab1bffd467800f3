# SPDX-License-Identifier: MIT
"""Leaks of objects that the collector does not track: gc.get_objects(), and so objgraph, shows
none of them."""

import unittest

import harness

TARGET = r"""
import warnings
class Plain: pass
kept = []
registry = {}
warnings.showwarning = lambda *a, **k: None
def text(i): return 'text %d' % i
def churn():
    for r in range(300):
        a = [{text(i): text(i + 1)} for i in range(15)]
        b = [(text(i), i) for i in range(15)]
        c = [{i: [i]} for i in range(15)]
        d = [(i, [i]) for i in range(15)]
        e = [Plain() for i in range(5)]
def leak_dicts():
    for i in range(1000): kept.append({text(i): text(i + 1)})
def leak_tuples():
    for i in range(1000): warnings.warn_explicit(text(i), UserWarning, 'module.py', i, registry=registry)
def tracked():
    gc.collect(); gc.collect()
    n = {'dict': 0, 'tuple': 0}
    for o in gc.get_objects():
        t = type(o).__name__
        if t in n and type(o) in (dict, tuple): n[t] += 1
    return n
def both():
    churn()
    return tracked()
churn(); churn()
say(tracked())
while True:
    what = hear()
    churn()
    if what == 'dict': leak_dicts()
    if what == 'tuple': leak_tuples()
    say(both())
"""

# What free lists can hide of 1000 (dictobject.c keeps 80; tupleobject.c what churn() leaves), and
# what a sample in the middle of churn() sees alive on top.
SLACK = 150


class Untracked(harness.RootTest):
    def see(self, python, name):
        t = harness.Target(self, TARGET, python)
        t.hear()
        d = harness.Daemon(self, t.pid)
        before = t.ask("")
        d.top(t.pid, "--fresh")
        for _ in range(3):
            t.ask("")
            since = d.ask("top", t.pid, "--fresh")["at"]
        quiet = {g["type"]: g for g in d.ask("growth", t.pid, "--since", since)["types"]}
        self.assertLess(quiet.get(name, {"delta": 0})["delta"], SLACK, "nothing leaks yet")
        after = t.ask(name)
        row = d.top(t.pid, "--fresh")[name]
        grown = {g["type"]: g for g in d.ask("growth", t.pid, "--since", since, "-n", 1000)["types"]}
        self.assertIn(name, grown, f"{after} after {before}: {row}")
        self.assertAlmostEqual(grown[name]["delta"], 1000, delta=SLACK)
        self.assertEqual(grown[name]["quality"], "estimate")
        # The level before attaching is not known and is not made up.
        self.assertIsNone(row["count"])
        return after[name] - before[name]

    def all_builds(self, name):
        seen = {}
        for build, python in harness.interpreters().items():
            with self.subTest(python=build):
                seen[build] = self.see(python, name)
        # That is why this test is here.
        self.assertLess(min(seen.values()), 20, seen)

    def test_dicts_of_strings(self):
        self.all_builds("dict")

    def test_warning_registry(self):
        self.all_builds("tuple")


if __name__ == "__main__":
    unittest.main()
