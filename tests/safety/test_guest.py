# SPDX-License-Identifier: MIT
"""Limits of control groups v2, whatever this host has: in a virtual machine (qemu, no KVM needed) with
Debian's kernel, test_memory.py runs as it does here. Long form only."""
import glob
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from safetylib import Case, HERE, LONG, SYSTEM_PYTHON, lib  # noqa: E402

TIMEOUT = 3600
BOOT_AND_RUN = 2400  # seconds; emulated, some fifty times slower than here
TESTS = ("safety/safetylib.py", "safety/test_memory.py", "integration/capturelib.py", "integration/harness.py",
         "matrix/builds.py")
LEFT_OUT = re.compile(r"/(test|idlelib|tkinter|lib2to3|ensurepip|__pycache__|config-[^/]*)/|/dist-packages/")

INIT = r"""#!/usr/bin/python3
import ctypes, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def mount(kind, at):
    os.makedirs(at, exist_ok=True)
    assert libc.mount(b"none", at.encode(), kind, 0, None) == 0, (at, os.strerror(ctypes.get_errno()))
try:
    mount(b"devtmpfs", "/dev")
    console = os.open("/dev/console", os.O_RDWR)
    for fd in (0, 1, 2): os.dup2(console, fd)
    mount(b"proc", "/proc")
    mount(b"sysfs", "/sys")
    mount(b"cgroup2", "/sys/fs/cgroup")
    for at in ("/tmp", "/run"): mount(b"tmpfs", at)
    with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as f: f.write("+memory +pids")
    env = {"PATH": "/usr/bin", "PYLEAK_BUILD": "/build", "HOME": "/tmp", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["/usr/bin/python3", "-B", "/tests/safety/test_memory.py", "-v", "Memory", "Tight"], env=env)
    print("GUEST kernel", os.uname().release, flush=True)
    with open("/sys/fs/cgroup/cgroup.controllers") as f: print("GUEST controllers", f.read().strip(), flush=True)
    print("GUEST ended with", done.returncode, flush=True)
finally:
    libc.reboot(0x4321fedc)  # power off; the end of init would be a panic
"""


class Image:
    """An initial file system (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self, path):
        self.f, self.names, self.inode = open(path, "wb"), set(), 0

    def put(self, name, mode, data=b""):
        name = name.strip("/")
        if not name or name in self.names:
            return
        self.put(os.path.dirname(name), stat.S_IFDIR | 0o755)
        self.names.add(name)
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        self.f.write(b"070701" + b"".join(b"%08x" % x for x in fields) + raw)
        self.f.write(bytes(-self.f.tell() % 4) + data)
        self.f.write(bytes(-self.f.tell() % 4))

    def file(self, path, name=None):
        with open(path, "rb") as f:
            self.put(name or path, stat.S_IFREG | 0o755, f.read())

    def program(self, path, name=None):
        """With the libraries it needs."""
        self.file(path, name)
        needs = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", needs):
            self.file(library)

    def end(self):
        self.put("TRAILER!!!", 0)
        self.f.close()


def kernel(test, folder):
    """Debian's, out of its package."""
    said = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True,
                          check=False).stdout
    package = re.search(r"Depends: (linux-image-\S+)", said)
    if not package:
        test.skipTest("cannot run here: no package linux-image-amd64 is known")
    done = subprocess.run(f"apt-get download -q {package[1]} && dpkg -x {package[1]}_*.deb x", shell=True, cwd=folder,
                          capture_output=True, text=True, check=False)
    found = glob.glob(folder + "/x/boot/vmlinuz-*")
    if done.returncode or not found:
        test.skipTest("cannot run here: no Debian kernel: " + done.stderr.strip()[-200:])
    return found[0]


def image(path):
    i = Image(path)
    python = os.path.realpath(SYSTEM_PYTHON)
    i.program(python, "/usr/bin/python3")
    said = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"],
                          capture_output=True, text=True, check=True).stdout.strip()
    for at, _, files in os.walk(said):
        for name in files:
            whole = os.path.join(at, name)
            if LEFT_OUT.search(whole) or not os.path.isfile(whole):
                continue
            (i.program if name.endswith(".so") else i.file)(whole)
    i.program(lib.HELPER, "/build/pyleak-capture")
    for name in TESTS:
        i.file(os.path.join(HERE, "..", name), "/tests/" + name)
    i.put("/init", stat.S_IFREG | 0o755, INIT.encode())
    i.end()


@unittest.skipUnless(LONG, "cannot run here: long form only (make check-long)")
class Guest(Case):
    def test_memory_of_v2(self):
        qemu = shutil.which("qemu-system-x86_64")
        if not qemu:
            self.skipTest("cannot run here: apt-get install qemu-system-x86")
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        vmlinuz = kernel(self, folder)
        image(folder + "/initrd")
        guest = subprocess.Popen(
            [qemu, "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-nographic", "-no-reboot", "-nic", "none",
             "-kernel", vmlinuz, "-initrd", folder + "/initrd",
             "-append", "console=ttyS0 quiet panic=-1 swapaccount=1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(guest.stdout.close)
        self.addCleanup(guest.wait)
        self.addCleanup(guest.kill)
        over = threading.Timer(BOOT_AND_RUN, guest.kill)
        over.start()
        try:
            said = guest.stdout.read().decode(errors="replace")
        finally:
            over.cancel()
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", said)
        self.assertIn("GUEST ended with 0\n", text, text[-4000:])
        self.assertRegex(text, r"GUEST controllers .*\bmemory\b")
        self.assertRegex(text, r"test_no_oom_kill \S+( \.\.\.)?[^\n]*\n?[^\n]* ok")
        self.assertRegex(text, r"test_five_percent_above \S+( \.\.\.)?[^\n]*\n?[^\n]* ok")
        print(re.search("GUEST kernel .*", text)[0])


if __name__ == "__main__":
    unittest.main()
