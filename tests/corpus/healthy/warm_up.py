# SPDX-License-Identifier: MIT
"""Imports modules and loads tables for half a window, then works."""

import importlib

from pace import now, rounds


class Rule:
    def __init__(self, i):
        self.i = i


RULES = []
MODULES = ["json", "decimal", "http.client", "email.mime.text", "xml.dom.minidom", "sqlite3", "difflib",
           "unittest", "asyncio", "concurrent.futures", "multiprocessing", "ctypes", "csv", "tarfile"]

for i in rounds():
    if now() < 0.5:
        RULES.extend(Rule(k) for k in range(5))
        if i % 7 == 0 and MODULES:
            importlib.import_module(MODULES.pop())
    else:
        sorted(RULES, key=lambda r: r.i)[:3]
