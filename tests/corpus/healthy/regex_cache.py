# SPDX-License-Identifier: MIT
"""Ever new patterns: re keeps some hundreds, reported as a leak again and again and none (CPython's
re._cache)."""

import re

from pace import rounds

for i in rounds(400):
    re.match(f"value-{i}", "value")
