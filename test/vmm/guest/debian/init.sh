#!/bin/busybox sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# /init of the soak (tools/soak.sh): mounts Debian's image from virtio-blk, runs rounds.sh in it, unmounts, powers off.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
for m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
	insmod /modules/$m.ko || echo "insmod $m failed"
done
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.1; done
mount -t ext4 /dev/vda /mnt || { echo "SOAK FAILED: no root file system"; poweroff -f; }
mount -t proc proc /mnt/proc
mount -t sysfs sys /mnt/sys
mount -t devtmpfs dev /mnt/dev
mkdir -p /mnt/dev/shm
mount -t tmpfs tmp /mnt/tmp
mount -t tmpfs shm /mnt/dev/shm
cp -r /soak /mnt/
chroot /mnt /bin/sh /soak/rounds.sh >/dev/console 2>&1
umount /mnt/dev/shm /mnt/tmp /mnt/dev /mnt/sys /mnt/proc
umount /mnt && echo "userkvm-soak: unmounted"
poweroff -f
