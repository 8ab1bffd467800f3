# SPDX-License-Identifier: MIT
"""Names are interned, of which there are many but not ever more."""

import sys

from pace import now, rounds

NAMES = {}

for i in rounds(800):
    NAMES[i % 2000] = sys.intern(f"name-{i % 2000}")
    if now() > 0.5 and len(NAMES) < 2000:
        for k in range(2000):
            NAMES[k] = sys.intern(f"name-{k}")
