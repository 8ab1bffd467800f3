# SPDX-License-Identifier: MIT
"""A thousand censuses of every build, each against the truth at its instant: tests/unit/test_census.c
with more rounds."""

import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import harness  # noqa: E402

TIMEOUT = 6 * 3600
PROGRAM = os.path.join(harness.BUILD, "san/tests/test_census")
KINDS = 12  # of work, see `modes` in test_census.c


class Census(harness.RootTest):
    def thousand(self, python):
        env = dict(os.environ, CENSUS_PYTHON=python, CENSUS_ROUNDS=str(1000 // KINDS + 1))
        done = subprocess.run([PROGRAM], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False)
        print(done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:])
        self.assertIn("all: ", done.stdout)


def add(name, python):
    def test(self):
        self.thousand(python)
    test.__doc__ = f"a thousand censuses of {name}"
    setattr(Census, "test_" + name.replace(".", "_"), test)


for _name, _python in harness.interpreters().items():
    add(_name, _python)

if __name__ == "__main__":
    unittest.main()
