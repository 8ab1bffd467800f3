# SPDX-License-Identifier: MIT
"""A weak cache: what nobody uses any more is gone."""

import weakref

from pace import rounds


class Image:
    def __init__(self, i):
        self.i = i


CACHE = weakref.WeakValueDictionary()
USED = []

for i in rounds(400):
    CACHE[i] = image = Image(i)
    USED.append(image)
    del USED[:-100]
