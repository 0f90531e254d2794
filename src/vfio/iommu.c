/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* I/O address spaces: see iommu.h. */
#include "vfio/iommu.h"

#include "vfio/device.h"

struct map {
	uint64_t iova, last; /* inclusive */
	uint64_t vaddr;
	unsigned prot;
	_Atomic bool gone; /* unmapped; the next map leaves it out */
};

/* Sorted by iova, no two overlap. */
struct iommu_maps {
	struct srcu_head rcu;
	unsigned n;
	struct map m[];
};

static bool is_live(const struct map *m)
{
	return !atomic_load_explicit(&m->gone, memory_order_acquire);
}

/* Index of the first entry that ends at iova or above; n if there is none. */
static unsigned first_from(const struct iommu_maps *t, uint64_t iova)
{
	unsigned lo = 0, hi = t->n;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		if (t->m[mid].last < iova)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The live entry that holds iova, or NULL. */
static const struct map *find(const struct iommu_maps *t, uint64_t iova)
{
	unsigned k = first_from(t, iova);

	return k < t->n && t->m[k].iova <= iova && is_live(&t->m[k]) ? &t->m[k] : NULL;
}

/* -- Life -- */

static struct iommu_maps *maps_alloc(unsigned n)
{
	return base_zalloc(sizeof(struct iommu_maps) + n * sizeof(struct map));
}

static void maps_free(struct srcu_head *head)
{
	base_free(container_of(head, struct iommu_maps, rcu));
}

int iommu_create(struct vfio_iommu **out)
{
	struct vfio_iommu *i = base_zalloc(sizeof(*i));
	struct iommu_maps *none = maps_alloc(0);
	int r = -ENOMEM;

	if (i && none)
		r = srcu_init(&i->srcu, LOCK_VFIO_DMA);
	if (r) {
		base_free(i);
		base_free(none);
		return r;
	}
	ref_init(&i->refs, 1);
	mutex_init(&i->lock, LOCK_VFIO_IOMMU);
	atomic_store(&i->maps, none);
	*out = i;
	return 0;
}

void iommu_get(struct vfio_iommu *i)
{
	ref_get(&i->refs);
}

void iommu_put(struct vfio_iommu *i)
{
	if (!i || !ref_put(&i->refs))
		return;
	srcu_barrier(&i->srcu);
	srcu_cleanup(&i->srcu);
	base_free(atomic_load(&i->maps));
	base_free(i);
}

/* -- Map -- */

/* The array with one more entry at its place, and without those that are gone. NULL without memory. */
static struct iommu_maps *with(const struct vfio_iommu *i, const struct iommu_maps *t, const struct map *add)
{
	struct iommu_maps *u = maps_alloc(i->live + 1);
	unsigned k = 0;

	if (!u)
		return NULL;
	for (; k < t->n && t->m[k].last < add->iova; k++) {
		if (is_live(&t->m[k]))
			u->m[u->n++] = t->m[k];
	}
	u->m[u->n++] = *add;
	for (; k < t->n; k++) {
		if (is_live(&t->m[k]))
			u->m[u->n++] = t->m[k];
	}
	return u;
}

/* True if a live entry meets [iova, last]; *above: the end of the one found. */
static bool overlaps(const struct iommu_maps *t, uint64_t iova, uint64_t last, uint64_t *end)
{
	for (unsigned k = first_from(t, iova); k < t->n && t->m[k].iova <= last; k++) {
		if (is_live(&t->m[k])) {
			*end = t->m[k].last;
			return true;
		}
	}
	return false;
}

/* The lowest iova of a hole of `size` bytes; -ENOSPC. */
static int find_hole(const struct iommu_maps *t, uint64_t size, uint64_t *iova)
{
	uint64_t at = 0, end;

	while (at + size - 1 >= at) {
		if (!overlaps(t, at, at + size - 1, &end)) {
			*iova = at;
			return 0;
		}
		if (end == UINT64_MAX)
			break;
		at = end + 1;
	}
	return -ENOSPC;
}

static int map_at(struct vfio_iommu *i, uint64_t *iova, uint64_t size, uint64_t vaddr, unsigned prot,
		  bool anywhere)
{
	struct iommu_maps *t, *u = NULL;
	uint64_t end;
	int r = 0;

	if (!size || (size | *iova) & PAGE_OFFSET_MASK || vaddr + size - 1 < vaddr)
		return -EINVAL;
	mutex_lock(&i->lock);
	t = atomic_load(&i->maps);
	if (i->live == IOMMU_MAX_MAPS)
		r = -ENOSPC;
	else if (anywhere)
		r = find_hole(t, size, iova);
	else if (*iova + size - 1 < *iova)
		r = -EINVAL;
	else if (overlaps(t, *iova, *iova + size - 1, &end))
		r = -EEXIST;
	if (!r) {
		struct map add = {.iova = *iova, .last = *iova + size - 1, .vaddr = vaddr, .prot = prot};

		u = with(i, t, &add);
		r = u ? 0 : -ENOMEM;
	}
	if (!r) {
		srcu_assign(i->maps, u);
		i->live++;
	}
	mutex_unlock(&i->lock);
	if (!r)
		srcu_call(&i->srcu, &t->rcu, maps_free);
	return r;
}

int iommu_map(struct vfio_iommu *i, uint64_t iova, uint64_t size, uint64_t vaddr, unsigned prot)
{
	return map_at(i, &iova, size, vaddr, prot, false);
}

int iommu_map_anywhere(struct vfio_iommu *i, uint64_t *iova, uint64_t size, uint64_t vaddr, unsigned prot)
{
	*iova = 0;
	return map_at(i, iova, size, vaddr, prot, true);
}

/* -- Unmap -- */

/* What may go of [iova, last]: 0 with the entries' index range, or why not; lock held. */
static int may_unmap(const struct iommu_maps *t, uint64_t iova, uint64_t last, enum iommu_unmap_rule rule,
		     unsigned *from, unsigned *to)
{
	bool split = false, head = false, any = false;
	unsigned k = first_from(t, iova);

	*from = k;
	for (; k < t->n && t->m[k].iova <= last; k++) {
		if (!is_live(&t->m[k]))
			continue;
		any = true;
		head |= t->m[k].iova < iova;
		split |= t->m[k].iova < iova || t->m[k].last > last;
	}
	*to = k;
	switch (rule) {
	case IOMMU_V1:
		if (head)
			*to = *from;
		return 0;
	case IOMMU_V2: return split ? -EINVAL : 0;
	case IOMMU_IOAS: break;
	}
	return split || (!any && (iova || last != UINT64_MAX)) ? -ENOENT : 0;
}

static void tell_devices(struct vfio_iommu *i, uint64_t iova, uint64_t last)
{
	for (struct vfio_device *dev = i->devices; dev; dev = dev->dma_next) {
		if (dev->drv->dma_unmap)
			dev->drv->dma_unmap(dev->state, iova, last - iova + 1);
	}
}

int iommu_unmap(struct vfio_iommu *i, uint64_t iova, uint64_t last, enum iommu_unmap_rule rule,
		uint64_t *unmapped)
{
	struct iommu_maps *t;
	unsigned k, to;
	int r;

	*unmapped = 0;
	mutex_lock(&i->lock);
	t = atomic_load(&i->maps);
	r = may_unmap(t, iova, last, rule, &k, &to);
	for (; !r && k < to; k++) {
		struct map *m = &t->m[k];

		if (!is_live(m))
			continue;
		atomic_store_explicit(&m->gone, true, memory_order_release);
		i->live--;
		*unmapped += m->last - m->iova + 1;
	}
	if (*unmapped)
		tell_devices(i, iova, last);
	mutex_unlock(&i->lock);
	/* Not under the lock: the DMA waited for may itself wait for a userfault handler that maps. */
	if (*unmapped)
		srcu_synchronize(&i->srcu);
	return r;
}

int iommu_lookup(struct vfio_iommu *i, uint64_t iova, uint64_t size, uint64_t *vaddr)
{
	const struct map *m;
	int r = -ENOENT;

	mutex_lock(&i->lock);
	m = find(atomic_load(&i->maps), iova);
	if (m && size && size - 1 <= m->last - iova) {
		*vaddr = m->vaddr + (iova - m->iova);
		r = 0;
	}
	mutex_unlock(&i->lock);
	return r;
}

unsigned iommu_avail(struct vfio_iommu *i)
{
	unsigned n;

	mutex_lock(&i->lock);
	n = IOMMU_MAX_MAPS - i->live;
	mutex_unlock(&i->lock);
	return n;
}

/* -- Devices -- */

static void unlink_device(struct vfio_iommu *i, struct vfio_device *dev)
{
	struct vfio_device **p;

	mutex_lock(&i->lock);
	for (p = &i->devices; *p != dev; p = &(*p)->dma_next)
		;
	*p = dev->dma_next;
	mutex_unlock(&i->lock);
}

static void link_device(struct vfio_iommu *i, struct vfio_device *dev)
{
	mutex_lock(&i->lock);
	dev->dma_next = i->devices;
	i->devices = dev;
	mutex_unlock(&i->lock);
}

struct vfio_iommu *iommu_attach(struct vfio_device *dev, struct vfio_iommu *i)
{
	struct vfio_iommu *old = dev->iommu;

	if (old == i)
		return i;
	if (old)
		unlink_device(old, dev);
	/* Linked before it is used, so that no unmap of what a DMA saw goes untold. */
	if (i)
		link_device(i, dev);
	spin_lock(&dev->irq_lock);
	dev->iommu = i;
	spin_unlock(&dev->irq_lock);
	if (old) {
		srcu_synchronize(&old->srcu);
		if (dev->drv->dma_unmap)
			dev->drv->dma_unmap(dev->state, 0, 0);
	}
	return old;
}

/* Copies what lies in one entry; the bytes, or -EFAULT. Inside a read section. */
static long copy_piece(const struct iommu_maps *t, uint64_t iova, void *buf, size_t len, enum iommu_prot how)
{
	const struct map *m = find(t, iova);
	uint64_t n;
	uint8_t *host;
	int r;

	if (!m || !(m->prot & how))
		return -EFAULT;
	n = MIN(len - 1, m->last - iova) + 1;
	host = (uint8_t *)(uintptr_t)(m->vaddr + (iova - m->iova));
	r = how == IOMMU_READ ? base_copy_in(buf, host, n) : base_copy_out(host, buf, n);
	return r ? r : (long)n;
}

int iommu_dma(struct vfio_device *dev, uint64_t iova, void *buf, size_t len, enum iommu_prot how)
{
	struct vfio_iommu *i;
	long n = 0;
	int idx = 0;

	/* The section is entered under the lock that attach takes: it waits for those who saw the old one. */
	spin_lock(&dev->irq_lock);
	i = dev->iommu;
	if (i)
		idx = srcu_read_lock(&i->srcu);
	spin_unlock(&dev->irq_lock);
	if (!i)
		return -ENODEV;
	for (uint8_t *p = buf; len && n >= 0; p += n, iova += (uint64_t)n, len -= (size_t)n) {
		n = copy_piece(srcu_dereference(i->maps), iova, p, len, how);
		if (n < 0)
			break;
	}
	srcu_read_unlock(&i->srcu, idx);
	return n < 0 ? (int)n : 0;
}
