# SPDX-License-Identifier: MIT
"""Cycles with the collector off: nobody ever frees them."""
# leaks: __main__.Node

import gc

from pace import rounds


class Node:
    def __init__(self):
        self.me = self


gc.disable()

for i in rounds():
    Node()
