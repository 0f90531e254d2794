#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# pc (SeaBIOS, real mode) and q35 boot with the irqchip in the kernel, split and off, 1 and 2 vCPUs.
# Off with 2 vCPUs is not here: QEMU 7.2 never clears the SIPI request of an AP on its KVM path, so the AP's first
# HLT makes its thread spin with QEMU's lock held, on any KVM (doc/quirks.md).
# WORKS: QEMU `-M pc` (SeaBIOS) and `-M q35` | irqchip in the kernel and split with 1 and 2 vCPUs, off with 1
. "$(dirname "$0")/../vmm_util.sh"
for m in pc q35; do
	for chip in on split off; do
		for n in 1 2; do
			[ "$chip-$n" = off-2 ] && continue
			boot "$m-$chip-$n" 200 -M "$m,accel=kvm,kernel-irqchip=$chip" -smp $n
			[ $n = 1 ] || grep -aq 'init.* 2 cpu' "$W/$m-$chip-$n.log" || fail "$m $chip: no second CPU"
		done
	done
done
no_reports
