# SPDX-License-Identifier: MIT
"""pyleak-capture on real processes: that a snapshot is the heap, and what is refused. That the
target is never worse off is proved in tests/safety."""
import array
import collections
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import capturelib as lib  # noqa: E402
from capturelib import Case, children, status  # noqa: E402
from harness import SYSTEM_PYTHON, Target, interpreters  # noqa: E402

TIMEOUT = 1500

# Objects of many shapes, then the truth about every one of them: what the collector tracks, what
# each refers to, how large it is.
TRUTH = r'''
import array, asyncio, collections, functools, weakref
class Plain:
    def __init__(self, i): self.number = i; self.text = "t%d" % i; self.me = self
class Many:
    def __init__(self):
        for i in range(40): setattr(self, "attribute_%d" % i, [i])
class Slots:
    __slots__ = ("left", "right", "__weakref__")
class SlotsAndDict(Slots):
    __slots__ = ("third", "__dict__")
class MyList(list): pass
class MyDict(dict): pass
class MyTuple(tuple): pass
class MyInt(int): pass
class MyError(Exception): pass
class Meta(type): pass
class WithMeta(metaclass=Meta):
    kept = [1, 2, 3]
Point = collections.namedtuple("Point", "x y")
def closure(a, b=[1, 2], *, c={"d": 4}):
    def inner(): return a, b, c
    return inner
def generator(n):
    held = [n]
    for i in range(n): yield held, i
async def coroutine(x):
    kept = {"x": x}
    await asyncio.sleep(1)
    return kept
HEAP = []
def build():
    for i in range(300):
        p = Plain(i); HEAP.append(p)
        if i % 3 == 0: p.__dict__
        if i % 5 == 0: p.late = object()
    HEAP.append(Many())
    s = SlotsAndDict(); s.left = [1]; s.right = "r"; s.third = {2: 3}; s.extra = (1, [2])
    HEAP.append(s); HEAP.append(Slots())
    l = MyList([[], [], None]); l.note = "n"; HEAP.append(l)
    d = MyDict({"a": [1], (1, 2): [2], 3: "three"}); d.note = []; HEAP.append(d)
    HEAP.append(MyTuple(([], {}))); HEAP.append(MyInt(5)); HEAP.append(Point([1], [2]))
    HEAP.append({i: [i] for i in range(50)}); HEAP.append({"k%d" % i: [i] for i in range(50)})
    gap = {i: [i] for i in range(20)}; del gap[3]; HEAP.append(gap)
    gap2 = {"k%d" % i: [i] for i in range(20)}; del gap2["k3"]; HEAP.append(gap2)
    HEAP.append({frozenset([1, 2]), Point(1, 2)}); HEAP.append(frozenset([(1, "x")]))
    HEAP.append(collections.OrderedDict(a=[1], b=[2]))
    HEAP.append(collections.defaultdict(list, a=[1]))
    HEAP.append(collections.deque([[i] for i in range(200)], maxlen=1000))
    HEAP.append(closure([1])); HEAP.append(functools.partial(closure, [1], c=2))
    HEAP.append([].append); HEAP.append(p.__init__)
    g = generator(5); next(g); HEAP.append(g); HEAP.append(generator(3))
    done = generator(0); list(done); HEAP.append(done)
    c = coroutine([1]); HEAP.append(c)
    try: raise MyError("m", [1])
    except MyError as e: HEAP.append(e)
    HEAP.append(weakref.ref(p, lambda r: None)); HEAP.append(WithMeta); HEAP.append(slice([1], [2]))
    HEAP.append(property(lambda self: 1)); HEAP.append(super(Plain, p)); HEAP.append(iter([1, 2]))
    HEAP.append(bytearray(b"x" * 100)); HEAP.append(range(5)); HEAP.append(zip([1], [2]))
    HEAP.append(type("Made", (), {"value": [1]})); HEAP.append(memoryview(b"abc"))
    HEAP.append(sys.flags); HEAP.append(os.stat("/"))
build()
def record(path):
    gc.collect(); gc.disable()
    out = array.array("Q")
    objs = gc.get_objects()
    for o in objs:
        r = gc.get_referents(o)
        out.append(id(o)); out.append(len(r))
        for x in r: out.append(id(x))
    o = r = x = None
    f = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(f, out.tobytes()); os.close(f)
    sizes = [(id(o), sys.getsizeof(o), type(o).__name__) for o in HEAP]
    say({"list": id(objs), "sizes": sizes, "heap": id(HEAP), "frozen": gc.get_freeze_count()})
    o = sizes = None
    os.read(0, 100)  # not hear(): what it waits with are objects that were not there before
    for o in HEAP:
        if hasattr(o, "close") and hasattr(o, "cr_frame"): o.close()
hear()
record(sys.argv[1])
'''


def truth(path):
    with open(path, "rb") as f:
        a = array.array("Q", f.read())
    at, objects = 0, {}
    while at < len(a):
        n = a[at + 1]
        objects[a[at]] = collections.Counter(a[at + 2:at + 2 + n])
        at += 2 + n
    return objects


class Truth(Case):
    """Nodes are gc.get_objects(), edges are gc.get_referents(), one for one."""

    def check(self, python):
        folder = tempfile.mkdtemp()
        path = os.path.join(folder, "truth")
        self.addCleanup(os.rmdir, folder)
        self.addCleanup(os.unlink, path)
        # the interpreter's own sys.argv: the harness passes only the script
        target = Target(self, TRUTH.replace("sys.argv[1]", repr(path)), python)
        target.say()
        told = target.hear()
        result, snap = self.snapshot(target.pid)
        want = truth(path)
        tracked = {n.addr: n for n in snap.nodes if n.flags & lib.TRACKED}
        self.assertEqual(result.skipped, 0)
        self.assertEqual(result.truncated, 0, result.text)
        self.assertEqual(result.objects, len(snap.nodes))
        # not in that list: the list itself, and the frozen generation (3.12 keeps tuples there)
        extra = set(tracked) - set(want) - {told["list"]}
        missing = set(want) - set(tracked)
        extra = collections.Counter(tracked[a].type for a in extra)
        self.assertEqual(sum(extra.values()), told["frozen"], extra)
        self.assertEqual([hex(a) for a in missing], [])
        wrong = []
        for addr, referents in want.items():
            node = tracked[addr]
            got = collections.Counter(e.to for e in node.edges)
            if got != referents:
                wrong.append((node.type, got - referents, referents - got))
        self.assertEqual(wrong, [])
        # attributes beside the object: getsizeof() leaves them out
        minor = int(snap.meta["python"].split(".")[1])
        inline = {"Plain", "Many"} if minor >= 13 else set()
        if minor >= 14:
            inline |= {"SlotsAndDict", "MyList", "MyError"}
        for addr, size, name in told["sizes"]:
            node = snap.by_addr[addr]
            if name in inline:
                self.assertGreaterEqual(node.bytes, size, name)
            else:
                self.assertEqual(node.bytes, size, name)
        for node in snap.nodes:
            self.assertTrue(node.flags & lib.IMMORTAL or node.refcount > 0, node[:4])
        target.say()
        self.assertEqual(target.process.wait(30), 0)
        return snap, told

    def check_labels(self, snap, told):
        heap = snap.by_addr[told["heap"]]
        self.assertEqual(sorted(e.arg for e in heap.edges), list(range(len(heap.edges))))
        self.assertEqual({e.kind for e in heap.edges}, {"INDEX"})
        by_type = collections.defaultdict(list)
        for e in heap.edges:
            by_type[snap.by_addr[e.to].type].append(snap.by_addr[e.to])

        def attributes(node):
            """As the program sees them: beside the object or in its dict."""
            found = {}
            for e in node.edges:
                if e.kind == "ATTR":
                    found[e.arg] = e.to
                if e.kind == "DICT":
                    for k in snap.by_addr[e.to].edges:
                        if k.kind == "KEY":
                            found[k.arg] = k.to
            return found

        for node in by_type["__main__.Plain"]:
            found = attributes(node)
            self.assertLessEqual({"number", "text", "me"}, set(found), node.edges)
            self.assertEqual(found["me"], node.addr)
        many = by_type["__main__.Many"][0]
        self.assertLessEqual({f"attribute_{i}" for i in range(40)}, set(attributes(many)))
        both = by_type["__main__.SlotsAndDict"][0]
        self.assertLessEqual({"left", "right", "third", "extra"}, set(attributes(both)))
        dicts = by_type["dict"]
        self.assertEqual(len(dicts), 4)
        for node in dicts:
            values = [e for e in node.edges if e.kind == "ITEM"]
            self.assertGreaterEqual(len(values), 19, "keys made at run time are not named")
            self.assertFalse([e for e in node.edges if e.kind in ("KEY", "PLAIN")], node)
        members = by_type["set"][0].edges
        self.assertEqual({e.kind for e in members}, {"MEMBER"})
        deque = [e for e in by_type["collections.deque"][0].edges if e.kind == "INDEX"]
        self.assertEqual([e.arg for e in deque], list(range(200)))
        inner = [n for n in by_type["function"] if n.name == "closure.<locals>.inner"][0]
        cells = [e.to for e in inner.edges if e.kind == "ATTR" and e.arg == "__closure__"]
        names = {e.arg for i in snap.by_addr[cells[0]].edges for e in snap.by_addr[i.to].edges
                 if e.kind == "CELL"}
        self.assertEqual(names, {"a", "b", "c"})
        # modules and frames
        modules = {r.name: r.addr for r in snap.roots if r.kind == 1}
        self.assertEqual(snap.by_addr[modules["__main__"]].type, "module")
        self.assertIn("collections", modules)
        self.assertEqual(snap.by_addr[modules["json.decoder"]].name, "json.decoder")
        frames = [r for r in snap.roots if r.kind == 3 and " in record at target.py:" in r.name]
        self.assertTrue(frames, snap.roots)
        self.assertTrue(frames[0].name.startswith("MainThread in record"))
        if frames[0].edge_kind == "LOCAL":
            local = {r.edge_arg: r.addr for r in frames if r.edge_kind == "LOCAL"}
        else:  # up to 3.10 the frame is an object
            local = {e.arg: e.to for e in snap.by_addr[frames[0].addr].edges if e.kind == "LOCAL"}
        self.assertEqual(local["objs"], told["list"])

    def test_heap_is_the_truth(self):
        for version, python in interpreters().items():
            with self.subTest(version):
                snap, told = self.check(python)
                self.check_labels(snap, told)


class Keys(Case):
    CODE = """
import threading
TOKENS = {}
for i in range(50): TOKENS["secret%dabcdef" % i] = "value-%d" % i
CONFIG = {"debug": [1], "plain words": [2]}
class Thing: pass
t = Thing(); setattr(t, "attribute_made_%d" % 7, [1]); t.known = "password-hunter2"
sys.intern("secret_interned_%d" % 1)
TOKENS[sys.intern("secret_interned_%d" % 2)] = 1
say("ready"); hear()
"""

    def texts(self, keys):
        target = Target(self, self.CODE)
        target.hear()
        _, snap = self.snapshot(target.pid, keys=keys)
        return set(snap.strings), snap

    def test_default_names_no_data(self):
        strings, snap = self.texts(lib.KEYS_IDENTIFIERS)
        self.assertFalse([s for s in strings if "secret" in s])
        self.assertFalse([s for s in strings if "value-" in s or "hunter2" in s])
        self.assertLessEqual({"TOKENS", "CONFIG", "debug", "known", "attribute_made_7"}, strings)
        self.assertNotIn("plain words", strings)
        self.assertNotIn(b"hunter2", snap.raw)

    def test_off_names_no_key(self):
        strings, _ = self.texts(lib.KEYS_OFF)
        self.assertFalse(strings & {"TOKENS", "CONFIG", "debug", "known"})

    def test_all_names_every_key_and_no_value(self):
        strings, snap = self.texts(lib.KEYS_ALL)
        self.assertLessEqual({"secret7abcdef", "plain words", "TOKENS"}, strings)
        self.assertNotIn(b"hunter2", snap.raw)
        self.assertNotIn(b"value-1", snap.raw)


class Namespaces(Case):
    def test_another_pid_namespace(self):
        """In a container threads and children have other numbers than here."""
        code = ("import os, threading, time\nprint(os.getpid(), flush=True)\n"
                "def spin():\n    while True: sum(range(1000))\n"
                "threading.Thread(target=spin, daemon=True).start()\ntime.sleep(600)\n")
        for version, python in interpreters().items():
            if version != "system" and not version.startswith(("3.8", "3.13")):
                continue
            with self.subTest(version):
                outer = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child",
                                          "--mount-proc", python, "-c", code],
                                         stdout=subprocess.PIPE, text=True)
                try:
                    self.assertEqual(outer.stdout.readline(), "1\n")
                    pid = children(outer.pid)[0]
                    for _ in range(3):
                        self.snapshot(pid)
                        self.assertEqual(children(pid), [])
                finally:
                    outer.kill()
                    outer.wait()
                    outer.stdout.close()


class Degrades(Case):
    """Where the whole graph does not fit: what leads to the suspects; counts; a refusal. Never a part of
    the graph that looks like the whole."""

    CODE = """
class Session: pass
class Cache:
    def __init__(self): self.entries = {}
class Ballast: pass
CACHE = Cache()
for i in range(2000):
    CACHE.entries[i] = [Session()]
ballast = [[Ballast()] for i in range(150000)]
say(id(CACHE)); hear(); say(2)
"""

    def degraded(self, python=SYSTEM_PYTHON, **options):
        target = Target(self, self.CODE, python)
        cache = target.hear()
        result, snap = self.snapshot(target.pid, **options)
        self.assertEqual(target.ask(), 2)
        self.check_well(target)
        self.assertEqual(bool(result.truncated), bool(snap.meta["truncated"]))
        return result, snap, cache

    def test_neighbourhood(self):
        for version, python in interpreters().items():
            with self.subTest(version):
                result, snap, cache = self.degraded(python, memory_mib=6, types=["x.None", "*.Session"])
                self.assertEqual(snap.meta["truncated"]["level"], "neighbourhood")
                self.assertIn("memory", result.text)
                sessions = [n for n in snap.nodes if n.type == "__main__.Session"]
                self.assertEqual(len(sessions), 2000)
                self.assertFalse([n for n in snap.nodes if n.type == "__main__.Ballast"])
                # every session hangs on a list, that on the dict, and so on up to the module
                held = collections.defaultdict(set)
                for n in snap.nodes:
                    for e in n.edges:
                        held[e.to].add(n.addr)
                for s in sessions:
                    self.assertEqual([snap.by_addr[a].type for a in held[s.addr]], ["list"])
                reached, at = set(), [sessions[0].addr]
                while at:
                    a = at.pop()
                    if a not in reached:
                        reached.add(a)
                        at.extend(held[a])
                self.assertIn(cache, reached)
                modules = {r.addr for r in snap.roots if r.kind == 1 and r.name == "__main__"}
                self.assertTrue(modules & reached)

    def test_neighbourhood_has_an_end(self):
        """Holders farther away than it goes are missing, and it says how far that is."""
        target = Target(self, self.CODE.replace("say(id(CACHE))", """
class Deep: pass
chain = [Deep()]
for i in range(99): chain = [chain]
say(id(CACHE))"""))
        target.hear()
        _, snap = self.snapshot(target.pid, memory_mib=6, types=["*.Deep"])
        self.assertEqual(snap.meta["truncated"]["level"], "neighbourhood")
        said = re.search("up to ([0-9]+) steps away$", snap.meta["truncated"]["reason"])
        self.assertTrue(said, snap.meta["truncated"])
        at, = [n.addr for n in snap.nodes if n.type == "__main__.Deep"]
        held = {e.to: n.addr for n in snap.nodes if n.type == "list" for e in n.edges}
        steps = 0
        while at in held:
            at, steps = held[at], steps + 1
        self.assertEqual(steps, int(said[1]))
        self.assertLess(steps, 100)
        self.assertEqual(target.ask(), 2)

    def test_counts(self):
        for options in ({}, {"types": ["no.such.Type"]}):
            result, snap, _ = self.degraded(memory_mib=18, **options)
            self.assertEqual(snap.meta["truncated"]["level"], "counts")
            count = collections.Counter(n.type for n in snap.nodes)
            self.assertEqual((count["__main__.Session"], count["__main__.Ballast"]), (2000, 150000))
            self.assertEqual(snap.n_edges, 0)

    def test_refused(self):
        target = Target(self, self.CODE)
        target.hear()
        result = lib.capture(target.pid, memory_mib=4)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "memory"), result.text)
        self.assertIn("memory", result.text)
        self.assertEqual(target.ask(), 2)

    # What the collector does not track is most of the work, and only of the whole.
    LONG = """
class Session: pass
CACHE = [Session() for _ in range(1000)]
ballast = [[tuple(tuple(float(100 * i + 10 * k + m) for m in range(10)) for k in range(10))] for i in range(5000)]
gc.collect(); gc.collect()  # which sees that the tuples hold nothing that it knows
say(id(CACHE)); hear(); say(2)
"""

    def in_time(self, target, level, **options):
        """A snapshot of that level, because dump.deadline left no time for more. How much time that is
        depends on what else this machine does: shorter ones are tried until one fits."""
        when = {}
        result = lib.capture(target.pid, progress=lambda ns, text: when.setdefault(text.split()[0], ns / 1e9),
                             **options)
        self.assertEqual((result.code, result.truncated), (lib.DONE, 0), result.text)
        seen = []
        for share in (1.2, 1.0, 0.8, 0.6, 0.4, 1.1, 0.9, 0.7, 0.5, 0.3):
            with tempfile.TemporaryFile() as f:
                result = lib.capture(target.pid, f, **options, deadline=when["looking"] + share *
                                     (when["writing"] - when["looking"]))
                if result.code != lib.DONE:
                    # on a busy machine there may be no time for the fork either
                    self.assertIn(result.refusal, ("deadline", "moment", ""), result)
                elif result.truncated:
                    snap = lib.Snapshot(f)
                    self.assertIn("dump.deadline", snap.meta["truncated"]["reason"])
                    if snap.meta["truncated"]["level"] == level:
                        return snap
                    seen.append(snap.meta["truncated"]["level"])
        self.fail(f"no {level} in any time, but {seen}")

    def test_short_of_time(self):
        target = Target(self, self.LONG)
        cache = target.hear()
        snap = self.in_time(target, "counts")
        count = collections.Counter(n.type for n in snap.nodes)
        self.assertEqual((count["__main__.Session"], snap.n_edges), (1000, 0))
        self.assertGreater(count["list"], 5000)
        self.assertEqual(count["float"], 0)
        snap = self.in_time(target, "neighbourhood", types=["*.Session"])
        self.assertRegex(snap.meta["truncated"]["reason"], "what leads to them(, up to [0-9]+ steps away)?$")
        held = {e.to for e in snap.by_addr[cache].edges}
        self.assertEqual(held, {n.addr for n in snap.nodes if n.type == "__main__.Session"})
        self.assertEqual(len(held), 1000)
        self.assertEqual(target.ask(), 2)
        self.check_well(target)

    def test_whole_where_it_fits(self):
        result, snap, _ = self.degraded(types=["*.Session"])
        self.assertIsNone(snap.meta["truncated"])
        self.assertEqual(result.refusal, "")
        self.assertGreater(snap.n_edges, 300000)


class Guards(Case):
    def test_nobody_there(self):
        child = subprocess.Popen(["/bin/true"])
        child.wait()
        result = lib.capture(child.pid, ticks=1)
        self.assertEqual(result.code, lib.NO)
        self.assertIn(str(child.pid), result.text)

    def test_another_process_with_that_pid(self):
        target = Target(self, "say(1); hear()")
        target.hear()
        result = lib.capture(target.pid, ticks=lib.start_ticks(target.pid) + 1)
        self.assertEqual(result.code, lib.NO, result.text)

    def test_not_a_python(self):
        sleeper = subprocess.Popen(["/bin/sleep", "60"])
        try:
            self.assertEqual(lib.capture(sleeper.pid).code, lib.NO)
        finally:
            sleeper.kill()
            sleeper.wait()

    def test_pause_is_predicted(self):
        target = Target(self, "big = bytearray(300 << 20)\nsay(1); hear(); say(2)")
        target.hear()
        result = lib.capture(target.pid, pause_max=0.0001)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "pause"))
        self.assertIn("dump.pause", result.text)
        self.assertGreater(result.predicted_ns, 100000)
        self.assertEqual(result.pause_ns, 0)
        result, _ = self.snapshot(target.pid, pause_max=0.0001, flags=lib.FORCE)
        self.assertGreater(result.pause_ns, 0)
        self.assertEqual(target.ask(), 2)

    def test_no_headroom(self):
        target = Target(self, "say(1); hear(); say(2)")
        target.hear()
        result = lib.capture(target.pid, headroom=1.0)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "memory"))
        self.assertIn("headroom", result.text)
        self.assertEqual(target.ask(), 2)

    def test_capped(self):
        target = Target(self, "big = [[i] for i in range(50000)]\nsay(1); hear(); say(2)")
        target.hear()
        result, snap = self.snapshot(target.pid, max_objects=10000)
        self.assertEqual(result.truncated, 1)
        self.assertEqual(len(snap.nodes), 10000)
        self.assertIn("10000", result.text)
        self.assertEqual(snap.meta["truncated"]["level"], "objects")

    def test_one_at_a_time(self):
        target = Target(self, "big = [[i] for i in range(1000000)]\nsay(1); hear(); say(2)")
        target.hear()
        results = []
        threads = [threading.Thread(target=lambda: results.append(lib.capture(target.pid)))
                   for _ in range(3)]
        for t in threads:
            t.start()
        seen = 0
        while any(t.is_alive() for t in threads):
            copies = len(children(target.pid))
            self.assertLessEqual(copies, 1)
            seen += copies
        codes = [r.code for r in results]
        self.assertIn(lib.DONE, codes)
        self.assertLessEqual(set(codes), {lib.DONE, lib.REFUSED})
        self.assertGreater(seen, 0)
        self.check_well(target)

    def test_process_limit(self):
        """Where the user has no processes to spare the copy is not even tried."""
        code = "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (3, 3))\n" \
               "os.setgroups([]); os.setgid(65534); os.setuid(65534)\nsay(1); hear(); say(2)"
        target = Target(self, code)
        target.hear()
        result = lib.capture(target.pid)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "processes"))
        self.assertIn("RLIMIT_NPROC", result.text)
        self.assertEqual(target.ask(), 2)

    def test_pids_max(self):
        """Nor where its control group has none."""
        for top in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
            group = os.path.join(top, f"pyleak-test-{os.getpid()}")
            try:
                os.mkdir(group)
            except OSError:
                continue
            self.addCleanup(os.rmdir, group)
            if os.path.exists(os.path.join(group, "pids.max")):
                break
        else:
            self.skipTest("cannot run here: no control group for processes can be made")

        def enter():
            with open(os.path.join(group, "cgroup.procs"), "w") as f:
                f.write(str(os.getpid()))

        def allow(n):
            with open(os.path.join(group, "pids.max"), "w") as f:
                f.write(str(n))

        target = Target(self, "say(1); hear(); say(2)", preexec_fn=enter)
        target.hear()
        allow(5)
        result = lib.capture(target.pid)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "processes"))
        self.assertIn("pids.max", result.text)
        allow(9)
        self.snapshot(target.pid)
        self.assertEqual(target.ask(), 2)
        target.end()

    def test_musl(self):
        """A process that has musl's loader in it is refused by name."""
        folder = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, folder)
        path = os.path.join(folder, "ld-musl-x86_64.so.1")
        target = Target(self, "import mmap\nf = open(%r, 'w+b'); f.write(b'x' * 4096); f.flush()\n"
                              "m = mmap.mmap(f.fileno(), 0)\nsay(1); hear(); say(2)" % path)
        target.hear()
        self.addCleanup(os.unlink, path)
        result = lib.capture(target.pid)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "unsupported"), result.text)
        self.assertIn("musl", result.text)
        self.assertEqual(target.ask(), 2)

    def test_interpreters(self):
        """From 3.12 on each may have a GIL: the one that was asked for says nothing of the others."""
        tried = 0
        for version, python in interpreters().items():
            if not version.startswith(("3.12.", "3.13.")):
                continue
            with self.subTest(version):
                target = Target(self, "try: import _interpreters as i\n"
                                      "except ImportError: import _xxsubinterpreters as i\n"
                                      "say(1); hear(); x = i.create(); say(2)\nwhile hear(): say(3)", python)
                target.hear()
                self.snapshot(target.pid)
                self.assertEqual(target.ask(), 2)
                result = lib.capture(target.pid)
                self.assertEqual((result.code, result.refusal), (lib.REFUSED, "unsupported"), result.text)
                self.assertIn("2 interpreters", result.text)
                self.assertEqual((result.tries, result.pause_ns), (0, 0))
                self.assertEqual(target.ask("go on"), 3)
                tried += 1
        if not tried:
            self.skipTest("cannot run here: there is no Python 3.12 or 3.13")

    THIRTY_TWO = r"""
static int call(int nr, int a, int b, int c)
{
	int r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
	return r;
}
void _start(void)
{
	char c;
	while (call(3, 0, (int)&c, 1) == 1) /* read, then write: what it hears it says */
		call(4, 1, (int)&c, 1);
	call(1, 0, 0, 0);
}
"""

    def test_32_bits(self):
        """A process of 32 bits that is called Python: registers and system calls are not what a capture
        takes them for. Refused by name, before anything is touched."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        program = os.path.join(folder, "python3")
        done = subprocess.run(["gcc", "-m32", "-O1", "-w", "-static", "-nostdlib", "-ffreestanding", "-fno-pie",
                               "-no-pie", "-fno-stack-protector", "-xc", "-", "-o", program],
                              input=self.THIRTY_TWO, text=True, capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        try:
            p = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as e:
            self.skipTest(f"cannot run here: this kernel runs no program of 32 bits: {e}")
        try:
            for n in range(3):
                result = lib.capture(p.pid)
                self.assertEqual((result.code, result.refusal), (lib.REFUSED, "unsupported"), result.text)
                self.assertIn("32-bit", result.text)
                self.assertEqual((result.tries, result.pause_ns), (0, 0))
                self.assertEqual(children(p.pid), [])
                self.assertEqual(status(p.pid, "TracerPid"), "0")
                p.stdin.write(b"%d" % n)
                p.stdin.flush()
                self.assertEqual(p.stdout.read(1), b"%d" % n)
            p.stdin.close()
            self.assertEqual(p.wait(20), 0)
        finally:
            p.kill()
            p.wait()
            p.stdin.close()
            p.stdout.close()

    def test_deadline(self):
        target = Target(self, "big = [[i] for i in range(2000000)]\nsay(1); hear(); say(2)")
        target.hear()
        result = lib.capture(target.pid, deadline=0.12)
        self.assertIn(result.code, (lib.FAILED, lib.REFUSED))
        self.assertEqual(target.ask(), 2)

    def test_nobody_waits(self):
        """A daemon that is gone gets no dump: the copy goes at once, and the helper says why it ended."""
        target = Target(self, "big = [[i] for i in range(1000000)]\nsay(1); hear(); say(2)")
        target.hear()
        helpers = []

        def gone(_ns, text):
            raise InterruptedError(text)

        with self.assertRaises(InterruptedError):
            lib.capture(target.pid, started=helpers.append, progress=gone)
        self.assertEqual(helpers[0].wait(60), lib.FAILED)
        self.assertEqual(children(target.pid), [])
        self.assertEqual(target.ask(), 2)
        self.check_well(target)

    def test_bad_requests(self):
        for request in (b"", b"x", b"\0" * lib.REQUEST.size, b"\xff" * lib.REQUEST.size):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            fd = theirs.fileno()
            helper = subprocess.Popen([lib.HELPER], preexec_fn=lambda: os.dup2(fd, 3),
                                      close_fds=False)
            theirs.close()
            if request:
                ours.send(request)
                answer = lib.MESSAGE.unpack(ours.recv(lib.MESSAGE.size))
                self.assertIn(answer[2], (lib.NO, lib.REFUSED, lib.FAILED))
                self.assertTrue(answer[12].strip(b"\0"))
            ours.close()
            self.assertNotEqual(helper.wait(20), 0)
            self.assertGreaterEqual(helper.returncode, 0, "ends by itself")

    def test_command_line(self):
        done = subprocess.run([lib.HELPER, "--version"], stdout=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 0)
        self.assertIn("pyleak-capture", done.stdout)
        done = subprocess.run([lib.HELPER, "--nonsense"], stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertEqual(done.stderr.count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
