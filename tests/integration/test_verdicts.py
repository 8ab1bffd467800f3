# SPDX-License-Identifier: MIT
"""Verdicts on real programs, live: a few of the corpus (test_recordings has all of it) against the daemon, and
what outlives a restart of it and of its target."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../corpus"))
import corpus  # noqa: E402
from harness import Daemon, RootTest, Target  # noqa: E402

LIVE = ["sessions", "few_of_many", "flushed_cache", "lru_fills"]
LIVE_WINDOW, LIVE_WINDOWS = 6, 4


def kept_types(state):
    """Of which the store has a series."""
    with contextlib.closing(sqlite3.connect(f"{state}/pyleak.db")) as db:
        return {row[0] for row in db.execute("SELECT type FROM series")}


class Live(RootTest):
    def test_live(self):
        chosen = corpus.programs(LIVE)
        document = corpus.run(chosen, "/usr/bin/python3", LIVE_WINDOW, LIVE_WINDOWS)
        for p in chosen:
            with self.subTest(p.name):
                # A busy machine may cost a window.
                self.assertIsNone(corpus.judge(p, corpus.leaders(document, p.process.pid), slack=3))


class Kept(RootTest):
    LEAK = ("class Session: pass\nkept = []\nsay('up')\n"
            "while True:\n  kept.append(Session()); time.sleep(0.005)\n")

    CONFIG = {"growth": {"interval": "200ms", "warmup": "0s", "window": "6s", "min_objects": 100},
              "budget": {"cpu": "unlimited"}}

    def suspect(self, d, pid):
        found = [s for s in d.ask("suspects", pid)["suspects"] if s["type"] == "__main__.Session"]
        return found[0] if found and found[0]["verdict"] == "leak" else None

    def test_daemon_restarts(self):
        """The verdict outlives the daemon: it is there before a window has passed."""
        target = Target(self, self.LEAK)
        target.hear()
        d = Daemon(self, target.pid, config=self.CONFIG)
        first = d.wait_for(lambda: self.suspect(d, target.pid), what="verdict")
        self.assertEqual(d.stop(), 0)
        again = Daemon(self, target.pid, config=self.CONFIG, args=["--state-dir", d.state])
        second = again.wait_for(lambda: self.suspect(again, target.pid), what="verdict")
        self.assertEqual(second["first_seen"], first["first_seen"])
        # and so does the history
        points = again.ask("history", target.pid, "--type", "__main__.Session", "--since", "1h")["points"]
        self.assertLess(corpus.stamp(points[0]["at"]), corpus.stamp(first["first_seen"]))

    def test_daemon_ends_before_it_has_met_the_type(self):
        """What an earlier daemon kept outlives one that has seen nothing of its target."""
        target = Target(self, self.LEAK)
        target.hear()
        d = Daemon(self, target.pid, config=self.CONFIG)
        first = d.wait_for(lambda: self.suspect(d, target.pid), what="verdict")
        self.assertEqual(d.stop(), 0)
        self.assertIn("__main__.Session", kept_types(d.state))
        # Stopped it has no hits, and is read from outside after two seconds.
        target.process.send_signal(signal.SIGSTOP)
        slow = dict(self.CONFIG, growth=dict(self.CONFIG["growth"], interval="1m"))
        between = Daemon(self, target.pid, config=slow, args=["--state-dir", d.state])
        self.assertEqual(between.stop(), 0)
        self.assertIn("__main__.Session", kept_types(d.state))
        target.process.send_signal(signal.SIGCONT)
        again = Daemon(self, target.pid, config=self.CONFIG, args=["--state-dir", d.state])
        second = again.wait_for(lambda: self.suspect(again, target.pid), what="verdict")
        self.assertEqual(second["first_seen"], first["first_seen"])

    def test_target_restarts(self):
        """What leaked before needs no more than a window."""
        target = Target(self, self.LEAK, name="leaks_again.py")
        target.hear()
        config = dict(self.CONFIG, targets=[{"match": {"cmdline": f"*{target.path}*"}}])
        d = Daemon(self, config=config)
        d.wait_for(lambda: d.ask("status")["targets"], what="target")
        d.wait_for(lambda: self.suspect(d, target.pid), what="verdict")
        target.process.kill()
        target.process.wait()
        again = subprocess.Popen(["/usr/bin/python3", target.path], stdout=subprocess.DEVNULL,
                                 stdin=subprocess.DEVNULL)
        self.addCleanup(again.wait)
        self.addCleanup(again.kill)
        d.wait_for(lambda: d.ctl("suspects", again.pid).code == 0, what="target")
        second = d.wait_for(lambda: self.suspect(d, again.pid), what="verdict")
        self.assertIn("it leaked before the last restart as well", second["reason"])


if __name__ == "__main__":
    unittest.main()
