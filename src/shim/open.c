/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libc's functions that take a path. */
#include <stdarg.h>
#include <unistd.h>

#include "shim/shim.h"

/* -- open -- */

/* The third argument exists only when a file may be made. */
#define OPEN_MODE(mode, flags, last)                                       \
	do {                                                               \
		if ((flags)&O_CREAT || ((flags)&O_TMPFILE) == O_TMPFILE) { \
			va_list ap;                                        \
			va_start(ap, last);                                \
			mode = va_arg(ap, mode_t);                         \
			va_end(ap);                                        \
		}                                                          \
	} while (0)

EXPORT int open(const char *path, int flags, ...)
{
	mode_t mode = 0;

	OPEN_MODE(mode, flags, flags);
	return (int)shim_ret(do_open(AT_FDCWD, path, flags, mode));
}
EXPORT_ALIAS(open) int open64(const char *path, int flags, ...);
EXPORT_ALIAS(open) int __open(const char *path, int flags, ...);
EXPORT_ALIAS(open) int __open64(const char *path, int flags, ...);

EXPORT int openat(int dirfd, const char *path, int flags, ...)
{
	mode_t mode = 0;

	OPEN_MODE(mode, flags, flags);
	return (int)shim_ret(do_open(dirfd, path, flags, mode));
}
EXPORT_ALIAS(openat) int openat64(int dirfd, const char *path, int flags, ...);

/* What open(path, flags) becomes with _FORTIFY_SOURCE. */
EXPORT int __open_2(const char *path, int flags)
{
	return (int)shim_ret(do_open(AT_FDCWD, path, flags, 0));
}
EXPORT_ALIAS(__open_2) int __open64_2(const char *path, int flags);

EXPORT int __openat_2(int dirfd, const char *path, int flags)
{
	return (int)shim_ret(do_open(dirfd, path, flags, 0));
}
EXPORT_ALIAS(__openat_2) int __openat64_2(int dirfd, const char *path, int flags);

/* -- access -- */

EXPORT int access(const char *path, int mode)
{
	return (int)shim_ret(do_access(AT_FDCWD, path, mode, 0, false));
}

EXPORT int faccessat(int dirfd, const char *path, int mode, int flags)
{
	long r = do_access(dirfd, path, mode, flags, flags != 0);

	/* Before Linux 5.8 there are no flags; with the real ids equal to the effective ones none are needed.
	 */
	if (r == -ENOSYS && flags == AT_EACCESS && sys_call(SYS_getuid) == sys_call(SYS_geteuid) &&
	    sys_call(SYS_getgid) == sys_call(SYS_getegid))
		r = do_access(dirfd, path, mode, 0, false);
	return (int)shim_ret(r);
}

EXPORT int euidaccess(const char *path, int mode)
{
	return faccessat(AT_FDCWD, path, mode, AT_EACCESS);
}
EXPORT_ALIAS(euidaccess) int eaccess(const char *path, int mode);

/* -- stat: struct stat64 is struct stat on x86-64 -- */

_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "one layout");

EXPORT int stat(const char *path, struct stat *st)
{
	return (int)shim_ret(do_stat(AT_FDCWD, path, st, 0));
}
EXPORT_ALIAS(stat) int stat64(const char *path, struct stat64 *st);

EXPORT int lstat(const char *path, struct stat *st)
{
	return (int)shim_ret(do_stat(AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW));
}
EXPORT_ALIAS(lstat) int lstat64(const char *path, struct stat64 *st);

EXPORT int fstat(int fd, struct stat *st)
{
	return (int)shim_ret(do_fstat(fd, st));
}
EXPORT_ALIAS(fstat) int fstat64(int fd, struct stat64 *st);

EXPORT int fstatat(int dirfd, const char *path, struct stat *st, int flags)
{
	return (int)shim_ret(do_stat(dirfd, path, st, flags));
}
EXPORT_ALIAS(fstatat) int fstatat64(int dirfd, const char *path, struct stat64 *st, int flags);

EXPORT int statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *stx)
{
	return (int)shim_ret(do_statx(dirfd, path, flags, mask, stx));
}

/* What stat was before glibc 2.33; version 0 is the kernel's layout and 1 glibc's, which are one. */
EXPORT int __xstat(int ver, const char *path, struct stat *st)
{
	return (int)shim_ret((unsigned)ver > 1 ? -EINVAL : do_stat(AT_FDCWD, path, st, 0));
}
EXPORT_ALIAS(__xstat) int __xstat64(int ver, const char *path, struct stat64 *st);

EXPORT int __lxstat(int ver, const char *path, struct stat *st)
{
	return (int)shim_ret((unsigned)ver > 1 ? -EINVAL : do_stat(AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW));
}
EXPORT_ALIAS(__lxstat) int __lxstat64(int ver, const char *path, struct stat64 *st);

EXPORT int __fxstat(int ver, int fd, struct stat *st)
{
	return (int)shim_ret((unsigned)ver > 1 ? -EINVAL : do_fstat(fd, st));
}
EXPORT_ALIAS(__fxstat) int __fxstat64(int ver, int fd, struct stat64 *st);

EXPORT int __fxstatat(int ver, int dirfd, const char *path, struct stat *st, int flags)
{
	return (int)shim_ret((unsigned)ver > 1 ? -EINVAL : do_stat(dirfd, path, st, flags));
}
EXPORT_ALIAS(__fxstatat) int __fxstatat64(int ver, int dirfd, const char *path, struct stat64 *st, int flags);
