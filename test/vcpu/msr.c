/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MSRs: who may read and write which, what is refused, the lists, the filter, and exits to the VMM.
 *	make check T=vcpu/msr
 */
#include "world.h"

#define GP  (-EINVAL)
#define NIL (-ENOENT)

static uint64_t rd(struct vcpu *v, uint32_t index, bool host)
{
	uint64_t val = 0xdeadULL;

	assert_int_equal(vcpu_rdmsr(v, index, &val, host), 0);
	return val;
}

/* -- One row per expectation: a guest's (g) or the VMM's (h) write, its result, what reads back -- */

static const struct {
	uint32_t index;
	bool host;
	uint64_t val;
	int ret;
	uint64_t back;
} writes[] = {
    /* MTRRs */
    {0xfe, false, 0, NIL, 0x508},
    {0x2ff, false, 0xc06, 0, 0xc06},
    {0x2ff, false, 0x1000, GP, 0xc06},
    {0x2ff, false, 2, GP, 0xc06},
    {0x250, false, 0x0606060606060606, 0, 0x0606060606060606},
    {0x250, false, 0x0606060602060606, GP, 0x0606060606060606},
    {0x26f, false, 0x0500040100050004, 0, 0x0500040100050004},
    {0x200, false, 0xc0000006, 0, 0xc0000006},
    {0x200, false, 0xc0000106, GP, 0xc0000006},
    {0x200, true, 1ULL << 40, GP, 0xc0000006},
    {0x201, false, 0xffc0000800, 0, 0xffc0000800},
    {0x201, false, 0xffc0000801, GP, 0xffc0000800},
    {0x20f, false, 0x800, 0, 0x800},
    /* machine checks: no MCG_CTL, 32 banks */
    {0x179, true, 10, NIL, 32},
    {0x17a, false, 5, 0, 5},
    {0x17b, true, 1, GP, 0},
    {0x400, false, ~0ULL, 0, ~0ULL},
    {0x400, false, 1, GP, ~0ULL},
    {0x410, false, ~0x401ULL, 0, ~0x401ULL},
    {0x401, false, 1, GP, 0},
    {0x401, true, 1, 0, 1},
    {0x401, false, 0, 0, 0},
    {0x47f, false, 77, 0, 77},
    /* features */
    {0x3a, false, 5, GP, 0},
    {0x3a, false, 1, 0, 1},
    {0x3a, false, 0, GP, 1},
    {0x3a, true, 0, 0, 0},
    {0x8b, false, 0, 0, 0x100000000},
    {0x8b, true, 0x500000000, 0, 0x500000000},
    {0x34, false, 1, GP, 0},
    {0x34, true, 3, 0, 3},
    {0xce, false, 0, GP, 1U << 31},
    {0x140, false, 2, GP, 0},
    {0x140, false, 1, 0, 1},
    {0xce, true, 0, GP, 1U << 31},
    {0x140, false, 0, 0, 0},
    {0xce, true, 0, 0, 0},
    {0x140, false, 1, GP, 0},
    {0x1a0, false, 0x1881, 0, 0x1801},
    {0x1a0, false, 1, GP, 0x1801},
    {0x1a0, true, 1, 0, 1},
    {0x10a, true, 8, 0, 8},
    {0x48, true, 7, 0, 7},
    {0x48, true, 8, GP, 7},
    {0x345, true, 0, 0, 0},
    {0x345, true, 1, GP, 0},
    {0xc0010015, false, 0x148, 0, 0},
    {0xc0010015, false, 1 << 18, 0, 1 << 18},
    {0xc0010015, false, 1, GP, 1 << 18},
    /* accepted, without effect */
    {0x11e, false, 9, 0, 0xbe702111},
    {0x1d9, false, 3, 0, 0},
    {0x1d9, false, 4, GP, 0},
    {0xc1, false, 5, 0, 0},
    {0x186, false, 5, 0, 0},
    {0xc0010004, false, 5, 0, 0},
    {0xc001001f, false, 5, 0, 0},
    {0xc0010058, false, 1, GP, 0},
    /* read-only */
    {0x17, false, 1, NIL, 0},
    {0x1db, false, 1, NIL, 0},
    {0x198, false, 1, NIL, 1000 | 4ULL << 40},
    /* neighbours */
    {0x1b, false, 0xfee00900, 0, 0xfee00900},
    {0x6e0, false, 123, 0, 123},
    {0x808, false, 0x20, 0, 0x20},
    {ENGINE_OWN, false, 0x1234, 0, 0x1234},
    {ENGINE_OWN, false, 1ULL << 50, GP, 0x1234},
    {0x9e, true, 0x7ffe0000, 0, 0x7ffe0000},
    {0x1fc, false, 7, 0, 7},
    {0x4b564d05, false, 2, GP, 1},
    {0x4b564d05, false, 0, 0, 0},
};

static void test_writes(void **state)
{
	struct vcpu *v = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++) {
		int ret = vcpu_wrmsr(v, writes[i].index, writes[i].val, writes[i].host);
		uint64_t back = rd(v, writes[i].index, true);

		if (ret != writes[i].ret || back != writes[i].back)
			fail_msg("row %u: msr %#x: %d, reads back %#llx", i, writes[i].index, ret,
				 (unsigned long long)back);
	}
}

static void test_unknown(void **state)
{
	static const uint32_t absent[] = {0x480, 0x3b0,	     0x1d0,	 0x2f0,	     0x40000200,
					  0x30c, 0x4b564d02, 0xc0010114, 0xc0010200, 0xffffffff};
	uint64_t val;

	for (unsigned i = 0; i < ARRAY_SIZE(absent); i++) {
		assert_int_not_equal(vcpu_rdmsr(*state, absent[i], &val, true), 0);
		assert_int_not_equal(vcpu_wrmsr(*state, absent[i], 0, true), 0);
	}
}

/* What depends on the guest's CPUID, and what only the VMM may see. */
static void test_guest_cpuid(void **state)
{
	struct vcpu *v = *state;
	uint64_t val;

	assert_int_equal(vcpu_rdmsr(v, 0x9e, &val, false), GP);
	assert_int_equal(vcpu_wrmsr(v, 0x9e, 0, false), GP);
	assert_int_equal(vcpu_rdmsr(v, 0x10a, &val, false), GP);
	assert_int_equal(vcpu_rdmsr(v, 0x48, &val, false), GP);
	assert_int_equal(vcpu_wrmsr(v, 0x49, 1, false), GP);
	assert_int_equal(vcpu_wrmsr(v, 0x49, 1, true), 0);
	assert_int_equal(vcpu_wrmsr(v, 0x10b, 1, false), GP);
	assert_int_equal(vcpu_rdmsr(v, 0x49, &val, true), NIL);
	ncpuid = 1;
	cpuid[0] = (struct kvm_cpuid_entry2){.function = 7, .edx = 1U << 26 | 1U << 28 | 1U << 29};
	assert_int_not_equal(rd(v, 0x10a, false), 0);
	assert_int_equal(vcpu_wrmsr(v, 0x10a, 0, false), GP);
	assert_int_equal(vcpu_wrmsr(v, 0x48, 1, false), 0);
	assert_int_equal(rd(v, 0x48, false), 1);
	assert_int_equal(vcpu_wrmsr(v, 0x49, 1, false), 0);
	assert_int_equal(vcpu_wrmsr(v, 0x49, 2, false), GP);
	assert_int_equal(vcpu_wrmsr(v, 0x10b, 1, false), 0);
	v->cpuid.amd = true;
	assert_int_equal(vcpu_wrmsr(v, 0xc0011029, 2, false), 0);
	assert_int_equal(rd(v, 0xc0011029, false), 2);
	assert_int_equal(vcpu_rdmsr(v, 0x3a, &val, false), GP);
}

static void test_no_apic(void **state)
{
	struct vcpu *v = *state;
	uint64_t val;

	v->lapic = NULL;
	assert_int_equal(vcpu_rdmsr(v, 0x802, &val, false), GP);
	assert_int_equal(vcpu_wrmsr(v, 0x808, 0, false), GP);
	assert_int_equal(vcpu_wrmsr(v, 0x6e0, 99, false), 0);
	assert_int_equal(rd(v, 0x6e0, false), 0);
}

static void test_reset(void **state)
{
	struct vcpu *v = *state;

	assert_int_equal(vcpu_wrmsr(v, 0x2ff, 0xc06, false), 0);
	assert_int_equal(vcpu_wrmsr(v, 0x48, 1, true), 0);
	msr_reset(v, true);
	assert_int_equal(rd(v, 0x2ff, false), 0xc06);
	assert_int_equal(rd(v, 0x48, true), 0);
	msr_reset(v, false);
	assert_int_equal(rd(v, 0x2ff, false), 0);
	assert_int_equal(rd(v, 0x1a0, false), 0x1800);
}

static bool in_list(const uint32_t *list, unsigned n, uint32_t index)
{
	for (unsigned i = 0; i < n; i++)
		if (list[i] == index)
			return true;
	return false;
}

/* Every listed MSR can be read by the VMM, and what was read can be written; none is listed twice. */
static void test_lists(void **state)
{
	static const uint32_t wanted[] = {0x10,	 0x11, 0x12,  0x3b,	  0x174,     0x277,
					  0x6e0, 0x9e, 0x1a0, 0xc0000081, 0x4b564d04};
	struct vcpu *v = *state;
	unsigned n;
	const uint32_t *list = vcpu_msr_list(&n);

	assert_true(n > 30);
	for (unsigned i = 0; i < n; i++) {
		uint64_t val = rd(v, list[i], true);

		assert_false(in_list(list + i + 1, n - i - 1, list[i]));
		if (engine_get_msr(v->cpu, list[i], &val) && vcpu_wrmsr(v, list[i], val, true))
			fail_msg("msr %#x cannot be restored", list[i]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++)
		assert_true(in_list(list, n, wanted[i]));
	list = vcpu_msr_feature_list(&n);
	assert_true(n >= 3);
	for (unsigned i = 0; i < n; i++) {
		uint64_t val;

		assert_int_equal(vcpu_get_feature_msr(list[i], &val), 0);
	}
	assert_int_equal(vcpu_get_feature_msr(0x10, &(uint64_t){0}), -EINVAL);
}

static void test_ioctls_stop_at_the_first_refusal(void **state)
{
	struct kvm_msr_entry e[] = {
	    {.index = 0x1fc, .data = 1}, {.index = 0x3b0}, {.index = 0x1fc, .data = 2}};

	assert_int_equal(vcpu_set_msrs(*state, e, 3), 1);
	e[0].data = 0;
	assert_int_equal(vcpu_get_msrs(*state, e, 3), 1);
	assert_int_equal(e[0].data, 1);
	assert_int_equal(e[2].data, 2);
	assert_int_equal(vcpu_get_msrs(*state, e, 0), 0);
}

/* -- Machine checks -- */

static void test_setup_mce(void **state)
{
	struct vcpu *v = *state;

	assert_int_equal(vcpu_setup_mce(v, 0), -EINVAL);
	assert_int_equal(vcpu_setup_mce(v, 33), -EINVAL);
	assert_int_equal(vcpu_setup_mce(v, 10 | 1 << 27), -EINVAL); /* LMCE */
	assert_int_equal(vcpu_setup_mce(v, 10 | vcpu_mce_cap()), 0);
	assert_int_equal(rd(v, 0x179, false), 10 | vcpu_mce_cap());
	assert_true(rd(v, 0x17b, false) == ~0ULL);
	assert_true(rd(v, 0x424, false) == ~0ULL);
	assert_int_equal(vcpu_rdmsr(v, 0x428, &(uint64_t){0}, false), GP);
	assert_int_equal(vcpu_wrmsr(v, 0x17b, 0, false), 0);
}

static void test_set_mce(void **state)
{
	struct vcpu *v = *state;
	struct kvm_x86_mce m = {.status = 1ULL << 63, .addr = 0x1000, .misc = 5, .bank = 3};

	assert_int_equal(vcpu_setup_mce(v, 4 | vcpu_mce_cap()), 0);
	m.bank = 4;
	assert_int_equal(vcpu_set_mce(v, &m), -EINVAL);
	m.bank = 3;
	m.status = 0;
	assert_int_equal(vcpu_set_mce(v, &m), -EINVAL);
	m.status = 1ULL << 63; /* corrected */
	assert_int_equal(vcpu_set_mce(v, &m), 0);
	assert_int_equal(rd(v, 0x40e, false), 0x1000);
	assert_int_equal(queued_vector, 0);
	m.status = 7ULL << 61; /* uncorrected, with a guest that is not ready */
	m.mcg_status = 4;
	assert_int_equal(vcpu_set_mce(v, &m), 0);
	assert_true(vcpu_request_take(v, VCPU_REQ_TRIPLE_FAULT));
	sregs.cr4 = 1 << 6;
	assert_int_equal(vcpu_set_mce(v, &m), 0);
	assert_int_equal(queued_vector, 18);
	assert_int_equal(rd(v, 0x17a, false), 4);
	assert_true(rd(v, 0x40d, false) >> 62 == 3); /* overflow: there was an error before */
	queued_vector = 0;
	assert_int_equal(vcpu_wrmsr(v, 0x40c, 0, false), 0); /* the bank is off */
	assert_int_equal(vcpu_set_mce(v, &m), 0);
	assert_int_equal(queued_vector, 0);
}

/* -- Filter -- */

static void test_filter_refusals(void **state)
{
	uint8_t bits[0x608] = {0};
	struct kvm_msr_filter f = {.flags = 2};

	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), -EINVAL);
	f.flags = KVM_MSR_FILTER_DEFAULT_DENY; /* denies everything */
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), -EINVAL);
	f.ranges[15] = (struct kvm_msr_filter_range){.flags = 4, .nmsrs = 8, .bitmap = bits};
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), -EINVAL);
	f.ranges[15].flags = 0;
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), -EINVAL);
	f.ranges[15].flags = KVM_MSR_FILTER_READ;
	f.ranges[15].nmsrs = 0x600 * 8 + 1;
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), -EINVAL);
	f.ranges[15].nmsrs = 0x600 * 8;
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), 0);
	f.ranges[15].bitmap = (uint8_t *)8;
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), -EFAULT);
	f.ranges[15].bitmap = bits;
	base_alloc_fail_at(2);
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), -ENOMEM);
	base_alloc_fail_at(0);
}

static void test_filter_judges(void **state)
{
	uint8_t bits[8] = {0x02};
	struct kvm_msr_filter f = {
	    .flags = KVM_MSR_FILTER_DEFAULT_DENY,
	    .ranges = {{.flags = KVM_MSR_FILTER_READ, .base = 0x1fb, .nmsrs = 3, .bitmap = bits}}};
	struct vcpu *v = *state;
	uint64_t val;

	assert_int_equal(vcpu_wrmsr_port(v, 0x1fc, 5), ENGINE_OK);
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), 0);
	assert_int_equal(vcpu_wrmsr_port(v, 0x1fc, 6), ENGINE_GP);
	assert_int_equal(vcpu_rdmsr_port(v, 0x1fc, &val), ENGINE_OK);
	assert_int_equal(val, 5);
	assert_int_equal(vcpu_rdmsr_port(v, 0x10, &val), ENGINE_GP);
	assert_int_equal(vcpu_rdmsr_port(v, 0x802, &val), ENGINE_OK); /* x2APIC is never filtered */
	assert_int_equal(vcpu_rdmsr(v, 0x10, &val, true), 0);	      /* nor is the VMM */
	memset(&f, 0, sizeof(f));
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), 0);
	assert_int_equal(vcpu_rdmsr_port(v, 0x10, &val), ENGINE_OK);
}

/* -- Exits to the VMM -- */

static void test_rdmsr_exit(void **state)
{
	struct vcpu *v = *state;
	uint64_t val = 0;

	assert_int_equal(vcpu_rdmsr_port(v, 0x3b0, &val), ENGINE_GP);
	vm.user_space_msr_mask = KVM_MSR_EXIT_REASON_INVAL;
	assert_int_equal(vcpu_rdmsr_port(v, 0x3b0, &val), ENGINE_GP);
	assert_int_equal(stops, 0);
	vm.user_space_msr_mask = KVM_MSR_EXIT_REASON_UNKNOWN;
	run_page.msr.data = 99;
	assert_int_equal(vcpu_rdmsr_port(v, 0x3b0, &val), ENGINE_STOP);
	assert_int_equal(run_page.exit_reason, KVM_EXIT_X86_RDMSR);
	assert_int_equal(run_page.msr.reason, KVM_MSR_EXIT_REASON_UNKNOWN);
	assert_int_equal(run_page.msr.index, 0x3b0);
	assert_int_equal(run_page.msr.data, 0);
	run_page.msr.data = 0x1122334455667788;
	v->pending.complete(v);
	replay_rewind(v);
	assert_int_equal(vcpu_rdmsr_port(v, 0x3b0, &val), ENGINE_OK);
	assert_true(val == 0x1122334455667788);
	retired++; /* the next instruction asks again */
	assert_int_equal(vcpu_rdmsr_port(v, 0x3b0, &val), ENGINE_STOP);
	run_page.msr.error = 1;
	v->pending.complete(v);
	replay_rewind(v);
	assert_int_equal(vcpu_rdmsr_port(v, 0x3b0, &val), ENGINE_GP);
	assert_int_equal(stops, 2);
}

static void test_wrmsr_exit(void **state)
{
	struct vcpu *v = *state;

	vm.user_space_msr_mask = KVM_MSR_EXIT_REASON_INVAL;
	assert_int_equal(vcpu_wrmsr_port(v, 0x2ff, 2), ENGINE_STOP);
	assert_int_equal(run_page.exit_reason, KVM_EXIT_X86_WRMSR);
	assert_int_equal(run_page.msr.reason, KVM_MSR_EXIT_REASON_INVAL);
	assert_int_equal(run_page.msr.data, 2);
	v->pending.complete(v);
	replay_rewind(v);
	assert_int_equal(vcpu_wrmsr_port(v, 0x2ff, 2), ENGINE_OK);
	assert_int_equal(stops, 1);
	assert_int_equal(vcpu_rdpmc_port(v, 0, &(uint64_t){0}), ENGINE_GP);
}

static void test_filter_exit(void **state)
{
	uint8_t bits[8] = {0};
	struct kvm_msr_filter f = {
	    .ranges = {{.flags = KVM_MSR_FILTER_READ, .base = 0x35, .nmsrs = 1, .bitmap = bits}}};
	struct vcpu *v = *state;
	uint64_t val;

	vm.user_space_msr_mask = KVM_MSR_EXIT_REASON_FILTER;
	assert_int_equal(vcpu_vm_set_msr_filter(&vm, &f), 0);
	assert_int_equal(vcpu_rdmsr_port(v, 0x35, &val), ENGINE_STOP);
	assert_int_equal(run_page.msr.reason, KVM_MSR_EXIT_REASON_FILTER);
	assert_int_equal(vcpu_wrmsr_port(v, 0x35, 1), ENGINE_GP);
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_writes),
	    T(test_unknown),
	    T(test_guest_cpuid),
	    T(test_no_apic),
	    T(test_reset),
	    T(test_lists),
	    T(test_ioctls_stop_at_the_first_refusal),
	    T(test_setup_mce),
	    T(test_set_mce),
	    T(test_filter_refusals),
	    T(test_filter_judges),
	    T(test_rdmsr_exit),
	    T(test_wrmsr_exit),
	    T(test_filter_exit),
	};

	return cmocka_run_group_tests(tests, world_signals, NULL);
}
