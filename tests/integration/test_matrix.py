# SPDX-License-Identifier: MIT
"""What the daemon says of every Python of this machine is true: the short form of `make matrix`."""

import os
import sys
import unittest

import harness

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../matrix"))
import builds  # noqa: E402
import matrix  # noqa: E402


class Matrix(harness.RootTest):
    def row(self, name, how):
        def run(build, row):
            matrix.run(build, row, windows=3, estimates=False)

        row = matrix.row_of(name, how, builds.Roots(None), run)
        if row.unavailable:
            self.skipTest(f"cannot run here: {row.unavailable}")
        self.assertEqual(row.failures, [])
        self.assertEqual(row.quality["classes"], "exact")
        self.assertGreater(row.checked["exact"], 20)


def add(name, how):
    def test(self):
        self.row(name, how)
    test.__doc__ = name
    setattr(Matrix, "test_" + "".join(c if c.isalnum() else "_" for c in name), test)


for _name, _how in builds.ROWS:
    if not builds.needs_root(_how):
        add(_name, _how)

if __name__ == "__main__":
    unittest.main()
