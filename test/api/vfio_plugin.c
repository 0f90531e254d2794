/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A driver library (test/vfio/plugin_part.c, built here with cc) through the ABI: loaded by the first file of its
 * device, unloaded after the last (systems.md A6). Runs itself again with USERKVM_VFIO naming it.
 *	make check T=api/vfio_plugin
 * WORKS: VFIO drivers | shared objects with the narrow API of userkvm_driver.h
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "vfio_util.h"

#define GET_BYTE 0x1234

static const char *library;

static bool loaded(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	bool found = false;
	char line[512];

	KU_CHECK(f);
	while (fgets(line, sizeof(line), f))
		found |= strstr(line, library) != NULL;
	fclose(f);
	return found;
}

/* Seen to fail with dlclose left out of plugin_put, and with plugin_get left out of get_device_fd (the users
 * became fewer than none). */
static void while_open(void **state)
{
	int c, g, cdev;

	assert_false(loaded());
	assert_int_equal(access("/dev/vfio/0", F_OK), 0);
	c = vu_open("/dev/vfio/vfio");
	assert_false(loaded());
	g = vu_open("/dev/vfio/0");
	assert_true(loaded());
	cdev = vu_open("/dev/vfio/devices/vfio0");
	close(g);
	assert_true(loaded());
	close(cdev);
	assert_false(loaded());
	g = vu_open("/dev/vfio/0");
	assert_true(loaded());
	close(g);
	assert_false(loaded());
	close(c);
}

/* What holds it last is a mapping of the device, whose file, group and VM are closed already. */
static void device_holds(void **state)
{
	struct ku_vm vm;
	uint8_t *p, byte = 0x77;
	int c, g, kv, dev;

	ku_vm_create(&vm, 8192);
	vm.ram[100] = 42;
	kv = vu_kvm_device(vm.fd);
	vu_group("/dev/vfio/0", &c, &g);
	assert_int_equal(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, "plug0"), -1); /* it needs a VM */
	assert_int_equal(errno, EINVAL);
	KU_CHECK(vu_file(kv, KVM_DEV_VFIO_GROUP_ADD, g) == 0);
	dev = ioctl(g, VFIO_GROUP_GET_DEVICE_FD, "plug0");
	assert_true(dev >= 0);
	close(kv);
	close(g);
	close(c);
	/* Its request reaches the VM; others it does not know. */
	assert_int_equal(ioctl(dev, _IO(';', 0), 100), -1);
	assert_int_equal(errno, ENOTTY);
	/* A region without functions of the driver's is the library's memory. */
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, dev, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(pwrite(dev, &byte, 1, 7), 1);
	assert_int_equal(p[7], 0x77);
	assert_int_equal(pread(dev, &byte, 1, VU_REGION(1)), -1); /* neither function nor memory */
	assert_int_equal(errno, EINVAL);
	assert_int_equal(ku_errno(dev, VFIO_DEVICE_RESET, 0), EINVAL);
	close(dev);
	ku_vm_destroy(&vm);
	assert_true(loaded());
	assert_int_equal(open("/dev/vfio/0", O_RDWR), -1);
	munmap(p, 4096);
	assert_false(loaded());
}

/* In a forked child the library stays, and works for files of its own. */
static void forked(void **state)
{
	int g = vu_open("/dev/vfio/0"), pid, status;

	pid = fork();
	if (!pid) {
		int own = vu_open("/dev/vfio/0");
		struct vfio_group_status s = {.argsz = sizeof(s)};
		bool ok = loaded() && !ku_errno(own, VFIO_GROUP_GET_STATUS, &s);

		close(own);
		_exit(ok ? 0 : 1);
	}
	KU_CHECK(waitpid(pid, &status, 0) == pid);
	assert_int_equal(status, 0);
	close(g);
	assert_false(loaded());
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(while_open),
	    cmocka_unit_test(device_holds),
	    cmocka_unit_test(forked),
	};
	char dir[] = "/tmp/userkvm-plugin-XXXXXX", text[256];
	int r;

	if (ku_oracle()) {
		printf("needs the built-in VFIO test devices\n");
		return 0;
	}
	library = getenv("USERKVM_VFIO");
	if (library && strstr(library, "userkvm-plugin-")) {
		r = cmocka_run_group_tests(tests, NULL, NULL);
		snprintf(text, sizeof(text), "LD_PRELOAD= rm -r $(dirname %s)", library);
		KU_CHECK(system(text) == 0);
		return r;
	}
	KU_CHECK(mkdtemp(dir));
	snprintf(text, sizeof(text),
		 "LD_PRELOAD= cc -shared -fPIC -Iinclude -o %s/plugin.so test/vfio/plugin_part.c", dir);
	KU_CHECK(system(text) == 0);
	snprintf(text, sizeof(text), "%s/plugin.so", dir);
	KU_CHECK(setenv("USERKVM_VFIO", text, 1) == 0);
	execv("/proc/self/exe", argv);
	return 99;
}
