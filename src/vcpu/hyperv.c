/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Hyper-V: what the guest is offered, the partition's MSRs, the TSC page, exits to the VMM. */
#include "vcpu/hyperv.h"

#include <fcntl.h>
#include <time.h>

#include "base/eventfd.h"
#include "base/sys.h"
#include "vcpu/internal.h"

#define AS_NORMAL     0
#define HV_INTERFACE  0x31237648 /* "Hv#1" */
#define CRASH_NOTIFY  BIT(63)
#define APIC_HZ	      1000000000ULL
#define CONN_ID_MASK  0x00ffffffU
#define DEBUG_BY_CALL BIT(2) /* of SYNDBG's options */
#define ICR	      0x300
#define ICR2	      0x310
#define TPR	      0x80
#define EOI	      0xb0
#define BASE_X2APIC   BIT(10)

/* The page that a guest reads its reference time from: time = tsc * scale / 2^64 + offset, if sequence is not 0. */
struct tsc_page {
	uint32_t sequence, reserved;
	uint64_t scale;
	int64_t offset;
};

/* How the TSC page stands: to be written because the guest or the VMM changed something, written, impossible. */
enum tsc_state { TSC_UNSET, TSC_GUEST_CHANGED, TSC_HOST_CHANGED, TSC_SET, TSC_BROKEN };

struct conn {
	struct conn *next;
	uint32_t id;
	struct base_eventfd event;
};

/* The partition. */
struct hv_vm {
	struct mutex lock; /* everything below */
	uint64_t guest_os_id, hypercall, tsc_msr, crash[5], crash_ctl;
	uint64_t reenlightenment, tsc_emulation, tsc_emul_status;
	struct {
		uint64_t control, status, send, recv, pending, options;
	} dbg;
	_Atomic bool active; /* guest_os_id is not 0 */
	enum tsc_state tsc_state;
	uint32_t tsc_gen; /* grows with whatever makes a page that is being written stale */
	struct tsc_page tsc;
	struct conn *conns;
};

/* -- CPUID -- */

void hyperv_update_cpuid(struct vcpu *v)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, 0x40000001, 0);
	struct vcpu_hv *hv = &v->hv;

	memset(&hv->cpuid, 0, sizeof(hv->cpuid));
	hv->enabled = e && e->eax == HV_INTERFACE;
	if (!hv->enabled)
		return;
	e = cpuid_find(v, 0x40000003, 0);
	if (e) {
		hv->cpuid.eax = e->eax;
		hv->cpuid.ebx = e->ebx;
		hv->cpuid.edx = e->edx;
	}
	e = cpuid_find(v, 0x40000004, 0);
	if (e) {
		hv->cpuid.enl_eax = e->eax;
		hv->cpuid.enl_ebx = e->ebx;
	}
	e = cpuid_find(v, 0x40000082, 0);
	hv->cpuid.dbg_eax = e ? e->eax : 0;
}

static bool host_has_no_smt(void)
{
	char buf[16] = "";
	int fd = (int)sys_call(SYS_openat, AT_FDCWD, "/sys/devices/system/cpu/smt/control",
			       O_RDONLY | O_CLOEXEC, 0);

	if (fd < 0)
		return false;
	if (sys_call(SYS_read, fd, buf, sizeof(buf) - 1) < 0)
		buf[0] = 0;
	sys_call(SYS_close, fd);
	return !strncmp(buf, "forceoff", 8) || !strncmp(buf, "notsupported", 12);
}

/* KVM_GET_SUPPORTED_HV_CPUID. The leaf of nested features is there as KVM has it, and empty. */
int vcpu_supported_hv_cpuid(const struct vcpu *v, struct kvm_cpuid_entry2 *e, unsigned *n)
{
	bool lapic = !v || v->lapic;
	const struct kvm_cpuid_entry2 leaves[] = {
	    {.function = 0x40000000,
	     .eax = 0x40000082,
	     .ebx = 0x756e694c,
	     .ecx = 0x564b2078,
	     .edx = 0x7648204d},
	    {.function = 0x40000001, .eax = HV_INTERFACE},
	    {.function = 0x40000002, .eax = 0x3839, .ebx = 0xa0000}, /* Hyper-V 2016's numbers */
	    {.function = 0x40000003,
	     .eax = HV_A_RUNTIME | HV_A_REF_COUNT | HV_A_SYNIC | HV_A_STIMER | HV_A_APIC | HV_A_HYPERCALL |
		    HV_A_VP_INDEX | HV_A_RESET | HV_A_TSC_PAGE | HV_A_FREQUENCY | HV_A_REENLIGHTENMENT,
	     .ebx = HV_B_POST_MESSAGES | HV_B_SIGNAL_EVENTS | HV_B_DEBUGGING,
	     .edx = HV_D_DEBUGGING | HV_D_XMM_INPUT | HV_D_FREQUENCY | HV_D_CRASH | HV_D_SYNDBG |
		    (lapic ? HV_D_STIMER_DIRECT : 0)},
	    {.function = 0x40000004,
	     .eax = HV_E_TLB_FLUSH | HV_E_APIC | HV_E_RELAXED_TIMING | HV_E_NO_AUTO_EOI | HV_E_EX_MASKS |
		    (lapic ? HV_E_CLUSTER_IPI : 0) | (host_has_no_smt() ? HV_E_NO_SMT : 0),
	     .ebx = 0xfff}, /* spins before NOTIFY_LONG_SPIN_WAIT */
	    {.function = 0x40000005, .eax = VCPU_MAX, .ebx = 64},
	    {.function = 0x40000080, .ebx = 0x756e694c, .ecx = 0x564b2078, .edx = 0x7648204d},
	    {.function = 0x40000081, .eax = 0x31235356}, /* "VS#1" */
	    {.function = 0x40000082, .eax = HV_DBG_KERNEL},
	    {.function = 0x4000000a,
	     .eax = BIT(19)}, /* the MSR bitmap's note: nothing to note without nesting */
	};
	unsigned room = *n;

	*n = ARRAY_SIZE(leaves);
	if (room < *n)
		return -E2BIG;
	memcpy(e, leaves, sizeof(leaves));
	return 0;
}

/* The bit of CPUID that an MSR needs if CPUID is enforced. */
static bool allowed(const struct vcpu *v, uint32_t index)
{
	static const struct {
		uint32_t first, last, eax, edx;
	} needs[] = {
	    {HV_GUEST_OS_ID, HV_HYPERCALL, HV_A_HYPERCALL, 0},
	    {HV_VP_INDEX, HV_VP_INDEX, HV_A_VP_INDEX, 0},
	    {HV_RESET, HV_RESET, HV_A_RESET, 0},
	    {HV_VP_RUNTIME, HV_VP_RUNTIME, HV_A_RUNTIME, 0},
	    {HV_TIME_REF_COUNT, HV_TIME_REF_COUNT, HV_A_REF_COUNT, 0},
	    {HV_REFERENCE_TSC, HV_REFERENCE_TSC, HV_A_TSC_PAGE, 0},
	    {HV_TSC_FREQUENCY, HV_APIC_FREQUENCY, HV_A_FREQUENCY, 0},
	    {HV_EOI, HV_VP_ASSIST_PAGE, HV_A_APIC, 0},
	    {HV_SCONTROL, HV_SINT15, HV_A_SYNIC, 0},
	    {HV_STIMER0_CONFIG, HV_STIMER3_COUNT, HV_A_STIMER, 0},
	    {HV_SYNDBG_CONTROL, HV_SYNDBG_OPTIONS, 0, HV_D_SYNDBG},
	    {HV_CRASH_P0, HV_CRASH_CTL, 0, HV_D_CRASH},
	    {HV_REENLIGHTENMENT, HV_TSC_EMUL_STATUS, HV_A_REENLIGHTENMENT, 0},
	};

	if (!v->hv.enforce)
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
		if (index >= needs[i].first && index <= needs[i].last)
			return (v->hv.cpuid.eax & needs[i].eax) || (v->hv.cpuid.edx & needs[i].edx);
	return false;
}

bool hyperv_active(const struct vcpu *v)
{
	return v->hv.enabled && atomic_load_explicit(&v->vm->hv->active, memory_order_relaxed);
}

/* -- The reference counter and its page -- */

static uint64_t mul_shr64(uint64_t a, uint64_t b)
{
	return (uint64_t)((unsigned __int128)a * b >> 64);
}

/* By the page's own formula while it stands, so that a guest which reads both sees one time. hv->lock held. */
static uint64_t time_locked(struct vcpu *v)
{
	const struct hv_vm *hv = v->vm->hv;
	struct vcpu *first = atomic_load(&v->vm->vcpus[0]);

	if (hv->tsc_state != TSC_SET || !first)
		return clock_kvmclock_ns(v->vm, base_rdtsc()) / 100;
	return mul_shr64(clock_guest_tsc(first), hv->tsc.scale) + (uint64_t)hv->tsc.offset;
}

uint64_t hyperv_time(struct vcpu *v)
{
	uint64_t now;

	mutex_lock(&v->vm->hv->lock);
	now = time_locked(v);
	mutex_unlock(&v->vm->hv->lock);
	return now;
}

/* A guest that had TSC accesses emulated after a migration expects the page not to change. */
static bool page_is_frozen(const struct hv_vm *hv)
{
	return hv->tsc_state != TSC_GUEST_CHANGED && hv->tsc_emulation;
}

/* kvmclock's formula in Hyper-V's form; false if that cannot express it. */
static bool compute_page(struct vcpu *v, struct tsc_page *p)
{
	struct clock_reading r;

	clock_read(v, &r);
	if (!r.stable || r.mul >= 100ULL << (32 - r.shift))
		return false;
	p->scale = (uint64_t)(((unsigned __int128)1 << (32 + r.shift)) * r.mul / 100);
	p->offset = (int64_t)(r.system_time / 100 - mul_shr64(r.tsc_timestamp, p->scale));
	return true;
}

/* Writes the page, or (frozen) takes over what is in it; the sequence is 0 meanwhile, which sends the guest to the
 * MSR. Without the lock: vCPU 0's thread alone comes here. */
static enum tsc_state write_page(struct vcpu *v, uint64_t gpa, bool frozen, struct tsc_page *p)
{
	struct mem *mem = v->vm->mem;
	uint32_t seq;

	if (mem_read(mem, AS_NORMAL, gpa, &seq, sizeof(seq)))
		return TSC_BROKEN;
	if (seq && frozen)
		return mem_read(mem, AS_NORMAL, gpa, p, sizeof(*p)) ? TSC_BROKEN : TSC_SET;
	if (mem_write(mem, AS_NORMAL, gpa, &p->sequence, sizeof(seq)) || !compute_page(v, p) ||
	    mem_write(mem, AS_NORMAL, gpa, p, sizeof(*p)))
		return TSC_BROKEN;
	seq++;
	if (seq == 0 || seq == ~0U) /* both have a meaning of their own */
		seq = 1;
	p->sequence = seq;
	return mem_write(mem, AS_NORMAL, gpa, &seq, sizeof(seq)) ? TSC_BROKEN : TSC_SET;
}

void hyperv_clock_update(struct vcpu *v)
{
	struct hv_vm *hv = v->vm->hv;
	struct tsc_page p = {0};
	enum tsc_state state;
	uint64_t msr;
	uint32_t gen;
	bool due, frozen;

	if (v->index != 0 || !atomic_load_explicit(&hv->active, memory_order_relaxed))
		return;
	mutex_lock(&hv->lock);
	due = (hv->tsc_state == TSC_GUEST_CHANGED || hv->tsc_state == TSC_HOST_CHANGED) &&
	      (hv->tsc_msr & HV_PAGE_ENABLE);
	frozen = page_is_frozen(hv);
	msr = hv->tsc_msr;
	gen = hv->tsc_gen;
	mutex_unlock(&hv->lock);
	if (!due)
		return;
	state = write_page(v, msr & ~PAGE_OFFSET_MASK, frozen, &p);
	mutex_lock(&hv->lock);
	if (gen == hv->tsc_gen) { /* else it is due again */
		hv->tsc_state = state;
		hv->tsc = p;
	}
	mutex_unlock(&hv->lock);
}

void hyperv_clock_set(struct vcpu_vm *vm)
{
	struct hv_vm *hv = vm->hv;

	mutex_lock(&hv->lock);
	hv->tsc_gen++;
	if (hv->tsc_state == TSC_SET && !page_is_frozen(hv))
		hv->tsc_state = TSC_HOST_CHANGED;
	mutex_unlock(&hv->lock);
}

/* -- MSRs of the partition: hv->lock held -- */

static uint64_t *crash_or_dbg(struct hv_vm *hv, uint32_t index)
{
	switch (index) {
	case HV_SYNDBG_CONTROL: return &hv->dbg.control;
	case HV_SYNDBG_STATUS: return &hv->dbg.status;
	case HV_SYNDBG_SEND: return &hv->dbg.send;
	case HV_SYNDBG_RECV: return &hv->dbg.recv;
	case HV_SYNDBG_PENDING: return &hv->dbg.pending;
	case HV_SYNDBG_OPTIONS: return &hv->dbg.options;
	case HV_CRASH_CTL: return &hv->crash_ctl;
	default: return index >= HV_CRASH_P0 && index <= HV_CRASH_P4 ? &hv->crash[index - HV_CRASH_P0] : NULL;
	}
}

static bool is_dbg(uint32_t index)
{
	return index >= HV_SYNDBG_CONTROL && index <= HV_SYNDBG_OPTIONS;
}

static void set_tsc_page(struct hv_vm *hv, uint64_t val, bool host)
{
	hv->tsc_msr = val;
	hv->tsc_gen++;
	if (!(val & HV_PAGE_ENABLE)) {
		hv->tsc_state = TSC_UNSET;
		return;
	}
	hv->tsc_state = host ? TSC_HOST_CHANGED : TSC_GUEST_CHANGED;
}

static int set_dbg(struct vcpu *v, struct hv_vm *hv, uint32_t index, uint64_t val, bool host)
{
	uint64_t *field = crash_or_dbg(hv, index);

	if (!host && !(v->hv.cpuid.dbg_eax & HV_DBG_KERNEL))
		return -EINVAL;
	if (field)
		*field = val;
	if (host || (index != HV_SYNDBG_CONTROL && index != HV_SYNDBG_PENDING))
		return 0;
	v->hv.exit = (struct kvm_hyperv_exit){.type = KVM_EXIT_HYPERV_SYNDBG,
					      .u.syndbg = {.msr = index,
							   .control = hv->dbg.control,
							   .send_page = hv->dbg.send,
							   .recv_page = hv->dbg.recv,
							   .pending_page = hv->dbg.pending}};
	v->hv.syndbg_answer = index == HV_SYNDBG_CONTROL;
	vcpu_request(v, VCPU_REQ_HV_EXIT);
	return 0;
}

static int set_partition(struct vcpu *v, struct hv_vm *hv, uint32_t index, uint64_t val, bool host)
{
	switch (index) {
	case HV_GUEST_OS_ID:
		hv->guest_os_id = val;
		if (!val)
			hv->hypercall &= ~HV_PAGE_ENABLE;
		atomic_store(&hv->active, val != 0);
		return 0;
	case HV_REFERENCE_TSC: set_tsc_page(hv, val, host); return 0;
	case HV_CRASH_CTL:
		if (host)
			hv->crash_ctl = val & CRASH_NOTIFY;
		else if (val & CRASH_NOTIFY)
			vcpu_request(v, VCPU_REQ_HV_CRASH);
		return 0;
	case HV_RESET:
		if (val == 1)
			vcpu_request(v, VCPU_REQ_HV_RESET);
		return 0;
	case HV_REENLIGHTENMENT: hv->reenlightenment = val; return 0;
	case HV_TSC_EMULATION: hv->tsc_emulation = val; return 0;
	case HV_TSC_EMUL_STATUS:
		if (val && !host)
			return -EINVAL;
		hv->tsc_emul_status = val;
		return 0;
	case HV_TIME_REF_COUNT: return host ? 0 : -EINVAL;
	default: break;
	}
	if (is_dbg(index))
		return set_dbg(v, hv, index, val, host);
	if (index < HV_CRASH_P0 || index > HV_CRASH_P4)
		return -EINVAL;
	hv->crash[index - HV_CRASH_P0] = val;
	return 0;
}

static int get_partition(struct vcpu *v, struct hv_vm *hv, uint32_t index, uint64_t *val, bool host)
{
	uint64_t *field = crash_or_dbg(hv, index);

	switch (index) {
	case HV_GUEST_OS_ID: *val = hv->guest_os_id; return 0;
	case HV_HYPERCALL: *val = hv->hypercall; return 0;
	case HV_TIME_REF_COUNT: *val = time_locked(v); return 0;
	case HV_REFERENCE_TSC: *val = hv->tsc_msr; return 0;
	case HV_RESET: *val = 0; return 0;
	case HV_REENLIGHTENMENT: *val = hv->reenlightenment; return 0;
	case HV_TSC_EMULATION: *val = hv->tsc_emulation; return 0;
	case HV_TSC_EMUL_STATUS: *val = hv->tsc_emul_status; return 0;
	default: break;
	}
	if (is_dbg(index) && !host && !(v->hv.cpuid.dbg_eax & HV_DBG_KERNEL))
		return -EINVAL;
	if (!field && !is_dbg(index))
		return -EINVAL;
	*val = field ? *field : 0;
	return 0;
}

/* Writes the page whose call enters the hypervisor. Takes hv->lock. */
static int set_hypercall(struct vcpu *v, struct hv_vm *hv, uint64_t val)
{
	/* or $0x80000000, %eax tells such a call from one of Xen's */
	const uint8_t code[] = {0x0d, 0, 0, 0, 0x80, 0x0f, 0x01, vcpu_host_is_amd() ? 0xd9 : 0xc1, 0xc3};
	unsigned skip = xen_active(v->vm) ? 0 : 5;

	if (!atomic_load(&hv->active))
		return 0;
	if ((val & HV_PAGE_ENABLE) &&
	    mem_write(v->vm->mem, vcpu_as(v), val & ~PAGE_OFFSET_MASK, code + skip, sizeof(code) - skip))
		return -EINVAL;
	mutex_lock(&hv->lock);
	hv->hypercall = val;
	mutex_unlock(&hv->lock);
	return 0;
}

/* -- MSRs of the vCPU -- */

/* CPU time of this thread, in 100 ns. */
static uint64_t runtime(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 10000000 + (uint64_t)t.tv_nsec / 100;
}

static int set_vp_index(struct vcpu *v, uint64_t val, bool host)
{
	if (!host || (uint32_t)val >= VCPU_MAX)
		return -EINVAL;
	atomic_store(&v->hv.vp_index, (uint32_t)val);
	return 0;
}

/* The page whose first word is a PV EOI word. */
static int set_assist_page(struct vcpu *v, uint64_t val)
{
	uint64_t gpa = val & ~PAGE_OFFSET_MASK;
	uint32_t none = 0;

	if (!(val & HV_PAGE_ENABLE)) {
		v->hv.assist_page = val;
		return pv_set_eoi(v, 0);
	}
	if (mem_write(v->vm->mem, vcpu_as(v), gpa, &none, sizeof(none)))
		return -EINVAL;
	v->hv.assist_page = val;
	return pv_set_eoi(v, gpa | 1);
}

/* EOI, ICR and TPR without the APIC's page: ICR has all its 64 bits. */
static int set_apic(struct vcpu *v, uint32_t offset, uint64_t val)
{
	uint32_t low = (uint32_t)val, high = (uint32_t)(val >> 32);

	if (!v->lapic || (offset != ICR && high))
		return -EINVAL;
	if (lapic_get_base(v->lapic) & BASE_X2APIC)
		return lapic_msr_write(v->lapic, 0x800 + (offset >> 4), val);
	if (offset == ICR)
		lapic_mmio_write(v->lapic, ICR2, sizeof(high), &high);
	lapic_mmio_write(v->lapic, offset, sizeof(low), &low);
	vcpu_request(v, VCPU_REQ_EVENT);
	return 0;
}

static int get_apic(struct vcpu *v, uint32_t offset, uint64_t *val)
{
	uint32_t low = 0, high = 0;

	if (!v->lapic || offset == EOI)
		return -EINVAL;
	if (lapic_get_base(v->lapic) & BASE_X2APIC)
		return lapic_msr_read(v->lapic, 0x800 + (offset >> 4), val);
	lapic_mmio_read(v->lapic, offset, sizeof(low), &low);
	if (offset == ICR)
		lapic_mmio_read(v->lapic, ICR2, sizeof(high), &high);
	*val = low | (uint64_t)high << 32;
	return 0;
}

static uint32_t apic_offset(uint32_t index)
{
	return index == HV_EOI ? EOI : index == HV_ICR ? ICR : TPR;
}

/* -1: not one of these. */
static int get_own(struct vcpu *v, uint32_t index, uint64_t *val)
{
	switch (index) {
	case HV_VP_INDEX: *val = atomic_load(&v->hv.vp_index); return 0;
	case HV_VP_RUNTIME: *val = runtime() + v->hv.runtime_offset; return 0;
	case HV_TSC_FREQUENCY: *val = (uint64_t)atomic_load(&v->clk.khz) * 1000; return 0;
	case HV_APIC_FREQUENCY: *val = APIC_HZ; return 0;
	case HV_EOI:
	case HV_ICR:
	case HV_TPR: return get_apic(v, apic_offset(index), val);
	case HV_VP_ASSIST_PAGE: *val = v->hv.assist_page; return 0;
	default: return -1;
	}
}

static int set_own(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	switch (index) {
	case HV_VP_INDEX: return set_vp_index(v, val, host);
	case HV_VP_RUNTIME:
		if (!host)
			return -EINVAL;
		v->hv.runtime_offset = val - runtime();
		return 0;
	case HV_TSC_FREQUENCY:
	case HV_APIC_FREQUENCY: return host ? 0 : -EINVAL;
	case HV_EOI:
	case HV_ICR:
	case HV_TPR: return set_apic(v, apic_offset(index), val);
	case HV_VP_ASSIST_PAGE: return set_assist_page(v, val);
	default: return -1;
	}
}

int hyperv_get_msr(struct vcpu *v, uint32_t index, uint64_t *val, bool host)
{
	int r;

	if (!host && (!v->hv.enabled || !allowed(v, index)))
		return -EINVAL;
	if (index >= HV_SCONTROL && index <= HV_SINT15)
		return synic_get_msr(v, index, val, host);
	if (index >= HV_STIMER0_CONFIG && index <= HV_STIMER3_COUNT)
		return stimer_get_msr(v, index, val);
	r = get_own(v, index, val);
	if (r != -1)
		return r;
	mutex_lock(&v->vm->hv->lock);
	r = get_partition(v, v->vm->hv, index, val, host);
	mutex_unlock(&v->vm->hv->lock);
	return r;
}

int hyperv_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	int r;

	if (!host && (!v->hv.enabled || !allowed(v, index)))
		return -EINVAL;
	if (index >= HV_SCONTROL && index <= HV_SINT15)
		return synic_set_msr(v, index, val, host);
	if (index >= HV_STIMER0_CONFIG && index <= HV_STIMER3_COUNT)
		return stimer_set_msr(v, index, val, host);
	if (index == HV_HYPERCALL)
		return set_hypercall(v, v->vm->hv, val);
	r = set_own(v, index, val, host);
	if (r != -1)
		return r;
	mutex_lock(&v->vm->hv->lock);
	r = set_partition(v, v->vm->hv, index, val, host);
	mutex_unlock(&v->vm->hv->lock);
	if (!r && index == HV_REFERENCE_TSC && (val & HV_PAGE_ENABLE))
		clock_refresh(v->vm); /* has vCPU 0 write the page */
	return r;
}

bool hyperv_debugs_by_call(struct vcpu_vm *vm)
{
	bool yes;

	mutex_lock(&vm->hv->lock);
	yes = vm->hv->dbg.options & DEBUG_BY_CALL;
	mutex_unlock(&vm->hv->lock);
	return yes;
}

/* -- Exits -- */

static int system_event(struct vcpu *v, uint32_t type)
{
	v->run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
	v->run->system_event.type = type;
	v->run->system_event.ndata = 0;
	return 0;
}

int hyperv_requests(struct vcpu *v)
{
	if (vcpu_request_take(v, VCPU_REQ_HV_CRASH))
		return system_event(v, KVM_SYSTEM_EVENT_CRASH);
	if (vcpu_request_take(v, VCPU_REQ_HV_RESET))
		return system_event(v, KVM_SYSTEM_EVENT_RESET);
	if (vcpu_request_take(v, VCPU_REQ_HV_EXIT)) {
		v->run->exit_reason = KVM_EXIT_HYPERV;
		v->run->hyperv = v->hv.exit;
		return 0;
	}
	if (vcpu_request_take(v, VCPU_REQ_HV_STIMER))
		stimer_process(v);
	return 1;
}

void hyperv_begin_run(struct vcpu *v)
{
	struct hv_vm *hv = v->vm->hv;

	if (likely(!v->hv.syndbg_answer) || (atomic_load(&v->requests) & VCPU_REQ_HV_EXIT))
		return;
	v->hv.syndbg_answer = false;
	mutex_lock(&hv->lock);
	hv->dbg.status = v->run->hyperv.u.syndbg.status;
	mutex_unlock(&hv->lock);
}

/* -- KVM_HYPERV_EVENTFD -- */

static struct conn **find_conn(struct hv_vm *hv, uint32_t id)
{
	struct conn **p = &hv->conns;

	while (*p && (*p)->id != id)
		p = &(*p)->next;
	return p;
}

static int conn_del(struct hv_vm *hv, uint32_t id)
{
	struct conn **p, *c;

	mutex_lock(&hv->lock);
	p = find_conn(hv, id);
	c = *p;
	if (c)
		*p = c->next;
	mutex_unlock(&hv->lock);
	if (!c)
		return -ENOENT;
	base_eventfd_put(&c->event);
	base_free(c);
	return 0;
}

static int conn_add(struct hv_vm *hv, uint32_t id, int fd)
{
	struct conn *c = base_zalloc(sizeof(*c)), **p;
	int r;

	if (!c)
		return -ENOMEM;
	c->id = id;
	r = base_eventfd_get(&c->event, fd);
	if (r) {
		base_free(c);
		return r;
	}
	mutex_lock(&hv->lock);
	p = find_conn(hv, id);
	r = *p ? -EEXIST : 0;
	if (!r)
		*p = c;
	mutex_unlock(&hv->lock);
	if (r) {
		base_eventfd_put(&c->event);
		base_free(c);
	}
	return r;
}

int vcpu_vm_hyperv_eventfd(struct vcpu_vm *vm, const struct kvm_hyperv_eventfd *e)
{
	if ((e->flags & ~KVM_HYPERV_EVENTFD_DEASSIGN) || (e->conn_id & ~CONN_ID_MASK))
		return -EINVAL;
	return e->flags ? conn_del(vm->hv, e->conn_id) : conn_add(vm->hv, e->conn_id, e->fd);
}

bool hyperv_signal(struct vcpu_vm *vm, uint32_t conn_id)
{
	struct conn *c;

	mutex_lock(&vm->hv->lock);
	c = *find_conn(vm->hv, conn_id);
	if (c)
		base_eventfd_signal(&c->event);
	mutex_unlock(&vm->hv->lock);
	return c != NULL;
}

/* -- Birth and end -- */

int hyperv_vm_init(struct vcpu_vm *vm)
{
	vm->hv = base_zalloc(sizeof(*vm->hv));
	if (!vm->hv)
		return -ENOMEM;
	mutex_init(&vm->hv->lock, LOCK_HYPERV);
	return 0;
}

void hyperv_vm_destroy(struct vcpu_vm *vm)
{
	while (vm->hv->conns)
		conn_del(vm->hv, vm->hv->conns->id);
	base_free(vm->hv);
	vm->hv = NULL;
}

void hyperv_init(struct vcpu *v)
{
	atomic_store(&v->hv.vp_index, v->index);
	synic_init(v);
}

void hyperv_destroy(struct vcpu *v)
{
	synic_destroy(v);
}
