/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An I/O address space: what a type1 container and an iommufd's IOAS have in common. A sorted array of
 * mappings iova -> address of the VMM's, immutable but for each entry's end; DMA by emulated devices copies
 * through it.
 *
 *	          map  unmap  dma  destroy
 *	map        -     -     X      -		X = may run concurrently
 *	unmap      -     -     X      -		- = the lock, or (destroy) nobody has it any more
 *	dma        X     X     X      -
 *
 * A DMA that sleeps in a userfault delays an unmap (which returns when no DMA uses what went), nothing else.
 */
#ifndef USERKVM_VFIO_IOMMU_H
#define USERKVM_VFIO_IOMMU_H

#include "base/base.h"

#define IOMMU_MAX_MAPS 65535 /* as type1's dma_entry_limit */

struct vfio_device;
struct iommu_maps;

enum iommu_prot { IOMMU_READ = 1, IOMMU_WRITE = 2 }; /* what the device may do */

/* What may be unmapped at once. */
enum iommu_unmap_rule {
	IOMMU_V1,   /* type1: entries that begin in the range */
	IOMMU_V2,   /* type1v2: as iommufd, but nothing there is no error */
	IOMMU_IOAS, /* iommufd: -ENOENT if nothing is there, or an entry would be split */
};

struct vfio_iommu {
	struct ref refs;
	bool v1;	   /* type1 without v2's rule for unmaps; constant */
	struct mutex lock; /* guards updates of maps, the counts, devices */
	struct srcu srcu;
	_Atomic(struct iommu_maps *) maps;
	unsigned live;		     /* entries that are mapped */
	struct vfio_device *devices; /* those whose DMA goes through this, linked by dma_next */
};

/* -ENOMEM. One reference. */
int iommu_create(struct vfio_iommu **out);
void iommu_get(struct vfio_iommu *i);
/* The last one frees it: no lock held. NULL is nothing. */
void iommu_put(struct vfio_iommu *i);

/* -EINVAL: size 0, not of pages, or past the end; -EEXIST; -ENOSPC: too many; -ENOMEM. */
int iommu_map(struct vfio_iommu *i, uint64_t iova, uint64_t size, uint64_t vaddr, unsigned prot);
/* As iommu_map at the lowest iova that is free; -ENOSPC: nowhere. */
int iommu_map_anywhere(struct vfio_iommu *i, uint64_t *iova, uint64_t size, uint64_t vaddr, unsigned prot);
/* [iova, last]. Needs no memory. On return no DMA uses what went. -EINVAL (V2), -ENOENT (IOAS): an entry would
 * be split, nothing has changed. No lock held. */
int iommu_unmap(struct vfio_iommu *i, uint64_t iova, uint64_t last, enum iommu_unmap_rule rule,
		uint64_t *unmapped);
/* The VMM's address of [iova, iova + size), all inside one entry; -ENOENT. */
int iommu_lookup(struct vfio_iommu *i, uint64_t iova, uint64_t size, uint64_t *vaddr);
unsigned iommu_avail(struct vfio_iommu *i);

/* -- Devices -- */

/* The device's DMA goes through i from now on (NULL: nowhere); it takes over the caller's reference to i. On
 * return no DMA goes through the old one, whose reference the caller gets (to put without locks). The device's
 * dev_set->lock is held. */
struct vfio_iommu *iommu_attach(struct vfio_device *dev, struct vfio_iommu *i);
/* A device's DMA: read into buf (IOMMU_READ) or write from it. -ENODEV, -EFAULT. No lock held. */
int iommu_dma(struct vfio_device *dev, uint64_t iova, void *buf, size_t len, enum iommu_prot how);

#endif
