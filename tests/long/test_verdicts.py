# SPDX-License-Identifier: MIT
"""The whole corpus against the daemon, twenty windows long."""

import os
import subprocess
import sys
import unittest

CORPUS = os.path.join(os.path.dirname(__file__), "../corpus/corpus.py")
WINDOW, WINDOWS = 10, 20


class Corpus(unittest.TestCase):
    def test_corpus(self):
        run = subprocess.run([sys.executable, CORPUS, "--window", str(WINDOW), "--windows", str(WINDOWS)],
                             capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)


if __name__ == "__main__":
    unittest.main()
