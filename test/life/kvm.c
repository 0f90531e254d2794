/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM object from inside: its handle, its devices.
 *	make check T=life/kvm
 */
#include "life.h"

/* -- References -- */

/*
 * The handle is there while the VM's fd is open, whoever holds the VM afterwards.
 * Seen to fail with the clearing of kvm->file removed from vm_release.
 */
static void file_handle(void **state)
{
	struct kvm_file *f;
	struct kvm *kvm;
	int vm = vm_new(&kvm), cpu = (int)call(vm, KVM_CREATE_VCPU, NULL);

	assert_true(cpu >= 0);
	f = kvm_file_get_active(kvm);
	assert_ptr_equal(f, &kvm->handle);
	assert_ptr_equal(f->ops, &kvm_handle_ops);
	assert_int_equal(ref_read(&f->users), 3);
	file_close(vm);
	assert_null(kvm_file_get_active(kvm));
	assert_int_equal(ref_read(&f->users), 2);
	file_close(cpu);
	/* The handle alone keeps the VM. */
	assert_int_equal(vms(), 1);
	kvm_file_put(f);
	assert_int_equal(vms(), 0);
}

/* -- Devices -- */

static int created, released, killed;
static int create_result;

static int dev_create(struct kvm_dev *dev)
{
	lock_assert_held(&dev->kvm->lock);
	created++;
	return create_result;
}

static void dev_release(struct kvm_dev *dev)
{
	lock_assert_held(&dev->kvm->lock);
	released++;
}

static void dev_destroy(struct kvm_dev *dev)
{
#ifdef USERKVM_CHECKED
	/* No lock: it may drop what takes any. */
	lock_assert_none("a device's end");
#endif
	killed++;
}

static int dev_set(struct kvm_dev *dev, const struct kvm_device_attr *a)
{
	return a->group == 1 ? 0 : -ENXIO;
}

static const struct kvm_dev_ops with_release = {.name = "test",
						.create = dev_create,
						.destroy = dev_destroy,
						.release = dev_release,
						.set_attr = dev_set};
static const struct kvm_dev_ops without_release = {
    .name = "test", .create = dev_create, .destroy = dev_destroy};

static void devices(void **state)
{
	struct kvm_create_device cd = {.type = KVM_DEV_TYPE_XICS};
	struct kvm_device_attr a = {.group = 1};
	struct kvm *kvm;
	int vm = vm_new(&kvm);

	assert_int_equal(call(vm, KVM_CREATE_DEVICE, &cd), -ENODEV);
	assert_int_equal(device_register_type(KVM_DEV_TYPE_XICS, &with_release), 0);
	assert_int_equal(device_register_type(KVM_DEV_TYPE_XICS, &with_release), -EEXIST);
	assert_int_equal(device_register_type(1000, &with_release), -ENOSPC);
	cd.flags = KVM_CREATE_DEVICE_TEST;
	assert_int_equal(call(vm, KVM_CREATE_DEVICE, &cd), 0);
	assert_int_equal(created, 0);
	cd.flags = 0;
	create_result = -EBUSY;
	assert_int_equal(call(vm, KVM_CREATE_DEVICE, &cd), -EBUSY);
	create_result = 0;
	assert_null(kvm->devices);
	assert_int_equal(call(vm, KVM_CREATE_DEVICE, &cd), 0);
	assert_int_equal(created, 2);
	assert_non_null(kvm->devices);
	assert_int_equal(call((int)cd.fd, KVM_SET_DEVICE_ATTR, &a), 0);
	assert_int_equal(call((int)cd.fd, KVM_GET_DEVICE_ATTR, &a), -EPERM);
	a.group = 2;
	assert_int_equal(call((int)cd.fd, KVM_SET_DEVICE_ATTR, &a), -ENXIO);
	assert_int_equal(call((int)cd.fd, KVM_RUN, NULL), -ENOTTY);
	/* The device's file holds the VM. */
	file_close(vm);
	assert_int_equal(vms(), 1);
	assert_int_equal(released, 0);
	file_close((int)cd.fd);
	assert_int_equal(released, 1);
	assert_int_equal(killed, 1);
	assert_int_equal(vms(), 0);
	device_register_type(KVM_DEV_TYPE_XICS, NULL);
}

/* A type without release dies with the VM, not with its file. */
static void devices_of_the_vm(void **state)
{
	struct kvm_create_device cd = {.type = KVM_DEV_TYPE_XICS};
	int vm = vm_new(NULL);

	released = killed = 0;
	assert_int_equal(device_register_type(KVM_DEV_TYPE_XICS, &without_release), 0);
	assert_int_equal(call(vm, KVM_CREATE_DEVICE, &cd), 0);
	file_close((int)cd.fd);
	assert_int_equal(killed, 0);
	file_close(vm);
	assert_int_equal(killed, 1);
	device_register_type(KVM_DEV_TYPE_XICS, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(file_handle), cmocka_unit_test(devices),
					   cmocka_unit_test(devices_of_the_vm), cmocka_unit_test(no_reports)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
