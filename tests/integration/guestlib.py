# SPDX-License-Identifier: MIT
"""A virtual machine with Debian's own kernel (qemu, no KVM needed): what this machine's kernel does not show.
It runs one program as init, and is off when that ends."""

import glob
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading

from harness import SYSTEM_PYTHON

LEFT_OUT = re.compile(r"/(test|idlelib|tkinter|lib2to3|ensurepip|__pycache__|config-[^/]*)/|/dist-packages/")

# What an init begins with.
PROLOGUE = r"""#!/usr/bin/python3
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def mount(kind, at):
    os.makedirs(at, exist_ok=True)
    assert libc.mount(b"none", at.encode(), kind, 0, None) == 0, (at, os.strerror(ctypes.get_errno()))
def power_off(): libc.reboot(0x4321fedc)  # the end of init would be a panic
mount(b"devtmpfs", "/dev")
console = os.open("/dev/console", os.O_RDWR)
for fd in (0, 1, 2): os.dup2(console, fd)
mount(b"proc", "/proc")
mount(b"sysfs", "/sys")
mount(b"cgroup2", "/sys/fs/cgroup")
for at in ("/tmp", "/run", "/var"): mount(b"tmpfs", at)
print("GUEST kernel", os.uname().release, flush=True)
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


class Guest:
    """An image with the system's Python in it, to be booted once."""

    def __init__(self, test):
        self.test = test
        self.folder = tempfile.mkdtemp()
        test.addCleanup(shutil.rmtree, self.folder)
        self.qemu = shutil.which("qemu-system-x86_64")
        if not self.qemu:
            test.skipTest("cannot run here: apt-get install qemu-system-x86")
        self.kernel = kernel(test, self.folder)
        self.image = Image(self.folder + "/initrd")
        python = os.path.realpath(SYSTEM_PYTHON)
        self.image.program(python, "/usr/bin/python3")
        said = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"],
                              capture_output=True, text=True, check=True).stdout.strip()
        for at, _, files in os.walk(said):
            for name in files:
                whole = os.path.join(at, name)
                if not LEFT_OUT.search(whole) and os.path.isfile(whole):
                    (self.image.program if name.endswith(".so") else self.image.file)(whole)

    def run(self, init, seconds, options=""):
        """What it has said on its console, which is cut short after so many seconds."""
        self.image.put("/init", stat.S_IFREG | 0o755, (PROLOGUE + init).encode())
        self.image.end()
        guest = subprocess.Popen(
            [self.qemu, "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-nographic", "-no-reboot",
             "-nic", "none", "-kernel", self.kernel, "-initrd", self.folder + "/initrd",
             "-append", "console=ttyS0 quiet panic=-1 " + options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.test.addCleanup(guest.stdout.close)
        self.test.addCleanup(guest.wait)
        self.test.addCleanup(guest.kill)
        over = threading.Timer(seconds, guest.kill)
        over.start()
        try:
            said = guest.stdout.read().decode(errors="replace")
        finally:
            over.cancel()
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", said)
