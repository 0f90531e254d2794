/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The library's start, and the functions of include/userkvm.h. */
#include <pthread.h>

#include "shim/shim.h"
#include "userkvm.h"

bool shim_ready;

static const struct api_vfio_ops vfio_ops = {
    .is_valid = vfio_file_is_valid,
    .set_kvm = vfio_file_set_kvm,
    .is_coherent = vfio_file_is_coherent,
};

__attribute__((constructor)) static void shim_start(void)
{
	/* The device types that link VMs to devices are there even where USERKVM_VFIO makes no device. */
	vfio_init();
	api_register_vfio(&vfio_ops);
	shim_ready = true;
	pthread_atfork(NULL, NULL, owner_forked);
}

__attribute__((destructor)) static void shim_end(void)
{
	api_report_all();
}

EXPORT int userkvm_open(int flags)
{
	return (int)shim_ret(api_open(flags));
}

EXPORT int userkvm_ioctl(int fd, unsigned long request, void *arg)
{
	return (int)shim_ret(do_ioctl(fd, request, arg));
}

EXPORT int userkvm_is_fd(int fd)
{
	struct file *f = file_get(fd);

	if (!f)
		return 0;
	file_put(f);
	return 1;
}

EXPORT int userkvm_age(int vm_fd, uint64_t gpa, uint64_t len, unsigned char *young)
{
	return (int)shim_ret(api_age(vm_fd, gpa, len, young));
}

EXPORT const char *userkvm_version(void)
{
	return USERKVM_VERSION;
}

EXPORT unsigned userkvm_reports(void)
{
#ifdef USERKVM_CHECKED
	return lockdep_reports() + base_bug_count();
#else
	return 0;
#endif
}
