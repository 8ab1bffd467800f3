# SPDX-License-Identifier: MIT
"""demo.py BUILD [shop] [tutorial]: from a running Python to the picture of what leaks.

Starts a service that leaks (shop.py under load, then objgraph's tutorial), lets pyleakd watch it
from outside, shows the growth as it develops, the verdict, and the dump that the verdict triggers;
the pictures stay in BUILD/demo. Afterwards the same work is done without the daemon, and the
service's output must be the same. Exit 0 only if all of that came out right.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"
LIMIT = 90  # seconds from the start of the service to the path in words
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Failed(Exception):
    pass


def say(text=""):
    print(text, flush=True)


def short(path):
    """A path as one would type it here."""
    return min(os.path.relpath(path), path, key=len) if path.startswith("/") else path


def number(n):
    return f"{n:,}".replace(",", " ")


class Screen:
    """A table and a progress line that are redrawn in place on a terminal. Elsewhere: plain lines,
    the table every ten seconds."""

    def __init__(self):
        self.terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.height = 0
        self.next_table = 0.0

    def show(self, table, progress):
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            lines = [line[:width] for line in table + [progress]]
            self.clear()
            say("\n".join(lines))
            self.height = len(lines)
            return
        if table and time.monotonic() >= self.next_table:
            say("\n".join(table))
            self.next_table = time.monotonic() + 10
        say(progress)

    def clear(self):
        if self.height:
            print(f"\033[{self.height}A\033[J", end="", flush=True)
        self.height = 0


class Children:
    """Everything started here; each gets a signal should this process die, and none stays."""

    def __init__(self):
        self.running = []
        self.libc = ctypes.CDLL(None)

    def start(self, argv, sig=signal.SIGKILL, **options):
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=lambda: self.libc.prctl(PR_SET_PDEATHSIG, int(sig), 0, 0, 0), **options)
        self.running.append(process)
        return process

    def stop(self, process, what, limit=15):
        """SIGTERM, and it must end well in time. Returns its exit status."""
        process.terminate()
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"{what} did not end within {limit} s of SIGTERM") from None
        self.running.remove(process)
        return status

    def close(self):
        for process in self.running:
            if process.poll() is None:
                process.terminate()
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running = []


class Shop:
    """A web shop under load; leaks shop.Session."""

    title = "a web shop that keeps every visitor's session (tests/demo/shop.py)"
    name, type, root, holder = "shop", "shop.Session", "shop", "SESSIONS"

    def __init__(self, children, folder):
        self.children, self.folder = children, folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def open_service(self):
        port = self.path("port")
        if os.path.exists(port):
            os.unlink(port)
        self.output = open(self.path("service.out"), "wb")
        self.service = self.children.start(
            [PYTHON, "-B", "-c", "import shop; shop.main()", port], cwd=HERE,
            stdout=self.output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 20
        while not os.path.exists(port) or not os.path.getsize(port):
            if self.service.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the shop did not open: {self.said()}")
            time.sleep(0.05)
        with open(port, encoding="ascii") as f:
            return f.read().strip()

    def load(self, port, *options):
        self.answers = open(self.path("load.out"), "wb")
        return self.children.start(
            [PYTHON, "-B", os.path.join(HERE, "load.py"), port, *options], stdout=self.answers)

    def said(self):
        with open(self.path("service.out"), encoding="utf-8", errors="replace") as f:
            return f.read()

    def report(self):
        with open(self.path("load.out"), encoding="utf-8") as f:
            return json.load(f)

    def start(self):
        port = self.open_service()
        self.visitors = self.load(port, "--progress", self.path("progress"))
        return self.service

    def progress(self):
        try:
            with open(self.path("progress"), encoding="ascii") as f:
                done, failed = f.read().split()
        except (OSError, ValueError):
            return "no visitors yet"
        return f"{number(int(done))} requests answered, {failed} failed"

    def close_service(self):
        if self.children.stop(self.service, "the shop") != 0:
            raise Failed(f"the shop ended badly: {self.said()}")
        self.output.close()
        self.answers.close()

    def finish(self):
        self.children.stop(self.visitors, "the load")
        self.with_daemon = self.report()
        self.close_service()
        self.said_with_daemon = self.said()
        r = self.with_daemon
        say(f"  {number(sum(r['visits']))} requests, {r['failed']} failed; answered in "
            f"{r['p50_ms']} ms (median), {r['p99_ms']} ms (99 %), {r['max_ms']} ms (slowest)")
        if r["failed"]:
            raise Failed("requests failed: " + "; ".join(r["failures"]))

    def compare(self):
        port = self.open_service()
        visits = ",".join(str(n) for n in self.with_daemon["visits"])
        again = self.load(port, "--visits", visits)
        try:
            again.wait(120)
        except subprocess.TimeoutExpired:
            raise Failed("the run without the daemon was not done after 120 s") from None
        self.children.running.remove(again)
        r = self.report()
        self.close_service()
        if r["failed"]:
            raise Failed("without the daemon requests failed: " + "; ".join(r["failures"]))
        if r["digests"] != self.with_daemon["digests"]:
            raise Failed("some answers differ from those of a run without the daemon")
        if self.said() != self.said_with_daemon:
            raise Failed("the shop printed something else than in a run without the daemon: "
                         f"{self.said_with_daemon!r}, {self.said()!r}")
        say(f"  the same {number(sum(r['visits']))} requests without the daemon: every answer and "
            "the shop's output are the same")


class Tutorial:
    """The leak of objgraph's tutorial; leaks tutorial.MyBigFatObject."""

    title = "objgraph's tutorial: a cache in a default argument (tests/demo/tutorial.py)"
    name, type, root, holder = "tutorial", "tutorial.MyBigFatObject", "tutorial", \
        "computate_something"

    def __init__(self, children, folder):
        self.children = children
        self.out = os.path.join(folder, "tutorial.out")

    def run(self, *arguments):
        with open(self.out, "wb") as output:
            return self.children.start(
                [PYTHON, "-B", "-c", "import tutorial; tutorial.main()", *arguments], cwd=HERE,
                stdout=output, stderr=subprocess.STDOUT)

    def said(self):
        with open(self.out, encoding="utf-8", errors="replace") as f:
            return f.read()

    def start(self):
        self.program = self.run()
        return self.program

    def progress(self):
        return "it runs" if self.program.poll() is None else "it has ended"

    def finish(self):
        if self.children.stop(self.program, "the tutorial") != 0:
            raise Failed(f"the tutorial ended badly: {self.said()}")
        self.said_with_daemon = self.said()
        say(f"  {self.said_with_daemon.splitlines()[-1]}")

    def compare(self):
        calls = self.said_with_daemon.splitlines()[-1].split()[1]
        again = self.run(calls)
        if again.wait(60) != 0 or self.said() != self.said_with_daemon:
            raise Failed("the tutorial printed something else than in a run without the daemon: "
                         f"{self.said_with_daemon!r}, {self.said()!r}")
        self.children.running.remove(again)
        say(f"  the same {number(int(calls))} calls without the daemon: the output is the same")


class Demo:
    def __init__(self, build, kind, children, folder):
        self.build, self.children, self.folder = build, children, folder
        self.leak = kind(children, folder)
        self.socket = os.path.join(folder, "control.sock")
        self.log = os.path.join(folder, "pyleakd.log")
        self.screen = Screen()

    def ctl(self, *arguments, check=True):
        run = subprocess.run([os.path.join(self.build, "pyleakctl"), "--socket", self.socket,
                              *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                             text=True, timeout=60)
        if run.returncode != 0 and check:
            raise Failed(f"pyleakctl {' '.join(arguments)}: exit {run.returncode}: {run.stderr}")
        return run

    def ask(self, *arguments):
        return json.loads(self.ctl("--json", *arguments).stdout)

    def daemon_alive(self):
        if self.daemon.poll() is not None:
            raise Failed(f"pyleakd ended with exit status {self.daemon.returncode}")
        if self.target.poll() is not None:
            raise Failed(f"the watched program ended with exit status {self.target.returncode}")

    def wait(self, what, ready, limit):
        """Asks twice a second until ready() gives something; the table and a line meanwhile."""
        begin = time.monotonic()
        while True:
            self.daemon_alive()
            answer = ready()
            if answer:
                self.screen.clear()
                return answer
            now = time.monotonic()
            if now - begin > limit:
                raise Failed(f"{what}: not within {limit} s")
            table = []
            if self.watching:
                table = self.ctl("growth", str(self.target.pid), "-n", "6").stdout.splitlines()
            self.screen.show(table, f"  {now - self.begin:3.0f} s  {what}; "
                                    f"{self.leak.progress()}")
            time.sleep(0.5 if self.screen.terminal else 2)

    def listening(self):
        return os.path.exists(self.socket) and self.ctl("status", check=False).returncode == 0

    def verdict(self):
        for suspect in self.ask("suspects", str(self.target.pid))["suspects"]:
            if suspect["verdict"] == "leak" and suspect["type"] == self.leak.type:
                return suspect
        return None

    def dump(self):
        """Other types may have a verdict and a dump, too: the one that speaks of ours."""
        for dump in self.ask("dumps", "list")["dumps"]:
            if dump["pid"] != self.target.pid or dump["trigger"] != "verdict":
                continue
            if dump["state"] in ("failed", "refused"):
                raise Failed(f"the dump {dump['id']} {dump['state']}: {dump.get('error')}")
            if dump["state"] == "done":
                shown = self.ask("dumps", "show", dump["id"])
                if any(suspect["type"] == self.leak.type for suspect in shown["suspects"]):
                    return shown
        return None

    def check(self, dump):
        """That the picture is right, not only there."""
        mine = [s for s in dump["suspects"] if s["type"] == self.leak.type]
        if not mine or not mine[0]["paths"]:
            raise Failed(f"the dump has no path to {self.leak.type}")
        path = mine[0]["paths"][0]
        way = " ".join(str(s.get("edge")) + " " + str(s.get("label")) for s in path["steps"])
        if path["root"]["kind"] != "module" or path["root"]["name"] != self.leak.root:
            raise Failed(f"the first path begins at {path['root']}, not at module {self.leak.root}")
        if self.leak.holder not in way:
            raise Failed(f"the first path does not name {self.leak.holder}: {way}")
        if path["share"] < 0.9:
            raise Failed(f"the first path holds only {path['share']:.0%} of the instances")

    def keep(self, dump):
        kept = []
        folder = os.path.join(self.build, "demo")
        os.makedirs(folder, exist_ok=True)
        for kind in ("svg", "json", "html"):
            source = dump["files"].get(kind)
            if not source or not os.path.isfile(source) or not os.path.getsize(source):
                raise Failed(f"the dump has no {kind}")
            target = os.path.join(folder, f"{self.leak.name}.{kind}")
            shutil.copyfile(source, target)
            kept.append(target)
        return kept

    def run(self):
        say(f"== {self.leak.title}")
        self.watching = False
        self.begin = time.monotonic()
        self.target = self.leak.start()
        say(f"  it runs as pid {self.target.pid} under {os.path.realpath(PYTHON)}, "
            "with nothing changed in it")
        command = [os.path.join(self.build, "pyleakd"),
                   "--config", os.path.join(HERE, "pyleakd-demo.yaml"), "--socket", self.socket,
                   "--state-dir", os.path.join(self.folder, "state"), "--pid",
                   str(self.target.pid)]
        say("  " + " ".join(short(a) for a in command))
        with open(self.log, "wb") as log:
            self.daemon = self.children.start(command, sig=signal.SIGTERM, stdout=log, stderr=log)
        self.wait("waiting for the daemon", self.listening, 20)
        self.watching = True
        say(self.ctl("status").stdout.rstrip())
        say()
        suspect = self.wait("watching it grow; a verdict needs 5 s of warm-up and 30 s of growth",
                            self.verdict, LIMIT)
        say(self.ctl("growth", str(self.target.pid), "-n", "6").stdout.rstrip())
        say()
        say(f"  the verdict after {time.monotonic() - self.begin:.0f} s: {suspect['reason']}")
        say(self.ctl("suspects", str(self.target.pid)).stdout.rstrip())
        say()
        dump = self.wait("the verdict has triggered a dump, waiting for it", self.dump, 60)
        say(self.ctl("dumps", "show", dump["id"]).stdout.rstrip())
        took = time.monotonic() - self.begin
        say()
        kept = self.keep(dump)
        say(f"  what holds them, {took:.0f} s after the start; the program stood still for "
            f"{dump['pause_us'] / 1000:.1f} ms of it:")
        for path in kept:
            say(f"    {short(path)}")
        self.check(dump)
        if took > LIMIT:
            raise Failed(f"that took {took:.0f} s, more than {LIMIT}")
        status = self.children.stop(self.daemon, "pyleakd")
        if status != 0:
            raise Failed(f"pyleakd ended with exit status {status} after SIGTERM")
        self.leak.finish()
        self.leak.compare()
        say()


def main():
    if len(sys.argv) < 2:
        sys.exit("demo: which build? demo.py BUILD [shop] [tutorial]")
    build = os.path.abspath(sys.argv[1])
    kinds = [k for k in (Shop, Tutorial) if k.name in sys.argv[2:] or not sys.argv[2:]]
    if os.geteuid() != 0:
        sys.exit("demo: pyleakd needs root to look into other processes: sudo make demo")
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda number, _: sys.exit(128 + number))
    for kind in kinds:
        children = Children()
        folder = tempfile.mkdtemp(prefix="pyleak-demo-")
        demo = Demo(build, kind, children, folder)
        try:
            demo.run()
        except (Failed, OSError, subprocess.TimeoutExpired, KeyError, ValueError) as error:
            what = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
            say(f"demo: FAILED: {kind.name}: {what}{error}")
            if os.path.exists(demo.log):
                with open(demo.log, encoding="utf-8", errors="replace") as f:
                    say("".join(f"  | {line}" for line in f.readlines()[-40:]))
            return 1
        finally:
            children.close()
            shutil.rmtree(folder, ignore_errors=True)
    say("demo: everything came out as it should")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
