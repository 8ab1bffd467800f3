# SPDX-License-Identifier: MIT
"""lru_cache(maxsize=None) on a method keeps every self, as flake8-bugbear (B019) warns of."""
# leaks: __main__.Report

import functools

from pace import rounds


class Report:
    def __init__(self, i):
        self.rows = list(range(i % 10))

    @functools.lru_cache(maxsize=None)
    def total(self):
        return sum(self.rows)


for i in rounds():
    Report(i).total()
