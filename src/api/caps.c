/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM_CHECK_EXTENSION (api.rst 4.4): what is served, and nothing else. A row is a capability and its value,
 * or a function where the value depends on host or VM.
 */
#include <linux/kvm.h>
#include <sched.h>

#include "api/kvm.h"
#include "base/sys.h"

struct cap_row {
	uint16_t cap;
	int32_t value;
	int32_t (*fn)(struct kvm *kvm);
};

/* KVM_CAP_NR_VCPUS: the CPUs that we may use. */
static int32_t nr_cpus(struct kvm *kvm)
{
	uint64_t mask[128] = {0};
	long len = sys_call(SYS_sched_getaffinity, 0, sizeof(mask), mask);
	int n = 0;

	for (long i = 0; i < len / 8; i++)
		n += __builtin_popcountll(mask[i]);
	return MIN(MAX(n, 1), VCPU_MAX);
}

static int32_t xsave2_size(struct kvm *kvm)
{
	return (int32_t)MAX((size_t)engine_xsave_size(vcpu_supported_xcr0(), false),
			    sizeof(struct kvm_xsave));
}

static int32_t has_xsave(struct kvm *kvm)
{
	return vcpu_supported_xcr0() != 0;
}

/* The quirks that have an effect here; the others cannot be switched off. */
#define QUIRKS                                                               \
	(KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT | \
	 KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS | KVM_X86_QUIRK_FIX_HYPERCALL_INSN)
#define GUESTDBG                                                                                           \
	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_USE_SW_BP | \
	 KVM_GUESTDBG_INJECT_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_BLOCKIRQ)

static const struct cap_row rows[] = {
    /* VM and memory */
    {KVM_CAP_USER_MEMORY, 1, NULL},
    {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1, NULL},
    {KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1, NULL},
    {KVM_CAP_NR_MEMSLOTS, MEM_USER_SLOTS, NULL},
    {KVM_CAP_MULTI_ADDRESS_SPACE, MEM_ADDRESS_SPACES, NULL},
    {KVM_CAP_READONLY_MEM, 1, NULL},
    {KVM_CAP_SYNC_MMU, 1, NULL},
    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
     NULL},
    {KVM_CAP_DIRTY_LOG_RING, MEM_RING_MAX_BYTES, NULL},
    {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, MEM_RING_MAX_BYTES, NULL},
    {KVM_CAP_MMU_SHADOW_CACHE_CONTROL, 1, NULL},
    {KVM_CAP_CHECK_EXTENSION_VM, 1, NULL},
    {KVM_CAP_ENABLE_CAP_VM, 1, NULL},
    {KVM_CAP_ENABLE_CAP, 1, NULL},
    {KVM_CAP_DEVICE_CTRL, 1, NULL},
    {KVM_CAP_BINARY_STATS_FD, 1, NULL},
    {KVM_CAP_SET_TSS_ADDR, 1, NULL},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, 1, NULL},
    /* vCPUs */
    {KVM_CAP_NR_VCPUS, 0, nr_cpus},
    {KVM_CAP_MAX_VCPUS, VCPU_MAX, NULL},
    {KVM_CAP_MAX_VCPU_ID, KVM_MAX_VCPU_ID, NULL},
    {KVM_CAP_SET_BOOT_CPU_ID, 1, NULL},
    {KVM_CAP_MP_STATE, 1, NULL},
    {KVM_CAP_IMMEDIATE_EXIT, 1, NULL},
    {KVM_CAP_USER_NMI, 1, NULL},
    {KVM_CAP_VCPU_EVENTS, 1, NULL},
    {KVM_CAP_EXCEPTION_PAYLOAD, 1, NULL},
    {KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1, NULL},
    {KVM_CAP_DEBUGREGS, 1, NULL},
    {KVM_CAP_SET_GUEST_DEBUG, 1, NULL},
    {KVM_CAP_SET_GUEST_DEBUG2, GUESTDBG, NULL},
    {KVM_CAP_X86_ROBUST_SINGLESTEP, 1, NULL},
    {KVM_CAP_SREGS2, 1, NULL},
    {KVM_CAP_SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS, NULL},
    {KVM_CAP_XSAVE, 0, has_xsave},
    {KVM_CAP_XSAVE2, 0, xsave2_size},
    {KVM_CAP_XCRS, 0, has_xsave},
    {KVM_CAP_MCE, VCPU_MCE_BANKS, NULL},
    {KVM_CAP_EXT_CPUID, 1, NULL},
    {KVM_CAP_EXT_EMUL_CPUID, 1, NULL},
    {KVM_CAP_GET_MSR_FEATURES, 1, NULL},
    {KVM_CAP_SYS_ATTRIBUTES, 1, NULL},
    {KVM_CAP_VCPU_ATTRIBUTES, 1, NULL},
    {KVM_CAP_X86_SMM, 1, NULL},
    {KVM_CAP_X86_USER_SPACE_MSR,
     KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER, NULL},
    {KVM_CAP_X86_MSR_FILTER, 1, NULL},
    {KVM_CAP_MSR_PLATFORM_INFO, 1, NULL},
    {KVM_CAP_PMU_EVENT_FILTER, 1, NULL},
    {KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE, NULL},
    {KVM_CAP_X86_DISABLE_EXITS,
     KVM_X86_DISABLE_EXITS_MWAIT | KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE |
	 KVM_X86_DISABLE_EXITS_CSTATE,
     NULL},
    {KVM_CAP_DISABLE_QUIRKS, 1, NULL},
    {KVM_CAP_DISABLE_QUIRKS2, QUIRKS, NULL},
    {KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1, NULL},
    {KVM_CAP_INTERNAL_ERROR_DATA, 1, NULL},
    {KVM_CAP_SYSTEM_EVENT_DATA, 1, NULL},
    {KVM_CAP_HLT, 1, NULL},
    {KVM_CAP_VAPIC, 1, NULL},
    {KVM_CAP_NOP_IO_DELAY, 1, NULL},
    {KVM_CAP_XEN_HVM, VCPU_XEN_CAPS, NULL},
    /* Hyper-V */
    {KVM_CAP_HYPERV, 1, NULL},
    {KVM_CAP_HYPERV_VAPIC, 1, NULL},
    {KVM_CAP_HYPERV_SPIN, 1, NULL},
    {KVM_CAP_HYPERV_TIME, 1, NULL},
    {KVM_CAP_HYPERV_SYNIC, 1, NULL},
    {KVM_CAP_HYPERV_SYNIC2, 1, NULL},
    {KVM_CAP_HYPERV_VP_INDEX, 1, NULL},
    {KVM_CAP_HYPERV_EVENTFD, 1, NULL},
    {KVM_CAP_HYPERV_TLBFLUSH, 1, NULL},
    {KVM_CAP_HYPERV_SEND_IPI, 1, NULL},
    {KVM_CAP_HYPERV_CPUID, 1, NULL},
    {KVM_CAP_HYPERV_ENFORCE_CPUID, 1, NULL},
    {KVM_CAP_SYS_HYPERV_CPUID, 1, NULL},
    /* Interrupts */
    {KVM_CAP_IRQCHIP, 1, NULL},
    {KVM_CAP_SPLIT_IRQCHIP, 1, NULL},
    {KVM_CAP_IRQ_INJECT_STATUS, 1, NULL},
    {KVM_CAP_IRQ_ROUTING, 4096, NULL},
    {KVM_CAP_SIGNAL_MSI, 1, NULL},
    {KVM_CAP_IRQFD, 1, NULL},
    {KVM_CAP_IRQFD_RESAMPLE, 1, NULL},
    {KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, NULL},
    {KVM_CAP_IOAPIC_POLARITY_IGNORED, 1, NULL},
    {KVM_CAP_TSC_DEADLINE_TIMER, 1, NULL},
    {KVM_CAP_PIT, 1, NULL},
    {KVM_CAP_PIT2, 1, NULL},
    {KVM_CAP_PIT_STATE2, 1, NULL},
    {KVM_CAP_REINJECT_CONTROL, 1, NULL},
    /* Doorbells */
    {KVM_CAP_IOEVENTFD, 1, NULL},
    {KVM_CAP_IOEVENTFD_NO_LENGTH, 1, NULL},
    {KVM_CAP_IOEVENTFD_ANY_LENGTH, 1, NULL},
    {KVM_CAP_COALESCED_MMIO, VCPU_COALESCED_PAGE, NULL},
    {KVM_CAP_COALESCED_PIO, 1, NULL},
    /* Time */
    {KVM_CAP_CLOCKSOURCE, 1, NULL},
    {KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC, NULL},
    {KVM_CAP_KVMCLOCK_CTRL, 1, NULL},
    {KVM_CAP_GET_TSC_KHZ, 1, NULL},
    {KVM_CAP_TSC_CONTROL, 1, NULL},
    {KVM_CAP_VM_TSC_CONTROL, 1, NULL},
    {KVM_CAP_STEAL_TIME, 1, NULL},
    {KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1, NULL},
};

long caps_check(struct kvm *kvm, long cap)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].cap == cap)
			return rows[i].fn ? rows[i].fn(kvm) : rows[i].value;
	}
	return 0;
}
