# SPDX-License-Identifier: MIT
"""The target of test_awkward.py: makes and drops objects of types that extensions have (awkward.c),
of classes that derive from those, and tells how many are alive.

    awkward.py FOLDER [CLASS]...    where the compiled module lies; of these only, by short name

Commands are lines, as in harness.py, and so are answers: what is alive then.

    work N     N rounds of churn
    hold N     N more of each kind stay alive; a negative N: so many go
    busy, rest full collections all the time while waiting, so that there is no census; or not
"""

import gc
import json
import select
import sys

sys.path.insert(0, sys.argv[1])
import awkward  # noqa: E402  pylint: disable=import-error,wrong-import-position

BASES = [v for v in vars(awkward).values() if isinstance(v, type) and v is not awkward.Meta]
# They make what a class that derives from them could not live with.
FINAL = ("ByHand", "FreedByHand", "AllByHand", "Small")


def derive(base):
    """With a dictionary, and with nothing more than the base has."""
    return [type("Sub" + base.__name__, (base,), {"__module__": "sub"}),
            type("Same" + base.__name__, (base,), {"__module__": "sub", "__slots__": ()})]


class Plain:
    def __init__(self, held=None):
        self.held = held


class Caught(metaclass=awkward.Meta):
    def __init__(self, held=None):
        self.held = held


class First:
    def __init__(self, held=None):
        self.held = held


class Second(First):
    pass


CLASSES = BASES + [c for b in BASES if b.__name__ not in FINAL for c in derive(b)]
CLASSES += [Plain, Caught]
if sys.argv[2:]:
    CLASSES = [c for c in CLASSES if c.__name__ in sys.argv[2:]]
kept = {c: [] for c in CLASSES}
weight = [[i] for i in range(100000)]


def make(cls, i):
    """Lazy ones hold something only now and then; a leaver leaves and dies unseen."""
    return cls([]) if i % 2 and not cls.__name__.endswith("Never") else cls()


def work(n):
    for r in range(n):
        for cls in CLASSES:
            some = [make(cls, i) for i in range(20)]
            if cls.__name__.endswith("Leaver"):
                for o in some[::3]:
                    o.leave()
        chain = None
        for _ in range(200):
            chain = awkward.Trashcan(chain)
        del chain
        made = [awkward.Meta("Made", (), {}) for _ in range(3)]
        some = [First(), First()]
        some[0].__class__ = Second
        del made, some
        if r % 20 == 0:
            gc.collect()


def hold(n):
    for cls, objects in kept.items():
        if n < 0:
            del objects[n:]
        for i in range(n):
            objects.append(make(cls, i))
        if cls.__name__.endswith("Leaver"):
            for o in objects[::3]:
                o.leave()
    gc.collect()


def busy():
    """Waits for a command with full collections too often for a census in steps, and with births
    for its probes."""
    while not select.select([0], [], [], 0)[0]:
        gc.collect()
        for _ in range(200):
            Plain()


def name_of(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


def truth():
    gc.collect()
    gc.collect()
    tracked = {}
    for o in gc.get_objects():
        tracked[type(o)] = tracked.get(type(o), 0) + 1
    counted = awkward.alive()
    alive = {}
    for cls in CLASSES + [First, Second]:
        alive[name_of(cls)] = counted.get(cls, tracked.get(cls, 0))
    return {"alive": alive, "tracked": {name_of(c): tracked.get(c, 0) for c in CLASSES}}


def main():
    is_busy = False
    while True:
        print(json.dumps(truth()), flush=True)
        if is_busy:
            busy()
        words = sys.stdin.readline().split()
        if not words:
            break
        if words[0] == "work":
            work(int(words[1]))
        elif words[0] == "hold":
            hold(int(words[1]))
        else:
            is_busy = words[0] == "busy"


main()
