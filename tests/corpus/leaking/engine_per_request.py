# SPDX-License-Identifier: MIT
"""An engine with its pool is made in each request, as SQLAlchemy's FAQ warns of; a registry of
pools keeps it."""
# leaks: __main__.Engine|__main__.Pool

import threading

from pace import rounds

POOLS = []


class Pool:
    def __init__(self):
        self.idle, self.lock = [], threading.Lock()
        POOLS.append(self)


class Engine:
    def __init__(self, url):
        self.url, self.pool = url, Pool()
        self.pool.engine = self


for i in rounds(100):
    Engine("db://host")
