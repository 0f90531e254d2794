/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drivers of emulated VFIO devices. A driver is a shared object that exports one table,
 *
 *	const struct userkvm_driver userkvm_driver = {.api = USERKVM_DRIVER_API, .name = "mydev", ...};
 *
 * and is named by USERKVM_VFIO=/path/mydev.so (several, and the built-in "test", separated by colons). The
 * VMM finds its device as the next /dev/vfio/GROUP (device name .name) and /dev/vfio/devices/vfioN. The object
 * is loaded by the first open and unloaded after the last file of its device is closed.
 *
 * A driver never sees a VM: it reads and writes guest memory, pins ranges of it, sends interrupts and watches
 * writes through its device, from any thread of its own or of the VMM, between open and the return of close.
 * Results are >= 0 or -errno. The functions of a driver must not call back into its own device's files.
 */
#ifndef USERKVM_DRIVER_H
#define USERKVM_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define USERKVM_DRIVER_API 1

/* One opened device, made by the library. */
struct userkvm_device;

/* flags of a driver */
#define USERKVM_NEEDS_KVM 1 /* an open without a VM fails with EINVAL; the VM lives until the last close */
#define USERKVM_COHERENT  2 /* its DMA always snoops the CPUs' caches */

/* flags of a region */
#define USERKVM_REGION_READ  1
#define USERKVM_REGION_WRITE 2
#define USERKVM_REGION_MMAP  4 /* memory of the library's, shared with the VMM's mappings; size in pages */

struct userkvm_region {
	uint64_t size; /* bytes; 0: there is none at this index */
	uint32_t flags;
};

/* A kind of interrupt: `count` vectors, each signalled through an eventfd that the VMM sets. */
struct userkvm_irq {
	uint32_t count;
};

struct userkvm_driver {
	uint32_t api;	/* USERKVM_DRIVER_API */
	uint32_t flags; /* USERKVM_NEEDS_KVM ... */
	const char *name;
	const struct userkvm_region *regions;
	unsigned nr_regions;
	const struct userkvm_irq *irqs;
	unsigned nr_irqs;
	/* The first open of the device; *state is passed to everything below. No other function of the table runs
	 * before it returned 0, nor after close began. Both are called with locks held: they may not touch guest
	 * memory (userkvm_vm_*, userkvm_dma_*, but unpin in close) nor open or close files of the device. */
	int (*open)(struct userkvm_device *dev, void **state);
	void (*close)(void *state);
	/* pread and pwrite of a region, inside its bounds and flags; bytes, or -errno. Any thread, several at
	 * once. NULL: the region's memory if it is MMAP, else -EINVAL. */
	long (*read)(void *state, unsigned region, uint64_t pos, void *buf, size_t len);
	long (*write)(void *state, unsigned region, uint64_t pos, const void *buf, size_t len);
	/* Requests that the library does not know; arg is the VMM's. May be NULL: -ENOTTY. */
	long (*ioctl)(void *state, uint32_t request, void *arg);
	/* [iova, iova + len) is no longer mapped; len 0: nothing is. A notice, under a lock of the library's: no
	 * userkvm_ function may be called. May be NULL. */
	void (*dma_unmap)(void *state, uint64_t iova, uint64_t len);
	/* VFIO_DEVICE_RESET. May be NULL: the device cannot be reset. */
	int (*reset)(void *state);
};

/* -- What the device may do -- */

/* The memory of an MMAP region, or NULL. Valid from open to close. */
void *userkvm_region_memory(struct userkvm_device *dev, unsigned region);

/* DMA through the VMM's I/O address space. -EFAULT: not mapped, not so, or the VMM unmapped the memory itself;
 * part may have been copied. -ENODEV: the device is attached to none. May sleep (a userfault of the VMM's). */
int userkvm_dma_read(struct userkvm_device *dev, uint64_t iova, void *buf, size_t len);
int userkvm_dma_write(struct userkvm_device *dev, uint64_t iova, const void *buf, size_t len);

/* Signals the VMM's eventfd of a vector. -EINVAL: no such vector; 0: none is set; 1. */
int userkvm_irq_signal(struct userkvm_device *dev, unsigned irq, unsigned vector);

/* -- What it may do to the VM that it belongs to; -ENODEV without one (USERKVM_NEEDS_KVM asks for it) -- */

/* Guest-physical memory. -EFAULT: none there, read-only, or unmapped by the VMM. May sleep. */
int userkvm_vm_read(struct userkvm_device *dev, uint64_t gpa, void *buf, size_t len);
int userkvm_vm_write(struct userkvm_device *dev, uint64_t gpa, const void *buf, size_t len);
/* Sends an MSI: 1 delivered, 0 blocked. */
int userkvm_vm_msi(struct userkvm_device *dev, uint64_t addr, uint32_t data);

/*
 * A range of guest memory inside one slot, for use at its host address from any thread without further calls.
 * It ends with unpin, or by itself: when the VMM removes the slot or unmaps the memory, removed() is called, and
 * on its return (which may be before pin's) nobody may use the address any more. removed() runs on the VMM's thread with locks held: it may
 * wait for the driver's own threads to leave the range, and call nothing of the library. Guest writes to tracked
 * pages through a pin are not told to trackers.
 */
struct userkvm_pin {
	uint64_t gpa, len;
	int write;  /* pages are reported dirty at pin and unpin; in between userkvm_vm_dirty says so */
	void *host; /* out */
	void (*removed)(struct userkvm_pin *pin);
	void *reserved[8]; /* the library's */
};

/* -EINVAL empty; -EFAULT not in one slot, read-only, or not mapped by the VMM; -ESRCH. May sleep. */
int userkvm_vm_pin(struct userkvm_device *dev, struct userkvm_pin *pin);
/* Due for every pin, also after removed(), before close returns; it waits for a removed() that runs. */
void userkvm_vm_unpin(struct userkvm_device *dev, struct userkvm_pin *pin);
/* The driver wrote there through a pin: the dirty log hears of it. */
int userkvm_vm_dirty(struct userkvm_device *dev, uint64_t gpa, uint64_t len);

/* A wish to see the guest's writes to some pages. The driver owns the memory and fills the functions in. */
struct userkvm_track {
	/* On the writer's thread, after each store to a tracked page. */
	void (*write)(struct userkvm_track *t, uint64_t gpa, const void *data, unsigned len);
	/* A memory slot with tracked pages goes. May be NULL. */
	void (*removed)(struct userkvm_track *t, uint64_t gfn, uint64_t npages);
	void *reserved[8]; /* the library's */
};

/* Registration; the driver unregisters before close returns. After unregister returned, no function of t runs
 * or will run. -ESRCH: the VM belongs to another process. */
int userkvm_track_register(struct userkvm_device *dev, struct userkvm_track *t);
void userkvm_track_unregister(struct userkvm_device *dev, struct userkvm_track *t);
/* One more, or one less, wish to track a page (gfn = gpa / 4096). -EINVAL: no memory there, or none to undo. */
int userkvm_track_add(struct userkvm_device *dev, uint64_t gfn);
int userkvm_track_del(struct userkvm_device *dev, uint64_t gfn);

#ifdef __cplusplus
}
#endif
#endif
