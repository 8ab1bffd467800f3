# SPDX-License-Identifier: MIT
"""A threaded HTTP server at full load while it is captured: no request fails."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from safetylib import Case, LONG, Target, builds, children, lib  # noqa: E402

TIMEOUT = 4 * 3600 if LONG else 600


SERVER = r'''
import http.server, socketserver, threading
STORE = {}
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer, or Nagle's algorithm waits for the client
    def do_GET(self):
        STORE[len(STORE) % 5000] = {"path": self.path, "headers": dict(self.headers)}
        body = ("hello %s" % self.path).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64
server = Server(("127.0.0.1", 0), Handler)
say(server.server_address[1])
server.serve_forever()
'''


# What the requests took before and during captures goes to files: sorting them is none of its work.
CLIENT = r'''
import array, http.client, threading
port, n_threads = PORT, 4
stop, failed, took, during = False, [], (array.array("d"), array.array("d")), 0
def client(n):
    connection, i = http.client.HTTPConnection("127.0.0.1", port, timeout=20), 0
    while not stop:
        i += 1
        began, at = time.perf_counter(), during
        try:
            if i % 100 == 0:  # a new connection now and then
                connection.close()
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/%d/%d" % (n, i))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or body != b"hello /%d/%d" % (n, i): failed.append(repr(body))
            took[at].append(time.perf_counter() - began)
        except (OSError, http.client.HTTPException) as e:
            failed.append(repr(e))
            connection.close()
    connection.close()
threads = [threading.Thread(target=client, args=(n,)) for n in range(n_threads)]
for t in threads: t.start()
time.sleep(2)
say("warm"); hear()
during = 1
say("go"); hear()
stop = True
for t in threads: t.join()
def at(v, q): return 1e3 * v[int(q * (len(v) - 1))]
alone, beside = sorted(took[0]), sorted(took[1])
say({"failed": failed[:5], "requests": [len(alone), len(beside)],
     "ms": {"p%g" % (100 * q): [at(alone, q), at(beside, q)] for q in (0.5, 0.99, 0.999)}})
'''


class Server(Case):
    """Prints what a request took with and without captures."""

    CAPTURES = 1000 if LONG else 15

    def check(self, name, python):
        target = Target(self, SERVER, python)
        client = Target(self, CLIENT.replace("PORT", str(target.hear())))
        client.hear()
        client.ask()
        tries, stops = 0, []
        for i in range(self.CAPTURES):
            if i % 10:
                result = lib.capture(target.pid)
            else:
                result, snap = self.snapshot(target.pid)
                self.assertEqual([n.type for n in snap.nodes if n.name == "__main__.Handler"],
                                 ["type"])
            self.assertEqual((result.code, result.skipped, result.truncated), (lib.DONE, 0, 0),
                             result.text)
            tries += result.tries
            stops.append(result.pause_ns / 1e6)
            self.assertEqual(children(target.pid), [])
        told = client.ask()
        self.assertEqual(told["failed"], [])
        self.assertGreater(told["requests"][1], 10 * self.CAPTURES)
        self.check_well(target)
        stops.sort()
        print(f"{name}: {self.CAPTURES} captures, {sum(told['requests'])} requests, none failed; "
              f"{tries / self.CAPTURES:.1f} tries, whole stop {stops[len(stops) // 2]:.2f} ms, "
              f"p99 {stops[int(.99 * (len(stops) - 1))]:.2f} ms; a request took alone -> beside "
              "captures " + ", ".join(f"{k} {v[0]:.2f} -> {v[1]:.2f} ms"
                                      for k, v in told["ms"].items()), flush=True)

    def test_no_request_fails(self):
        for name, python in builds(self, "3.13"):
            with self.subTest(name):
                self.check(name, python)


if __name__ == "__main__":
    unittest.main()
