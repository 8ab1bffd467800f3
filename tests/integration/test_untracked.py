# SPDX-License-Identifier: MIT
"""Leaks of objects that the collector does not track: gc.get_objects(), and so objgraph, shows
none of them."""

import subprocess
import unittest

import harness

TARGET = r"""
import decimal, hashlib, warnings
class Plain: pass
class Price(decimal.Decimal): __slots__ = ()
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
        f = [hashlib.sha256() for i in range(9)]
        g = [decimal.Decimal(i) for i in range(9)]
        h = [Price(i) for i in range(9)]
def empty_free_lists():
    for r in range(30):
        x = [(i, text(i)) for i in range(3000)]
        del x
        gc.collect()
def leak_dicts():
    for i in range(1000): kept.append({text(i): text(i + 1)})
def leak_tuples():
    for i in range(1000): warnings.warn_explicit(text(i), UserWarning, 'module.py', i, registry=registry)
def leak_hashes():
    for i in range(1000): kept.append(hashlib.sha256())
def leak_decimals():
    for i in range(1000): kept.append(decimal.Decimal(i))
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
    if what == 'empty': empty_free_lists()
    if what == 'tuple': leak_tuples()
    if what == '_hashlib.HASH': leak_hashes()
    if what == 'decimal.Decimal': leak_decimals()
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
        # Deaths of types without the collector are counted once there were many births.
        d.wait_for(lambda: (t.ask(""), name in d.top(t.pid, "--fresh"))[1], what=name)
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
        if name not in ("dict", "tuple"):  # most of those go through free lists
            self.assertGreater(row["frees"], 1000)
        return after.get(name, 0) - before.get(name, 0)

    def all_builds(self, name, wanted=lambda version: True):
        seen = {}
        for build, python in harness.interpreters().items():
            version = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2])"],
                                     capture_output=True, text=True, check=True).stdout
            if not wanted(tuple(map(int, version.split()))):
                continue
            with self.subTest(python=build):
                seen[build] = self.see(python, name)
        # That is why this test is here.
        self.assertLess(min(seen.values()), 20, seen)

    def test_dicts_of_strings(self):
        self.all_builds("dict")

    def test_warning_registry(self):
        self.all_builds("tuple")

    def test_emptied_free_lists(self):
        """A full collection frees what they hold: 2000 tuples of one length, sixty thousand here.
        That is inlined in some builds."""
        for build, python in harness.interpreters().items():
            with self.subTest(python=build):
                t = harness.Target(self, TARGET, python)
                t.hear()
                d = harness.Daemon(self, t.pid)
                t.ask("empty")
                old = d.top(t.pid, "--fresh")["tuple"]
                t.ask("empty")
                new = d.top(t.pid, "--fresh")["tuple"]
                births, deaths = new["allocs"] - old["allocs"], new["frees"] - old["frees"]
                self.assertGreater(births, 60000)
                self.assertAlmostEqual(births, deaths, delta=SLACK)

    def test_types_without_the_collector(self):
        """Their deaths are counted at the function in tp_dealloc, once there were many births."""
        self.all_builds("_hashlib.HASH")

    def test_decimals(self):
        """From 3.13 on the collector knows them."""
        self.all_builds("decimal.Decimal", (lambda version: version < (3, 13)))


if __name__ == "__main__":
    unittest.main()
