#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Visitors of shop.py: load.py PORT [--rate N] [--visits A,B,C,D] [--progress FILE]

Four visitors at a time send requests, N a second together, and check every answer against their
own arithmetic, until SIGTERM; with --visits each makes just so many, at full speed. Every visitor's
requests are the same in every run. At the end one JSON line: visits and failures, latencies, and a
digest of all answers of each visitor, so that two runs can be compared.
"""

import argparse
import hashlib
import http.client
import json
import random
import signal
import sys
import threading
import time

VISITORS = 4
VISITS_PER_SESSION = 2
REQUESTS_PER_CONNECTION = 50


class Visitor(threading.Thread):
    def __init__(self, number, port, visits, interval, stop):
        super().__init__()
        self.number, self.port, self.visits, self.interval = number, port, visits, interval
        self.stop = stop
        self.random = random.Random(number)
        self.connection = None
        self.done = 0
        self.failures = []
        self.latencies = []
        self.digest = hashlib.sha256()
        self.prices = {}
        self.basket = {}

    def request(self, method, path, document=None):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            self.connection.connect()
        body = None if document is None else json.dumps(document)
        begin = time.monotonic()
        self.connection.request(method, path, body)
        response = self.connection.getresponse()
        text = response.read()
        self.latencies.append(time.monotonic() - begin)
        return response.status, text

    def expected(self, session, visit):
        lines, total, off = [], 0, 0
        for article in sorted(self.basket):
            price = self.prices[article] * self.basket[article]
            lines.append({"article": article, "quantity": self.basket[article], "price": price})
            total += price
            if self.basket[article] >= 10:
                off += price // 10
        if total - off > 10000:
            off += (total - off) * 3 // 100
        return {"session": session, "lines": lines, "discount": off, "total": total - off,
                "visits": visit}

    def visit(self):
        session = f"visitor{self.number}-{self.done // VISITS_PER_SESSION}"
        again = self.done % VISITS_PER_SESSION
        if not again:
            self.basket = {}
        add = []
        for _ in range(self.random.randint(1, 3)):
            add.append([self.random.choice(sorted(self.prices)), self.random.randint(1, 6)])
        for article, quantity in add:
            self.basket[article] = self.basket.get(article, 0) + quantity
        status, text = self.request("POST", "/basket", {"session": session, "add": add})
        self.digest.update(b"%d %s\n" % (status, text))
        if status != 200 or json.loads(text) != self.expected(session, again + 1):
            self.failures.append(f"{session}: wrong answer {status} {text[:200]!r}")

    def run(self):
        try:
            self.prices = json.loads(self.request("GET", "/prices")[1])
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failures.append(f"visitor {self.number}: {error!r}")
            return
        due = time.monotonic()
        while not self.stop.is_set() and (self.visits is None or self.done < self.visits):
            try:
                self.visit()
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append(f"visitor {self.number}, visit {self.done}: {error!r}")
                self.connection = None
            self.done += 1
            if self.done % REQUESTS_PER_CONNECTION == 0 and self.connection:
                self.connection.close()
                self.connection = None
            if self.visits is None:
                due = max(due + self.interval, time.monotonic() - 1)
                self.stop.wait(max(0, due - time.monotonic()))
        if self.connection:
            self.connection.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--visits", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--progress", help="file that always holds: visits failures")
    args = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    visitors = [Visitor(i, args.port, args.visits[i] if args.visits else None,
                        VISITORS / args.rate, stop) for i in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    while any(visitor.is_alive() for visitor in visitors):
        if args.progress:
            with open(args.progress, "w", encoding="ascii") as f:
                f.write("%d %d\n" % (sum(v.done for v in visitors),
                                     sum(len(v.failures) for v in visitors)))
        stop.wait(0.5)
        if stop.is_set():
            for visitor in visitors:
                visitor.join()
    latencies = sorted(l for v in visitors for l in v.latencies) or [0]
    failures = [text for v in visitors for text in v.failures]
    json.dump({
        "visits": [v.done for v in visitors],
        "failed": len(failures),
        "failures": failures[:10],
        "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
        "max_ms": round(latencies[-1] * 1e3, 2),
        "digests": [v.digest.hexdigest() for v in visitors],
    }, sys.stdout)
    print()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
