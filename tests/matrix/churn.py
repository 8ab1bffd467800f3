# SPDX-License-Identifier: MIT
"""The target of the matrix: makes and drops objects of every kind, and tells the truth about them.

Runs under every Python from 3.8 on. Commands come on descriptor 0, a line each, answers are lines of
JSON on descriptor 1:

    work N    N rounds of churn; answers {}
    truth     what was alive while this command was waited for

The truth is taken before anything else is done with the command, and waiting for it makes nothing
that the collector knows: so it is the truth about the whole time of waiting, in which somebody else
may have counted, too.
"""

import asyncio
import collections
import ctypes
import dataclasses
import functools
import gc
import itertools
import json
import os
import re
import sys
import types
import weakref


class User:
    def __init__(self, n):
        self.n = n
        self.tags = [n]
        self.table = {"a": n, "b": self.tags}


class Slots:
    __slots__ = ("x", "y", "__weakref__")

    def __init__(self):
        self.x = []
        self.y = (self.x,)


class Derived(User):
    def __init__(self, n):
        super().__init__(n)
        self.more = {n}


class MyList(list):
    pass


class MyDict(dict):
    pass


class MyStr(str):
    pass


class MyTuple(tuple):
    pass


class MySet(set):
    pass


class MyInt(int):
    pass


class Error(Exception):
    pass


class Cycle:
    def __init__(self):
        self.me = self


class Lazarus:
    """Comes back once in its life."""

    risen = []

    def __del__(self):
        if len(Lazarus.risen) < 40:
            Lazarus.risen.append(self)


@dataclasses.dataclass
class Data:
    a: int
    b: list


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int


class Meta(type):
    pass


class Made(metaclass=Meta):
    pass


class Manager:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


Point = collections.namedtuple("Point", "x y")

USER_CLASSES = (User, Slots, Derived, MyList, MyDict, MyStr, MyTuple, MySet, MyInt, Error, Cycle,
                Lazarus, Data, Frozen, Made, Manager, Point)

kept = []  # grows, and is cut now and then
PATTERN = re.compile(r"(\w)(\w+)")
TEXT = json.dumps({"list": [1, 2.5, "three", None, {"deep": [[], {}, [{}]]}], "name": "value"})


def generator(n):
    for i in range(n):
        yield [i]


async def leaf(n):
    await asyncio.sleep(0)
    return {"n": n}


async def tree():
    tasks = [asyncio.ensure_future(leaf(i)) for i in range(12)]
    while not all(t.done() for t in tasks):
        await asyncio.sleep(0)
    # The free list of FutureIter in 3.12.1 bends into a ring after a while, and the next collection
    # follows it for ever (module_traverse() in _asynciomodule.c; the list is gone in 3.13).
    if sys.version_info[:2] != (3, 12):
        await asyncio.gather(*(leaf(i) for i in range(12)))
        future = asyncio.get_running_loop().create_future()
        future.set_result(len(tasks))
        await future


def closure(n):
    box = [n]

    def inner(more):
        box.append(more)
        return box

    return inner


def nested(depth):
    a, b, c = [], (), {}
    for _ in range(depth):
        a, b, c = [a], (b, a), {"in": c, "a": a}
    return a, b, c


def fail(n):
    if n:
        try:
            fail(n - 1)
        except Error as e:
            raise Error(n) from e
    raise Error("root")


def classes_at_run_time(n):
    class Passing(User):
        pass

    class Slotted:
        __slots__ = ("a",)

    dynamic = type("Dynamic%d" % (n % 7), (MyList,), {"f": lambda self: self})
    return [Passing(n), Slotted(), dynamic()], [Passing(i) for i in range(10)]


def library():
    loaded = json.loads(TEXT)
    json.dumps(loaded)
    for m in PATTERN.finditer("some words of text"):
        m.groupdict()
    queue = collections.deque([[i] for i in range(20)], maxlen=16)
    queue.rotate(3)
    ordered = collections.OrderedDict((str(i), [i]) for i in range(20))
    ordered.move_to_end("3")
    counter = collections.Counter("abracadabra")
    default = collections.defaultdict(list)
    default["x"].append(counter)
    chain = collections.ChainMap(ordered, default)
    return (chain, queue, functools.partial(closure, 1), types.SimpleNamespace(a=queue),
            itertools.chain([1], [2]), itertools.count(5), zip([1], [2]), map(str, [1]),
            enumerate([1]), iter([1]), iter({1: []}), reversed([1]), memoryview(b"abc"),
            bytearray(5), slice([], 1), property(closure), classmethod(closure))


def references():
    target = Slots()
    weak = weakref.ref(target)
    proxy = weakref.proxy(target)
    values = weakref.WeakValueDictionary(a=target)
    weakref.finalize(target, len, "x")
    return weak, proxy, values


def work(r, loop):
    for i in range(15):
        User(i), Slots(), Derived(i), MyList([1, 2]), MyDict(a=[1]), MyStr("text"), MySet([i])
        MyTuple((i, [])), MyInt(i), Cycle(), Lazarus(), Data(1, []), Frozen(2), Made(), Point(i, [])
        with Manager():
            pass
        try:
            fail(2)
        except Error:
            pass
        sum(len(x) for x in generator(5))
        half = generator(5)
        next(half)
        closure(i)([])
        {i, i + 1}, frozenset((i, "x")), {i: {}}, (i, []), [*range(i)]
        (lambda x=[]: x)()
        "text".upper, [].append, User.__init__
        library(), references(), classes_at_run_time(i)
    nested(400)
    loop.run_until_complete(tree())
    crowd = [User(i) for i in range(300)]
    crowd[0].table["all"] = crowd
    kept.extend([User(r), Slots(), Derived(r), MyList([r]), MyDict(r=[r]), MyStr(r), MyTuple([r]),
                 MySet([r]), MyInt(r), Cycle(), Data(r, []), Frozen(r), Made(), Point(r, {}),
                 closure(r), generator(3), {r: [r]}, {r}, (r, [r]), functools.partial(work, r),
                 weakref.ref(User), nested(60), classes_at_run_time(r), Error(r), Manager(),
                 collections.deque([r]), collections.OrderedDict(r=r), references(), [[r], [r]],
                 frozenset([r]), {"plain": r}, ("plain", r)])
    if len(kept) > 4000:
        del kept[:2000]
    if r % 20 == 0:
        gc.collect()


def name_of(t):
    module = t.__module__
    if not isinstance(module, str) or module == "builtins":
        return t.__qualname__
    return module + "." + t.__qualname__


def held_by_code(code):
    """The tuples of a code object, which has no tp_traverse."""
    if sys.version_info < (3, 11):
        return [code.co_consts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    # co_localsplusnames has no name in Python: Include/cpython/code.h, 96 bytes in from 3.11 to 3.15.
    names = ctypes.py_object.from_address(id(code) + 96).value
    assert type(names) is tuple, names
    return [code.co_consts, code.co_names, names]


def static_ranges():
    """Where files are mapped: 3.11 and 3.12 have the constants of frozen modules there."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        return []
    with open("/proc/self/maps", encoding="ascii", errors="replace") as f:
        lines = [line.split() for line in f]
    return [tuple(int(x, 16) for x in w[0].split("-")) for w in lines if w[4] != "0"]


def has_hidden_slots(t):
    """A class with __slots__ holds a tuple of its own for them (ht_slots), which nobody visits."""
    slots = vars(t).get("__slots__", ())
    return bool(set([slots] if isinstance(slots, str) else slots) - {"__dict__", "__weakref__"})


def closure_of(objects):
    """Everything reachable from the tracked objects, each once: untracked dicts and tuples, too.

    gc.get_referents() tells what tp_traverse tells; static types and code objects have none.
    """
    static = static_ranges()
    seen = {id(objects)}
    counts = collections.Counter()
    todo = [o for o in objects]
    seen.add(id(todo))
    for o in todo:
        seen.add(id(o))
    while todo:
        more = []
        seen.add(id(more))
        for o in todo:
            if type(o) is not tuple or not any(a <= id(o) < b for a, b in static):
                counts[type(o)] += 1
            if issubclass(type(o), type) and has_hidden_slots(o):
                counts[tuple] += 1
            held = gc.get_referents(o)
            if issubclass(type(o), type) and not gc.is_tracked(o):
                held += gc.get_referents(vars(o)) + [o.__mro__, o.__bases__]
            elif type(o) is types.CodeType:
                held += held_by_code(o)
            for x in held:
                if id(x) not in seen:
                    seen.add(id(x))
                    more.append(x)
        todo = more
    return counts


def by_name(counts):
    named = collections.Counter()
    for t, n in counts.items():
        named[name_of(t)] += n
    return named


def truth(objects):
    tracked = collections.Counter(map(type, objects))
    return {"tracked": by_name(tracked), "reachable": by_name(closure_of(objects)),
            "users": sorted(name_of(c) for c in USER_CLASSES)}


def say(answer):
    line = json.dumps(answer).encode() + b"\n"
    while line:
        line = line[os.write(1, line):]


def main():
    read, alive, disable, enable = os.read, gc.get_objects, gc.disable, gc.enable
    freeze, unfreeze = gc.freeze, gc.unfreeze
    loop = asyncio.new_event_loop()
    rounds = commands = 0
    say({"python": "%d.%d.%d" % sys.version_info[:3]})
    while True:
        # Every other time all objects wait in the permanent generation.
        commands += 1
        disable()
        if commands % 2:
            freeze()
        line = read(0, 64)
        unfreeze()
        objects = alive()
        enable()
        if not line:
            break
        words = line.split()
        if words[0] == b"truth":
            answer = truth(objects)
        else:
            answer = {}
        del objects
        if words[0] == b"work":
            for _ in range(int(words[1])):
                work(rounds, loop)
                rounds += 1
        say(answer)
        del answer, words, line
    loop.close()


if __name__ == "__main__":
    main()
