# SPDX-License-Identifier: MIT
"""The collector is off, and the program collects when it is idle."""

import gc

from pace import rounds


class Node:
    def __init__(self):
        self.me = self


gc.disable()

for i in rounds(400):
    Node()
    if i % 120 == 119:
        gc.collect()
