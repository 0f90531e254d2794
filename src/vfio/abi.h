/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What Linux has and Debian 12's headers lack: the device cdev (6.6) and iommufd (6.2). Numbers and layouts
 * are the kernel's ABI. No foreign program has driven these yet.
 */
#ifndef USERKVM_VFIO_ABI_H
#define USERKVM_VFIO_ABI_H

#include <linux/kvm.h>
#include <linux/vfio.h>

/* -- KVM_DEV_TYPE_VFIO: files instead of groups, same values -- */

#ifndef KVM_DEV_VFIO_FILE
#define KVM_DEV_VFIO_FILE     KVM_DEV_VFIO_GROUP
#define KVM_DEV_VFIO_FILE_ADD KVM_DEV_VFIO_GROUP_ADD
#define KVM_DEV_VFIO_FILE_DEL KVM_DEV_VFIO_GROUP_DEL
#endif

/* -- The device cdev -- */

#ifndef VFIO_DEVICE_BIND_IOMMUFD
#define VFIO_DEVICE_BIND_IOMMUFD      _IO(VFIO_TYPE, VFIO_BASE + 18)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 19)
#define VFIO_DEVICE_DETACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 20)

struct vfio_device_bind_iommufd {
	__u32 argsz;
	__u32 flags; /* 0 */
	__s32 iommufd;
	__u32 out_devid;
};

struct vfio_device_attach_iommufd_pt {
	__u32 argsz;
	__u32 flags;		   /* 0 */
#define VFIO_DEVICE_ATTACH_PASID 1 /* not supported here */
	__u32 pt_id;		   /* in: an IOAS; out: what the device is attached to */
};

struct vfio_device_detach_iommufd_pt {
	__u32 argsz;
	__u32 flags; /* 0 */
#define VFIO_DEVICE_DETACH_PASID 1
};
#endif

/* -- iommufd: /dev/iommu. The first word of each argument is its size. -- */

#ifndef IOMMUFD_TYPE
#define IOMMUFD_TYPE (';')

#define IOMMU_DESTROY	       _IO(IOMMUFD_TYPE, 0x80)
#define IOMMU_IOAS_ALLOC       _IO(IOMMUFD_TYPE, 0x81)
#define IOMMU_IOAS_COPY	       _IO(IOMMUFD_TYPE, 0x83)
#define IOMMU_IOAS_IOVA_RANGES _IO(IOMMUFD_TYPE, 0x84)
#define IOMMU_IOAS_MAP	       _IO(IOMMUFD_TYPE, 0x85)
#define IOMMU_IOAS_UNMAP       _IO(IOMMUFD_TYPE, 0x86)

struct iommu_destroy {
	__u32 size;
	__u32 id;
};

struct iommu_ioas_alloc {
	__u32 size;
	__u32 flags; /* 0 */
	__u32 out_ioas_id;
};

struct iommu_iova_range {
	__aligned_u64 start;
	__aligned_u64 last; /* inclusive */
};

struct iommu_ioas_iova_ranges {
	__u32 size;
	__u32 ioas_id;
	__u32 num_iovas; /* in: room in the array; out: ranges that there are */
	__u32 __reserved;
	__aligned_u64 allowed_iovas; /* struct iommu_iova_range * */
	__aligned_u64 out_iova_alignment;
};

#define IOMMU_IOAS_MAP_FIXED_IOVA 1
#define IOMMU_IOAS_MAP_WRITEABLE  2
#define IOMMU_IOAS_MAP_READABLE	  4

struct iommu_ioas_map {
	__u32 size;
	__u32 flags;
	__u32 ioas_id;
	__u32 __reserved;
	__aligned_u64 user_va;
	__aligned_u64 length;
	__aligned_u64 iova;
};

struct iommu_ioas_copy {
	__u32 size;
	__u32 flags;
	__u32 dst_ioas_id;
	__u32 src_ioas_id;
	__aligned_u64 length;
	__aligned_u64 dst_iova;
	__aligned_u64 src_iova;
};

struct iommu_ioas_unmap {
	__u32 size;
	__u32 ioas_id;
	__aligned_u64 iova;
	__aligned_u64 length; /* out: bytes unmapped; iova 0 and all ones: everything */
};
#endif

#endif
