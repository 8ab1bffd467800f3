# SPDX-License-Identifier: MIT
"""What the safety tests share. Each module proves one promise: that a capture does not hurt the
target. PYLEAK_LONG=1 (make check-long) runs the long forms, on every build of the matrix.

A module is a command: tests/safety/test_NAME.py [Class.method], as root."""

import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../integration"), os.path.join(HERE, "../matrix")]

import builds as matrix_builds  # noqa: E402
import capturelib as lib  # noqa: E402,F401
from capturelib import Case, children, status  # noqa: E402,F401
from harness import BUILD, SYSTEM_PYTHON, Target, interpreters  # noqa: E402,F401

LONG = os.environ.get("PYLEAK_LONG", "") not in ("", "0")

_roots = matrix_builds.Roots(os.path.join(BUILD, "roots"))


def builds(test, *short):
    """Name and program of the system's Python and those pyenv has; in the short form only of the
    minor versions named ("3.8", ...). The long form borrows those of other Debian releases, too."""
    for name, python in interpreters().items():
        if LONG or name == "system" or any(name.startswith(s + ".") for s in short):
            yield name, python
    if not LONG:
        return
    for name, how in matrix_builds.ROWS:
        if not matrix_builds.needs_root(how) and how[0] != "embedded":
            continue  # above
        folder = tempfile.mkdtemp()
        test.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        try:
            build = matrix_builds.find(name, how, _roots, folder)
        except matrix_builds.Unavailable as e:
            with test.subTest(name):
                test.skipTest(f"cannot run here: {e}")
            continue
        test.addCleanup(build.end)
        yield name, build.launcher(folder)

# Computes a sum of strings, floats and large numbers on request: registers of every kind are in use.
SUM = r'''
import hashlib, signal, threading
def work():
    h, x, n = hashlib.md5(), 1.0, 3
    for i in range(ROUNDS):
        x = x * 1.0000001 + i % 7 * 0.5
        n = n * 1103515245 + 12345 & (1 << 200) - 1
        if i % 50 == 0: h.update(("%r %d" % (x, n)).encode())
    return h.hexdigest()
say("ready")
while True:
    order = hear()
    if order == "sum": say(work())
    elif order == "mask": say(sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
    elif not order: break
'''
