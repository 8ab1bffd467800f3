# SPDX-License-Identifier: MIT
"""A server whose load rises for three windows and then stays: clients have a connection and what belongs to it,
each for a fifth of a window."""

import random
import resource
import socket

from pace import now, rounds

resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)


class Client:
    def __init__(self):
        self.here, self.there = socket.socketpair()
        self.inbox, self.until = [], now() + random.expovariate(5)


random.seed(7)
CLIENTS = [Client() for _ in range(60)]

for i in rounds():
    came = 15 * min(0.1 + 0.3 * now(), 1)
    CLIENTS.extend(Client() for _ in range(int(came) + (random.random() < came % 1)))
    gone = [c for c in CLIENTS if c.until < now()]
    CLIENTS[:] = [c for c in CLIENTS if c.until >= now()]
    for client in gone:
        client.here.close()
        client.there.close()
