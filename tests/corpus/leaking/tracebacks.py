# SPDX-License-Identifier: MIT
"""Exceptions are kept for a report, and with their tracebacks the frames and what those hold."""
# leaks: __main__.Failure|frame|traceback|*

from pace import rounds


class Failure(Exception):
    pass


FAILED = []


def job(i):
    payload = [i] * 5
    if payload:
        raise Failure(i)


for i in rounds():
    try:
        job(i)
    except Failure as e:
        FAILED.append(e)
