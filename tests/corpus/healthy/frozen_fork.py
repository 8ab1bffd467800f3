# SPDX-License-Identifier: MIT
"""gc.freeze() and a fork, as preforking servers do; the child works on."""

import gc
import os

from pace import rounds


class Page:
    def __init__(self, i):
        self.i = i


TABLE = [Page(i) for i in range(5000)]
gc.collect()
gc.freeze()
child = os.fork()
for i in rounds():
    page = [Page(k) for k in range(50)]
    if child and os.waitpid(child, os.WNOHANG)[0]:
        break
    if not child and os.getppid() == 1:
        break
