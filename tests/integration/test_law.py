# SPDX-License-Identifier: MIT
"""Quality: what is exact is proven, and what a build hides is told from the rest."""

import unittest

import harness

TARGET = r"""
class User:
    def __init__(self): self.me = self
class Other: pass
kept = []
def work():
    for i in range(500): User(); Other()
    functions = [lambda x=i: x for i in range(50)]
    kept.append(Other())
say('up')
while True:
    for _ in range(int(hear() or 0)): work()
    gc.collect()
    say([len(kept), sum(type(o) is User for o in gc.get_objects())])
"""


class Law(harness.RootTest):
    def see(self, python):
        t = harness.Target(self, TARGET, python)
        t.hear()
        t.ask("1")
        d = harness.Daemon(self, t.pid)
        first = d.top(t.pid, "--fresh")
        self.assertEqual(first["__main__.Other"]["allocs"], 0)
        # Three windows: one for the proof, one to confirm it, and from the last one counters alone.
        for _ in range(2):
            t.ask("4")
            d.top(t.pid, "--fresh")
        kept, _ = t.ask("6")
        row = d.top(t.pid, "--fresh")["__main__.Other"]
        self.assertEqual((row["quality"], row["rates_quality"]), ("exact", "exact"), row)
        self.assertEqual((row["count"], row["count_bound"]), (kept, 0))
        self.assertEqual((row["allocs"], row["frees"]), (14 * 501, 14 * 500))
        # Where no birth of a function is seen (Debian's builds), births are what deaths and the
        # census leave over: never a false zero.
        row = d.top(t.pid)["function"]
        self.assertAlmostEqual(row["allocs"], 14 * 50, delta=60)
        self.assertAlmostEqual(row["frees"], 14 * 50, delta=60)
        self.assertIn(row["rates_quality"], ("exact", "estimate"))
        self.assertIsNotNone(row["count"])

    def test_all_builds(self):
        for build, python in harness.interpreters().items():
            with self.subTest(python=build):
                self.see(python)


if __name__ == "__main__":
    unittest.main()
