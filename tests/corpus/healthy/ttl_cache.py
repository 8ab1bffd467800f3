# SPDX-License-Identifier: MIT
"""A cache whose entries live for half a window."""

from pace import now, rounds


class Entry:
    def __init__(self, i):
        self.i, self.until = i, now() + 0.5


CACHE = {}

for i in rounds(400):
    CACHE[i] = Entry(i)
    for key in [k for k, e in CACHE.items() if e.until < now()]:
        del CACHE[key]
