/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A device's interrupts: the eventfds of its vectors, and VFIO_DEVICE_SET_IRQS. */
#include "vfio/device.h"

/* The place of a vector among all of the device's; -1: no such vector. */
static int slot_of(const struct vfio_device *dev, unsigned irq, unsigned vector)
{
	unsigned n = 0;

	if (irq >= dev->drv->nr_irqs || vector >= dev->drv->irqs[irq].count)
		return -1;
	for (unsigned i = 0; i < irq; i++)
		n += dev->drv->irqs[i].count;
	return (int)(n + vector);
}

int irqs_signal(struct vfio_device *dev, unsigned irq, unsigned vector)
{
	int slot = slot_of(dev, irq, vector), r = 0;

	if (slot < 0)
		return -EINVAL;
	spin_lock(&dev->irq_lock);
	if ((unsigned)slot < dev->nr_triggers && dev->triggers[slot].fd >= 0) {
		base_eventfd_signal(&dev->triggers[slot]);
		r = 1;
	}
	spin_unlock(&dev->irq_lock);
	return r;
}

/* Exchanges `count` eventfds from a slot on with those in `e`. */
static void exchange(struct vfio_device *dev, unsigned slot, struct base_eventfd *e, unsigned count)
{
	spin_lock(&dev->irq_lock);
	for (unsigned n = 0; n < count && slot + n < dev->nr_triggers; n++) {
		struct base_eventfd old = dev->triggers[slot + n];

		dev->triggers[slot + n] = e[n];
		e[n] = old;
	}
	spin_unlock(&dev->irq_lock);
}

/* Sets eventfds (fds NULL: takes all away); all or none. */
static int set_eventfds(struct vfio_device *dev, unsigned slot, const int32_t *fds, unsigned count)
{
	struct base_eventfd *e = base_zalloc(MAX(count, 1U) * sizeof(*e));
	int r = 0;

	if (!e)
		return -ENOMEM;
	for (unsigned n = 0; n < count; n++)
		e[n].fd = -1;
	for (unsigned n = 0; n < count && !r; n++) {
		if (fds && fds[n] >= 0)
			r = base_eventfd_get(&e[n], fds[n]);
		else if (fds && fds[n] < -1)
			r = -EINVAL;
	}
	if (!r)
		exchange(dev, slot, e, count);
	/* What was there before; or, after an error, what is not wanted now. */
	for (unsigned n = 0; n < count; n++)
		base_eventfd_put(&e[n]);
	base_free(e);
	return r;
}

/* Header and data are good. */
static int apply(struct vfio_device *dev, const struct vfio_irq_set *h, const void *data)
{
	unsigned count = dev->drv->irqs[h->index].count;
	const uint8_t *bools = data;

	if ((h->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK) != VFIO_IRQ_SET_ACTION_TRIGGER)
		return -ENOTTY; /* none of these interrupts can be masked */
	switch (h->flags & VFIO_IRQ_SET_DATA_TYPE_MASK) {
	case VFIO_IRQ_SET_DATA_EVENTFD:
		return set_eventfds(dev, (unsigned)slot_of(dev, h->index, h->start), data, h->count);
	case VFIO_IRQ_SET_DATA_NONE:
		if (!h->count)
			return set_eventfds(dev, (unsigned)slot_of(dev, h->index, 0), NULL, count);
	}
	/* Loopback: as if the device had raised them. */
	for (unsigned n = 0; n < h->count; n++) {
		if (!bools || bools[n])
			irqs_signal(dev, h->index, h->start + n);
	}
	return 0;
}

/* Bytes of data that the header announces; -EINVAL. */
static long data_size(const struct vfio_device *dev, const struct vfio_irq_set *h)
{
	uint64_t size;

	if (h->flags & ~(uint32_t)(VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK) ||
	    h->index >= dev->drv->nr_irqs || (uint64_t)h->start + h->count > dev->drv->irqs[h->index].count ||
	    h->start >= dev->drv->irqs[h->index].count)
		return -EINVAL;
	switch (h->flags & VFIO_IRQ_SET_DATA_TYPE_MASK) {
	case VFIO_IRQ_SET_DATA_NONE: return 0;
	case VFIO_IRQ_SET_DATA_BOOL: size = h->count; break;
	case VFIO_IRQ_SET_DATA_EVENTFD: size = (uint64_t)h->count * sizeof(int32_t); break;
	default: return -EINVAL;
	}
	/* No data where data is announced. */
	return size && h->argsz - sizeof(*h) >= size ? (long)size : -EINVAL;
}

long irqs_set(struct vfio_device *dev, unsigned long arg)
{
	struct vfio_irq_set h;
	void *data = NULL;
	long size;
	int r = arg_get(&h, arg, sizeof(h));

	if (r)
		return r;
	size = data_size(dev, &h);
	if (size < 0)
		return size;
	if (size) {
		data = base_zalloc((size_t)size);
		if (!data)
			return -ENOMEM;
		r = base_copy_in(data, (void *)(arg + sizeof(h)), (size_t)size);
	}
	if (!r)
		r = apply(dev, &h, data);
	base_free(data);
	return r;
}
