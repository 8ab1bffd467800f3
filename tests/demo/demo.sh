#!/bin/sh
# SPDX-License-Identifier: MIT
# sudo make demo: see demo.py.
exec /usr/bin/python3 -B "$(dirname "$0")/demo.py" "$@"
