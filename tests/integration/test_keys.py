# SPDX-License-Identifier: MIT
"""Keys are data: tokens, e-mail addresses and digests in every place that has keys, and none of them in
anything that pyleak writes or says."""

import base64
import glob
import os
import random
import unittest
import uuid

import capturelib as lib
import harness

CODE = r"""
import collections, contextvars, types, weakref
class Holder: pass
class Slotted: __slots__ = ("held", "__dict__")
class Leak: pass
HELD = []
def keyword(**more): return lambda: more
def body(name):
    return type("Made", (), {name: Leak()})
def place(key):
    o, s, f = Holder(), Slotted(), (lambda: 0)
    setattr(o, key, Leak()); s.held = {key: Leak()}; setattr(s, key, Leak()); setattr(f, key, Leak())
    late = Holder(); late.__dict__[key] = Leak(); late.__dict__[1] = Leak()
    w = weakref.WeakValueDictionary(); w[key] = o
    v = contextvars.ContextVar(key); c = contextvars.Context(); c.run(v.set, Leak())
    space = {key: Leak()}; exec("def inside(): pass", space)
    m = types.ModuleType(key); setattr(m, key, Leak()); sys.modules[key] = m
    HELD.append([o, s, f, late, w, v, c, space["inside"], body(key), keyword(**{key: Leak()}),
        {key: Leak()}, {1: {key: [Leak()]}}, {(key, 1): Leak()}, {key: {key: Leak()}},
        collections.OrderedDict([(key, Leak())]), collections.defaultdict(list, {key: [Leak()]}),
        collections.Counter({key: 1}), collections.ChainMap({key: Leak()}), {key}, frozenset([key]),
        types.SimpleNamespace(**{key: Leak()}), types.MappingProxyType({key: Leak()}),
        sys.intern(key), {sys.intern(key): Leak()}])
    globals()[key] = Leak()
for key in KEYS: place(key)
KEYS = None
# as they stand in source text: a constant of some code object
LITERALS = LITERAL_DICT
say("up")
hear()
"""

# What an explanation would go through, so that it would name it.
TYPES = "__main__.Leak", "__main__.Holder", "dict", "str", "module", "function"


def keys(random):
    """Random, but the same in every run: one token in hundreds looks like a name."""
    def digits(n):
        return random.randbytes(n).hex()

    found = []
    while len(found) < 12:  # those that are identifiers too
        found += [key for key in (digits(16), digits(20)) if key[0].isalpha()]
    found += ["t" + digits(8) for _ in range(4)]
    found += [base64.urlsafe_b64encode(random.randbytes(24)).decode() for _ in range(6)]
    found += [str(uuid.UUID(bytes=random.randbytes(16))), digits(16)]
    found += [f"{name}.{digits(3)}@example.com" for name in ("alice", "bob_42")]
    found += [f"sk_live_{digits(12)}", f"{digits(6)}@host", "päss wörd " + digits(4)]
    return found


class Keys(harness.RootTest):
    def setUp(self):
        numbers = random.Random(4711)
        self.secrets, self.literals = keys(numbers), keys(numbers)
        code = CODE.replace("KEYS:", repr(self.secrets) + ":").replace(
            "LITERAL_DICT", "{" + ", ".join(f"{k!r}: Leak()" for k in self.literals) + "}")
        self.target = harness.Target(self, code)
        self.target.hear()

    def check(self, where, data):
        for key in self.secrets + self.literals:
            self.assertNotIn(key.encode(), data, where)
            self.assertNotIn(key.encode("unicode_escape"), data, where)

    def dump(self, rule):
        d = harness.Daemon(self, self.target.pid, config=dict(harness.Daemon.DEFAULTS, dump={"keys": rule}))
        args = [x for t in TYPES for x in ("--type", t)]
        said = [d.ctl("--json", "dump", self.target.pid, *args), d.ctl("dump", self.target.pid, *args)]
        for a in said:
            self.assertEqual(a.code, 0, a.err)
        shown = said[0].json["id"]
        for question in (("dumps", "list"), ("dumps", "show", shown), ("suspects",), ("status",),
                         ("top", self.target.pid, "-n", 1000), ("growth", self.target.pid)):
            said += [d.ctl(*question), d.ctl("--json", *question)]
        for ending in ("svg", "dot", "json", "html"):
            d.ctl("dumps", "show", shown, "-o", os.path.join(d.folder, "out." + ending))
        snapshots = 0
        self.assertEqual(d.stop(), 0)
        for path in glob.glob(d.folder + "/**", recursive=True):
            if not os.path.isfile(path):
                continue
            with open(path, "rb") as f:
                self.check(path, f.read())
                if os.path.basename(path) == "snapshot":
                    snapshots += 1
                    self.check(path, lib.Snapshot(f).raw)
        self.assertEqual(snapshots, 2)
        for a in said:
            self.check("said", a.out.encode() + a.err.encode())

    def test_identifiers(self):
        self.dump("identifiers")

    def test_off(self):
        self.dump("off")

    def test_all_would_find_them(self):
        """That this test sees what it looks for: with every key named they are there."""
        with open(os.path.join(os.path.dirname(self.target.path), "snapshot"), "w+b") as f:
            self.assertEqual(lib.capture(self.target.pid, f, keys=lib.KEYS_ALL).code, lib.DONE)
            raw = lib.Snapshot(f).raw
        found = [k for k in self.secrets + self.literals if k.encode() in raw]
        self.assertEqual(len(found), len(self.secrets + self.literals))


if __name__ == "__main__":
    unittest.main()
