/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chains 7 and 10 of systems.md, section 2, in VFIO's shipped code; see chains.c. The devices are the built-in test ones
 * and one of a driver library.
 *	make check T=lockorder/vfio
 */
#include "chain.h"

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

/* 10: a constructor, which the loader runs with its lock held, opens a device of a driver library; so does the VMM. */
static void open_in_constructor(struct world *w)
{
	int fd;

	for (int constructor = 1; constructor >= 0; constructor--) {
		if (constructor)
			lock_host_enter();
		fd = vfio_open("/dev/vfio/2", O_RDWR);
		assert_true(fd >= 0);
		file_close(fd);
		if (constructor)
			lock_host_leave();
	}
}

static const char driver[] = "#include <userkvm_driver.h>\n"
			     "static int op(struct userkvm_device *d, void **s) { return 0; }\n"
			     "static void cl(void *s) {}\n"
			     "const struct userkvm_driver userkvm_driver = {\n"
			     "	.api = USERKVM_DRIVER_API, .name = \"idle\", .open = op, .close = cl};\n";

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
	    CASE(chain_10_driver_under_lock, open_in_constructor, FLAG(LOAD_IN_LOCK), "possible deadlock",
		 "vfio->plugin_lock -> libc", "libc -> vfio->plugin_lock"),
	};
	char dir[] = "/tmp/userkvm-lockorder-XXXXXX", text[256];
	FILE *cc;
	int r = 1;

	if (!mkdtemp(dir))
		return 1;
	snprintf(text, sizeof(text), "cc -shared -fPIC -Iinclude -o %s/driver.so -x c -", dir);
	cc = popen(text, "w");
	if (!cc)
		return 1;
	fputs(driver, cc);
	if (!pclose(cc)) {
		snprintf(text, sizeof(text), "test:%s/driver.so", dir);
		setenv("USERKVM_VFIO", text, 1);
		vfio_init();
		api_register_vfio(&ops);
		r = cmocka_run_group_tests(tests, NULL, NULL);
	}
	snprintf(text, sizeof(text), "rm -rf %s", dir);
	return system(text) ? 1 : r;
}
