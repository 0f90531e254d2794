/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ABI: files and their lifetimes, the ioctl table, capabilities, device objects, stats. The shim calls
 * these; results are what the system call returns inside the kernel (>= 0, or -errno). Any thread.
 */
#ifndef USERKVM_API_API_H
#define USERKVM_API_API_H

#include <sys/types.h>

#include "base/base.h"

struct api_file; /* one open file of ours: system, VM, vCPU, device, stats */

/* open("/dev/kvm"): a new fd. O_CLOEXEC is honoured; -EEXIST for O_CREAT|O_EXCL, -EMFILE, -ENOMEM. */
int api_open(int flags);
/* Pinned for a call, as fdget: pairs with api_put. NULL if the fd is not ours. Lock-free for the fds that
 * came our way; others (SCM_RIGHTS) are identified by their inode. */
struct api_file *api_get(int fd);
/* The last one after the last close releases the file here: no lock may be held. */
void api_put(struct api_file *f);
/* -EIO for the file of a VM that belongs to another process. */
long api_ioctl(struct api_file *f, unsigned long request, void *arg);
/* KVM_* on an fd that api_get does not know: it may be a file of another process running userkvm. */
long api_ioctl_unknown(int fd, unsigned long request, void *arg);
/* The address, or -errno; -ENODEV: this kind of file cannot be mapped. */
long api_mmap(struct api_file *f, int fd, void *addr, size_t len, int prot, int flags, off_t offset);
/* munmap(2), after which a file whose last reference was the mapping has been released. */
long api_munmap(void *addr, size_t len);

/* True for an open /dev/kvm of ours. */
bool api_is_system(int fd);

/*
 * The VMM's own descriptor calls, any fd. When one of them drops the last reference to a file of ours, the
 * file has been released on return. The library's own descriptors cannot be closed this way (-EBADF).
 */
long api_close(int fd);
long api_close_range(unsigned first, unsigned last, unsigned flags);
long api_dup3(int oldfd, int newfd, int flags);
/* After dup, F_DUPFD and the like: newfd is a duplicate of oldfd. */
void api_duplicated(int oldfd, int newfd);
/* Releases what was closed behind our back (another process, a mapping) and not yet noticed. */
void api_drain(void);

/* In a forked child (pthread_atfork; without it the next call notices): later ioctls on inherited VM and
 * vCPU files give -EIO; it may make its own. */
void api_forked(void);

#endif
