# SPDX-License-Identifier: MIT
"""Results that nobody fetches stay pending, as reported of Celery's result backends."""
# leaks: __main__.AsyncResult

from pace import rounds


class AsyncResult:
    def __init__(self, backend, task_id):
        self.backend, self.id = backend, task_id
        backend.pending[task_id] = self


class Backend:
    def __init__(self):
        self.pending = {}


backend = Backend()

for i in rounds():
    r = AsyncResult(backend, f"{i:032x}")
    if i % 10 == 0:
        del backend.pending[r.id]
