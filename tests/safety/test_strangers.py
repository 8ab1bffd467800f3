# SPDX-License-Identifier: MIT
"""Whoever waits for children, or for the end of a connection, does not meet the copy."""
import fcntl
import http.client
import os
import shutil
import signal
import socket
import subprocess
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

    def test_its_own_dead_children_stay_its_own(self):
        """Zombies that look like a copy of ours, by their exit signal or by their status, are left to it."""
        target = Target(self, r'''
import ctypes
libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
cloned = libc.syscall(56, 0, 0, 0, 0, 0)  # clone() with exit signal 0
if cloned == 0: os._exit(7)
forked = os.fork()
if forked == 0: os._exit(107)
say([cloned, forked]); hear()
say([os.waitpid(cloned, -0x80000000), os.waitpid(forked, 0)])  # __WCLONE
''')
        cloned, forked = target.hear()
        for _ in range(2):
            self.snapshot(target.pid)
        self.assertEqual(target.ask(), [[cloned, 7 << 8], [forked, 107 << 8]])

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
        captures = 20 if LONG else 3
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
            for _ in range(captures):
                self.snapshot(target.pid)
        finally:
            over.set()
            for t in threads:
                t.join()
        self.assertEqual(len(during), captures)
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
        # its zombie is the new program's child, which nobody may borrow for a wait4(): what stood
        # at the old one's addresses is not there any more
        self.assertIsNone(target.process.poll())
        self.assertEqual(status(target.pid, "Name"), "sleep")
        for child in children(target.pid):
            self.assertEqual(status(child, "State")[0], "Z")


class Closed(Case):
    """What the target closes is closed for its peers, copy alive or not. The helper stands still
    (SIGSTOP) while the copy lives, so that there is no hurry in it."""

    CODE = r"""
import fcntl, socket, tempfile
big = [[i] for i in range(300000)]
pair, peer_fd = socket.socketpair()
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); listener.bind(("127.0.0.1", 0)); listener.listen(8)
tcp = socket.create_connection(listener.getsockname()); accepted, _ = listener.accept()
r, w = os.pipe()
lock = os.open(PATH, os.O_RDWR); fcntl.flock(lock, fcntl.LOCK_EX)
record = os.open(PATH2, os.O_RDWR); fcntl.lockf(record, fcntl.LOCK_EX)
say([listener.getsockname()[1], os.getpid()]); hear()
pair.close(); tcp.close(); os.close(w); os.close(lock); os.close(record); listener.close()
peer_fd.settimeout(10); accepted.settimeout(10)
say([len(peer_fd.recv(1)), len(accepted.recv(1)), len(os.read(r, 1))])
hear()
"""

    def test_everything(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        paths = [os.path.join(folder, n) for n in "ab"]
        for p in paths:
            open(p, "w").close()
        target = Target(self, self.CODE.replace("PATH2", repr(paths[1])).replace("PATH", repr(paths[0])))
        port = target.hear()[0]
        helper, answer = [], []
        t = threading.Thread(target=lambda: answer.append(
            lib.capture(target.pid, started=helper.append)))
        t.start()
        end = time.monotonic() + 30
        while t.is_alive() and time.monotonic() < end and not (
                children(target.pid) and status(target.pid, "TracerPid") == "0"):
            pass
        helper[0].send_signal(signal.SIGSTOP)
        try:
            time.sleep(0.1)  # until it stands still
            self.assertEqual(status(target.pid, "TracerPid"), "0")
            copy = children(target.pid)
            self.assertEqual(len(copy), 1, "no copy to test with")
            self.assertEqual(target.ask(), [0, 0, 0], "end of file for every peer")
            for path, how in zip(paths, (fcntl.flock, fcntl.lockf)):
                with open(path, "r+") as f:
                    how(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
                s.listen()
            self.assertEqual(children(target.pid), copy, "the copy lived all the time")
        finally:
            helper[0].send_signal(signal.SIGCONT)
            t.join()
        self.assertEqual(answer[0].code, lib.DONE, answer[0].text)
        self.check_well(target)

    def test_restart_on_the_same_port(self):
        """The target ends in the middle of a capture; its successor binds as soon as it is reaped."""
        code = r"""
import socket
big = [[i] for i in range(300000)]
s = socket.socket(); s.bind(("127.0.0.1", PORT)); s.listen(8)
say(s.getsockname()[1]); hear()
os._exit(0)
"""
        port = 0
        for _ in range(20 if LONG else 4):
            target = Target(self, code.replace("PORT", str(port)))
            port = target.hear()
            answer = []
            t = threading.Thread(target=lambda: answer.append(lib.capture(target.pid)))
            t.start()
            end = time.monotonic() + 30
            while not children(target.pid) and t.is_alive() and time.monotonic() < end:
                pass
            target.say()
            target.process.wait(20)
            with socket.socket() as s:
                end = time.monotonic() + 0.5  # far below what a restart takes
                while True:
                    try:
                        s.bind(("127.0.0.1", port))
                        break
                    except OSError:
                        self.assertLess(time.monotonic(), end, "its port is still bound")
                        time.sleep(0.001)
            t.join()
            self.assertIn(answer[0].code, (lib.NO, lib.DONE), answer[0].text)


class Arbiters(Case):
    """Servers whose master waits for any child, captured: masters and workers."""

    APP = "def app(env, start):\n    start('200 OK', [('Content-Length', '2')])\n    return [b'ok']\n" \
          "application = app\n"

    def serve(self, command, captures):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        with open(os.path.join(folder, "app.py"), "w", encoding="utf-8") as f:
            f.write(self.APP)
        os.chmod(folder, 0o755)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        log_path = os.path.join(folder, "log")
        log = open(log_path, "w", encoding="utf-8")
        self.addCleanup(log.close)
        # a session of its own, so that its workers end with it, come what may
        master = subprocess.Popen([x.replace("PORT", str(port)) for x in command], cwd=folder, stdout=log,
                                  stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

        def end():
            try:
                os.killpg(master.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            master.wait()
        self.addCleanup(end)

        def text():
            with open(log_path, encoding="utf-8") as f:
                return f.read()

        def get():
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            c.request("GET", "/")
            body = c.getresponse().read()
            c.close()
            return body

        limit = time.monotonic() + 30
        while True:
            try:
                if get() == b"ok" and len(children(master.pid)) >= 2:
                    break
            except OSError:
                pass
            self.assertLess(time.monotonic(), limit, text())
            self.assertIsNone(master.poll(), text())
            time.sleep(0.05)
        workers = sorted(children(master.pid))
        before = text()
        for i in range(captures):
            for pid in [master.pid] + workers[:2]:
                result = lib.capture(pid)
                self.assertEqual(result.code, lib.DONE, result.text)
            self.assertEqual(get(), b"ok")
        self.assertEqual(sorted(children(master.pid)), workers, text())
        # nothing to remark on: no unknown child, no worker started anew
        said = [x for x in text()[len(before):].splitlines() if "GET /" not in x]
        self.assertEqual(said, [])
        # and a worker that does end is noticed and replaced
        os.kill(workers[-1], signal.SIGKILL)
        limit = time.monotonic() + 30
        while not set(children(master.pid)) - set(workers):
            self.assertLess(time.monotonic(), limit, text())
            time.sleep(0.05)
        self.assertEqual(get(), b"ok")

    def test_gunicorn(self):
        self.serve(["/usr/bin/gunicorn", "-w", "2", "-b", "127.0.0.1:PORT", "app:app"],
                   100 if LONG else 5)

    def test_uwsgi(self):
        """Its workers believe to be their master: uWSGI forks without telling Python."""
        self.serve(["/usr/bin/uwsgi", "--plugin", "python3", "--http-socket", "127.0.0.1:PORT",
                    "--master", "--processes", "2", "--need-app", "--wsgi-file", "app.py"],
                   100 if LONG else 5)

    def test_multiprocessing(self):
        code = r"""
import multiprocessing as m
def work(n): return n * n
if __name__ == "__main__":
    with m.Pool(2) as pool:
        say("ready")
        bad = n = 0
        while not os.path.exists(STOP):
            n += 1
            bad += pool.map(work, range(50)) != [i * i for i in range(50)]
            p = m.Process(target=work, args=(1,)); p.start(); p.join()
            bad += p.exitcode != 0
        say([bad, n, len(m.active_children())])
"""
        for name, python in builds(self, "3.13"):
            with self.subTest(name):
                bad, n, active = self.until(code, python)
                self.assertEqual((bad, active), (0, 2))
                self.assertGreater(n, 3)

    def test_asyncio_child_watchers(self):
        code = r"""
import asyncio
async def main():
    bad = n = 0
    if sys.version_info < (3, 12):
        watcher = getattr(asyncio, WATCHER)()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)
    say("ready")
    while not os.path.exists(STOP):
        n += 1
        ps = [await asyncio.create_subprocess_exec("/bin/sh", "-c", "echo %d; exit %d" % (i, i),
              stdout=asyncio.subprocess.PIPE) for i in range(3)]
        for i, p in enumerate(ps):
            out, _ = await p.communicate()
            bad += out != b"%d\n" % i or p.returncode != i
    say([bad, n])
asyncio.run(main())
"""
        watchers = ("FastChildWatcher", "SafeChildWatcher", "ThreadedChildWatcher", "PidfdChildWatcher")
        for name, python in builds(self, "3.13"):
            minor = int(subprocess.run([python, "-c", "import sys; print(sys.version_info[1])"],
                                       capture_output=True, text=True, check=True).stdout)
            for watcher in watchers if minor < 12 else watchers[:1]:
                if watcher == "PidfdChildWatcher" and minor < 9:
                    continue
                with self.subTest(name, watcher=watcher):
                    bad, n = self.until(code.replace("WATCHER", repr(watcher)), python)
                    self.assertEqual(bad, 0)
                    self.assertGreater(n, 2)

    def until(self, code, python):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        flag = os.path.join(folder, "stop")
        target = Target(self, code.replace("STOP", repr(flag)), python)
        target.hear()
        for _ in range(100 if LONG else 6):
            result = lib.capture(target.pid)
            self.assertEqual(result.code, lib.DONE, result.text)
        open(flag, "w").close()
        return target.hear()


if __name__ == "__main__":
    unittest.main()
