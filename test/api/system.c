/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * /dev/kvm: what it says of itself.
 *	make check T=api/system
 *	USERKVM_ORACLE=1 build/checked/test/api/system
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "kvm_util.h"

static int kvm;

static void version(void **state)
{
	assert_int_equal(ioctl(kvm, KVM_GET_API_VERSION, 0), 12);
	assert_int_equal(ku_errno(kvm, KVM_GET_API_VERSION, (void *)1), EINVAL);
	assert_int_equal(ku_errno(kvm, KVM_GET_VCPU_MMAP_SIZE, (void *)1), EINVAL);
	assert_true(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0) >= 12288);
}

/* Not the machine's own where the first one is the library's. */
static void assert_same_device(int fd)
{
	struct stat a, b;

	assert_int_equal(fstat(kvm, &a), 0);
	assert_int_equal(fstat(fd, &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(a.st_dev, b.st_dev);
}

/* The path is ours however it is spelled; the answers are those of the device node. Seen to fail, where the machine has
 * a /dev/kvm of its own, with "." kept by append, and with relative paths not completed, while the look at the device's
 * number is left out of path_kind: each of the two finds it alone. */
static void paths(void **state)
{
	static const char *const spellings[] = {"/dev/kvm", "/dev//kvm", "//dev/./kvm", "/dev/../dev/kvm",
						"/usr/../dev/kvm"};
	struct statx stx;
	struct stat st;
	int dir, fd;

	for (unsigned i = 0; i < sizeof(spellings) / sizeof(spellings[0]); i++) {
		fd = open(spellings[i], O_RDWR | O_CLOEXEC);
		assert_true(fd >= 0);
		assert_int_equal(ioctl(fd, KVM_GET_API_VERSION, 0), 12);
		assert_same_device(fd);
		close(fd);
	}
	assert_int_equal(stat("/dev/kvm", &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(st.st_rdev, makedev(10, 232));
	assert_int_equal(fstat(kvm, &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(statx(AT_FDCWD, "/dev/kvm", 0, STATX_BASIC_STATS, &stx), 0);
	assert_int_equal(stx.stx_rdev_minor, 232);
	assert_int_equal(access("/dev/kvm", R_OK | W_OK), 0);
	assert_int_equal(access("/dev/kvm", X_OK), -1);
	assert_int_equal(errno, EACCES);
	dir = open("/dev", O_RDONLY | O_DIRECTORY);
	assert_true(dir >= 0);
	fd = openat(dir, "kvm", O_RDWR);
	assert_int_equal(ioctl(fd, KVM_GET_API_VERSION, 0), 12);
	assert_same_device(fd);
	close(fd);
	assert_int_equal(fstatat(dir, "kvm", &st, 0), 0);
	assert_int_equal(faccessat(dir, "kvm", R_OK, 0), 0);
	close(dir);
	assert_int_equal(chdir("/dev"), 0);
	fd = syscall(SYS_openat, AT_FDCWD, "kvm", O_RDWR, 0);
	assert_int_equal(syscall(SYS_ioctl, fd, KVM_GET_API_VERSION, 0), 12);
	syscall(SYS_close, fd);
	assert_int_equal(chdir("/"), 0);
	/* Not the device: another name, a file named kvm elsewhere, the path as a directory. */
	assert_int_equal(open("/dev/kvmm", O_RDWR), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(open("/tmp/no/kvm", O_RDWR), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(open("/dev/kvm", O_RDWR | O_CREAT | O_EXCL, 0600), -1);
	assert_int_equal(errno, EEXIST);
	assert_int_equal(open("/dev/kvm", O_RDONLY | O_DIRECTORY), -1);
	assert_int_equal(errno, ENOTDIR);
}

static void open_flags(void **state)
{
	int fd = open("/dev/kvm", O_RDONLY);

	assert_int_equal(fcntl(fd, F_GETFD), 0);
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(ioctl(fd, KVM_GET_API_VERSION, 0), 12);
	close(fd);
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
	close(fd);
}

/* What QEMU 7.2 cannot do without is there, and asked of the VM it is the same. */
static void capabilities(void **state)
{
	static const struct {
		int cap, least;
	} needed[] = {{KVM_CAP_USER_MEMORY, 1},
		      {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1},
		      {KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1},
		      {KVM_CAP_NR_VCPUS, 1},
		      {KVM_CAP_MAX_VCPUS, 8},
		      {KVM_CAP_NR_MEMSLOTS, 32},
		      {KVM_CAP_IRQCHIP, 1},
		      {KVM_CAP_IRQ_ROUTING, 1024},
		      {KVM_CAP_IOEVENTFD, 1},
		      {KVM_CAP_COALESCED_MMIO, 2},
		      {KVM_CAP_MP_STATE, 1},
		      {KVM_CAP_EXT_CPUID, 1},
		      {KVM_CAP_SET_TSS_ADDR, 1},
		      {KVM_CAP_VCPU_EVENTS, 1},
		      {KVM_CAP_XSAVE, 1},
		      {KVM_CAP_IMMEDIATE_EXIT, 1},
		      {KVM_CAP_SIGNAL_MSI, 1},
		      {KVM_CAP_READONLY_MEM, 1},
		      {KVM_CAP_SPLIT_IRQCHIP, 1},
		      {KVM_CAP_CHECK_EXTENSION_VM, 1}};
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		int n = ioctl(kvm, KVM_CHECK_EXTENSION, needed[i].cap);

		assert_true(n >= needed[i].least);
		assert_int_equal(ioctl(vm, KVM_CHECK_EXTENSION, needed[i].cap), n);
	}
	assert_int_equal(ioctl(kvm, KVM_CHECK_EXTENSION, 100000), 0);
	assert_int_equal(ioctl(kvm, KVM_CHECK_EXTENSION, -1), 0);
	close(vm);
}

static void cpuid_list(void **state)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));
	unsigned n;

	c->nent = 0;
	assert_int_equal(ku_errno(kvm, KVM_GET_SUPPORTED_CPUID, c), E2BIG);
	c->nent = 1;
	assert_int_equal(ku_errno(kvm, KVM_GET_SUPPORTED_CPUID, c), E2BIG);
	c->nent = 256;
	assert_int_equal(ku_errno(kvm, KVM_GET_SUPPORTED_CPUID, c), 0);
	n = c->nent;
	assert_true(n > 10 && n <= 256);
	assert_int_equal(c->entries[0].function, 0);
	c->nent = n;
	assert_int_equal(ku_errno(kvm, KVM_GET_SUPPORTED_CPUID, c), 0);
	c->nent = n - 1;
	assert_int_equal(ku_errno(kvm, KVM_GET_SUPPORTED_CPUID, c), E2BIG);
	c->nent = 256;
	assert_int_equal(ku_errno(kvm, KVM_GET_EMULATED_CPUID, c), 0);
	assert_int_equal(ku_errno(kvm, KVM_GET_SUPPORTED_CPUID, NULL), EFAULT);
	free(c);
}

static void msr_lists(void **state)
{
	static const unsigned long requests[] = {KVM_GET_MSR_INDEX_LIST, KVM_GET_MSR_FEATURE_INDEX_LIST};
	struct kvm_msr_list *l = calloc(1, sizeof(*l) + 4096 * sizeof(uint32_t));

	for (int i = 0; i < 2; i++) {
		unsigned n;

		l->nmsrs = 0;
		assert_int_equal(ku_errno(kvm, requests[i], l), E2BIG);
		n = l->nmsrs;
		assert_true(n > 0);
		assert_int_equal(l->indices[0], 0);
		assert_int_equal(ku_errno(kvm, requests[i], l), 0);
		assert_int_equal(l->nmsrs, n);
		assert_int_equal(ku_errno(kvm, requests[i], NULL), EFAULT);
		memset(l, 0, sizeof(*l) + 4096 * sizeof(uint32_t));
	}
	free(l);
}

static void feature_msrs(void **state)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[2];
	} m = {.head.nmsrs = 2, .e = {{.index = 0xdeadbeef}, {.index = 0x10a}}};

	/* The first refusal ends it: nothing was read. */
	assert_int_equal(ioctl(kvm, KVM_GET_MSRS, &m), 0);
	m.head.nmsrs = 256;
	assert_int_equal(ku_errno(kvm, KVM_GET_MSRS, &m), E2BIG);
	assert_int_equal(ku_errno(kvm, KVM_GET_MSRS, NULL), EFAULT);
}

static void attributes(void **state)
{
	uint64_t xcr0 = 0;
	struct kvm_device_attr a = {.attr = KVM_X86_XCOMP_GUEST_SUPP, .addr = (uintptr_t)&xcr0};

	assert_int_equal(ku_errno(kvm, KVM_HAS_DEVICE_ATTR, &a), 0);
	assert_int_equal(ku_errno(kvm, KVM_GET_DEVICE_ATTR, &a), 0);
	assert_int_equal(xcr0 & 3, 3);
	a.addr = 0;
	assert_int_equal(ku_errno(kvm, KVM_GET_DEVICE_ATTR, &a), EFAULT);
	a.attr = 1000;
	assert_int_equal(ku_errno(kvm, KVM_HAS_DEVICE_ATTR, &a), ENXIO);
	a.group = 1;
	assert_int_equal(ku_errno(kvm, KVM_GET_DEVICE_ATTR, &a), ENXIO);
}

static void mce(void **state)
{
	uint64_t cap = 0;

	assert_int_equal(ku_errno(kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap), 0);
	assert_int_equal(ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_MCE), 32);
	assert_int_equal(cap & 0xff, 0); /* the number of banks is the VMM's to choose */
	assert_int_equal(ku_errno(kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, NULL), EFAULT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(version),	    cmocka_unit_test(paths),	  cmocka_unit_test(open_flags),
	    cmocka_unit_test(capabilities), cmocka_unit_test(cpuid_list), cmocka_unit_test(msr_lists),
	    cmocka_unit_test(feature_msrs), cmocka_unit_test(attributes), cmocka_unit_test(mce)};

	kvm = ku_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
