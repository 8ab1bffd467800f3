# SPDX-License-Identifier: MIT
"""Observers that are connected and never disconnected: the signal keeps them."""
# leaks: __main__.Widget

from pace import rounds


class Signal:
    def __init__(self):
        self.receivers = []

    def connect(self, f):
        self.receivers.append(f)


class Widget:
    def __init__(self):
        CHANGED.connect(self.redraw)

    def redraw(self):
        pass


CHANGED = Signal()

for i in rounds():
    Widget()
