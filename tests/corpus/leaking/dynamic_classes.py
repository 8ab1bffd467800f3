# SPDX-License-Identifier: MIT
"""A class is made for each form that is shown, and a registry keeps them."""
# leaks: type|*

from pace import rounds

REGISTRY = {}

for i in rounds(60):
    REGISTRY[i] = type("Form", (), {"number": i, "fields": [i]})
