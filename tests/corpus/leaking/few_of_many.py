# SPDX-License-Identifier: MIT
"""Of many requests a second few stay: their clients went away in the middle."""
# leaks: __main__.Request

from pace import rounds


class Request:
    __slots__ = ("i", "next")

    def __init__(self, i):
        self.i = i


HALF_OPEN = set()

for i in rounds(400):
    for k in range(40):
        r = Request(k)
    if i % 4 == 0:
        HALF_OPEN.add(r)
