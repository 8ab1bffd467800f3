# SPDX-License-Identifier: MIT
"""A pool per host, of which so many are kept at most, as urllib3's PoolManager (num_pools)."""

import collections

from pace import rounds


class HostPool:
    def __init__(self, host):
        self.host, self.queue = host, [None] * 4


POOLS = collections.OrderedDict()

for i in rounds(400):
    host = f"host-{i * 7 % 5000}"
    POOLS[host] = POOLS.pop(host, None) or HostPool(host)
    while len(POOLS) > 100:
        POOLS.popitem(last=False)
