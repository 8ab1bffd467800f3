# SPDX-License-Identifier: MIT
"""The leak of objgraph's own tutorial, in a loop: a cache in a default argument.

Started with `python3 -c 'import tutorial; tutorial.main()' [CALLS]`: makes so many calls at full
speed, or a hundred a second until SIGTERM; says how many it made and what came out.
"""

import signal
import sys
import threading


class MyBigFatObject(object):
    def __init__(self, size=1):
        self.size = size


def computate_something(n, _cache={}):
    _cache[n] = dict(foo=MyBigFatObject(n % 7), bar=MyBigFatObject(n % 11))
    # a very explicit and easy-to-find "leak" but oh well
    x = MyBigFatObject()  # this one doesn't leak
    return x.size + _cache[n]["foo"].size * _cache[n]["bar"].size


def main():
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else None
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print("tutorial: begins", flush=True)
    n = result = 0
    while n < calls if calls is not None else not stop.wait(0.01):
        result = (result * 31 + computate_something(n)) % 1000003
        n += 1
    print(f"tutorial: {n} calls, result {result}", flush=True)
