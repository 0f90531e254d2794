/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For programs that speak only the VFIO ABI: opening things, and the registers of the built-in test devices
 * (USERKVM_VFIO=test; src/vfio/test_driver.c says what they do). Debian 12's headers lack the cdev and iommufd,
 * whose ABI is written down here once more, independently of the library.
 */
#ifndef TEST_VFIO_UTIL_H
#define TEST_VFIO_UTIL_H

#include <linux/vfio.h>
#include <sys/eventfd.h>

#include "kvm_util.h"

/* -- ABI -- */

#define VU_BIND	  _IO(';', 118)
#define VU_ATTACH _IO(';', 119)
#define VU_DETACH _IO(';', 120)
struct vu_bind {
	uint32_t argsz, flags;
	int32_t iommufd;
	uint32_t devid;
};
struct vu_attach {
	uint32_t argsz, flags, pt_id;
};
struct vu_detach {
	uint32_t argsz, flags;
};

#define VU_DESTROY _IO(';', 0x80)
#define VU_ALLOC   _IO(';', 0x81)
#define VU_COPY	   _IO(';', 0x83)
#define VU_RANGES  _IO(';', 0x84)
#define VU_MAP	   _IO(';', 0x85)
#define VU_UNMAP   _IO(';', 0x86)
#define VU_FIXED   1
#define VU_WRITE   2
#define VU_READ	   4
struct vu_destroy {
	uint32_t size, id;
};
struct vu_alloc {
	uint32_t size, flags, id;
};
struct vu_ranges {
	uint32_t size, id, num, reserved;
	uint64_t array, alignment;
};
struct vu_map {
	uint32_t size, flags, id, reserved;
	uint64_t va, length, iova;
};
struct vu_copy {
	uint32_t size, flags, dst, src;
	uint64_t length, dst_iova, src_iova;
};
struct vu_unmap {
	uint32_t size, id;
	uint64_t iova, length;
};

/* -- The test devices -- */

enum {
	VU_ID = 0x00,
	VU_ADDR = 0x08,
	VU_LEN = 0x10,
	VU_VALUE = 0x18,
	VU_COMMAND = 0x20,
	VU_RESULT = 0x28,
	VU_WRITES = 0x30,
	VU_LAST_GPA = 0x38,
	VU_LAST_LEN = 0x40,
	VU_LAST_DATA = 0x48,
	VU_REMOVED = 0x50,
	VU_UNMAPS = 0x58,
	VU_RESETS = 0x60,
	VU_OPENS = 0x68,
	VU_ENDED = 0x70,
	VU_BUFFER = 0x800,
};
enum {
	VU_DMA_READ = 1,
	VU_DMA_WRITE,
	VU_VM_READ,
	VU_VM_WRITE,
	VU_IRQ,
	VU_MSI,
	VU_TRACK_ON,
	VU_TRACK_OFF,
	VU_TRACK_ADD,
	VU_TRACK_DEL,
	VU_PIN,
	VU_UNPIN,
	VU_PIN_LOAD,
	VU_PIN_STORE,
};
#define VU_REGION(n) ((off_t)(n) << 40)

static inline uint64_t vu_get(int dev, unsigned reg)
{
	uint64_t val;

	KU_CHECK(pread(dev, &val, 8, reg) == 8);
	return val;
}

static inline void vu_set(int dev, unsigned reg, uint64_t val)
{
	KU_CHECK(pwrite(dev, &val, 8, reg) == 8);
}

/* Executes a command; its result. */
static inline int64_t vu_do(int dev, unsigned command, uint64_t addr, uint64_t len, uint64_t value)
{
	vu_set(dev, VU_ADDR, addr);
	vu_set(dev, VU_LEN, len);
	vu_set(dev, VU_VALUE, value);
	vu_set(dev, VU_COMMAND, command);
	return (int64_t)vu_get(dev, VU_RESULT);
}

/* -- Opening -- */

static inline int vu_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	KU_CHECK(fd >= 0);
	return fd;
}

/* A group in a container of its own with a type1v2 IOMMU. */
static inline void vu_group(const char *path, int *container, int *group)
{
	*container = vu_open("/dev/vfio/vfio");
	*group = vu_open(path);
	KU_CHECK(ioctl(*group, VFIO_GROUP_SET_CONTAINER, container) == 0);
	KU_CHECK(ioctl(*container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0);
}

/* KVM_DEV_TYPE_VFIO of a VM. */
static inline int vu_kvm_device(int vm)
{
	struct kvm_create_device cd = {.type = KVM_DEV_TYPE_VFIO};

	KU_CHECK(ioctl(vm, KVM_CREATE_DEVICE, &cd) == 0);
	return (int)cd.fd;
}

/* ADD (1) or DEL (2) of a file; 0 or positive errno. */
static inline int vu_file(int kvm_device, unsigned what, int fd)
{
	struct kvm_device_attr a = {
	    .group = KVM_DEV_VFIO_GROUP, .attr = what, .addr = (uint64_t)(uintptr_t)&fd};

	return ku_errno(kvm_device, KVM_SET_DEVICE_ATTR, &a);
}

static inline int vu_map(int container, uint64_t iova, void *va, uint64_t size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map m = {
	    .argsz = sizeof(m), .flags = flags, .vaddr = (uint64_t)(uintptr_t)va, .iova = iova, .size = size};

	return ku_errno(container, VFIO_IOMMU_MAP_DMA, &m);
}

/* *size: in, what to unmap; out, what was. */
static inline int vu_unmap(int container, uint64_t iova, uint64_t *size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_unmap u = {
	    .argsz = sizeof(u), .flags = flags, .iova = iova, .size = *size};
	int r = ku_errno(container, VFIO_IOMMU_UNMAP_DMA, &u);

	*size = u.size;
	return r;
}

#endif
