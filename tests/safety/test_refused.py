# SPDX-License-Identifier: MIT
"""The kernel refuses the copy (RLIMIT_NPROC was reached after the preflight): the target does not notice."""
import collections
import os
import resource
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from safetylib import Case, LONG, Target, builds, children, lib, status  # noqa: E402

USER = 61234

# Native code holds the GIL, so that the gate stays shut until the test has set the limit.
BLOCK = r'''
def block():
    os.setgid(USER); os.setuid(USER)
    say("ready"); hear()
    say("in"); sum(range(12000000)); say(time.monotonic())
'''.replace("USER", str(USER))


def may_start(pid, n):
    """RLIMIT_NPROC of a process of USER's, as that user: root may not have CAP_SYS_RESOURCE here."""
    child = os.fork()
    if not child:
        try:
            os.setgid(USER)
            os.setuid(USER)
            resource.prlimit(pid, resource.RLIMIT_NPROC, (n, resource.prlimit(pid, resource.RLIMIT_NPROC)[1]))
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


class Refused(Case):
    def capture(self, code, python, lifted_after):
        """A capture whose first clone() is refused; its limit is lifted that many seconds later."""
        target = Target(self, BLOCK + code, python)
        self.assertEqual(target.ask("go") if target.hear() == "ready" else None, "in")
        looking, answer = threading.Event(), []

        def run():
            answer.append(lib.capture(target.pid, progress=lambda ns, text: looking.set()
                                      if "safe moment" in text else None))
        t = threading.Thread(target=run)
        t.start()
        self.assertTrue(looking.wait(20), answer)
        self.assertTrue(may_start(target.pid, 0))
        left = target.hear()  # the block was left at that time
        time.sleep(max(0, left + lifted_after - time.monotonic()))
        self.assertTrue(may_start(target.pid, 1000))
        t.join()
        self.assertEqual(status(target.pid, "TracerPid"), "0")
        self.assertEqual(children(target.pid), [])
        return target, answer[0]

    def check(self, code, lifted_after=0.05):
        codes = collections.Counter()
        for name, python in builds(self, "3.13"):
            for _ in range(50 if LONG else 2):
                with self.subTest(name):
                    target, answer = self.capture(code, python, lifted_after)
                    self.assertEqual(target.ask("end"), "fine")
                    self.assertIn(answer.code, (lib.DONE, lib.REFUSED), answer.text)
                    self.assertGreater(answer.tries, 1)
                    codes[answer.code] += 1
                    target.end()
        self.assertGreater(codes[lib.DONE], 0)  # the limit was lifted before all tries were over

    def test_it_computes_on(self):
        """Signals, which would tell the helper of a thread long back at its own work."""
        self.check(r'''
import signal
hits = 0
def tick(s, f):
    global hits
    hits += 1
signal.signal(signal.SIGALRM, tick)
block()
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
end = time.monotonic() + 0.6
x, n, bad = 1.0, 0, 0
while time.monotonic() < end:
    a = sum(i * 0.5 for i in range(1000))
    bad += a != 249750.0
    n += 1
signal.setitimer(signal.ITIMER_REAL, 0)
hear()
say("fine" if not bad and hits > 10 and signal.pthread_sigmask(signal.SIG_BLOCK, []) == set() else [bad, hits])
''')

    def test_it_starts_threads(self):
        """A thread that the program starts is none of ours."""
        self.check(r'''
import threading
done = []
block()
end = time.monotonic() + 0.6
started = failed = 0
while time.monotonic() < end:
    t = threading.Thread(target=lambda: done.append(threading.get_native_id()))
    try: t.start()
    except RuntimeError:
        failed += 1; time.sleep(0.001)  # the limit is its own, too
        continue
    started += 1
    t.join()
hear()
say("fine" if len(done) == started and started > 20 else [len(done), started, failed])
''', lifted_after=0.002)

    def test_it_waits(self):
        """It goes back to a wait: the others do not stand still until somebody notices."""
        self.check(r'''
import ctypes, select, threading
libc = ctypes.CDLL(None)
longest = ticks = 0
over = False
def look():  # the GIL is free while it sleeps
    global longest, ticks
    at = time.monotonic()
    while not over:
        libc.usleep(1000)
        now = time.monotonic()
        longest, ticks, at = max(longest, now - at), ticks + 1, now
t = threading.Thread(target=look); t.start()
block()
longest = 0
r, w = os.pipe()
waited = time.monotonic()
while time.monotonic() < waited + 0.5: select.select([r], [], [], 0.1)
waited = time.monotonic() - waited
over = True; t.join()
hear()
say("fine" if 0.5 <= waited < 2 and ticks > 50 and longest < 0.19 else [waited, ticks, longest])
''')


if __name__ == "__main__":
    unittest.main(verbosity=2)
