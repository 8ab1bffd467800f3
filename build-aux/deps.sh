#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs what pyleak needs to build and to test itself on Debian 12 or 13. Run as root.
# libbpf has to be 1.3 or newer (uprobe_multi): Debian 12 has that in its backports, which are
# enabled here with the mirror that the machine already uses.
set -eu
export DEBIAN_FRONTEND=noninteractive

[ "$(id -u)" = 0 ] || { echo "deps: installs packages, so run it as root: sudo make deps" >&2; exit 1; }

packages="gcc make clang libc6-dev pkg-config bpftool libelf-dev zlib1g-dev libcapstone-dev
 libyaml-dev libmicrohttpd-dev libsystemd-dev libsqlite3-dev libjansson-dev libzstd-dev
 libgraphviz-dev libseccomp-dev fonts-dejavu-core libcmocka-dev python3"
tests="python3-dev libpython3-dev libclang-rt-dev curl procps python3-objgraph strace gdb gunicorn uwsgi
 uwsgi-plugin-python3 python3-gevent python3-greenlet libjemalloc2 libtcmalloc-minimal4 qemu-system-x86"

missing=
for p in $packages $tests; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
if dpkg-query -W -f='${Version}' libbpf-dev 2>/dev/null | grep -q . &&
	dpkg --compare-versions "$(dpkg-query -W -f='${Version}' libbpf-dev)" ge 1:1.3; then
	bpf=
else
	bpf=libbpf-dev
fi
[ -n "$missing$bpf" ] || exit 0

apt-get update -q
if [ -n "$bpf" ]; then
	candidate=$(apt-cache policy libbpf-dev | sed -n 's/^ *Candidate: //p')
	if ! dpkg --compare-versions "${candidate:-0}" ge 1:1.3; then
		. /etc/os-release
		# The mirror of the suite itself, out of the machine's own configuration.
		mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' |
			awk -v s="$VERSION_CODENAME" '$2 == s { print $1; exit }')
		[ -n "$mirror" ] || { echo "deps: no apt source for $VERSION_CODENAME found, needed for its backports" >&2; exit 1; }
		# There already, only that apt prefers the older one: then it needs no other entry.
		if ! apt-get indextargets --format '$(RELEASE)' | grep -qx "$VERSION_CODENAME-backports"; then
			echo "deb $mirror $VERSION_CODENAME-backports main" \
				>/etc/apt/sources.list.d/pyleak-backports.list
			apt-get update -q
		fi
		bpf="libbpf-dev/$VERSION_CODENAME-backports libbpf1/$VERSION_CODENAME-backports"
	fi
fi
# shellcheck disable=SC2086 # word lists
apt-get install -q -y --no-install-recommends $missing $bpf
