/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The KVM ABI: the ioctl table, capabilities, device objects, stats, on the files of file/. The shim calls
 * these; results are what the system call returns inside the kernel (>= 0, or -errno). Any thread.
 */
#ifndef USERKVM_API_API_H
#define USERKVM_API_API_H

#include "base/kvm_file.h"
#include "file/file.h"
#include "mem/mem.h"

/* open("/dev/kvm"): a new fd. O_CLOEXEC is honoured; -EEXIST for O_CREAT|O_EXCL, -EMFILE, -ENOMEM. */
int api_open(int flags);
/* KVM_* on an fd that file_get does not know: it may be a file of another process running userkvm. */
long api_ioctl_unknown(int fd, unsigned long request, void *arg);
/* True for an open /dev/kvm of ours. */
bool api_is_system(int fd);

/* At the end of the process: the lines that USERKVM_STATS asks for, of the vCPUs that are left. */
void api_report_all(void);

/* userkvm_age: 0, -EBADF no VM, -EINVAL, -EIO another process's, -EFAULT. No lock held. */
long api_age(int fd, uint64_t gpa, uint64_t len, unsigned char *young);

/* Around a change of the VMM's mappings of [addr, addr + len): the VMs with memory there are told. True: end is due,
 * with the same i, which stays where it is meanwhile. May wait for vCPUs, no lock held. */
bool api_invalidate_begin(struct mem_invalidation *i, const void *addr, size_t len);
void api_invalidate_end(struct mem_invalidation *i);

/*
 * The parameters of KVM's modules as files of /sys/module/MODULE/parameters. A process that has /dev/kvm from us has
 * these from us too, never the machine's; each process has its own.
 */

/* The text behind "/sys/module/" names a parameters folder of KVM: it is answered here, if only with -ENOENT. */
bool api_params_own(const char *path);
/* The file's mode, or -ENOENT. */
int api_params_mode(const char *path);
/* open(2): a new fd whose content is the value, or -errno. Writes to it are api_params_write's. */
int api_params_open(const char *path, int flags);
/* write(2): true if fd is a parameter that may be written; then *r is the result. A new value acts before the call
 * returns: nx_huge_pages walks the VMs, so no lock may be held. */
bool api_params_write(int fd, const void *buf, size_t len, long *r);

/*
 * What KVM_DEV_TYPE_VFIO asks of VFIO: api knows no more of it, and it nothing of api. Called with kv->lock held, so
 * leaf locks only; f is pinned by the caller.
 */
struct api_vfio_ops {
	/* True if the file is a VFIO group, or a device opened through its cdev. */
	bool (*is_valid)(struct file *f);
	/* Links the VM to it, NULL: cuts the link. kvm stays addressable until the link is cut. */
	void (*set_kvm)(struct file *f, struct kvm_file *kvm);
	/* True if all its DMA snoops the caches. */
	bool (*is_coherent)(struct file *f);
};

/* Once, by whoever assembles the library; without it KVM_CREATE_DEVICE of type VFIO is -ENODEV. NULL: removes them, no
 * such device being open. */
void api_register_vfio(const struct api_vfio_ops *ops);

#endif
