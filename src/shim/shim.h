/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to shim/: interposed libc functions. Each asks "ours?" and otherwise does what libc's does, by the
 * bare system call, so that it works before any constructor ran and never recurses. Only this room touches
 * errno. The list of exported names is tools/exports.map.
 */
#ifndef USERKVM_SHIM_SHIM_H
#define USERKVM_SHIM_SHIM_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "api/api.h"
#include "base/sys.h"
#include "vfio/vfio.h"

#define EXPORT __attribute__((visibility("default")))
/* A second name of the same function, as glibc's __open of open. */
#define EXPORT_ALIAS(target) __attribute__((visibility("default"), alias(#target)))

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmissing-attributes" /* glibc says nonnull and leaf of the one name only */
#endif

/* A kernel result as libc returns it. */
static inline long shim_ret(long r)
{
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

/* Set by our constructor. Before it, calls (of a sanitizer's start, of other constructors) go straight to the
 * kernel: nothing of ours is open yet. */
extern bool shim_ready;

enum path_kind { PATH_OTHER, PATH_KVM, PATH_VFIO, PATH_PARAM };

/* What the path names: /dev/kvm, a file of /sys/module/kvm... that the api room answers for (its name below
 * /sys/module is in buf) or, if USERKVM_VFIO asks for it, something of vfio/'s (its text is in buf). By its text (".", "..",
 * double slashes, dirfd and working directory resolved), or (KVM) because what a "kvm" names is the kernel's
 * device 10:232. Symbolic links with other names are not followed. */
enum path_kind path_kind(int dirfd, const char *path, char buf[PATH_MAX]);
/* open(2) of a path that is not PATH_OTHER. */
long path_open(enum path_kind kind, const char *path, int flags);
/* True if the path is PATH_PARAM. */
bool path_is_param(const char *path);

/* The calls by number, for libc's names and for syscall(2) alike: the kernel's results. */
long do_open(int dirfd, const char *path, int flags, mode_t mode);
long do_access(int dirfd, const char *path, int mode, int flags, bool has_flags);
long do_stat(int dirfd, const char *path, struct stat *st, int flags);
long do_fstat(int fd, struct stat *st);
long do_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *stx);
long do_ioctl(int fd, unsigned long request, void *arg);
long do_close(int fd);
long do_close_range(unsigned first, unsigned last, unsigned flags);
long do_dup3(int oldfd, int newfd, int flags);
long do_munmap(void *addr, size_t len);
long do_dup(int fd);
long do_dup2(int oldfd, int newfd);
long do_fcntl(int fd, int cmd, unsigned long arg);
long do_write(int fd, const void *buf, size_t len);
long do_pread(int fd, void *buf, size_t len, off_t pos);
long do_pwrite(int fd, const void *buf, size_t len, off_t pos);
long do_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
long do_mremap(void *old, size_t old_len, size_t new_len, int flags, void *new);
long do_mprotect(void *addr, size_t len, int prot, int key, bool has_key);
long do_madvise(void *addr, size_t len, int advice);

#endif
