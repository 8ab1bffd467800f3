# SPDX-License-Identifier: MIT
"""A metric with a label per user, as users of prometheus_client do and are warned not to."""
# leaks: __main__.Child

from pace import rounds


class Child:
    def __init__(self):
        self.value = 0.0


class Counter:
    def __init__(self):
        self._metrics = {}

    def labels(self, *values):
        return self._metrics.setdefault(values, Child())


REQUESTS = Counter()

for i in rounds():
    REQUESTS.labels("GET", f"/user/{i}").value += 1
