# SPDX-License-Identifier: MIT
"""The installed service under a running systemd; boot.sh boots a root that runs this as root."""

import glob
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import unittest

CONFIG = "/etc/pyleak/pyleakd.yaml"
LEAKER = "/srv/leaker.py"
TYPE = "__main__.Thing"

CONFIG_TEXT = f"""\
targets:
  - match: {{cmdline: "*{LEAKER}*"}}
budget:
  pause: 5ms
growth:
  interval: 1s
  warmup: 2s
  window: 10s
  min_objects: 100
"""

LEAKER_TEXT = """\
import time
class Thing:
    pass
KEPT = {}
while True:
    KEPT[len(KEPT)] = Thing()
    time.sleep(0.005)
"""


def run(*argv, check=True):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done


def show(unit, name):
    return run("systemctl", "show", "-P", name, unit).stdout.strip()


def ask(*arguments):
    return json.loads(run("pyleakctl", "--json", *arguments).stdout)


def wait(what, ready, limit=30):
    deadline = time.monotonic() + limit
    while True:
        answer = ready()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(0.2)


def ours():
    found = []
    for path in glob.glob("/proc/[0-9]*/comm"):
        try:
            with open(path, encoding="ascii", errors="replace") as f:
                if f.read().startswith("pyleak"):
                    found.append(path)
        except OSError:
            pass
    return found


class Service(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # With version 1 control groups mounted this option has systemd (252 and 257) leave /run
        # writable in spite of ProtectSystem=strict. Without it: what everybody else gets.
        for unit in ("pyleakd.service", "pyleak-capture@.service"):
            os.makedirs(f"/etc/systemd/system/{unit}.d", exist_ok=True)
            with open(f"/etc/systemd/system/{unit}.d/boot.conf", "w", encoding="ascii") as f:
                f.write("[Service]\nProtectControlGroups=no\n")
        run("systemctl", "daemon-reload")
        with open(LEAKER, "w", encoding="ascii") as f:
            f.write(LEAKER_TEXT)
        with open(CONFIG, "w", encoding="ascii") as f:
            f.write(CONFIG_TEXT)
        for unit, options in (("plain", ["--uid=nobody"]),
                              ("filtered", ["-p", "SystemCallFilter=@system-service",
                                            "-p", "NoNewPrivileges=yes"])):
            run("systemd-run", "--quiet", f"--unit={unit}", *options, "/usr/bin/python3", LEAKER)
        run("systemctl", "restart", "pyleakd")
        cls.pids = {unit: int(show(unit, "MainPID")) for unit in ("plain", "filtered")}
        wait("the daemon to watch both", cls.watched)

    @classmethod
    def watched(cls):
        done = run("pyleakctl", "--json", "status", check=False)
        if done.returncode != 0:
            return False
        return set(cls.pids.values()) <= {t["pid"] for t in json.loads(done.stdout)["targets"]}

    def leak(self, unit):
        for row in ask("top", str(self.pids[unit]), "-n", "50")["types"]:
            if row["type"] == TYPE:
                return row
        return None

    def counted(self, unit):
        row = self.leak(unit)
        return row if row and row["tracked"] and row["allocs"] else None

    def test_active(self):
        self.assertEqual(show("pyleakd", "ActiveState"), "active")
        self.assertEqual(show("pyleakd", "SubState"), "running")
        self.assertEqual(show("pyleak-capture.socket", "ActiveState"), "active")
        self.assertEqual(show("pyleakd", "Type"), "notify")
        self.assertNotIn(show("pyleakd", "WatchdogUSec"), ("0", "infinity"))

    def test_counts(self):
        for unit in self.pids:
            with self.subTest(unit):
                first = wait("a count of " + TYPE, lambda: self.counted(unit))
                later = wait("a higher count", lambda: (
                    self.leak(unit)["allocs"] > first["allocs"] and self.leak(unit)))
                self.assertGreaterEqual(later["tracked"], first["tracked"])

    def test_dump(self):
        """Through the socket-activated helper; the second target is under a seccomp filter."""
        with open(f"/proc/{self.pids['filtered']}/status", encoding="ascii") as f:
            self.assertRegex(f.read(), r"(?m)^Seccomp:\t2$")
        for unit in self.pids:
            with self.subTest(unit):
                dump = ask("dump", str(self.pids[unit]), "--type", TYPE)
                self.assertEqual(dump["suspects"][0]["type"], TYPE)
                path = dump["suspects"][0]["paths"][0]
                self.assertEqual(path["root"], {"kind": "module", "name": "__main__"})
                self.assertGreater(path["share"], 0.9)
                self.assertIn("KEPT", json.dumps(path["steps"]))
                for kind in ("snapshot", "svg", "json"):
                    self.assertGreater(os.path.getsize(dump["files"][kind]), 0, kind)
                self.assertEqual(show(unit, "ActiveState"), "active")

    def test_dumps_one_after_the_other(self):
        for _ in range(4):
            ask("dump", str(self.pids["plain"]), "--type", TYPE)

    def test_state_folder(self):
        mode = os.stat("/var/lib/pyleak")
        self.assertEqual(stat.S_IMODE(mode.st_mode), 0o700)
        self.assertEqual(mode.st_uid, 0)

    def test_another_user(self):
        nobody = ("runuser", "-u", "nobody", "--", "pyleakctl")
        run(*nobody, "status")
        refused = run(*nobody, "dump", str(self.pids["filtered"]), check=False)  # root's
        self.assertEqual(refused.returncode, 4, refused.stderr)
        run(*nobody, "dump", str(self.pids["plain"]), "--type", TYPE)  # its own

    def test_reload(self):
        pid = show("pyleakd", "MainPID")
        run("systemctl", "reload", "pyleakd")
        self.assertEqual(show("pyleakd", "ActiveState"), "active")
        with open(CONFIG, "w", encoding="ascii") as f:
            f.write("nonsense: 1\n")
        try:
            run("systemctl", "reload", "pyleakd")
            wait("it to go on with the old configuration", self.watched)
            self.assertEqual(show("pyleakd", "MainPID"), pid)
        finally:
            with open(CONFIG, "w", encoding="ascii") as f:
                f.write(CONFIG_TEXT)
            run("systemctl", "reload", "pyleakd")

    def test_restart_after_a_crash(self):
        pid = int(show("pyleakd", "MainPID"))
        os.kill(pid, signal.SIGKILL)
        wait("systemd to start it again", lambda: (
            show("pyleakd", "ActiveState") == "active" and int(show("pyleakd", "MainPID")) != pid))
        wait("it to watch again", self.watched)
        wait("a count again", lambda: self.counted("plain"))
        ask("dump", str(self.pids["plain"]), "--type", TYPE)

    def test_exposure(self):
        for unit, limit in (("pyleakd.service", 4.0), ("pyleak-capture@test.service", 7.0)):
            text = run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
            found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
            self.assertTrue(found, text)
            print(f"exposure of {unit}: {found.group(1)}")
            self.assertLessEqual(float(found.group(1)), limit)

    def test_stop_leaves_nothing(self):
        run("systemctl", "stop", "pyleakd")
        try:
            self.assertEqual(show("pyleakd", "Result"), "success")
            self.assertEqual(show("pyleakd", "ExecMainStatus"), "0")
            wait("every process of ours to end", lambda: not ours(), 10)
            # The lock between captures stays, as lock files do.
            self.assertLessEqual(set(os.listdir("/run/pyleak")), {"capture.lock"})
            for unit in self.pids:
                self.assertEqual(show(unit, "ActiveState"), "active")
            failed = run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout
            self.assertNotIn("pyleak", failed)
        finally:
            run("systemctl", "start", "pyleakd")
        wait("it to watch again", self.watched)


if __name__ == "__main__":
    program = unittest.main(exit=False, verbosity=2, argv=sys.argv[:1])
    if program.result.wasSuccessful() and program.result.testsRun:
        open("/srv/boot_test.passed", "w", encoding="ascii").close()
    else:
        print(run("journalctl", "--no-pager", "-n", "100", "-u", "pyleak*", check=False).stdout)
