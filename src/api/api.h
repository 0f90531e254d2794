/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ABI: files and their lifetimes, the ioctl table, capabilities, device objects, stats. The shim calls
 * these; results are what the system call returns inside the kernel (>= 0, or -errno).
 */
#ifndef USERKVM_API_API_H
#define USERKVM_API_API_H

#include <sys/types.h>

#include "base/base.h"

struct api_file; /* one open file of ours: system, VM, vCPU, device, stats */

/* True if the path names /dev/kvm (absolute, or relative to dirfd; ".." and double slashes resolved). */
bool api_is_kvm_path(int dirfd, const char *path);
/* open("/dev/kvm"): a new fd, -EMFILE, -ENOMEM. flags: O_CLOEXEC is honoured, O_CREAT|O_EXCL gives -EEXIST. */
int api_open(int flags);
/* The file behind an fd of ours, or NULL; lock-free, falls back to the inode for fds that came another way. */
struct api_file *api_lookup(int fd);
/* Pinned for the call: pairs with api_put. NULL if fd is not ours. */
struct api_file *api_get(int fd);
void api_put(struct api_file *f);
long api_ioctl(struct api_file *f, unsigned long request, void *arg);
/* The offset and length are already checked to be page multiples; result as mmap's, or -errno cast. */
void *api_mmap(struct api_file *f, int fd, void *addr, size_t len, int prot, int flags, off_t offset);
ssize_t api_pread(struct api_file *f, void *buf, size_t len, off_t offset);

/* fd bookkeeping after the kernel did it: newfd is a duplicate of oldfd; fds in [first,last] were closed. */
void api_dup(int oldfd, int newfd);
/* Before close: remembers; after: runs releases of objects whose last reference went with it. */
void api_closing(unsigned first, unsigned last);
void api_closed(void);
/* In the child after fork (pthread_atfork): every later ioctl on inherited files gives -EIO. */
void api_forked(void);

#endif
