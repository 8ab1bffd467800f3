# SPDX-License-Identifier: MIT
"""Memoisation over a finite set of keys: ever fewer are new."""

import random

from pace import rounds


class Answer:
    def __init__(self, key):
        self.key = key


MEMO = {}

for i in rounds(800):
    key = random.randrange(200)
    if key not in MEMO:
        MEMO[key] = Answer(key)
