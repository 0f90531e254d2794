/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Doorbells: a guest write to an address signals an eventfd and is done (api.rst 4.59, systems.md C7). */
#include "base/eventfd.h"
#include "bus/set.h"

struct ioeventfd {
	struct bus_device dev;
	uint64_t addr, datamatch;
	uint32_t len; /* 0 = any length */
	bool wildcard;
	struct base_eventfd efd;
};

/* True if the written value is the one waited for, compared at the access's own width. */
static bool value_matches(const struct ioeventfd *p, unsigned len, const void *val)
{
	uint64_t v = 0;

	memcpy(&v, val, len);
	return v == p->datamatch;
}

/* Rings the bell, or passes the access on. */
static int ioeventfd_write(struct bus_device *dev, uint64_t addr, unsigned len, const void *val)
{
	struct ioeventfd *p = container_of(dev, struct ioeventfd, dev);

	if (addr != p->addr)
		return -EOPNOTSUPP;
	if (p->len && (len != p->len || (!p->wildcard && !value_matches(p, len, val))))
		return -EOPNOTSUPP;
	base_eventfd_signal(&p->efd);
	return 0;
}

static void ioeventfd_destroy(struct bus_device *dev)
{
	struct ioeventfd *p = container_of(dev, struct ioeventfd, dev);

	base_eventfd_put(&p->efd);
	base_free(p);
}

static const struct bus_device_ops ioeventfd_ops = {.write = ioeventfd_write, .destroy = ioeventfd_destroy};

static enum bus_kind kind_of(uint32_t flags)
{
	if (flags & KVM_IOEVENTFD_FLAG_PIO)
		return BUS_PIO;
	if (flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY)
		return BUS_VIRTIO_CCW;
	return BUS_MMIO;
}

/* The next bell at addr from position *i of the array on, which may be NULL; *i goes behind it. NULL: none. */
static struct ioeventfd *next_bell(const struct bus_array *a, uint64_t addr, unsigned *i)
{
	for (; a && *i < a->n && a->r[*i].addr == addr; ++*i)
		if (a->r[*i].doorbell)
			return container_of(a->r[(*i)++].dev, struct ioeventfd, dev);
	return NULL;
}

/* True if one write could ring both bells. */
static bool collides(struct bus_set *b, enum bus_kind kind, const struct ioeventfd *new)
{
	const struct bus_array *a = bus_array_updater(b, kind);
	unsigned i = a ? bus_array_at(a, new->addr) : 0;
	const struct ioeventfd *p;

	while ((p = next_bell(a, new->addr, &i))) {
		if (!p->len || !new->len)
			return true;
		if (p->len == new->len && (p->wildcard || new->wildcard || p->datamatch == new->datamatch))
			return true;
	}
	return false;
}

/* Puts one bell on one bus. -EBADF, -EINVAL, -EMFILE, -ENOMEM, -EEXIST. */
static int assign_on(struct bus_set *b, enum bus_kind kind, const struct kvm_ioeventfd *args,
		     struct ioeventfd **out)
{
	struct base_eventfd efd;
	struct ioeventfd *p;
	int r = base_eventfd_get(&efd, args->fd);

	if (r < 0)
		return r;
	p = base_zalloc(sizeof(*p));
	if (!p) {
		base_eventfd_put(&efd);
		return -ENOMEM;
	}
	*p = (struct ioeventfd){
	    .dev.ops = &ioeventfd_ops,
	    .addr = args->addr,
	    .datamatch = args->datamatch,
	    .len = args->len,
	    .wildcard = !(args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH),
	    .efd = efd,
	};
	r = collides(b, kind, p) ? -EEXIST : bus_insert(b, kind, p->addr, p->len, &p->dev, true);
	if (r < 0)
		ioeventfd_destroy(&p->dev);
	else
		*out = p;
	return r;
}

/* True if p is the bell that args describes; its address is the same. */
static bool is_same(const struct ioeventfd *p, const struct kvm_ioeventfd *args,
		    const struct base_eventfd *efd)
{
	bool wildcard = !(args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH);

	if (p->len != args->len || p->wildcard != wildcard)
		return false;
	if (!wildcard && p->datamatch != args->datamatch)
		return false;
	return base_eventfd_same(&p->efd, efd);
}

/* Takes one bell off one bus; when this returns it will not ring again. -ENOENT. */
static int deassign_on(struct bus_set *b, enum bus_kind kind, const struct kvm_ioeventfd *args,
		       const struct base_eventfd *efd)
{
	const struct bus_array *a = bus_array_updater(b, kind);
	unsigned i = a ? bus_array_at(a, args->addr) : 0;
	struct ioeventfd *p;

	while ((p = next_bell(a, args->addr, &i)))
		if (is_same(p, args, efd))
			return bus_unregister(b, kind, &p->dev);
	return -ENOENT;
}

static int deassign(struct bus_set *b, enum bus_kind kind, const struct kvm_ioeventfd *args)
{
	struct base_eventfd efd;
	int r = base_eventfd_peek(&efd, args->fd);

	if (r < 0)
		return r;
	r = deassign_on(b, kind, args, &efd);
	if (!args->len && kind == BUS_MMIO)
		deassign_on(b, BUS_FAST_MMIO, args, &efd);
	return r;
}

static int assign(struct bus_set *b, enum bus_kind kind, const struct kvm_ioeventfd *args)
{
	struct ioeventfd *p, *fast;
	int r;

	if (args->len > 8 || (args->len & (args->len - 1)))
		return -EINVAL;
	if (args->addr + args->len < args->addr)
		return -EINVAL;
	if (args->flags & ~KVM_IOEVENTFD_VALID_FLAG_MASK)
		return -EINVAL;
	if (!args->len && (args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH))
		return -EINVAL;
	r = assign_on(b, kind, args, &p);
	if (r < 0 || args->len || kind != BUS_MMIO)
		return r;
	/* Any length: also where the address alone decides, before the instruction is looked at. */
	r = assign_on(b, BUS_FAST_MMIO, args, &fast);
	if (r < 0)
		bus_unregister(b, BUS_MMIO, &p->dev);
	return r;
}

int bus_ioeventfd(struct bus_set *b, const struct kvm_ioeventfd *args)
{
	enum bus_kind kind = kind_of(args->flags);

	lock_assert_held(b->slots_lock);
	if (args->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
		return deassign(b, kind, args);
	return assign(b, kind, args);
}
