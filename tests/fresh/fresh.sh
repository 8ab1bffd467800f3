#!/bin/bash
# SPDX-License-Identifier: MIT
#
#   tests/fresh/fresh.sh [--check] [--keep DIR] [--commands 'make …'] [bookworm|trixie]...
#
# Does the README hold on a machine with nothing on it? Bootstraps a minimal Debian root with make,
# git and ca-certificates, clones this repository into it, and runs there what the README says:
# make deps, make, make demo (with --check also make check). Root, debootstrap and about 2 GB.
#
# Packages come from the mirror this machine's own apt uses. The root is thrown away, with
# --keep DIR it stays in DIR/SUITE, and one that lies there already is used as it is. The kernel is
# this machine's.
set -euo pipefail

repo=$(cd "$(dirname "$0")/../.." && pwd)
check= keep= commands=
suites=()

die() { echo "fresh: $*" >&2; exit 1; }
say() { echo "fresh: $*"; }

while [ $# -gt 0 ]; do
	case $1 in
	--check) check=1 ;;
	--keep) keep=${2:?--keep needs a folder}; shift ;;
	--commands) commands=${2:?--commands needs a command line}; shift ;;
	bookworm | trixie) suites+=("$1") ;;
	*) die "unknown argument $1; see the head of $0" ;;
	esac
	shift
done
[ ${#suites[@]} -gt 0 ] || suites=(bookworm trixie)
[ "$(id -u)" = 0 ] || die "makes chroots, so run it as root"
for tool in debootstrap unshare chroot apt-get; do
	command -v "$tool" >/dev/null || die "$tool is missing: apt-get install ${tool/unshare/util-linux}"
done
if [ -z "$commands" ]; then
	commands="make deps && make -j$(nproc) && make demo"
	[ -z "$check" ] || commands="$commands && make check"
fi

# "SITE RELEASE" of every source this machine has.
sources=$(apt-get indextargets --format '$(SITE) $(RELEASE)' | sort -u)
here=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(awk -v s="$here" '$2 == s { print $1; exit }' <<<"$sources")
[ -n "$mirror" ] || die "no apt source for $here on this machine, so no mirror is known"

# The same sources as here, for another suite; without backports, which deps.sh has to add itself.
sources_for() {
	awk -v here="$here" -v suite="$1" '
		$2 == here || $2 == here "-updates" || $2 == here "-security" {
			sub("^" here, suite, $2); print "deb " $1 " " $2 " main"
		}' <<<"$sources"
}

base=
cleanup() {
	# Nothing of the root is mounted out here (see run_in), so this removes files and nothing else.
	[ -z "$base" ] || rm -rf --one-file-system "$base"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

bootstrap() { # SUITE ROOT
	say "$1: bootstrapping a minimal root from $mirror"
	debootstrap --variant=minbase --include=make,git,ca-certificates "$1" "$2" "$mirror" \
		>"$2.log" 2>&1 || { tail -n 20 "$2.log" >&2; die "$1: debootstrap failed, see above"; }
	rm -f "$2.log"
	rm -f "$2/etc/apt/sources.list"
	sources_for "$1" >"$2/etc/apt/sources.list.d/fresh.list"
	# A proxy, if this machine needs one.
	apt-config dump | grep -i '^Acquire::.*Proxy' >"$2/etc/apt/apt.conf.d/90fresh" || :
	cp -L /etc/resolv.conf "$2/etc/resolv.conf"
	echo "127.0.0.1 localhost $(hostname)" >"$2/etc/hosts"
}

# Runs a command line inside the root. The mounts live in a mount namespace of their own: they are
# gone with its last process, however this ends. Not in a PID namespace: BPF programs see pids of
# the first one, and so must the daemon. Processes left behind are therefore found by their root,
# named, ended, and a failure.
run_in() { # ROOT COMMANDS
	unshare --mount --propagation private /bin/bash -c '
		set -eu
		root=$1 repo=$2
		mount --bind "$root" "$root"
		for d in proc sys dev; do mount --rbind "/$d" "$root/$d"; done
		mount -t tmpfs tmpfs "$root/run"
		mount --bind -o ro "$repo" "$root/mnt"
		# Programs there see no build of this machine, and nothing of its environment.
		status=0
		env -i HOME=/root TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
			PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin ${CI:+CI="$CI"} \
			chroot "$root" /bin/bash -euc "$3" </dev/null || status=$?
		for p in /proc/[0-9]*; do
			[ "$(readlink "$p/root" 2>/dev/null)" = "$root" ] || continue
			echo "fresh: left running: ${p#/proc/} $(tr "\0" " " <"$p/cmdline")" >&2
			kill -KILL "${p#/proc/}" 2>/dev/null || :
			[ "$status" != 0 ] || status=1
		done
		exit "$status"' run_in "$1" "$repo" "$2"
}

for suite in "${suites[@]}"; do
	if [ -n "$keep" ]; then
		mkdir -p "$keep"
		root=$(cd "$keep" && pwd -P)/$suite
	else
		base=$(mktemp -d "${TMPDIR:-/var/tmp}/fresh-XXXXXX")
		root=$(cd "$base" && pwd -P)/$suite
	fi
	if [ -d "$root/usr" ]; then
		say "$suite: using $root as it is, so this is not a fresh root"
	else
		bootstrap "$suite" "$root"
	fi
	begin=$SECONDS
	say "$suite: $commands"
	run_in "$root" "
		git config --system --replace-all safe.directory '*'
		rm -rf /root/pyleak
		git clone -q /mnt /root/pyleak
		cd /root/pyleak
		$commands" || die "$suite: failed after $((SECONDS - begin)) s: $commands"
	say "$suite: passed in $((SECONDS - begin)) s"
	[ -n "$keep" ] || { rm -rf --one-file-system "$base"; base=; }
done
