# SPDX-License-Identifier: MIT
"""What the integration tests share: real targets that tell the truth about themselves, a daemon
beside them, and pyleakctl to ask it. Everything started here is ended by addCleanup."""

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

BUILD = os.environ.get("PYLEAK_BUILD", os.path.join(os.path.dirname(__file__), "../../build"))
SYSTEM_PYTHON = "/usr/bin/python3"


def interpreters():
    """The system's Python, and every other CPython 3.8 or newer that pyenv has on this machine."""
    found = {"system": SYSTEM_PYTHON}
    for path in sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3"))):
        version = path.split("/")[-3]
        if tuple(int(x) for x in version.split(".")[:2]) >= (3, 8):
            found[version] = path
    return found


def stopped(pid):
    """Whether a process is, by SIGSTOP or a tracer."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        return f.read().rpartition(")")[2].split()[0] in "Tt"


class Target:
    """A Python that runs `code` with helpers to speak with us: say(obj) prints a line of JSON,
    hear() waits for a line from us."""

    PRELUDE = (
        "import sys, json, gc, os, time\n"
        "def say(x): sys.stdout.write(json.dumps(x) + '\\n'); sys.stdout.flush()\n"
        "def hear(): return sys.stdin.readline().strip()\n"
    )

    def __init__(self, test, code, python=SYSTEM_PYTHON, name="target.py", **popen):
        folder = tempfile.mkdtemp()
        test.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.path = os.path.join(folder, name)
        with open(self.path, "w", encoding="utf-8") as f:
            f.write(self.PRELUDE + code)
        env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
        env.update(popen.pop("extra_env", {}))
        self.process = subprocess.Popen(
            [python, self.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=env, **popen)
        self.pid = self.process.pid
        test.addCleanup(self.end)

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the target ended with {self.process.wait()}")
        return json.loads(line)

    def say(self, text=""):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def ask(self, text=""):
        self.say(text)
        return self.hear()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Answer:
    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self):
        return json.loads(self.out)


class Daemon:
    """pyleakd with a folder of its own for its socket and state."""

    DEFAULTS = {"growth": {"interval": "500ms", "warmup": "0s", "window": "5s", "min_objects": 100},
                "budget": {"pause": "20ms", "cpu": "unlimited"}}  # every hit: see test_budget

    def __init__(self, test, *pids, config=None, args=(), wait=True, **popen):
        self.test = test
        self.folder = tempfile.mkdtemp()
        test.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        os.chmod(self.folder, 0o755)
        self.socket = os.path.join(self.folder, "control.sock")
        self.state = os.path.join(self.folder, "state")
        self.log_path = os.path.join(self.folder, "log")
        self.config = os.path.join(self.folder, "pyleakd.yaml")
        with open(self.config, "w", encoding="utf-8") as f:
            # JSON is YAML
            f.write(config if isinstance(config, str) else json.dumps(config or self.DEFAULTS))
        command = [f"{BUILD}/pyleakd", "--config", self.config, "--socket", self.socket,
                   "--state-dir", self.state]
        for pid in pids:
            command += ["--pid", str(pid)]
        self.log_file = open(self.log_path, "w", encoding="utf-8")
        self.process = subprocess.Popen(command + list(args), stderr=self.log_file, **popen)
        test.addCleanup(self.end)
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while "is ready" not in self.log():
            if self.process.poll() is not None:
                raise AssertionError(f"pyleakd ended with {self.process.returncode}: {self.log()}")
            if time.monotonic() > end:
                raise AssertionError("pyleakd is not ready: " + self.log())
            time.sleep(0.02)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def ctl(self, *args, **more):
        return Answer(subprocess.run(
            [f"{BUILD}/pyleakctl", "--socket", self.socket, *map(str, args)],
            capture_output=True, text=True, timeout=120, check=False, **more))

    def ask(self, *args):
        """The JSON answer; anything but exit 0 fails the test."""
        a = self.ctl("--json", *args)
        self.test.assertEqual(a.code, 0, f"pyleakctl {args}: {a.err}\n"
                              f"pyleakd's exit: {self.process.poll()}; {self.log()}")
        return a.json

    def top(self, pid, *args):
        return {t["type"]: t for t in self.ask("top", pid, "-n", 100000, *args)["types"]}

    def connect(self, uid):
        """A line to the daemon as that user, to write requests to and to read answers from."""
        s = socket.socket(socket.AF_UNIX)
        self.test.addCleanup(s.close)
        os.seteuid(uid)  # what the daemon learns of a client is of when it connects
        try:
            s.connect(self.socket)
        except PermissionError:
            self.test.skipTest("cannot run here: the folder for temporary files is closed to other users")
        finally:
            os.seteuid(0)
        f = s.makefile("rw", encoding="utf-8")
        self.test.addCleanup(f.close)
        return f

    def wait_for(self, question, seconds=60, what="an answer"):
        """Asks until the answer is true."""
        end = time.monotonic() + seconds
        while True:
            answer = question()
            if answer:
                return answer
            if time.monotonic() > end:
                raise AssertionError(f"no {what} within {seconds} s\n{self.log()}")
            time.sleep(0.1)

    def wait_dump(self, seconds=90):
        def question():
            done = [d for d in self.ask("dumps", "list")["dumps"] if d["state"] != "running"]
            return done and done[0]
        return self.wait_for(question, seconds, "dump")

    def stop(self, signum=signal.SIGTERM):
        self.process.send_signal(signum)
        return self.process.wait(timeout=30)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log_file.close()


def pyleakd(*args, **more):
    """Runs pyleakd to its end."""
    return Answer(subprocess.run([f"{BUILD}/pyleakd", *args], capture_output=True, text=True,
                                 timeout=60, check=False, **more))


def held_by_others():
    """BPF links behind descriptors of processes that we did not start: this host may have a
    pyleakd of its own."""
    parents, held = {}, {}
    for path in glob.glob("/proc/[0-9]*"):
        pid = int(path.split("/")[-1])
        try:
            with open(f"{path}/stat", encoding="ascii", errors="replace") as f:
                parents[pid] = int(f.read().rpartition(")")[2].split()[1])
            for fdinfo in glob.glob(f"{path}/fdinfo/*"):
                with open(fdinfo, encoding="ascii", errors="replace") as f:
                    for line in f:
                        if line.startswith("link_id:"):
                            held.setdefault(int(line.split()[1]), set()).add(pid)
        except OSError:
            continue

    def ours(pid):
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return {link for link, pids in held.items() if not any(ours(pid) for pid in pids)}


def links():
    """Number of uprobe_multi links in the kernel, but for other people's. bpftool 7.1 does not know
    their name yet: 12 in enum bpf_link_type (include/uapi/linux/bpf.h)."""
    out = subprocess.run(["/usr/sbin/bpftool", "-j", "link", "list"], capture_output=True, text=True,
                         check=True).stdout
    found = {x["id"] for x in json.loads(out) if x.get("type") in ("uprobe_multi", 12, "type 12")}
    return len(found - held_by_others()) if found else 0


class RootTest(unittest.TestCase):
    def setUp(self):
        if os.geteuid():
            self.skipTest("root is needed to attach to processes")
        sys.stdout.flush()
