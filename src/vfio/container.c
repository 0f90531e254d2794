/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* /dev/vfio/vfio: a container with a type1 IOMMU. It lives until its file and all its groups let go. */
#include <fcntl.h>

#include "vfio/device.h"

#define END(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

struct vfio_container {
	struct ref refs;
	struct mutex lock; /* guards groups, iommu */
	struct vfio_group *groups;
	struct vfio_iommu *iommu; /* from SET_IOMMU until the last group leaves */
};

void container_get(struct vfio_container *c)
{
	ref_get(&c->refs);
}

void container_put(struct vfio_container *c)
{
	if (ref_put(&c->refs))
		base_free(c);
}

/* -- Groups -- */

int container_attach(struct vfio_container *c, struct vfio_group *g)
{
	container_get(c);
	g->container = c;
	mutex_lock(&c->lock);
	g->next = c->groups;
	c->groups = g;
	mutex_unlock(&c->lock);
	return 0;
}

struct vfio_iommu *container_detach(struct vfio_container *c, struct vfio_group *g)
{
	struct vfio_iommu *iommu = NULL;
	struct vfio_group **p;

	g->container = NULL;
	mutex_lock(&c->lock);
	for (p = &c->groups; *p != g; p = &(*p)->next)
		;
	*p = g->next;
	if (!c->groups) {
		iommu = c->iommu;
		c->iommu = NULL;
	}
	mutex_unlock(&c->lock);
	return iommu;
}

struct vfio_iommu *container_iommu(struct vfio_container *c)
{
	struct vfio_iommu *iommu;

	mutex_lock(&c->lock);
	iommu = c->iommu;
	if (iommu)
		iommu_get(iommu);
	mutex_unlock(&c->lock);
	return iommu;
}

static long set_iommu(struct vfio_container *c, unsigned long type)
{
	struct vfio_iommu *iommu = NULL;
	int r = 0;

	mutex_lock(&c->lock);
	if (!c->groups || c->iommu)
		r = -EINVAL;
	else if (type != VFIO_TYPE1_IOMMU && type != VFIO_TYPE1v2_IOMMU)
		r = -ENODEV;
	if (!r)
		r = iommu_create(&iommu);
	if (!r) {
		iommu->v1 = type == VFIO_TYPE1_IOMMU;
		c->iommu = iommu;
	}
	mutex_unlock(&c->lock);
	return r;
}

/* True if all DMA of the container's groups snoops; false before SET_IOMMU. */
static bool is_coherent(struct vfio_container *c)
{
	bool yes;

	mutex_lock(&c->lock);
	yes = c->iommu;
	for (struct vfio_group *g = c->groups; g; g = g->next)
		yes = yes && g->device->drv->flags & USERKVM_COHERENT;
	mutex_unlock(&c->lock);
	return yes;
}

static long check_extension(struct vfio_container *c, unsigned long ext)
{
	switch (ext) {
	case VFIO_TYPE1_IOMMU:
	case VFIO_TYPE1v2_IOMMU:
	case VFIO_UNMAP_ALL: return 1;
	case VFIO_DMA_CC_IOMMU: return is_coherent(c);
	default: return 0;
	}
}

/* -- type1 -- */

/* What follows struct vfio_iommu_type1_info if the VMM has room for it. */
struct info_caps {
	struct vfio_iommu_type1_info_cap_iova_range ranges;
	struct vfio_iova_range range;
	struct vfio_iommu_type1_info_dma_avail avail;
};

static long get_info(struct vfio_iommu *iommu, unsigned long arg)
{
	const size_t size = END(struct vfio_iommu_type1_info, iova_pgsizes);
	const uint32_t at = sizeof(struct vfio_iommu_type1_info), all = at + sizeof(struct info_caps);
	struct vfio_iommu_type1_info info = {0};
	struct info_caps caps = {
	    .ranges = {.header = {.id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
				  .version = 1,
				  .next = at + offsetof(struct info_caps, avail)},
		       .nr_iovas = 1},
	    .range = {.end = UINT64_MAX},
	    .avail = {.header = {.id = VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, .version = 1},
		      .avail = iommu_avail(iommu)},
	};
	bool room;
	int r = arg_get(&info, arg, size);

	if (r)
		return r;
	room = info.argsz >= all;
	info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
	info.iova_pgsizes = ~(uint64_t)PAGE_OFFSET_MASK;
	if (room && arg_put(arg + at, &caps, sizeof(caps)))
		return -EFAULT;
	if (info.argsz < END(struct vfio_iommu_type1_info, cap_offset)) {
		info.argsz = all;
		return arg_put(arg, &info, size);
	}
	info.cap_offset = room ? at : 0;
	if (!room)
		info.argsz = all;
	return arg_put(arg, &info, END(struct vfio_iommu_type1_info, cap_offset));
}

static long map_dma(struct vfio_iommu *iommu, unsigned long arg)
{
	struct vfio_iommu_type1_dma_map map;
	unsigned prot;
	int r = arg_get(&map, arg, sizeof(map));

	if (r)
		return r;
	prot = (map.flags & VFIO_DMA_MAP_FLAG_READ ? IOMMU_READ : 0) |
	       (map.flags & VFIO_DMA_MAP_FLAG_WRITE ? IOMMU_WRITE : 0);
	if (map.flags & ~(uint32_t)(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE) || !prot ||
	    map.vaddr & PAGE_OFFSET_MASK)
		return -EINVAL;
	return iommu_map(iommu, map.iova, map.size, map.vaddr, prot);
}

static long unmap_dma(struct vfio_iommu *iommu, unsigned long arg)
{
	struct vfio_iommu_type1_dma_unmap unmap;
	uint64_t last = UINT64_MAX, done;
	int r = arg_get(&unmap, arg, sizeof(unmap));

	if (r)
		return r;
	if (unmap.flags & ~(uint32_t)VFIO_DMA_UNMAP_FLAG_ALL)
		return -EINVAL;
	if (unmap.flags) {
		if (unmap.iova || unmap.size)
			return -EINVAL;
	} else {
		last = unmap.iova + unmap.size - 1;
		if (!unmap.size || (unmap.iova | unmap.size) & PAGE_OFFSET_MASK || last < unmap.iova)
			return -EINVAL;
	}
	r = iommu_unmap(iommu, unmap.iova, last, iommu->v1 ? IOMMU_V1 : IOMMU_V2, &done);
	if (r)
		return r;
	unmap.size = done;
	return arg_put(arg, &unmap, sizeof(unmap));
}

static long type1_ioctl(struct vfio_iommu *iommu, uint32_t request, unsigned long arg)
{
	switch (request) {
	case VFIO_IOMMU_GET_INFO: return get_info(iommu, arg);
	case VFIO_IOMMU_MAP_DMA: return map_dma(iommu, arg);
	case VFIO_IOMMU_UNMAP_DMA: return unmap_dma(iommu, arg);
	default: return -ENOTTY;
	}
}

/* -- The file -- */

static long container_ioctl(struct file *f, uint32_t request, unsigned long arg)
{
	struct vfio_container *c = f->object;
	struct vfio_iommu *iommu;
	long r;

	switch (request) {
	case VFIO_GET_API_VERSION: return VFIO_API_VERSION;
	case VFIO_CHECK_EXTENSION: return check_extension(c, arg);
	case VFIO_SET_IOMMU: return set_iommu(c, arg);
	}
	iommu = container_iommu(c);
	if (!iommu)
		return -EINVAL;
	r = type1_ioctl(iommu, request, arg);
	iommu_put(iommu);
	return r;
}

static void container_release(void *object)
{
	container_put(object);
	vfio_file_gone();
}

const struct file_class vfio_container_class = {
    .name = "VFIO container",
    .ioctl = container_ioctl,
    .release = container_release,
};

int container_open(int access)
{
	struct vfio_container *c = base_zalloc(sizeof(*c));
	struct file *f;
	int r;

	if (!c)
		return -ENOMEM;
	ref_init(&c->refs, 1);
	mutex_init(&c->lock, LOCK_VFIO_CONTAINER);
	r = file_prepare(&f, &vfio_container_class, "vfio-container", 0, access & ~O_CLOEXEC);
	if (!r) {
		r = file_install(f, c, access & O_CLOEXEC);
		if (r < 0)
			file_abandon(f);
	}
	if (r < 0)
		base_free(c);
	return r;
}
