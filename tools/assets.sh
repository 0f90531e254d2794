#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Fetches what the guests of the tests and the demo are made of into build/assets: Debian's kernels,
# downloaded as packages and unpacked (never installed), and initramfs images made of busybox-static.
#   tools/assets.sh cloud | generic | initrd | disk-initrd | all
set -eu
cd "$(dirname "$0")/.."
A=build/assets
mkdir -p $A

die() { echo "assets: $*" >&2; exit 1; }

# Downloads the kernel package behind a meta package into $A/deb; its name is printed.
fetch() {
	pkg=$(apt-cache depends "$1" 2>/dev/null | awk '/Depends: linux-image/ {print $2; exit}')
	[ -n "$pkg" ] || return 1
	mkdir -p "$A/deb"
	(cd "$A/deb" && apt-get -qq download "$pkg" >/dev/null 2>&1) || return 1
	echo "$pkg"
}

# The kernel behind a meta package, unpacked: $A/$2/vmlinuz and its modules.
kernel() {
	[ -e "$A/$2/vmlinuz" ] && return 0
	# No package list, or an old one: a root may fetch it.
	pkg=$(fetch "$1") || { [ "$(id -u)" = 0 ] && apt-get -qq update && pkg=$(fetch "$1"); } ||
		die "cannot download the package behind $1: run 'sudo apt-get update' and try again"
	rm -rf "$A/$2.tmp"
	mkdir -p "$A/$2.tmp"
	dpkg-deb -x "$A"/deb/"${pkg}"_*.deb "$A/$2.tmp"
	ln -s "$(cd "$A/$2.tmp" && ls boot/vmlinuz-*)" "$A/$2.tmp/vmlinuz"
	rm -rf "$A/$2"
	mv "$A/$2.tmp" "$A/$2"
}

# An initramfs whose /init is the given script, with busybox and the named modules of kernel $2.
# $1 output, $2 kernel folder or "", $3 init script, rest: module paths below kernel/
initrd() {
	out=$1 k=$2 script=$3
	shift 3
	[ "$out" -nt "$script" ] && [ "$out" -nt tools/assets.sh ] && return 0
	bb=$(command -v busybox) || die "busybox-static is not installed"
	r=$(mktemp -d)
	mkdir -p "$r/bin" "$r/dev" "$r/proc" "$r/sys" "$r/mnt" "$r/modules"
	cp "$bb" "$r/bin/busybox"
	for m in "$@"; do
		f=$(find "$k/lib/modules" -name "$m.ko*" | head -1)
		[ -n "$f" ] && cp "$f" "$r/modules/"
	done
	[ -d "$A/guest-bin" ] && cp "$A"/guest-bin/* "$r/bin/"
	cp "$script" "$r/init"
	chmod 755 "$r/init"
	(cd "$r" && find . | cpio -o -H newc --quiet) | gzip -1 >"$out.tmp"
	mv "$out.tmp" "$out"
	rm -rf "$r"
}

case "${1:-all}" in
cloud) kernel linux-image-cloud-amd64 cloud ;;
generic) kernel linux-image-amd64 generic ;;
initrd) initrd $A/initrd.gz "" test/vmm/guest/init.sh ;;
disk-initrd)
	kernel linux-image-amd64 generic
	initrd $A/initrd-disk.gz $A/generic test/vmm/guest/init-disk.sh virtio virtio_ring virtio_pci_legacy_dev \
		virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover virtio_net crc16 crc32c_generic \
		mbcache jbd2 libcrc32c ext4
	;;
all)
	"$0" cloud
	"$0" generic
	"$0" initrd
	"$0" disk-initrd
	;;
*) die "unknown asset $1" ;;
esac
