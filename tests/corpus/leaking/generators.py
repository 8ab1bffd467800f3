# SPDX-License-Identifier: MIT
"""Streams that nobody reads to their end, kept by the list of open streams."""
# leaks: generator

from pace import rounds


def stream(i):
    while True:
        yield i


OPEN = []

for i in rounds():
    s = stream(i)
    next(s)
    OPEN.append(s)
