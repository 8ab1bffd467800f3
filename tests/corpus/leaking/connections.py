# SPDX-License-Identifier: MIT
"""Clients come and go, and the connections of some that went stay open: with what leaks the open files rise, as
they do with load."""
# leaks: __main__.Client|socket.socket

import resource
import socket

from pace import rounds

resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)


class Client:
    def __init__(self):
        self.here, self.there = socket.socketpair()
        self.inbox = []


CLIENTS = []

for i in rounds():
    CLIENTS.append(Client())
    for client in [Client() for _ in range(4)]:
        client.here.close()
        client.there.close()
    if i % 3:
        client = CLIENTS.pop()
        client.here.close()
        client.there.close()
