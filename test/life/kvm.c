/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM object from inside: failing allocations, references, the registry, devices, the file handle.
 *	make check T=life/kvm
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/device.h"
#include "api/api.h"

static long call(int fd, unsigned long request, void *arg)
{
	struct file *f = file_get(fd);
	long r;

	if (!f)
		return -EBADF;
	r = file_ioctl(f, request, arg);
	file_put(f);
	return r;
}

static int vms(void)
{
	int n = 0;

	for (struct kvm *kvm = registry_next(NULL); kvm; kvm = registry_next(kvm))
		n++;
	return n;
}

/* A VM's fd and, while it is open, the object behind it. */
static int vm_new(struct kvm **kvm)
{
	int sys = api_open(0), vm = (int)call(sys, KVM_CREATE_VM, NULL);
	struct file *f = file_get(vm);

	assert_non_null(f);
	if (kvm)
		*kvm = f->object;
	file_put(f);
	file_close(sys);
	return vm;
}

/* -- Failing allocations -- */

/* Everything that makes files and objects; the first error, with all that was made closed again. */
static long make_and_close(void)
{
	struct kvm_userspace_memory_region slot = {.memory_size = 1 << 20, .userspace_addr = 1 << 30};
	int fds[8], n = 0;
	long r = api_open(0);

	for (int step = 0; r >= 0 && step < 7; step++) {
		fds[n++] = (int)r;
		switch (step) {
		case 0: r = call(fds[0], KVM_CREATE_VM, NULL); break;
		case 1: r = call(fds[1], KVM_GET_STATS_FD, NULL); break;
		case 2:
			r = call(fds[1], KVM_CREATE_IRQCHIP, NULL);
			if (!r)
				r = fds[--n]; /* no fd of its own: the stats file's again */
			break;
		case 3: r = call(fds[1], KVM_CREATE_VCPU, NULL); break;
		case 4: r = call(fds[1], KVM_CREATE_VCPU, (void *)1); break;
		case 5: r = call(fds[4], KVM_GET_STATS_FD, NULL); break;
		case 6: r = call(fds[1], KVM_SET_USER_MEMORY_REGION, &slot); break;
		}
	}
	while (n)
		file_close(fds[--n]);
	return r;
}

static void failing_allocations(void **state)
{
	long n, live;

	assert_int_equal(make_and_close(), 0);
	live = base_alloc_live();
	for (n = 1; n < 1000; n++) {
		long r;

		base_alloc_fail_at(n);
		r = make_and_close();
		base_alloc_fail_at(0);
		assert_int_equal(vms(), 0);
		assert_true(base_alloc_live() <= live);
		if (!r)
			break;
		assert_int_equal(r, -ENOMEM);
	}
	/* Some were reached, and at the end none was left to fail. */
	assert_true(n > 10 && n < 1000);
}

static int open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* With any number of descriptors left: success, or -EMFILE and nothing behind. */
static void failing_descriptors(void **state)
{
	struct rlimit old, few;
	int before, used = 0;
	long r = -EMFILE;

	assert_int_equal(make_and_close(), 0);
	before = open_fds();
	while (fcntl(used, F_GETFD) >= 0)
		used++;
	getrlimit(RLIMIT_NOFILE, &old);
	for (int limit = used; r && limit < used + 20; limit++) {
		few = old;
		few.rlim_cur = (rlim_t)limit;
		setrlimit(RLIMIT_NOFILE, &few);
		r = make_and_close();
		setrlimit(RLIMIT_NOFILE, &old);
		assert_true(r == 0 || r == -EMFILE);
		assert_int_equal(open_fds(), before);
		assert_int_equal(vms(), 0);
	}
	assert_int_equal(r, 0);
}

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

static _Atomic bool stop;

static void *walk(void *arg)
{
	while (!atomic_load(&stop))
		vms();
	return NULL;
}

static void *churn(void *arg)
{
	for (int i = 0; i < 100; i++)
		file_close(vm_new(NULL));
	return NULL;
}

/* Walkers hold what they look at and nothing else. */
static void registry_walk(void **state)
{
	pthread_t walkers[2], makers[2];

	atomic_store(&stop, false);
	for (int i = 0; i < 2; i++) {
		pthread_create(&walkers[i], NULL, walk, NULL);
		pthread_create(&makers[i], NULL, churn, NULL);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(makers[i], NULL);
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(walkers[i], NULL);
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

/* Nothing of the above broke a rule. */
static void no_reports(void **state)
{
#ifdef USERKVM_CHECKED
	assert_int_equal(lockdep_reports(), 0);
#endif
	assert_int_equal(base_bug_count(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(failing_allocations),
					   cmocka_unit_test(failing_descriptors),
					   cmocka_unit_test(file_handle),
					   cmocka_unit_test(registry_walk),
					   cmocka_unit_test(devices),
					   cmocka_unit_test(devices_of_the_vm),
					   cmocka_unit_test(no_reports)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
