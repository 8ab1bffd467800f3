# SPDX-License-Identifier: MIT
"""The last lines of a log, in a ring."""

import collections

from pace import rounds


class Line:
    def __init__(self, i):
        self.text = f"line {i}"


RING = collections.deque(maxlen=200)

for i in rounds(400):
    RING.append(Line(i))
