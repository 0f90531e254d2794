/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A world around msr.c, clock.c and pv.c: a VM with flat memory, a LAPIC that remembers what it was told, an
 * engine with one MSR, and the CPUID that a test sets. Included once by each test.
 */
#ifndef TEST_VCPU_WORLD_H
#define TEST_VCPU_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "vcpu/internal.h"
#include "../sig_shim.h"

#define WORLD_RAM    0x10000
#define WORLD_VCPUS  2
#define ENGINE_OWN   0xc0000082 /* LSTAR */
#define WORLD_CPUIDS 8

static uint8_t ram[WORLD_RAM];
static struct vcpu_vm vm;
static struct vcpu *vcpus[WORLD_VCPUS];
static struct srcu srcu;
static struct kvm_run run_page;
static _Atomic uint32_t exit_word;
static uint64_t lstar, tsc_deadline, apic_base, x2apic_val;
static uint64_t retired, linear_rip;
static unsigned eois, queued_vector, stops;
static bool pv_eoi_wanted;
static struct kvm_sregs sregs;
static struct kvm_cpuid_entry2 cpuid[WORLD_CPUIDS];
static unsigned ncpuid;
static struct engine_features features = {.maxphyaddr = 40};

/* -- engine -- */

int engine_get_msr(const struct engine_cpu *c, uint32_t index, uint64_t *value)
{
	static const uint32_t zero[] = {0x174,	    0x175,	0x176,	    0x277,	0xda0,
					0xc0000081, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103};

	*value = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(zero); i++)
		if (zero[i] == index)
			return 0;
	if (index != ENGINE_OWN)
		return -ENOENT;
	*value = lstar;
	return 0;
}

int engine_set_msr(struct engine_cpu *c, uint32_t index, uint64_t value, bool host)
{
	if (index != ENGINE_OWN)
		return -ENOENT;
	if ((int64_t)(value << 16) >> 16 != (int64_t)value)
		return -EINVAL;
	lstar = value;
	return 0;
}

static const _Atomic uint64_t *tsc_cell;

void engine_set_tsc(struct engine_cpu *c, const _Atomic uint64_t *offset)
{
	tsc_cell = offset;
}

void engine_get_sregs(const struct engine_cpu *c, struct kvm_sregs *s)
{
	*s = sregs;
}

uint64_t engine_xcr0_host(void)
{
	return 7;
}

uint32_t engine_xsave_size(uint64_t components, bool compacted)
{
	return 832;
}

uint64_t engine_retired(const struct engine_cpu *c)
{
	return retired;
}

uint64_t engine_linear_rip(const struct engine_cpu *c)
{
	return linear_rip;
}

/* -- irq -- */

int lapic_msr_read(struct lapic *l, uint32_t index, uint64_t *val)
{
	*val = x2apic_val;
	return index == 0x8ff ? -EINVAL : 0;
}

int lapic_msr_write(struct lapic *l, uint32_t index, uint64_t val)
{
	x2apic_val = val;
	return index == 0x8ff ? -EINVAL : 0;
}

uint64_t lapic_get_tscdeadline(const struct lapic *l)
{
	return tsc_deadline;
}

void lapic_set_tscdeadline(struct lapic *l, uint64_t guest_tsc)
{
	tsc_deadline = guest_tsc;
}

void lapic_set_cmci(struct lapic *l, bool cmci)
{
}

int lapic_local_deliver(struct lapic *l, unsigned lvt)
{
	return 0;
}

bool lapic_pv_eoi_wanted(struct lapic *l)
{
	return pv_eoi_wanted;
}

void lapic_pv_eoi_done(struct lapic *l)
{
	eois++;
}

/* -- mem -- */

int mem_read(struct mem *m, unsigned as, uint64_t gpa, void *buf, size_t len)
{
	if (gpa > WORLD_RAM || len > WORLD_RAM - gpa)
		return -EFAULT;
	memcpy(buf, ram + gpa, len);
	return 0;
}

int mem_write(struct mem *m, unsigned as, uint64_t gpa, const void *buf, size_t len)
{
	if (gpa > WORLD_RAM || len > WORLD_RAM - gpa)
		return -EFAULT;
	memcpy(ram + gpa, buf, len);
	return 0;
}

bool mem_is_visible(struct mem *m, unsigned as, uint64_t gpa)
{
	return gpa < WORLD_RAM;
}

/* -- the rest of vcpu/ -- */

void vcpu_request(struct vcpu *v, uint64_t bits)
{
	atomic_fetch_or(&v->requests, bits);
}

const struct kvm_cpuid_entry2 *cpuid_find(const struct vcpu *v, uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < ncpuid; i++)
		if (cpuid[i].function == function)
			return &cpuid[i];
	return NULL;
}

const struct engine_features *cpuid_features(const struct vcpu *v)
{
	return &features;
}

bool cpuid_has_pv(const struct vcpu *v, unsigned bit)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, 0x40000001, 0);

	return e && (e->eax >> bit & 1);
}

bool vcpu_host_is_amd(void)
{
	return false;
}

/* The PMU, Hyper-V and Xen are test/guest matters. */
uint32_t vcpu_xen_msr(const struct vcpu_vm *vm)
{
	return 0;
}

int xen_hypercall_page(struct vcpu *v, uint64_t val)
{
	return -EINVAL;
}

bool pmu_has_msr(const struct vcpu *v, uint32_t index)
{
	return false;
}

int pmu_get_msr(struct vcpu *v, uint32_t index, uint64_t *val)
{
	return -EINVAL;
}

int pmu_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	return -EINVAL;
}

int pmu_set_caps(struct vcpu *v, uint64_t val)
{
	return val ? -EINVAL : 0;
}

int pmu_rdpmc(struct vcpu *v, uint32_t index, uint64_t *val)
{
	return -EINVAL;
}

int hyperv_get_msr(struct vcpu *v, uint32_t index, uint64_t *val, bool host)
{
	*val = 0;
	return host ? 0 : -EINVAL;
}

int hyperv_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	return host ? 0 : -EINVAL;
}

void hyperv_clock_set(struct vcpu_vm *vm)
{
}

void hyperv_clock_update(struct vcpu *v)
{
}

int synic_activate(struct vcpu *v, bool keep_pages)
{
	return -EINVAL;
}

uint64_t vcpu_get_apic_base(const struct vcpu *v)
{
	return apic_base;
}

int vcpu_set_apic_base(struct vcpu *v, uint64_t base, bool host)
{
	apic_base = base;
	return 0;
}

void event_queue(struct vcpu *v, uint8_t vector, bool has_error, uint32_t error)
{
	queued_vector = vector;
}

enum engine_status vcpu_stop(struct vcpu *v, const struct vcpu_access *a, void (*complete)(struct vcpu *v))
{
	stops++;
	v->pending = (struct vcpu_pending){.complete = complete, .linear_rip = linear_rip, .access = *a};
	return ENGINE_STOP;
}

enum engine_status vcpu_stop_result(struct vcpu *v, int result)
{
	v->run_result = result;
	return ENGINE_STOP;
}

/* -- Set-up -- */

static struct vcpu *world_vcpu(unsigned i)
{
	struct vcpu *v = base_zalloc(sizeof(*v));

	assert_non_null(v);
	v->vm = &vm;
	v->id = v->index = i;
	v->run = &run_page;
	v->lapic = (struct lapic *)ram; /* never looked into */
	v->exit_word = &exit_word;
	assert_int_equal(replay_init(v), 0);
	clock_vcpu_init(v);
	msr_reset(v, false);
	pv_reset(v, false);
	atomic_store(&vm.vcpus[i], v);
	atomic_store(&vm.nr_vcpus, i + 1);
	vcpus[i] = v;
	return v;
}

/* For the group: faults in windows are ours. */
static int world_signals(void **state)
{
	return base_sig_enable();
}

/* A VM with one vCPU; *state is the vCPU. */
static int world_setup(void **state)
{
	memset(ram, 0, sizeof(ram));
	memset(&vm, 0, sizeof(vm));
	memset(&run_page, 0, sizeof(run_page));
	memset(&sregs, 0, sizeof(sregs));
	ncpuid = eois = queued_vector = stops = 0;
	lstar = tsc_deadline = apic_base = x2apic_val = 0;
	pv_eoi_wanted = false;
	assert_int_equal(loop_start(), 0);
	assert_int_equal(srcu_init(&srcu, LOCK_SRCU_VM), 0);
	vm.srcu = &srcu;
	assert_int_equal(msr_init(), 0);
	assert_int_equal(clock_vm_init(&vm), 0);
	assert_int_equal(msr_vm_init(&vm), 0);
	*state = world_vcpu(0);
	return 0;
}

static int world_teardown(void **state)
{
	for (unsigned i = 0; i < WORLD_VCPUS; i++) {
		if (!vcpus[i])
			continue;
		msr_destroy(vcpus[i]);
		replay_destroy(vcpus[i]);
		base_free(vcpus[i]);
		vcpus[i] = NULL;
	}
	msr_vm_destroy(&vm);
	clock_vm_destroy(&vm);
	srcu_barrier(&srcu);
	srcu_cleanup(&srcu);
	assert_int_equal(base_bug_count(), 0);
	return 0;
}

#endif
