#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# pc (SeaBIOS, real mode) and q35 boot with the irqchip in the kernel, split and off, 1 and 2 vCPUs.
# WORKS: QEMU `-M pc` (SeaBIOS) and `-M q35` | irqchip in the kernel, split and off; 1 and 2 vCPUs
. "$(dirname "$0")/lib.sh"
for m in pc q35; do
	for chip in on split off; do
		for n in 1 2; do
			boot "$m-$chip-$n" 200 -M "$m,accel=kvm,kernel-irqchip=$chip" -smp $n
			[ $n = 1 ] || grep -aq 'init.* 2 cpu' "$W/$m-$chip-$n.log" || fail "$m $chip: no second CPU"
		done
	done
done
no_reports
