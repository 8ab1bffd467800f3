#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Runs the tests: tests/run.py --build DIR [--only GLOB]... [unit] [integration] [safety] [long]

unit         every program DIR/san/tests/test_* (cmocka, built with sanitizers)
integration  every tests/integration/test_*.py (unittest, real processes, root)
safety       every tests/safety/test_*.py, likewise; PYLEAK_LONG=1: their long forms
long         every tests/long/test_*.py, the same with an hour each

Each program and module runs in a process and a session of its own, with its own TMPDIR and a time
limit (a module may set TIMEOUT, in seconds). A module with BESIDE = True runs beside the others with what
they leave of the processors, and is reported last. What it leaves behind is a failure: a process, a file
in TMPDIR, a BPF link. The last line is "N passed, N failed, N skipped"; exit 0 only when nothing
failed and something passed.

A skip names its reason. With CI=true a skip is a failure unless the reason begins
"cannot run here: ", which says that no machine of this kind could run it.
"""

import argparse
import ctypes
import faulthandler
import fnmatch
import glob
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import unittest
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
CI = os.environ.get("CI", "").lower() in ("true", "1", "yes")
EXCUSE = "cannot run here: "
TIMEOUT = {"unit": 300, "integration": 600, "safety": 600, "long": 3600}
GRACE = 3  # seconds in which what is on its way out may end
OUTPUT_MAX = 64 << 10  # of a failed program's output, its end
BESIDE_MARK = "-beside"  # behind the marker of what a module started that runs beside others
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


# ---- inside the process of one unittest module --------------------------------------------


class Reporter(unittest.TestResult):
    """Writes every result at once, as a JSON line, so that a crash or a timeout loses none."""

    def __init__(self, report):
        super().__init__()
        self.report = report
        self.subtest_failed = False

    def event(self, kind, test=None, text=""):
        name = test.id() if hasattr(test, "id") else test
        if " " not in name:  # "setUpClass (module.Class)" stays whole
            name = name.split(".", 1)[-1]
        self.report.write(json.dumps({"kind": kind, "test": name, "text": text}) + "\n")
        self.report.flush()

    def startTest(self, test):
        super().startTest(test)
        self.subtest_failed = False
        self.event("start", test)

    def addSuccess(self, test):
        self.event("pass", test)

    def addError(self, test, err):
        self.event("fail", test, "".join(traceback.format_exception(*err)))

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        # A test with a failed part never reaches addSuccess: it is one failure, told at once.
        if err is None:
            return
        text = f"{subtest.id()}\n" + "".join(traceback.format_exception(*err))
        self.event("detail" if self.subtest_failed else "fail", test, text)
        self.subtest_failed = True

    def addSkip(self, test, reason):
        self.event("skip", test, reason)

    def addExpectedFailure(self, test, err):
        self.event("pass", test)

    def addUnexpectedSuccess(self, test):
        self.event("fail", test, "was expected to fail and did not")


def run_module(path, report_path):
    faulthandler.enable()
    sys.path.insert(0, os.path.dirname(path))
    name = os.path.basename(path)[: -len(".py")]
    with open(report_path, "w", encoding="utf-8") as report:
        result = Reporter(report)

        def stop(*_):
            # Ends the test that is under way as an error, its clean-up included, and starts no other.
            result.stop()
            sys.exit("stopped by SIGTERM")

        # The runner's time limit sends it.
        signal.signal(signal.SIGTERM, stop)
        try:
            spec = importlib.util.spec_from_file_location(name, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
            suite = unittest.defaultTestLoader.loadTestsFromModule(module)
        except unittest.SkipTest as skip:
            result.event("skip", name, str(skip))
            return 0
        if hasattr(module, "TIMEOUT"):
            result.event("timeout", name, str(float(module.TIMEOUT)))
        result.event("plan", name, str(suite.countTestCases()))
        suite.run(result)
        result.event("end", name)
    return 0


# ---- processes ----------------------------------------------------------------------------


def proc_read(pid, name):
    try:
        with open(f"/proc/{pid}/{name}", "rb") as f:
            return f.read()
    except OSError:
        return b""


def proc_all():
    """pid -> (parent, state, comm) of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = proc_read(entry, "stat")
            if stat:
                comm = stat[stat.index(b"(") + 1 : stat.rindex(b")")]
                rest = stat[stat.rindex(b")") + 2 :].split()
                found[int(entry)] = (int(rest[1]), rest[0].decode(), comm.decode(errors="replace"))
    return found


def reap():
    """Zombies that were handed to us because we are the subreaper."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def descendants(all_now, tree):
    grown = True
    while grown:
        more = {pid for pid, (parent, _, _) in all_now.items() if parent in tree} - tree
        tree |= more
        grown = bool(more)
    return tree


def ours(marker, beside=()):
    """Processes that the tests started and that still run, as pid -> text. Not those that run beside."""
    all_now = proc_all()
    me = os.getpid()
    tree = descendants(all_now, {me})
    found = {}
    for pid, (_, state, comm) in all_now.items():
        if pid == me or state in "ZX":
            continue
        if beside and (pid in descendants(all_now, set(beside)) or
                       marker + BESIDE_MARK.encode() in proc_read(pid, "environ")):
            continue
        # The marker in the environment finds those that went to another reaper. Never by name: it
        # may be somebody else's daemon.
        if pid in tree or marker in proc_read(pid, "environ"):
            cmdline = proc_read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")
            found[pid] = f"{comm}[{pid}] {cmdline.strip()[:200]}"
    return found


def sweep(marker, beside=()):
    """What is left after GRACE seconds is returned, and killed."""
    deadline = time.monotonic() + GRACE
    while True:
        reap()
        left = ours(marker, beside)
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + GRACE
    while left and ours(marker, beside) and time.monotonic() < deadline:
        reap()
        time.sleep(0.02)
    reap()
    return sorted(left.values())


# ---- BPF links ----------------------------------------------------------------------------


def bpf_links():
    """id -> text of every BPF link, or None where nobody can say."""
    tool = shutil.which("bpftool", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not tool or os.geteuid() != 0:
        return None
    run = subprocess.run([tool, "-j", "link", "list"], capture_output=True, timeout=60)
    if run.returncode != 0:
        return None
    return {link["id"]: f"BPF link {link['id']} ({link.get('type', '?')})"
            for link in json.loads(run.stdout or b"[]")}


def bpf_links_held():
    """Links behind descriptors of processes: after the sweep, somebody else's."""
    held = set()
    for path in glob.glob("/proc/[0-9]*/fdinfo/[0-9]*"):
        try:
            with open(path, encoding="ascii", errors="replace") as f:
                match = re.search(r"^link_id:\s*(\d+)", f.read(), re.M)
        except OSError:
            continue
        if match:
            held.add(int(match.group(1)))
    return held


def bpf_links_left(before):
    """New links that no living process holds: pinned, or not yet freed after GRACE seconds."""
    deadline = time.monotonic() + GRACE
    while True:
        now = bpf_links()
        if now is None:
            return []
        new = set(now) - set(before)
        new -= bpf_links_held() if new else set()
        if not new or time.monotonic() > deadline:
            return [now[i] for i in sorted(new)]
        time.sleep(0.1)


# ---- the runner ---------------------------------------------------------------------------


class Outcome:
    def __init__(self):
        self.passed = 0
        self.failures = []  # (test, text)
        self.skips = []  # (test, reason)

    def fail(self, test, text):
        self.failures.append((test, text))

    def skip(self, test, reason):
        if CI and not reason.startswith(EXCUSE):
            self.fail(test, f"skipped, and CI should be able to run it: {reason}")
        else:
            self.skips.append((test, reason))


def ended_by(status):
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exit status {status}"


def judge_cmocka(outcome, name, status, output):
    """cmocka with CMOCKA_MESSAGE_OUTPUT=TAP: "1..N" a group, then a line a test."""
    planned = passed = failed = skipped = 0
    reasons = re.findall(r"cannot run here: .*", output)
    for line in output.splitlines():
        # A test that prints without a newline has its result behind its own text.
        plan = re.search(r"^\s*1\.\.(\d+)\s*$", line)
        result = re.search(r"(not ok|ok) \d+ (?:- |# )(.*)$", line)
        if plan:
            planned += int(plan.group(1))
        elif result:
            text = result.group(2)
            if re.match(r"(?i)skip", text) or re.search(r"(?i)# skip", text):
                skipped += 1
                test = re.sub(r"(?i)#? ?skip ?", "", text).strip()
                outcome.skip(test, reasons.pop(0) if reasons else "no reason given")
            elif result.group(1) == "ok":
                passed += 1
            else:
                failed += 1
                outcome.fail(text, "")
    outcome.passed += passed
    counted = passed + failed + skipped
    if status < 0:
        outcome.fail(name, f"{ended_by(status)} after {counted} of {planned} tests")
    elif counted != planned or not planned:
        outcome.fail(name, f"{counted} results of {planned} tests, {ended_by(status)}")
    elif status and not failed:
        # A leak found at the end, or another word of a sanitizer.
        outcome.fail(name, f"{ended_by(status)} though no test failed")


def judge_module(outcome, name, status, report):
    running, finished, planned, counted = None, False, None, 0
    for event in report:
        kind, test, text = event["kind"], event["test"], event["text"]
        if kind == "start":
            running = test
        elif kind == "plan":
            planned = int(text)
        elif kind == "end":
            finished = True
        elif kind == "detail":
            outcome.fail(test, text)
        elif kind in ("pass", "fail", "skip"):
            counted += 1
            running = None if test == running else running
            if kind == "pass":
                outcome.passed += 1
            elif kind == "fail":
                outcome.fail(test, text)
            else:
                outcome.skip(test, text)
    if planned is None and counted == 0:
        outcome.fail(name, f"did not load, {ended_by(status)}")
    elif planned == 0 and counted == 0:
        outcome.fail(name, "has no tests")
    elif (planned is not None and not finished) or status:
        outcome.fail(running or name, f"{ended_by(status)} in {running or 'the module'}")


def read_report(path):
    try:
        with open(path, encoding="utf-8") as f:
            lines = f.read().split("\n")
    except OSError:
        return []
    return [json.loads(line) for line in lines[:-1]]  # the last piece is not a whole line yet


def stop_session(process, first):
    """The clean way first: a module's own clean-up, or a sanitizer's backtrace."""
    for sig in (first, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig) if sig == signal.SIGKILL else process.send_signal(sig)
        except ProcessLookupError:
            pass
        try:
            return process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            continue
    return process.wait()


def idle():
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def runs_beside(path):
    """Whether a module says that it may run while others do, with what they leave of the processors."""
    if not path.endswith(".py"):
        return False
    with open(path, encoding="utf-8") as f:
        return re.search(r"^BESIDE = True\b", f.read(), re.M) is not None


class Job:
    def __init__(self, suite, path, name, folder, beside):
        self.suite, self.path, self.name, self.folder, self.is_beside = suite, path, name, folder, beside
        self.is_module = suite != "unit"
        self.report, self.output = os.path.join(folder, "report"), os.path.join(folder, "output")
        self.outcome = Outcome()
        self.begin = time.monotonic()
        self.process = None


class Runner:
    def __init__(self, build):
        self.build = os.path.abspath(build)
        self.marker = f"PYLEAK_TEST_RUN={uuid.uuid4().hex}"
        self.passed = self.failed = self.skipped = 0
        self.beside = []
        self.tmp = tempfile.mkdtemp(prefix="pyleak-")
        os.chmod(self.tmp, 0o711)  # tests start targets as other users

    def say(self, text, end="\n"):
        print(text, end=end, flush=True)

    def count(self, outcome):
        self.passed += outcome.passed
        self.failed += len(outcome.failures)
        self.skipped += len(outcome.skips)

    def start(self, suite, path, beside=False):
        name = os.path.basename(path)
        job = Job(suite, path, name[: -len(".py")] if name.endswith(".py") else name,
                  tempfile.mkdtemp(prefix="t", dir=self.tmp), beside)  # short: socket paths live below it
        tmp = os.path.join(job.folder, "t")
        os.chmod(job.folder, 0o711)
        os.mkdir(tmp)
        os.chmod(tmp, 0o1777)
        env = dict(os.environ, PYLEAK_BUILD=self.build, TMPDIR=tmp, LC_ALL="C.UTF-8",
                   CMOCKA_MESSAGE_OUTPUT="TAP")
        env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        key, _, value = self.marker.partition("=")
        env[key] = value + BESIDE_MARK * beside
        argv = [path]
        if job.is_module:
            argv = [sys.executable, "-B", "-u", os.path.abspath(__file__),
                    "--module", path, "--report", job.report]
        # Output goes to files: a pipe would stay open as long as a process that was left behind.
        with open(job.output, "wb") as output:
            job.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output,
                                           stderr=subprocess.STDOUT, env=env, cwd=tmp,
                                           start_new_session=True, preexec_fn=idle if beside else None)
        return job

    def wait(self, job):
        limit = TIMEOUT[job.suite]
        try:
            while True:
                try:
                    return job.process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    pass
                for event in read_report(job.report) if job.is_module else ():
                    if event["kind"] == "timeout":
                        limit = float(event["text"])
                if time.monotonic() - job.begin > limit:
                    job.outcome.fail(job.name, f"not done after {limit:g} s")
                    return stop_session(job.process, signal.SIGTERM if job.is_module else signal.SIGABRT)
        except BaseException:
            stop_session(job.process, signal.SIGTERM)
            raise

    def finish(self, job):
        self.say(f"  {job.suite + '/' + job.name:<44}", end="")
        outcome = job.outcome
        status = self.wait(job)
        took = time.monotonic() - job.begin
        with open(job.output, "rb") as f:
            f.seek(max(0, os.path.getsize(job.output) - (16 << 20)))
            text = f.read().decode(errors="replace")

        if job.is_module:
            judge_module(outcome, job.name, status, read_report(job.report))
        else:
            judge_cmocka(outcome, job.name, status, text)
        if job in self.beside:
            self.beside.remove(job)
        for left in sweep(self.marker.encode(), [j.process.pid for j in self.beside]):
            outcome.fail(job.name, f"left a process running: {left}")
        tmp = os.path.join(job.folder, "t")
        for folder, folders, files in os.walk(tmp):
            for entry in sorted(files) or ([] if folders or folder == tmp else ["(empty folder)"]):
                outcome.fail(job.name, f"left on disk: {os.path.join(folder, entry)}")
        shutil.rmtree(job.folder, ignore_errors=True)

        self.say("{}  {:3} passed{}{}  {:.1f} s{}".format(
            "FAIL" if outcome.failures else "ok  ", outcome.passed,
            f", {len(outcome.failures)} failed" if outcome.failures else "",
            f", {len(outcome.skips)} skipped" if outcome.skips else "", took,
            ", beside the others" if job.is_beside else ""))
        for test, reason in outcome.skips:
            self.say(f"    skipped {test}: {reason}")
        for test, why in outcome.failures:
            self.say(f"    FAILED {test}" + "".join(f"\n      {l}" for l in why.splitlines()))
        if outcome.failures and text:
            tail = text[-OUTPUT_MAX:]
            self.say(f"    ---- output of {job.name}" + (", its end" if tail != text else ""))
            self.say("".join(f"    | {line}\n" for line in tail.splitlines()), end="")
        self.count(outcome)

    def chosen(self, suite, only):
        if suite == "unit":
            found = [p for p in glob.glob(os.path.join(self.build, "san/tests/test_*"))
                     if os.access(p, os.X_OK) and not os.path.isdir(p)]
        else:
            found = glob.glob(os.path.join(HERE, suite, "test_*.py"))
        chosen = [p for p in sorted(found) if not only or
                  any(fnmatch.fnmatch(os.path.basename(p).removesuffix(".py"), g) for g in only)]
        nobody = Outcome()
        if not found:
            nobody.fail(suite, "no tests found")
        elif chosen and suite != "unit" and os.geteuid() != 0:
            nobody.fail(suite, "needs root: sudo make check")
            chosen = []
        for test, why in nobody.failures:
            self.say(f"    FAILED {test}: {why}")
        self.count(nobody)
        return chosen

    def suites(self, suites, only):
        chosen = {suite: self.chosen(suite, only) for suite in suites}
        self.beside = [self.start(suite, path, beside=True)
                       for suite in suites for path in chosen[suite] if runs_beside(path)]
        beside = {job.path for job in self.beside}
        for suite in suites:
            self.say(f"{suite}:")
            for path in chosen[suite]:
                if path not in beside:
                    self.finish(self.start(suite, path))
        for job in list(self.beside):
            self.finish(job)

    def close(self, links):
        outcome = Outcome()
        for left in sweep(self.marker.encode()):
            outcome.fail("clean-up", f"left running: {left}")
        if links is not None:
            for left in bpf_links_left(links):
                outcome.fail("clean-up", f"left attached: {left}")
        shutil.rmtree(self.tmp, ignore_errors=True)
        for test, why in outcome.failures:
            self.say(f"    FAILED {test}: {why}")
        self.count(outcome)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", metavar="DIR", help="default: build")
    parser.add_argument("--only", action="append", metavar="GLOB", help="test_dump*, may be repeated")
    parser.add_argument("--module", help=argparse.SUPPRESS)
    parser.add_argument("--report", help=argparse.SUPPRESS)
    parser.add_argument("suite", nargs="*", help="unit, integration, safety, long; default: the first three")
    args = parser.parse_args()
    if args.module:
        return run_module(args.module, args.report)
    suites = args.suite or ["unit", "integration", "safety"]
    for suite in suites:
        if suite not in TIMEOUT:
            parser.error(f"no suite {suite}: there are {', '.join(TIMEOUT)}")

    # What a test leaves behind becomes our child instead of init's, so that it can be found.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    links = bpf_links()
    if links is None:
        print("BPF links are not checked: that needs bpftool and root")
    runner = Runner(args.build)
    try:
        runner.suites(suites, args.only)
    finally:
        runner.close(links)
    print(f"{runner.passed} passed, {runner.failed} failed, {runner.skipped} skipped", flush=True)
    return 1 if runner.failed or not runner.passed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
