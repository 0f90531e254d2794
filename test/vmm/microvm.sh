#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# QEMU microvm boots Debian's cloud kernel to init, 1 and 2 vCPUs, irqchip in the kernel, split and off.	make check T=vmm/microvm
# WORKS: QEMU 7.2 `-M microvm -accel kvm`, Debian cloud kernel | 1 and 2 vCPUs, to init and power-off
. "$(dirname "$0")/../vmm_util.sh"
boot microvm-1 200 -M microvm,accel=kvm
boot microvm-2 200 -M microvm,accel=kvm -smp 2
boot microvm-split 200 -M microvm,accel=kvm,kernel-irqchip=split
boot microvm-off 200 -M microvm,accel=kvm,kernel-irqchip=off
grep -aq 'init.* 2 cpu' "$W/microvm-2.log" || fail "no second CPU"
no_reports
