# SPDX-License-Identifier: MIT
"""Sessions of visitors that never come back, in a dict without expiry."""
# leaks: __main__.Session

from pace import rounds


class Session:
    def __init__(self, i):
        self.user, self.cart = f"user-{i}", []


SESSIONS = {}

for i in rounds():
    SESSIONS[i] = Session(i)
    SESSIONS.get(i // 2).cart.append(i) if i % 50 == 0 else None
