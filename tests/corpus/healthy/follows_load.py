# SPDX-License-Identifier: MIT
"""The live set follows the number of connections, which goes up and down."""

import math

from pace import now, rounds


class Client:
    def __init__(self):
        self.inbox, self.outbox = [], []


CLIENTS = []

for i in rounds():
    wanted = int(300 + 200 * math.sin(2 * math.pi * now() / 0.8))
    while len(CLIENTS) < wanted:
        CLIENTS.append(Client())
    del CLIENTS[wanted:]
