# SPDX-License-Identifier: MIT
"""Retries are planned for far in the future and not cancelled when the job succeeds."""
# leaks: sched.Event|__main__.Retry|*

import sched
import time

from pace import rounds


class Retry:
    def __init__(self, i):
        self.job = i

    def run(self):
        pass


schedule = sched.scheduler(time.monotonic)

for i in rounds():
    schedule.enter(86400, 1, Retry(i).run)
    schedule.run(blocking=False)
