# SPDX-License-Identifier: MIT
"""Counts, censuses and a dump on the kernel that this Debian brings (12: Linux 6.1, 13: 6.12), in a virtual
machine: its verifier sees other things than a newer one, and before 6.6 there are perf uprobes only."""

import json
import os
import re
import unittest

import guestlib
import harness

BESIDE = True  # pure computing: it is emulated
TIMEOUT = 1500
BOOT_AND_RUN = 1200  # seconds, beside everything else; alone 60

INIT = r"""
import json, time
PROGRAM = '''
import gc, sys, time
class Kept: pass
class Temp: pass
kept = [Kept() for i in range(5000)]
for i in range(3): gc.collect()
print("up", flush=True)
for line in sys.stdin:
    end = time.monotonic() + float(line)
    made = 0
    while time.monotonic() < end:
        for i in range(50): Temp()
        made += 50
        time.sleep(0.002)
    print(made, flush=True)
'''
ENV = {"PATH": "/usr/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8"}
def tell(name, value): print("GUEST", name, json.dumps(value), flush=True)
def ctl(*args):
    p = subprocess.run(["/build/pyleakctl", "--socket", "/run/s", "--json", *args], env=ENV, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE)
    return p.returncode, json.loads(p.stdout) if p.stdout else p.stderr.decode()
def row(top, name):
    keys = "quality", "count", "count_bound", "tracked", "tracked_bound", "allocs", "frees"
    return [{k: x[k] for k in keys} for x in top["types"] if x["type"] == name]
def work(seconds): t.stdin.write(b"%d\n" % seconds); t.stdin.flush()
def worked(): return int(t.stdout.readline())
try:
    t = subprocess.Popen(["/usr/bin/python3", "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENV)
    t.stdout.readline()
    pid = str(t.pid)
    for pause in ("1s", "1ms"):
        with open("/tmp/config", "w") as f:
            f.write("budget: {cpu: unlimited, pause: %s}\ngrowth: {interval: 5s, warmup: 0s}\n" % pause)
        d = subprocess.Popen(["/build/pyleakd", "--pid", pid, "--config", "/tmp/config", "--socket", "/run/s",
                              "--state-dir", "/tmp/state"], env=ENV)
        while ctl("status")[0] == 3 and d.poll() is None: time.sleep(0.5)
        if d.poll() is not None: tell("daemon", d.wait()); break
        seen, end = 0, time.monotonic() + 240
        while time.monotonic() < end and seen < 3:
            work(6)
            for i in range(2):
                code, top = ctl("top", pid, "--fresh", "-n", "0")
                if code:
                    tell("refused", top)
                    continue
                tell("census", [pause, ctl("status")[1]["targets"][0]["census"], row(top, "__main__.Kept")])
                seen += 1
            worked()
        before = row(ctl("top", pid, "--fresh", "-n", "0")[1], "__main__.Temp")
        work(1)
        made = worked()
        tell("made", [made, before, row(ctl("top", pid, "--fresh", "-n", "0")[1], "__main__.Temp")])
        if pause == "1ms": tell("dump", ctl("dump", pid, "--type", "__main__.Kept", "--force"))
        d.terminate()
        tell("daemon", d.wait())
    t.stdin.close()
    tell("target", t.wait())
finally:
    power_off()
"""


class Kernel(unittest.TestCase):
    def test_of_this_debian(self):
        guest = guestlib.Guest(self)
        for name in ("pyleakd", "pyleakctl", "pyleak-capture", "pyleak-explain"):
            guest.image.program(os.path.join(harness.BUILD, name), "/build/" + name)
        for path in ("/etc/passwd", "/etc/group"):
            guest.image.file(path)
        text = guest.run(INIT, BOOT_AND_RUN)
        said = {}
        for name, value in re.findall(r"^GUEST (census|made|dump|daemon|target) (.*)$", text, re.M):
            said.setdefault(name, []).append(json.loads(value))
        self.assertEqual((said.get("daemon"), said.get("target")), ([0, 0], [0]), text[-8000:])
        ways = set()
        for pause, census, (kept,) in said["census"]:
            ways.add((pause, census["way"]))
            self.assertLessEqual(abs(kept["tracked"] - 5000), kept["tracked_bound"], (census, kept))
            self.assertTrue(kept["tracked_bound"] == 0 or census["estimate"], (census, kept))
        self.assertEqual(ways, {("1s", "one-shot"), ("1ms", "stepwise")})
        for made, (before,), (after,) in said["made"]:
            self.assertEqual((before["quality"], after["quality"]), ("exact", "exact"))
            self.assertEqual((after["allocs"] - before["allocs"], after["frees"] - before["frees"]), (made, made))
        (code, dump), = said["dump"]
        self.assertEqual(code, 0, dump)
        path, = dump["suspects"][0]["paths"]
        self.assertEqual((path["root"], path["instances"]), ({"kind": "module", "name": "__main__"}, 5000))
        self.assertEqual(path["steps"][0]["edge"], ".kept")


if __name__ == "__main__":
    unittest.main()
