/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * /dev/iommu: address spaces (IOAS) and bound devices, by id. errno as in the kernel (drivers/iommu/iommufd):
 * E2BIG what is asked of us beyond the structs we know, EOPNOTSUPP flags, ENOENT ids and iovas.
 */
#include <fcntl.h>

#include "vfio/device.h"

#define FIRST_IDS 8

struct object {
	bool used;
	struct vfio_iommu *iommu; /* NULL: a bound device */
	unsigned users;		  /* devices attached; a bound device is its own */
};

struct iommufd {
	struct mutex lock;	/* guards the table */
	struct object *objects; /* by id; id 0 is never given */
	unsigned nr;
};

/* -- Ids -- */

/* lock held. The object, or NULL; an IOAS only if asked. */
static struct object *find(struct iommufd *d, uint32_t id, bool ioas)
{
	struct object *o = id && id < d->nr && d->objects[id].used ? &d->objects[id] : NULL;

	return o && (o->iommu || !ioas) ? o : NULL;
}

/* lock held. Makes room for one more id. */
static int grow(struct iommufd *d)
{
	unsigned nr = d->nr ? d->nr * 2 : FIRST_IDS;
	struct object *more = base_zalloc(nr * sizeof(*more));

	if (!more)
		return -ENOMEM;
	if (d->nr)
		memcpy(more, d->objects, d->nr * sizeof(*more));
	base_free(d->objects);
	d->objects = more;
	d->nr = nr;
	return 0;
}

/* The lowest free id for an object; it takes over the reference. -ENOMEM. */
static int add(struct iommufd *d, struct vfio_iommu *iommu, unsigned users, uint32_t *id)
{
	unsigned n = 1;
	int r = 0;

	mutex_lock(&d->lock);
	while (n < d->nr && d->objects[n].used)
		n++;
	if (n >= d->nr)
		r = grow(d);
	if (!r)
		d->objects[n] = (struct object){.used = true, .iommu = iommu, .users = users};
	mutex_unlock(&d->lock);
	*id = n;
	return r;
}

/* A reference to the IOAS's address space; -ENOENT. */
static int get_ioas(struct iommufd *d, uint32_t id, struct vfio_iommu **out, bool use)
{
	struct object *o;

	mutex_lock(&d->lock);
	o = find(d, id, true);
	if (o) {
		iommu_get(o->iommu);
		*out = o->iommu;
		o->users += use;
	}
	mutex_unlock(&d->lock);
	return o ? 0 : -ENOENT;
}

int iommufd_use(struct iommufd *d, uint32_t id, struct vfio_iommu **out)
{
	return get_ioas(d, id, out, true);
}

void iommufd_unuse(struct iommufd *d, uint32_t id)
{
	mutex_lock(&d->lock);
	d->objects[id].users--;
	mutex_unlock(&d->lock);
}

int iommufd_bind(struct iommufd *d, uint32_t *id)
{
	return add(d, NULL, 1, id);
}

void iommufd_unbind(struct iommufd *d, uint32_t id)
{
	mutex_lock(&d->lock);
	d->objects[id] = (struct object){0};
	mutex_unlock(&d->lock);
}

/* -- The requests: cmd is a copy of the VMM's struct, which the dispatcher copies back if >= 0 -- */

static int destroy(struct iommufd *d, void *arg)
{
	struct iommu_destroy *cmd = arg;
	struct vfio_iommu *iommu = NULL;
	struct object *o;
	int r = 0;

	mutex_lock(&d->lock);
	o = find(d, cmd->id, false);
	if (!o)
		r = -ENOENT;
	else if (o->users)
		r = -EBUSY;
	if (!r) {
		iommu = o->iommu;
		*o = (struct object){0};
	}
	mutex_unlock(&d->lock);
	iommu_put(iommu);
	return r;
}

static int ioas_alloc(struct iommufd *d, void *arg)
{
	struct iommu_ioas_alloc *cmd = arg;
	struct vfio_iommu *iommu;
	int r;

	if (cmd->flags)
		return -EOPNOTSUPP;
	r = iommu_create(&iommu);
	if (r)
		return r;
	r = add(d, iommu, 0, &cmd->out_ioas_id);
	if (r)
		iommu_put(iommu);
	return r;
}

static int iova_ranges(struct iommufd *d, void *arg)
{
	struct iommu_ioas_iova_ranges *cmd = arg;
	const struct iommu_iova_range all = {.start = 0, .last = UINT64_MAX};
	uint32_t room = cmd->num_iovas;
	struct vfio_iommu *iommu;
	int r;

	if (cmd->__reserved)
		return -EOPNOTSUPP;
	r = get_ioas(d, cmd->ioas_id, &iommu, false);
	if (r)
		return r;
	iommu_put(iommu);
	if (room && base_copy_out((void *)(uintptr_t)cmd->allowed_iovas, &all, sizeof(all)))
		return -EFAULT;
	cmd->num_iovas = 1;
	cmd->out_iova_alignment = PAGE_SIZE;
	return room ? 0 : -EMSGSIZE;
}

/* Flags of map and copy: the device's rights, or -errno. */
static int map_prot(uint32_t flags)
{
	if (flags &
	    ~(uint32_t)(IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE))
		return -EOPNOTSUPP;
	return (flags & IOMMU_IOAS_MAP_READABLE ? IOMMU_READ : 0) |
	       (flags & IOMMU_IOAS_MAP_WRITEABLE ? IOMMU_WRITE : 0);
}

static int place(struct vfio_iommu *i, uint32_t flags, __u64 *iova, uint64_t len, uint64_t va, int prot)
{
	uint64_t found;
	int r;

	if (!(flags & IOMMU_IOAS_MAP_FIXED_IOVA)) {
		r = iommu_map_anywhere(i, &found, len, va, (unsigned)prot);
		*iova = found;
		return r;
	}
	if (len && *iova + len - 1 < *iova)
		return -EOVERFLOW;
	return iommu_map(i, *iova, len, va, (unsigned)prot);
}

static int ioas_map(struct iommufd *d, void *arg)
{
	struct iommu_ioas_map *cmd = arg;
	struct vfio_iommu *iommu;
	int prot = map_prot(cmd->flags), r;

	if (prot < 0 || cmd->__reserved)
		return -EOPNOTSUPP;
	if (cmd->iova == UINT64_MAX || cmd->length == UINT64_MAX)
		return -EOVERFLOW;
	if (!prot)
		return -EINVAL;
	r = get_ioas(d, cmd->ioas_id, &iommu, false);
	if (r)
		return r;
	if (cmd->length && cmd->user_va + cmd->length - 1 < cmd->user_va)
		r = -EOVERFLOW;
	else
		r = place(iommu, cmd->flags, &cmd->iova, cmd->length, cmd->user_va, prot);
	iommu_put(iommu);
	return r;
}

static int ioas_copy(struct iommufd *d, void *arg)
{
	struct iommu_ioas_copy *cmd = arg;
	struct vfio_iommu *iommu;
	int prot = map_prot(cmd->flags), r;
	uint64_t va = 0;

	if (prot < 0)
		return prot;
	if (cmd->length == UINT64_MAX || cmd->src_iova == UINT64_MAX || cmd->dst_iova == UINT64_MAX)
		return -EOVERFLOW;
	if (!prot)
		return -EINVAL;
	r = get_ioas(d, cmd->src_ioas_id, &iommu, false);
	if (r)
		return r;
	r = iommu_lookup(iommu, cmd->src_iova, cmd->length, &va);
	iommu_put(iommu);
	if (!r)
		r = get_ioas(d, cmd->dst_ioas_id, &iommu, false);
	if (r)
		return r;
	r = place(iommu, cmd->flags, &cmd->dst_iova, cmd->length, va, prot);
	iommu_put(iommu);
	return r;
}

static int ioas_unmap(struct iommufd *d, void *arg)
{
	struct iommu_ioas_unmap *cmd = arg;
	struct vfio_iommu *iommu;
	uint64_t last = UINT64_MAX, done;
	int r = get_ioas(d, cmd->ioas_id, &iommu, false);

	if (r)
		return r;
	if (cmd->iova || cmd->length != UINT64_MAX) {
		last = cmd->iova + cmd->length - 1;
		if (cmd->iova == UINT64_MAX || cmd->length == UINT64_MAX)
			r = -EOVERFLOW;
		else if (!cmd->length)
			r = -EINVAL;
		else if (last < cmd->iova)
			r = -EOVERFLOW;
	}
	if (!r) {
		r = iommu_unmap(iommu, cmd->iova, last, IOMMU_IOAS, &done);
		cmd->length = done;
	}
	iommu_put(iommu);
	return r;
}

/* -- The table -- */

struct op {
	uint32_t request;
	uint32_t size, min; /* of the struct that we know, and of what must be given */
	int (*fn)(struct iommufd *d, void *cmd);
};

#define OP(request, type, last, fn)                                                         \
	{                                                                                   \
		request, sizeof(type), offsetof(type, last) + sizeof(((type *)0)->last), fn \
	}

static const struct op ops[] = {
    OP(IOMMU_DESTROY, struct iommu_destroy, id, destroy),
    OP(IOMMU_IOAS_ALLOC, struct iommu_ioas_alloc, out_ioas_id, ioas_alloc),
    OP(IOMMU_IOAS_COPY, struct iommu_ioas_copy, src_iova, ioas_copy),
    OP(IOMMU_IOAS_IOVA_RANGES, struct iommu_ioas_iova_ranges, out_iova_alignment, iova_ranges),
    OP(IOMMU_IOAS_MAP, struct iommu_ioas_map, iova, ioas_map),
    OP(IOMMU_IOAS_UNMAP, struct iommu_ioas_unmap, length, ioas_unmap),
};

#define MAX_CMD 64

/* The VMM's struct of `given` bytes into ours: -E2BIG if it says something behind our end. */
static int take(void *cmd, const struct op *op, unsigned long arg, uint32_t given)
{
	uint8_t rest[256];

	memset(cmd, 0, op->size);
	if (base_copy_in(cmd, (void *)arg, MIN(given, op->size)))
		return -EFAULT;
	for (uint32_t at = op->size; at < given;) {
		uint32_t n = MIN(given - at, (uint32_t)sizeof(rest));

		if (base_copy_in(rest, (void *)(arg + at), n))
			return -EFAULT;
		for (uint32_t k = 0; k < n; k++) {
			if (rest[k])
				return -E2BIG;
		}
		at += n;
	}
	return 0;
}

static long iommufd_ioctl(struct file *f, uint32_t request, unsigned long arg)
{
	_Alignas(8) uint8_t cmd[MAX_CMD];
	const struct op *op = NULL;
	uint32_t given;
	int r;

	for (unsigned n = 0; n < ARRAY_SIZE(ops); n++) {
		if (ops[n].request == request)
			op = &ops[n];
	}
	if (!op)
		return -ENOTTY;
	if (base_copy_in(&given, (void *)arg, sizeof(given)))
		return -EFAULT;
	if (given < op->min)
		return -EINVAL;
	r = take(cmd, op, arg, given);
	if (r)
		return r;
	r = op->fn(f->object, cmd);
	/* EMSGSIZE tells how much room is needed. */
	if ((!r || r == -EMSGSIZE) && base_copy_out((void *)arg, cmd, MIN(given, op->size)))
		return -EFAULT;
	return r;
}

/* -- The file: devices that are bound hold it -- */

static void iommufd_release(void *object)
{
	struct iommufd *d = object;

	for (unsigned n = 0; n < d->nr; n++) {
		base_bug_on(d->objects[n].users != 0);
		iommu_put(d->objects[n].iommu);
	}
	base_free(d->objects);
	base_free(d);
	vfio_file_gone();
}

const struct file_class vfio_iommufd_class = {
    .name = "iommufd",
    .ioctl = iommufd_ioctl,
    .release = iommufd_release,
};

int iommufd_open(int access)
{
	struct iommufd *d = base_zalloc(sizeof(*d));
	struct file *f;
	int r;

	if (!d)
		return -ENOMEM;
	mutex_init(&d->lock, LOCK_VFIO_CONTAINER);
	r = file_prepare(&f, &vfio_iommufd_class, "iommufd", 0, access & ~O_CLOEXEC);
	if (!r) {
		r = file_install(f, d, access & O_CLOEXEC);
		if (r < 0)
			file_abandon(f);
	}
	if (r < 0)
		base_free(d);
	return r;
}
