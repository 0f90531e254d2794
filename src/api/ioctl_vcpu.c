/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The vCPU's ioctls: vcpu->mutex is held in each handler. */
#include <linux/kvm.h>

#include "api/dispatch.h"

#define MAX_MSRS 255

/* Rows that are one call of vcpu/ on the copied argument: CALL(request, function, kind, type).
 * OUT: filled and copied out; IN: copied in; BOTH. */
#define FIXED(CALL)                                                                                \
	CALL(KVM_GET_REGS, vcpu_get_regs, OUT, struct kvm_regs)                                    \
	CALL(KVM_SET_REGS, vcpu_set_regs, IN, struct kvm_regs)                                     \
	CALL(KVM_GET_SREGS, vcpu_get_sregs, OUT, struct kvm_sregs)                                 \
	CALL(KVM_SET_SREGS, vcpu_set_sregs, IN, struct kvm_sregs)                                  \
	CALL(KVM_GET_SREGS2, vcpu_get_sregs2, OUT, struct kvm_sregs2)                              \
	CALL(KVM_SET_SREGS2, vcpu_set_sregs2, IN, struct kvm_sregs2)                               \
	CALL(KVM_GET_FPU, vcpu_get_fpu, OUT, struct kvm_fpu)                                       \
	CALL(KVM_SET_FPU, vcpu_set_fpu, IN, struct kvm_fpu)                                        \
	CALL(KVM_GET_XSAVE, vcpu_get_xsave, OUT, struct kvm_xsave)                                 \
	CALL(KVM_GET_XCRS, vcpu_get_xcrs, OUT, struct kvm_xcrs)                                    \
	CALL(KVM_SET_XCRS, vcpu_set_xcrs, IN, struct kvm_xcrs)                                     \
	CALL(KVM_GET_DEBUGREGS, vcpu_get_debugregs, OUT, struct kvm_debugregs)                     \
	CALL(KVM_SET_DEBUGREGS, vcpu_set_debugregs, IN, struct kvm_debugregs)                      \
	CALL(KVM_GET_VCPU_EVENTS, vcpu_get_events, OUT, struct kvm_vcpu_events)                    \
	CALL(KVM_SET_VCPU_EVENTS, vcpu_set_events, IN, struct kvm_vcpu_events)                     \
	CALL(KVM_GET_MP_STATE, vcpu_get_mp_state, OUT, struct kvm_mp_state)                        \
	CALL(KVM_SET_MP_STATE, vcpu_set_mp_state, IN, struct kvm_mp_state)                         \
	CALL(KVM_GET_LAPIC, vcpu_get_lapic, OUT, struct kvm_lapic_state)                           \
	CALL(KVM_INTERRUPT, vcpu_interrupt, IN, struct kvm_interrupt)                              \
	CALL(KVM_SET_GUEST_DEBUG, vcpu_set_guest_debug, IN, struct kvm_guest_debug)                \
	CALL(KVM_TPR_ACCESS_REPORTING, vcpu_tpr_access_reporting, BOTH, struct kvm_tpr_access_ctl) \
	CALL(KVM_X86_SET_MCE, vcpu_set_mce, IN, struct kvm_x86_mce)                                \
	CALL(KVM_TRANSLATE, vcpu_translate, BOTH, struct kvm_translation)                          \
	CALL(KVM_XEN_VCPU_SET_ATTR, vcpu_xen_set_attr, IN, struct kvm_xen_vcpu_attr)               \
	CALL(KVM_XEN_VCPU_GET_ATTR, vcpu_xen_get_attr, BOTH, struct kvm_xen_vcpu_attr)             \
	CALL(KVM_ENABLE_CAP, vcpu_enable_cap, IN, struct kvm_enable_cap)                           \
	CALL(KVM_HAS_DEVICE_ATTR, vcpu_has_attr, IN, struct kvm_device_attr)                       \
	CALL(KVM_GET_DEVICE_ATTR, vcpu_get_attr, IN, struct kvm_device_attr)                       \
	CALL(KVM_SET_DEVICE_ATTR, vcpu_set_attr, IN, struct kvm_device_attr)

#define HANDLER(request, fn, kind, type)          \
	static long do_##fn(struct ioctl_call *c) \
	{                                         \
		return fn(c->v, (type *)c->buf);  \
	}
FIXED(HANDLER)

static long set_lapic(struct ioctl_call *c)
{
	return vcpu_set_lapic(c->v, c->buf);
}

static long set_vapic_addr(struct ioctl_call *c)
{
	return vcpu_set_vapic_addr(c->v, c->buf);
}

/* -- Without an argument -- */

static long run(struct ioctl_call *c)
{
	long r = c->arg ? -EINVAL : vcpu_run(c->v);

	stats_count_run(c->h, r);
	return r;
}

static long nmi(struct ioctl_call *c)
{
	return vcpu_nmi(c->v);
}

static long smi(struct ioctl_call *c)
{
	return vcpu_smi(c->v);
}

static long kvmclock_ctrl(struct ioctl_call *c)
{
	return vcpu_kvmclock_ctrl(c->v);
}

static long set_tsc_khz(struct ioctl_call *c)
{
	return vcpu_set_tsc_khz(c->v, (uint32_t)c->arg);
}

static long get_tsc_khz(struct ioctl_call *c)
{
	return vcpu_get_tsc_khz(c->v);
}

static long get_stats_fd(struct ioctl_call *c)
{
	return stats_file_create(c->kvm, c->h);
}

static long setup_mce(struct ioctl_call *c)
{
	uint64_t cap;

	memcpy(&cap, c->buf, sizeof(cap));
	return vcpu_setup_mce(c->v, cap);
}

/* -- MSRs -- */

static long get_msrs(struct ioctl_call *c)
{
	return vcpu_get_msrs(c->v, c->entries, c->n);
}

static long set_msrs(struct ioctl_call *c)
{
	return vcpu_set_msrs(c->v, c->entries, c->n);
}

/* -- CPUID -- */

static long set_cpuid2(struct ioctl_call *c)
{
	return vcpu_set_cpuid(c->v, c->entries, c->n);
}

/* The old form: no index, no flags. */
static long set_cpuid(struct ioctl_call *c)
{
	const struct kvm_cpuid_entry *old = c->entries;
	struct kvm_cpuid_entry2 *e;
	int r;

	e = base_zalloc(MAX(c->n, 1U) * sizeof(*e));
	if (!e)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->n; i++) {
		e[i].function = old[i].function;
		e[i].eax = old[i].eax;
		e[i].ebx = old[i].ebx;
		e[i].ecx = old[i].ecx;
		e[i].edx = old[i].edx;
	}
	r = vcpu_set_cpuid(c->v, e, c->n);
	base_free(e);
	return r;
}

static long get_cpuid2(struct ioctl_call *c)
{
	struct kvm_cpuid_entry2 *e;
	uint32_t head[2];
	unsigned n;
	int r;

	if (base_copy_in(head, (void *)c->arg, sizeof(head)))
		return -EFAULT;
	n = MIN(head[0], (uint32_t)VCPU_MAX_CPUID);
	e = base_zalloc((n ? n : 1) * sizeof(*e));
	if (!e)
		return -ENOMEM;
	r = vcpu_get_cpuid(c->v, e, &n);
	if (!r) {
		head[0] = n;
		if ((n && base_copy_out((void *)(c->arg + sizeof(head)), e, n * sizeof(*e))) ||
		    base_copy_out((void *)c->arg, head, sizeof(head)))
			r = -EFAULT;
	}
	base_free(e);
	return r;
}

/* -- XSAVE: as large as the guest's components need -- */

static long set_xsave(struct ioctl_call *c)
{
	uint32_t size = vcpu_xsave2_size(c->v);
	void *area = base_zalloc_aligned(64, size);
	int r;

	if (!area)
		return -ENOMEM;
	r = base_copy_in(area, (void *)c->arg, size);
	if (!r)
		r = vcpu_set_xsave(c->v, area, size);
	base_free(area);
	return r;
}

static long get_xsave2(struct ioctl_call *c)
{
	uint32_t size = vcpu_xsave2_size(c->v);
	void *area = base_zalloc_aligned(64, size);
	int r;

	if (!area)
		return -ENOMEM;
	r = vcpu_get_xsave2(c->v, area, size);
	if (!r)
		r = base_copy_out((void *)c->arg, area, size);
	base_free(area);
	return r;
}

/* -- The signal mask: a length, then the kernel's 8-byte set -- */

static long set_signal_mask(struct ioctl_call *c)
{
	struct {
		uint32_t len;
		uint8_t set[8];
	} mask;
	sigset_t set;

	if (!c->arg)
		return vcpu_set_signal_mask(c->v, NULL);
	if (base_copy_in(&mask.len, (void *)c->arg, sizeof(mask.len)))
		return -EFAULT;
	if (mask.len != sizeof(mask.set))
		return -EINVAL;
	if (base_copy_in(mask.set, (void *)(c->arg + sizeof(mask.len)), sizeof(mask.set)))
		return -EFAULT;
	memset(&set, 0, sizeof(set));
	memcpy(&set, mask.set, sizeof(mask.set));
	return vcpu_set_signal_mask(c->v, &set);
}

/* -- The table -- */

#define IN(type)			    sizeof(type), 0
#define OUT(type)			    0, sizeof(type)
#define BOTH(type)			    sizeof(type), sizeof(type)
#define FIXED_ROW(request, fn, kind, type)  FIXED_ROW_(request, kind(type), do_##fn)
#define FIXED_ROW_(request, sizes, handler) {request, sizes, L_VCPU, handler, #request, 0, 0, 0, false},

static const struct ioctl_row rows[] = {
    /* First: run_locked is its dispatch, for it comes too often for a search. */
    ROW(KVM_RUN, 0, 0, L_VCPU, run),
    FIXED(FIXED_ROW) ROW(KVM_NMI, 0, 0, L_VCPU, nmi),
    ROW(KVM_SMI, 0, 0, L_VCPU, smi),
    ROW(KVM_SET_LAPIC, sizeof(struct kvm_lapic_state), 0, L_VCPU | L_LAPIC, set_lapic),
    ROW(KVM_SET_VAPIC_ADDR, sizeof(struct kvm_vapic_addr), 0, L_VCPU | L_LAPIC, set_vapic_addr),
    ROW(KVM_KVMCLOCK_CTRL, 0, 0, L_VCPU, kvmclock_ctrl),
    ROW(KVM_SET_TSC_KHZ, 0, 0, L_VCPU, set_tsc_khz),
    ROW(KVM_GET_TSC_KHZ, 0, 0, L_VCPU, get_tsc_khz),
    ROW(KVM_GET_STATS_FD, 0, 0, L_VCPU, get_stats_fd),
    ROW(KVM_X86_SETUP_MCE, sizeof(uint64_t), 0, L_VCPU, setup_mce),
    ROW_ARRAY(KVM_GET_MSRS, L_VCPU, get_msrs, sizeof(struct kvm_msr_entry), MAX_MSRS, -E2BIG, true),
    ROW_ARRAY(KVM_SET_MSRS, L_VCPU, set_msrs, sizeof(struct kvm_msr_entry), MAX_MSRS, -E2BIG, false),
    ROW_ARRAY(KVM_SET_CPUID, L_VCPU, set_cpuid, sizeof(struct kvm_cpuid_entry), VCPU_MAX_CPUID, -E2BIG,
	      false),
    ROW_ARRAY(KVM_SET_CPUID2, L_VCPU, set_cpuid2, sizeof(struct kvm_cpuid_entry2), VCPU_MAX_CPUID, -E2BIG,
	      false),
    ROW(KVM_GET_SUPPORTED_HV_CPUID, 0, 0, L_VCPU, ioctl_get_hv_cpuid),
    ROW(KVM_GET_CPUID2, 0, 0, L_VCPU, get_cpuid2),
    ROW(KVM_SET_XSAVE, 0, 0, L_VCPU, set_xsave),
    ROW(KVM_GET_XSAVE2, 0, 0, L_VCPU, get_xsave2),
    ROW(KVM_SET_SIGNAL_MASK, 0, 0, L_VCPU, set_signal_mask),
};

static long run_locked(struct ioctl_call *c)
{
	struct mutex *m = vcpu_mutex(c->v);
	long r = mutex_lock_interruptible(m);

	if (r)
		return r;
	r = run(c);
	mutex_unlock(m);
	return r;
}

long vcpu_ioctl(struct file *f, uint32_t request, unsigned long arg)
{
	struct vcpu_handle *h = f->object;
	struct ioctl_call c = {.file = f, .kvm = h->kvm, .h = h, .v = h->vcpu, .arg = arg};

	if (likely(request == rows[0].request))
		return run_locked(&c);
	return ioctl_dispatch(rows, ARRAY_SIZE(rows), &c, request, -EINVAL);
}
