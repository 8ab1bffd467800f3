# SPDX-License-Identifier: MIT
"""A handler is added in each request: every line is written once more each time."""
# leaks: logging.*

import io
import logging

from pace import rounds


def request(i):
    log = logging.getLogger("app")
    log.addHandler(logging.StreamHandler(io.StringIO()))


for i in rounds():
    request(i)
