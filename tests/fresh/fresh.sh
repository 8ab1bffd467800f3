#!/bin/bash
# SPDX-License-Identifier: MIT
#
#   tests/fresh/fresh.sh [--check] [--keep DIR] [--commands 'make …'] [bookworm|trixie]...
#
# Does the README hold on a machine with nothing on it? Bootstraps a minimal Debian root with make,
# git and ca-certificates, clones this repository into it, and runs there what the README says:
# make demo, which installs what it needs (with --check also make check). Root, debootstrap and 2 GB.
#
# Packages come from the mirror this machine's own apt uses. The root is thrown away, with
# --keep DIR it stays in DIR/SUITE, and one that lies there already is used as it is. The kernel is
# this machine's.
set -euo pipefail

repo=$(cd "$(dirname "$0")/../.." && pwd)
check="" keep="" commands=""
suites=()

. "$repo/tests/fresh/lib.sh"

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
if [ -z "$commands" ]; then
	commands="export MAKEFLAGS=-j$(nproc) && make demo"
	[ -z "$check" ] || commands="$commands && make check"
fi

base=
cleanup() {
	# Nothing of the root is mounted out here (see run_in), so this removes files and nothing else.
	[ -z "$base" ] || rm -rf --one-file-system "$base"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

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
	clone_in "$root"
	run_in "$root" "cd /srv/pyleak; $commands" || die "$suite: failed after $((SECONDS - begin)) s: $commands"
	say "$suite: passed in $((SECONDS - begin)) s"
	[ -n "$keep" ] || { rm -rf --one-file-system "$base"; base=; }
done
