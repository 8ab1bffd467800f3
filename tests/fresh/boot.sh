#!/bin/bash
# SPDX-License-Identifier: MIT
#
#   tests/fresh/boot.sh [--keep DIR] [bookworm|trixie]
#
# Does the service hold under a real systemd, sandbox and all? Bootstraps a Debian root, installs
# pyleak into it from a clone of this repository, boots it with systemd-nspawn and has
# tests/fresh/boot_test.py look at the running service from inside. Root, debootstrap and
# systemd-container.
set -euo pipefail

repo=$(cd "$(dirname "$0")/../.." && pwd)
keep="" suite=""
limit=300 # seconds from boot to power-off

# shellcheck source=lib.sh
. "$repo/tests/fresh/lib.sh"

while [ $# -gt 0 ]; do
	case $1 in
	--keep) keep=${2:?--keep needs a folder}; shift ;;
	bookworm | trixie) suite=$1 ;;
	*) die "unknown argument $1; see the head of $0" ;;
	esac
	shift
done
suite=${suite:-bookworm}
command -v systemd-nspawn >/dev/null || die "systemd-nspawn is missing: apt-get install systemd-container"

base="" nspawn=""
cleanup() {
	if [ -n "$nspawn" ] && kill -0 "$nspawn" 2>/dev/null; then
		kill "$nspawn" 2>/dev/null || : # asks the init inside to power off
		for _ in $(seq 100); do kill -0 "$nspawn" 2>/dev/null || break; sleep 0.1; done
		kill -KILL "$nspawn" 2>/dev/null || :
	fi
	[ -z "$base" ] || rm -rf --one-file-system "$base"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -n "$keep" ]; then
	mkdir -p "$keep"
	root=$(cd "$keep" && pwd -P)/$suite
else
	base=$(mktemp -d "${TMPDIR:-/var/tmp}/boot-XXXXXX")
	root=$(cd "$base" && pwd -P)/$suite
fi
[ -d "$root/usr" ] || bootstrap "$suite" "$root" systemd-sysv,dbus,python3,procps

say "$suite: building and installing"
clone_in "$root"
run_in "$root" "
	cd /srv/pyleak
	make deps
	make -j$(nproc)
	make install PREFIX=/usr
	systemd-sysusers
	systemctl --quiet enable pyleakd.service
	# The test is what this root boots for.
	cp tests/fresh/boot_test.py /srv/boot_test.py
	printf '%s\n' '[Unit]' 'After=pyleakd.service' \
		'[Service]' 'Type=oneshot' 'ExecStart=/usr/bin/python3 -B /srv/boot_test.py' \
		'StandardOutput=append:/srv/boot_test.log' 'StandardError=inherit' 'TimeoutStartSec=$limit' \
		'ExecStopPost=/bin/systemctl --no-block poweroff' \
		'[Install]' 'WantedBy=multi-user.target' >/etc/systemd/system/boot-test.service
	systemctl --quiet enable boot-test.service
	systemctl --quiet mask systemd-networkd-wait-online.service systemd-resolved.service
	rm -f /srv/boot_test.log /srv/boot_test.passed" >"$root.log" 2>&1 ||
	{ tail -n 30 "$root.log" >&2; die "$suite: could not be built and installed, see above"; }
rm -f "$root.log"

say "$suite: booting"
# SYSTEMD_SECCOMP=0: nspawn's own filter would be on everything inside, the capture helper too.
SYSTEMD_SECCOMP=0 systemd-nspawn --quiet -D "$root" --boot --register=no --keep-unit \
	--capability=all --console=passive >"$root.console" 2>&1 </dev/null &
nspawn=$!
for _ in $(seq $((limit * 2))); do
	kill -0 "$nspawn" 2>/dev/null || break
	sleep 0.5
done
cat "$root/srv/boot_test.log" 2>/dev/null || :
if kill -0 "$nspawn" 2>/dev/null; then
	tail -n 30 "$root.console" >&2
	die "$suite: still running after $limit s"
fi
if ! [ -e "$root/srv/boot_test.passed" ]; then
	tail -n 30 "$root.console" >&2
	die "$suite: failed, see above"
fi
rm -f "$root.console"
say "$suite: passed"
