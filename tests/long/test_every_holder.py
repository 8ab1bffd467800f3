# SPDX-License-Identifier: MIT
"""test_holders.py on every build of CPython that can be had here. Roots of other Debian releases are
kept below the build folder with those of `make matrix`, or in PYLEAK_ROOTS."""

import os
import sys
import unittest

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), part)
                for part in ("../integration", "../matrix")]
import builds  # noqa: E402
import harness  # noqa: E402
import test_holders  # noqa: E402

TIMEOUT = 1800
ROOTS = os.environ.get("PYLEAK_ROOTS") or os.path.join(harness.BUILD, "roots")


class EveryHolder(test_holders.Holders):
    pass


class Interpreters(test_holders.Interpreters):
    def test_3_8(self):
        self.row(builds.ROWS[0][0], builds.ROWS[0][1], ROOTS)


def add(name, how):
    def test(self):
        self.row(name, how, ROOTS)
    test.__doc__ = name
    setattr(EveryHolder, "test_" + "".join(c if c.isalnum() else "_" for c in name), test)


for _name, _how in builds.ROWS:
    add(_name, _how)

if __name__ == "__main__":
    unittest.main()
