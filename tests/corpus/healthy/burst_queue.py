# SPDX-License-Identifier: MIT
"""A queue that is filled in bursts and drained."""

import collections

from pace import now, rounds


class Job:
    def __init__(self, i):
        self.i = i


QUEUE = collections.deque()

for i in rounds(400):
    if now() % 0.7 < 0.1:
        for k in range(20):
            QUEUE.append(Job(k))
    for k in range(4):
        if QUEUE:
            QUEUE.popleft()
