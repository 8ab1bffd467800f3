# SPDX-License-Identifier: MIT
"""Warnings with ever new texts: __warningregistry__ keeps each, as reported of CPython's
warnings."""
# alone: what the collector does not track is read from memory, by turns
# leaks: tuple|str|*

import warnings

from pace import rounds

warnings.simplefilter("default")
warnings.showwarning = lambda *a, **k: None

for i in rounds(400):
    warnings.warn(f"value {i} is deprecated")
