/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of VM objects share: the ABI's calls without a shim, and what must be as before at the end. */
#ifndef TEST_LIFE_LIFE_H
#define TEST_LIFE_LIFE_H

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <unistd.h>

#include "api/api.h"
#include "api/device.h"
#include "file_call.h"

static inline int vms(void)
{
	int n = 0;

	for (struct kvm *kvm = registry_next(NULL); kvm; kvm = registry_next(kvm))
		n++;
	return n;
}

/* A VM's fd and, while it is open, the object behind it. */
static inline int vm_new(struct kvm **kvm)
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

static inline int open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* What a test may not change. */
struct balance {
	long allocations, files;
	int fds, vms;
};

static inline struct balance balance(void)
{
	return (struct balance){base_alloc_live(), files_live(), open_fds(), vms()};
}

static inline bool balanced(const struct balance *b, const struct balance *now)
{
	return now->allocations <= b->allocations && now->files == b->files && now->fds == b->fds &&
	       now->vms == b->vms;
}

/* The event loop may still be freeing what was replaced, or looking at a file: a second at most. */
static inline void assert_balance(const struct balance *b, const char *what)
{
	struct balance now = balance();

	for (int i = 0; i < 1000 && !balanced(b, &now); i++) {
		usleep(1000);
		now = balance();
	}
	if (!balanced(b, &now))
		fail_msg("%s: %ld allocations (%ld before), %ld files (%ld), %d fds (%d), %d VMs (%d)", what,
			 now.allocations, b->allocations, now.files, b->files, now.fds, b->fds, now.vms,
			 b->vms);
}

/* Nothing that was done broke a rule of the library's. */
static inline void no_reports(void **state)
{
#ifdef USERKVM_CHECKED
	assert_int_equal(lockdep_reports(), 0);
#endif
	assert_int_equal(base_bug_count(), 0);
}

/* -- A VFIO of the test's: files that are links to a VM and nothing else -- */

struct fake_vfio {
	struct spinlock lock; /* kvm_ref_lock: guards kvm */
	struct kvm_file *kvm;
	_Atomic int links, cuts, released;
	bool noncoherent;
};

static inline void fake_release(void *object)
{
	struct fake_vfio *v = object;

#ifdef USERKVM_CHECKED
	lock_assert_none("the end of a VFIO file");
#endif
	base_bug_on(v->kvm != NULL);
	atomic_fetch_add(&v->released, 1);
}

static const struct file_class fake_class = {.name = "fake", .release = fake_release};

static inline bool fake_is_valid(struct file *f)
{
	return f->cls == &fake_class;
}

static inline void fake_set_kvm(struct file *f, struct kvm_file *kvm)
{
	struct fake_vfio *v = f->object;

	spin_lock(&v->lock);
	v->kvm = kvm;
	spin_unlock(&v->lock);
	atomic_fetch_add(kvm ? &v->links : &v->cuts, 1);
}

/* What the open of a device does: the linked VM, counted, or NULL. */
static inline struct kvm_file *fake_get_kvm(struct fake_vfio *v)
{
	struct kvm_file *kvm;

	spin_lock(&v->lock);
	kvm = v->kvm;
	if (kvm && !kvm_file_get_safe(kvm))
		kvm = NULL;
	spin_unlock(&v->lock);
	return kvm;
}

static inline bool fake_is_coherent(struct file *f)
{
	return !((struct fake_vfio *)f->object)->noncoherent;
}

static const struct api_vfio_ops fake_vfio_ops = {fake_is_valid, fake_set_kvm, fake_is_coherent};

static inline int fake_open(struct fake_vfio *v)
{
	struct file *f;

	spin_init(&v->lock, LOCK_VFIO_KVM_REF);
	assert_int_equal(files_start(), 0);
	assert_int_equal(file_prepare(&f, &fake_class, "kvm-fake", 0, O_RDWR), 0);
	return file_install(f, v, true);
}

static inline long kvm_vfio_new(int vm)
{
	struct kvm_create_device cd = {.type = KVM_DEV_TYPE_VFIO};
	long r = call(vm, KVM_CREATE_DEVICE, &cd);

	return r ? r : (int)cd.fd;
}

#define FILE_ADD 1
#define FILE_DEL 2

static inline long kvm_vfio_attr(int dev, uint64_t attr, int fd)
{
	int32_t value = fd;
	struct kvm_device_attr a = {.group = 1, .attr = attr, .addr = (uintptr_t)&value};

	return call(dev, KVM_SET_DEVICE_ATTR, &a);
}

#endif
