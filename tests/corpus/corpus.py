#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Runs the programs of the corpus against the real daemon, all at once:

    tests/corpus/corpus.py [--window 10] [--windows 20] [--python PATH] [--record DIR] [NAME...]

leaking/ must each be called a leak within two windows after the warm-up, by a type that their header names
(globs, "|" between them) or by one that leads its companions; healthy/ must have no leak verdict in all
that time. Prints a table; exit 1 if something was missed or falsely alarmed. --record keeps a
recording of each in DIR/NAME.rec, as those in tests/corpus/recordings, which tests/integration/test_recordings.py
replays."""

import argparse
import fnmatch
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("PYLEAK_BUILD", os.path.join(HERE, "../../build"))


class Program:
    def __init__(self, path):
        self.path = path
        self.name = os.path.basename(path)[: -len(".py")]
        with open(path, encoding="utf-8") as f:
            text = f.read()
        found = re.search(r"^# leaks: (.*)$", text, re.M)
        self.alone = bool(re.search(r"^# alone", text, re.M))
        self.leaks = found.group(1).split("|") if found else None
        self.process = None
        self.events = []

    def start(self, python, window):
        env = dict(os.environ, PYTHONPATH=HERE, CORPUS_WINDOW=str(window), PYTHONDONTWRITEBYTECODE="1")
        self.process = subprocess.Popen([python, self.path], env=env, stdout=subprocess.DEVNULL)

    def stop(self):
        self.process.kill()
        self.process.wait()


def programs(names):
    paths = sorted(glob.glob(f"{HERE}/leaking/*.py")) + sorted(glob.glob(f"{HERE}/healthy/*.py"))
    every = [Program(p) for p in paths]
    unknown = set(names) - {p.name for p in every}
    if unknown:
        raise SystemExit(f"corpus: no such program: {', '.join(sorted(unknown))}")
    return [p for p in every if not names or p.name in names]


def growth(window, interval=None):
    """The defaults, scaled to the window: a hundred objects a window are what a thousand are."""
    return {"interval": f"{int((interval or window / 20) * 1000)}ms", "warmup": "0s",
            "window": f"{int(window * 1000)}ms", "min_objects": 50}


def replay(path, *args):
    out = subprocess.run([f"{BUILD}/pyleakctl", "--json", "replay", path, *args], capture_output=True,
                         text=True, check=True).stdout
    return json.loads(out)


def leaders(document, pid=None, kind="leak"):
    """(type, when first) of verdicts of that kind which had no leader, in windows since the first sample."""
    began = {t["pid"]: stamp(t["from"]) for t in document["targets"]}
    window = document["growth"]["window_ms"] / 1000
    found = {}
    for e in document["events"]:
        if e["verdict"] == kind and not e["leader"] and not e["suppressed"] and pid in (None, e["pid"]):
            found.setdefault(e["type"], (stamp(e["at"]) - began[e["pid"]]) / window)
    return found


def stamp(text):
    whole, ms = text.rstrip("Z").split(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + int(ms) / 1000


def judge(program, found, slack=2.2):
    """What is wrong with the verdicts on a program, or None."""
    slack += program.alone  # a reading of memory every few seconds is seldom in windows of seconds
    if program.leaks is None:
        return f"false alarm: {found}" if found else None
    named = [t for t in found if any(fnmatch.fnmatchcase(t, g) for g in program.leaks)]
    if not named:
        return f"missed: {found or 'no verdict'}"
    first = min(found[t] for t in named)
    return f"late: after {first:.1f} windows" if first > slack else None


def split(recording, folder, names):
    """A recording for each target, under the program's name, nothing of this machine in it."""
    files, head, pending = {}, [], []
    os.makedirs(folder, exist_ok=True)
    with open(recording, encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            words = line.split(" ")
            if words[0] in "px":
                pending.append(line)
            elif words[0] == "T":
                name = names[int(words[2])]
                files[words[1]] = open(f"{folder}/{name}.rec", "w", encoding="utf-8",
                                       errors="surrogateescape")
                files[words[1]].write("".join(head) + f"T 1 {words[2]} {words[3]} {name}\n")
            elif words[0] in "NJGSE":
                target = words[1].rstrip("\n")
                end = " ".join(words[2:])
                files[target].write("".join(pending) + (f"{words[0]} 1 {end}" if end else f"{words[0]} 1\n"))
                pending = []
            elif not files:
                head = head[:1] + [line]
    for f in files.values():
        f.close()


def run(chosen, python, window, windows, record=None, cpu="unlimited"):
    """program -> document of the replay of its recording."""
    folder = tempfile.mkdtemp()
    config = os.path.join(folder, "pyleakd.yaml")
    recording = os.path.join(folder, "all.rec")
    with open(config, "w", encoding="utf-8") as f:
        json.dump({"growth": growth(window), "budget": {"cpu": cpu}}, f)
    try:
        for p in chosen:
            p.start(python, window)
        time.sleep(1)
        command = [f"{BUILD}/pyleakd", "--config", config, "--socket", f"{folder}/sock", "--state-dir",
                   f"{folder}/state", "--record", recording]
        for p in chosen:
            command += ["--pid", str(p.process.pid)]
        with open(f"{folder}/log", "w", encoding="utf-8") as log:
            daemon = subprocess.Popen(command, stderr=log)
            end = time.monotonic() + window * windows + 5
            while time.monotonic() < end and daemon.poll() is None:
                time.sleep(0.2)
            if daemon.poll() is not None:
                with open(f"{folder}/log", encoding="utf-8") as f:
                    raise SystemExit(f"corpus: pyleakd ended: {f.read()}")
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
        if record:
            split(recording, record, {p.process.pid: p.name for p in chosen})
        return replay(recording)
    finally:
        for p in chosen:
            p.stop()
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--window", type=float, default=10)
    parser.add_argument("--windows", type=float, default=20)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--cpu", default="unlimited")
    parser.add_argument("--record")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    every = programs(args.names)
    wrong = 0
    for chosen in [p for p in every if not p.alone], *([p] for p in every if p.alone):
        document = chosen and run(chosen, args.python, args.window, args.windows, args.record, args.cpu)
        for p in chosen:
            found = leaders(document, p.process.pid)
            watched = leaders(document, p.process.pid, "watch")
            what = judge(p, found)
            wrong += what is not None
            first = ", ".join(f"{t} {w:.1f}" for t, w in sorted(found.items(), key=lambda x: x[1])[:4])
            print(f"{'leaking' if p.leaks else 'healthy':8} {p.name:20} {what or 'right':40} {first}"
                  f"{'; watched: ' + ', '.join(sorted(watched)[:4]) if watched and not p.leaks else ''}",
                  flush=True)
    print(f"{len(every)} programs, {wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
