# SPDX-License-Identifier: MIT
"""How fast the programs of the corpus go: in windows, whose length is CORPUS_WINDOW seconds (10)."""

import os
import time

WINDOW = float(os.environ.get("CORPUS_WINDOW", "10"))
START = time.monotonic()


def now():
    """In windows, since the start."""
    return (time.monotonic() - START) / WINDOW


def rounds(per_window=200):
    """0, 1, 2, ... for ever, so many in a window."""
    i = 0
    while True:
        yield i
        i += 1
        wait = START + i * WINDOW / per_window - time.monotonic()
        if wait > 0:
            time.sleep(wait)
