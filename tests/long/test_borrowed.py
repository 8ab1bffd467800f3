# SPDX-License-Identifier: MIT
"""Every build of CPython that this machine has to borrow from another Debian release: counts, names,
and dumps. Their roots are kept below the build folder, with those of `make matrix`."""

import os
import shutil
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../integration"), os.path.join(HERE, "../matrix")]

import harness  # noqa: E402
import builds  # noqa: E402
import matrix  # noqa: E402
import test_capture  # noqa: E402
import test_counts  # noqa: E402
import test_dump  # noqa: E402

ROOTS = builds.Roots(os.path.join(harness.BUILD, "roots"))


class Borrowed(harness.RootTest):
    def find(self, name, how):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        try:
            build = builds.find(name, how, ROOTS, folder)
        except builds.Unavailable as e:
            self.skipTest(f"cannot run here: {e}")
        self.addCleanup(build.end)
        return build, build.launcher(folder)

    def counts(self, name, how):
        build, _ = self.find(name, how)
        row = matrix.Row(name)
        matrix.run(build, row, estimates=False)
        self.assertEqual(row.failures, [])
        self.assertEqual(row.quality["classes"], "exact")

    def borrow(self, case, method, *args):
        """Runs a method of another TestCase as if it were ours: its clean-up is."""
        other = case()
        self.addCleanup(other.doCleanups)
        return getattr(other, method)(*args)

    def dumps(self, name, how):
        _, python = self.find(name, how)
        self.borrow(test_dump.Dumps, "holders", python)
        snap, told = self.borrow(test_capture.Truth, "check", python)
        self.borrow(test_capture.Truth, "check_labels", snap, told)

    def agree(self, name, how):
        _, python = self.find(name, how)
        self.borrow(test_counts.Counts, "agree", python)


def add(name, how):
    for what in ("counts", "dumps", "agree"):
        def test(self, what=what):
            getattr(self, what)(name, how)
        test.__doc__ = f"{what}: {name}"
        setattr(Borrowed, f"test_{what}_" + "".join(c if c.isalnum() else "_" for c in name), test)


for _name, _how in builds.ROWS:
    if builds.needs_root(_how):
        add(_name, _how)


class FreeThreaded(harness.RootTest):
    def test_refused_by_name(self):
        row = matrix.row_refused(ROOTS)
        if row.unavailable:
            self.skipTest(f"cannot run here: {row.unavailable}")
        self.assertEqual(row.failures, [])


if __name__ == "__main__":
    unittest.main()
