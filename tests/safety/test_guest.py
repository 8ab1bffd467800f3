# SPDX-License-Identifier: MIT
"""Limits of control groups v2, whatever this host has: in a virtual machine with Debian's kernel,
test_memory.py runs as it does here. Long form only."""
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from safetylib import Case, HERE, LONG, lib  # noqa: E402
import guestlib  # noqa: E402

TIMEOUT = 3600
BOOT_AND_RUN = 2400  # seconds; emulated, some fifty times slower than here
TESTS = ("safety/safetylib.py", "safety/test_memory.py", "integration/capturelib.py", "integration/harness.py",
         "matrix/builds.py")

INIT = r"""
try:
    with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as f: f.write("+memory +pids")
    env = {"PATH": "/usr/bin", "PYLEAK_BUILD": "/build", "HOME": "/tmp", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["/usr/bin/python3", "-B", "/tests/safety/test_memory.py", "-v", "Memory", "Tight"], env=env)
    with open("/sys/fs/cgroup/cgroup.controllers") as f: print("GUEST controllers", f.read().strip(), flush=True)
    print("GUEST ended with", done.returncode, flush=True)
finally:
    power_off()
"""


@unittest.skipUnless(LONG, "cannot run here: long form only (make check-long)")
class Guest(Case):
    def test_memory_of_v2(self):
        guest = guestlib.Guest(self)
        guest.image.program(lib.HELPER, "/build/pyleak-capture")
        for name in TESTS:
            guest.image.file(os.path.join(HERE, "..", name), "/tests/" + name)
        text = guest.run(INIT, BOOT_AND_RUN, "swapaccount=1")
        self.assertIn("GUEST ended with 0\n", text, text[-4000:])
        self.assertRegex(text, r"GUEST controllers .*\bmemory\b")
        self.assertRegex(text, r"test_no_oom_kill \S+( \.\.\.)?[^\n]*\n?[^\n]* ok")
        self.assertRegex(text, r"test_five_percent_above [^-]*\bok\n")
        print(re.search("GUEST kernel .*", text)[0])


if __name__ == "__main__":
    unittest.main()
