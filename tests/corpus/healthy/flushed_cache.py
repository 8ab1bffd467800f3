# SPDX-License-Identifier: MIT
"""A cache that is flushed as a whole now and then."""

from pace import now, rounds


class Entry:
    def __init__(self, i):
        self.i = i


CACHE, flushed = {}, now()

for i in rounds(600):
    CACHE[i] = Entry(i)
    if now() - flushed > 0.4:
        CACHE.clear()
        flushed = now()
