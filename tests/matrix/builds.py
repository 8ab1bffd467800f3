# SPDX-License-Identifier: MIT
"""The builds of CPython that pyleak promises to count, and how to run each on this machine.

Interpreters of other Debian releases live in minimal roots, made from the mirror that this machine's
own apt uses and kept in a folder; their programs run by chroot, on this machine's kernel.
"""

import glob
import os
import re
import shlex
import shutil
import subprocess
import tempfile

EMBED = """
int Py_BytesMain(int argc, char **argv);
int main(int argc, char **argv) { return Py_BytesMain(argc, argv); }
"""


class Unavailable(Exception):
    """This build cannot be had here; the message says why."""


class Build:
    """One row: `name`, and how to start its interpreter."""

    def __init__(self, name, argv, root="/", leftover=None):
        self.name, self.argv, self.root = name, argv, root
        self.leftover = leftover  # a folder in the root that goes with the build

    def popen(self, path, **more):
        """Starts the program at `path`, a path as the interpreter sees it."""
        argv = self.argv + [path]
        if self.root != "/":
            argv = ["chroot", self.root] + argv
        env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1",
               "LC_ALL": "C.UTF-8", "HOME": "/"}
        return subprocess.Popen(argv, env=env, **more)

    def launcher(self, folder):
        """A program in `folder` that is this interpreter, for tests that want one to start: in its
        root this machine's folder of temporary files lies where it lies here."""
        if self.root == "/":
            return self.argv[0]
        path = os.path.join(folder, "python")
        with open(path, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\nexec unshare --mount --propagation private /bin/sh -c '"
                    'r=$1 t=$2; shift 2; mount -t tmpfs none "$r/tmp"; mkdir -p "$r$t"; mount --bind "$t" "$r$t"; '
                    """exec chroot "$r" "$@"' sh """ +
                    shlex.join([self.root, tempfile.gettempdir()] + self.argv) + ' "$@"\n')
        os.chmod(path, 0o755)
        return path

    def end(self):
        if self.leftover:
            shutil.rmtree(self.leftover, ignore_errors=True)

    def folder(self):
        """A new folder that the interpreter can see: its name here, and its name there."""
        here = tempfile.mkdtemp(dir=os.path.join(self.root, "tmp"))
        os.chmod(here, 0o755)
        there = here if self.root == "/" else "/" + os.path.relpath(here, self.root)
        return here, there


def output(argv, **more):
    return subprocess.run(argv, check=True, capture_output=True, text=True, **more).stdout


def suite_here():
    with open("/etc/os-release", encoding="utf-8") as f:
        match = re.search(r'^VERSION_CODENAME="?(\w+)', f.read(), re.M)
    return match.group(1) if match else ""


def mirror():
    """The site this machine's apt has its own release from."""
    listed = output(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)"])
    for line in listed.splitlines():
        site, _, release = line.partition(" ")
        if release == suite_here():
            return site
    raise Unavailable("no apt source for this machine's own release, so no mirror is known")


class Roots:
    """Minimal Debian roots in a folder, made when they are first asked for."""

    def __init__(self, folder, say=print):
        self.folder = folder and os.path.abspath(folder)
        self.say = say
        self.failed = {}

    def get(self, suite):
        if suite == suite_here():
            return "/"
        if suite in self.failed:
            raise Unavailable(self.failed[suite])
        try:
            return self.made(suite)
        except Unavailable as e:
            self.failed[suite] = str(e)
            raise

    def made(self, suite):
        if os.geteuid():
            raise Unavailable("root is needed to enter a Debian root")
        if not self.folder:
            raise Unavailable(f"needs a root of Debian {suite}: --roots DIR")
        root = os.path.join(self.folder, suite)
        if os.path.isdir(os.path.join(root, "usr")):
            return root
        if not shutil.which("debootstrap"):
            raise Unavailable("debootstrap is missing: apt-get install debootstrap")
        os.makedirs(self.folder, exist_ok=True)
        part = root + ".part"
        shutil.rmtree(part, ignore_errors=True)  # of a run that was ended; nothing is mounted there
        self.say(f"{suite}: bootstrapping a minimal root")
        done = subprocess.run(["debootstrap", "--variant=minbase", suite, part, mirror()],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            last = (done.stdout.strip().splitlines() or ["no output"])[-1]
            raise Unavailable(f"debootstrap {suite} failed: {last}")
        proxy = [x for x in output(["apt-config", "dump"]).splitlines()
                 if re.match(r"(?i)Acquire::.*Proxy", x)]
        with open(os.path.join(part, "etc/apt/apt.conf.d/90proxy"), "w", encoding="utf-8") as f:
            f.write("".join(x + "\n" for x in proxy))
        os.rename(part, root)
        return root

    def in_root(self, root, *argv):
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8")
        chroot = [] if root == "/" else ["chroot", root]
        return subprocess.run(chroot + list(argv), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, env=env, check=False)

    def install(self, suite, *packages):
        """Makes sure of packages in the suite's root, which is returned."""
        root = self.get(suite)
        missing = [p for p in packages
                   if "install ok installed" not in
                   self.in_root(root, "dpkg-query", "-W", "-f=${Status}", p).stdout]
        if not missing:
            return root
        if root == "/":
            raise Unavailable("not installed here: apt-get install " + " ".join(missing))
        for p in missing:
            if not self.in_root(root, "apt-cache", "show", p).stdout:
                raise Unavailable(f"Debian {suite} has no package {p}")
        self.say(f"{suite}: installing {' '.join(missing)}")
        install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        done = self.in_root(root, *install)
        if done.returncode and self.in_root(root, "apt-get", "update").returncode == 0:
            done = self.in_root(root, *install)  # its lists had aged since it was made
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise Unavailable(f"{suite}: apt-get install {' '.join(missing)}: {last}")
        return root

    def package_names(self, suite, pattern):
        listed = self.in_root(self.get(suite), "apt-cache", "pkgnames", "python3").stdout
        return sorted(p for p in listed.split() if re.fullmatch(pattern, p))


def pyenv(minor):
    """CPython 3.minor that pyenv built with --enable-shared."""
    folder = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    found = glob.glob(os.path.join(folder, f"versions/3.{minor}.*/bin/python3.{minor}"))
    if not found:
        raise Unavailable(f"pyenv has no 3.{minor} here")
    shared = [p for p in sorted(found)
              if glob.glob(os.path.join(os.path.dirname(p), f"../lib/libpython3.{minor}.so.*"))]
    if not shared:
        raise Unavailable(f"pyenv's 3.{minor} is not a shared build: "
                          "PYTHON_CONFIGURE_OPTS=--enable-shared")
    return [os.path.realpath(shared[-1])]


def debian(roots, suite, version):
    """Debian's own program, static."""
    root = roots.install(suite, f"python{version}")
    return root, [f"/usr/bin/python{version}"]


def embedded(roots, suite, version, folder):
    """A C program that embeds Debian's libpython, linked into `folder`."""
    root = roots.install(suite, f"libpython{version}")
    found = glob.glob(os.path.join(root, f"usr/lib/*/libpython{version}.so.1.0"))
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not found or not compiler:
        raise Unavailable("a C compiler is missing" if found else f"no libpython{version}.so")
    source, program = os.path.join(folder, "embed.c"), os.path.join(folder, "embed")
    with open(source, "w", encoding="utf-8") as f:
        f.write(EMBED)
    # By the library's path, without headers: it may be another release's. Its own needs are found
    # where it runs. An empty LIBRARY_PATH, for a libpython of somebody else may be on it.
    done = subprocess.run(
        [compiler, "-o", program, source, found[0],
         "-Wl,--unresolved-symbols=ignore-in-shared-libs"],
        env=dict(os.environ, LIBRARY_PATH=""), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"cannot link with {found[0]}: {done.stderr.strip()[-200:]}")
    return root, program


# name, and the arguments of find()
ROWS = [(f"3.{m} shared (pyenv)", ("pyenv", m)) for m in range(8, 14)] + [
    ("Debian 12 python3.11, static", ("debian", "bookworm", "3.11")),
    ("Debian 12 libpython3.11, shared, embedded", ("embedded", "bookworm", "3.11")),
    ("Debian 13 python3.13, static", ("debian", "trixie", "3.13")),
    ("Debian 13 libpython3.13, shared, embedded", ("embedded", "trixie", "3.13")),
    ("Debian sid python3.14, static", ("debian", "sid", "3.14")),
    ("Debian sid python3.15, static", ("debian", "sid", "3.15")),
]


def needs_root(how):
    """Whether a row runs in a root of another release."""
    return how[0] != "pyenv" and how[1] != suite_here()


def find(name, how, roots, folder):
    """The Build of a row, or Unavailable. `folder` takes what has to be made for it."""
    kind, *args = how
    if kind == "pyenv":
        return Build(name, pyenv(*args))
    if kind == "debian":
        root, argv = debian(roots, *args)
        return Build(name, argv, root)
    root, program = embedded(roots, *args, folder)
    if root == "/":
        return Build(name, [program])
    inside = tempfile.mkdtemp(dir=os.path.join(root, "opt"))
    os.chmod(inside, 0o755)
    shutil.copy(program, inside)
    return Build(name, ["/" + os.path.relpath(os.path.join(inside, "embed"), root)], root, inside)


def free_threaded(roots):
    """A Build of a free-threaded CPython of Debian sid."""
    found = roots.package_names("sid", r"python3\.\d+(t|-nogil|-freethreaded|-free-threaded)")
    if not found:
        raise Unavailable("Debian sid has no package of a free-threaded CPython")
    root = roots.install("sid", found[-1])
    binary = f"/usr/bin/{found[-1]}"
    if not os.path.exists(root + binary):
        raise Unavailable(f"package {found[-1]} has no {binary}")
    return Build(f"Debian sid {found[-1]}, free-threaded", [binary], root)
