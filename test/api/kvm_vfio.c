/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM_CREATE_DEVICE and KVM_DEV_TYPE_VFIO through the ABI: every refusal, then what it does (systems.md B4, B5).
 * errno as Linux 6.1 (virt/kvm/kvm_main.c, virt/kvm/vfio.c).
 *	make check T=api/kvm_vfio
 * WORKS: KVM_DEV_TYPE_VFIO | GROUP and FILE, ADD and DEL; a device that needs a VM finds it
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "vfio_util.h"

static void *volatile bad_pointer = (void *)8;
#define BAD bad_pointer

#define ADD 1
#define DEL 2

struct rig {
	struct ku_vm vm;
	int dev, container, group; /* group 0: a driver that needs the VM */
};

static struct rig rig;

static int rig_setup(void **state)
{
	ku_vm_create(&rig.vm, 0x10000);
	rig.dev = vu_kvm_device(rig.vm.fd);
	vu_group("/dev/vfio/0", &rig.container, &rig.group);
	return 0;
}

static int rig_teardown(void **state)
{
	close(rig.dev);
	close(rig.group);
	close(rig.container);
	ku_vm_destroy(&rig.vm);
	return 0;
}

static int create(int vm, uint32_t type, uint32_t flags)
{
	struct kvm_create_device cd = {.type = type, .flags = flags, .fd = 0xdead};
	int r = ku_errno(vm, KVM_CREATE_DEVICE, &cd);

	if (!r && !flags)
		KU_CHECK(close((int)cd.fd) == 0);
	/* A test or a refusal makes no fd. */
	if (r || flags)
		KU_CHECK(cd.fd == 0xdead);
	return r;
}

static int attr(int fd, unsigned long request, uint32_t group, uint64_t which, void *addr)
{
	struct kvm_device_attr a = {.group = group, .attr = which, .addr = (uint64_t)(uintptr_t)addr};

	return ku_errno(fd, request, &a);
}

/* -- KVM_CREATE_DEVICE -- */

/* Seen to fail with the look at KVM_CREATE_DEVICE_TEST removed, and with the type's bound. */
static void create_errors(void **state)
{
	struct ku_vm vm;

	ku_vm_create(&vm, 0);
	assert_int_equal(ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_DEVICE_CTRL), 1);
	assert_int_equal(ku_errno(vm.fd, KVM_CREATE_DEVICE, BAD), EFAULT);
	for (uint32_t type = 0; type < 16; type++) {
		int want = type == KVM_DEV_TYPE_VFIO ? 0 : ENODEV;

		assert_int_equal(create(vm.fd, type, KVM_CREATE_DEVICE_TEST), want);
		assert_int_equal(create(vm.fd, type, 0), want);
	}
	assert_int_equal(create(vm.fd, 0xffffffff, 0), ENODEV);
	assert_int_equal(create(vm.fd, 0x80000004, 0), ENODEV);
	assert_int_equal(ku_errno(vm.sys, KVM_CREATE_DEVICE, BAD), EINVAL);
	ku_vm_destroy(&vm);
}

/* One at a time. Seen to fail with the walk removed from kvm_vfio.c's create. */
static void one_per_vm(void **state)
{
	struct ku_vm other;
	int dev;

	assert_int_equal(create(rig.vm.fd, KVM_DEV_TYPE_VFIO, 0), EBUSY);
	assert_int_equal(create(rig.vm.fd, KVM_DEV_TYPE_VFIO, KVM_CREATE_DEVICE_TEST), 0);
	ku_vm_create(&other, 0);
	dev = vu_kvm_device(other.fd);
	assert_int_equal(fcntl(dev, F_GETFD), FD_CLOEXEC);
	assert_int_equal(create(other.fd, KVM_DEV_TYPE_VFIO, 0), EBUSY);
	close(dev);
	assert_int_equal(create(other.fd, KVM_DEV_TYPE_VFIO, 0), 0);
	ku_vm_destroy(&other);
}

/* No descriptor left: refused, and it is not on the VM's list: the next one is made. Seen to fail with drop_device
 * removed from device_create. */
static void no_descriptor(void **state)
{
	struct kvm_create_device cd = {.type = KVM_DEV_TYPE_VFIO};
	struct rlimit old, few;
	struct ku_vm vm;
	int fd, tries = 0, r;

	ku_vm_create(&vm, 0);
	getrlimit(RLIMIT_NOFILE, &old);
	for (fd = 0; fcntl(fd, F_GETFD) >= 0; fd++)
		;
	do {
		few = old;
		few.rlim_cur = (rlim_t)(fd + tries);
		setrlimit(RLIMIT_NOFILE, &few);
		r = ku_errno(vm.fd, KVM_CREATE_DEVICE, &cd);
		setrlimit(RLIMIT_NOFILE, &old);
		assert_true(r == 0 || r == EMFILE);
	} while (r && ++tries < 10);
	assert_int_equal(r, 0);
	assert_true(tries > 0);
	close((int)cd.fd);
	ku_vm_destroy(&vm);
}

/* -- Attributes: refusals -- */

/* Seen to fail with has_attr answering 0 for every attribute. */
static void unknown_attributes(void **state)
{
	static const struct {
		uint32_t group;
		uint64_t attr;
		int error;
	} rows[] = {{0, ADD, ENXIO}, {2, ADD, ENXIO}, {~0U, ADD, ENXIO},
		    {1, 0, ENXIO},   {1, 3, ENXIO},   {1, 1ULL << 32 | 1, ENXIO},
		    {1, ADD, 0},     {1, DEL, 0}};
	int group = rig.group;

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(attr(rig.dev, KVM_HAS_DEVICE_ATTR, rows[i].group, rows[i].attr, NULL),
				 rows[i].error);
		if (rows[i].error)
			assert_int_equal(
			    attr(rig.dev, KVM_SET_DEVICE_ATTR, rows[i].group, rows[i].attr, &group),
			    rows[i].error);
	}
}

/* What comes first: that there is no GET, then the argument. Seen to fail with the argument copied in by the table. */
static void requests(void **state)
{
	assert_int_equal(attr(rig.dev, KVM_GET_DEVICE_ATTR, 1, ADD, NULL), EPERM);
	assert_int_equal(ku_errno(rig.dev, KVM_GET_DEVICE_ATTR, BAD), EPERM);
	assert_int_equal(ku_errno(rig.dev, KVM_SET_DEVICE_ATTR, BAD), EFAULT);
	assert_int_equal(ku_errno(rig.dev, KVM_HAS_DEVICE_ATTR, BAD), EFAULT);
	assert_int_equal(ku_errno(rig.dev, KVM_RUN, 0), ENOTTY);
	assert_int_equal(ku_errno(rig.dev, KVM_CREATE_VCPU, 0), ENOTTY);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ, MAP_SHARED, rig.dev, 0), MAP_FAILED);
	assert_int_equal(errno, ENODEV);
}

/* Seen to fail with is_valid not asked, and with every NULL of file_get taken for EBADF. */
static void wrong_files(void **state)
{
	int null = open("/dev/null", O_RDWR), efd = eventfd(0, 0);
	int fds[] = {null, efd, rig.vm.sys, rig.vm.fd, rig.dev, rig.container};

	assert_int_equal(attr(rig.dev, KVM_SET_DEVICE_ATTR, 1, ADD, BAD), EFAULT);
	assert_int_equal(attr(rig.dev, KVM_SET_DEVICE_ATTR, 1, DEL, BAD), EFAULT);
	assert_int_equal(vu_file(rig.dev, ADD, -1), EBADF);
	assert_int_equal(vu_file(rig.dev, ADD, 9999), EBADF);
	assert_int_equal(vu_file(rig.dev, DEL, -1), EBADF);
	assert_int_equal(vu_file(rig.dev, DEL, 9999), EBADF);
	for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		assert_int_equal(vu_file(rig.dev, ADD, fds[i]), EINVAL);
		assert_int_equal(vu_file(rig.dev, DEL, fds[i]), ENOENT);
	}
	close(null);
	close(efd);
}

/* A file is what it is under any number. Seen to fail with add looking for no duplicate. */
static void duplicates(void **state)
{
	int copy = dup(rig.group);

	assert_int_equal(vu_file(rig.dev, DEL, rig.group), ENOENT);
	assert_int_equal(vu_file(rig.dev, ADD, rig.group), 0);
	assert_int_equal(vu_file(rig.dev, ADD, rig.group), EEXIST);
	assert_int_equal(vu_file(rig.dev, ADD, copy), EEXIST);
	assert_int_equal(vu_file(rig.dev, DEL, copy), 0);
	assert_int_equal(vu_file(rig.dev, DEL, rig.group), ENOENT);
	close(copy);
}

/* -- What it does -- */

static int get_device(void)
{
	int r = ioctl(rig.group, VFIO_GROUP_GET_DEVICE_FD, "test0");

	return r < 0 ? -errno : r;
}

/* Between ADD and DEL, and only for opens that come then. */
static void linked(void **state)
{
	int dev, again;

	assert_int_equal(get_device(), -EINVAL);
	assert_int_equal(vu_file(rig.dev, ADD, rig.group), 0);
	dev = get_device();
	assert_true(dev >= 0);
	*(uint64_t *)(rig.vm.ram + 0x2000) = 42;
	assert_int_equal(vu_do(dev, VU_VM_READ, 0x2000, 8, 0), 0);
	assert_int_equal(vu_get(dev, VU_BUFFER), 42);
	vu_set(dev, VU_BUFFER, 43);
	assert_int_equal(vu_do(dev, VU_VM_WRITE, 0x2008, 8, 0), 0);
	assert_int_equal(*(uint64_t *)(rig.vm.ram + 0x2008), 43);
	assert_true(vu_do(dev, VU_VM_READ, 1ULL << 40, 8, 0) < 0);
	/* The device that is open keeps its VM, and so has it for whoever opens it as well. */
	assert_int_equal(vu_file(rig.dev, DEL, rig.group), 0);
	assert_int_equal(vu_do(dev, VU_VM_READ, 0x2000, 8, 0), 0);
	again = get_device();
	assert_true(again >= 0);
	assert_int_equal(vu_do(again, VU_VM_READ, 0x2000, 8, 0), 0);
	close(again);
	close(dev);
	assert_int_equal(get_device(), -EINVAL);
}

/* The end of the kvm-vfio device is a DEL of all. Seen to fail with set_kvm removed from kvm_vfio.c's release. */
static void detached(void **state)
{
	int c1, g1, dev;

	vu_group("/dev/vfio/1", &c1, &g1);
	assert_int_equal(vu_file(rig.dev, ADD, rig.group), 0);
	assert_int_equal(vu_file(rig.dev, ADD, g1), 0);
	close(rig.dev);
	assert_int_equal(get_device(), -EINVAL);
	rig.dev = vu_kvm_device(rig.vm.fd);
	assert_int_equal(vu_file(rig.dev, ADD, g1), 0);
	assert_int_equal(vu_file(rig.dev, ADD, rig.group), 0);
	dev = get_device();
	assert_true(dev >= 0);
	close(dev);
	close(g1);
	close(c1);
}

/* A file whose fds are closed stays on the list; there is no number to take it off by. */
static void closed_before(void **state)
{
	int c1, g1;

	vu_group("/dev/vfio/1", &c1, &g1);
	assert_int_equal(vu_file(rig.dev, ADD, g1), 0);
	close(g1);
	close(c1);
	assert_int_equal(vu_file(rig.dev, DEL, g1), EBADF);
	assert_int_equal(open("/dev/vfio/1", O_RDWR), -1);
	assert_int_equal(errno, EBUSY);
	close(rig.dev);
	rig.dev = vu_kvm_device(rig.vm.fd);
	close(vu_open("/dev/vfio/1"));
}

/* After the VM's fd is closed ADD still works, and links to no VM (systems.md A4). Seen to fail with the clearing of
 * kvm->file removed from vm_release. */
static void without_vm_fd(void **state)
{
	int vm = ioctl(rig.vm.sys, KVM_CREATE_VM, 0), dev = vu_kvm_device(vm);

	close(vm);
	assert_int_equal(vu_file(dev, ADD, rig.group), 0);
	assert_int_equal(vu_file(dev, ADD, rig.group), EEXIST);
	assert_int_equal(get_device(), -EINVAL);
	close(dev);
}

/* The cdev path: FILE is GROUP by another name. */
static void cdev(void **state)
{
	int dev = vu_open("/dev/vfio/devices/vfio0"), d = vu_open("/dev/iommu"), plain;
	struct vu_bind b = {.argsz = sizeof(b), .iommufd = d};

	/* The group's user is in the way. */
	close(rig.group);
	assert_int_equal(ku_errno(dev, VU_BIND, &b), EINVAL);
	assert_int_equal(vu_file(rig.dev, ADD, dev), 0);
	assert_int_equal(vu_file(rig.dev, ADD, d), EINVAL);
	assert_int_equal(ku_errno(dev, VU_BIND, &b), 0);
	assert_int_equal(vu_file(rig.dev, ADD, dev), EEXIST);
	assert_int_equal(vu_file(rig.dev, DEL, dev), 0);
	assert_int_equal(vu_do(dev, VU_VM_READ, 0x2000, 8, 0), 0);
	close(dev);
	close(d);
	rig.group = vu_open("/dev/vfio/0");
	assert_int_equal(ioctl(rig.group, VFIO_GROUP_SET_CONTAINER, &rig.container), 0);
	assert_int_equal(ioctl(rig.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), 0);
	/* A device file of the group path has its link in the group. */
	assert_int_equal(vu_file(rig.dev, ADD, rig.group), 0);
	plain = get_device();
	assert_true(plain >= 0);
	assert_int_equal(vu_file(rig.dev, ADD, plain), EINVAL);
	close(plain);
}

/* A child's kvm-vfio device is not its parent's, nor are its parent's files what it can add. */
static void in_child(void **state)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct ku_vm vm;

		if (attr(rig.dev, KVM_HAS_DEVICE_ATTR, 1, ADD, NULL) != EIO ||
		    vu_file(rig.dev, ADD, rig.group) != EIO)
			_exit(1);
		ku_vm_create(&vm, 0);
		if (vu_file(vu_kvm_device(vm.fd), ADD, rig.group) != EINVAL)
			_exit(2);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(vu_file(rig.dev, ADD, rig.group), 0);
}

#define RIGGED(fn) cmocka_unit_test_setup_teardown(fn, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(create_errors),
	    RIGGED(one_per_vm),
	    cmocka_unit_test(no_descriptor),
	    RIGGED(unknown_attributes),
	    RIGGED(requests),
	    RIGGED(wrong_files),
	    RIGGED(duplicates),
	    RIGGED(linked),
	    RIGGED(detached),
	    RIGGED(closed_before),
	    RIGGED(without_vm_fd),
	    RIGGED(cdev),
	    RIGGED(in_child),
	};

	if (ku_oracle()) {
		printf("needs the built-in VFIO test devices\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
