# SPDX-License-Identifier: MIT
"""budget.cpu holds, and what is told under it is right or says how wrong it may be."""

import datetime
import signal
import time
import unittest

import harness

# Makes objects as fast as it can between "go" and "stop", and holds what "hold" says.
BUSY = r"""
import threading
class A: pass
class Held:
    __slots__ = ('x', '__weakref__')
class Row:
    def __init__(self, i): self.i = i; self.l = [i]
class Leaked: pass
held, leaked = [], []
going = False; rate = 0; leak = 0
def run():
    while True:
        while going:
            for _ in range(20000): A()
            if leak: leaked.extend([Leaked() for _ in range(leak)])
        time.sleep(0.001)
threading.Thread(target=run, daemon=True).start()
say('up')
while True:
    w = hear().split()
    if not w: break
    if w[0] == 'hold':
        held.extend(Held() for _ in range(int(w[1])))
        held.extend(Row(i) for i in range(int(w[1]) // 2))
    if w[0] == 'go': going = True
    if w[0] == 'leak': leak = int(w[1]); going = True
    if w[0] == 'stop': going = False; time.sleep(0.1)
    say({'Held': sum(type(o) is Held for o in held), 'Row': sum(type(o) is Row for o in held),
         'Leaked': len(leaked), 'cpu': time.process_time()})
"""

CONFIG = {"growth": {"interval": "500ms", "warmup": "0s", "window": "6s", "min_objects": 500},
          "budget": {"cpu": "1%", "pause": "5ms"}}


class Budget(harness.RootTest):
    def start(self, hold, code=BUSY, config=None, python=harness.SYSTEM_PYTHON):
        self.t = harness.Target(self, code, python)
        self.t.hear()
        self.t.ask(f"hold {hold}")
        self.d = harness.Daemon(self, self.t.pid, config=config or CONFIG)

    def budget(self):
        return self.d.ask("status")["targets"][0]["budget"]

    def overhead(self):
        return self.d.ask("status")["targets"][0]["overhead_percent"]

    def test_storm(self):
        """From idle to ten million objects a second: windows only, and within 1.5 times the budget."""
        self.start(2000)
        time.sleep(2)
        self.assertEqual(self.budget()["scope"], "everything")
        self.t.ask("go")
        self.d.wait_for(lambda: self.budget()["scope"] != "everything")
        b = self.budget()
        # What it took until the last breakpoint was gone: a tenth of a second at the very most.
        self.assertLess(b["hits"] * b["hit_ns"], 100e6)
        time.sleep(12)
        self.assertLessEqual(self.overhead(), 1.5)
        b = self.budget()
        self.assertGreater(b["windows"], 1)
        self.assertLess(b["observed_share"], 0.5)
        self.assertIn("short windows", b["reason"])
        # Levels are those of a census all the same. (A sample that comes between it and the answer makes
        # them estimates without a doubt.)
        def fresh():
            top = self.d.top(self.t.pid, "--fresh")
            rows = [top["__main__." + name] for name in ("Held", "Row")]
            self.assertEqual([(r["tracked"], r["tracked_bound"], r["count"]) for r in rows],
                             [(2000, 0, 2000), (1000, 0, 1000)], rows)
            return all(r["quality"] == "exact" for r in rows)

        self.assertTrue(fresh() or fresh() or fresh())
        # And when it is over everything is attached again.
        self.t.ask("stop")
        self.d.wait_for(lambda: self.budget()["scope"] == "everything")

    def test_heap_too_large_for_a_window(self):
        """Levels are read from its memory then, of classes, too, that nobody has made since."""
        for python in harness.interpreters().values():
            with self.subTest(python=python):
                self.start(200000, python=python)
                self.t.ask("go")
                self.d.wait_for(lambda: self.budget()["scope"] != "everything")
                top = self.d.wait_for(
                    lambda: (lambda x: x.get("__main__.Held", {}).get("count") is not None and x)(
                        self.d.top(self.t.pid, "--fresh")))
                truth = self.t.ask("stop")
                for name in ("Held", "Row"):
                    row = top["__main__." + name]
                    if row["quality"] == "estimate":
                        self.assertLessEqual(abs(row["count"] - truth[name]),
                                             row["count_bound"], row)
                        self.assertLessEqual(row["count_bound"], truth[name] / 50 + 64)
                    else:
                        self.assertEqual(row["count"], truth[name])
                    self.assertIsNone(row["alloc_rate"])
                self.d.end()
                self.t.end()

    def test_levels_are_of_their_time(self):
        """A large heap that grows by the thousand a second: what is told is true of when it says."""
        self.start(80000, code=BUSY.replace("say('up')\n", """
when = []
def watch():
    while True: when.append((time.time(), len(leaked))); time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
say('up')
""", 1).replace("'cpu': time.process_time()", "'when': when"))
        self.t.ask("leak 40")
        self.d.wait_for(lambda: self.d.top(self.t.pid).get("__main__.Leaked", {}).get("count"))
        told = {}
        end = time.monotonic() + 90  # until its memory was read again
        while len(told) < 2 and time.monotonic() < end:
            doc = self.d.ask("top", self.t.pid, "-n", 100000)
            told[doc["at"]] = next(x for x in doc["types"] if x["type"] == "__main__.Leaked")
            time.sleep(0.3)
        when = self.t.ask("stop")["when"]
        self.assertGreater(len(told), 1)
        for at, row in told.items():
            t = datetime.datetime.fromisoformat(at).timestamp()
            # While it was read, and while the watching thread waited for its turn.
            near = [n for x, n in when if abs(x - t) < 0.4]
            self.assertTrue(min(near) - row["count_bound"] <= row["count"]
                            <= max(near) + row["count_bound"], (row, min(near), max(near)))

    def test_classes_that_died_unseen(self):
        """Between two windows classes die and others take their places: none is taken for a dead one."""
        self.start(100, code=r"""
import threading
class A: pass
def storm():
    while True: [A() for _ in range(20000)]
kept = []
def replace():
    global kept
    kept = []; gc.collect()
    kept = [(c, [c() for _ in range(i + 1)])
            for i in range(60) for c in [type(f'New{i}', (), {'__slots__': ('x',)})]]
    return {c.__name__: (id(c), len(x)) for c, x in kept}
say('up'); hear()
kept = [(c, [c()]) for i in range(60) for c in [type(f'Old{i}', (), {'__slots__': ('x',)})]]
old = {id(c) for c, _ in kept}
del c if 'c' in globals() else kept[:0]
threading.Thread(target=storm, daemon=True).start()
say(len(old))
while hear():
    new = replace(); say([len(old & {a for a, _ in new.values()}), {k: n for k, (_, n) in new.items()}])
""".replace("del c if 'c' in globals() else kept[:0]\n", ""))
        self.d.wait_for(lambda: self.budget()["scope"] != "everything" and
                        "__main__.Old59" in self.d.top(self.t.pid, "--fresh"))
        time.sleep(1)
        again, truth = self.t.ask("replace")
        self.assertGreater(again, 0, "no address was used again, so nothing was tested")
        time.sleep(11)  # they are looked at every ten seconds
        rows = self.d.wait_for(lambda: (lambda x: x if "__main__.New59" in x else None)(
            self.d.top(self.t.pid, "--fresh")))
        for name, n in truth.items():
            self.assertEqual(rows["__main__." + name]["count"], n, rows["__main__." + name])
        self.assertFalse([k for k, x in rows.items() if ".Old" in k and x["count"]])

    def test_walked_while_it_waits(self):
        """Levels of one that mostly waits are read from its rings between two requests: exact."""
        self.start(4000, code=BUSY.replace("for _ in range(20000): A()",
                                           "[A() for _ in range(2000)]; time.sleep(0.02)"))
        self.t.ask("go")

        def walked():
            s = self.d.ask("status")["targets"][0]
            return s["budget"]["scope"] != "everything" and s["census"] and \
                s["census"]["way"] == "outside" and s["census"]["objects"]
        self.d.wait_for(walked)
        for _ in range(2):
            truth = self.t.ask("hold 500")
            rows = self.d.wait_for(lambda n=truth["Held"]: (
                lambda x: x if x["__main__.Held"]["tracked"] == n else None)(self.d.top(self.t.pid)))
            self.assertEqual(rows["__main__.Held"]["tracked_bound"], 0)
            self.assertEqual(rows["__main__.Row"]["tracked"], truth["Row"])
            self.assertEqual(rows["__main__.Row"]["tracked_bound"], 0)

    def test_leak_in_a_storm(self):
        # Its memory is read as often as a quarter of a percent of a CPU allows.
        self.start(1000, config=dict(CONFIG, growth=dict(CONFIG["growth"], window="12s")))
        self.t.ask("leak 5")
        found = self.d.wait_for(
            lambda: [s for s in self.d.ask("suspects", self.t.pid)["suspects"]
                     if s["type"] == "__main__.Leaked" and s["verdict"] == "leak"], 150, "verdict")
        self.assertGreater(found[0]["delta"], 500)
        self.assertFalse([s for s in self.d.ask("suspects", self.t.pid)["suspects"]
                          if s["type"] in ("__main__.Held", "__main__.Row", "__main__.A")])

    def test_unlimited(self):
        self.start(1000, config=dict(CONFIG, budget={"cpu": "unlimited"}))
        self.t.ask("go")
        time.sleep(3)
        b = self.budget()
        self.assertEqual((b["scope"], b["limit_percent"], b["windows"]), ("everything", None, 0))
        self.assertGreater(self.overhead(), 20)
        self.assertGreater(self.d.top(self.t.pid)["__main__.A"]["observed_share"], 0.999)
        # A reload that sets a budget is obeyed at once.
        with open(self.d.config, "w", encoding="utf-8") as f:
            f.write("growth: {interval: 500ms, warmup: 0s}\nbudget: {cpu: 1%}\n")
        self.d.process.send_signal(signal.SIGHUP)
        self.d.wait_for(lambda: self.budget()["scope"] != "everything")

    def test_births_of_instances(self):
        """Few instances of classes, many functions: the births of the former are counted all the time."""
        self.start(0, code=r"""
import threading
class A: pass
n = 0
def run():
    global n
    while True:
        for _ in range(3000): (lambda: 0)
        A(); n += 1
        time.sleep(0.001)
say('up'); hear(); say('held')
threading.Thread(target=run, daemon=True).start()
while hear(): say([n, time.monotonic()])
""")
        def settled():
            # Which of the two: some builds hide the births of functions. It comes and goes.
            if self.budget()["scope"] not in ("instances", "births"):
                return None
            n, at = self.t.ask("tell")
            time.sleep(3)
            rows, reason = self.d.top(self.t.pid), self.budget()["reason"]
            n2, at2 = self.t.ask("tell")
            seen = rows["__main__.A"]["alloc_rate_bound"] == 0 and " all the time" in reason
            return seen and (rows, (n2 - n) / (at2 - at))

        rows, truth = self.d.wait_for(settled, 120, "scope that lasts")
        row = rows["__main__.A"]
        self.assertLess(abs(row["alloc_rate"] - truth), 0.3 * truth, (row, truth))
        # Deaths are seen in windows.
        self.assertNotEqual(rows["function"]["free_rate_bound"], 0)

    def test_rates(self):
        """From windows: as many as there are, within the bound; and a bound that says something."""
        self.start(0, code=r"""
class A: pass
class B: pass
def work():
    for _ in range(60): A()
    for _ in range(6): B()
    x = 0
    for i in range(20000): x += i & 7
say('up'); hear(); say('held')
import threading
n = 0
def run():
    global n
    while True: work(); n += 1
threading.Thread(target=run, daemon=True).start()
while hear(): say([n, time.monotonic()])
""")
        self.d.wait_for(lambda: self.budget()["windows"] >= 6 and
                        self.d.top(self.t.pid)["__main__.B"]["alloc_rate"] is not None)
        n, at = self.t.ask("tell")
        time.sleep(5)
        rows = self.d.top(self.t.pid)
        n2, at2 = self.t.ask("tell")
        truth = (n2 - n) / (at2 - at)
        self.assertNotEqual(self.budget()["scope"], "everything")
        for name, each in (("A", 60), ("B", 6)):
            row = rows["__main__." + name]
            self.assertEqual(row["rates_quality"], "estimate")
            for rate in ("alloc_rate", "free_rate"):
                self.assertLess(row[rate + "_bound"], 0.6 * row[rate], row)
                # Two standard errors: twice that is hardly ever missed.
                self.assertLess(abs(row[rate] - each * truth), 2 * row[rate + "_bound"],
                                (row, truth))


if __name__ == "__main__":
    unittest.main()
