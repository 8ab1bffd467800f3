# SPDX-License-Identifier: MIT
"""An LRU cache that fills within a window, then swaps."""

import functools

from pace import rounds


class Row:
    def __init__(self, i):
        self.i = i


@functools.lru_cache(maxsize=150)
def load(i):
    return Row(i)


for i in rounds(400):
    load(i)
