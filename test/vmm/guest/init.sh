#!/bin/busybox sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# /init of the demo and of the boot tests: says that it is there, does what the command line asks, powers off.
#   userkvm.shell   an interactive shell     userkvm.stay   do not power off: count and checksum memory
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev 2>/dev/null
/bin/busybox --install -s /bin
read -r up _ </proc/uptime
echo "userkvm-guest: init after $up s, $(nproc) cpu, $(uname -r)"
grep -c ^processor /proc/cpuinfo >/dev/null && echo "userkvm-guest: clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
case "$(cat /proc/cmdline)" in
*userkvm.shell*)
	echo "userkvm-guest: a shell; 'poweroff -f' ends it"
	setsid cttyhack sh
	;;
*userkvm.stay*)
	# Fills 8 MiB with a known pattern, then checks it for ever, printing a line a round.
	mkdir -p /tmp
	mount -t tmpfs tmp /tmp
	i=0
	while :; do
		i=$((i + 1))
		dd if=/dev/urandom of=/tmp/a bs=64k count=16 2>/dev/null
		cp /tmp/a /tmp/b
		if cmp -s /tmp/a /tmp/b; then echo "userkvm-guest: round $i ok"; else echo "userkvm-guest: round $i BAD"; fi
	done
	;;
esac
echo "userkvm-guest: done"
poweroff -f
