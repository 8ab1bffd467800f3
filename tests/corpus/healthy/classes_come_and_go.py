# SPDX-License-Identifier: MIT
"""Classes made for each request and dropped: as of templates and named tuples made in functions."""

import collections

from pace import rounds

for i in rounds(40):
    Row = collections.namedtuple("Row", "a b c")
    rows = [Row(i, k, None) for k in range(20)]
