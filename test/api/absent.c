/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is not served says so: the last table of doc/ioctl.md. make check T=api/absent
 * Seen to fail with rows for KVM_CAP_ASYNC_PF in api/caps.c and for KVM_SET_MEMORY_ALIAS in api/ioctl_vm.c.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/ioctl.h>

#include "kvm_util.h"

static const struct {
	const char *name;
	unsigned long request;
	bool vcpu;
	int err;
} requests[] = {
#define R(request, vcpu, err)                \
	{                                    \
#request, request, vcpu, err \
	}
    R(KVM_GET_NESTED_STATE, true, EINVAL),
    R(KVM_SET_NESTED_STATE, true, EINVAL),
    R(KVM_GET_ONE_REG, true, EINVAL),
    R(KVM_SET_ONE_REG, true, EINVAL),
    R(KVM_MEMORY_ENCRYPT_OP, false, ENOTTY),
    R(KVM_MEMORY_ENCRYPT_REG_REGION, false, ENOTTY),
    R(KVM_MEMORY_ENCRYPT_UNREG_REGION, false, ENOTTY),
    R(KVM_SET_MEMORY_REGION, false, ENOTTY),
    R(KVM_SET_MEMORY_ALIAS, false, ENOTTY),
    R(KVM_ASSIGN_PCI_DEVICE, false, ENOTTY),
};

static const struct {
	const char *name;
	int cap;
} caps[] = {
#define C(cap)            \
	{                 \
#cap, cap \
	}
    C(KVM_CAP_ASYNC_PF),
    C(KVM_CAP_ASYNC_PF_INT),
    C(KVM_CAP_EXIT_HYPERCALL),
    C(KVM_CAP_GUEST_DEBUG_HW_BPS),
    C(KVM_CAP_GUEST_DEBUG_HW_WPS),
    C(KVM_CAP_HALT_POLL),
    C(KVM_CAP_HYPERV_DIRECT_TLBFLUSH),
    C(KVM_CAP_HYPERV_ENLIGHTENED_VMCS),
    C(KVM_CAP_INTR_SHADOW),
    C(KVM_CAP_IOMMU),
    C(KVM_CAP_LAST_CPU),
    C(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT),
    C(KVM_CAP_NESTED_STATE),
    C(KVM_CAP_ONE_REG),
    C(KVM_CAP_PCI_2_3),
    C(KVM_CAP_PCI_SEGMENT),
    C(KVM_CAP_PV_MMU),
    C(KVM_CAP_SGX_ATTRIBUTE),
    C(KVM_CAP_SMALLER_MAXPHYADDR),
    C(KVM_CAP_VM_COPY_ENC_CONTEXT_FROM),
    C(KVM_CAP_VM_DISABLE_NX_HUGE_PAGES),
    C(KVM_CAP_VM_GPA_BITS),
    C(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM),
    C(KVM_CAP_VM_ATTRIBUTES),
    C(KVM_CAP_X86_BUS_LOCK_EXIT),
    C(KVM_CAP_X86_NOTIFY_VMEXIT),
};

static void requests_are_refused(void **state)
{
	static char buf[4096];
	struct ku_vcpu cpu;
	struct ku_vm vm;

	if (ku_oracle())
		skip(); /* a real KVM serves some of them */
	ku_vm_create(&vm, 1 << 20);
	ku_vcpu_create(&vm, 0, &cpu);
	for (size_t k = 0; k < sizeof(requests) / sizeof(requests[0]); k++) {
		print_message("%s\n", requests[k].name);
		assert_int_equal(ku_errno(requests[k].vcpu ? cpu.fd : vm.fd, requests[k].request, buf),
				 requests[k].err);
	}
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
}

static void capabilities_are_not_claimed(void **state)
{
	struct ku_vm vm;

	if (ku_oracle())
		skip(); /* a real KVM has some of them */
	ku_vm_create(&vm, 1 << 20);
	for (size_t k = 0; k < sizeof(caps) / sizeof(caps[0]); k++) {
		print_message("%s\n", caps[k].name);
		assert_int_equal(ioctl(vm.fd, KVM_CHECK_EXTENSION, caps[k].cap), 0);
		assert_int_equal(ioctl(vm.sys, KVM_CHECK_EXTENSION, caps[k].cap), 0);
	}
	ku_vm_destroy(&vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(requests_are_refused),
	    cmocka_unit_test(capabilities_are_not_claimed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
