/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Capabilities that a VMM enables on a VM and that the guest then meets.
 *	make check T=guest/caps
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cpuid.h>

#include "guest_util.h"

static struct gu g;

static int setup(void **state)
{
	gu_start(&g, GU_LONG);
	return 0;
}

static int teardown(void **state)
{
	gu_end(&g);
	return 0;
}

static int enable(uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap c = {.cap = cap, .args = {arg}};

	return ku_errno(g.vm.fd, KVM_ENABLE_CAP, &c);
}

static bool host_is_amd(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0, &a, &b, &c, &d) && (c == 0x444d4163 || c == 0x656e6975);
}

KU_ASM(platform_info, 64, "mov $0xce, %ecx\n rdmsr\n out %al, $0xe1\n hlt");

/* The guest reads it unless told not to; the VMM always does. Seen to fail without the check in get_platform_info.
 * WORKS: KVM_CAP_MSR_PLATFORM_INFO | the guest's RDMSR of MSR_PLATFORM_INFO faults when it is off */
static void platform(void **state)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = {.head.nmsrs = 1, .e.index = 0xce};
	struct gu_trap t;

	assert_int_equal(ioctl(g.vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_MSR_PLATFORM_INFO), 1);
	GU_ASM(&g, platform_info);
	assert_int_equal(ku_run(&g.cpu), KVM_EXIT_IO);
	assert_int_equal(g.cpu.run->io.port, 0xe1);
	assert_int_equal(enable(KVM_CAP_MSR_PLATFORM_INFO, 0), 0);
	GU_ASM(&g, platform_info);
	assert_true(gu_trap(&g, &t));
	assert_int_equal(t.vector, 13);
	assert_int_equal(ioctl(g.cpu.fd, KVM_GET_MSRS, &m), 1);
	assert_true(m.e.data & 1u << 31);
	assert_int_equal(enable(KVM_CAP_MSR_PLATFORM_INFO, 1), 0);
	GU_ASM(&g, platform_info);
	assert_int_equal(ku_run(&g.cpu), KVM_EXIT_IO);
	assert_int_equal(g.cpu.run->io.port, 0xe1);
}

KU_ASM(vmcall, 64, "mov $1000, %eax\n vmcall\n out %al, $0xe1\n hlt");
KU_ASM(vmmcall, 64, "mov $1000, %eax\n vmmcall\n out %al, $0xe1\n hlt");
#define CALL_AT 5

/* The other vendor's instruction becomes the host's own, in the guest's memory; with the quirk off it is
 * undefined and stays. Seen to fail with foreign of hypercall.c always ENGINE_UD, and always ENGINE_FIX. */
static void foreign_hypercall(void **state)
{
	const uint8_t *own = host_is_amd() ? vmmcall : vmcall, *other = host_is_amd() ? vmcall : vmmcall;
	struct gu_trap t;
	struct kvm_regs r;

	if (ku_oracle())
		skip(); /* a KVM without VT-x repeats the instruction for ever */
	assert_true(ioctl(g.vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2) &
		    KVM_X86_QUIRK_FIX_HYPERCALL_INSN);
	gu_code(&g, other, (size_t)(vmcall_end - vmcall), 0);
	assert_int_equal(ku_run(&g.cpu), KVM_EXIT_IO);
	assert_int_equal(g.cpu.run->io.port, 0xe1);
	ku_get_regs(&g.cpu, &r);
	assert_int_equal((int64_t)r.rax, -1000); /* -KVM_ENOSYS */
	assert_memory_equal(g.vm.ram + GU_CODE, own, (size_t)(vmcall_end - vmcall));
	assert_int_equal(enable(KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_FIX_HYPERCALL_INSN), 0);
	gu_code(&g, other, (size_t)(vmcall_end - vmcall), 0);
	assert_true(gu_trap(&g, &t));
	assert_int_equal(t.vector, 6);
	assert_int_equal(t.rip, GU_CODE + CALL_AT);
	assert_memory_equal(g.vm.ram + GU_CODE, other, (size_t)(vmcall_end - vmcall));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(platform, setup, teardown),
	    cmocka_unit_test_setup_teardown(foreign_hypercall, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
