#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Installs the Debian packages that a make target needs, if they are missing: with apt when root, else it
# prints the line to run and stops.	tools/deps.sh build|check|demo|lint|bench|selftests|soak
set -eu
build="gcc make libc6-dev libzydis-dev"
demo="$build qemu-system-x86 qemu-system-data seabios ipxe-qemu busybox-static cpio gzip dpkg apt"
check="$demo libcmocka-dev ovmf memtest86+ e2fsprogs gdb python3 socat qemu-utils"
lint="$build clang-format cppcheck universal-ctags libcmocka-dev python3"
bench="$demo zlib1g-dev"
soak="$demo debootstrap debian-archive-keyring fakechroot fakeroot e2fsprogs sqlite3 socat"
selftests="$build linux-source-6.1 rsync libcap-dev xz-utils gawk"
case "${1:-build}" in
build) want=$build ;;
check) want=$check ;;
demo) want=$demo ;;
lint) want=$lint ;;
bench) want=$bench ;;
selftests) want=$selftests ;;
soak) want=$soak ;;
*) echo "deps: unknown target $1" >&2; exit 2 ;;
esac
missing=
for p in $want; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "userkvm needs Debian packages that are not installed. Run:" >&2
	echo "    sudo apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086
apt-get -qq install -y --no-install-recommends $missing >/dev/null
