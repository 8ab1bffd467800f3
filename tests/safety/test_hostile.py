# SPDX-License-Identifier: MIT
"""Targets that make it hard: traced, stopped, sandboxed, on strange stacks, with traversals that
crash. Captured or refused; never hurt."""
import collections
import ctypes
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from safetylib import Case, LONG, SUM, Target, builds, interpreters, lib, status  # noqa: E402


class Stopped(Case):
    def test_stopped(self):
        target = Target(self, "say(1); hear(); say(2)")
        target.hear()
        os.kill(target.pid, signal.SIGSTOP)
        end = time.monotonic() + 10
        while "T" not in status(target.pid, "State") and time.monotonic() < end:
            time.sleep(0.01)
        result = lib.capture(target.pid)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "stopped"))
        self.assertIn("SIGCONT", result.text)
        self.assertIn("T", status(target.pid, "State"), "still stopped")
        os.kill(target.pid, signal.SIGCONT)
        self.assertEqual(target.ask(), 2)

    def test_stopped_at_the_gate(self):
        """While native code holds the GIL there is no safe moment; a SIGSTOP then ends the wait for one."""
        target = Target(self, "say(1); hear()\nsay('in'); sum(range(20000000)); say('out'); hear()")
        target.hear()
        self.assertEqual(target.ask(), "in")
        result = lib.capture(target.pid, progress=lambda ns, text: os.kill(target.pid, signal.SIGSTOP)
                             if "safe moment" in text else None)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "stopped"), result.text)
        self.assertEqual(status(target.pid, "State")[0], "T")
        os.kill(target.pid, signal.SIGCONT)
        self.assertEqual(target.hear(), "out")
        self.check_well(target)

    def test_native_code_is_waited_for(self):
        """Nothing is read while a C function that holds the GIL may be in the middle of a change."""
        target = Target(self, "say(1); hear()\nsay('in'); sum(range(60000000)); say(time.monotonic()); hear()")
        target.hear()
        self.assertEqual(target.ask(), "in")
        result = lib.capture(target.pid)
        ended = time.monotonic()
        self.assertEqual(result.code, lib.DONE, result.text)
        self.assertLess(target.hear(), ended)

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


class Traced(Case):
    def test_traced(self):
        target = Target(self, "say(1); hear(); say(2)")
        target.hear()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self.assertEqual(libc.ptrace(0x4206, target.pid, None, None), 0)  # PTRACE_SEIZE
        try:
            result = lib.capture(target.pid)
            self.assertEqual((result.code, result.refusal), (lib.REFUSED, "traced"))
            self.assertIn("traced", result.text)
        finally:
            libc.ptrace(0x4207, target.pid, None, None)  # PTRACE_INTERRUPT
            os.waitpid(target.pid, 0x40000000)
            libc.ptrace(17, target.pid, None, None)  # PTRACE_DETACH
        self.assertEqual(target.ask(), 2)

    def debugged(self, command, ready):
        """Refused while a debugger is there; both go on, and afterwards it is captured."""
        target = Target(self, SUM.replace("ROUNDS", "200000"))
        target.hear()
        right = target.ask("sum")
        debugger = subprocess.Popen([x.replace("PID", str(target.pid)) for x in command],
                                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(debugger.stdin.close)
        self.addCleanup(debugger.wait)
        self.addCleanup(debugger.kill)
        end = time.monotonic() + 60
        while not (status(target.pid, "TracerPid") == str(debugger.pid) and ready(target.pid)):
            self.assertIsNone(debugger.poll(), command)
            self.assertLess(time.monotonic(), end, "the debugger does not attach")
            time.sleep(0.02)
        for _ in range(5):
            result = lib.capture(target.pid)
            self.assertEqual(result.code, lib.REFUSED, result.text)
            self.assertIn(f"traced by pid {debugger.pid}", result.text)
        self.assertEqual(status(target.pid, "TracerPid"), str(debugger.pid))
        self.assertIsNone(debugger.poll())
        return target, debugger, right

    def after(self, target, right):
        end = time.monotonic() + 30
        while status(target.pid, "TracerPid") != "0" and time.monotonic() < end:
            time.sleep(0.02)
        self.snapshot(target.pid)
        self.assertEqual(target.ask("sum"), right)
        self.check_well(target)

    def test_strace(self):
        target, debugger, right = self.debugged(
            ["strace", "-f", "-o", "/dev/null", "-p", "PID"], lambda pid: True)
        self.assertEqual(target.ask("sum"), right)
        debugger.send_signal(signal.SIGINT)
        debugger.wait(30)
        self.after(target, right)

    def test_gdb(self):
        target, debugger, right = self.debugged(
            ["gdb", "-q", "-nx", "-p", "PID"], lambda pid: status(pid, "State")[0] == "t")
        debugger.stdin.write("detach\nquit\n")
        debugger.stdin.flush()
        debugger.wait(60)
        self.after(target, right)


class Seccomp(Case):
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
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "seccomp"), result)
        self.assertIn("CAP_SYS_ADMIN", result.text)
        self.assertEqual(target.ask(), 2)

    def test_seccomp_and_a_helper_under_a_filter(self):
        """The kernel lets nobody lift a filter who has one."""
        target = Target(self, self.SECCOMP)
        target.hear()

        def enter():
            libc = ctypes.CDLL(None)
            code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000), 8)  # allow
            libc.prctl(22, 2, ctypes.create_string_buffer(
                struct.pack("HxxxxxxP", 1, ctypes.addressof(code)), 16), 0, 0)

        result = lib.capture(target.pid, preexec=enter)
        self.assertEqual((result.code, result.refusal), (lib.REFUSED, "seccomp"), result)
        self.assertIn("under none itself", result.text)
        self.assertEqual((result.tries, result.pause_ns), (0, 0))
        self.assertEqual(target.ask(), 2)

    def test_strict_seccomp(self):
        """read(), write() and no more: refused, and it goes on to read and write."""
        target = Target(self, r'''
import ctypes
libc = ctypes.CDLL(None)
say("ready"); hear()
libc.prctl(22, 1, 0, 0, 0)
while True:
    os.write(1, b"1\n")
    os.read(0, 100)
''')
        target.hear()
        self.assertEqual(target.ask(), 1)
        self.assertEqual(status(target.pid, "Seccomp"), "1")
        for _ in range(3):
            result = lib.capture(target.pid)
            self.assertEqual((result.code, result.refusal), (lib.REFUSED, "seccomp"), result)
            self.assertIn("strict", result.text)
            self.assertEqual((result.tries, result.pause_ns), (0, 0))
            self.assertEqual(target.ask(), 1)

    KILLER = r'''
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
KNOWN = %s
# architecture not looked at; a number that is in the list is allowed, every other one kills
code = struct.pack("HBBI", 0x20, 0, 0, 0)
for i, nr in enumerate(KNOWN):
    code += struct.pack("HBBI", 0x15, len(KNOWN) - i, 0, nr)
code += struct.pack("HBBI", 6, 0, 0, 0x80000000) + struct.pack("HBBI", 6, 0, 0, 0x7fff0000)
say("ready"); hear()
room = ctypes.create_string_buffer(code, len(code))
prog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(KNOWN) + 3, ctypes.addressof(room)), 16)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, prog, 0, 0) == 0
while True:
    say(1)
    if not hear(): break
'''

    def test_unknown_calls_kill(self):
        """A sandbox that allows read, write and a handful more, and kills for anything else."""
        # read write mmap munmap brk rt_sigaction rt_sigprocmask rt_sigreturn lseek futex exit_group
        known = [0, 1, 9, 11, 12, 13, 14, 15, 8, 202, 231, 219, 3, 5, 262, 39]
        for name, python in builds(self, "3.9", "3.13"):
            with self.subTest(name):
                target = Target(self, self.KILLER % known, python)
                target.hear()
                self.assertEqual(target.ask(), 1)
                for _ in range(100 if LONG else 5):
                    self.snapshot(target.pid)
                    self.assertEqual(target.ask("more"), 1)
                self.check_well(target)
                self.assertEqual(status(target.pid, "Seccomp"), "2")


class Stacks(Case):
    """Threads whose stack pointer is somewhere else than one would think."""

    def many(self, target, captures=None):
        refused = 0
        for _ in range(captures or (200 if LONG else 10)):
            result = lib.capture(target.pid)
            self.assertIn(result.code, (lib.DONE, lib.REFUSED), result.text)
            refused += result.code != lib.DONE
            self.assertIsNone(target.process.poll(), "it died")
        self.check_well(target)
        return refused

    def test_small_stacks(self):
        code = r'''
import threading
threading.stack_size(32768)
bad, stop = [], False
def work(n):
    x = 0
    while not stop:
        x = sum(i * n for i in range(300))
        if x != n * 44850: bad.append(x)
threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
for t in threads: t.start()
say("ready"); hear()
stop = True
for t in threads: t.join()
say(bad)
'''
        for name, python in builds(self, "3.8", "3.12"):
            with self.subTest(name):
                target = Target(self, code, python)
                target.hear()
                self.assertLess(self.many(target), 5)
                self.assertEqual(target.ask(), [])

    # Keeps numbers in the 128 bytes below its stack pointer, which are a leaf function's (the red zone).
    RED_ZONE = r"""
long red_zone(long rounds)
{
	long bad = 0;
	for (long i = 1; i <= rounds; i++)
		__asm__ volatile("movq %1, -128(%%rsp); movq %1, -64(%%rsp); movq %1, -8(%%rsp); movl $1000, %%ecx\n"
				 "1: decl %%ecx; jnz 1b\n"
				 "cmpq %1, -128(%%rsp); jne 2f; cmpq %1, -64(%%rsp); jne 2f; cmpq %1, -8(%%rsp); je 3f\n"
				 "2: incq %0\n3:" : "+r"(bad) : "r"(i) : "rcx", "cc", "memory");
	return bad;
}
"""

    def test_red_zone(self):
        """The thread that lends itself is in native code without the GIL: nothing it wrote is written over."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        subprocess.run(["gcc", "-O2", "-fno-stack-protector", "-shared", "-fPIC", "-xc", "-", "-o", folder + "/red.so"],
                       input=self.RED_ZONE, text=True, check=True)
        target = Target(self, """
import ctypes
red_zone = ctypes.CDLL(SO).red_zone
red_zone.restype, red_zone.argtypes = ctypes.c_long, [ctypes.c_long]
say("ready")
bad = 0
while not os.path.exists(STOP): bad += red_zone(50000)
say(bad)
""".replace("SO", repr(folder + "/red.so")).replace("STOP", repr(self.flag())))
        target.hear()
        self.assertLess(self.many(target), 5)
        open(self.stop, "w").close()
        self.assertEqual(target.hear(), 0)

    # Is in a restartable sequence half of the time. Its end sees whether the kernel still knows of it: what
    # was interrupted there and not begun anew may be wrong.
    RSEQ = r"""
#include <stddef.h>
extern const ptrdiff_t __rseq_offset;
long sequences(long rounds)
{
	char *rseq = (char *)__builtin_thread_pointer() + __rseq_offset;
	long lost = 0;
	for (long i = 0; i < rounds; i++)
		__asm__ volatile(
			".pushsection __rseq_cs, \"aw\"\n.balign 32\n"
			"9: .long 0, 0\n.quad 1f, 2f - 1f, 4f\n.popsection\n"
			"leaq 9b(%%rip), %%rax\nmovq %%rax, 8(%1)\n"
			"1: movl $100000, %%ecx\n3: decl %%ecx\njnz 3b\n"
			"cmpq $0, 8(%1)\njne 2f\nincq %0\n"
			"2: movq $0, 8(%1)\njmp 5f\n"
			".byte 0x0f, 0xb9, 0x3d\n.long 0x53053053\n"
			"4: nop\n"
			"5: movl $100000, %%ecx\n6: decl %%ecx\njnz 6b\n"
			: "+r"(lost) : "r"(rseq) : "rax", "rcx", "cc", "memory");
	return lost;
}
"""

    def test_restartable_sequence(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-xc", "-", "-o", folder + "/rseq.so"],
                       input=self.RSEQ, text=True, check=True)
        target = Target(self, """
import ctypes
sequences = ctypes.CDLL(SO).sequences
sequences.restype, sequences.argtypes = ctypes.c_long, [ctypes.c_long]
say("ready")
lost = rounds = 0
while not os.path.exists(STOP):
    lost += sequences(100); rounds += 100
say([lost, rounds])
""".replace("SO", repr(folder + "/rseq.so")).replace("STOP", repr(self.flag())))
        target.hear()
        self.assertLess(self.many(target, 20), 10)
        open(self.stop, "w").close()
        lost, rounds = target.hear()
        self.assertEqual(lost, 0)
        self.assertGreater(rounds, 100)

    ANOTHER_STACK = r"""
#include <sys/mman.h>
#include <ucontext.h>
static ucontext_t back, there;
static void (*function)(void);
static void enter(void) { function(); }
void on_another_stack(void (*f)(void))
{
	function = f;
	getcontext(&there);
	there.uc_stack.ss_size = 1 << 20;
	there.uc_stack.ss_sp = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	there.uc_link = &back;
	makecontext(&there, enter, 0);
	swapcontext(&back, &there);
}
"""

    def test_another_stack(self):
        """What is below a stack pointer that points elsewhere cannot be known: such a thread does not lend."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-xc", "-", "-o", folder + "/stack.so"],
                       input=self.ANOTHER_STACK, text=True, check=True)
        for work in ("spin()", "time.sleep(0.01)"):
            target = Target(self, """
import ctypes
def spin():
    for i in range(20000): pass
@ctypes.PYFUNCTYPE(None)
def work():
    say("there")
    while not os.path.exists(STOP): WORK
ctypes.PyDLL(SO).on_another_stack(work)
say("back"); hear()
""".replace("SO", repr(folder + "/stack.so")).replace("STOP", repr(self.flag())).replace("WORK", work))
            self.assertEqual(target.hear(), "there")
            result = lib.capture(target.pid, deadline=1)
            self.assertEqual((result.code, result.refusal), (lib.REFUSED, "moment"), result.text)
            open(self.stop, "w").close()
            self.assertEqual(target.hear(), "back")
            self.snapshot(target.pid)
            target.end()

    def test_alternate_stack(self):
        """A C handler on sigaltstack() runs all the time; afterwards its stack is still set."""
        target = Target(self, r'''
import ctypes, faulthandler, signal, threading
faulthandler.enable()  # sets an alternate stack for the main thread
null = open(os.devnull, "w")
faulthandler.register(signal.SIGUSR1, file=null, chain=False)
libc = ctypes.CDLL(None)
class Stack(ctypes.Structure): _fields_ = [("sp", ctypes.c_void_p), ("f", ctypes.c_int), ("n", ctypes.c_size_t)]
def stack():
    s = Stack(); libc.sigaltstack(None, ctypes.byref(s)); return [s.sp, s.f, s.n]
before = stack()
say("ready")
right = sum(range(100000))
bad = 0
while not os.path.exists(STOP): bad += sum(range(100000)) != right
say([bad, before == stack(), before[0] is not None])
'''.replace("STOP", repr(self.flag())))
        target.hear()
        over = threading.Event()

        def send():
            while not over.wait(0.0005):
                os.kill(target.pid, signal.SIGUSR1)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            refused = self.many(target, None if LONG else 5)
        finally:
            over.set()
            sender.join()
        open(self.stop, "w").close()
        self.assertEqual(target.hear(), [0, True, True])
        self.assertLess(refused, 3)

    def flag(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.stop = os.path.join(folder, "stop")
        return self.stop

    GREEN = r'''
import greenlet
class Held:
    def __init__(self, n): self.n = n
def switcher(other, n):
    held = Held(n)
    total = 0
    while True:
        total += sum(range(n))
        g = other()
        if g is None or g.dead: return total
        g.switch()
ring = []
def next_of(i): return lambda: ring[(i + 1) % len(ring)] if not stop else None
stop = False
for i in range(20): ring.append(greenlet.greenlet(switcher))
def rounds():
    for i, g in enumerate(ring): pass
main = greenlet.getcurrent()
def worker(i):
    held = Held(i)
    n = 0
    while not os.path.exists(STOP) if n % 500 == 0 else True:
        n += 1
        assert sum(range(50)) == 1225
        ring[(i + 1) % len(ring)].switch((i + 1) % len(ring))
    main.switch("done")
ring = [greenlet.greenlet(worker) for _ in range(20)]
say("ready")
say(ring[0].switch(0))
'''

    def test_greenlets(self):
        target = Target(self, self.GREEN.replace("STOP", repr(self.flag())))
        target.hear()
        refused = self.many(target)
        open(self.stop, "w").close()
        self.assertEqual(target.hear(), "done")
        self.assertLess(refused, 5)

    def test_gevent(self):
        """A gevent server, with requests under way: none fails."""
        target = Target(self, r'''
from gevent import monkey; monkey.patch_all()
import gevent, socket, gevent.server, gevent.pool
def handle(c, a):
    f = c.makefile("rb")
    for line in f:
        gevent.sleep(0.001)
        c.sendall(line.upper())
server = gevent.server.StreamServer(("127.0.0.1", 0), handle)
server.start()
say("ready")
bad, done = [], [0]
def client(n):
    c = socket.create_connection(("127.0.0.1", server.server_port)); f = c.makefile("rb")
    i = 0
    while not os.path.exists(STOP):
        i += 1
        c.sendall(b"line %d %d\n" % (n, i))
        if f.readline() != b"LINE %d %d\n" % (n, i): bad.append(i)
        done[0] += 1
pool = [gevent.spawn(client, n) for n in range(10)]
gevent.joinall(pool)
say([bad, done[0], [str(g.exception) for g in pool if g.exception]])
'''.replace("STOP", repr(self.flag())))
        target.hear()
        refused = self.many(target)
        open(self.stop, "w").close()
        bad, done, errors = target.hear()
        self.assertEqual((bad, errors), ([], []))
        self.assertGreater(done, 100)
        self.assertLess(refused, 5)


class Traversal(Case):
    """Types of C code whose tp_traverse goes wrong: the dump says what it skipped."""

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

    SOURCE = r'''
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <signal.h>
#include <unistd.h>
typedef struct { PyObject_HEAD PyObject *held; int how; } Bad;
static volatile unsigned long spins;
static int deep(int n) { volatile char room[4096]; room[0] = (char)n; return n < 0 ? 0 : deep(n + 1) + room[0]; }
static int bad_traverse(Bad *self, visitproc visit, void *arg)
{
	Py_VISIT(self->held);
	switch (self->how) {
	case 1: return *(volatile int *)8;
	case 2: for (;;) spins++;
	case 3: abort();
	case 4: return 1 / (int)(spins & 0);
	case 5: return deep(1);
	case 6: kill(0, SIGKILL); return 0;
	case 7: return (int)write(2, "traversed in the copy\n", 22);
	case 8: __builtin_trap();
	case 9: ((void (*)(void))(spins | 1))(); return 0;
	}
	return 0;
}
static void bad_dealloc(Bad *self)
{
	PyTypeObject *t = Py_TYPE(self);
	PyObject_GC_UnTrack(self);
	Py_CLEAR(self->held);
	t->tp_free(self);
	Py_DECREF(t);
}
static int bad_init(Bad *self, PyObject *args, PyObject *kw)
{
	PyObject *held;
	if (!PyArg_ParseTuple(args, "iO", &self->how, &held)) return -1;
	Py_INCREF(held);
	self->held = held;
	return 0;
}
static PyType_Slot slots[] = {{Py_tp_traverse, bad_traverse}, {Py_tp_dealloc, bad_dealloc},
	{Py_tp_init, bad_init}, {Py_tp_new, PyType_GenericNew}, {0, NULL}};
static PyType_Spec spec = {"badly.Bad", sizeof(Bad), 0,
	Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "badly", .m_size = -1};
PyMODINIT_FUNC PyInit_badly(void)
{
	PyObject *m = PyModule_Create(&module), *t = m ? PyType_FromSpec(&spec) : NULL;
	if (!t || PyModule_AddObject(m, "Bad", t) < 0) return NULL;
	return m;
}
'''

    def extension(self, python):
        """Its folder, or None where there are no headers."""
        said = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('include'))"],
                              capture_output=True, text=True, check=True).stdout.strip()
        if not os.path.exists(os.path.join(said, "Python.h")):
            return None
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        with open(os.path.join(folder, "badly.c"), "w", encoding="utf-8") as f:
            f.write(self.SOURCE)
        subprocess.run(["gcc", "-O0", "-w", "-shared", "-fPIC", "-I", said, "-o",
                        os.path.join(folder, "badly.so"), f.name], check=True)
        return folder

    def test_goes_wrong_in_every_way(self):
        ways = {1: "crashes", 2: "spins", 3: "aborts", 4: "divides by zero", 5: "overflows the stack",
                6: "kills its process group", 7: "writes to a descriptor", 8: "executes ud2",
                9: "jumps into nowhere"}
        code = """
import gc
gc.disable()  # its own collector would come to grief, too
sys.path.insert(0, FOLDER)
import badly
class Kept: pass
good = [badly.Bad(0, Kept()) for _ in range(10)]
bad = [badly.Bad(how, Kept()) for how in range(1, 10)]
say([[id(x) for x in good], [id(x) for x in bad]])
while hear(): say(sum(range(100000)))
os._exit(0)
"""
        for name, python in list(builds(self, "3.8", "3.13")):
            folder = self.extension(python) if name in interpreters() else None
            if folder is None:
                continue
            with self.subTest(name):
                target = Target(self, code.replace("FOLDER", repr(folder)), python)
                good, bad = target.hear()
                result, snap = self.snapshot(target.pid)
                skipped = {how for how, a in enumerate(bad, 1)
                           if snap.by_addr[a].flags & lib.SKIPPED}
                self.assertEqual({ways[h] for h in skipped}, set(ways.values()))
                self.assertEqual(result.skipped, len(bad))
                self.assertEqual(snap.meta["skipped"], len(bad))
                self.assertEqual(result.truncated, 0, result.text)
                for a in good:
                    kinds = [snap.by_addr[e.to].type for e in snap.by_addr[a].edges]
                    self.assertIn("__main__.Kept", kinds)
                self.assertEqual(target.ask("x"), sum(range(100000)))
                self.check_well(target)
                target.say()
                self.assertEqual(target.process.wait(20), 0)


if __name__ == "__main__":
    unittest.main()
