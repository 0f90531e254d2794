/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VFIO's files through the ABI: groups, containers, devices.
 *	make check T=api/vfio_files
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vfio_util.h"

static void smoke(void **state)
{
	int c, g, d, vm, kv, sys = ku_open();
	char ram[8192] __attribute__((aligned(4096))) = "hello";

	vm = ioctl(sys, KVM_CREATE_VM, 0);
	kv = vu_kvm_device(vm);
	vu_group("/dev/vfio/0", &c, &g);
	assert_int_equal(ku_errno(g, VFIO_GROUP_GET_DEVICE_FD, "test0"), EINVAL);
	assert_int_equal(vu_file(kv, 1, g), 0);
	d = ioctl(g, VFIO_GROUP_GET_DEVICE_FD, "test0");
	assert_true(d >= 0);
	assert_int_equal(vu_map(c, 0x10000, ram, 4096, 3), 0);
	assert_int_equal(vu_do(d, VU_DMA_READ, 0x10000, 6, 0), 0);
	pread(d, ram + 100, 6, VU_BUFFER);
	assert_string_equal(ram + 100, "hello");
	close(g);
	close(c);
	close(kv);
	close(vm);
	close(sys);
	close(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(smoke),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
