# SPDX-License-Identifier: MIT
"""As Django keeps connection.queries while DEBUG is on ("Why is Django leaking memory?" in its
FAQ)."""
# alone: what the collector does not track is read from memory, by turns
# leaks: dict|*

from pace import now, rounds


class Connection:
    def __init__(self):
        self.queries = []

    def execute(self, sql, *args):
        self.queries.append({"sql": sql % args, "time": f"{now():.3f}"})


connection = Connection()

for i in rounds():
    connection.execute("SELECT * FROM thing WHERE id = %d", i)
