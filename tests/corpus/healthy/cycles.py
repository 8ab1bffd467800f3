# SPDX-License-Identifier: MIT
"""Cycles that only the collector frees."""

from pace import rounds


class Node:
    def __init__(self):
        self.peer = None


for i in rounds(400):
    for k in range(10):
        a, b = Node(), Node()
        a.peer, b.peer = b, a
