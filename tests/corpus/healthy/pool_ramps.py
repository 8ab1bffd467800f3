# SPDX-License-Identifier: MIT
"""A pool that grows to its maximum with the load and stays there."""

import random

from pace import rounds


class Connection:
    def __init__(self):
        self.buffer = bytearray(64)


POOL = []

for i in rounds():
    if len(POOL) < 120 and random.random() < 0.7:
        POOL.append(Connection())
    elif POOL:
        POOL[random.randrange(len(POOL))] = Connection()
