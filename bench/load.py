# SPDX-License-Identifier: MIT
"""The programs that bench/overhead.py measures: load.py NAME FILE [PORT-FILE]. They count what they have
done in the first eight bytes of FILE, which is mapped; servers write their port to PORT-FILE."""

import mmap
import os
import struct
import sys
import threading
import time

NAME = sys.argv[1]
with open(sys.argv[2], "r+b") as shared:
    DONE = memoryview(mmap.mmap(shared.fileno(), 4096)).cast("Q")


def json_loop():
    """Requests as a JSON API has them: parsed into dataclasses, worked on, and put together."""
    import dataclasses
    import json

    @dataclasses.dataclass
    class Item:
        name: str
        price: float
        tags: list

    @dataclasses.dataclass
    class Order:
        number: int
        items: list
        total: float = 0.0

    text = json.dumps({"number": 4711, "items": [
        {"name": f"article {i}", "price": 1.25 * i, "tags": ["new", "sale", str(i)]}
        for i in range(20)]})
    while True:
        body = json.loads(text)
        order = Order(body["number"], [Item(**i) for i in body["items"]])
        order.total = sum(i.price for i in order.items if "sale" in i.tags)
        json.dumps(dataclasses.asdict(order))
        DONE[0] += 1


def storm():
    """Nothing but births and deaths."""
    class A:  # pylint: disable=too-few-public-methods
        pass

    while True:
        for _ in range(1000):
            A()
        DONE[0] += 1


def numbers():
    """Work in C on large buffers, as numpy does it: hardly anything is made."""
    import array
    import zlib

    data = array.array("d", range(200000))
    while True:
        zlib.crc32(data)
        data.byteswap()
        data.reverse()
        DONE[0] += 1


def idle():
    while True:
        time.sleep(0.05)
        DONE[0] += 1


def tell_port(port):
    with open(sys.argv[3] + ".part", "w", encoding="ascii") as f:
        f.write(str(port))
    os.rename(sys.argv[3] + ".part", sys.argv[3])


def http_server():
    """A thread a connection, an answer in JSON."""
    import http.server
    import json

    rows = [{"id": i, "name": f"row {i}", "value": i / 7} for i in range(50)]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):  # pylint: disable=invalid-name
            found = [dict(r, path=self.path) for r in rows if r["id"] % 3]
            body = json.dumps({"rows": found}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            DONE[0] += 1

        def log_message(self, *_):  # pylint: disable=arguments-differ
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    tell_port(server.server_address[1])
    server.serve_forever()


def echo_server():
    """asyncio, a line in and the same line out."""
    import asyncio

    async def talk(reader, writer):
        while True:
            line = await reader.readline()
            if not line:
                break
            writer.write(line)
            await writer.drain()
            DONE[0] += 1
        writer.close()

    async def run():
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        tell_port(server.sockets[0].getsockname()[1])
        async with server:
            await server.serve_forever()

    asyncio.run(run())


def ordinary():
    """One of many services: 20 000 objects, fifty small requests a second."""
    held = [{"n": i, "l": [i]} for i in range(7000)]
    while True:
        time.sleep(0.02)
        held[DONE[0] % len(held)] = {"n": DONE[0], "l": [str(i) for i in range(50)]}
        DONE[0] += 1


LOADS = {"json": json_loop, "storm": storm, "numbers": numbers, "idle": idle, "http": http_server,
         "echo": echo_server, "ordinary": ordinary}

if os.environ.get("OBJGRAPH"):
    import objgraph

    def poll():
        while True:
            objgraph.growth(limit=10)
            time.sleep(float(os.environ["OBJGRAPH"]))

    threading.Thread(target=poll, daemon=True).start()

print(struct.calcsize("P"), flush=True)
LOADS[NAME]()
