# SPDX-License-Identifier: MIT
"""Documents are parsed into trees, looked at and dropped, as of Sphinx and linters that "grow" with
each file."""

import ast

from pace import rounds

SOURCE = "\n".join(f"def f{i}(a, b=({i}, [a, 'x'])): return a + b[{i}]" for i in range(40))

for i in rounds(60):
    tree = ast.parse(SOURCE)
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]
