/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a driver may ask for: the functions of include/userkvm_driver.h, exported to plug-ins. */
#include "vfio/device.h"

#define EXPORT __attribute__((visibility("default")))

/* A function that the VM's maker has, or -ENODEV without a VM, -EOPNOTSUPP without the function. */
#define VM_CALL(dev, fn, ...)                 \
	(!(dev)->kvm		? -ENODEV     \
	 : !(dev)->kvm->ops->fn ? -EOPNOTSUPP \
				: (dev)->kvm->ops->fn((dev)->kvm, ##__VA_ARGS__))

EXPORT void *userkvm_region_memory(struct userkvm_device *d, unsigned region)
{
	struct vfio_device *dev = (struct vfio_device *)d;
	size_t offset;

	return region_memory(dev, region, &offset) ? dev->mem + offset : NULL;
}

EXPORT int userkvm_dma_read(struct userkvm_device *d, uint64_t iova, void *buf, size_t len)
{
	return iommu_dma((struct vfio_device *)d, iova, buf, len, IOMMU_READ);
}

EXPORT int userkvm_dma_write(struct userkvm_device *d, uint64_t iova, const void *buf, size_t len)
{
	return iommu_dma((struct vfio_device *)d, iova, (void *)(uintptr_t)buf, len, IOMMU_WRITE);
}

EXPORT int userkvm_irq_signal(struct userkvm_device *d, unsigned irq, unsigned vector)
{
	return irqs_signal((struct vfio_device *)d, irq, vector);
}

/* -- The VM -- */

EXPORT int userkvm_vm_read(struct userkvm_device *d, uint64_t gpa, void *buf, size_t len)
{
	struct vfio_device *dev = (struct vfio_device *)d;

	return VM_CALL(dev, read, gpa, buf, len);
}

EXPORT int userkvm_vm_write(struct userkvm_device *d, uint64_t gpa, const void *buf, size_t len)
{
	struct vfio_device *dev = (struct vfio_device *)d;

	return VM_CALL(dev, write, gpa, buf, len);
}

EXPORT int userkvm_vm_msi(struct userkvm_device *d, uint64_t addr, uint32_t data)
{
	struct vfio_device *dev = (struct vfio_device *)d;

	return VM_CALL(dev, msi, addr, data);
}

/* -- Pins: the driver's holds the VM's in its reserved words -- */

_Static_assert(sizeof(struct kvm_pin) <= sizeof(((struct userkvm_pin *)0)->reserved), "room for the pin");

static void on_pin_removed(struct kvm_pin *p)
{
	struct userkvm_pin *pin = container_of((void *)p, struct userkvm_pin, reserved);

	if (pin->removed)
		pin->removed(pin);
}

EXPORT int userkvm_vm_pin(struct userkvm_device *d, struct userkvm_pin *pin)
{
	struct vfio_device *dev = (struct vfio_device *)d;
	struct kvm_pin *p = (struct kvm_pin *)pin->reserved;
	int r;

	*p = (struct kvm_pin){
	    .gpa = pin->gpa, .len = pin->len, .write = pin->write, .removed = on_pin_removed};
	r = VM_CALL(dev, pin, p);
	pin->host = r ? NULL : p->host;
	return r;
}

EXPORT void userkvm_vm_unpin(struct userkvm_device *d, struct userkvm_pin *pin)
{
	struct vfio_device *dev = (struct vfio_device *)d;

	if (dev->kvm && dev->kvm->ops->unpin)
		dev->kvm->ops->unpin(dev->kvm, (struct kvm_pin *)pin->reserved);
}

EXPORT int userkvm_vm_dirty(struct userkvm_device *d, uint64_t gpa, uint64_t len)
{
	struct vfio_device *dev = (struct vfio_device *)d;

	return VM_CALL(dev, dirty, gpa, len);
}

/* -- Write tracking: the driver's node holds the VM's in its reserved words -- */

_Static_assert(sizeof(struct kvm_track) <= sizeof(((struct userkvm_track *)0)->reserved),
	       "room for the node");

static struct userkvm_track *to_driver(struct kvm_track *node)
{
	return container_of((void *)node, struct userkvm_track, reserved);
}

static void on_write(struct kvm_track *node, uint64_t gpa, const void *data, unsigned len)
{
	struct userkvm_track *t = to_driver(node);

	t->write(t, gpa, data, len);
}

static void on_removed(struct kvm_track *node, uint64_t gfn, uint64_t npages)
{
	struct userkvm_track *t = to_driver(node);

	if (t->removed)
		t->removed(t, gfn, npages);
}

EXPORT int userkvm_track_register(struct userkvm_device *d, struct userkvm_track *t)
{
	struct vfio_device *dev = (struct vfio_device *)d;
	struct kvm_track *node = (struct kvm_track *)t->reserved;

	*node = (struct kvm_track){.write = on_write, .removed = on_removed};
	return VM_CALL(dev, track_register, node);
}

EXPORT void userkvm_track_unregister(struct userkvm_device *d, struct userkvm_track *t)
{
	struct vfio_device *dev = (struct vfio_device *)d;

	if (dev->kvm && dev->kvm->ops->track_unregister)
		dev->kvm->ops->track_unregister(dev->kvm, (struct kvm_track *)t->reserved);
}

EXPORT int userkvm_track_add(struct userkvm_device *d, uint64_t gfn)
{
	struct vfio_device *dev = (struct vfio_device *)d;

	return VM_CALL(dev, track_add, gfn);
}

EXPORT int userkvm_track_del(struct userkvm_device *d, uint64_t gfn)
{
	struct vfio_device *dev = (struct vfio_device *)d;

	return VM_CALL(dev, track_del, gfn);
}
