/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages shared with a paravirtual guest (Documentation/virt/kvm/x86/msr.rst): kvmclock, wall clock, steal
 * time, PV EOI. They are in the normal address space, whatever SMM does. A page that has gone is not an
 * error: the guest took it away, and gets no more news.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <asm/kvm_para.h>

#include "base/sys.h"
#include "vcpu/internal.h"

#define AS_NORMAL      0
#define ENABLED	       1ULL
#define NSEC_PER_SEC   1000000000ULL
#define STEAL_EVERY_NS 100000 /* how old the reading of the thread's run delay may be */

#define PVCLOCK_TSC_STABLE    BIT(0)
#define PVCLOCK_GUEST_STOPPED BIT(1)

/* The kvmclock page, as a guest reads it. */
struct time_page {
	uint32_t version, pad0;
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad[2];
};
_Static_assert(sizeof(struct time_page) == 32, "guest ABI");

struct wall_page {
	uint32_t version, sec, nsec;
};

/* Writes one field of a struct at a guest address. */
#define put_field(v, gpa, s, field)                                                            \
	mem_write((v)->vm->mem, AS_NORMAL, (gpa) + offsetof(__typeof__(s), field), &(s).field, \
		  sizeof((s).field))

/* -- kvmclock ------------------------------------------------------------- */

/* The address of the time page, or 0: off, or across a page's end, where KVM does not write either. */
static uint64_t time_gpa(const struct vcpu *v)
{
	uint64_t gpa = v->pv.system_time & ~ENABLED;

	if (!(v->pv.system_time & ENABLED) || (gpa & PAGE_OFFSET_MASK) + sizeof(struct time_page) > PAGE_SIZE)
		return 0;
	return gpa;
}

/*
 * Rewrites the time page. Its version is odd meanwhile, so that another vCPU which reads it tries again;
 * GUEST_STOPPED stays until the guest clears it.
 */
static void write_time(struct vcpu *v, uint64_t gpa)
{
	struct clock_reading r;
	struct time_page p;

	if (!gpa || mem_read(v->vm->mem, AS_NORMAL, gpa, &p, sizeof(p)))
		return;
	clock_read(v, &r);
	p.version = (p.version | 1) + (p.version & 1 ? 2 : 0);
	p.tsc_timestamp = r.tsc_timestamp;
	p.system_time = r.system_time;
	p.mul = r.mul;
	p.shift = r.shift;
	p.flags = (p.flags & PVCLOCK_GUEST_STOPPED) | (r.stable ? PVCLOCK_TSC_STABLE : 0) |
		  (v->pv.guest_stopped ? PVCLOCK_GUEST_STOPPED : 0);
	if (put_field(v, gpa, p, version))
		return;
	mem_write(v->vm->mem, AS_NORMAL, gpa + sizeof(p.version), (char *)&p + sizeof(p.version),
		  sizeof(p) - sizeof(p.version));
	p.version++;
	put_field(v, gpa, p, version);
}

/* KVM's page and Xen's two. */
static void write_times(struct vcpu *v)
{
	uint64_t info = atomic_load(&v->xen.info);

	write_time(v, time_gpa(v));
	if (info != XEN_NO_PAGE)
		write_time(v, info + XEN_INFO_TIME);
	if (v->xen.time != XEN_NO_PAGE)
		write_time(v, v->xen.time);
	if (time_gpa(v))
		v->pv.guest_stopped = false;
}

int vcpu_kvmclock_ctrl(struct vcpu *v)
{
	if (!time_gpa(v))
		return -EINVAL;
	v->pv.guest_stopped = true;
	vcpu_request_quiet(v, VCPU_REQ_CLOCK);
	return 0;
}

/* Tells the guest once what time it was when kvmclock was 0. */
static void write_wall(struct vcpu *v, uint64_t gpa)
{
	struct wall_page w;
	uint64_t ns;

	if (!gpa || mem_read(v->vm->mem, AS_NORMAL, gpa, &w.version, sizeof(w.version)))
		return;
	w.version = (w.version + 1) | 1;
	if (put_field(v, gpa, w, version))
		return;
	ns = clock_wall_ns(v->vm);
	w.sec = (uint32_t)(ns / NSEC_PER_SEC);
	w.nsec = (uint32_t)(ns % NSEC_PER_SEC);
	mem_write(v->vm->mem, AS_NORMAL, gpa, &w, sizeof(w));
	w.version++;
	put_field(v, gpa, w, version);
}

/* -- Steal time ----------------------------------------------------------- */

static void steal_close(struct vcpu *v)
{
	if (v->pv.steal_tid)
		sys_fd_close(v->pv.steal_fd);
	v->pv.steal_tid = 0;
}

/* How long this thread has waited for a CPU since it began, in ns; false if the host does not tell. */
static bool run_delay(struct vcpu *v, uint64_t *delay)
{
	char buf[96], *end;
	long n = sys_call(SYS_pread64, v->pv.steal_fd, buf, sizeof(buf) - 1, 0);

	if (n <= 0)
		return false;
	buf[n] = 0;
	strtoull(buf, &end, 10); /* time on the CPU */
	*delay = strtoull(end, NULL, 10);
	return true;
}

/* Makes steal_fd this thread's schedstat. What a new thread waited before is not the guest's loss. */
static bool steal_open(struct vcpu *v)
{
	int tid = atomic_load(&v->in_guest_tid), fd;

	if (!tid)
		tid = (int)sys_call(SYS_gettid);
	if (v->pv.steal_tid == tid)
		return true;
	steal_close(v);
	fd = (int)sys_call(SYS_openat, AT_FDCWD, "/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return false;
	v->pv.steal_fd = sys_fd_claim(fd);
	v->pv.steal_tid = tid;
	if (run_delay(v, &v->pv.steal_seen))
		return true;
	steal_close(v);
	return false;
}

bool pv_run_delay(struct vcpu *v, uint64_t *delay)
{
	return steal_open(v) && run_delay(v, delay);
}

/* Adds what was stolen since the last look. `preempted` stays 0, as for a host that does not tell it. */
static void write_steal(struct vcpu *v)
{
	uint64_t gpa = v->pv.steal & ~0x3fULL, delay = v->pv.steal_seen;
	struct kvm_steal_time s;

	if (base_now_ns() - v->pv.steal_read_ns >= STEAL_EVERY_NS) {
		v->pv.steal_read_ns = base_now_ns();
		if (!steal_open(v) || !run_delay(v, &delay))
			steal_close(v);
	}
	if (mem_read(v->vm->mem, AS_NORMAL, gpa, &s, sizeof(s)))
		return;
	s.version = (s.version + 1) | 1;
	if (put_field(v, gpa, s, version))
		return;
	if (s.preempted) {
		s.preempted = 0;
		put_field(v, gpa, s, preempted);
	}
	s.steal += delay - v->pv.steal_seen;
	v->pv.steal_seen = delay;
	put_field(v, gpa, s, steal);
	s.version++;
	put_field(v, gpa, s, version);
}

/* -- PV EOI --------------------------------------------------------------- */

void pv_eoi_to_guest(struct vcpu *v)
{
	uint8_t pending = 1;

	if (!(v->pv.eoi & ENABLED) || v->pv.eoi_set || !v->lapic || !lapic_pv_eoi_wanted(v->lapic))
		return;
	v->pv.eoi_set = !mem_write(v->vm->mem, AS_NORMAL, v->pv.eoi & ~ENABLED, &pending, sizeof(pending));
}

void pv_eoi_from_guest(struct vcpu *v)
{
	uint64_t gpa = v->pv.eoi & ~ENABLED;
	uint8_t pending;

	if (!v->pv.eoi_set)
		return;
	v->pv.eoi_set = false;
	if (mem_read(v->vm->mem, AS_NORMAL, gpa, &pending, sizeof(pending)))
		return;
	if (!(pending & 1)) {
		lapic_pv_eoi_done(v->lapic);
		return;
	}
	pending = 0; /* set again at the next entry, if it still may be skipped */
	mem_write(v->vm->mem, AS_NORMAL, gpa, &pending, sizeof(pending));
}

/* -- MSRs ----------------------------------------------------------------- */

/* The feature that goes with an MSR of ours. */
static unsigned feature_of(uint32_t index)
{
	switch (index) {
	case MSR_KVM_STEAL_TIME: return KVM_FEATURE_STEAL_TIME;
	case MSR_KVM_PV_EOI_EN: return KVM_FEATURE_PV_EOI;
	case MSR_KVM_POLL_CONTROL: return KVM_FEATURE_POLL_CONTROL;
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_SYSTEM_TIME: return KVM_FEATURE_CLOCKSOURCE;
	default: return KVM_FEATURE_CLOCKSOURCE2;
	}
}

/* All is offered to a guest that asks, unless the VMM wants CPUID to be the law. */
static bool offered(const struct vcpu *v, uint32_t index)
{
	return !v->pv.enforce || cpuid_has_pv(v, feature_of(index));
}

int pv_get_msr(struct vcpu *v, uint32_t index, uint64_t *val)
{
	if (!offered(v, index))
		return -EINVAL;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW: *val = atomic_load(clock_wall_msr(v->vm)); return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW: *val = v->pv.system_time; return 0;
	case MSR_KVM_STEAL_TIME: *val = v->pv.steal; return 0;
	case MSR_KVM_PV_EOI_EN: *val = v->pv.eoi; return 0;
	case MSR_KVM_POLL_CONTROL: *val = v->pv.poll_control; return 0;
	default: return -ENOENT;
	}
}

static int set_steal(struct vcpu *v, uint64_t val)
{
	if (val & 0x3e) /* KVM_STEAL_RESERVED_MASK */
		return -EINVAL;
	v->pv.steal = val;
	if (val & ENABLED)
		vcpu_request_quiet(v, VCPU_REQ_STEAL);
	else
		steal_close(v);
	return 0;
}

int pv_set_eoi(struct vcpu *v, uint64_t val)
{
	if (val & 2 || ((val & ENABLED) && !mem_is_visible(v->vm->mem, AS_NORMAL, val & ~ENABLED)))
		return -EINVAL;
	pv_eoi_from_guest(v);
	v->pv.eoi = val;
	return 0;
}

int pv_set_msr(struct vcpu *v, uint32_t index, uint64_t val)
{
	if (!offered(v, index))
		return -EINVAL;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		atomic_store(clock_wall_msr(v->vm), val);
		write_wall(v, val);
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		v->pv.system_time = val;
		clock_refresh(
		    v->vm); /* also tells the others if this vCPU's TSC does not agree with theirs */
		vcpu_request_quiet(v, VCPU_REQ_CLOCK);
		return 0;
	case MSR_KVM_STEAL_TIME: return set_steal(v, val);
	case MSR_KVM_PV_EOI_EN: return pv_set_eoi(v, val);
	case MSR_KVM_POLL_CONTROL:
		if (val & ~1ULL)
			return -EINVAL;
		v->pv.poll_control = val;
		return 0;
	default: return -ENOENT;
	}
}

int vcpu_enable_cap(struct vcpu *v, const struct kvm_enable_cap *cap)
{
	if (cap->flags)
		return -EINVAL;
	switch (cap->cap) {
	case KVM_CAP_ENFORCE_PV_FEATURE_CPUID: v->pv.enforce = cap->args[0]; return 0;
	case KVM_CAP_HYPERV_ENFORCE_CPUID: v->hv.enforce = cap->args[0]; return 0;
	case KVM_CAP_HYPERV_SYNIC: return synic_activate(v, false);
	case KVM_CAP_HYPERV_SYNIC2: return cap->args[0] ? -EINVAL : synic_activate(v, true);
	default: return -EINVAL;
	}
}

/* -- Around guest execution ----------------------------------------------- */

void pv_begin_run(struct vcpu *v)
{
	if (v->pv.steal & ENABLED)
		vcpu_request_quiet(v, VCPU_REQ_STEAL);
}

void pv_before_entry(struct vcpu *v)
{
	bool now;

	if (vcpu_request_take(v, VCPU_REQ_CLOCK)) {
		write_times(v);
		hyperv_clock_update(v);
	}
	now = vcpu_request_take(v, VCPU_REQ_STEAL);
	if (unlikely(v->pv.steal & ENABLED) && (now || base_now_ns() - v->pv.steal_read_ns >= STEAL_EVERY_NS))
		write_steal(v);
	pv_eoi_to_guest(v);
}

void pv_after_exit(struct vcpu *v)
{
	pv_eoi_from_guest(v);
}

void pv_reset(struct vcpu *v, bool init)
{
	v->pv.system_time = 0;
	v->pv.steal = 0;
	v->pv.eoi = 0;
	v->pv.eoi_set = false;
	v->pv.guest_stopped = false;
	steal_close(v);
	if (!init)
		v->pv.poll_control = 1;
}

void pv_destroy(struct vcpu *v)
{
	steal_close(v);
}
