# SPDX-License-Identifier: MIT
"""Leaks with known holders (holders.py): for each one the right root, holder and share, in words."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import capturelib as lib
import harness

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../matrix"))
import builds  # noqa: E402

TIMEOUT = 600
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "holders.py")
EXPLAIN = os.path.join(harness.BUILD, "pyleak-explain")
AT_ONCE = 16  # explain.h


class Holders(unittest.TestCase):
    def start(self, build):
        here, there = build.folder()
        self.addCleanup(shutil.rmtree, here, ignore_errors=True)
        shutil.copy(PROGRAM, here)
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o", here + "/leaky.so",
                        os.path.join(os.path.dirname(PROGRAM), "leaky.c")], check=True)
        p = build.popen(there + "/holders.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def end():
            p.kill()
            p.wait()
            p.stdin.close()
            p.stdout.close()
        self.addCleanup(end)
        line = p.stdout.readline()
        self.assertTrue(line, f"the target ended with {p.poll()}")
        return p.pid, json.loads(line)

    def explain(self, pid, types):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        with open(os.path.join(folder, "snapshot"), "w+b") as f:
            result = lib.capture(pid, f)
            self.assertIsNotNone(result, f"the helper died: {lib.capture.status}")
            self.assertEqual(result.code, lib.DONE, result.text)
        suspects = {}
        for i in range(0, len(types), AT_ONCE):
            args = [x for t in types[i:i + AT_ONCE] for x in ("--type", t)]
            done = subprocess.run([EXPLAIN, *args, folder], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(os.path.join(folder, "dump.json"), encoding="utf-8") as f:
                document = json.load(f)
            suspects.update((s["type"], s) for s in document["suspects"])
            self.truncated = document["truncated"]
            for name in ("dump.json", "chain.dot", "chain.svg", "report.html"):
                os.unlink(os.path.join(folder, name))
        return suspects

    def check(self, build):
        self.addCleanup(build.end)
        pid, told = self.start(build)
        cases = told["cases"]
        suspects = self.explain(pid, ["leak." + c for c in cases])
        for name, wants in cases.items():
            with self.subTest(name):
                suspect = suspects["leak." + name]
                paths = [(p["root"]["kind"], p["root"]["name"], p["expression"], p["share"])
                         for p in suspect["paths"]]
                left = list(paths)
                for kind, root, expression, share in wants:
                    fits = [p for p in left if p[0] == kind and re.search(root, p[1]) and
                            re.search(expression, p[2]) and abs(p[3] - share) < 0.001]
                    self.assertTrue(fits, f"{name} wanted {kind}, {root}, {expression}, {share}: {paths}")
                    left.remove(fits[0])
                self.assertEqual(left, [])


    def row(self, name, how, roots=None):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        try:
            build = builds.find(name, how, builds.Roots(roots), folder)
        except builds.Unavailable as e:
            self.skipTest(f"cannot run here: {e}")
        self.check(build)


INTERPRETERS = r"""
import _xxsubinterpreters, json, sys
class Mine: pass
MINE = [Mine() for _ in range(30)]
OTHER = _xxsubinterpreters.create()  # it ends with the last reference to its id
_xxsubinterpreters.run_string(OTHER, '''
import collections
class Inner: pass
KEPT = {n: Inner() for n in range(40)}
collections.LEFT = [Inner() for _ in range(60)]
''')
print(json.dumps({"cases": {}}), flush=True)
sys.stdin.readline()
"""


class Interpreters(Holders):
    """Several in a process. Up to 3.8 they have one collector, later each its own, and only the
    main one's objects are read, which the dump says."""

    def check(self, build):
        self.addCleanup(build.end)
        here, there = build.folder()
        self.addCleanup(shutil.rmtree, here, ignore_errors=True)
        with open(os.path.join(here, "several.py"), "w", encoding="utf-8") as f:
            f.write(INTERPRETERS)
        p = build.popen(there + "/several.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(p.communicate, "\n")
        self.assertTrue(p.stdout.readline())
        shared = " 3.8" in " " + build.name
        suspects = self.explain(p.pid, ["__main__.Mine"] + ["__main__.Inner"] * shared)
        self.assertEqual([x["expression"] for x in suspects["__main__.Mine"]["paths"]], ["__main__.MINE[…]"])
        if shared:
            self.assertIsNone(self.truncated)
            self.assertEqual([(x["root"], x["expression"], x["share"]) for x in suspects["__main__.Inner"]["paths"]], [
                ({"kind": "module", "name": "interpreter 1: collections"}, "interpreter 1: collections.LEFT[…]", 0.6),
                ({"kind": "module", "name": "interpreter 1: __main__"}, "interpreter 1: __main__.KEPT['…']", 0.4)])
        else:
            self.assertEqual(self.truncated, {"level": "objects", "reason": "the process has 2 interpreters, and "
                                              "only the main one's objects are here"})

    def test_system_python(self):
        for name, how in builds.ROWS:
            if how[0] == "debian" and how[1] == builds.suite_here() and how[2] == "3.11":
                return self.row(name, how)
        self.skipTest("cannot run here: this release's own Python captures no process with several interpreters")


POOL = """
class Leak: pass
POOL = [Leak() for _ in range(3000)]
gc.collect()
CACHE = [Leak() for _ in range(2000)]
gc.collect()
def work():
    young = [Leak() for _ in range(50)]
    say("up"); hear()
work()
"""


class WhichLeak(unittest.TestCase):
    """Of those that were there before, those that came, and those that will go at once."""

    def test_which(self):
        target = harness.Target(self, POOL)
        target.hear()
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        with open(os.path.join(folder, "snapshot"), "w+b") as f:
            self.assertEqual(lib.capture(target.pid, f).code, lib.DONE)
        done = subprocess.run([EXPLAIN, "--type", "__main__.Leak", "--grown", "2050", folder],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(folder, "dump.json"), encoding="utf-8") as f:
            suspect = json.load(f)["suspects"][0]
        self.assertEqual((suspect["instances"], suspect["leaking"]), (5050, 2000))
        self.assertIn("since the growth began", suspect["chosen"])
        self.assertEqual([(p["instances"], p["leaking"]) for p in suspect["paths"]],
                         [(2000, 2000), (3000, 0), (50, 0)])
        self.assertIn("all of the 2 000", suspect["paths"][0]["sentence"].replace("\u202f", " "))


class SystemPython(Holders):
    """Every build there is: tests/long/test_every_holder.py."""

    def test_holders(self):
        for name, how in builds.ROWS:
            if how[0] == "debian" and how[1] == builds.suite_here():
                return self.row(name, how)
        self.skipTest("cannot run here: this release's own Python is none of the known builds")


if __name__ == "__main__":
    unittest.main()
