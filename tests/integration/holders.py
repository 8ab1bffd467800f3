# SPDX-License-Identifier: MIT
"""A program that leaks in every way we know, each with its own class, and says who holds what: for
test_holders.py, which asks pyleak and compares. Runs on Python 3.8 and newer.

A case is a function with @case(Want(...), ...); its name is the name of the class that leaks in it,
`leak.NAME`. It makes N objects with the class it is given and leaves them where they are held. What
it returns is kept on nobody's behalf: it must return nothing."""
import abc
import asyncio
import atexit
import builtins
import codecs
import collections
import contextlib
import contextvars
import copyreg
import ctypes
import dataclasses
import enum
import functools
import gc
import itertools
import json
import logging
import logging.handlers
import multiprocessing.util
import os
import pickle
import queue
import sched
import selectors
import signal
import sqlite3
import sys
import threading
import time
import traceback
import types
import unittest.mock
import warnings
import weakref

N = 20
MINOR = sys.version_info[1]
CASES = {}


class Want:
    """So much of the instances (1: all) is held by this kind of root, of that name, by this
    expression; patterns of re.search."""

    def __init__(self, kind, root, expression, share=1, since=8, until=99):
        self.said = [kind, root, expression, share]
        self.versions = range(since, until + 1)


def case(*wants, since=8, until=99):
    def add(function):
        if since <= MINOR <= until:
            CASES[function.__name__] = function, [w.said for w in wants if MINOR in w.versions]
        return function
    return add


def module(expression, root="__main__", **more):
    return Want("module", "^" + root + "$", expression, **more)


class Named(logging.Logger):
    """Loggers of a class of their own, so that they can be told from others."""


# ---- what programs leak through ---------------------------------------------------------------


class Service:
    @functools.lru_cache(maxsize=None)
    def unbounded(self, key): return key()

    @functools.lru_cache(maxsize=1000)
    def bounded(self, key, number): return key()


SERVICE = Service()


@case(module(r"^__main__\.Service\.unbounded\.cache\['…'\]$"))
def lru_cache_unbounded(T):
    for _ in range(N):
        SERVICE.unbounded(functools.partial(T))


@case(module(r"^__main__\.Service\.bounded\['…'\]$"))
def lru_cache_bounded(T):
    for i in range(N):
        SERVICE.bounded(T, i)


ROWS = []


@case(module(r"^__main__\.ROWS\[…\]\['object'\]$"))
def rows(T):
    for i in range(N):
        ROWS.append({"id": i, "object": T()})


@case(Want("module", "", r"\.manager\.loggerDict\['…'\]\.context$"))
def loggers_by_name(T):
    for i in range(N):
        logging.getLogger("request.%d" % i).context = T()


ERRORS = []


@case(module(r"^__main__\.ERRORS\[…\]\.__traceback__\.tb_frame.* \(local kept\)$|"
             r"^__main__\.ERRORS\[…\]\.__traceback__.*kept"))
def exceptions_with_tracebacks(T):
    def fails():
        kept = T()
        raise ValueError(len(ERRORS))
    for _ in range(N):
        try:
            fails()
        except ValueError as e:
            ERRORS.append(e)


class Context:
    pass


TIMERS = []


@case(Want("frame", r"^Thread-\d+ in .*_bootstrap at threading\.py:\d+$", r"^local self\.args\[0\]\.things\[…\]$"))
def timer_pins_context(T):
    context = Context()
    context.things = [T() for _ in range(N)]
    timer = threading.Timer(100000, print, args=(context,))
    timer.daemon = True
    timer.start()


CALLBACK = []


@case(module(r"^__main__\.CALLBACK\[.\]\.__closure__\[.\].* \(cell inner\)\[…\]$"))
def closure_cell(T):
    inner = [T() for _ in range(N)]

    def use():
        return inner
    CALLBACK.append(use)


class Registry:
    items = []


@case(module(r"^__main__\.Registry\.items\[…\]$"))
def class_attribute(T):
    Registry.items.extend(T() for _ in range(N))


class Slotted:
    __slots__ = ("first", "second")


SLOTTED = Slotted()


@case(module(r"^__main__\.SLOTTED\.second\[…\]$"))
def behind_slots(T):
    SLOTTED.second = [T() for _ in range(N)]


class SlotsBelow(Slotted):
    __slots__ = ("third",)


SLOTS_BELOW = []


@case(module(r"^__main__\.SLOTS_BELOW\[…\]\.first$", share=0.5),
      module(r"^__main__\.SLOTS_BELOW\[…\]\.third$", share=0.5))
def slots_of_two_classes(T):
    for _ in range(N // 2):
        s = SlotsBelow()
        s.first, s.third = T(), T()
        SLOTS_BELOW.append(s)


STOP = threading.Event()


def in_thread(function, *args, name):
    ready = threading.Event()
    threading.Thread(target=function, args=(ready,) + args, name=name, daemon=True).start()
    ready.wait()


@case(Want("frame", r"^worker-one in thread_local_variable\.<locals>\.work at holders\.py:\d+$|"
           r"^worker-one in work at holders\.py:\d+$", r"mine.*\[…\]$"))
def thread_local_variable(T):
    def work(ready):
        mine = [T() for _ in range(N)]
        ready.set()
        STOP.wait()
        return mine
    in_thread(work, name="worker-one")


@case(Want("frame", r"^deep in .*outer at holders\.py:\d+$", r"held"))
def outer_frame_of_a_thread(T):
    def inner(ready):
        ready.set()
        STOP.wait()

    def outer(ready):
        held = {i: T() for i in range(N)}
        inner(ready)
        return held
    in_thread(outer, name="deep")


GENERATORS = []


@case(module(r"^__main__\.GENERATORS\[…\].*\(?local state\)?"))
def suspended_generator(T):
    def generate():
        state = T()
        yield 1
        del state
    for _ in range(N):
        g = generate()
        next(g)
        GENERATORS.append(g)


@case(Want("frame", r"^gen-thread in .*at holders\.py:\d+$", r"local state|state"))
def generator_in_a_frame(T):
    def generate():
        state = [T() for _ in range(N)]
        yield 1
        del state

    def work(ready):
        g = generate()
        next(g)
        ready.set()
        STOP.wait()
        return g
    in_thread(work, name="gen-thread")


LOOP = asyncio.new_event_loop()
TASKS = set()


@case(module(r"^__main__\.TASKS.*\{…\}.*local payload|^__main__\.TASKS.*payload"))
def asyncio_task_set(T):
    async def wait_for_ever(event):
        payload = T()
        await event.wait()
        return payload

    async def start():
        event = asyncio.Event()
        for _ in range(N):
            TASKS.add(asyncio.ensure_future(wait_for_ever(event)))
        await asyncio.sleep(0)
    LOOP.run_until_complete(start())


COROUTINES = []


@case(module(r"^__main__\.COROUTINES\[…\]\.(cr_frame…|cr_await) → coroutine_awaiting \(local deep\)$"))
def coroutine_awaiting(T):
    @types.coroutine
    def suspend():
        yield

    async def below():
        deep = T()
        await suspend()
        return deep

    async def above():
        await below()
    for _ in range(N):
        c = above()
        c.send(None)
        COROUTINES.append(c)


ASYNC_GENERATORS = []


@case(module(r"^__main__\.ASYNC_GENERATORS\[…\].*local kept"))
def async_generator(T):
    async def generate():
        kept = T()
        yield 1
        del kept
    for _ in range(N):
        g = generate()
        try:
            g.__anext__().send(None)
        except StopIteration:
            pass
        ASYNC_GENERATORS.append(g)


@case(Want("c-reference", "^a lost reference$", "^c_reference_bug$"))
def c_reference_bug(T):
    for _ in range(10 * N):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(T()))


WEAK_KEYS = weakref.WeakKeyDictionary()


@case(module(r"^__main__\.WEAK_KEYS\.data\['…'\]"))
def weak_key_strong_value(T):
    for _ in range(N):
        o = T()
        o.me = o
        WEAK_KEYS[o] = [o]


WEAK_VALUES = weakref.WeakValueDictionary()
OWNERS = []


@case(module(r"^__main__\.OWNERS\[…\]$"))
def weak_values_do_not_hold(T):
    for i in range(N):
        o = T()
        WEAK_VALUES[i] = o
        OWNERS.append(o)


# ---- containers -------------------------------------------------------------------------------

DEQUE = collections.deque()
ODICT = collections.OrderedDict()
DDICT = collections.defaultdict(list)
COUNTER = {}
NESTED = {}
SET = set()
FROZEN = []
TUPLES = ()
CHAINED = None


@case(module(r"^__main__\.DEQUE\[…\]$"))
def deque(T):
    DEQUE.extend(T() for _ in range(N))


@case(module(r"^__main__\.ODICT\['…'\]$"))
def ordered_dict(T):
    for i in range(N):
        ODICT["key", i] = T()


@case(module(r"^__main__\.DDICT\['…'\]\[…\]$"))
def default_dict(T):
    for i in range(N):
        DDICT[i % 4].append(T())


class DictSubclass(dict):
    pass


class ListSubclass(list):
    pass


MY_DICT, MY_LIST = DictSubclass(), ListSubclass()


@case(module(r"^__main__\.MY_DICT\['…'\]$"))
def dict_subclass(T):
    MY_DICT.update((i, T()) for i in range(N))


@case(module(r"^__main__\.MY_DICT\.aside\[…\]$"))
def attribute_of_a_dict_subclass(T):
    MY_DICT.aside = [T() for _ in range(N)]


@case(module(r"^__main__\.MY_LIST\[…\]$", share=0.5), module(r"^__main__\.MY_LIST\.aside\[…\]$", share=0.5))
def list_subclass(T):
    MY_LIST.extend(T() for _ in range(N // 2))
    MY_LIST.aside = [T() for _ in range(N // 2)]


@case(module(r"^__main__\.NESTED\['…'\]\['…'\]\[0\]\[1\]$"))
def nested_containers(T):
    for i in range(N):
        NESTED.setdefault("tenant-%d" % (i % 3), {}).setdefault(i, []).append((i, T()))


@case(module(r"^__main__\.SET.*\{…\}"))
def set_member(T):
    SET.update(T() for _ in range(N))


@case(module(r"^__main__\.FROZEN\[…\].*\{…\}"))
def frozenset_member(T):
    for _ in range(N):
        FROZEN.append(frozenset([T()]))


@case(module(r"^__main__\.TUPLES\[…\]$"))
def tuple_item(T):
    global TUPLES
    TUPLES = tuple(T() for _ in range(N))


KEYS = {}


@case(module(r"^__main__\.KEYS.*key"))
def dict_key(T):
    for _ in range(N):
        KEYS[T()] = 1


class Node:
    pass


@case(module(r"^__main__\.CHAINED\.next….payload$", share=(N - 1) / N),
      module(r"^__main__\.CHAINED\.payload$", share=1 / N))
def linked_list(T):
    global CHAINED
    for _ in range(N):
        n = Node()
        n.next, n.payload = CHAINED, T()
        CHAINED = n


PAIR = {"by_id": {}, "by_name": []}


@case(module(r"^__main__\.PAIR\['by_name'\]\[…\]$|^__main__\.PAIR\['…'\]\[…\]$", share=0.75),
      module(r"^__main__\.PAIR\['by_id'\]\['…'\]$|^__main__\.PAIR\['…'\]\['…'\]$", share=0.25))
def two_holders(T):
    for i in range(N):
        if i % 4:
            PAIR["by_name"].append(T())
        else:
            PAIR["by_id"][i] = T()


# ---- functions, classes, descriptors ----------------------------------------------------------

PARTIALS = []
METHODS = []


@case(module(r"^__main__\.PARTIALS\[…\]\.args\[.\]$", share=0.5),
      module(r"^__main__\.PARTIALS\[…\]\.keywords\['…'\]$|^__main__\.PARTIALS\[…\]\.keywords\['key'\]$", share=0.5))
def partial_arguments(T):
    for _ in range(N // 2):
        PARTIALS.append(functools.partial(print, T()))
        PARTIALS.append(functools.partial(print, key=T()))


@case(module(r"^__main__\.METHODS\[…\]\.__self__$"))
def bound_method_callbacks(T):
    T.callback = lambda self: None
    for _ in range(N):
        METHODS.append(T().callback)


def with_default(x, seen=[], *, named={}):
    pass


@case(module(r"^__main__\.with_default\.__defaults__\[.\]\[…\]$", share=0.5),
      module(r"^__main__\.with_default\.__kwdefaults__\['named'\]\['…'\]$|"
             r"^__main__\.with_default\.__kwdefaults__\['…'\]\['…'\]$", share=0.5))
def default_arguments(T):
    for i in range(N // 2):
        with_default.__defaults__[0].append(T())
        with_default.__kwdefaults__["named"][i] = T()


def with_attribute():
    pass


@case(module(r"^__main__\.with_attribute\.seen\[…\]$"))
def function_attribute(T):
    with_attribute.seen = [T() for _ in range(N)]


class PerInstance:
    """A descriptor that keeps its values by the owner's id."""

    def __init__(self): self.values = {}
    def __get__(self, owner, cls): return self.values[id(owner)] if owner else self
    def __set__(self, owner, value): self.values[id(owner)] = value


class Described:
    field = PerInstance()


@case(module(r"^__main__\.(Described\.field|PerInstance)\.values\['…'\]$|^__main__\.Described\.field\.values\['…'\]$"))
def descriptor_per_instance(T):
    for _ in range(N):
        Described().field = T()


@case(module(r"^__main__\.WithProperty\.value\.fget.*\(cell kept\)\[…\]$"))
def property_closure(T):
    kept = [T() for _ in range(N)]

    class WithProperty:
        @property
        def value(self): return kept
    globals()["WithProperty"] = WithProperty


@case(module(r"^__main__\.WithStatic\.static.*\(cell kept\)\[…\]$|^__main__\.WithStatic\.static\.__func__.*\(cell kept\)\[…\]$"))
def static_method_closure(T):
    kept = [T() for _ in range(N)]

    class WithStatic:
        @staticmethod
        def static(): return kept
    globals()["WithStatic"] = WithStatic


@case(module(r"^__main__\.CELL_FUNCTION\.__closure__\[.\].*\(cell __class__\)\.kept\[…\]$|"
             r"^__main__\.CELL_FUNCTION\..*__class__.*\.kept\[…\]$"))
def class_cell(T):
    class Hidden:
        kept = [T() for _ in range(N)]

        def method(self): return __class__
    globals()["CELL_FUNCTION"] = Hidden.__dict__["method"]


class Meta(type):
    registry = {}

    def __new__(mcs, name, bases, space):
        cls = super().__new__(mcs, name, bases, space)
        Meta.registry[name] = cls
        return cls


@case(module(r"^__main__\.Meta\.registry\['…'\]\.holds$"))
def metaclass_registry(T):
    for i in range(N):
        Meta("Made%d" % i, (), {"holds": T()})


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


@case(module(r"^__main__\.Colour\.(RED|_member_map_|_value2member_map_|_member_names_).*extra\[…\]$"))
def enum_member(T):
    Colour.RED.extra = [T() for _ in range(N)]


@dataclasses.dataclass
class Record:
    value: object = None


RECORDS = []


@case(module(r"^__main__\.RECORDS\[…\]\.value$"))
def dataclass_field(T):
    for _ in range(N):
        RECORDS.append(Record(T()))


Point = collections.namedtuple("Point", "x y")
POINTS = []


@case(module(r"^__main__\.POINTS\[…\]\[1\]$|^__main__\.POINTS\[…\]\.y$"))
def named_tuple(T):
    for i in range(N):
        POINTS.append(Point(i, T()))


class Base(abc.ABC):
    pass


@case(module(r"^__main__\.KEPT_CLASSES\[…\]\.holds$"))
def subclass_list_does_not_hold(T):
    global KEPT_CLASSES
    KEPT_CLASSES = [type("Sub%d" % i, (Base,), {"holds": T()}) for i in range(N)]


class Lazy:
    @functools.cached_property
    def value(self): return self.make()


LAZY = []


@case(module(r"^__main__\.LAZY\[…\]\.value$"))
def cached_property(T):
    for _ in range(N):
        o = Lazy()
        o.make = T
        o.value
        LAZY.append(o)


@functools.singledispatch
def dispatched(x):
    pass


@case(Want("module", "^(__main__|functools|weakref)$", r"things\[…\]$"))
def singledispatch_registry(T):
    def implementation(x):
        pass
    implementation.things = [T() for _ in range(N)]
    dispatched.register(bytes, implementation)


MANY = None


@case(module(r"^__main__\.MANY\.attribute_200$"))
def one_of_many_attributes(T):
    global MANY
    MANY = Node()
    for i in range(300):
        setattr(MANY, "attribute_%d" % i, i)
    MANY.attribute_200 = T()


class Manyslots:
    __slots__ = tuple("slot_%d" % i for i in range(100))


MANY_SLOTS = Manyslots()


@case(module(r"^__main__\.MANY_SLOTS\.slot_90\[…\]$"))
def one_of_many_slots(T):
    MANY_SLOTS.slot_90 = [T() for _ in range(N)]


ITERATORS = []


@case(module(r"^__main__\.ITERATORS\[…\]"))
def iterators(T):
    for i in range(N):
        ITERATORS.append(itertools.chain(iter([T()])))


MAPPINGS = []


@case(module(r"^__main__\.MAPPINGS\[…\].*\['…'\]$"))
def mapping_proxy(T):
    for i in range(N):
        MAPPINGS.append(types.MappingProxyType({i: T()}))


SIMPLE = types.SimpleNamespace()


@case(module(r"^__main__\.SIMPLE\.kept\[…\]$"))
def simple_namespace(T):
    SIMPLE.kept = [T() for _ in range(N)]


# ---- modules ----------------------------------------------------------------------------------


@case(module(r"^shop\.cache\.SESSIONS\['…'\]$", root=r"shop\.cache"))
def submodule_global(T):
    package, inner = types.ModuleType("shop"), types.ModuleType("shop.cache")
    sys.modules["shop"], sys.modules["shop.cache"] = package, inner
    package.cache = inner
    inner.SESSIONS = {("session", i): T() for i in range(N)}


@case(module(r"^__main__\.PLUGIN\.STATE\[…\]$"))
def module_not_in_sys_modules(T):
    global PLUGIN
    PLUGIN = types.ModuleType("plugin")
    PLUGIN.STATE = [T() for _ in range(N)]


@case(module(r"^__main__\.exec_function\.__globals__\['HIDDEN'\]\[…\]$|"
             r"^__main__\.exec_function\.__globals__\['…'\]\[…\]$"))
def globals_of_exec(T):
    space = {"HIDDEN": [T() for _ in range(N)]}
    exec("def function(): return HIDDEN", space)
    globals()["exec_function"] = space["function"]


@case(module(r"^builtins\.leaked_builtin\[…\]$", root="builtins"))
def builtins_attribute(T):
    builtins.leaked_builtin = [T() for _ in range(N)]


@case(module(r"^sys\.leaked_in_sys\[…\]$", root="sys"))
def sys_attribute(T):
    sys.leaked_in_sys = [T() for _ in range(N)]


# ---- the interpreter --------------------------------------------------------------------------


# up to 3.9 the module's state holds it, and a module comes first
@case(module(r"^atexit.*\[0\]\[…\]$", root="atexit", until=9),
      Want("interpreter", "^atexit$", r"\[…\]$", since=10))
def atexit_callback(T):
    def at_exit(things):
        pass
    atexit.register(at_exit, [T() for _ in range(N)])


@case(Want("interpreter", "^signal handlers$", r"things\[…\]$"))
def signal_handler(T):
    def handler(number, frame):
        pass
    handler.things = [T() for _ in range(N)]
    signal.signal(signal.SIGUSR1, handler)


@case(Want("interpreter", "codecs", r"things\[…\]$"))
def codec_search(T):
    def search(name):
        return None
    search.things = [T() for _ in range(N)]
    codecs.register(search)


@case(Want("module", "^(copyreg|pickle|_pickle|copy)$|copyreg", r"dispatch_table.*things\[…\]$"))
def copyreg_table(T):
    def reduce(x):
        pass
    reduce.things = [T() for _ in range(N)]
    copyreg.pickle(Node, reduce)


@case(Want("interpreter", "audit", r"things\[…\]$"))
def audit_hook(T):
    def hook(event, args):
        pass
    hook.things = [T() for _ in range(N)]
    sys.addaudithook(hook)


@case(Want("interpreter", "trace-thread", r"things\[…\]$"))
def trace_function(T):
    def trace(frame, event, arg):
        return None
    trace.things = [T() for _ in range(N)]

    def work(ready, trace):
        sys.settrace(trace)
        del trace
        ready.set()
        STOP.wait()
    in_thread_without(work, trace, name="trace-thread")


@case(Want("interpreter", "profile-thread", r"things\[…\]$"))
def profile_function(T):
    def profile(frame, event, arg):
        return None
    profile.things = [T() for _ in range(N)]

    def work(ready, profile):
        sys.setprofile(profile)
        del profile
        ready.set()
        STOP.wait()
    in_thread_without(work, profile, name="profile-thread")


class Once(threading.Thread):
    """A thread whose own object and frames let go of its argument."""

    def __init__(self, function, box, name):
        super().__init__(name=name, daemon=True)
        self.function, self.box, self.ready = function, box, threading.Event()

    def run(self):
        self.function(self.ready, self.box.pop())


def in_thread_without(function, argument, name):
    box = [argument]
    t = Once(function, box, name)
    del argument
    t.start()
    t.ready.wait()


VARIABLE = contextvars.ContextVar("request")
MAIN_VARIABLE = contextvars.ContextVar("main_request")
CONTEXTS = []


@case(Want("interpreter", "^context of MainThread$", r"\['main_request'\]\[…\]$"))
def context_variable_of_a_thread(T):
    MAIN_VARIABLE.set([T() for _ in range(N)])


@case(module(r"^__main__\.CONTEXTS\[…\].*\['request'\]$"))
def context_copies(T):
    for _ in range(N):
        c = contextvars.Context()
        c.run(VARIABLE.set, T())
        CONTEXTS.append(c)


LOCAL = threading.local()


@case(module(r"^__main__\.LOCAL\.dummies\['…'\]\['things'\]\[…\]$"))
def thread_local_storage(T):
    def work(ready):
        LOCAL.things = [T() for _ in range(N)]
        ready.set()
        STOP.wait()
    in_thread(work, name="local-thread")


@case(Want("module", "^weakref$", r"finalize\._registry.*\[…\]$|finalize\._registry.*things\[…\]$"))
def weakref_finalize(T):
    o = Node()
    weakref.finalize(o, print, [T() for _ in range(N)])
    FINALIZED.append(o)


FINALIZED = []
JOBS = queue.Queue()
EXECUTOR = None


@case(module(r"^__main__\.JOBS\.queue\[…\]$"))
def work_queue(T):
    for _ in range(N):
        JOBS.put(T())


@case(Want("frame", r"^ThreadPoolExecutor.* in _worker at thread\.py:\d+$", r"^local work_queue.*\[…\]\.(args\[0\]|task\[1\]\[0\])$"))
def executor_queue(T):
    global EXECUTOR
    from concurrent.futures import ThreadPoolExecutor
    EXECUTOR = ThreadPoolExecutor(1)
    started = threading.Event()

    def block():
        started.set()
        STOP.wait()
    EXECUTOR.submit(block)
    started.wait()
    for _ in range(N):
        EXECUTOR.submit(print, T())


SIMPLE_QUEUE = queue.SimpleQueue()


@case(module(r"^__main__\.SIMPLE_QUEUE\.\w+\[…\]$", until=12),
      module(r"^__main__\.SIMPLE_QUEUE\[…\]$", since=13))
def simple_queue(T):
    for _ in range(N):
        SIMPLE_QUEUE.put(T())


@case(module(r"^gc\.callbacks\[.\]\.things\[…\]$", root="gc"))
def gc_callback(T):
    def callback(phase, info):
        pass
    callback.things = [T() for _ in range(N)]
    gc.callbacks.append(callback)


@case(Want("interpreter", "cycle", ""))
def reference_cycles(T):
    for _ in range(N):
        o = T()
        o.me = o


# ---- more of the same, elsewhere --------------------------------------------------------------

SCHEDULED = asyncio.new_event_loop()


@case(module(r"^__main__\.SCHEDULED\._scheduled\[…\]\._args\[0\]$"))
def call_later(T):
    for _ in range(N):
        SCHEDULED.call_later(100000, print, T())


FUTURES = []


@case(module(r"^__main__\.FUTURES\[…\]\._result$", share=0.5),
      module(r"^__main__\.FUTURES\[…\]\._callbacks\[0\]\.__closure__\[0\].*\(cell kept\)$", share=0.5))
def future_results_and_callbacks(T):
    def callback(kept):
        return lambda future: kept
    for i in range(N // 2):
        f, g = SCHEDULED.create_future(), SCHEDULED.create_future()
        f.set_result(T())
        g.add_done_callback(callback(T()))
        FUTURES.extend((f, g))


STACK = contextlib.ExitStack()


@case(module(r"^__main__\.STACK\._exit_callbacks\[…\]\[1\]\.__closure__\[.\].*\(cell args\)\[0\]$"))
def exit_stack(T):
    for _ in range(N):
        STACK.callback(print, T())


FRAMES = []


@case(module(r"^__main__\.FRAMES\[…\].*\(local kept\)$"))
def frames_kept(T):
    def inner():
        kept = T()
        FRAMES.append(sys._getframe())
        return len([kept])
    for _ in range(N):
        inner()


VIEWS = []


@case(module(r"^__main__\.VIEWS\[…\]\.mapping\['…'\]$"))
def dict_views(T):
    for i in range(N):
        VIEWS.append({i: T()}.values())


ARRAY = (ctypes.py_object * N)()


@case(module(r"^__main__\.ARRAY\._objects\['…'\].*$"))
def ctypes_array(T):
    for i in range(N):
        ARRAY[i] = T()


WRAPPERS = []


@case(module(r"^__main__\.WRAPPERS\[…\]\.__wrapped__\.kept$"))
def wrapped_function(T):
    for _ in range(N):
        def inner(): pass
        inner.kept = T()
        WRAPPERS.append(functools.wraps(inner, assigned=(), updated=())(lambda: 0))


class WithSetter:
    pass


@case(module(r"^__main__\.WithSetter\.value\.fset\.__defaults__\[0\]\[…\]$"))
def property_setter_default(T):
    def set_value(self, value, seen=[T() for _ in range(N)]): pass
    WithSetter.value = property(None, set_value)


@case(Want("module", "^(sys|warnings)$", r"kept\[…\]$"))
def warning_hook(T):
    def show(*args): pass
    show.kept = [T() for _ in range(N)]
    warnings.showwarning = show


CHILDREN = []


@case(module(r"^__main__\.CHILDREN\[…\]\.parent\.payload$"))
def child_that_holds_its_parent(T):
    for _ in range(N):
        parent, child = Node(), Node()
        parent.payload, child.parent = T(), parent
        CHILDREN.append(child)


TEED = []


@case(module(r"^__main__\.TEED\[…\].*tee_buffers$"))
def tee_buffers(T):
    for _ in range(N):
        a, b = itertools.tee([T()])
        next(a)
        TEED.append(b)


@case(Want("interpreter", "^exception of handler-thread$", r"^ValueError\.args\[0\]\[…\]$"))
def exception_being_handled(T):
    def work(ready):
        try:
            raise ValueError([T() for _ in range(N)])
        except ValueError:
            ready.set()
            STOP.wait()
    in_thread(work, name="handler-thread")


@case(Want("interpreter", "^monitoring callbacks$", r"kept\[…\]$"), since=12)
def monitoring_callback(T):
    def callback(*args): pass
    callback.kept = [T() for _ in range(N)]
    sys.monitoring.use_tool_id(3, "holders")
    sys.monitoring.register_callback(3, sys.monitoring.events.RAISE, callback)


@case(module(r"^__main__\.FROZEN_LATER\[…\]$"))
def frozen_generation(T):
    global FROZEN_LATER
    FROZEN_LATER = [T() for _ in range(N)]
    gc.freeze()


@case(Want("interpreter", "^running event loop of loop-thread$", r"kept\[…\]$"), since=14)
def running_loop(T):
    def work(ready):
        loop = asyncio.new_event_loop()
        loop.kept = [T() for _ in range(N)]
        asyncio._set_running_loop(loop)
        del loop
        ready.set()
        STOP.wait()
    in_thread(work, name="loop-thread")


DELEGATING = []


@case(module(r"^__main__\.DELEGATING\[…\]\.gi_yieldfrom → yield_from \(local kept\)$", since=11),
      module(r"^__main__\.DELEGATING\[…\]\.gi_frame(…|\.gi_yieldfrom\.gi_frame) → yield_from \(local kept\)$", until=10))
def yield_from(T):
    def below():
        kept = T()
        yield 1
        del kept

    def above():
        yield from below()
    for _ in range(N):
        g = above()
        next(g)
        DELEGATING.append(g)


LOOPING = []


@case(module(r"^__main__\.LOOPING\[…\](\.gi_frame)? → map"))
def generator_in_a_loop(T):
    """What is on top of its stack is what it iterates over, not what it waits for."""
    def generate():
        for x in map(id, iter([1, T()])):
            yield x
    for _ in range(N):
        g = generate()
        next(g)
        LOOPING.append(g)


AWAITING = []


@case(module(r"^__main__\.AWAITING\[…\]\.(ag_frame\.ag_await\.cr_frame|ag_await) → async_generator_awaiting \(local kept\)$"))
def async_generator_awaiting(T):
    @types.coroutine
    def suspend():
        yield

    async def below():
        kept = T()
        await suspend()
        return kept

    async def above():
        yield await below()
    for _ in range(N):
        g = above()
        asend = g.__anext__()
        asend.send(None)
        AWAITING.extend((g, asend))


TASK_VARIABLE = contextvars.ContextVar("task_request")
TASK_LIST = []


@case(module(r"^__main__\.TASK_LIST\[…\]\._context\.vars\.root(\[…\])?\['task_request'\]$"))
def context_of_a_task(T):
    async def wait_for_ever(event):
        await event.wait()

    async def start():
        event = asyncio.Event()
        for _ in range(N):
            TASK_VARIABLE.set(T())
            TASK_LIST.append(asyncio.ensure_future(wait_for_ever(event)))
        TASK_VARIABLE.set(None)
        await asyncio.sleep(0)
    loop = asyncio.new_event_loop()
    TASK_LIST.append(loop)
    contextvars.copy_context().run(loop.run_until_complete, start())


MANAGERS = []


@case(module(r"^__main__\.MANAGERS\[…\]\.gen(\.gi_frame)? → context_manager_left_open \(local kept\)$"))
def context_manager_left_open(T):
    @contextlib.contextmanager
    def manager():
        kept = T()
        yield
        del kept
    for _ in range(N):
        m = manager()
        m.__enter__()
        MANAGERS.append(m)


WATCHED, REFERENCES = [], []


@case(module(r"^__main__\.REFERENCES\[…\]\.__callback__\.__defaults__\[0\]$"))
def weak_reference_callback(T):
    for _ in range(N):
        o = Node()
        WATCHED.append(o)
        REFERENCES.append(weakref.ref(o, lambda r, kept=T(): None))


GROUPS = []


@case(module(r"^__main__\.GROUPS\[…\]\.exceptions\[0\]\.args\[0\]$"), since=11)
def exception_group(T):
    group = getattr(builtins, "ExceptionGroup")
    for _ in range(N):
        GROUPS.append(group("several", [ValueError(T())]))


ALIASES = []


@case(module(r"^__main__\.ALIASES\[…\]\.__args__\[0\]$"), since=9)
def generic_alias(T):
    for _ in range(N):
        ALIASES.append(types.GenericAlias(list, (T(),)))


# ---- what libraries keep ----------------------------------------------------------------------

MOCK = unittest.mock.Mock()


@case(module(r"^__main__\.MOCK\._mock_mock_calls\[…\]\[1\]\[0\]$"))
def mock_calls(T):
    for _ in range(N):
        MOCK.method(T())


BUFFER = logging.handlers.MemoryHandler(100000, flushLevel=1000)


@case(module(r"^__main__\.BUFFER\.buffer\[…\]\.args\[0\]$"))
def log_records(T):
    log = logging.Logger("aside")
    log.addHandler(BUFFER)
    for _ in range(N):
        log.warning("%s", T())


@case(module(r"^multiprocessing\.util\._finalizer_registry\['…'\]\._args\[0\]$", root=r"multiprocessing\.util"))
def multiprocessing_finalizers(T):
    for _ in range(N):
        multiprocessing.util.Finalize(None, print, args=(T(),), exitpriority=1)


SCHEDULER = sched.scheduler()


@case(module(r"^__main__\.SCHEDULER\._queue\[…\]\[[34]\]\[0\]$"))
def scheduler_queue(T):
    for i in range(N):
        SCHEDULER.enter(100000 + i, 1, print, (T(),))


SELECTOR = selectors.SelectSelector()


@case(module(r"^__main__\.SELECTOR\._fd_to_key\['…'\]\[3\]$"))
def selector_data(T):
    for _ in range(N):
        SELECTOR.register(os.pipe()[0], selectors.EVENT_READ, T())


@case(module(r"^gc\.garbage\[…\]$", root="gc"))
def gc_garbage(T):
    gc.garbage.extend(T() for _ in range(N))


@case(module(r"^sys\.excepthook\.kept\[…\]$", root="sys"))
def exception_hook(T):
    def hook(*args): pass
    hook.kept = [T() for _ in range(N)]
    sys.excepthook = hook


PICKLER = pickle.Pickler(open(os.devnull, "wb"))


# its memo is a table of C, which shows what it holds in later versions
@case(Want("c-reference", "^malloc'ed block$", "^pickle_memo$"), until=10)
def pickle_memo(T):
    T.__reduce__ = lambda self: (int, ())
    for _ in range(N):
        PICKLER.dump(T())


DATABASE = sqlite3.connect(":memory:")


@case(Want("c-reference", "^malloc'ed block$", r"\.__defaults__\[0\]$"))
def sqlite_functions(T):
    for i in range(N):
        def function(kept=T()): pass
        DATABASE.create_function("f%d" % i, 0, function)


# ---- C code -----------------------------------------------------------------------------------

LIBC_BLOCK = ctypes.CDLL(None).malloc
LIBC_BLOCK.restype = ctypes.c_void_p
LIBC_BLOCK.argtypes = [ctypes.c_size_t]


def c_hold(o, at):
    """*at = o, with a reference of its own, as C code does."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(o))
    ctypes.c_size_t.from_address(at).value = id(o)


@case(Want("c-reference", "^malloc'ed block$", "^c_block$"))
def c_block(T):
    block = LIBC_BLOCK(4000)
    for i in range(N):
        c_hold(T(), block + 8 * i)


LEAKY = ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), "leaky.so"))
for _function in (LEAKY.leaky_hold, LEAKY.leaky_hold_one, LEAKY.leaky_hold_other):
    _function.argtypes = [ctypes.c_void_p]
LEAKY.leaky_table_hold.argtypes = [ctypes.c_void_p, ctypes.c_uint]
LEAKY.leaky_give.argtypes = [ctypes.c_void_p, ctypes.c_uint]


def taken(o):
    """Its address, with a reference that C code now owns."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(o))
    return id(o)


@case(Want("c-reference", r"^leaky\.so: held$", "^c_static$"))
def c_static(T):
    for _ in range(N):
        LEAKY.leaky_hold(taken(T()))


@case(Want("c-reference", r"^leaky\.so: leaky_one\+0x8$", "^c_static_field$", share=0.5),
      Want("c-reference", r"^leaky\.so: leaky_other\+0x10$", "^c_static_field$", share=0.5))
def c_static_field(T):
    LEAKY.leaky_hold_one(taken(T()))
    LEAKY.leaky_hold_other(taken(T()))


@case(Want("c-reference", r"^leaky\.so: leaky_table, a malloc'ed block$", "^c_static_table$"))
def c_static_table(T):
    for i in range(N):
        LEAKY.leaky_table_hold(taken(T()), i)


@case(Want("c-reference", "^C stack of c-stack-thread$", "^c_stack$"))
def c_stack(T):
    wait, _ = os.pipe()
    for i in range(2):
        LEAKY.leaky_give(taken(T()), i)

    def work(ready):
        ready.set()
        LEAKY.leaky_wait(wait)
    in_thread(work, name="c-stack-thread")
    while ctypes.c_void_p.in_dll(LEAKY, "leaky_waits").value is None:
        time.sleep(0.01)


INSIDE = bytearray(0)


@case(Want("c-reference", "^an object of type bytes, which does not show it$", "^c_object$"))
def c_object(T):
    global INSIDE
    INSIDE = bytes(8 * N)
    for i in range(N):
        c_hold(T(), id(INSIDE) + bytes.__basicsize__ - 1 + 8 * i)


# ---- main -------------------------------------------------------------------------------------


def make(name, function):
    T = type(name, (), {"__module__": "leak"})
    T.__qualname__ = name
    function(T)


def main():
    gc.disable()
    for name, (function, _) in CASES.items():
        make(name, function)
    print(json.dumps({"n": N, "cases": {n: w for n, (_, w) in CASES.items()}}), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
    os._exit(1)  # not at the threads' leisure
