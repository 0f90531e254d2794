/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* KVM_ENABLE_CAP on a VM (api.rst 4.37, chapter 7). */
#include <linux/kvm.h>

#include "api/kvm.h"

#define SPLIT_PINS_MAX 4096 /* KVM_MAX_IRQ_ROUTES */

/* The argument must lie within what KVM_CHECK_EXTENSION answers for the capability. */
static bool within(struct kvm *kvm, const struct kvm_enable_cap *cap)
{
	return !(cap->args[0] & ~(uint64_t)caps_check(kvm, cap->cap));
}

static int split_irqchip(struct kvm *kvm, uint64_t pins)
{
	if (pins > SPLIT_PINS_MAX)
		return -EINVAL;
	if (irq_get_mode(kvm->vm.irq) != IRQ_MODE_NONE || atomic_load(&kvm->vm.nr_vcpus))
		return -EEXIST;
	return irq_create_split(kvm->vm.irq, (unsigned)pins);
}

/* Once, and never above what the ABI allows. */
static int max_vcpu_id(struct kvm *kvm, uint64_t max)
{
	if (max > KVM_MAX_VCPU_ID)
		return -EINVAL;
	if (kvm->vm.max_vcpu_id && kvm->vm.max_vcpu_id != max)
		return -EINVAL;
	/* As KVM, which fixes the default with the first vCPU. */
	if (!kvm->vm.max_vcpu_id && atomic_load(&kvm->vm.nr_vcpus))
		return max == KVM_MAX_VCPU_ID ? 0 : -EINVAL;
	kvm->vm.max_vcpu_id = (uint32_t)max;
	return 0;
}

static int x2apic_api(struct kvm *kvm, uint64_t flags)
{
	kvm->vm.x2apic_api |= flags;
	irq_set_x2apic_api(kvm->vm.irq, kvm->vm.x2apic_api);
	return 0;
}

/* The capabilities whose argument is a mask that is stored: 0, -EINVAL, or 1 for "not one of these". */
static int store_mask(struct kvm *kvm, const struct kvm_enable_cap *cap)
{
	struct vcpu_vm *vm = &kvm->vm;
	uint64_t arg = cap->args[0];

	switch (cap->cap) {
	case KVM_CAP_DISABLE_QUIRKS2:
		if (!within(kvm, cap))
			return -EINVAL;
		/* fallthrough */
	case KVM_CAP_DISABLE_QUIRKS: vm->disabled_quirks = arg; return 0;
	case KVM_CAP_X86_DISABLE_EXITS:
		if (!within(kvm, cap))
			return -EINVAL;
		vm->disabled_exits |= arg;
		return 0;
	case KVM_CAP_X86_USER_SPACE_MSR:
		if (!within(kvm, cap))
			return -EINVAL;
		vm->user_space_msr_mask = arg;
		return 0;
	case KVM_CAP_X2APIC_API: return within(kvm, cap) ? x2apic_api(kvm, arg) : -EINVAL;
	default: return 1;
	}
}

int vm_enable_cap(struct kvm *kvm, const struct kvm_enable_cap *cap)
{
	struct vcpu_vm *vm = &kvm->vm;
	uint64_t arg = cap->args[0];
	bool ring = cap->cap == KVM_CAP_DIRTY_LOG_RING || cap->cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
	int r;

	if (ring) /* KVM looks neither at their flags nor at the size's upper half */
		return mem_ring_enable(vm->mem, (uint32_t)arg, atomic_load(&vm->nr_vcpus));
	if (cap->flags)
		return -EINVAL;
	r = store_mask(kvm, cap);
	if (r != 1)
		return r;
	switch (cap->cap) {
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: return mem_set_manual_protect(vm->mem, arg);
	case KVM_CAP_SPLIT_IRQCHIP: return split_irqchip(kvm, arg);
	case KVM_CAP_MAX_VCPU_ID: return max_vcpu_id(kvm, arg);
	case KVM_CAP_PMU_CAPABILITY:
		if (!within(kvm, cap) || atomic_load(&vm->nr_vcpus))
			return -EINVAL;
		vm->pmu_disabled = arg & KVM_PMU_CAP_DISABLE;
		return 0;
	case KVM_CAP_MSR_PLATFORM_INFO: vm->no_platform_info = !arg; return 0;
	case KVM_CAP_EXCEPTION_PAYLOAD: vm->exception_payload = arg; return 0;
	case KVM_CAP_X86_TRIPLE_FAULT_EVENT: vm->triple_fault_event = arg; return 0;
	case KVM_CAP_EXIT_ON_EMULATION_FAILURE:
		if (arg & ~1ULL)
			return -EINVAL;
		vm->exit_on_emulation_error = arg;
		return 0;
	default: return -EINVAL;
	}
}
