# SPDX-License-Identifier: MIT
"""A small web shop that leaks, as web services do: by a cache that nobody empties.

    GET  /prices   {"tea": 450, ...} in cents
    POST /basket   {"session": "s1", "add": [["tea", 2]]}: adds to the session's basket and answers
                   {"session": "s1", "lines": [...], "discount": 0, "total": 900, "visits": 1}

Started with `python3 -c 'import shop; shop.main()' [PORT-FILE]`, so that the module has its name.
"""

import http.server
import json
import signal
import sys
import threading

PRICES = {"tea": 450, "coffee": 620, "cocoa": 390, "cup": 1250, "kettle": 3900, "filter": 210}

# The leak: every visitor's session is kept, and none is ever taken out again.
SESSIONS = {}
LOCK = threading.Lock()


class Session:
    def __init__(self, name):
        self.name = name
        self.basket = {}
        self.visits = 0

    def add(self, article, quantity):
        self.basket[article] = self.basket.get(article, 0) + quantity

    def bill(self):
        lines = [{"article": article, "quantity": quantity, "price": PRICES[article] * quantity}
                 for article, quantity in sorted(self.basket.items())]
        total = sum(line["price"] for line in lines)
        # Ten of a kind: a tenth off that line. Then 3 % above 100.00.
        discount = sum(line["price"] // 10 for line in lines if line["quantity"] >= 10)
        if total - discount > 10000:
            discount += (total - discount) * 3 // 100
        return lines, discount, total - discount


def visit(name, additions):
    with LOCK:
        session = SESSIONS.setdefault(name, Session(name))
        session.visits += 1
        for article, quantity in additions:
            if article not in PRICES or not 0 < quantity < 1000:
                raise ValueError(f"no {quantity} x {article} here")
            session.add(article, quantity)
        lines, discount, total = session.bill()
        return {"session": name, "lines": lines, "discount": discount, "total": total,
                "visits": session.visits}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/prices":
            self.answer(200, PRICES)
        else:
            self.answer(404, {"error": f"nothing at {self.path}"})

    def do_POST(self):
        try:
            length = min(int(self.headers.get("Content-Length", 0)), 1 << 16)
            request = json.loads(self.rfile.read(length))
            self.answer(200, visit(request["session"], request["add"]))
        except (ValueError, KeyError, TypeError) as error:
            self.answer(400, {"error": str(error)})

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    server = Server(("127.0.0.1", 0), Handler)
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", encoding="ascii") as f:
            f.write(f"{server.server_port}\n")
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("shop: open", flush=True)
    server.serve_forever(poll_interval=0.1)
    with LOCK:
        visits = sum(session.visits for session in SESSIONS.values())
        takings = sum(session.bill()[2] for session in SESSIONS.values())
    print(f"shop: closed after {visits} visits, {takings} cents in the baskets", flush=True)
