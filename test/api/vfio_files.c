/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VFIO's group path through the ABI: /dev/vfio/vfio, /dev/vfio/N, and every request that they answer; errno as
 * the kernel's (drivers/vfio, Linux 6.1 and newer).
 *	make check T=api/vfio_files
 * WORKS: VFIO, group path | container (type1, type1v2), groups and device files of emulated devices
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "vfio_util.h"

#define GROUP0 "/dev/vfio/0"
#define GROUP1 "/dev/vfio/1"
#define BAD    ((void *)8)

/* test1, which needs no VM, opened through its group. */
struct rig {
	int container, group, dev;
};

static void rig_open(struct rig *r)
{
	vu_group(GROUP1, &r->container, &r->group);
	r->dev = ioctl(r->group, VFIO_GROUP_GET_DEVICE_FD, "test1");
	KU_CHECK(r->dev >= 0);
}

static void rig_close(struct rig *r)
{
	close(r->dev);
	close(r->group);
	close(r->container);
}

static int open_errno(const char *path, int flags)
{
	int fd = open(path, flags, 0600);

	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

/* -- Paths. Seen to fail with PATH_VFIO removed from do_access, and with the check of O_EXCL from vfio_open. -- */

static void paths(void **state)
{
	struct stat st;
	struct statx stx;
	char cwd[256];
	int fd;

	assert_int_equal(open_errno(GROUP0, O_RDWR), 0);
	assert_int_equal(open_errno("/dev/../dev//vfio/./0", O_RDWR), 0);
	assert_int_equal(open_errno("/dev/vfio/vfio", O_RDWR), 0);
	assert_int_equal(open_errno("/dev/iommu", O_RDWR), 0);
	assert_int_equal(open_errno("/dev/vfio/devices/vfio1", O_RDWR), 0);
	assert_int_equal(open_errno("/dev/vfio/77", O_RDWR), ENOENT);
	assert_int_equal(open_errno("/dev/vfio/00", O_RDWR), ENOENT);
	assert_int_equal(open_errno("/dev/vfio/devices/vfio77", O_RDWR), ENOENT);
	assert_int_equal(open_errno(GROUP0, O_RDWR | O_CREAT | O_EXCL), EEXIST);
	assert_int_equal(open_errno(GROUP0, O_RDWR | O_DIRECTORY), ENOTDIR);
	assert_int_equal(access(GROUP0, R_OK | W_OK), 0);
	assert_int_equal(access("/dev/vfio/77", F_OK), -1);
	assert_int_equal(stat("/dev/vfio/vfio", &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(st.st_rdev, 10 << 8 | 196);
	assert_int_equal(statx(AT_FDCWD, GROUP1, 0, STATX_BASIC_STATS, &stx), 0);
	assert_int_equal(stx.stx_rdev_minor, 1);
	fd = (int)syscall(SYS_openat, AT_FDCWD, GROUP1, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), 0);
	close(fd);
	/* Below a working directory. */
	KU_CHECK(getcwd(cwd, sizeof(cwd)) && chdir("/dev") == 0);
	assert_int_equal(open_errno("vfio/0", O_RDWR), 0);
	KU_CHECK(chdir(cwd) == 0);
}

/* -- The container -- */

/* Seen to fail with EINVAL for a second SET_IOMMU, or for one without a group, removed from container.c. */
static void container_requests(void **state)
{
	int c = vu_open("/dev/vfio/vfio"), g;
	struct vfio_iommu_type1_info info = {.argsz = sizeof(info)};

	assert_int_equal(ioctl(c, VFIO_GET_API_VERSION), 0);
	assert_int_equal(ioctl(c, VFIO_CHECK_EXTENSION, VFIO_TYPE1_IOMMU), 1);
	assert_int_equal(ioctl(c, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU), 1);
	assert_int_equal(ioctl(c, VFIO_CHECK_EXTENSION, VFIO_UNMAP_ALL), 1);
	assert_int_equal(ioctl(c, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU), 0);
	assert_int_equal(ioctl(c, VFIO_CHECK_EXTENSION, VFIO_SPAPR_TCE_IOMMU), 0);
	assert_int_equal(ioctl(c, VFIO_CHECK_EXTENSION, VFIO_TYPE1_NESTING_IOMMU), 0);
	assert_int_equal(ku_errno(c, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), EINVAL);
	assert_int_equal(ku_errno(c, VFIO_IOMMU_GET_INFO, &info), EINVAL);
	assert_int_equal(ku_errno(c, VFIO_GROUP_GET_STATUS, &info), EINVAL);
	g = vu_open(GROUP0);
	assert_int_equal(ku_errno(g, VFIO_GROUP_SET_CONTAINER, &c), 0);
	assert_int_equal(ku_errno(c, VFIO_SET_IOMMU, (void *)VFIO_SPAPR_TCE_IOMMU), ENODEV);
	assert_int_equal(ku_errno(c, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), 0);
	assert_int_equal(ku_errno(c, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), EINVAL);
	assert_int_equal(ioctl(c, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU), 1);
	assert_int_equal(ku_errno(c, VFIO_GROUP_GET_STATUS, &info), ENOTTY);
	/* The last group takes the IOMMU along. */
	assert_int_equal(ku_errno(g, VFIO_GROUP_UNSET_CONTAINER, 0), 0);
	assert_int_equal(ku_errno(c, VFIO_IOMMU_GET_INFO, &info), EINVAL);
	close(g);
	close(c);
}

/* Two groups in one container: the second's device is not coherent. */
static void container_of_two(void **state)
{
	int c, g0, g1 = vu_open(GROUP1);

	vu_group(GROUP0, &c, &g0);
	assert_int_equal(ioctl(c, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU), 1);
	assert_int_equal(ku_errno(g1, VFIO_GROUP_SET_CONTAINER, &c), 0);
	assert_int_equal(ioctl(c, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU), 0);
	close(g0);
	/* Still a group there: the IOMMU stays. */
	assert_int_equal(ku_errno(c, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), EINVAL);
	close(c);
	close(g1);
}

static void iommu_info(void **state)
{
	struct {
		struct vfio_iommu_type1_info i;
		char caps[256];
	} u = {.i = {.argsz = 16}};
	struct vfio_iommu_type1_info_cap_iova_range *range;
	struct vfio_info_cap_header *h;
	int c, g;

	vu_group(GROUP1, &c, &g);
	assert_int_equal(ku_errno(c, VFIO_IOMMU_GET_INFO, BAD), EFAULT);
	u.i.argsz = 15;
	assert_int_equal(ku_errno(c, VFIO_IOMMU_GET_INFO, &u), EINVAL);
	u.i.argsz = 16;
	assert_int_equal(ku_errno(c, VFIO_IOMMU_GET_INFO, &u), 0);
	assert_true(u.i.flags & VFIO_IOMMU_INFO_PGSIZES && u.i.iova_pgsizes & 4096);
	assert_true(u.i.argsz > sizeof(u.i)); /* what it takes to see the capabilities */
	u.i.argsz = sizeof(u);
	assert_int_equal(ku_errno(c, VFIO_IOMMU_GET_INFO, &u), 0);
	assert_true(u.i.flags & VFIO_IOMMU_INFO_CAPS);
	h = (void *)((char *)&u + u.i.cap_offset);
	assert_int_equal(h->id, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
	range = (void *)h;
	assert_int_equal(range->nr_iovas, 1);
	assert_int_equal(range->iova_ranges[0].end, UINT64_MAX);
	h = (void *)((char *)&u + h->next);
	assert_int_equal(h->id, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
	assert_int_equal(((struct vfio_iommu_type1_info_dma_avail *)h)->avail, 65535);
	assert_int_equal(h->next, 0);
	close(g);
	close(c);
}

/* -- DMA mappings. Seen to fail with the overlap test removed from map_at, and V2's test of splits from
 * may_unmap. -- */

static void map_errors(void **state)
{
	static char ram[8192] __attribute__((aligned(4096)));
	struct vfio_iommu_type1_dma_map m = {.argsz = sizeof(m) - 1};
	int c, g;

	vu_group(GROUP1, &c, &g);
	assert_int_equal(ku_errno(c, VFIO_IOMMU_MAP_DMA, BAD), EFAULT);
	assert_int_equal(ku_errno(c, VFIO_IOMMU_MAP_DMA, &m), EINVAL);
	assert_int_equal(vu_map(c, 0, ram, 4096, 0), EINVAL);
	assert_int_equal(vu_map(c, 0, ram, 4096, 8), EINVAL);
	assert_int_equal(vu_map(c, 0, ram, 4096, VFIO_DMA_MAP_FLAG_VADDR), EINVAL);
	assert_int_equal(vu_map(c, 0, ram, 0, 3), EINVAL);
	assert_int_equal(vu_map(c, 0, ram, 4095, 3), EINVAL);
	assert_int_equal(vu_map(c, 1, ram, 4096, 3), EINVAL);
	assert_int_equal(vu_map(c, 0, ram + 1, 4096, 3), EINVAL);
	assert_int_equal(vu_map(c, -4096ULL, ram, 8192, 3), EINVAL);
	assert_int_equal(vu_map(c, 0, (void *)-4096UL, 8192, 3), EINVAL);
	assert_int_equal(vu_map(c, -4096ULL, ram, 4096, 3), 0);
	assert_int_equal(vu_map(c, 0x10000, ram, 8192, 3), 0);
	assert_int_equal(vu_map(c, 0x10000, ram, 8192, 3), EEXIST);
	assert_int_equal(vu_map(c, 0x11000, ram, 4096, 3), EEXIST);
	assert_int_equal(vu_map(c, 0xf000, ram, 8192, 3), EEXIST);
	assert_int_equal(vu_map(c, 0xf000, ram, 4096, 3), 0);
	assert_int_equal(vu_map(c, 0x12000, ram, 4096, 3), 0);
	close(g);
	close(c);
}

static uint64_t unmapped(int c, uint64_t iova, uint64_t size, uint32_t flags, int err)
{
	assert_int_equal(vu_unmap(c, iova, &size, flags), err);
	return size;
}

static void unmap_rules(void **state)
{
	struct vfio_iommu_type1_dma_unmap u = {.argsz = sizeof(u) - 1};
	int c, g;

	vu_group(GROUP1, &c, &g);
	for (uint64_t n = 0; n < 4; n++)
		assert_int_equal(vu_map(c, n * 0x2000, (void *)0x100000, 0x2000, 3), 0);
	assert_int_equal(ku_errno(c, VFIO_IOMMU_UNMAP_DMA, BAD), EFAULT);
	assert_int_equal(ku_errno(c, VFIO_IOMMU_UNMAP_DMA, &u), EINVAL);
	unmapped(c, 0, 0, 0, EINVAL);
	unmapped(c, 1, 0x2000, 0, EINVAL);
	unmapped(c, 0, 0x1001, 0, EINVAL);
	unmapped(c, -4096ULL, 0x2000, 0, EINVAL);
	unmapped(c, 0, 0x2000, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, EINVAL);
	unmapped(c, 0, 0x2000, VFIO_DMA_UNMAP_FLAG_VADDR, EINVAL);
	unmapped(c, 0, 0x2000, VFIO_DMA_UNMAP_FLAG_ALL, EINVAL);
	unmapped(c, 0x1000, 0x3000, 0, EINVAL);			     /* splits the first */
	unmapped(c, 0x2000, 0x1000, 0, EINVAL);			     /* splits the second */
	assert_int_equal(unmapped(c, 0x2000, 0x2000, 0, 0), 0x2000); /* exactly it */
	assert_int_equal(unmapped(c, 0x2000, 0x2000, 0, 0), 0);	     /* no more there: no error */
	assert_int_equal(unmapped(c, 0, 0x6000, 0, 0), 0x4000);	     /* two, and a hole */
	assert_int_equal(unmapped(c, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL, 0), 0x2000);
	assert_int_equal(unmapped(c, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL, 0), 0);
	/* What went can be mapped again. */
	assert_int_equal(vu_map(c, 0, (void *)0x100000, 0x8000, 3), 0);
	close(g);
	close(c);
}

/* type1 without v2: an entry that begins in the range goes whole; one that begins before it stays. */
static void unmap_v1(void **state)
{
	int c = vu_open("/dev/vfio/vfio"), g = vu_open(GROUP1);

	KU_CHECK(ioctl(g, VFIO_GROUP_SET_CONTAINER, &c) == 0);
	KU_CHECK(ioctl(c, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU) == 0);
	assert_int_equal(vu_map(c, 0, (void *)0x100000, 0x4000, 3), 0);
	assert_int_equal(unmapped(c, 0x1000, 0x1000, 0, 0), 0);
	assert_int_equal(unmapped(c, 0, 0x1000, 0, 0), 0x4000);
	close(g);
	close(c);
}

/* -- The group -- */

static int get_device(int g, const char *name)
{
	int fd = ioctl(g, VFIO_GROUP_GET_DEVICE_FD, name);

	if (fd < 0)
		return -errno;
	return fd;
}

/* Seen to fail with g->opened left alone by claim. */
static void group_requests(void **state)
{
	struct vfio_group_status s = {.argsz = sizeof(s) - 1};
	int g = vu_open(GROUP1), c = vu_open("/dev/vfio/vfio"), none = -1, dev, other;
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memset(page, 'x', 8192);
	assert_int_equal(open_errno(GROUP1, O_RDWR), EBUSY);
	assert_int_equal(ku_errno(g, VFIO_GROUP_GET_STATUS, BAD), EFAULT);
	assert_int_equal(ku_errno(g, VFIO_GROUP_GET_STATUS, &s), EINVAL);
	s.argsz = sizeof(s);
	assert_int_equal(ku_errno(g, VFIO_GROUP_GET_STATUS, &s), 0);
	assert_int_equal(s.flags, VFIO_GROUP_FLAGS_VIABLE);
	assert_int_equal(ku_errno(g, VFIO_GROUP_UNSET_CONTAINER, 0), EINVAL);
	assert_int_equal(ku_errno(g, VFIO_GROUP_SET_CONTAINER, BAD), EFAULT);
	assert_int_equal(ku_errno(g, VFIO_GROUP_SET_CONTAINER, &none), EBADF);
	other = open("/dev/null", O_RDWR);
	assert_int_equal(ku_errno(g, VFIO_GROUP_SET_CONTAINER, &other), EBADFD);
	assert_int_equal(ku_errno(g, VFIO_GROUP_SET_CONTAINER, &g), EBADFD);
	close(other);
	assert_int_equal(get_device(g, "test1"), -EINVAL); /* no container */
	assert_int_equal(ku_errno(g, VFIO_GROUP_SET_CONTAINER, &c), 0);
	assert_int_equal(ku_errno(g, VFIO_GROUP_SET_CONTAINER, &c), EINVAL);
	assert_int_equal(ku_errno(g, VFIO_GROUP_GET_STATUS, &s), 0);
	assert_int_equal(s.flags, VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET);
	assert_int_equal(get_device(g, "test1"), -EINVAL); /* no IOMMU */
	KU_CHECK(ioctl(c, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0);
	assert_int_equal(get_device(g, BAD), -EFAULT);
	assert_int_equal(get_device(g, page), -EINVAL); /* a page without end */
	assert_int_equal(get_device(g, "test0"), -ENODEV);
	assert_int_equal(get_device(g, "test11"), -ENODEV);
	dev = get_device(g, "test1");
	assert_true(dev >= 0);
	assert_int_equal(fcntl(dev, F_GETFD), FD_CLOEXEC);
	assert_int_equal(ku_errno(g, VFIO_GROUP_UNSET_CONTAINER, 0), EBUSY);
	close(dev);
	assert_int_equal(ku_errno(g, VFIO_GROUP_UNSET_CONTAINER, 0), 0);
	assert_int_equal(ku_errno(g, VFIO_DEVICE_RESET, 0), ENOTTY);
	assert_int_equal(ku_errno(g, KVM_CREATE_VM, 0), ENOTTY);
	close(g);
	close(c);
	munmap(page, 8192);
}

/* A device file holds its group's: closed or not, the group stays in use. Seen to fail without
 * file_get_again in get_device_fd. */
static void device_holds_group(void **state)
{
	struct rig r;

	rig_open(&r);
	close(r.group);
	close(r.container);
	assert_int_equal(open_errno(GROUP1, O_RDWR), EBUSY);
	assert_int_equal(vu_get(r.dev, VU_ID), 0x006d766b72657375);
	close(r.dev);
	assert_int_equal(open_errno(GROUP1, O_RDWR), 0);
}

/* In a forked child the files are the parent's; its own it may open. */
static void forked_child(void **state)
{
	struct rig r;
	uint64_t val;
	int status, pid;

	rig_open(&r);
	pid = fork();
	if (!pid) {
		struct vfio_group_status s = {.argsz = sizeof(s)};
		struct rig own;
		bool ok = ku_errno(r.group, VFIO_GROUP_GET_STATUS, &s) == EIO;

		ok = ok && pread(r.dev, &val, 8, 0) < 0 && errno == EIO;
		rig_open(&own);
		ok = ok && vu_get(own.dev, VU_ID);
		rig_close(&own);
		rig_close(&r);
		_exit(ok ? 0 : 1);
	}
	KU_CHECK(waitpid(pid, &status, 0) == pid);
	assert_int_equal(status, 0);
	assert_int_equal(vu_get(r.dev, VU_ID), 0x006d766b72657375);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(paths),
	    cmocka_unit_test(container_requests),
	    cmocka_unit_test(container_of_two),
	    cmocka_unit_test(iommu_info),
	    cmocka_unit_test(map_errors),
	    cmocka_unit_test(unmap_rules),
	    cmocka_unit_test(unmap_v1),
	    cmocka_unit_test(group_requests),
	    cmocka_unit_test(device_holds_group),
	    cmocka_unit_test(forked_child),
	};

	if (ku_oracle()) {
		printf("needs the built-in VFIO test devices\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
