# SPDX-License-Identifier: MIT
"""Every fuzzer for a while, beside the other tests. Longer by hand: build/fuzz/tests/fuzz_NAME -max_total_time=3600."""

import glob
import os
import subprocess
import tempfile
import unittest

BUILD = os.environ.get("PYLEAK_BUILD", os.path.join(os.path.dirname(__file__), "../../build"))
SECONDS = 20
BESIDE = True  # pure computing
TIMEOUT = 1500


class Fuzz(unittest.TestCase):
    def run_fuzzer(self, path):
        with tempfile.TemporaryDirectory() as folder:
            run = subprocess.run(
                [path, f"-max_total_time={SECONDS}", "-max_len=65536", "-rss_limit_mb=4096", "-timeout=10",
                 f"-artifact_prefix={folder}/", folder],
                capture_output=True, text=True, errors="replace", timeout=SECONDS * 30, check=False)
        self.assertEqual(run.returncode, 0, run.stderr[-4000:])


for _path in sorted(glob.glob(f"{BUILD}/fuzz/tests/fuzz_*")):
    if os.access(_path, os.X_OK) and not _path.endswith(".d"):
        setattr(Fuzz, "test_" + os.path.basename(_path), lambda self, p=_path: self.run_fuzzer(p))

if not any(x.startswith("test_") for x in dir(Fuzz)):
    raise AssertionError(f"no fuzzer in {BUILD}/fuzz/tests: make fuzz-build")

if __name__ == "__main__":
    unittest.main()
