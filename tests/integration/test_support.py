# SPDX-License-Identifier: MIT
"""pyleakd --support, perf uprobes instead of uprobe_multi links, and Pythons that are not watched
as a whole or not at all."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest

import harness
import test_counts
import test_forks

IDLE = "say('up'); hear()"

# What the first bytes of a build without the GIL look like from outside (3.13 and later:
# Include/internal/pycore_debug_offsets.h), for there is none in Debian to test with.
FREE_THREADED = r"""
#include <stdint.h>
#include <unistd.h>
struct { char cookie[8]; uint64_t version, free_threaded; char rest[4096]; }
	_PyRuntime = {"xdebugpy", 0x030e00f0, 1, {1}};
const uint32_t Py_Version = 0x030e00f0;
uint64_t PyType_Type[64] = {0, 0xffffffff00000000};
int main(void)
{
	char c;
	if (write(1, "\"up\"\n", 5) != 5) return 1;
	return read(0, &c, 1) < 0;
}
"""


def support(*args, **env):
    return harness.Answer(subprocess.run(
        [f"{harness.BUILD}/pyleakd", "--support", *args], capture_output=True, text=True, timeout=120,
        check=False, env=dict(os.environ, **env)))


class Support(harness.RootTest):
    def row(self, pid, **env):
        return next(p for p in support("--json", **env).json["pythons"] if p["pid"] == pid)

    def test_each_python(self):
        targets = {name: harness.Target(self, IDLE, python)
                   for name, python in harness.interpreters().items()}
        for t in targets.values():
            t.hear()
        doc = support("--json").json
        self.assertTrue(doc["probes"])
        rows = {p["pid"]: p for p in doc["pythons"]}
        for name, t in targets.items():
            with self.subTest(python=name):
                row = rows[t.pid]
                self.assertTrue(row["supported"])
                if name != "system":
                    self.assertEqual(row["python"].split(".")[:2], name.split(".")[:2])
                self.assertEqual({s["kind"] for s in row["site_list"]}, {"birth", "death"})
                self.assertFalse([s for s in row["site_list"] if s["stepped"]])
                self.assertEqual(row["expect"], {"levels": "exact", "rates": "exact"})
                self.assertEqual(row["missing"], [])
                self.assertEqual(row["interpreters"], 1)
                self.assertEqual(test_forks.breakpoints(t.pid), 0, "it has let go")

    def test_host(self):
        host = support("--json").json["host"]
        for way in ("uprobe_multi", "perf"):
            if host[way]["works"]:
                self.assertGreater(host[way]["cost_ns"], 0)
            else:
                self.assertTrue(host[way]["reason"])
        self.assertEqual(host["ptrace"],
                         {"seize": True, "suspend_seccomp": True, "read_memory": True})
        self.assertTrue(all(host["capabilities"].values()))
        self.assertRegex(host["library"], r"libbpf v\d")

    def test_table(self):
        t = harness.Target(self, IDLE)
        t.hear()
        out = support().out
        self.assertIn(f"pid {t.pid} (python3): CPython 3.", out)
        for word in ("probes", "fallback", "privilege", "ptrace", "capture", "expect"):
            self.assertRegex(out, rf"(?m)^  {word} ")
        self.assertRegex(out, r"PyObject_GC_Del\+\d+ \w+ \((emulated|STEPPED)\)")
        self.assertLessEqual(max(len(x) for x in out.splitlines() if not x.startswith("pid")), 102)

    def test_no_privilege(self):
        if not shutil.which("setpriv"):
            self.skipTest("needs setpriv of util-linux")
        a = harness.Answer(subprocess.run(
            ["setpriv", "--bounding-set", "-bpf,-perfmon,-sys_admin", "--",
             f"{harness.BUILD}/pyleakd", "--support", "--json"],
            capture_output=True, text=True, timeout=60, check=False))
        self.assertEqual(a.code, 4)
        self.assertIn("CAP_BPF and CAP_PERFMON", a.json["probes_reason"])
        self.assertFalse(a.json["host"]["capabilities"]["CAP_BPF"])

    def test_free_threaded(self):
        if not shutil.which("gcc"):
            self.skipTest("needs gcc to make something that looks like a free-threaded Python")
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        source, program = os.path.join(folder, "fake.c"), os.path.join(folder, "python3.14t")
        with open(source, "w", encoding="utf-8") as f:
            f.write(FREE_THREADED)
        subprocess.run(["gcc", "-rdynamic", "-o", program, source], check=True)
        t = harness.Target(self, "", program)
        t.hear()
        row = self.row(t.pid)
        self.assertFalse(row["supported"])
        self.assertIn("CPython 3.14.0 is a free-threaded build", row["reason"])
        self.assertIn("not supported", row["reason"])
        self.assertIn("NOT SUPPORTED", support().out)
        a = harness.pyleakd("--pid", str(t.pid))
        self.assertEqual(a.code, 1)
        self.assertRegex(a.err, r"^pyleakd: .*free-threaded[^\n]*\n$")


class Perf(harness.RootTest):
    """PYLEAK_FORCE_PERF=1: one perf uprobe a site, as on kernels without uprobe_multi links."""

    FORCED = dict(os.environ, PYLEAK_FORCE_PERF="1")

    def setUp(self):
        super().setUp()
        way = support("--json").json["host"]["perf"]
        if not way["works"]:
            self.skipTest("no perf uprobes here: " + way["reason"])

    def test_says_so(self):
        self.assertEqual(support("--json", PYLEAK_FORCE_PERF="1").json["probes_way"], "perf")

    def test_counts(self):
        t = harness.Target(self, test_counts.CHURN)
        t.hear()
        t.ask("20")
        d = harness.Daemon(self, t.pid, env=self.FORCED)
        before = t.ask("0")
        first = d.top(t.pid, "--fresh")
        after = t.ask("100")
        second = d.top(t.pid, "--fresh")
        for name, live in after.items():
            with self.subTest(type=name):
                row, old = second[name], first.get(name, {"allocs": 0, "frees": 0})
                self.assertEqual(row["tracked"], live)
                self.assertEqual((row["allocs"] - old["allocs"]) - (row["frees"] - old["frees"]),
                                 live - before[name])
        self.assertGreater(second["__main__.User"]["allocs"], 20000)

    def test_threads_and_children(self):
        """All threads count, and a child is rid of a breakpoint the first time it meets it."""
        code = r"""
import threading
class Work: pass
def work():
    for _ in range(500): [Work() for _ in range(10)]
say('up')
hear()
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
r, w = os.pipe(); r2, w2 = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(w)
    while os.read(r, 1): work(); os.write(w2, b'x')
    os._exit(0)
say(pid)
hear()
os.write(w, b'x'); os.read(r2, 1)
say(0)
hear()
"""
        # A file of its own: the kernel leaves a breakpoint where another tool's probe, on the same
        # place of the same file, does not say that it may go.
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        python = shutil.copy(os.path.realpath(harness.SYSTEM_PYTHON), folder)
        t = harness.Target(self, code, python)
        t.hear()
        d = harness.Daemon(self, t.pid, env=self.FORCED)
        watched = test_forks.breakpoints(t.pid)
        child = t.ask()
        row = d.top(t.pid, "--fresh")["__main__.Work"]
        self.assertEqual((row["allocs"], row["frees"]), (20000, 20000))
        t.ask()
        self.assertLess(test_forks.breakpoints(child), watched)
        self.assertGreaterEqual(test_forks.breakpoints(t.pid), watched)
        self.assertEqual(d.stop(), 0)
        self.assertEqual(test_forks.breakpoints(t.pid), 0)

    def test_missing_privilege(self):
        """CVE-2025-38466: since then perf uprobes are for CAP_SYS_ADMIN only."""
        if not shutil.which("setpriv"):
            self.skipTest("needs setpriv of util-linux")
        a = harness.Answer(subprocess.run(
            ["setpriv", "--bounding-set", "-sys_admin", "--", f"{harness.BUILD}/pyleakd",
             "--support", "--json"], capture_output=True, text=True, timeout=60, check=False))
        perf = a.json["host"]["perf"]
        if perf["works"]:
            self.skipTest("this kernel is older than the rule")
        self.assertRegex(perf["reason"], re.compile("not permitted, CAP_SYS_ADMIN missing"))
        self.assertTrue(a.json["host"]["uprobe_multi"]["works"], "CAP_BPF and CAP_PERFMON do there")


SUB = r"""
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
class Main: pass
keep, subs = [], []
say('up')
while True:
    word, _, n = hear().partition(' ')
    if word == 'make': keep += [Main() for _ in range(int(n))]; [Main() for _ in range(int(n))]
    elif word == 'sub':
        subs.append(interpreters.create())
        interpreters.run_string(subs[-1], "import gc\nclass Sub: pass\nkeep = [Sub() for _ in range(500)]")
    elif word == 'end': interpreters.destroy(subs.pop()); gc.collect()
    elif word != 'tell': break
    say(sum(type(o) is Main for o in gc.get_objects()))
"""


class SubInterpreters(harness.RootTest):
    def excluded(self, python):
        t = harness.Target(self, SUB, python)
        t.hear()
        d = harness.Daemon(self, t.pid)
        status = lambda: d.ask("status")["targets"][0]
        t.ask("make 1000")
        self.assertEqual(d.top(t.pid, "--fresh")["__main__.Main"]["count"], 1000)
        t.ask("sub")
        self.assertIn("1 sub-interpreter, whose objects are in lists of their own",
                      status()["reason"])
        row = next(p for p in support("--json").json["pythons"] if p["pid"] == t.pid)
        self.assertEqual((row["interpreters"], row["expect"]["levels"]), (2, "blind"))
        self.assertIn("there is 1 sub-interpreter,", row["missing"][0])
        # Counted on, without a census.
        d.ctl("top", t.pid, "--fresh")
        at = status()["census"]["at"]
        live = t.ask("make 700")
        self.assertEqual(live, 1700)
        d.wait_for(lambda: d.top(t.pid)["__main__.Main"]["count"] == live)
        self.assertEqual(status()["census"]["at"], at)
        # And with one again when it is alone.
        live = t.ask("end")
        self.assertNotIn("sub-interpreter", status()["reason"])
        d.wait_for(lambda: t.ask("tell") and status()["census"]["at"] != at)
        row = d.top(t.pid, "--fresh")["__main__.Main"]
        self.assertEqual((row["count"], row["tracked"]), (live, live))


def add(name, python):
    def test(self):
        self.excluded(python)
    test.__doc__ = f"sub-interpreters on {name}"
    setattr(SubInterpreters, "test_" + name.replace(".", "_"), test)


for _name, _python in harness.interpreters().items():
    add(_name, _python)

if __name__ == "__main__":
    unittest.main()
