/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One VM with one vCPU and an irqchip of a kind, for the tests of the interrupt ioctls. */
#ifndef TEST_CHIPS_UTIL_H
#define TEST_CHIPS_UTIL_H

#include "kvm_util.h"

enum chips { NONE, SPLIT, KERNEL };

static struct ku_vm vm;
static struct ku_vcpu cpu;

static void begin(enum chips chips)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	struct kvm_lapic_state s;

	ku_vm_create(&vm, 0);
	if (chips == KERNEL)
		KU_CHECK(ku_errno(vm.fd, KVM_CREATE_IRQCHIP, 0) == 0);
	if (chips == SPLIT)
		KU_CHECK(ku_errno(vm.fd, KVM_ENABLE_CAP, &split) == 0);
	ku_vcpu_create(&vm, 0, &cpu);
	if (chips == NONE)
		return;
	KU_CHECK(ku_errno(cpu.fd, KVM_GET_LAPIC, &s) == 0);
	s.regs[0xf1] |= 1; /* SPIV: enabled */
	KU_CHECK(ku_errno(cpu.fd, KVM_SET_LAPIC, &s) == 0);
}

static void end(void)
{
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
}

#endif
