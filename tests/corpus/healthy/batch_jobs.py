# SPDX-License-Identifier: MIT
"""Jobs load a lot, work on it and let it go."""

from pace import rounds


class Record:
    def __init__(self, i):
        self.i = i


for i in rounds(8):
    records = [Record(k) for k in range(3000 + i % 3 * 500)]
    if i % 4 == 3:
        records = None
