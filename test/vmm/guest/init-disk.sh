#!/bin/busybox sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# /init of the disk and network test: mounts the ext4 root on virtio-blk, writes 64 MiB, fetches a file.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
for m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover \
	virtio_net crc16 crc32c_generic libcrc32c mbcache jbd2 ext4; do
	[ -e /modules/$m.ko ] && insmod /modules/$m.ko || echo "insmod $m failed"
done
n=0
while [ ! -b /dev/vda ] && [ $n -lt 50 ]; do n=$((n + 1)); sleep 0.1; done
mount -t ext4 /dev/vda /mnt && echo "userkvm-guest: mounted, marker $(cat /mnt/marker)"
dd if=/dev/urandom of=/mnt/big bs=1M count=64 2>/dev/null
sync
echo "userkvm-guest: written $(sha256sum </mnt/big | cut -c1-64)"
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
port=$(sed -n 's/.*userkvm.port=\([0-9]*\).*/\1/p' /proc/cmdline)
if [ -n "$port" ]; then
	wget -q -O /mnt/fetched "http://10.0.2.2:$port/payload"
	echo "userkvm-guest: fetched $(sha256sum </mnt/fetched | cut -c1-64)"
fi
umount /mnt && echo "userkvm-guest: unmounted"
echo "userkvm-guest: done"
poweroff -f
