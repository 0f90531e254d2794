/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to vfio/: the devices, the groups and the files through which they are used.
 *
 *	group path	/dev/vfio/N (one open) -> container -> GET_DEVICE_FD (any number of opens)
 *	cdev path	/dev/vfio/devices/vfioN -> BIND_IOMMUFD (one open) -> ATTACH
 *
 * Either keeps the other out (-EBUSY, -EINVAL). Locks: group_lock -> dev_set->lock -> container->lock ->
 * iommu->lock; kvm_ref_lock and irq_lock are leaves. No VM and no file is put under any of them.
 */
#ifndef USERKVM_VFIO_DEVICE_H
#define USERKVM_VFIO_DEVICE_H

#include "base/eventfd.h"
#include "userkvm_driver.h"
#include "vfio/abi.h"
#include "vfio/iommu.h"
#include "vfio/vfio.h"

#define VFIO_MAX_DEVICES     16
#define VFIO_MAX_VECTORS     2048 /* of one device, over all its interrupts */
#define VFIO_REGION_SHIFT    40	  /* a region's index in a file position, as vfio-pci's */
#define VFIO_REGION_OFF_MASK (BIT(VFIO_REGION_SHIFT) - 1)

/* -- link.c: from a group or device file to the VM -- */

/*
 * The one link that groups and device files share (systems.md B1). The pointer is not counted: who sets it
 * (KVM_DEV_TYPE_VFIO) holds the VM and sets NULL before it lets go; who uses it takes a reference under the
 * lock or finds that there is none.
 */
struct vfio_kvm_reference {
	struct kvm_file *file; /* guarded by lock */
	struct spinlock lock;
};

void link_init(struct vfio_kvm_reference *l);
void link_set(struct vfio_kvm_reference *l, struct kvm_file *file);
/* A reference to the VM that is linked, or NULL: none is, or its destruction began. */
struct kvm_file *link_get(struct vfio_kvm_reference *l);

/* -- driver.c: where drivers come from -- */

/* A driver library (or the built-in one); loaded while it has users. */
struct vfio_plugin {
	const char *path; /* NULL: built in */
	void *handle;	  /* dlopen's; plugin_lock */
	unsigned users;	  /* plugin_lock */
};

struct vfio_group;

struct vfio_device {
	const struct userkvm_driver *drv; /* valid while the plug-in has a user */
	struct vfio_plugin *plugin;
	unsigned index;
	struct vfio_group *group;
	struct {
		struct mutex lock;
	} set;
	/* Guarded by dev_set->lock; all but open_count constant while it is open. */
	unsigned open_count;
	struct kvm_file *kvm; /* what the driver works for; a reference */
	void *state;
	uint8_t *mem; /* MMAP regions one after the other; the first opener's file mapping */
	size_t mem_size;
	int mem_fd; /* the memory again, for the openers after the first */
	/* Guarded by irq_lock. */
	struct spinlock irq_lock;
	struct vfio_iommu *iommu; /* written with dev_set->lock, too; a reference */
	struct base_eventfd *triggers;
	unsigned nr_triggers;
	struct vfio_device *dma_next; /* iommu->devices */
};

extern struct vfio_device vfio_devices[VFIO_MAX_DEVICES];
extern unsigned vfio_nr_devices;

/* Loads the device's driver if need be: dev->drv. -ENODEV. May run the library's constructors: no lock held. */
int plugin_get(struct vfio_device *dev);
/* The last user unloads it. No lock held. */
void plugin_put(struct vfio_device *dev);

/* -- group.c -- */

struct vfio_container;
struct vfio_df;

struct vfio_group {
	struct vfio_device *device;
	struct mutex lock;		  /* group_lock */
	struct file *opened;		  /* the group's file, for its device files to hold */
	unsigned cdev_opens;		  /* the device is bound through its cdev */
	struct vfio_container *container; /* a reference */
	unsigned users;			  /* open device files */
	struct vfio_group *next;	  /* container's; container->lock */
	struct vfio_kvm_reference link;
};

extern struct vfio_group vfio_groups[VFIO_MAX_DEVICES];
/* access: O_ACCMODE and status flags, and O_CLOEXEC. */
int group_open(unsigned number, int access);
/* The end of a device file of the group path. */
void group_close_device(struct vfio_df *df);
extern const struct file_class vfio_group_class;

/* -- container.c -- */

int container_open(int access);
extern const struct file_class vfio_container_class;
/* group_lock held. The group takes a reference to the container. */
int container_attach(struct vfio_container *c, struct vfio_group *g);
/* group_lock held. The address space that went with the last group is put by the caller, without locks. */
struct vfio_iommu *container_detach(struct vfio_container *c, struct vfio_group *g);
/* A reference to its address space, or NULL before SET_IOMMU. */
struct vfio_iommu *container_iommu(struct vfio_container *c);
void container_get(struct vfio_container *c);
void container_put(struct vfio_container *c);

/* -- iommufd.c -- */

struct iommufd;

int iommufd_open(int access);
extern const struct file_class vfio_iommufd_class;
/* An id for a bound device. -ENOMEM. */
int iommufd_bind(struct iommufd *d, uint32_t *id);
void iommufd_unbind(struct iommufd *d, uint32_t id);
/* A reference to the address space of IOAS `id`, which then cannot be destroyed until unused. -ENOENT. */
int iommufd_use(struct iommufd *d, uint32_t id, struct vfio_iommu **out);
void iommufd_unuse(struct iommufd *d, uint32_t id);

/* -- device.c: one open of a device -- */

struct vfio_df {
	struct vfio_device *dev;
	struct file *file;	 /* its own; memory that the first opener contributes */
	struct file *group_file; /* group path: held until the device is closed */
	_Atomic bool granted;	 /* group path: always; cdev path: bound */
	/* cdev path */
	struct file *iommufd;
	uint32_t devid, ioas; /* ioas 0: not attached */
	bool blocks_group;
	struct vfio_kvm_reference link;
};

/* What an open or close leaves to be put once no lock is held. */
struct vfio_dropped {
	struct kvm_file *kvm;
	struct vfio_iommu *iommu;
	void *map; /* of len bytes */
	size_t len;
	int fd; /* -1: none */
	struct base_eventfd *triggers;
	unsigned nr_triggers;
};
void device_drop(struct vfio_dropped *d);

/* The device's size in its file. */
size_t device_file_size(const struct vfio_device *dev);
/* dev_set->lock held. The first open takes the VM that `link` names, if the driver wants one, and calls the
 * driver. Takes a reference to iommu (may be NULL). -EINVAL: the driver needs a VM, and there is none. */
int device_open(struct vfio_df *df, struct vfio_iommu *iommu, struct vfio_kvm_reference *link,
		struct vfio_dropped *drop);
void device_close(struct vfio_df *df, struct vfio_dropped *drop);
extern const struct file_class vfio_df_class;

/* -- device_ioctl.c, irqs.c -- */

long device_ioctl(struct vfio_df *df, uint32_t request, unsigned long arg);
long irqs_set(struct vfio_device *dev, unsigned long arg);
/* -EINVAL no such vector, 0 no eventfd is set, 1. */
int irqs_signal(struct vfio_device *dev, unsigned irq, unsigned vector);
/* True if the region is MMAP; its place in the device's memory. */
bool region_memory(const struct vfio_device *dev, unsigned region, size_t *offset);

/* -- cdev.c -- */

int cdev_open(unsigned index, int access);
long cdev_bind(struct vfio_df *df, unsigned long arg);
long cdev_attach(struct vfio_df *df, unsigned long arg);
long cdev_detach(struct vfio_df *df, unsigned long arg);
/* Undoes bind, if there was one: the file is closed. */
void cdev_release(struct vfio_df *df);

/* -- Everybody's -- */

/* A file that vfio_open made is released: last thing of its release. */
void vfio_file_gone(void);
/* The VMM's argument: the first `size` bytes, of which the first word (argsz) must be at least that; -EFAULT,
 * -EINVAL. */
int arg_get(void *buf, unsigned long arg, size_t size);
int arg_put(unsigned long arg, const void *buf, size_t size);
/* A pinned file of ours behind the VMM's fd; else NULL and *r: -EBADF, or -EBADFD for somebody else's. */
struct file *arg_file(int fd, int *r);

/* -- test_driver.c -- */

extern const struct userkvm_driver vfio_test_drivers[2];

#endif
