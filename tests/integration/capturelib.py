# SPDX-License-Identifier: MIT
"""Drives pyleak-capture as pyleakd does, and reads what it writes. Standard library only; zstd
through ctypes, because Python 3.11 has none."""
import collections
import ctypes
import glob
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

BUILD = os.environ.get("PYLEAK_BUILD", "build")
HELPER = os.path.abspath(os.path.join(BUILD, "pyleak-capture"))

PROTOCOL = 2
DONE, NO, REFUSED, FAILED = 0, 1, 4, 5
REFUSALS = ("", "pause", "memory", "pressure", "processes", "traced", "stopped", "seccomp", "unsupported",
            "moment", "deadline", "turn", "permission", "queue", "other")
KEYS_OFF, KEYS_IDENTIFIERS, KEYS_ALL = 0, 1, 2
FORCE = 1
DIE_DAEMON = 1 << 31  # in die_at: kill the daemon there, not yourself

REQUEST = struct.Struct("<IiQQQQdIIII")
MESSAGE = struct.Struct("<IIiIQQQQQIII508s")
assert REQUEST.size == 64 and MESSAGE.size == 576

Result = collections.namedtuple(
    "Result", "code skipped predicted_ns pause_ns duration_ns objects edges truncated tries refusal text")


def start_ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        return int(f.read().rpartition(")")[2].split()[19])


def capture(pid, out=None, ticks=None, pause_max=2.0, deadline=30.0, max_objects=0, headroom=0.05,
            keys=KEYS_IDENTIFIERS, flags=0, die_at=0, timeout=60, preexec=None, started=None, progress=None,
            types=(), memory_mib=0):
    """One capture. A Result, or None if the helper died without an answer (die_at);
    capture.status is how it ended."""
    if ticks is None:
        try:
            ticks = start_ticks(pid)
        except OSError:
            ticks = 0
    own = None
    if out is None:
        own = out = tempfile.TemporaryFile()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        fd = theirs.fileno()

        def setup():
            if preexec:
                preexec()
            os.dup2(fd, 3)

        helper = subprocess.Popen([HELPER], preexec_fn=setup, close_fds=False,
                                  stdin=subprocess.DEVNULL)
        theirs.close()
        if started:
            started(helper)
        request = REQUEST.pack(PROTOCOL, pid, ticks, int(pause_max * 1e9), int(deadline * 1e9),
                               max_objects, headroom, keys, flags, die_at, memory_mib)
        request += b"".join(t.encode() + b"\0" for t in types)
        result = None
        try:
            socket.send_fds(ours, [request], [out.fileno()])
            ours.settimeout(timeout)
            while True:
                data = ours.recv(MESSAGE.size)
                if not data:
                    break
                f = MESSAGE.unpack(data)
                text = f[12].split(b"\0")[0].decode()
                if f[1] == 2:
                    result = Result(*f[2:11], REFUSALS[f[11]], text)
                elif progress:
                    progress(f[6], text)  # ns since the request
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died
        capture.status = helper.wait(timeout)
        return result
    finally:
        ours.close()
        theirs.close()
        if own:
            own.close()


def steps():
    """Names of the steps at which the helper can be told to die (die_at 1, 2, ...)."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../capture/job.h")
    with open(path) as f:
        text = f.read()
    body = text[text.index("enum step {"):]
    names = [line.split(",")[0].split("=")[0].strip()
             for line in body[:body.index("}")].splitlines()[1:] if "STEP_" in line]
    names.remove("STEP_LAST")
    return names


_zstd = None


def _unpack(data):
    """One zstd frame; a wrong checksum is an error."""
    global _zstd
    if _zstd is None:
        _zstd = ctypes.CDLL("libzstd.so.1")
        _zstd.ZSTD_createDStream.restype = ctypes.c_void_p
        _zstd.ZSTD_decompressStream.restype = ctypes.c_size_t

    class Buffer(ctypes.Structure):
        _fields_ = [("p", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t)]

    stream = ctypes.c_void_p(_zstd.ZSTD_createDStream())
    source = ctypes.create_string_buffer(data, len(data))
    room = ctypes.create_string_buffer(1 << 20)
    given = Buffer(ctypes.cast(source, ctypes.c_void_p), len(data), 0)
    parts = []
    left = 1
    while left:
        taken = Buffer(ctypes.cast(room, ctypes.c_void_p), len(room), 0)
        left = _zstd.ZSTD_decompressStream(stream, ctypes.byref(taken), ctypes.byref(given))
        if _zstd.ZSTD_isError(ctypes.c_size_t(left)):
            raise ValueError("damaged zstd frame")
        parts.append(room.raw[:taken.pos])
        if left and given.pos == given.size and taken.pos < len(room):
            raise ValueError("zstd frame cut off")
    _zstd.ZSTD_freeDStream(stream)
    if given.pos != given.size:
        raise ValueError("bytes behind the zstd frame")
    return b"".join(parts)


Type = collections.namedtuple("Type", "addr flags name")
Node = collections.namedtuple("Node", "addr bytes refcount type flags name edges")
Edge = collections.namedtuple("Edge", "to kind arg")
Root = collections.namedtuple("Root", "addr kind name edge_kind edge_arg")

KINDS = "PLAIN ATTR DICT KEY ITEM INDEX DICT_KEY CELL LOCAL TYPE MEMBER".split()
NAMED = {"ATTR", "KEY", "CELL", "LOCAL"}
TRACKED, SKIPPED, IMMORTAL = 1, 2, 4


class Snapshot:
    def __init__(self, f):
        f.seek(0)
        head = f.read(64)
        magic, version, size, self.n_nodes, self.n_edges = struct.unpack("<8sIIQQ", head[:32])
        assert magic == b"PYLEAKS1" and version == 1 and size == 64, head
        data = _unpack(f.read())
        self.raw = data
        at, sections = 0, {}
        while True:
            kind, _, n = struct.unpack_from("<IIQ", data, at)
            at += 16
            assert kind == len(sections) + 1 or (kind, len(sections)) in ((8, 6), (7, 7)), "in order"
            sections[kind] = data[at:at + n]
            at += (n + 7) & ~7
            if kind == 7:
                break
        assert at == len(data), "nothing behind the end"
        self.meta = json.loads(sections[1])
        text = sections[2]
        n, _ = struct.unpack_from("<II", text, 0)
        lengths = struct.unpack_from(f"<{n}I", text, 8)
        at = 8 + 4 * n
        self.strings = []
        for k in lengths:
            self.strings.append(text[at:at + k].decode())
            at += k
        assert at == len(text)
        s = self.strings
        self.types = [Type(a, fl, s[nm]) for a, fl, nm, _ in
                      struct.iter_unpack("<QQII", sections[3])]
        edges = list(struct.iter_unpack("<QII", sections[5]))
        self.nodes, at = [], 0
        for a, b, rc, t, k, fl, nm in struct.iter_unpack("<QQqIIII", sections[4]):
            self.nodes.append(Node(a, b, rc, self.types[t].name, fl, s[nm],
                                   [self.edge(e) for e in edges[at:at + k]]))
            at += k
        assert at == len(edges) == self.n_edges and len(self.nodes) == self.n_nodes
        self.roots = [Root(a, k, s[nm], KINDS[ek], s[ea] if KINDS[ek] in NAMED else ea)
                      for a, k, nm, ek, ea in struct.iter_unpack("<QIIII", sections[6])]
        self.holders = {a: (k, s[nm]) for a, k, nm in struct.iter_unpack("<QII", sections.get(8, b""))}
        self.by_addr = {n.addr: n for n in self.nodes}
        assert len(self.by_addr) == len(self.nodes), "every object once"

    def edge(self, e):
        kind = KINDS[e[1]]
        return Edge(e[0], kind, self.strings[e[2]] if kind in NAMED else e[2])


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
            result = capture(pid, f, **options)
            self.assertIsNotNone(result, f"the helper died: {capture.status}")
            self.assertEqual(result.code, DONE, result.text)
            return result, Snapshot(f)

    def check_well(self, target):
        """No child, no tracer, nothing blocked that was not."""
        self.assertEqual(children(target.pid), [])
        self.assertEqual(status(target.pid, "TracerPid"), "0")


if __name__ == "__main__":
    with open(sys.argv[2], "w+b") as out_file:
        r = capture(int(sys.argv[1]), out_file, die_at=int(sys.argv[3]) if len(sys.argv) > 3 else 0)
        print(r)
        if r and r.code == DONE:
            snap = Snapshot(out_file)
            print(snap.meta)
            print(len(snap.nodes), len(snap.strings), len(snap.types), len(snap.roots))
            count = collections.Counter(n.type for n in snap.nodes)
            print(count.most_common(12))
            print(collections.Counter(e.kind for n in snap.nodes for e in n.edges))
            for r in snap.roots:
                if r.kind == 3:
                    print(r)
