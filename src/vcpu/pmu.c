/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The performance monitor, and the VMM's filter on what it may count (api.rst 4.120). */
#include "vcpu/pmu.h"

#include <stdlib.h>

#include "vcpu/internal.h"

#define PERFCTR0      0xc1
#define EVNTSEL0      0x186
#define FIXED_CTR0    0x309
#define FIXED_CTRL    0x38d
#define GLOBAL_STATUS 0x38e
#define GLOBAL_CTRL   0x38f
#define OVF_CTRL      0x390
#define PMC0	      0x4c1
#define FIXED_BIT     32 /* of the fixed counters in GLOBAL_CTRL and STATUS */
#define SEL_USR	      BIT(16)
#define SEL_OS	      BIT(17)
#define SEL_INT	      BIT(20)
#define SEL_ENABLE    BIT(22)
#define SEL_RESERVED  0xffffffff00200000ULL
#define SEL_KEY	      0xf0000ffffULL /* event and unit mask, as filters name them */
#define OVF_EXTRA     (BIT(62) | BIT(63))
#define RDPMC_FIXED   BIT(30)
#define RDPMC_FAST    BIT(31)
#define APIC_LVTPC    0x340
#define FILTER_EVENTS 300
#define FILTER_HEAD   offsetof(struct kvm_pmu_event_filter, events)

enum source { SRC_NONE, SRC_CYCLES, SRC_INSNS, SRC_BRANCHES };

/* Architectural events, in the order of CPUID 0xa EBX. */
static const struct {
	uint16_t event; /* unit mask, select */
	enum source source;
} arch_events[] = {
    {0x003c, SRC_CYCLES}, {0x00c0, SRC_INSNS},	  {0x013c, SRC_CYCLES}, {0x4f2e, SRC_NONE},
    {0x412e, SRC_NONE},	  {0x00c4, SRC_BRANCHES}, {0x00c5, SRC_NONE},
};
static const enum source fixed_sources[PMU_FIXED] = {SRC_INSNS, SRC_CYCLES, SRC_CYCLES};

struct pmu_filter {
	uint32_t action, fixed;
	unsigned n;
	uint64_t events[]; /* sorted */
};

/* -- What a counter counts -- */

static bool is_fixed(unsigned i)
{
	return i >= PMU_GP;
}

static unsigned control_bit(unsigned i)
{
	return is_fixed(i) ? FIXED_BIT + i - PMU_GP : i;
}

static uint64_t mask_of(const struct vcpu_pmu *p, unsigned i)
{
	return is_fixed(i) ? p->fixed_mask : p->gp_mask;
}

/* USR, OS, INT and ENABLE as an event select has them. */
static uint64_t select_of(const struct vcpu_pmu *p, unsigned i)
{
	uint64_t c;

	if (!is_fixed(i))
		return p->select[i];
	c = p->fixed_ctrl >> 4 * (i - PMU_GP) & 0xf;
	return (c & 1 ? SEL_OS : 0) | (c & 2 ? SEL_USR : 0) | (c & 8 ? SEL_INT : 0) |
	       (c & 3 ? SEL_ENABLE : 0);
}

static enum source source_of(const struct vcpu_pmu *p, unsigned i)
{
	if (is_fixed(i))
		return fixed_sources[i - PMU_GP];
	for (unsigned e = 0; e < ARRAY_SIZE(arch_events); e++)
		if (arch_events[e].event == (uint16_t)p->select[i])
			return p->events >> e & 1 ? arch_events[e].source : SRC_NONE;
	return SRC_NONE;
}

/* The source's running total. */
static uint64_t total(struct vcpu *v, unsigned i)
{
	const struct engine_counts *c = engine_counts(v->cpu);
	uint64_t sel = select_of(&v->pmu, i);
	const uint64_t *by_cpl = c->insns;

	switch (source_of(&v->pmu, i)) {
	case SRC_CYCLES: return v->pmu.cycles + (v->pmu.entered ? base_rdtsc() - v->pmu.entered : 0);
	case SRC_BRANCHES: by_cpl = c->branches; break;
	case SRC_INSNS: break;
	default: return 0;
	}
	return (sel & SEL_OS ? by_cpl[0] : 0) + (sel & SEL_USR ? by_cpl[1] : 0);
}

/* -- The filter -- */

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static bool filter_allows(struct vcpu *v, unsigned i)
{
	const struct pmu_filter *f;
	bool listed, allowed = true;
	uint64_t key;
	int idx = srcu_read_lock(v->vm->srcu);

	f = srcu_dereference(v->vm->pmu_filter);
	if (f) {
		key = is_fixed(i) ? 0 : v->pmu.select[i] & SEL_KEY;
		listed = is_fixed(i) ? f->fixed >> (i - PMU_GP) & 1
				     : bsearch(&key, f->events, f->n, sizeof(key), compare) != NULL;
		allowed = listed == (f->action == KVM_PMU_EVENT_ALLOW);
	}
	srcu_read_unlock(v->vm->srcu, idx);
	return allowed;
}

/* -- Counting -- */

static bool wants_to_run(struct vcpu *v, unsigned i)
{
	const struct vcpu_pmu *p = &v->pmu;

	if (is_fixed(i) ? i - PMU_GP >= p->fixed : i >= p->gp)
		return false;
	if (p->version >= 2 && !(p->global_ctrl >> control_bit(i) & 1))
		return false;
	return (select_of(p, i) & SEL_ENABLE) && filter_allows(v, i);
}

/* Takes over what was counted; overflows are noted, and told where the guest asked for it. */
static void settle(struct vcpu *v)
{
	struct vcpu_pmu *p = &v->pmu;
	bool interrupt = false;

	for (unsigned i = 0; i < PMU_ALL; i++) {
		uint64_t now, sum;

		if (!(p->running >> i & 1))
			continue;
		now = total(v, i);
		sum = p->counter[i] + (now - p->since[i]);
		p->since[i] = now;
		p->counter[i] = sum & mask_of(p, i);
		if (sum == p->counter[i])
			continue;
		p->status |= BIT(control_bit(i));
		interrupt |= !!(select_of(p, i) & SEL_INT);
	}
	if (interrupt && v->lapic)
		lapic_local_deliver(v->lapic, APIC_LVTPC);
}

/* Arranges to hear of the next overflow. */
static void arrange(struct vcpu *v)
{
	struct vcpu_pmu *p = &v->pmu;
	uint64_t left = 0, cycles = 0;
	bool counting = false;

	for (unsigned i = 0; i < PMU_ALL; i++) {
		enum source s = source_of(p, i);
		uint64_t room = mask_of(p, i) - p->counter[i] + 1;

		if (!(p->running >> i & 1) || s == SRC_NONE)
			continue;
		if (s == SRC_CYCLES) {
			cycles = cycles ? MIN(cycles, room) : room;
		} else {
			counting = true;
			left = left ? MIN(left, room) : room;
		}
	}
	p->armed = counting || cycles;
	engine_count(v->cpu, counting, left);
	if (cycles)
		loop_timer_set(&p->timer,
			       base_now_ns() +
				   MIN(cycles / MAX(base_tsc_khz() / 1000, 1U), 3600000000ULL) * 1000);
	else
		loop_timer_cancel(&p->timer);
}

static void stop_cycles(struct vcpu_pmu *p)
{
	if (p->entered)
		p->cycles += base_rdtsc() - p->entered;
	p->entered = 0;
}

/* After a change of what counts: everything was settled before it. */
static void restart(struct vcpu *v)
{
	struct vcpu_pmu *p = &v->pmu;

	p->running = 0;
	for (unsigned i = 0; i < PMU_ALL; i++)
		if (wants_to_run(v, i))
			p->running |= 1u << i;
	arrange(v);
	stop_cycles(p);
	if (p->armed && atomic_load(&v->in_guest_tid))
		p->entered = base_rdtsc();
	for (unsigned i = 0; i < PMU_ALL; i++)
		p->since[i] = total(v, i);
}

static void on_timer(void *arg)
{
	vcpu_request(arg, VCPU_REQ_PMU);
}

void pmu_request(struct vcpu *v)
{
	settle(v);
	restart(v);
}

void pmu_enter(struct vcpu *v)
{
	v->pmu.entered = base_rdtsc();
}

void pmu_leave(struct vcpu *v)
{
	stop_cycles(&v->pmu);
	if (engine_counts(v->cpu)->left == 0)
		settle(v);
}

static uint64_t read_counter(struct vcpu *v, unsigned i)
{
	settle(v);
	return v->pmu.counter[i];
}

static void write_counter(struct vcpu *v, unsigned i, uint64_t val)
{
	settle(v);
	v->pmu.counter[i] = val & mask_of(&v->pmu, i);
	arrange(v);
}

/* -- MSRs -- */

/* The counter that an MSR is, or -1; *full: by its full-width alias. */
static int counter_of(const struct vcpu_pmu *p, uint32_t index, bool *full)
{
	*full = false;
	if (index - PERFCTR0 < p->gp)
		return (int)(index - PERFCTR0);
	if (index - FIXED_CTR0 < p->fixed)
		return (int)(PMU_GP + index - FIXED_CTR0);
	*full = true;
	return index - PMC0 < p->gp && (p->perf_caps & PMU_CAPS) ? (int)(index - PMC0) : -1;
}

/* Full-width writes need CPUID's PDCM too. */
static bool has_full_width(const struct vcpu *v)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, 1, 0);

	return e && (e->ecx & BIT(15));
}

bool pmu_has_msr(const struct vcpu *v, uint32_t index)
{
	const struct vcpu_pmu *p = &v->pmu;
	bool full;

	if (index >= FIXED_CTRL && index <= OVF_CTRL)
		return p->version >= 2;
	if (index - EVNTSEL0 < p->gp)
		return true;
	return counter_of(p, index, &full) >= 0 && (!full || has_full_width(v));
}

int pmu_get_msr(struct vcpu *v, uint32_t index, uint64_t *val)
{
	struct vcpu_pmu *p = &v->pmu;
	bool full;

	switch (index) {
	case FIXED_CTRL: *val = p->fixed_ctrl; return 0;
	case GLOBAL_STATUS:
		settle(v);
		*val = p->status;
		return 0;
	case GLOBAL_CTRL: *val = p->global_ctrl; return 0;
	case OVF_CTRL: *val = 0; return 0;
	default: break;
	}
	*val = index - EVNTSEL0 < p->gp ? p->select[index - EVNTSEL0]
					: read_counter(v, (unsigned)counter_of(p, index, &full));
	return 0;
}

static uint64_t control_mask(const struct vcpu_pmu *p)
{
	return (BIT(p->gp) - 1) | (BIT(p->fixed) - 1) << FIXED_BIT;
}

static int set_control(struct vcpu *v, uint64_t *field, uint64_t val, uint64_t allowed)
{
	if (val == *field)
		return 0;
	if (val & ~allowed)
		return -EINVAL;
	settle(v);
	*field = val;
	restart(v);
	return 0;
}

static int set_overflow(struct vcpu *v, uint64_t val, bool host)
{
	if (val & ~(control_mask(&v->pmu) | OVF_EXTRA))
		return -EINVAL;
	settle(v);
	if (!host)
		v->pmu.status &= ~val;
	return 0;
}

int pmu_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	struct vcpu_pmu *p = &v->pmu;
	bool full;
	int i;

	switch (index) {
	case FIXED_CTRL: return set_control(v, &p->fixed_ctrl, val, 0xbbbULL & (BIT(4 * p->fixed) - 1));
	case GLOBAL_CTRL: return set_control(v, &p->global_ctrl, val, control_mask(p));
	case OVF_CTRL: return set_overflow(v, val, host);
	case GLOBAL_STATUS:
		if (!host)
			return -EINVAL;
		p->status = val;
		return 0;
	default: break;
	}
	if (index - EVNTSEL0 < p->gp)
		return set_control(v, &p->select[index - EVNTSEL0], val, ~SEL_RESERVED);
	i = counter_of(p, index, &full);
	if (full && (val & ~p->gp_mask))
		return -EINVAL;
	if (!host && !full && !is_fixed((unsigned)i))
		val = (uint64_t)(int64_t)(int32_t)val; /* the old MSRs are 32 bits, sign-extended */
	write_counter(v, (unsigned)i, val);
	return 0;
}

int pmu_set_caps(struct vcpu *v, uint64_t val)
{
	if ((val & ~PMU_CAPS) || (val && !v->pmu.version))
		return -EINVAL;
	v->pmu.perf_caps = val;
	return 0;
}

int pmu_rdpmc(struct vcpu *v, uint32_t index, uint64_t *val)
{
	const struct vcpu_pmu *p = &v->pmu;
	unsigned i = index & ~(uint32_t)(RDPMC_FIXED | RDPMC_FAST);
	bool fixed = index & RDPMC_FIXED;

	if (!p->version || i >= (fixed ? p->fixed : p->gp))
		return -EINVAL;
	*val = read_counter(v, fixed ? PMU_GP + i : i);
	if (index & RDPMC_FAST)
		*val = (uint32_t)*val;
	return 0;
}

/* -- Birth, CPUID, end -- */

void pmu_refresh(struct vcpu *v)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, 0xa, 0);
	struct vcpu_pmu *p = &v->pmu;
	uint32_t width;

	settle(v);
	p->version = e && !v->vm->pmu_disabled && !vcpu_host_is_amd() ? e->eax & 0xff : 0;
	p->gp = p->version ? MIN(e->eax >> 8 & 0xff, (uint32_t)PMU_GP) : 0;
	p->fixed = p->version >= 2 ? MIN(e->edx & 0x1f, (uint32_t)PMU_FIXED) : 0;
	width = p->version ? MIN(e->eax >> 16 & 0xff, (uint32_t)PMU_WIDTH) : 0;
	p->gp_mask = BIT(width) - 1;
	width = p->fixed ? MIN(e->edx >> 5 & 0xff, (uint32_t)PMU_WIDTH) : 0;
	p->fixed_mask = BIT(width) - 1;
	p->events = p->version ? ~e->ebx & (uint32_t)(BIT(MIN(e->eax >> 24, 7U)) - 1) : 0;
	restart(v);
}

void pmu_init(struct vcpu *v)
{
	loop_timer_init(&v->pmu.timer, on_timer, v);
	v->pmu.perf_caps = vcpu_host_is_amd() ? 0 : PMU_CAPS;
}

void pmu_destroy(struct vcpu *v)
{
	loop_timer_cancel(&v->pmu.timer);
}

void pmu_reset(struct vcpu *v)
{
	struct vcpu_pmu *p = &v->pmu;

	memset(p->select, 0, sizeof(p->select));
	memset(p->counter, 0, sizeof(p->counter));
	p->fixed_ctrl = p->global_ctrl = p->status = 0;
	restart(v);
}

/* -- KVM_SET_PMU_EVENT_FILTER -- */

int vcpu_vm_set_pmu_filter(struct vcpu_vm *vm, const void *user)
{
	struct kvm_pmu_event_filter head;
	struct pmu_filter *f, *old;
	unsigned n;

	if (base_copy_in(&head, user, FILTER_HEAD))
		return -EFAULT;
	if ((head.action != KVM_PMU_EVENT_ALLOW && head.action != KVM_PMU_EVENT_DENY) || head.flags)
		return -EINVAL;
	if (head.nevents > FILTER_EVENTS)
		return -E2BIG;
	f = base_zalloc(sizeof(*f) + head.nevents * sizeof(f->events[0]));
	if (!f)
		return -ENOMEM;
	f->action = head.action;
	f->fixed = head.fixed_counter_bitmap;
	f->n = head.nevents;
	if (base_copy_in(f->events, (const char *)user + FILTER_HEAD, f->n * sizeof(f->events[0]))) {
		base_free(f);
		return -EFAULT;
	}
	qsort(f->events, f->n, sizeof(f->events[0]), compare);
	mutex_lock(vm->lock);
	old = atomic_exchange(&vm->pmu_filter, f);
	srcu_synchronize(vm->srcu);
	n = atomic_load(&vm->nr_vcpus);
	for (unsigned i = 0; i < n; i++) {
		struct vcpu *v = atomic_load(&vm->vcpus[i]);

		if (v)
			vcpu_request(v, VCPU_REQ_PMU);
	}
	mutex_unlock(vm->lock);
	base_free(old);
	return 0;
}

void pmu_vm_destroy(struct vcpu_vm *vm)
{
	base_free(atomic_exchange(&vm->pmu_filter, NULL));
}
