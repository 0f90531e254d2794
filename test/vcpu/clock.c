/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's TSC (offset, scaling, synchronisation of writes), kvmclock, and the pages of a paravirtual
 * guest.	make check T=vcpu/clock
 */
#include <time.h>
#include <unistd.h>

#include "world.h"

#define SECOND 1000000000ULL

#define IA32_TSC	0x10
#define IA32_TSC_ADJUST 0x3b
#define WALL_CLOCK	0x4b564d00
#define SYSTEM_TIME	0x4b564d01
#define STEAL_TIME	0x4b564d03
#define PV_EOI		0x4b564d04

/* What a guest reads at a kvmclock page, with the arithmetic of its kernel. */
struct page {
	uint32_t version, pad0;
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad[2];
};

static uint64_t guest_ns(uint64_t gpa, uint64_t tsc)
{
	struct page p;
	uint64_t delta;

	memcpy(&p, ram + gpa, sizeof(p));
	assert_int_equal(p.version & 1, 0);
	assert_int_not_equal(p.version, 0);
	delta = tsc - p.tsc_timestamp;
	delta = p.shift < 0 ? delta >> -p.shift : delta << p.shift;
	return p.system_time + (uint64_t)(((unsigned __int128)delta * p.mul) >> 32);
}

static void assert_near(uint64_t a, uint64_t b, uint64_t tolerance)
{
	uint64_t d = a > b ? a - b : b - a;

	if (d > tolerance)
		fail_msg("%llu and %llu differ by %llu", (unsigned long long)a, (unsigned long long)b,
			 (unsigned long long)d);
}

static void host_write(struct vcpu *v, uint32_t index, uint64_t val)
{
	assert_int_equal(vcpu_wrmsr(v, index, val, true), 0);
}

static uint64_t ms_of_tsc(struct vcpu *v)
{
	return (uint64_t)vcpu_get_tsc_khz(v);
}

static void test_tsc_starts_at_zero(void **state)
{
	assert_true(clock_guest_tsc(*state) < 1000 * ms_of_tsc(*state));
}

static void test_tsc_khz(void **state)
{
	struct vcpu *v = *state;
	uint32_t host = base_tsc_khz();
	uint64_t t0, t1, h0, h1;

	assert_int_equal(vcpu_get_tsc_khz(v), host);
	assert_int_equal(vcpu_set_tsc_khz(v, 0x7fffffff), -EINVAL);
	assert_int_equal(vcpu_get_tsc_khz(v), host);
	assert_ptr_equal(tsc_cell, &v->clk.offset);
	assert_int_equal(vcpu_set_tsc_khz(v, host / 2), 0);
	assert_int_equal(vcpu_get_tsc_khz(v), host / 2);
	assert_null(tsc_cell);
	h0 = base_rdtsc();
	t0 = clock_scale_tsc(v, h0);
	h1 = h0 + 1000000;
	t1 = clock_scale_tsc(v, h1);
	assert_near(t1 - t0, 500000, 10);
	assert_int_equal(vcpu_set_tsc_khz(v, host), 0);
	assert_int_equal(clock_scale_tsc(v, h1) - clock_scale_tsc(v, h0), 1000000);
	assert_ptr_equal(tsc_cell, &v->clk.offset);
	assert_int_equal(vcpu_set_tsc_khz(v, 0), 0);
	assert_int_equal(vcpu_get_tsc_khz(v), host);
}

static void test_vm_khz_is_for_new_vcpus(void **state)
{
	uint32_t host = base_tsc_khz();

	assert_int_equal(vcpu_vm_set_tsc_khz(&vm, 0x7fffffff), -EINVAL);
	assert_int_equal(vcpu_vm_set_tsc_khz(&vm, 2 * host), 0);
	assert_int_equal(vcpu_vm_get_tsc_khz(&vm), 2 * host);
	assert_int_equal(vcpu_get_tsc_khz(*state), host);
	assert_int_equal(vcpu_get_tsc_khz(world_vcpu(1)), 2 * host);
}

static void test_guest_write_moves_adjust(void **state)
{
	struct vcpu *v = *state;
	uint64_t val;

	ncpuid = 1;
	cpuid[0] = (struct kvm_cpuid_entry2){.function = 7, .ebx = 2};
	assert_int_equal(vcpu_wrmsr(v, IA32_TSC, 1ULL << 50, false), 0);
	assert_near(clock_guest_tsc(v), 1ULL << 50, 1000 * ms_of_tsc(v));
	assert_int_equal(vcpu_rdmsr(v, IA32_TSC_ADJUST, &val, false), 0);
	assert_near(val, 1ULL << 50, 10000 * ms_of_tsc(v));
	assert_int_equal(vcpu_wrmsr(v, IA32_TSC_ADJUST, 0, false), 0);
	assert_true(clock_guest_tsc(v) < 10000 * ms_of_tsc(v));
	/* the VMM's write restores the register only */
	host_write(v, IA32_TSC_ADJUST, 1ULL << 40);
	assert_true(clock_guest_tsc(v) < 10000 * ms_of_tsc(v));
}

static void test_host_writes_synchronize(void **state)
{
	struct vcpu *a = *state, *b = world_vcpu(1);

	assert_int_equal(atomic_load(&a->clk.offset), atomic_load(&b->clk.offset));
	host_write(a, IA32_TSC, 1ULL << 45);
	assert_int_not_equal(atomic_load(&a->clk.offset), atomic_load(&b->clk.offset));
	host_write(b, IA32_TSC, (1ULL << 45) + 1000); /* within a second: the same moment is meant */
	assert_int_equal(atomic_load(&a->clk.offset), atomic_load(&b->clk.offset));
	host_write(b, IA32_TSC, (1ULL << 45) + 3000 * ms_of_tsc(b)); /* three seconds later: another one */
	assert_int_not_equal(atomic_load(&a->clk.offset), atomic_load(&b->clk.offset));
	host_write(a, IA32_TSC, 0);
	assert_int_equal(atomic_load(&a->clk.offset), atomic_load(&b->clk.offset));
	assert_true(clock_guest_tsc(a) > 1ULL << 45);
}

static void test_offset_attribute(void **state)
{
	struct vcpu *v = *state;
	uint64_t offset = 12345;
	struct kvm_device_attr a = {
	    .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};

	assert_int_equal(vcpu_has_attr(v, &a), 0);
	assert_int_equal(vcpu_set_attr(v, &a), 0);
	assert_int_equal(clock_scale_tsc(v, 1000), 13345);
	offset = 0;
	assert_int_equal(vcpu_get_attr(v, &a), 0);
	assert_int_equal(offset, 12345);
	a.addr = 8;
	assert_int_equal(vcpu_get_attr(v, &a), -EFAULT);
	assert_int_equal(vcpu_set_attr(v, &a), -EFAULT);
	a.attr++;
	assert_int_equal(vcpu_has_attr(v, &a), -ENXIO);
	assert_int_equal(vcpu_set_attr(v, &a), -ENXIO);
	a.attr--;
	a.group++;
	assert_int_equal(vcpu_get_attr(v, &a), -ENXIO);
}

static void test_deadline(void **state)
{
	struct vcpu *v = *state;
	uint64_t now = clock_guest_tsc(v), ns = base_now_ns();

	assert_near(clock_tsc_deadline_ns(v, now + 1000 * ms_of_tsc(v)), ns + SECOND, SECOND / 5);
	assert_near(clock_tsc_deadline_ns(v, 0), ns, SECOND / 5);
	assert_true(clock_tsc_deadline_ns(v, ~0ULL) > ns + 3600 * SECOND);
	assert_int_equal(vcpu_set_tsc_khz(v, base_tsc_khz() / 4), 0);
	now = clock_guest_tsc(v);
	ns = base_now_ns();
	assert_near(clock_tsc_deadline_ns(v, now + 1000 * ms_of_tsc(v)), ns + SECOND, SECOND / 5);
}

static void test_get_and_set_clock(void **state)
{
	struct kvm_clock_data c, d = {.clock = 500 * SECOND};

	assert_int_equal(vcpu_vm_get_clock(&vm, &c), 0);
	assert_int_equal(c.flags, KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | KVM_CLOCK_TSC_STABLE);
	assert_true(c.clock < SECOND);
	assert_near(c.realtime / SECOND, (uint64_t)time(NULL), 2);
	assert_near(c.host_tsc, base_rdtsc(), 1000ULL * base_tsc_khz());
	d.flags = 1; /* no such flag */
	assert_int_equal(vcpu_vm_set_clock(&vm, &d), -EINVAL);
	d.flags = 0;
	assert_int_equal(vcpu_vm_set_clock(&vm, &d), 0);
	assert_int_equal(vcpu_vm_get_clock(&vm, &c), 0);
	assert_near(c.clock, 500 * SECOND, SECOND);
	assert_true(c.clock >= 500 * SECOND);
	d.flags = KVM_CLOCK_REALTIME;
	d.realtime = c.realtime - 100 * SECOND; /* saved 100 seconds ago */
	assert_int_equal(vcpu_vm_set_clock(&vm, &d), 0);
	assert_int_equal(vcpu_vm_get_clock(&vm, &c), 0);
	assert_near(c.clock, 600 * SECOND, SECOND);
	assert_true(atomic_load(&((struct vcpu *)*state)->requests) & VCPU_REQ_CLOCK);
}

static void test_unstable_when_tscs_differ(void **state)
{
	struct vcpu *v = world_vcpu(1);
	struct kvm_clock_data c;

	assert_int_equal(vcpu_wrmsr(v, IA32_TSC, 1ULL << 60, false), 0);
	assert_int_equal(vcpu_vm_get_clock(&vm, &c), 0);
	assert_false(c.flags & KVM_CLOCK_TSC_STABLE);
	assert_true(atomic_load(&((struct vcpu *)*state)->requests) & VCPU_REQ_CLOCK);
}

/* The guest's arithmetic and KVM_GET_CLOCK agree, scaled or not. */
static void check_page(struct vcpu *v)
{
	struct kvm_clock_data c;
	uint64_t guest;

	assert_int_equal(vcpu_wrmsr(v, SYSTEM_TIME, 0x1001, false), 0);
	pv_before_entry(v);
	assert_int_equal(vcpu_vm_get_clock(&vm, &c), 0);
	guest = guest_ns(0x1000, clock_scale_tsc(v, c.host_tsc));
	assert_near(guest, c.clock, 1000);
}

static void test_time_page(void **state)
{
	struct vcpu *v = *state;
	const struct page *p = (const struct page *)(ram + 0x1000);
	uint32_t version;

	assert_int_equal(vcpu_kvmclock_ctrl(v), -EINVAL);
	check_page(v);
	version = p->version;
	assert_int_equal(p->flags, 1);
	assert_int_equal(vcpu_kvmclock_ctrl(v), 0);
	pv_before_entry(v);
	assert_int_equal(p->flags, 3);
	assert_true(p->version > version);
	usleep(2000);
	check_page(v);
	assert_int_equal(p->flags, 3); /* until the guest clears it */
	ram[0x1000 + offsetof(struct page, flags)] = 0;
	check_page(v);
	assert_int_equal(p->flags, 1);
	assert_int_equal(vcpu_set_tsc_khz(v, base_tsc_khz() / 3), 0);
	check_page(v);
	assert_int_equal(vcpu_set_tsc_khz(v, 4 * base_tsc_khz()), 0);
	check_page(v);
	/* nowhere and across a page's end: no page, no error */
	assert_int_equal(vcpu_wrmsr(v, SYSTEM_TIME, (1ULL << 40) | 1, false), 0);
	pv_before_entry(v);
	assert_int_equal(vcpu_wrmsr(v, SYSTEM_TIME, 0x1ff1, false), 0);
	assert_int_equal(vcpu_kvmclock_ctrl(v), -EINVAL);
}

static void test_wall_clock(void **state)
{
	struct vcpu *v = *state;
	struct {
		uint32_t version, sec, nsec;
	} w;
	struct kvm_clock_data c;
	uint64_t val;

	assert_int_equal(vcpu_wrmsr(v, WALL_CLOCK, 0x2000, false), 0);
	memcpy(&w, ram + 0x2000, sizeof(w));
	assert_int_equal(w.version & 1, 0);
	assert_int_not_equal(w.version, 0);
	assert_int_equal(vcpu_vm_get_clock(&vm, &c), 0);
	assert_near(w.sec * SECOND + w.nsec, c.realtime - c.clock, SECOND / 10);
	assert_int_equal(vcpu_rdmsr(v, WALL_CLOCK, &val, false), 0);
	assert_int_equal(val, 0x2000);
	assert_int_equal(vcpu_wrmsr(v, WALL_CLOCK, 0, true), 0);
}

static void test_steal_time(void **state)
{
	struct vcpu *v = *state;
	struct {
		uint64_t steal;
		uint32_t version, flags;
		uint8_t preempted;
	} s;

	assert_int_equal(vcpu_wrmsr(v, STEAL_TIME, 0x3003, false), -EINVAL);
	ram[0x3000 + 16] = 1;
	assert_int_equal(vcpu_wrmsr(v, STEAL_TIME, 0x3001, false), 0);
	pv_before_entry(v);
	memcpy(&s, ram + 0x3000, sizeof(s));
	assert_int_equal(s.version, 2);
	assert_int_equal(s.preempted, 0);
	assert_true(s.steal < 60 * SECOND);
	pv_before_entry(v); /* at once: nothing to do */
	usleep(1500);
	pv_before_entry(v);
	memcpy(&s, ram + 0x3000, sizeof(s));
	assert_int_equal(s.version, 4);
	assert_int_equal(vcpu_wrmsr(v, STEAL_TIME, 0, false), 0);
	usleep(1500);
	pv_before_entry(v);
	memcpy(&s, ram + 0x3000, sizeof(s));
	assert_int_equal(s.version, 4);
}

static void test_pv_eoi(void **state)
{
	struct vcpu *v = *state;

	assert_int_equal(vcpu_wrmsr(v, PV_EOI, 0x4003, false), -EINVAL);
	assert_int_equal(vcpu_wrmsr(v, PV_EOI, WORLD_RAM | 1, false), -EINVAL);
	assert_int_equal(vcpu_wrmsr(v, PV_EOI, 0x4001, false), 0);
	pv_before_entry(v);
	assert_int_equal(ram[0x4000], 0);
	pv_eoi_wanted = true;
	pv_before_entry(v);
	assert_int_equal(ram[0x4000], 1);
	pv_after_exit(v); /* not yet acknowledged: taken back */
	assert_int_equal(ram[0x4000], 0);
	assert_int_equal(eois, 0);
	pv_before_entry(v);
	ram[0x4000] = 0; /* the guest acknowledges */
	pv_after_exit(v);
	assert_int_equal(eois, 1);
	pv_after_exit(v);
	assert_int_equal(eois, 1);
	pv_reset(v, true);
	pv_before_entry(v);
	assert_int_equal(ram[0x4000], 0);
}

static void test_enforced_features(void **state)
{
	struct vcpu *v = *state;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};

	assert_int_equal(vcpu_enable_cap(v, &cap), 0);
	assert_int_equal(vcpu_wrmsr(v, SYSTEM_TIME, 0x1001, false), -EINVAL);
	ncpuid = 1;
	cpuid[0] = (struct kvm_cpuid_entry2){.function = 0x40000001, .eax = 1 << 3};
	assert_int_equal(vcpu_wrmsr(v, SYSTEM_TIME, 0x1001, false), 0);
	assert_int_equal(vcpu_wrmsr(v, 0x12, 0x1001, false), -EINVAL);
	cap.cap = KVM_CAP_HYPERV_SYNIC;
	assert_int_equal(vcpu_enable_cap(v, &cap), -EINVAL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_tsc_starts_at_zero),
	    T(test_tsc_khz),
	    T(test_vm_khz_is_for_new_vcpus),
	    T(test_guest_write_moves_adjust),
	    T(test_host_writes_synchronize),
	    T(test_offset_attribute),
	    T(test_deadline),
	    T(test_get_and_set_clock),
	    T(test_unstable_when_tscs_differ),
	    T(test_time_page),
	    T(test_wall_clock),
	    T(test_steal_time),
	    T(test_pv_eoi),
	    T(test_enforced_features),
	};

	return cmocka_run_group_tests(tests, world_signals, NULL);
}
