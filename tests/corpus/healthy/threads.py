# SPDX-License-Identifier: MIT
"""A thread for each request."""

import threading

from pace import rounds


class Request:
    def __init__(self, i):
        self.i = i


def handle(r):
    return r.i


for i in rounds():
    t = threading.Thread(target=handle, args=(Request(i),))
    t.start()
    t.join()
