# SPDX-License-Identifier: MIT
"""The explain worker as a program: its files, its words, its exit codes and its cell."""

import json
import os
import resource
import shutil
import stat
import struct
import subprocess
import tempfile
import time
import unittest
import xml.etree.ElementTree as ET

import harness

EXPLAIN = os.path.join(harness.BUILD, "pyleak-explain")
FILES = ("chain.dot", "chain.svg", "dump.json", "report.html")

META, STRINGS, TYPES, NODES, EDGES, ROOTS, END = range(1, 8)
EDGE_DICT, EDGE_KEY, EDGE_ITEM = 2, 3, 4
HEAP = 1 << 9


def section(kind, content=b""):
    return struct.pack("<IIQ", kind, 0, len(content)) + content + bytes(-len(content) % 8)


def frame(content, zeros_before=0):
    """A zstd frame of raw blocks, after blocks that stand for so many zeros each 4 bytes long."""
    out = [struct.pack("<IBB", 0xFD2FB528, 0, 0x58)]
    block = 1 << 17
    whole, rest = divmod(zeros_before, block)
    out.append((struct.pack("<I", block << 3 | 1 << 1)[:3] + b"\0") * whole)
    if rest:
        out.append(struct.pack("<I", rest << 3 | 1 << 1)[:3] + b"\0")
    for i in range(0, len(content), block):
        part = content[i:i + block]
        last = i + block >= len(content)
        out.append(struct.pack("<I", len(part) << 3 | last)[:3] + part)
    return b"".join(out)


def header(nodes, edges):
    return struct.pack("<8sIIQQ32x", b"PYLEAKS1", 1, 64, nodes, edges)


class Heap:
    """app.SESSIONS holds `held` sessions; `lost` more have a reference that nothing explains."""

    def __init__(self, held=93, lost=7, meta=None):
        self.strings = [""]
        names = ["module", "dict", "app.Session"]
        types = b"".join(struct.pack("<QQII", 0x1000 * (i + 1), HEAP if "." in n else 0,
                                     self.string(n), 0) for i, n in enumerate(names))
        nodes, edges = [], []

        def node(kind, n_edges, refcount=1, name=0):
            nodes.append(struct.pack("<QQqIIII", 0x100000 + 64 * len(nodes), 64, refcount, kind,
                                     n_edges, 1, name))

        def edge(to, kind, arg=0):
            edges.append(struct.pack("<QII", 0x100000 + 64 * to, kind, arg))

        node(0, 1, name=self.string("app"))
        edge(1, EDGE_DICT)
        node(1, 1)
        edge(2, EDGE_KEY, self.string("SESSIONS"))
        node(1, held)
        for i in range(held):
            edge(3 + i, EDGE_ITEM)
        for _ in range(held + lost):
            node(2, 0)
        roots = struct.pack("<QIIII", 0x100000, 1, self.string("app"), 0, 0)
        text = [s.encode() for s in self.strings]
        strings = struct.pack("<II", len(text), 0) + b"".join(
            struct.pack("<I", len(s)) for s in text) + b"".join(text)
        meta = {"at": "2026-11-23T08:25:58.123Z", "pid": 4711, "comm": "shop", "pause_us": 1432,
                "predicted_pause_us": 1600, "duration_ms": 88, "skipped": 0,
                "truncated": None} if meta is None else meta
        self.n_nodes, self.n_edges = len(nodes), len(edges)
        self.sections = [section(META, json.dumps(meta).encode()), section(STRINGS, strings),
                         section(TYPES, types), section(NODES, b"".join(nodes)),
                         section(EDGES, b"".join(edges)), section(ROOTS, roots), section(END)]

    def string(self, s):
        if s not in self.strings:
            self.strings.append(s)
        return self.strings.index(s)

    def file(self):
        return header(self.n_nodes, self.n_edges) + frame(b"".join(self.sections))

    def file_behind(self, zeros):
        """The same behind an unknown section of so many zeros, which a reader passes over."""
        first = struct.pack("<IIQ", 77, 0, zeros)
        head = struct.pack("<IBB", 0xFD2FB528, 0, 0x58)
        block = struct.pack("<I", len(first) << 3)[:3] + first
        rest = frame(b"".join(self.sections), zeros)[len(head):]
        return header(self.n_nodes, self.n_edges) + head + block + rest


class Explain(unittest.TestCase):
    def folder(self, content):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        if content is not None:
            with open(os.path.join(folder, "snapshot"), "wb") as f:
                f.write(content)
        return folder

    def run_it(self, *args, **kwargs):
        return subprocess.run([EXPLAIN, *args], capture_output=True, text=True, timeout=100,
                              check=False, **kwargs)

    def fails(self, code, words, *args, **kwargs):
        r = self.run_it(*args, **kwargs)
        self.assertEqual(r.returncode, code, r.stderr)
        self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)
        self.assertIn(words, r.stderr)
        self.assertEqual(r.stdout, "")

    def document(self, folder):
        with open(os.path.join(folder, "dump.json"), encoding="utf-8") as f:
            return json.load(f)

    def test_answer(self):
        folder = self.folder(Heap().file())
        r = self.run_it("--id", "20261123T082558-4711-1", "--trigger", "verdict", "--type", "Session",
                        "--final-dir", "/var/lib/pyleak/dumps/x", "--", folder)
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, "", ""))
        d = self.document(folder)
        self.assertEqual((d["id"], d["trigger"], d["pid"], d["pause_us"], d["truncated"]),
                         ("20261123T082558-4711-1", "verdict", 4711, 1432, None))
        self.assertEqual((d["objects"], d["edges"], d["skipped"]), (103, 95, 0))
        self.assertEqual(d["files"]["svg"], "/var/lib/pyleak/dumps/x/chain.svg")
        suspect = d["suspects"][0]
        self.assertEqual((suspect["type"], suspect["instances"]), ("app.Session", 100))
        first, second = suspect["paths"]
        self.assertEqual((first["share"], first["instances"], first["root"]),
                         (0.93, 93, {"kind": "module", "name": "app"}))
        self.assertEqual([(s["type"], s["label"], s["edge"]) for s in first["steps"]],
                         [("dict", "SESSIONS", ".SESSIONS"), ("app.Session", "Session", "['…']")])
        self.assertEqual((second["root"]["kind"], second["instances"]), ("c-reference", 7))
        for name in FILES:
            mode = os.stat(os.path.join(folder, name)).st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o600, name)
        svg = ET.parse(os.path.join(folder, "chain.svg")).getroot()
        self.assertIn("93 × Session", "".join(svg.itertext()))
        with open(os.path.join(folder, "report.html"), encoding="utf-8") as f:
            self.assertIn("93 % of 100 app.Session are held by app.SESSIONS", f.read())

    def test_words_and_codes(self):
        whole = Heap().file()
        self.fails(1, "no such dump", os.path.join(self.folder(None), "none"))
        self.fails(1, "no such dump", self.folder(None))
        self.fails(2, "--flag is not an option", "--flag", self.folder(whole))
        self.fails(2, "needs an argument", "--type")
        self.fails(2, "--max-paths", "--max-paths", "0", self.folder(whole))
        self.fails(2, "--trigger", "--trigger", "moon", self.folder(whole))
        self.fails(2, "folder", self.folder(whole), self.folder(whole))
        self.fails(2, "missing")
        self.fails(5, "not a pyleak snapshot", self.folder(b"#!/bin/sh\nexit 0\n"))
        self.fails(5, "cut off", self.folder(whole[:-20]))
        self.fails(5, "empty", self.folder(b""))
        self.fails(5, "more than", self.folder(header(1 << 30, 0) + whole[64:]))
        folder = self.folder(whole)
        self.fails(1, "app.Session", "--type", "app.Sesion", folder)
        self.assertEqual(os.listdir(folder), ["snapshot"], "nothing is left of a failure")
        with open(os.path.join(folder, "chain.svg"), "w", encoding="ascii") as f:
            f.write("mine")
        self.fails(5, "remove it", folder)
        with open(os.path.join(folder, "chain.svg"), encoding="ascii") as f:
            self.assertEqual(f.read(), "mine")
        self.assertEqual(sorted(os.listdir(folder)), ["chain.svg", "snapshot"])
        for option in ("--help", "--version"):
            r = self.run_it(option)
            self.assertEqual((r.returncode, r.stderr), (0, ""))
            self.assertIn("pyleak-explain", r.stdout)

    def test_links_are_not_followed(self):
        victim = self.folder(None)
        folder = self.folder(None)
        os.symlink(os.path.join(victim, "elsewhere"), os.path.join(folder, "dump.json"))
        with open(os.path.join(folder, "snapshot"), "wb") as f:
            f.write(Heap().file())
        self.assertEqual(self.run_it(folder).returncode, 5)
        self.assertEqual(os.listdir(victim), [])
        os.unlink(os.path.join(folder, "dump.json"))
        os.rename(os.path.join(folder, "snapshot"), os.path.join(victim, "snapshot"))
        os.symlink(os.path.join(victim, "snapshot"), os.path.join(folder, "snapshot"))
        self.assertNotEqual(self.run_it(folder).returncode, 0)

    def test_no_picture_is_no_failure(self):
        def little_memory():
            # The answer takes less than 40 MiB of address space, Graphviz with its fonts 120.
            resource.setrlimit(resource.RLIMIT_AS, (70 << 20, 70 << 20))

        folder = self.folder(Heap().file())
        r = self.run_it("--type", "Session", folder, preexec_fn=little_memory)
        self.assertEqual(r.returncode, 0, r.stderr)
        d = self.document(folder)
        self.assertIsNone(d["files"]["svg"])
        self.assertTrue(d["svg_reason"])
        self.assertEqual(d["suspects"][0]["paths"][0]["instances"], 93)
        self.assertEqual(sorted(os.listdir(folder)),
                         ["chain.dot", "dump.json", "report.html", "snapshot"])
        with open(os.path.join(folder, "report.html"), encoding="utf-8") as f:
            self.assertIn("There is no picture", f.read())

    def test_time_limit(self):
        folder = self.folder(Heap().file_behind(1 << 38))
        self.fails(5, "raise --cpu", "--cpu", "1s", folder)
        self.assertEqual(os.listdir(folder), ["snapshot"])

    def test_cell(self):
        """While it reads: no capabilities, nobody's uid, a filter, and it dies with its parent."""
        folder = self.folder(Heap().file_behind(1 << 38))
        with subprocess.Popen([EXPLAIN, folder], stderr=subprocess.DEVNULL) as p:
            try:
                status, child = {}, 0
                end = time.monotonic() + 20
                while status.get("Seccomp") != "2" and time.monotonic() < end:
                    self.assertIsNone(p.poll())
                    with open(f"/proc/{p.pid}/task/{p.pid}/children", encoding="ascii") as f:
                        kids = f.read().split()
                    if not kids:
                        continue
                    child = int(kids[0])
                    with open(f"/proc/{child}/status", encoding="ascii") as f:
                        status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
                self.assertEqual(status.get("Seccomp"), "2")
                self.assertEqual(status["NoNewPrivs"], "1")
                for caps in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
                    self.assertEqual(int(status[caps], 16), 0, caps)
                if os.geteuid() == 0:
                    self.assertEqual(status["Uid"].split(), ["65534"] * 4)
                    self.assertEqual(status["Groups"].split(), [])
                with open(f"/proc/{child}/limits", encoding="ascii") as f:
                    limits = f.read()
                self.assertRegex(limits, r"Max address space +4294967296 ")
                self.assertRegex(limits, r"Max core file size +0 ")
            finally:
                p.kill()
        end = time.monotonic() + 10
        while self.runs(child) and time.monotonic() < end:
            time.sleep(0.01)
        self.assertFalse(self.runs(child), "it dies with its parent")

    @staticmethod
    def runs(pid):
        """A zombie that nobody has reaped yet does not."""
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as f:
                return f.read().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False


if __name__ == "__main__":
    unittest.main()
