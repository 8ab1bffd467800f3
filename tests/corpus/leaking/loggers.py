# SPDX-License-Identifier: MIT
"""A logger per connection: logging keeps loggers for ever (its documentation warns of that)."""
# leaks: logging.Logger

import logging

from pace import rounds

for i in rounds():
    logging.getLogger(f"connection-{i}").debug("opened")
