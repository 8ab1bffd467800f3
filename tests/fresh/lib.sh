# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Bare Debian roots, for fresh.sh and boot.sh. Sourced; wants $repo, this repository.

die() { echo "${0##*/}: $*" >&2; exit 1; }
say() { echo "${0##*/}: $*"; }

[ "$(id -u)" = 0 ] || die "makes and enters Debian roots, so run it as root"
for tool in debootstrap unshare chroot apt-get; do
	command -v "$tool" >/dev/null || die "$tool is missing: apt-get install ${tool/unshare/util-linux}"
done

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

bootstrap() { # SUITE ROOT [more,packages]
	say "$1: bootstrapping a minimal root from $mirror"
	debootstrap --variant=minbase --include="make,git,ca-certificates${3:+,$3}" "$1" "$2" "$mirror" \
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
# the first one, and so must the daemon. Processes left behind are therefore found by that mount
# namespace, named, ended, and a failure.
run_in() { # ROOT COMMANDS
	[ -d "$1/usr" ] || die "$1 is no root"
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
			[ "$(readlink "$p/ns/mnt" 2>/dev/null)" = "$(readlink "/proc/$$/ns/mnt")" ] || continue
			[ "${p#/proc/}" != $$ ] || continue
			echo "left running: ${p#/proc/} $(tr "\0" " " <"$p/cmdline")" >&2
			kill -KILL "${p#/proc/}" 2>/dev/null || :
			[ "$status" != 0 ] || status=1
		done
		exit "$status"' run_in "$1" "$repo" "$2"
}

# What is committed here, as a clone in /srv/pyleak.
clone_in() { # ROOT
	run_in "$1" "
		git config --system --replace-all safe.directory '*'
		rm -rf /srv/pyleak
		git clone -q /mnt /srv/pyleak"
}
