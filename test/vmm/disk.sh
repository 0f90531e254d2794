#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Debian's generic kernel with an ext4 root on virtio-blk and virtio-net user networking: the guest fetches
# 16 MiB from the host's loopback (sha256 equal), writes 64 MiB, unmounts; e2fsck finds the image clean.
# WORKS: Debian generic kernel, ext4 on virtio-blk, virtio-net | 64 MiB written and checked by `e2fsck`, 16 MiB fetched, checksums equal
. "$(dirname "$0")/../vmm_util.sh"
tools/assets.sh disk-initrd || exit 1
mkdir "$W/root" "$W/srv"
echo "m-$$" >"$W/root/marker"
truncate -s 256M "$W/disk.img"
mke2fs -q -t ext4 -d "$W/root" "$W/disk.img" || fail mke2fs
head -c 16777216 /dev/urandom >"$W/srv/payload"
want=$(sha256sum <"$W/srv/payload" | cut -c1-64)
python3 -u -c '
import http.server, functools, sys
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1]))
print(s.server_port, flush=True)
s.serve_forever()' "$W/srv" >"$W/port" 2>/dev/null &
wait_for "$W/port" '[0-9]' 10 || fail "no http server"
# shellcheck disable=SC2086
timeout -k 5 400 "$B/userkvm" run $QEMU -M pc,accel=kvm -serial "file:$W/disk.log" -kernel $A/generic/vmlinuz \
	-initrd $A/initrd-disk.gz -append "console=ttyS0 panic=-1 userkvm.port=$(cat "$W/port")" \
	-drive "file=$W/disk.img,format=raw,if=virtio" -netdev user,id=n0 -device virtio-net-pci,netdev=n0,romfile= \
	</dev/null >"$W/disk.err" 2>&1
grep -a 'userkvm-guest' "$W/disk.log"
grep -aq "mounted, marker m-$$" "$W/disk.log" || { tail -5 "$W/disk.log"; cat "$W/disk.err"; fail "no mount"; }
grep -aq "fetched $want" "$W/disk.log" || fail "the fetched file differs"
grep -aq 'unmounted' "$W/disk.log" || fail "no unmount"
e2fsck -fn "$W/disk.img" >"$W/fsck" 2>&1 || { cat "$W/fsck"; fail "e2fsck"; }
debugfs -R 'dump /big /'"$W/big" "$W/disk.img" 2>/dev/null
grep -aq "written $(sha256sum <"$W/big" | cut -c1-64)" "$W/disk.log" || fail "the 64 MiB differ on the disk"
no_reports
