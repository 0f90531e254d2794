/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the unit tests of vfio/ share: calls on files, and VMs that are nothing but a count. */
#ifndef TEST_VFIO_WORLD_H
#define TEST_VFIO_WORLD_H

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "file_call.h"
#include "torture.h"
#include "vfio/device.h"

/* -- A VM that is a count and a word which its end overwrites -- */

struct fake_vm {
	struct kvm_file file;
	_Atomic uint64_t alive;
	bool keep; /* its end does not free it */
};

#define ALIVE 0x1234567887654321

extern _Atomic long fake_made, fake_ended;

struct fake_vm *fake_vm_new(void);

static inline void link_file(int fd, struct fake_vm *vm)
{
	struct file *f = file_get(fd);

	assert_non_null(f);
	assert_true(vfio_file_is_valid(f));
	vfio_file_set_kvm(f, vm ? &vm->file : NULL);
	file_put(f);
}

/* A container with a group: the devices of USERKVM_VFIO=test. */
struct world {
	int container, group;
};

static inline void world_open(struct world *w, const char *path)
{
	w->container = vfio_open("/dev/vfio/vfio", O_RDWR);
	w->group = vfio_open(path, O_RDWR);
	assert_true(w->container >= 0 && w->group >= 0);
	assert_int_equal(call(w->group, VFIO_GROUP_SET_CONTAINER, &w->container), 0);
	assert_int_equal(call(w->container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU), 0);
}

static inline void world_close(struct world *w)
{
	file_close(w->group);
	file_close(w->container);
}

#endif
