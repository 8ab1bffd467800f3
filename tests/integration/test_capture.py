# SPDX-License-Identifier: MIT
"""pyleak-capture on real processes: that a snapshot is the heap, and that the target is never worse
off, wherever the helper dies."""
import array
import collections
import ctypes
import glob
import http.client
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import capturelib as lib  # noqa: E402
from harness import Target, interpreters, SYSTEM_PYTHON  # noqa: E402

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


def children(pid):
    """Every child of the process, zombies too."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path) as f:
                found += [int(x) for x in f.read().split()]
        except OSError:
            pass
    return found


def status(pid, key):
    """A field of /proc/PID/status; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                if line.startswith(key + ":"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return None


class Case(unittest.TestCase):
    def snapshot(self, pid, **options):
        with tempfile.TemporaryFile() as f:
            result = lib.capture(pid, f, **options)
            self.assertIsNotNone(result, f"the helper died: {lib.capture.status}")
            self.assertEqual(result.code, lib.DONE, result.text)
            return result, lib.Snapshot(f)

    def check_well(self, target):
        """No child, no tracer, nothing blocked that was not."""
        self.assertEqual(children(target.pid), [])
        self.assertEqual(status(target.pid, "TracerPid"), "0")


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


SUM = r'''
import hashlib, signal, threading
def work():
    # strings, floats and big numbers: registers of every kind are in use
    h, x, n = hashlib.md5(), 1.0, 3
    for i in range(ROUNDS):
        x = x * 1.0000001 + i % 7 * 0.5
        n = n * 1103515245 + 12345 & (1 << 200) - 1
        if i % 50 == 0: h.update(("%r %d" % (x, n)).encode())
    return h.hexdigest()
say("ready")
while True:
    order = hear()
    if order == "sum": say(work())
    elif order == "mask": say(sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
    elif not order: break
'''


class HelperDies(Case):
    """SIGKILL to the helper at every step: the target computes on, with its mask, and the next
    capture leaves no child behind."""

    def check(self, python, blocked):
        rounds = 600000
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
        for version, python in interpreters().items():
            if version.startswith(("3.8", "3.13")):
                with self.subTest(version):
                    self.check(python, False)

    def test_random_moments(self):
        """Killed from outside, at no particular step."""
        target = Target(self, SUM.replace("ROUNDS", "1500000"))
        target.hear()
        right = target.ask("sum")
        rng = random.Random(7)
        for _ in range(40):
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


SERVER = r'''
import http.server, socketserver, threading
STORE = {}
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        STORE[len(STORE) % 5000] = {"path": self.path, "headers": dict(self.headers)}
        body = ("hello %s" % self.path).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64
server = Server(("127.0.0.1", 0), Handler)
say(server.server_address[1])
server.serve_forever()
'''


class Server(Case):
    def check(self, python):
        target = Target(self, SERVER, python)
        port = target.hear()
        stop, failed, done = threading.Event(), [], [0]

        def client(n):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            i = 0
            while not stop.is_set():
                i += 1
                try:
                    if i % 10 == 0:  # a new connection now and then
                        connection.close()
                        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                    connection.request("GET", f"/{n}/{i}")
                    answer = connection.getresponse().read()
                    if answer != f"hello /{n}/{i}".encode():
                        failed.append(answer)
                    done[0] += 1
                except (OSError, http.client.HTTPException) as e:
                    failed.append(repr(e))
                    connection.close()
            connection.close()

        clients = [threading.Thread(target=client, args=(n,)) for n in range(3)]
        for c in clients:
            c.start()
        try:
            for _ in range(20):
                result, snap = self.snapshot(target.pid)
                self.assertEqual(result.skipped, 0)
                self.assertEqual([n.type for n in snap.nodes if n.name == "__main__.Handler"],
                                 ["type"])
                self.assertEqual(children(target.pid), [])
        finally:
            stop.set()
            for c in clients:
                c.join()
        self.assertEqual(failed, [])
        self.assertGreater(done[0], 100)
        self.check_well(target)

    def test_no_request_fails(self):
        for version, python in interpreters().items():
            if version == "system" or version.startswith(("3.8", "3.10", "3.12", "3.13")):
                with self.subTest(version):
                    self.check(python)


WAITS = r'''
import ctypes, errno, select, signal, socket, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
class Timespec(ctypes.Structure): _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]
bad = []
stop = False
def check(name, f):
    while not stop:
        ctypes.set_errno(0)
        r = f()
        if r < 0 and ctypes.get_errno() == errno.EINTR: bad.append(name)
counts = {}
def counted(name, f):
    def g():
        counts[name] = counts.get(name, 0) + 1
        return f()
    return g
ep = select.epoll(); a, b = socket.socketpair(); ep.register(a.fileno(), select.EPOLLIN)
a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 60000))
events = ctypes.create_string_buffer(64); buf = ctypes.create_string_buffer(64)
sigset = (ctypes.c_ulong * 16)(); sigset[0] = 1 << (int(signal.SIGUSR2) - 1)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
ts = Timespec(0, 50000000)
sem = libc.semget(0, 1, 0o1600)
class Sembuf(ctypes.Structure):
    _fields_ = [("n", ctypes.c_ushort), ("op", ctypes.c_short), ("fl", ctypes.c_short)]
op = Sembuf(0, -1, 0)
waits = {
    "epoll_wait": lambda: libc.epoll_wait(ep.fileno(), events, 4, 50),
    "recv": lambda: libc.recv(a.fileno(), buf, 64, 0),
    "sigtimedwait": lambda: libc.sigtimedwait(sigset, None, ctypes.byref(ts)),
    "nanosleep": lambda: libc.nanosleep(ctypes.byref(ts), None),
    "semtimedop": lambda: libc.semtimedop(sem, ctypes.byref(op), 1, ctypes.byref(ts)),
    "poll": lambda: libc.poll(None, 0, 50),
}
threads = [threading.Thread(target=check, args=(n, counted(n, f))) for n, f in waits.items()]
for t in threads: t.start()
say("ready"); hear()
stop = True
for t in threads: t.join()
libc.semctl(sem, 0, 0)
say([bad, counts])
'''


class BlockingCalls(Case):
    def test_no_eintr(self):
        """A stop interrupts system calls; the program must not see it."""
        for version in ("system", "3.13"):
            for name, python in interpreters().items():
                if not name.startswith(version):
                    continue
                with self.subTest(name):
                    target = Target(self, WAITS, python)
                    target.hear()
                    for _ in range(15):
                        self.snapshot(target.pid)
                    bad, counts = target.ask("stop")
                    self.assertEqual(bad, [])
                    self.assertEqual(len(counts), 6)
                    self.assertGreater(min(counts.values()), 3)

    def test_sleep_keeps_its_end(self):
        """A long sleep that captures interrupt ends when it should, not later."""
        target = Target(self, "say('go'); t = time.monotonic(); time.sleep(5); "
                              "say(time.monotonic() - t); hear()")
        target.hear()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            self.snapshot(target.pid)
        self.assertAlmostEqual(target.hear(), 5, delta=0.5)

    def test_signals_are_not_lost(self):
        code = r'''
import signal
got = [0]
signal.signal(signal.SIGUSR1, lambda s, f: got.__setitem__(0, got[0] + 1))
say("ready")
n = 0
while True:
    n += 1
    if os.path.exists(STOP): break
    sum(range(2000))
say(got[0])
'''
        folder = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, folder)
        flag = os.path.join(folder, "stop")
        target = Target(self, code.replace("STOP", repr(flag)))
        target.hear()
        sent, over = [0], threading.Event()

        def send():
            # A standard signal that is pending already is not queued: wait for it to be taken.
            while not over.is_set():
                os.kill(target.pid, signal.SIGUSR1)
                sent[0] += 1
                while int(status(target.pid, "ShdPnd"), 16) or int(status(target.pid, "SigPnd"), 16):
                    time.sleep(0.0005)
                time.sleep(0.004)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            for _ in range(15):
                self.snapshot(target.pid)
        finally:
            over.set()
            sender.join()
            open(flag, "w").close()
        got = target.hear()
        os.unlink(flag)
        # CPython folds signals that come before its handler ran into one; none may be missing
        # beyond that, and each one was seen by the kernel
        self.assertGreater(got, sent[0] * 0.8)
        self.assertGreater(sent[0], 50)


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


class Memory(Case):
    LIMIT = 150 << 20

    def group(self):
        """A control group of its own, v1 or v2; its folder and the file with its limit."""
        for top, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                          ("/sys/fs/cgroup", "memory.max")):
            path = os.path.join(top, f"pyleak-test-{os.getpid()}")
            if not os.path.exists(os.path.join(top, "cgroup.procs")):
                continue
            try:
                os.mkdir(path)
            except OSError:
                continue
            if os.path.exists(os.path.join(path, name)):
                self.addCleanup(self.remove, path)
                with open(os.path.join(path, name), "w") as f:
                    f.write(str(self.LIMIT))
                return path
            os.rmdir(path)
        self.skipTest("cannot run here: no memory control group can be made")

    def remove(self, path):
        end = time.monotonic() + 10
        while True:
            try:
                return os.rmdir(path)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def test_no_oom_kill(self):
        """A target that writes to all its memory while it is captured, near its limit: the capture
        is given up, or refused, and the OOM killer stays out of it."""
        path = self.group()
        code = """
class N:
    def __init__(self, i): self.i = [i]
big = [N(i) for i in range(400000)]
say(1)
n = 0
while True:
    for x in big: x.i.append(1); x.i.pop()
    n += 1
"""

        def enter():
            with open(os.path.join(path, "cgroup.procs"), "w") as f:
                f.write(str(os.getpid()))

        target = Target(self, code, preexec_fn=enter)
        target.hear()
        codes = []
        for headroom in (0.9, 0.15, 0.05):
            result = lib.capture(target.pid, headroom=headroom)
            codes.append(result.code)
            self.assertIn(result.code, (lib.DONE, lib.REFUSED), result.text)
            self.assertIsNone(target.process.poll())
            self.assertEqual(children(target.pid), [])
        self.assertEqual(codes[0], lib.REFUSED)
        for name in ("memory.oom_control", "memory.events"):
            try:
                with open(os.path.join(path, name)) as f:
                    self.assertIn("oom_kill 0\n", f.read())
            except FileNotFoundError:
                pass
        target.end()


class Strangers(Case):
    def test_waitpid_sees_only_its_own(self):
        """An arbiter that reaps workers with waitpid(-1) must not meet our copy."""
        code = r'''
import signal
seen, chld = [], [0]
signal.signal(signal.SIGCHLD, lambda s, f: chld.__setitem__(0, chld[0] + 1))
say("ready")
mine = 0
while not os.path.exists(STOP):
    try: seen.append(os.waitpid(-1, os.WNOHANG)[0])
    except ChildProcessError: seen.append(-1)
    time.sleep(0.001)
say([sorted(set(seen)), chld[0]])
pid = os.fork()
if pid == 0: os._exit(7)
say(os.waitpid(-1, 0)[1] >> 8)
'''
        folder = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, folder)
        flag = os.path.join(folder, "stop")
        target = Target(self, code.replace("STOP", repr(flag)))
        target.hear()
        for _ in range(10):
            self.snapshot(target.pid)
        open(flag, "w").close()
        seen, signals = target.hear()
        os.unlink(flag)
        self.assertEqual(seen, [-1], "there never was a child")
        self.assertEqual(signals, 0)
        self.assertEqual(target.hear(), 7)

    def test_end_of_file_is_not_held_back(self):
        """A connection that the target closes is closed, copy or not."""
        code = r'''
import socket, threading
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(8)
big = [[i] for i in range(400000)]
say(s.getsockname()[1])
while True:
    c, _ = s.accept(); c.recv(100); c.sendall(b"bye"); c.close()
'''
        target = Target(self, code)
        port = target.hear()
        over, closed, during = threading.Event(), [0], []

        def client():
            while not over.is_set():
                with socket.create_connection(("127.0.0.1", port), timeout=20) as c:
                    c.sendall(b"hi")
                    while c.recv(100):
                        pass
                    closed[0] += 1

        def watch():
            """How many connections came to their end while a copy was there."""
            while not over.is_set():
                if children(target.pid):
                    before = closed[0]
                    while children(target.pid):
                        time.sleep(0.001)
                    during.append(closed[0] - before)

        threads = [threading.Thread(target=f) for f in (client, watch)]
        for t in threads:
            t.start()
        try:
            for _ in range(5):
                self.snapshot(target.pid)
        finally:
            over.set()
            for t in threads:
                t.join()
        self.assertEqual(len(during), 5)
        self.assertGreater(max(during), 10)

    def test_target_that_ends_takes_the_copy_along(self):
        code = "big = [[i] for i in range(1500000)]\nsay(1)\nhear()\nos._exit(3)\n"
        target = Target(self, code)
        target.hear()
        answer = []
        t = threading.Thread(target=lambda: answer.append(lib.capture(target.pid)))
        t.start()
        copy = []
        end = time.monotonic() + 20
        while not copy and time.monotonic() < end:
            copy = children(target.pid)
        target.say()
        self.assertEqual(target.process.wait(20), 3)
        t.join()
        self.assertEqual(len(copy), 1)
        # gone, or a zombie that waits for whoever adopted it
        self.assertIn((status(copy[0], "State") or "Z")[0], "ZX")
        self.assertEqual(answer[0].code, lib.NO, answer[0].text)

    def test_exec_releases_the_port(self):
        """After an exec the copy must not keep the listening socket open."""
        code = r'''
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(8)
big = [[i] for i in range(1500000)]
say(s.getsockname()[1]); hear()
os.execv("/bin/sleep", ["sleep", "30"])
'''
        target = Target(self, code)
        port = target.hear()
        answer = []
        t = threading.Thread(target=lambda: answer.append(lib.capture(target.pid)))
        t.start()
        end = time.monotonic() + 20
        while not children(target.pid) and time.monotonic() < end:
            pass
        target.say()
        t.join()
        self.assertEqual(answer[0].code, lib.NO, answer[0].text)
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
        self.assertEqual(children(target.pid), [])


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

    def test_stopped(self):
        target = Target(self, "say(1); hear(); say(2)")
        target.hear()
        os.kill(target.pid, signal.SIGSTOP)
        end = time.monotonic() + 10
        while "T" not in status(target.pid, "State") and time.monotonic() < end:
            time.sleep(0.01)
        result = lib.capture(target.pid)
        self.assertEqual(result.code, lib.REFUSED)
        self.assertIn("SIGCONT", result.text)
        self.assertIn("T", status(target.pid, "State"), "still stopped")
        os.kill(target.pid, signal.SIGCONT)
        self.assertEqual(target.ask(), 2)

    def test_stopped_in_the_middle(self):
        """SIGSTOP and SIGCONT at any moment of a capture: afterwards it runs, or is stopped, as
        the signals say."""
        target = Target(self, SUM.replace("ROUNDS", "100000"))
        target.hear()
        right = target.ask("sum")
        rng = random.Random(3)
        over = threading.Event()

        def toggle():
            while not over.is_set():
                os.kill(target.pid, signal.SIGSTOP)
                time.sleep(rng.uniform(0, 0.01))
                os.kill(target.pid, signal.SIGCONT)
                time.sleep(rng.uniform(0, 0.03))

        t = threading.Thread(target=toggle)
        t.start()
        codes = collections.Counter()
        try:
            for _ in range(30):
                codes[lib.capture(target.pid).code] += 1
        finally:
            over.set()
            t.join()
        os.kill(target.pid, signal.SIGCONT)
        self.assertFalse(codes[lib.FAILED], codes)
        self.assertEqual(target.ask("sum"), right)
        self.assertEqual(self.snapshot(target.pid)[0].code, lib.DONE)
        self.assertEqual(status(target.pid, "SigBlk"), "0" * 16)
        self.check_well(target)

    def test_traced(self):
        target = Target(self, "say(1); hear(); say(2)")
        target.hear()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self.assertEqual(libc.ptrace(0x4206, target.pid, None, None), 0)  # PTRACE_SEIZE
        try:
            result = lib.capture(target.pid)
            self.assertEqual(result.code, lib.REFUSED)
            self.assertIn("traced", result.text)
        finally:
            libc.ptrace(0x4207, target.pid, None, None)  # PTRACE_INTERRUPT
            os.waitpid(target.pid, 0x40000000)
            libc.ptrace(17, target.pid, None, None)  # PTRACE_DETACH
        self.assertEqual(target.ask(), 2)

    SECCOMP = r'''
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def forbid(nr, answer):
    # load the number of the system call; if it is nr: answer, else allow
    code = (struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, nr) +
            struct.pack("HBBI", 6, 0, 0, answer) + struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
    room = ctypes.create_string_buffer(code, len(code))
    prog = struct.pack("HxxxxxxP", 4, ctypes.addressof(room))
    prog = ctypes.create_string_buffer(prog, len(prog))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, prog, 0, 0) == 0
forbid(56, 0x80000000)  # clone: kill the process
forbid(61, 0x80000000)  # wait4 as well
say(1); hear(); say(2)
'''

    def test_seccomp(self):
        """Under a filter that kills for clone() the capture works all the same."""
        target = Target(self, self.SECCOMP)
        target.hear()
        for _ in range(3):
            self.snapshot(target.pid)
        self.check_well(target)
        self.assertEqual(status(target.pid, "Seccomp"), "2")
        self.assertEqual(target.ask(), 2)
        # and the filter is in force again
        self.assertEqual(target.process.wait(20), 0)

    def test_seccomp_and_the_helper_dies(self):
        """The filter is in force again when the helper dies. It would kill for clone() and wait4(),
        so neither may come after that."""
        target = Target(self, self.SECCOMP)
        target.hear()
        steps = lib.steps()
        for number, name in enumerate(steps, 1):
            # sent into the call and killed before it gets there: the one moment not covered
            if name in ("STEP_FORK_RUNNING", "STEP_REAP_ENTRY"):
                continue
            with self.subTest(name):
                self.assertIsNone(lib.capture(target.pid, die_at=number), "did not die there")
                self.assertIsNone(target.process.poll())
        for _ in range(5):
            self.snapshot(target.pid)
        self.check_well(target)
        self.assertEqual(target.ask(), 2)

    def test_seccomp_without_the_right(self):
        """Without CAP_SYS_ADMIN it is refused by name."""
        target = Target(self, self.SECCOMP)
        target.hear()

        def drop():
            libc = ctypes.CDLL(None)
            header = struct.pack("Ii", 0x20080522, 0)
            data = ctypes.create_string_buffer(24)
            libc.capget(header, data)
            low = list(struct.unpack("6I", data.raw))
            for i in (0, 1):
                low[i] &= ~(1 << 21)
            libc.prctl(24, 21, 0, 0, 0)  # PR_CAPBSET_DROP: exec must not give it back
            libc.capset(header, struct.pack("6I", *low))

        result = lib.capture(target.pid, preexec=drop)
        self.assertEqual(result.code, lib.REFUSED, result)
        self.assertIn("CAP_SYS_ADMIN", result.text)
        self.assertEqual(target.ask(), 2)

    def test_pause_is_predicted(self):
        target = Target(self, "big = bytearray(300 << 20)\nsay(1); hear(); say(2)")
        target.hear()
        result = lib.capture(target.pid, pause_max=0.0001)
        self.assertEqual(result.code, lib.REFUSED)
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
        self.assertEqual(result.code, lib.REFUSED)
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
        for t in threads:
            t.join()
        codes = [r.code for r in results]
        self.assertIn(lib.DONE, codes)
        self.assertLessEqual(set(codes), {lib.DONE, lib.REFUSED})
        self.check_well(target)

    def test_process_limit(self):
        """Where the user has no processes to spare the copy is not even tried."""
        code = "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (3, 3))\n" \
               "os.setgroups([]); os.setgid(65534); os.setuid(65534)\nsay(1); hear(); say(2)"
        target = Target(self, code)
        target.hear()
        result = lib.capture(target.pid)
        self.assertEqual(result.code, lib.REFUSED)
        self.assertIn("RLIMIT_NPROC", result.text)
        self.assertEqual(target.ask(), 2)

    def test_deadline(self):
        target = Target(self, "big = [[i] for i in range(2000000)]\nsay(1); hear(); say(2)")
        target.hear()
        result = lib.capture(target.pid, deadline=0.12)
        self.assertIn(result.code, (lib.FAILED, lib.REFUSED))
        self.assertEqual(target.ask(), 2)

    def test_damaged_object(self):
        """A tp_traverse that crashes costs one object, not the capture, and not the target."""
        code = r'''
import ctypes
class Victim:
    __slots__ = ("held",)
victims = [Victim() for _ in range(10)]
for v in victims: v.held = []
broken = victims[5]
ctypes.c_size_t.from_address(id(broken) + 16).value = 0x10  # its slot: no object is there
say([id(broken), id(victims[4])]); hear()
ctypes.c_size_t.from_address(id(broken) + 16).value = 0
say(2)
'''
        for version, python in interpreters().items():
            with self.subTest(version):
                target = Target(self, code, python)
                broken, whole = target.hear()
                result, snap = self.snapshot(target.pid)
                self.assertEqual(result.skipped, 1)
                self.assertEqual(snap.by_addr[broken].flags & lib.SKIPPED, lib.SKIPPED)
                self.assertEqual(snap.by_addr[broken].edges, [])
                self.assertEqual([e.arg for e in snap.by_addr[whole].edges if e.kind == "ATTR"],
                                 ["held"])
                self.assertEqual(target.ask(), 2)

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
                self.assertTrue(answer[11].strip(b"\0"))
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
