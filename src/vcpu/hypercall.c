/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* KVM's hypercalls (Documentation/virt/kvm/x86/hypercalls.rst). */
#include <linux/kvm_para.h>
#include <sched.h>

#include "vcpu/internal.h"

#define CPL_DENIED	  (-KVM_EPERM)
#define NOT_OFFERED	  (-KVM_ENOSYS)
#define APIC_DEST_LOGICAL 0x800U
#define APIC_SHORTHAND	  0xc0000U
#define MSI_BASE	  0xfee00000U

/* Asks the engine whether the caller runs 64-bit code. */
static bool caller_is_64bit(const struct vcpu *v)
{
	struct kvm_sregs s;

	engine_get_sregs(v->cpu, &s);
	return (s.efer & BIT(10)) && s.cs.l;
}

/* KVM_HC_KICK_CPU: ends the HLT of the vCPU with that APIC id. */
static long kick_cpu(struct vcpu *v, uint32_t apic_id)
{
	struct vcpu *target = vcpu_by_id(v->vm, apic_id);

	if (target) {
		atomic_store(&target->unhalted, true);
		vcpu_request(target, VCPU_REQ_EVENT);
	}
	sched_yield();
	return 0;
}

/* Sends one message per set bit; returns how many arrived. */
static long send_some(struct vcpu *v, uint64_t bitmap, uint32_t first, uint32_t icr)
{
	long n = 0;

	for (; bitmap; bitmap &= bitmap - 1) {
		uint32_t dest = first + __builtin_ctzll(bitmap);
		struct kvm_msi msi = {
		    .address_lo = MSI_BASE | (dest & 0xff) << 12,
		    .address_hi = dest & ~0xffU,
		    .data = icr & 0x7ff,
		};

		if (vcpu_by_id(v->vm, dest) && irq_signal_msi(v->vm->irq, &msi) > 0)
			n++;
	}
	return n;
}

/* KVM_HC_SEND_IPI: a0, a1 bitmaps of APIC ids from a2 on, a3 the ICR. */
static long send_ipi(struct vcpu *v, const uint64_t a[4], bool is64)
{
	unsigned cluster = is64 ? 64 : 32;

	if (a[3] & (APIC_DEST_LOGICAL | APIC_SHORTHAND))
		return -EINVAL;
	if (!v->lapic)
		return -EOPNOTSUPP;
	return send_some(v, a[0], a[2], a[3]) + send_some(v, a[1], a[2] + cluster, a[3]);
}

/* The result for RAX. */
static long perform(struct vcpu *v, uint64_t nr, const uint64_t a[4], bool is64)
{
	if (engine_cpl(v->cpu))
		return CPL_DENIED;
	switch (nr) {
	case KVM_HC_VAPIC_POLL_IRQ:
		event_vapic_from(v);
		vcpu_request(v, VCPU_REQ_EVENT);
		return 0;
	case KVM_HC_KICK_CPU: return cpuid_has_pv(v, KVM_FEATURE_PV_UNHALT) ? kick_cpu(v, a[1]) : NOT_OFFERED;
	case KVM_HC_SEND_IPI:
		return cpuid_has_pv(v, KVM_FEATURE_PV_SEND_IPI) ? send_ipi(v, a, is64) : NOT_OFFERED;
	case KVM_HC_SCHED_YIELD:
		if (!cpuid_has_pv(v, KVM_FEATURE_PV_SCHED_YIELD))
			return NOT_OFFERED;
		sched_yield();
		return 0;
	}
	return NOT_OFFERED;
}

/* The instruction of the other vendor's CPU: replaced by the host's own, or undefined where the VMM wants
 * guests left as they are (KVM_X86_QUIRK_FIX_HYPERCALL_INSN). */
static enum engine_status foreign(struct vcpu *v)
{
	return v->vm->disabled_quirks & KVM_X86_QUIRK_FIX_HYPERCALL_INSN ? ENGINE_UD : ENGINE_FIX;
}

enum engine_status vcpu_hypercall(struct vcpu *v, bool vmmcall)
{
	bool is64;
	uint64_t mask;
	struct kvm_regs r;
	long result;

	if (vmmcall != vcpu_host_is_amd())
		return foreign(v);
	is64 = caller_is_64bit(v);
	if (xen_active(v->vm))
		return xen_call(v, is64);
	if (hyperv_active(v))
		return hyperv_call(v, is64);
	mask = is64 ? ~0ULL : 0xffffffffULL;
	engine_get_regs(v->cpu, &r);
	result = perform(v, r.rax & mask,
			 (uint64_t[4]){r.rbx & mask, r.rcx & mask, r.rdx & mask, r.rsi & mask}, is64);
	r.rax = result & mask;
	engine_set_regs(v->cpu, &r);
	return ENGINE_OK;
}
