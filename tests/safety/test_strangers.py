# SPDX-License-Identifier: MIT
"""Whoever waits for children, or for the end of a connection, does not meet the copy."""
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from safetylib import Case, LONG, Target, builds, children, lib, status  # noqa: E402


class Strangers(Case):
    def test_waitpid_sees_only_its_own(self):
        """An arbiter that reaps workers with waitpid(-1) must not meet our copy."""
        code = r'''
import signal
seen, chld = [], [0]
signal.signal(signal.SIGCHLD, lambda s, f: chld.__setitem__(0, chld[0] + 1))
say("ready")
mine = 0
while not os.path.exists(STOP):
    try: seen.append(os.waitpid(-1, os.WNOHANG)[0])
    except ChildProcessError: seen.append(-1)
    time.sleep(0.001)
say([sorted(set(seen)), chld[0]])
pid = os.fork()
if pid == 0: os._exit(7)
say(os.waitpid(-1, 0)[1] >> 8)
'''
        folder = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, folder)
        flag = os.path.join(folder, "stop")
        target = Target(self, code.replace("STOP", repr(flag)))
        target.hear()
        for _ in range(10):
            self.snapshot(target.pid)
        open(flag, "w").close()
        seen, signals = target.hear()
        os.unlink(flag)
        self.assertEqual(seen, [-1], "there never was a child")
        self.assertEqual(signals, 0)
        self.assertEqual(target.hear(), 7)

    def test_end_of_file_is_not_held_back(self):
        """A connection that the target closes is closed, copy or not."""
        code = r'''
import socket, threading
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(8)
big = [[i] for i in range(400000)]
say(s.getsockname()[1])
while True:
    c, _ = s.accept(); c.recv(100); c.sendall(b"bye"); c.close()
'''
        target = Target(self, code)
        port = target.hear()
        over, closed, during = threading.Event(), [0], []

        def client():
            while not over.is_set():
                with socket.create_connection(("127.0.0.1", port), timeout=20) as c:
                    c.sendall(b"hi")
                    while c.recv(100):
                        pass
                    closed[0] += 1

        def watch():
            """How many connections came to their end while a copy was there."""
            while not over.is_set():
                if children(target.pid):
                    before = closed[0]
                    while children(target.pid):
                        time.sleep(0.001)
                    during.append(closed[0] - before)

        threads = [threading.Thread(target=f) for f in (client, watch)]
        for t in threads:
            t.start()
        try:
            for _ in range(5):
                self.snapshot(target.pid)
        finally:
            over.set()
            for t in threads:
                t.join()
        self.assertEqual(len(during), 5)
        self.assertGreater(max(during), 10)

    def test_target_that_ends_takes_the_copy_along(self):
        code = "big = [[i] for i in range(1500000)]\nsay(1)\nhear()\nos._exit(3)\n"
        target = Target(self, code)
        target.hear()
        answer = []
        t = threading.Thread(target=lambda: answer.append(lib.capture(target.pid)))
        t.start()
        copy = []
        end = time.monotonic() + 20
        while not copy and time.monotonic() < end:
            copy = children(target.pid)
        target.say()
        self.assertEqual(target.process.wait(20), 3)
        t.join()
        self.assertEqual(len(copy), 1)
        # gone, or a zombie that waits for whoever adopted it
        self.assertIn((status(copy[0], "State") or "Z")[0], "ZX")
        self.assertEqual(answer[0].code, lib.NO, answer[0].text)

    def test_exec_releases_the_port(self):
        """After an exec the copy must not keep the listening socket open."""
        code = r'''
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(8)
big = [[i] for i in range(1500000)]
say(s.getsockname()[1]); hear()
os.execv("/bin/sleep", ["sleep", "30"])
'''
        target = Target(self, code)
        port = target.hear()
        answer = []
        t = threading.Thread(target=lambda: answer.append(lib.capture(target.pid)))
        t.start()
        end = time.monotonic() + 20
        while not children(target.pid) and time.monotonic() < end:
            pass
        target.say()
        t.join()
        self.assertEqual(answer[0].code, lib.NO, answer[0].text)
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
        self.assertEqual(children(target.pid), [])


if __name__ == "__main__":
    unittest.main()
