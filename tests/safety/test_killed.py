# SPDX-License-Identifier: MIT
"""The helper or the daemon dies, at every step and at any moment: the target computes on."""
import os
import random
import signal
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import safetylib  # noqa: E402,F401  (the path to the rest)
from harness import Daemon, RootTest  # noqa: E402
from safetylib import BUILD, Case, LONG, SUM, SYSTEM_PYTHON, Target, builds, children, \
    lib, status  # noqa: E402

TIMEOUT = 3600 if LONG else 900


class HelperDies(Case):
    """SIGKILL to the helper at every step: the target computes on, with its mask, and the next
    capture leaves no child behind."""

    def check(self, python, blocked):
        rounds = 300000
        code = SUM.replace("ROUNDS", str(rounds))
        if blocked:
            code = ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, "
                    "[signal.SIGUSR1, signal.SIGHUP])\n" + code)
        target = Target(self, code, python)
        target.hear()
        right = target.ask("sum")
        mask = status(target.pid, "SigBlk")
        for number, name in enumerate(lib.steps(), 1):
            # once while it computes, once while it waits for input
            for busy in (True, False):
                with self.subTest(step=name, busy=busy):
                    for _ in range(4):
                        if busy:
                            target.say("sum")
                        result = lib.capture(target.pid, die_at=number)
                        if busy:
                            self.assertEqual(target.hear(), right)
                        if result is None:
                            break
                        # refused, or not reaped in time, because this machine is busy
                    self.assertIsNone(result, f"did not die at {name}: {result}")
                    self.assertEqual(target.ask("sum"), right)
                    self.assertEqual(status(target.pid, "SigBlk"), mask)
                    self.assertEqual(target.ask("mask"),
                                     [int(signal.SIGHUP), int(signal.SIGUSR1)] if blocked else [])
                    self.assertEqual(status(target.pid, "TracerPid"), "0")
        result = lib.capture(target.pid)
        self.assertEqual(result.code, lib.DONE, result.text)
        for _ in range(5):
            if not children(target.pid):
                break
            lib.capture(target.pid)  # a capture sweeps eight at a time
        self.check_well(target)

    def test_system(self):
        self.check(SYSTEM_PYTHON, True)

    def test_others(self):
        for version, python in builds(self, "3.8", "3.13"):
            if version != "system":
                with self.subTest(version):
                    self.check(python, False)

    def test_random_moments(self):
        """Killed from outside, at no particular step."""
        target = Target(self, SUM.replace("ROUNDS", "600000"))
        target.hear()
        right = target.ask("sum")
        rng = random.Random(7)
        for _ in range(500 if LONG else 40):
            target.say("sum")
            killer = []

            def kill_later(helper, delay=rng.uniform(0.0, 0.08)):
                killer.append(threading.Timer(delay, helper.kill))
                killer[0].start()

            lib.capture(target.pid, started=kill_later)
            killer[0].join()
            self.assertEqual(target.hear(), right)
            self.assertEqual(status(target.pid, "SigBlk"), "0" * 16)
        for _ in range(8):
            self.assertEqual(lib.capture(target.pid).code, lib.DONE)
            if not children(target.pid):
                break
        self.check_well(target)


class DaemonDies(RootTest):
    """SIGKILL to pyleakd: the target computes on, and what the helper left is swept by the next."""

    def begin(self, rounds):
        target = Target(self, "big = [[i] for i in range(100000)]\n" +
                        SUM.replace("ROUNDS", str(rounds)))
        target.hear()
        return target, target.ask("sum")

    def check(self, target, right, where):
        self.assertEqual(target.ask("sum"), right, where)
        self.assertEqual(status(target.pid, "SigBlk"), "0" * 16)
        end = time.monotonic() + 20
        while status(target.pid, "TracerPid") != "0" and time.monotonic() < end:
            time.sleep(0.005)
        self.assertEqual(status(target.pid, "TracerPid"), "0", where)

    def finish(self, target):
        for _ in range(10):
            self.assertIn(lib.capture(target.pid).code, (lib.DONE, lib.REFUSED))
            if not children(target.pid):
                break
        self.assertEqual(children(target.pid), [])

    def dump(self, target, die_at, delay=None):
        """A daemon that is killed while it dumps; None if it lived."""
        env = dict(os.environ, PYLEAK_CAPTURE_DIE_AT=str(die_at)) if die_at else None
        daemon = Daemon(self, target.pid, env=env)
        asked = subprocess.Popen([f"{BUILD}/pyleakctl", "--socket", daemon.socket, "dump",
                                  str(target.pid), "--force"], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        target.say("sum")
        if delay is not None:
            time.sleep(delay)
            daemon.process.kill()
        asked.wait(60)
        ended = daemon.process.poll() if die_at else daemon.process.wait(20)
        if die_at and ended is None:
            try:
                ended = daemon.process.wait(2)
            except subprocess.TimeoutExpired:
                pass
        daemon.end()
        return ended

    def test_every_step(self):
        """The helper kills its daemon at a step, and goes on, or gives up, without it."""
        target, right = self.begin(300000)
        for number, name in enumerate(lib.steps(), 1):
            with self.subTest(name):
                for _ in range(3):
                    ended = self.dump(target, number | lib.DIE_DAEMON)
                    self.assertEqual(target.hear(), right, name)
                    if ended is not None:
                        break
                self.assertEqual(ended, -signal.SIGKILL, "the daemon was not killed")
                self.check(target, right, name)
        self.finish(target)

    def test_random_moments(self):
        target, right = self.begin(300000)
        rng = random.Random(11)
        for i in range(500 if LONG else 6):
            delay = rng.uniform(0, 0.4)
            self.dump(target, 0, delay)
            self.assertEqual(target.hear(), right, delay)
            self.check(target, right, (i, delay))
        self.finish(target)


if __name__ == "__main__":
    unittest.main()
