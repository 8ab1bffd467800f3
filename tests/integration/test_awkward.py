# SPDX-License-Identifier: MIT
"""Types of extensions, which make and free their objects in every way there is (awkward.c): what is
called exact is exact, an estimate is within its bound, also between two censuses, and what keeps its dead
to use them again, or lays its objects by hand, is exact all the same."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../matrix")]

import harness  # noqa: E402
import matrix  # noqa: E402

LONG = os.environ.get("PYLEAK_LONG") == "1"
SOME = ["Generic", "Pool8", "Pool500", "AllByHand", "Lazy", "Never", "Twice", "Rising", "SharedOne", "SharedOther",
        "SubPool500", "SamePool500", "SubNever", "Plain", "Caught"]
POOLED = ("awkward.Pool8", "awkward.Pool500", "sub.SamePool500")
# The collector does not track all of them, nor any of the small ones.
HIDDEN = ("Lazy", "Never", "Leaver", "Small", "SmallGeneric", "SmallPool")
WINDOWS = 14
CONFIG = {"growth": {"interval": "200ms", "warmup": "0s", "window": "1h", "min_objects": 1000000},
          "budget": {"cpu": "unlimited", "pause": "1ms"}}


class Scene:
    """A target, and a daemon beside it."""

    def __init__(self, test, python):
        folder = tempfile.mkdtemp()
        test.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        include = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"],
            capture_output=True, text=True, check=True).stdout.strip()
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-I", include, "-o", f"{folder}/awkward.so",
                        os.path.join(HERE, "awkward.c")], check=True)
        self.test = test
        self.process = subprocess.Popen(
            [python, os.path.join(HERE, "awkward.py"), folder] + ([] if LONG else SOME),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"))
        test.addCleanup(self.end)
        self.pid = self.process.pid
        self.truth = self.hear()

    def hear(self):
        line = self.process.stdout.readline()
        self.test.assertTrue(line, "the target has ended")
        self.truth = json.loads(line)
        return self.truth

    def ask(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.hear()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def is_hidden(name):
    kind = name.rpartition(".")[2]
    return kind in HIDDEN or (kind.startswith(("Sub", "Same")) and kind.endswith(HIDDEN[:3]))


class Awkward(harness.RootTest):
    def compare(self, scene, top, counted=False):
        """counted: by births and deaths since the last census. Nobody counts those of the small ones
        that share a tp_dealloc with others; and while it is busy it makes and drops plain ones."""
        row = matrix.Row("")
        for name, real in scene.truth["alive"].items():
            if counted and (name.startswith("awkward.Small") or name == "__main__.Plain"):
                continue
            if name in top:
                matrix.check_level(row, name, top[name], real)
            elif name != "awkward.SmallPool":  # too few are born of it at a site to know it
                row.fail(name, "not in top")
        self.assertEqual(row.failures, [])

    def see(self, python):
        t = Scene(self, python)
        t.ask("work 10")
        t.ask("hold 300")
        d = harness.Daemon(self, t.pid, config=CONFIG)

        def not_exact(top):
            return [n for n in t.truth["alive"] if n in top and top[n]["quality"] != "exact" and
                    not is_hidden(n) and n not in ("__main__.First", "__main__.Second")]

        # Two windows for the proof and its confirmation, behind those in which probes are attached.
        for i in range(WINDOWS * (4 if LONG else 1)):
            before = d.top(t.pid)
            t.ask("work 60")
            fresh = d.top(t.pid, "--fresh")
            if i:  # the first reading has told of what is hidden
                self.compare(t, fresh)
            for name in POOLED:  # nor is one forgotten that was dead before
                rows = before.get(name), d.top(t.pid)[name]
                if all(r and r["rates_quality"] == "exact" for r in rows):
                    self.assertEqual(rows[1]["allocs"] - rows[0]["allocs"], 60 * 20, name)
            if not not_exact(d.top(t.pid)):
                break
        self.assertEqual(not_exact(d.top(t.pid)), [])
        # From the last census on counters alone.
        t.ask("busy")
        d.wait_for(lambda: d.ask("status")["targets"][0]["reason"], what="census that fails")
        counted = 0
        for more in (1000, -700, 600, -500, 400, -300, 200, -100):
            census = d.ask("top", t.pid)["census_at"]
            t.ask(f"hold {more}")
            time.sleep(0.7)
            now = d.ask("top", t.pid, "-n", 100000)
            if now["census_at"] != census:
                continue  # that was not counted but looked at
            top = {row["type"]: row for row in now["types"]}
            self.compare(t, top, counted=True)
            self.assertEqual([n for n in not_exact(top) if n != "__main__.Plain"], [])
            counted += 1
            if counted == 2:
                break
        self.assertEqual(counted, 2)

    def test_system(self):
        self.see(harness.SYSTEM_PYTHON)


def add(name, python):
    def test(self):
        self.see(python)
    test.__doc__ = f"types of extensions on {name}"
    setattr(Awkward, "test_" + name.replace(".", "_"), test)


if LONG:
    for _name, _python in harness.interpreters().items():
        add(_name, _python)

if __name__ == "__main__":
    unittest.main()
