#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What being watched costs, by pyleak and by others, against the same program alone.

    bench/overhead.py [--build DIR] [--roots DIR] [--rounds N] [--only LOAD]... [--way WAY]... [--raw FILE]
                      [--output DIR]      else the table goes to standard output
    bench/overhead.py --daemon ...     what the daemon itself takes, with 50 and 200 targets

Runs the programs of bench/load.py (as root), always two of them on one CPU, of which one is watched: what
the machine does to one, it does to the other in the same milliseconds. A round takes every way in turn; a
table of the ratios (CPU time an operation, throughput, latency) with medians and 95 % intervals goes to
DIR/overhead.md, a plot to DIR/overhead.svg. Every round counts. Raw figures are kept in FILE after each
round; a run that is ended goes on from there. Wants bpftrace, python3-objgraph and, for memray in a root of
Debian 13, debootstrap; what is missing is said and left out.
"""

import argparse
import ctypes
import importlib.util
import json
import math
import os
import random
import re
import selectors
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../tests/matrix")]

import builds  # noqa: E402

PYTHON = "/usr/bin/python3"
LONG, POLL, SHORT, SETTLED = 8.0, 10.5, 1.5, 60.0  # seconds of a stretch
TWINS = {0}  # the CPU of those that are measured; everything else runs on the others
CONNECTIONS = 4
SERVERS = ("http", "echo")
LOADS = ("json", "storm", "http", "echo", "numbers", "idle")
TITLES = {"json": "JSON and dataclasses", "storm": "allocation storm, `A()` in a loop",
          "http": "threaded HTTP server", "echo": "asyncio echo server",
          "numbers": "numbers in C, hardly any objects", "idle": "idle, wakes 20 times a second"}

# name: (title, seconds, how)
WAYS = {
    "default": ("pyleak, default (1 %)", LONG, "daemon"),
    "settled": ("pyleak, default, from its second minute on", SETTLED, "settled"),
    "five": ("pyleak, budget.cpu 5 %", SHORT, "daemon"),
    "unlimited": ("pyleak, unlimited: every birth and death", SHORT, "daemon"),
    "objgraph": ("objgraph.growth() every 10 s", POLL, "process"),
    "bpftrace": ("bpftrace, same functions, counts per type", SHORT, "bpftrace"),
    "tracemalloc": ("tracemalloc", SHORT, "process"),
    "memray": ("memray", SHORT, "root"),
    "memray-python": ("memray --trace-python-allocators", SHORT, "root"),
}


def goes_with_us(how=signal.SIGKILL):
    """In a child: it ends when this program does, however that ends."""
    ctypes.CDLL(None).prctl(1, how)  # PR_SET_PDEATHSIG


def measured():
    goes_with_us()
    os.sched_setaffinity(0, TWINS)


def cpu_seconds(pid):
    """Of a process with all its threads, to the nanosecond: the kernel's clock of it."""
    return time.clock_gettime((~pid << 3) | 2)


class Process:
    """A load that runs. In a root: `root` is its folder here."""

    def __init__(self, load, argv=(), env=None, root="", python=PYTHON):
        self.load = load
        self.folder = tempfile.mkdtemp(dir=root + "/tmp")
        os.chmod(self.folder, 0o755)
        inside = self.folder[len(root):]
        shutil.copy(os.path.join(HERE, "load.py"), self.folder)
        with open(self.folder + "/done", "wb") as f:
            f.write(bytes(4096))
        argv = [a.replace("FOLDER", inside) for a in argv]
        command = [python, *argv, inside + "/load.py", load, inside + "/done", inside + "/port"]
        if root:  # with a /proc of its own, which memray reads
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                       'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"', root, *command]
        self.process = subprocess.Popen(
            command, env=dict({"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8",
                               "PYTHONDONTWRITEBYTECODE": "1"}, **(env or {})),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            preexec_fn=measured)
        self.pid = self.process.pid
        self.done = open(self.folder + "/done", "rb")  # pylint: disable=consider-using-with
        while (line := self.process.stdout.readline()).strip() != b"8":
            if not line:
                raise RuntimeError(f"{load} ended before it began: {command}")
        self.port = None
        while load in SERVERS and self.port is None:
            if os.path.exists(self.folder + "/port"):
                with open(self.folder + "/port", encoding="ascii") as f:
                    self.port = int(f.read())
            elif self.process.poll() is not None:
                raise RuntimeError(f"{load} ended")
            time.sleep(0.01)
        time.sleep(0.2)

    def count(self):
        self.done.seek(0)
        return struct.unpack("Q", os.pread(self.done.fileno(), 8, 0))[0]

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.done.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Client:
    """Keeps CONNECTIONS requests to each server on their way, and notes how long each took."""

    def __init__(self, processes):
        self.http = processes[0].load == "http"
        self.request = b"GET /orders/17 HTTP/1.1\r\nHost: here\r\n\r\n" if self.http else \
            b"x" * 200 + b"\n"
        self.selector = selectors.DefaultSelector()
        self.took = [[] for _ in processes]
        for number, p in enumerate(processes):
            for _ in range(CONNECTIONS):
                s = socket.create_connection(("127.0.0.1", p.port))
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.selector.register(s, selectors.EVENT_READ, [number, 0.0, b""])

    def whole(self, data):
        if not self.http:
            return data.endswith(b"\n")
        head = data.find(b"\r\n\r\n")
        if head < 0:
            return False
        length = int(re.search(rb"Content-Length: (\d+)", data[:head]).group(1))
        return len(data) == head + 4 + length

    def send(self, key):
        key.data[1] = time.perf_counter()
        key.fileobj.sendall(self.request)

    def run(self, seconds):
        self.took = [[] for _ in self.took]
        end = time.monotonic() + seconds
        keys = list(self.selector.get_map().values())
        for key in keys:
            self.send(key)
        left = len(keys)
        while left:
            for key, _ in self.selector.select(5):
                data = key.fileobj.recv(65536)
                if not data:
                    raise RuntimeError("the server hung up")
                key.data[2] += data
                if not self.whole(key.data[2]):
                    continue
                self.took[key.data[0]].append(time.perf_counter() - key.data[1])
                key.data[2] = b""
                if time.monotonic() < end:
                    self.send(key)
                else:
                    left -= 1

    def close(self):
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()


def stretch(processes, seconds, client):
    """Of each: operations, CPU seconds, wall seconds, latencies in microseconds."""
    before = [(p.count(), cpu_seconds(p.pid)) for p in processes]
    at = time.monotonic()
    if client:
        client.run(seconds)
    else:
        time.sleep(seconds)
    wall = time.monotonic() - at
    return [{"n": p.count() - n, "cpu": cpu_seconds(p.pid) - cpu, "wall": wall,
             "took": [round(x * 1e6) for x in client.took[i]] if client else []}
            for i, (p, (n, cpu)) in enumerate(zip(processes, before))]


class Daemon:
    """pyleakd beside a process, from the moment it is started."""

    def __init__(self, build, pids, budget, rules=""):
        self.folder = tempfile.mkdtemp()
        self.build = build
        config = self.folder + "/c.yaml"
        with open(config, "w", encoding="utf-8") as f:
            f.write((f"budget: {{cpu: {budget}}}\n" if budget else "{}\n" if not rules else "") + rules)
        argv = [build + "/pyleakd", "--config", config, "--socket", self.folder + "/s",
                "--state-dir", self.folder + "/state"]
        for p in pids:
            argv += ["--pid", str(p)]
        self.log = open(self.folder + "/log", "w", encoding="utf-8")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(argv, stderr=self.log,
                                        preexec_fn=lambda: goes_with_us(signal.SIGTERM))

    def status(self):
        done = subprocess.run([self.build + "/pyleakctl", "--socket", self.folder + "/s", "--json",
                               "status"], capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Bpftrace:
    """A script as one would write it: at each site, count by the first argument."""

    def __init__(self, process):
        script = "; ".join(
            f'uprobe:{PYTHON}:{name} {{ @[arg0] = count(); }}'
            for name in ("PyType_GenericAlloc", "_PyObject_GC_New", "_PyObject_GC_NewVar",
                         "_PyObject_New", "_PyObject_NewVar", "PyObject_GC_Del")).replace("; ", " ")
        self.process = subprocess.Popen(["bpftrace", "-p", str(process.pid), "-e", script],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        preexec_fn=goes_with_us)
        said = line = self.process.stdout.readline()
        while b"Attaching" not in line:
            if not line:
                raise RuntimeError("bpftrace: " + said.decode(errors="replace"))
            line = self.process.stdout.readline()
            said += line
        time.sleep(1)

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.stdout.read()
        self.process.wait()


class Twins:
    """Two of a kind, and the client of both if they are servers."""

    def __init__(self, load, first=None, second=None):
        self.all = []
        try:
            for more in (first or {}, second or {}):
                self.all.append(Process(load, **more))
            self.client = Client(self.all) if load in SERVERS else None
        except BaseException:
            self.end()
            raise

    def run(self, seconds):
        return stretch(self.all, seconds, self.client)

    def end(self):
        if getattr(self, "client", None):
            self.client.close()
        for p in self.all:
            p.end()


class Round:
    """One pass over all ways, for one load. Of each way: figures of the watched one, of the other."""

    def __init__(self, args, load, root):
        self.args, self.load, self.root = args, load, root

    def from_start(self, way, seconds):
        """Ways that have to be there when the program starts: two new ones."""
        flags = {"memray": ("-m", "memray", "run", "-q", "-f", "-o", "FOLDER/out"),
                 "memray-python": ("-m", "memray", "run", "-q", "-f", "--trace-python-allocators",
                                   "-o", "FOLDER/out")}
        if way in flags:
            alone = {"root": self.root, "python": "/usr/bin/python3"}
            watched = dict(alone, argv=flags[way])
        else:
            alone = {}
            watched = {"env": {"PYTHONTRACEMALLOC": "1"} if way == "tracemalloc" else
                              {"OBJGRAPH": "10"}}
        twins = Twins(self.load, watched, alone)
        try:
            return twins.run(seconds)
        finally:
            twins.end()

    def watched(self, twins, way, which):
        _, seconds, how = WAYS[way]
        p = twins.all[which]
        alone = twins.run(seconds)[which] if how == "bpftrace" else None
        budget = {"five": "5%", "unlimited": "unlimited"}.get(way)
        watcher = Bpftrace(p) if how == "bpftrace" else Daemon(
            self.args.build, [p.pid], budget)
        try:
            if how == "settled":
                twins.run(seconds)
            out = twins.run(seconds)
            status = watcher.status() if how != "bpftrace" else None
            if status and status["targets"]:
                out[which]["reported"] = status["targets"][0]["overhead_percent"]
            # Its breakpoints are in every process of the file: held against the time before.
            return [out[which], alone or out[1 - which]]
        finally:
            watcher.end()

    def run(self):
        out = {}
        within = [w for w in self.args.ways if WAYS[w][2] in ("daemon", "settled", "bpftrace")]
        outside = [w for w in self.args.ways if WAYS[w][2] in ("process", "root")]
        random.shuffle(within)
        random.shuffle(outside)
        twins = Twins(self.load)
        try:
            for way in within:
                out[way] = self.watched(twins, way, random.randrange(2))
        finally:
            twins.end()
        for way in outside:
            out[way] = self.from_start(way, WAYS[way][1])
        return out


# ---- figures ------------------------------------------------------------------------------------

def interval(values):
    """Median and its 95 % interval, by order statistics: no assumption on how they are spread."""
    v = sorted(values)
    n = len(v)
    k = 0
    while k < n // 2 and 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2 ** n <= 0.05:
        k += 1
    k = max(k - 1, 0)
    return statistics.median(v), v[k], v[n - 1 - k]


def percentile(took, share):
    v = sorted(took)
    return v[min(int(len(v) * share), len(v) - 1)] if v else math.nan


def cost(r):
    return r["cpu"] / r["n"] if r["n"] else math.nan


def speed(r):
    return r["n"] / r["wall"]


def show(x, digits=3):
    return f"{x:.{digits}f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"


def ratios(rounds, way, figure):
    return [figure(r[way][0]) / figure(r[way][1]) for r in rounds
            if way in r and r[way][0]["n"] and r[way][1]["n"]]


def table(raw):
    lines = []
    for load in [x for x in LOADS if x in raw]:
        rounds = raw[load]
        lines += [f"## {TITLES[load][0].upper()}{TITLES[load][1:]}", "",
                  f"{len(rounds)} rounds.", "",
                  "| | CPU an operation, ratio | 95 % interval | throughput, ratio | 95 % interval |",
                  "|---|---|---|---|---|"]
        for way, (title, _, _) in WAYS.items():
            c, s = ratios(rounds, way, cost), ratios(rounds, way, speed)
            if not c:
                continue
            m, lo, hi = interval(c)
            ms, los, his = interval(s)
            lines.append(f"| {title} | **{show(m)}** | {show(lo)} to {show(hi)} | {show(ms)} | "
                         f"{show(los)} to {show(his)} |")
        if load in SERVERS:
            lines += ["", "| latency, and of the one beside it | p50 | p99 | p99.9 |", "|---|---|---|---|"]
            for way in WAYS:
                both = [[x for r in rounds if way in r for x in r[way][i]["took"]] for i in (0, 1)]
                if all(both):
                    lines.append(f"| {WAYS[way][0]} | " + " | ".join(
                        f"{percentile(both[0], p) / 1000:.2f} / {percentile(both[1], p) / 1000:.2f} ms"
                        for p in (0.5, 0.99, 0.999)) + " |")
        told = [(r["default"][0]["reported"], 100 * (cost(r["default"][0]) / cost(r["default"][1]) - 1))
                for r in rounds if r.get("default", [{}])[0].get("reported") is not None]
        if told:
            lines += ["", "With the default `overhead_percent` said "
                      f"{statistics.median(x for x, _ in told):.2f} at the median where "
                      f"{statistics.median(y for _, y in told):.2f} were measured."]
        lines.append("")
    return lines


def plot(raw, path):
    """Bars from 1, on a logarithmic scale: a group a load, a bar a way."""
    loads = [x for x in LOADS if x in raw]
    colours = ["#1b7837", "#5aae61", "#a6dba0", "#b2abd2", "#fdb863", "#e08214", "#d6604d", "#b2182b"]
    ways = list(WAYS)
    left, width, bar = 230, 620, 13
    most = max([max(interval(ratios(raw[x], w, cost))[0] for w in ways if ratios(raw[x], w, cost))
                for x in loads] + [2])
    scale = width / math.log(most * 1.1)

    def at(ratio):
        return max(math.log(max(ratio, 0.98)) * scale, 1)

    out, y = [], 56
    for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100):
        if tick > most * 1.1:
            break
        x = left + math.log(tick) * scale
        out.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="46" y2="HEIGHT" class="grid"/>'
                   f'<text x="{x:.0f}" y="40" class="tick">{tick}×</text>')
    for load in loads:
        out.append(f'<text x="{left - 10}" y="{y + 11}" class="load">'
                   f'{TITLES[load].replace("`", "")}</text>')
        for w, colour in zip(ways, colours):
            v = ratios(raw[load], w, cost)
            if not v:
                continue
            m, lo, hi = interval(v)
            out.append(
                f'<rect x="{left}" y="{y}" width="{at(m):.1f}" height="{bar - 2}" fill="{colour}">'
                f'<title>{WAYS[w][0]}: {show(m)} ({show(lo)} to {show(hi)})</title></rect>'
                f'<text x="{left + at(m) + 5:.0f}" y="{y + 9}" class="value">{show(m, 2)}</text>')
            y += bar
        y += 14
    for i, (w, colour) in enumerate(zip(ways, colours)):
        out.append(f'<rect x="{20 + i % 2 * 420}" y="{y + 14 + i // 2 * 18}" width="12" height="11" '
                   f'fill="{colour}"/><text x="{38 + i % 2 * 420}" y="{y + 24 + i // 2 * 18}" '
                   f'class="key">{WAYS[w][0]}</text>')
    height = y + 100
    with open(path, "w", encoding="utf-8") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" '
                'font-family="sans-serif" font-size="11"><style>.grid{stroke:#ddd}'
                '.tick{text-anchor:middle;fill:#666}.load{text-anchor:end;font-weight:bold;font-size:10px}'
                '.value{fill:#333;font-size:10px}.key{font-size:12px}</style>'
                f'<rect width="900" height="{height}" fill="white"/>'
                '<text x="20" y="22" font-size="15">CPU time an operation, against the program alone '
                '(less is better)</text>' + "".join(out).replace("HEIGHT", str(y)) + "</svg>\n")


HEAD = """# What being watched costs

Made by `bench/overhead.py` on {when}, {machine}, {kernel}, two CPUs shared with others; Python
{python}, memray {memray}. Two of each program run on one CPU at the same time, and one of them is
watched: what the machine does to one it does to the other in the same milliseconds. A round takes every
way in turn, in random order; the figures are medians of the rounds' ratios, the intervals hold the median
with 95 %, and every round that was made counts. pyleak and bpftrace come and go on a process that runs;
the stretch ({long:.0f} s for the default, else {short} s) begins before the daemon does, so attaching is in
it. `tracemalloc`, `objgraph` and `memray` have to be there from the process's start; bpftrace stops every
process of the file at its breakpoints, so it is held against the stretch before.

![CPU time an operation](overhead.svg)

"""


def measure(args):
    root = ""
    try:
        root = builds.Roots(args.roots, lambda s: print(s, flush=True)).install(
            "trixie", "python3", "python3-memray")
    except builds.Unavailable as e:
        print(f"left out: memray: {e}", file=sys.stderr)
    missing = {"bpftrace": not shutil.which("bpftrace"),
               "objgraph": not importlib.util.find_spec("objgraph"),
               "memray": not root, "memray-python": not root}
    # two minutes a round: by name only
    args.ways = [w for w in args.way or WAYS if not missing.get(w) and (args.way or w != "settled")]
    for way, package in (("bpftrace", "bpftrace"), ("objgraph", "python3-objgraph")):
        if missing[way]:
            print(f"left out: {way} is not there: apt-get install {package}", file=sys.stderr)
    raw = {}
    if os.path.exists(args.raw):
        with open(args.raw, encoding="utf-8") as f:
            raw = json.load(f)
    for number in range(args.rounds):
        for load in args.only or LOADS:
            if len(raw.get(load, ())) > number:
                continue
            at = time.monotonic()
            raw.setdefault(load, []).append(Round(args, load, root).run())
            with open(args.raw + ".part", "w", encoding="utf-8") as f:
                json.dump(raw, f)
            os.rename(args.raw + ".part", args.raw)
            print(f"round {number + 1}, {load}: {time.monotonic() - at:.0f} s", flush=True)
    if args.output:
        memray = root and subprocess.run(
            ["chroot", root, "python3", "-c", "import memray; print(memray.__version__)"],
            capture_output=True, text=True, check=False).stdout.strip()
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            machine = re.search(r"model name\s*: (.*)", f.read()).group(1)
        daemon_part = ""
        if os.path.exists(args.raw + ".daemon"):
            with open(args.raw + ".daemon", encoding="utf-8") as f:
                daemon_part = f.read()
        with open(os.path.join(args.output, "overhead.md"), "w", encoding="utf-8") as f:
            f.write(HEAD.format(when=time.strftime("%Y-%m-%d"), machine=machine,
                                kernel=os.uname().release, long=LONG, short=SHORT,
                                python=sys.version.split()[0], memray=memray or "not there"))
            f.write("\n".join(table(raw)) + "\n" + daemon_part)
        plot(raw, os.path.join(args.output, "overhead.svg"))
    else:
        print("\n".join(table(raw)))


# ---- the daemon itself --------------------------------------------------------------------------

def memory_kib(pid, key):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        return int(re.search(rf"^{key}:\s+(\d+)", f.read(), re.M).group(1))


MAP_CPU_BYTES = 4 * 192 + 270  # see daemon()


def maps_bytes(pid):
    """What the kernel says its BPF maps take."""
    total = 0
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as f:
                text = f.read()
        except OSError:
            continue
        if "map_type" in text:
            total += int(re.search(r"^memlock:\s+(\d+)", text, re.M).group(1))
    return total


def daemon(args):
    lines = ["## The daemon itself", "",
             "Ordinary targets: 20 000 objects, fifty small requests a second each; default settings. CPU "
             f"over {args.seconds} s, from as long after the start. Maps: what the kernel says its BPF maps "
             "take here, with few possible CPUs. With 256 of them each target's table has as many small caches "
             "beside it (kernel/bpf/memalloc.c: four elements of 192 bytes and some 270 bytes for each possible "
             "CPU); that column is computed.", "",
             "| targets | RSS | BPF maps | with 256 CPUs | CPU, of one core |", "|---|---|---|---|---|"]
    for n in (50, 200):
        targets = [Process("ordinary") for _ in range(n)]
        d = Daemon(args.build, [], None, 'targets:\n  - match: {cmdline: "*load.py ordinary*"}\n')
        try:
            end = time.monotonic() + 120
            while time.monotonic() < end:
                status = d.status()
                if status and len(status["targets"]) == n:
                    break
                time.sleep(1)
            else:
                raise RuntimeError(f"not all {n} are watched")
            time.sleep(args.seconds)
            cpu = cpu_seconds(d.process.pid)
            time.sleep(args.seconds)
            share = (cpu_seconds(d.process.pid) - cpu) / args.seconds
            lines.append(f"| {n} | {memory_kib(d.process.pid, 'VmRSS') / 1024:.1f} MiB | "
                         f"{maps_bytes(d.process.pid) / 2 ** 20:.1f} MiB | "
                         f"{(maps_bytes(d.process.pid) + n * 256 * MAP_CPU_BYTES) / 2 ** 20:.0f} MiB | "
                         f"{100 * share:.2f} % |")
            print(lines[-1], flush=True)
        finally:
            d.end()
            for t in targets:
                t.end()
    with open(args.raw + ".daemon", "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--roots", default="build/roots")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=60, help="with --daemon")
    parser.add_argument("--only", action="append", choices=LOADS)
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--raw", default="build/overhead.json")
    parser.add_argument("--output")
    parser.add_argument("--daemon", action="store_true")
    args = parser.parse_args()
    if os.geteuid():
        sys.exit("root is needed to attach probes")
    args.build = os.path.abspath(args.build)
    os.sched_setaffinity(0, os.sched_getaffinity(0) - TWINS or TWINS)
    if args.daemon:
        daemon(args)
    else:
        measure(args)


if __name__ == "__main__":
    main()
