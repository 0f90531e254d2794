/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest time: the TSC of every vCPU and the VM's kvmclock.
 *
 * The host's TSC is taken to be invariant and the same on all CPUs, so kvmclock is always what KVM calls the
 * master clock: one fixed point (host TSC, ns) per VM, from which every page and KVM_GET_CLOCK compute with
 * the same multiplier. It only moves when the VMM sets the clock or TSC offsets change.
 */
#include <limits.h>
#include <time.h>

#include "base/mutate.h"
#include "vcpu/internal.h"

#define NSEC_PER_SEC 1000000000ULL
/* Closer than this many parts per million to the host's frequency no scaling is done, as in KVM. */
#define TSC_TOLERANCE_PPM 250

struct clock {
	struct spinlock lock;
	uint32_t host_khz;
	_Atomic uint32_t default_khz; /* of vCPUs to come: KVM_SET_TSC_KHZ on the VM */
	_Atomic uint64_t wall_msr;    /* MSR_KVM_WALL_CLOCK(_NEW): one for the VM, as in KVM */

	/* The last TSC write by a VMM, and the offset of the vCPUs that agree. */
	uint64_t write_ns, write_tsc, write_offset;
	uint32_t write_khz;
	uint64_t cur_offset;

	/* kvmclock: base_ns at host TSC base_tsc, onwards by host_mul and host_shift. */
	uint64_t base_tsc, base_ns;
	uint32_t host_mul;
	int8_t host_shift;
};

/* -- Scales --------------------------------------------------------------- */

/* Multiplier and shift that turn cycles of this frequency into nanoseconds, as a pvclock page wants them. */
static void scale_for_hz(uint64_t hz, uint32_t *mul, int8_t *shift)
{
	uint64_t num = NSEC_PER_SEC;
	int s = 0;

	/* Bring the quotient num/hz into [1/2, 1): then mul has 32 significant bits. */
	while (num >= hz) {
		hz <<= 1;
		s++;
	}
	while (num < hz / 2) {
		num <<= 1;
		s--;
	}
	*mul = (uint32_t)(((unsigned __int128)num << 32) / hz);
	*shift = (int8_t)s;
}

static uint64_t scale_delta(uint64_t delta, uint32_t mul, int8_t shift)
{
	if (shift < 0)
		delta >>= -shift;
	else
		delta <<= shift;
	return (uint64_t)(((unsigned __int128)delta * mul) >> 32);
}

/* The frequency that a vCPU's TSC really has. */
static uint64_t actual_hz(const struct clock *k, uint64_t ratio)
{
	uint64_t hz = (uint64_t)k->host_khz * 1000;

	return ratio ? (uint64_t)(((unsigned __int128)hz * ratio) >> CLOCK_RATIO_BITS) : hz;
}

/* The scaling ratio for a frequency; 0 if it is as good as the host's. */
static uint64_t ratio_for_khz(const struct clock *k, uint32_t khz)
{
	uint64_t tolerance = (uint64_t)k->host_khz * TSC_TOLERANCE_PPM / 1000000;

	if (khz >= k->host_khz - tolerance && khz <= k->host_khz + tolerance)
		return 0;
	return (uint64_t)(((unsigned __int128)khz << CLOCK_RATIO_BITS) / k->host_khz);
}

uint64_t clock_scale_tsc(const struct vcpu *v, uint64_t host_tsc)
{
	uint64_t ratio = atomic_load_explicit(&v->clk.ratio, memory_order_relaxed);

	if (ratio)
		host_tsc = (uint64_t)(((unsigned __int128)host_tsc * ratio) >> CLOCK_RATIO_BITS);
	return host_tsc + atomic_load_explicit(&v->clk.offset, memory_order_relaxed);
}

uint64_t clock_guest_tsc(struct vcpu *v)
{
	return clock_scale_tsc(v, base_rdtsc());
}

uint64_t clock_tsc_deadline_ns(struct vcpu *v, uint64_t tsc)
{
	uint64_t now_ns = base_now_ns(), now = clock_guest_tsc(v);
	uint64_t hz = actual_hz(v->vm->clock, atomic_load(&v->clk.ratio));
	unsigned __int128 ns;

	if (tsc <= now)
		return now_ns;
	ns = (unsigned __int128)(tsc - now) * NSEC_PER_SEC / hz + 1;
	return ns > INT64_MAX - now_ns ? (uint64_t)INT64_MAX : now_ns + (uint64_t)ns;
}

/* -- kvmclock ------------------------------------------------------------- */

static uint64_t real_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* k->lock held. */
static uint64_t kvmclock_at(const struct clock *k, uint64_t host_tsc)
{
	if ((int64_t)(host_tsc - k->base_tsc) < 0)
		host_tsc = k->base_tsc; /* read before somebody moved the fixed point */
	return k->base_ns + scale_delta(host_tsc - k->base_tsc, k->host_mul, k->host_shift);
}

uint64_t clock_kvmclock_ns(struct vcpu_vm *vm, uint64_t host_tsc)
{
	uint64_t ns;

	spin_lock(&vm->clock->lock);
	ns = kvmclock_at(vm->clock, host_tsc);
	spin_unlock(&vm->clock->lock);
	return ns;
}

uint64_t clock_wall_ns(struct vcpu_vm *vm)
{
	uint64_t tsc = base_rdtsc();

	return real_ns() - clock_kvmclock_ns(vm, tsc);
}

_Atomic uint64_t *clock_wall_msr(struct vcpu_vm *vm)
{
	return &vm->clock->wall_msr;
}

/* Every vCPU rewrites its page before it enters the guest again. */
static void request_all(struct vcpu_vm *vm)
{
	unsigned i, n = atomic_load(&vm->nr_vcpus);

	for (i = 0; i < n; i++) {
		struct vcpu *v = atomic_load(&vm->vcpus[i]);

		if (v)
			vcpu_request(v, VCPU_REQ_CLOCK);
	}
}

void clock_refresh(struct vcpu_vm *vm)
{
	struct clock *k = vm->clock;
	uint64_t tsc;

	hyperv_clock_set(vm);
	spin_lock(&k->lock);
	tsc = base_rdtsc();
	k->base_ns = kvmclock_at(k, tsc);
	k->base_tsc = tsc;
	spin_unlock(&k->lock);
	request_all(vm);
}

/* True if all TSCs of the VM agree: only then may a guest use one vCPU's page on another. */
static bool clock_stable(struct vcpu_vm *vm)
{
	unsigned i, n = atomic_load(&vm->nr_vcpus);
	struct vcpu *first = NULL;

	for (i = 0; i < n; i++) {
		struct vcpu *v = atomic_load(&vm->vcpus[i]);

		if (!v)
			continue;
		if (!first)
			first = v;
		if (atomic_load(&v->clk.offset) != atomic_load(&first->clk.offset) ||
		    atomic_load(&v->clk.ratio) != atomic_load(&first->clk.ratio))
			return false;
	}
	return true;
}

void clock_read(struct vcpu *v, struct clock_reading *r)
{
	struct clock *k = v->vm->clock;
	uint64_t base_tsc;

	spin_lock(&k->lock);
	base_tsc = k->base_tsc;
	r->system_time = k->base_ns;
	spin_unlock(&k->lock);
	r->tsc_timestamp = clock_scale_tsc(v, base_tsc);
	scale_for_hz(actual_hz(k, atomic_load(&v->clk.ratio)), &r->mul, &r->shift);
	r->stable = clock_stable(v->vm);
}

int vcpu_vm_get_clock(struct vcpu_vm *vm, struct kvm_clock_data *c)
{
	memset(c, 0, sizeof(*c));
	c->realtime = real_ns();
	c->host_tsc = base_rdtsc();
	c->clock = clock_kvmclock_ns(vm, c->host_tsc);
	c->flags = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | (clock_stable(vm) ? KVM_CLOCK_TSC_STABLE : 0);
	return 0;
}

int vcpu_vm_set_clock(struct vcpu_vm *vm, const struct kvm_clock_data *c)
{
	struct clock *k = vm->clock;
	uint64_t ns = c->clock, real;

	/* Only REALTIME means something here; the others may come back from KVM_GET_CLOCK. */
	if (c->flags & ~(KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | KVM_CLOCK_TSC_STABLE))
		return -EINVAL;
	if (c->flags & KVM_CLOCK_REALTIME) {
		real = real_ns();
		if (real > c->realtime) /* time never runs backwards for it */
			ns += real - c->realtime;
	}
	hyperv_clock_set(vm);
	spin_lock(&k->lock);
	k->base_tsc = base_rdtsc();
	k->base_ns = ns;
	spin_unlock(&k->lock);
	request_all(vm);
	return 0;
}

/* -- TSC writes ----------------------------------------------------------- */

/* The offset with which v's TSC would read tsc at this host TSC. */
static uint64_t offset_for(const struct vcpu *v, uint64_t tsc, uint64_t host_tsc)
{
	return tsc - (clock_scale_tsc(v, host_tsc) - atomic_load(&v->clk.offset));
}

/* Remembers a write by the VMM; one that did not match begins a new group of vCPUs. k->lock held. */
static void note_write(struct clock *k, struct vcpu *v, uint64_t offset, uint64_t tsc, uint64_t ns,
		       bool matched)
{
	k->write_ns = ns;
	k->write_tsc = tsc;
	k->write_khz = atomic_load(&v->clk.khz);
	k->write_offset = offset;
	if (!matched)
		k->cur_offset = offset;
	atomic_store(&v->clk.offset, offset);
}

/*
 * The VMM writes a TSC. A write within a second of what the last written vCPU's TSC shows by now is an
 * attempt to make the two agree, and so is 0: both get the same offset.
 */
static void synchronize(struct vcpu *v, uint64_t tsc)
{
	struct clock *k = v->vm->clock;
	uint64_t old = atomic_load(&v->clk.offset), ns, offset, expected, hz;
	bool matched = tsc == 0;

	spin_lock(&k->lock);
	ns = base_now_ns();
	offset = offset_for(v, tsc, base_rdtsc());
	hz = (uint64_t)atomic_load(&v->clk.khz) * 1000;
	if (!matched) {
		expected = k->write_tsc + mul_div64(ns - k->write_ns, hz, NSEC_PER_SEC);
		matched = tsc < expected + hz && tsc + hz > expected;
	}
	matched = matched && k->write_khz == atomic_load(&v->clk.khz);
	if (matched)
		offset = k->cur_offset;
	note_write(k, v, offset, tsc, ns, matched);
	spin_unlock(&k->lock);
	if (offset != old)
		clock_refresh(v->vm);
}

/* The guest moves its own TSC. */
static void move_offset(struct vcpu *v, uint64_t by)
{
	atomic_fetch_add(&v->clk.offset, by);
	if (by)
		clock_refresh(v->vm);
}

void clock_write_tsc(struct vcpu *v, uint64_t tsc, bool host)
{
	uint64_t by;

	if (host) {
		synchronize(v, tsc);
		return;
	}
	by = offset_for(v, tsc, base_rdtsc()) - atomic_load(&v->clk.offset);
	v->clk.tsc_adjust += by;
	move_offset(v, by);
}

void clock_write_tsc_adjust(struct vcpu *v, uint64_t val, bool host)
{
	uint64_t by = val - v->clk.tsc_adjust;

	v->clk.tsc_adjust = val;
	if (!host)
		move_offset(v, by);
}

/* -- ioctls --------------------------------------------------------------- */

/* KVM_SET_TSC_KHZ's argument: 0 means the host's; -EINVAL beyond what the ratio can express. */
static int check_khz(const struct clock *k, uint32_t *khz)
{
	uint64_t max = MIN((uint64_t)k->host_khz << 15, (uint64_t)INT_MAX);

	if (*khz >= max)
		return -EINVAL;
	if (!*khz)
		*khz = k->host_khz;
	return 0;
}

int vcpu_vm_set_tsc_khz(struct vcpu_vm *vm, uint32_t khz)
{
	int ret = check_khz(vm->clock, &khz);

	if (!ret)
		atomic_store(&vm->clock->default_khz, khz);
	return ret;
}

int vcpu_vm_get_tsc_khz(struct vcpu_vm *vm)
{
	return (int)atomic_load(&vm->clock->default_khz);
}

/* Only a TSC that runs at the host's pace is the host's plus an offset. */
static void tell_engine(struct vcpu *v)
{
	engine_set_tsc(v->cpu, atomic_load(&v->clk.ratio) ? NULL : &v->clk.offset);
}

int vcpu_set_tsc_khz(struct vcpu *v, uint32_t khz)
{
	struct clock *k = v->vm->clock;
	uint64_t ratio;
	int ret = check_khz(k, &khz);

	if (ret)
		return ret;
	ratio = ratio_for_khz(k, khz);
	atomic_store(&v->clk.khz, khz);
	if (atomic_exchange(&v->clk.ratio, ratio) != ratio)
		clock_refresh(v->vm);
	tell_engine(v);
	return 0;
}

int vcpu_get_tsc_khz(struct vcpu *v)
{
	return (int)atomic_load(&v->clk.khz);
}

int vcpu_has_attr(struct vcpu *v, const struct kvm_device_attr *a)
{
	return a->group == KVM_VCPU_TSC_CTRL && a->attr == KVM_VCPU_TSC_OFFSET ? 0 : -ENXIO;
}

int vcpu_get_attr(struct vcpu *v, const struct kvm_device_attr *a)
{
	uint64_t offset = atomic_load(&v->clk.offset);
	int ret = vcpu_has_attr(v, a);

	if (mutated(MUTATE_COPY_UNDER_SPIN))
		spin_lock(&v->vm->clock->lock);
	if (!ret)
		ret = base_copy_out((void *)(uintptr_t)a->addr, &offset, sizeof(offset));
	if (mutated(MUTATE_COPY_UNDER_SPIN))
		spin_unlock(&v->vm->clock->lock);
	return ret;
}

int vcpu_set_attr(struct vcpu *v, const struct kvm_device_attr *a)
{
	struct clock *k = v->vm->clock;
	uint64_t offset, tsc;
	bool matched;
	int ret = vcpu_has_attr(v, a);

	if (!ret)
		ret = base_copy_in(&offset, (const void *)(uintptr_t)a->addr, sizeof(offset));
	if (ret)
		return ret;
	spin_lock(&k->lock);
	tsc = clock_guest_tsc(v) - atomic_load(&v->clk.offset) + offset;
	matched = k->write_khz == atomic_load(&v->clk.khz) && k->write_offset == offset;
	note_write(k, v, offset, tsc, base_now_ns(), matched);
	spin_unlock(&k->lock);
	clock_refresh(v->vm);
	return 0;
}

/* -- Birth and end -------------------------------------------------------- */

int clock_vm_init(struct vcpu_vm *vm)
{
	struct clock *k = base_zalloc(sizeof(*k));

	if (!k)
		return -ENOMEM;
	spin_init(&k->lock, LOCK_CLOCK);
	k->host_khz = base_tsc_khz();
	atomic_store(&k->default_khz, k->host_khz);
	scale_for_hz((uint64_t)k->host_khz * 1000, &k->host_mul, &k->host_shift);
	k->base_tsc = base_rdtsc();
	vm->clock = k;
	return 0;
}

void clock_vm_destroy(struct vcpu_vm *vm)
{
	base_free(vm->clock);
	vm->clock = NULL;
}

/* A new vCPU's TSC agrees with the others' if its frequency does. */
void clock_vcpu_init(struct vcpu *v)
{
	struct clock *k = v->vm->clock;
	uint32_t khz = atomic_load(&k->default_khz);

	atomic_store(&v->clk.khz, khz);
	atomic_store(&v->clk.ratio, ratio_for_khz(k, khz));
	synchronize(v, 0);
	tell_engine(v);
}
