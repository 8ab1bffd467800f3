# SPDX-License-Identifier: MIT
"""Counts against the target's own census: equal, not close."""

import unittest

import harness

# Heavy churn over user classes of every kind; at each "go" it works and then tells the truth.
CHURN = r"""
import collections, dataclasses
class User:
    def __init__(self, n): self.n = n; self.tags = [n]; self.m = {'a': n}
class Slot:
    __slots__ = ('x', 'y')
    def __init__(self): self.x = []; self.y = ()
class MyList(list): pass
class MyDict(dict): pass
class Err(Exception): pass
class Cycle:
    def __init__(self): self.me = self
class Lazarus:
    kept = []
    def __del__(self):
        if len(Lazarus.kept) < 50: Lazarus.kept.append(self)
@dataclasses.dataclass
class Data:
    a: int
    b: list
keep = []
def work(r):
    for i in range(60): User(i); Slot(); MyList([1, 2]); MyDict(a=1); Data(1, []); Cycle(); Lazarus()
    try: raise Err('x')
    except Err: pass
    live = [User(i) for i in range(200)]
    keep.append(User(r)); keep.append(MyList([r])); keep.append(Data(r, []))
    if r % 3 == 0: keep.append(Slot()); keep.append(Cycle())
    class Passing: pass
    [Passing() for _ in range(20)]
    del keep[:len(keep) // 50]
NAMES = {c: '__main__.' + c.__name__ for c in (User, Slot, MyList, MyDict, Err, Cycle, Data, Lazarus)}
def truth():
    gc.collect(); gc.collect()
    c = collections.Counter(type(o) for o in gc.get_objects())
    return {n: c[k] for k, n in NAMES.items()}
r = 0
say('up')
while True:
    for _ in range(int(hear() or 0)): work(r); r += 1
    say(truth())
"""


class Counts(harness.RootTest):
    def agree(self, python):
        t = harness.Target(self, CHURN, python)
        t.hear()
        t.ask("20")  # all types exist, free lists are full
        d = harness.Daemon(self, t.pid)
        before = t.ask("0")
        first = d.top(t.pid, "--fresh")
        after = t.ask("400")
        second = d.top(t.pid, "--fresh")
        for name, live in after.items():
            row = second.get(name, {"tracked": 0, "allocs": 0, "frees": 0, "count": 0})
            with self.subTest(type=name):
                self.assertEqual(row["tracked"], live, "census against gc.get_objects()")
                self.assertEqual(row["count"], live)
                old = first.get(name, {"allocs": 0, "frees": 0})
                net = (row["allocs"] - old["allocs"]) - (row["frees"] - old["frees"])
                self.assertEqual(net, live - before[name], "births - deaths against the truth")
        self.assertGreater(second["__main__.User"]["allocs"], 100000)
        # Classes that were made and dropped left nothing that could be mistaken for another type.
        self.assertLess(sum(r.get("types", 1) for n, r in second.items() if "Passing" in n), 3)
        self.assertEqual(d.ask("status")["targets"][0]["dropped"], 0)

    def test_two_targets_of_one_binary(self):
        a = harness.Target(self, CHURN)
        b = harness.Target(self, CHURN)
        a.hear(), b.hear()
        a.ask("5"), b.ask("5")
        d = harness.Daemon(self, a.pid, b.pid)
        ta, tb = d.top(a.pid, "--fresh"), d.top(b.pid, "--fresh")
        live_a = a.ask("100")
        self.assertEqual(d.top(a.pid, "--fresh")["__main__.User"]["count"], live_a["__main__.User"])
        self.assertGreater(d.top(a.pid)["__main__.User"]["allocs"],
                           ta["__main__.User"]["allocs"] + 20000)
        self.assertEqual(d.top(b.pid)["__main__.User"]["allocs"], tb["__main__.User"]["allocs"])

    def test_child_is_not_counted(self):
        t = harness.Target(self, CHURN + "\n", name="parent.py")
        t.hear()
        t.ask("5")
        d = harness.Daemon(self, t.pid)
        code = r"""
class Kid: pass
say('up')
hear()
pid = os.fork()
if pid == 0:
    for _ in range(100000): Kid()
    os._exit(0)
os.waitpid(pid, 0)
[Kid() for _ in range(10)]
say('done')
hear()
"""
        p = harness.Target(self, code)
        p.hear()
        d = harness.Daemon(self, p.pid)
        p.ask()
        self.assertEqual(d.top(p.pid, "--fresh")["__main__.Kid"]["allocs"], 10)


def add(name, python):
    def test(self):
        self.agree(python)
    test.__doc__ = f"counts on {name}"
    setattr(Counts, "test_" + name.replace(".", "_"), test)


for _name, _python in harness.interpreters().items():
    add(_name, _python)

if __name__ == "__main__":
    unittest.main()
