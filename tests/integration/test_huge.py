# SPDX-License-Identifier: MIT
"""A heap that never was collected: gc.disable() and five million objects in the young generation, which
no step of a millisecond can walk."""

import unittest

import harness

MILLIONS = 5
TARGET = r"""
gc.disable()
class Node: __slots__ = ()
class Passing: pass
kept = [Node() for _ in range(%d)]
say(len(kept))
while True:
    a = [Passing() for _ in range(50)]
    time.sleep(0.0005)
""" % (MILLIONS * 1000000)
# Instances of classes with empty __slots__ are not the collector's; these are.
TARGET = TARGET.replace("__slots__ = ()", "__slots__ = ('link',)")


class Huge(harness.RootTest):
    def test_never_collected(self):
        t = harness.Target(self, TARGET)
        alive = t.hear()
        d = harness.Daemon(self, t.pid, config={
            "growth": {"interval": "1s", "warmup": "0s", "window": "1h", "min_objects": 1000000},
            "budget": {"cpu": "unlimited", "pause": "1ms"}})
        row = d.wait_for(lambda: d.top(t.pid).get("__main__.Node"), 120, "census")
        census = d.ask("status")["targets"][0]["census"]
        self.assertEqual(census["way"], "stepwise")
        self.assertGreater(census["steps"], 100)
        self.assertGreaterEqual(census["objects"], alive)
        self.assertLessEqual(abs(row["tracked"] - alive), row["tracked_bound"], row)
        # Memory used again cannot be told apart there: never called exact, and within 2 %.
        self.assertTrue(census["estimate"])
        self.assertEqual(row["quality"], "estimate")
        self.assertLessEqual(abs(row["count"] - alive), row["count_bound"])
        self.assertLessEqual(row["count_bound"], 0.04 * alive)
        self.assertIsNone(t.process.poll())


if __name__ == "__main__":
    unittest.main()
