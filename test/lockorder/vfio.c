/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chain 7 of systems.md, section 2, in the shipped code; see chains.c. The devices are the built-in test ones; the
 * library that the loader does not find stands for a plug-in.
 *	make check T=lockorder/vfio
 */
#include "world.h"

#include <linux/vfio.h>
#include <stdlib.h>

#include "vfio/vfio.h"

struct vfio_world {
	int container, group, device, kvm_vfio;
};

static void vfio_world_open(struct vfio_world *v, const struct world *w)
{
	struct kvm_create_device cd = {.type = KVM_DEV_TYPE_VFIO};
	struct kvm_device_attr add = {.group = KVM_DEV_VFIO_GROUP, .attr = KVM_DEV_VFIO_GROUP_ADD};

	v->container = vfio_open("/dev/vfio/vfio", O_RDWR);
	v->group = vfio_open("/dev/vfio/0", O_RDWR);
	assert_true(v->container >= 0 && v->group >= 0);
	assert_int_equal(call(v->group, VFIO_GROUP_SET_CONTAINER, &v->container), 0);
	assert_int_equal(call(v->container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), 0);
	assert_int_equal(call(w->vm, KVM_CREATE_DEVICE, &cd), 0);
	v->kvm_vfio = (int)cd.fd;
	add.addr = (uint64_t)&v->group;
	assert_int_equal(call(v->kvm_vfio, KVM_SET_DEVICE_ATTR, &add), 0);
	v->device = (int)call(v->group, VFIO_GROUP_GET_DEVICE_FD, "test0");
	assert_true(v->device >= 0);
}

/* The device is opened with a VM; the kvm-vfio file is closed, which cuts the link under kvm->lock; then the rest. */
static void open_and_cut(struct world *w)
{
	struct vfio_world v;

	vfio_world_open(&v, w);
	file_close(v.kvm_vfio);
	file_close(v.device);
	file_close(v.group);
	file_close(v.container);
}

/* All files of the VM are closed before the device: its reference is the last. */
static void device_closes_last(struct world *w)
{
	struct vfio_world v;

	vfio_world_open(&v, w);
	file_close(v.kvm_vfio);
	file_munmap(w->run[0], VCPU_MMAP_SIZE);
	file_close(w->cpu[0]);
	file_close(w->vm);
	w->cpu[0] = w->vm = -1;
	file_close(v.device);
	file_close(v.group);
	file_close(v.container);
}

static const struct api_vfio_ops ops = {
    .is_valid = vfio_file_is_valid,
    .set_kvm = vfio_file_set_kvm,
    .is_coherent = vfio_file_is_coherent,
};

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(chain_7_link_under_group_lock, open_and_cut, FLAG(LINK_IN_GROUP),
		 "group_lock is wanted while kvm->lock is held", "holds kv->lock"),
	    CASE(chain_7_last_put_under_group_lock, device_closes_last, FLAG(PUT_IN_GROUP),
		 "a last reference", "holds group_lock", "holds dev_set->lock"),
	    CASE(chain_7_destroy_under_group_lock, device_closes_last, FLAG(PUT_IN_GROUP),
		 "kvm_registry is wanted while", "holds group_lock", "holds dev_set->lock"),
	};

	setenv("USERKVM_VFIO", "test", 1);
	vfio_init();
	api_register_vfio(&ops);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
