/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libc's functions that take a descriptor. */
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "shim/shim.h"

#define VFIO_IOCTLS ';' /* iommufd's, too */

/* -- By number -- */

long do_ioctl(int fd, unsigned long request, void *arg)
{
	struct file *f;
	long r;

	if (!shim_ready || (_IOC_TYPE(request) != KVMIO && _IOC_TYPE(request) != VFIO_IOCTLS))
		return sys_call(SYS_ioctl, fd, request, arg);
	f = file_get(fd);
	if (!f && _IOC_TYPE(request) == VFIO_IOCTLS)
		return sys_call(SYS_ioctl, fd, request, arg);
	if (!f)
		return api_ioctl_unknown(fd, request, arg);
	r = file_ioctl(f, request, arg);
	file_put(f);
	return r;
}

long do_close(int fd)
{
	return shim_ready ? file_close(fd) : sys_call(SYS_close, fd);
}

long do_close_range(unsigned first, unsigned last, unsigned flags)
{
	return shim_ready ? file_close_range(first, last, flags)
			  : sys_call(SYS_close_range, first, last, flags);
}

long do_dup3(int oldfd, int newfd, int flags)
{
	return shim_ready ? file_dup3(oldfd, newfd, flags) : sys_call(SYS_dup3, oldfd, newfd, flags);
}

long do_dup(int fd)
{
	long r = sys_call(SYS_dup, fd);

	if (r >= 0 && shim_ready)
		file_duplicated(fd, (int)r);
	return r;
}

long do_dup2(int oldfd, int newfd)
{
	long r;

	if (oldfd != newfd)
		return do_dup3(oldfd, newfd, 0);
	r = sys_call(SYS_fcntl, oldfd, F_GETFD);
	return r < 0 ? r : newfd;
}

long do_fcntl(int fd, int cmd, unsigned long arg)
{
	long r = sys_call(SYS_fcntl, fd, cmd, arg);

	if (r >= 0 && shim_ready && (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC))
		file_duplicated(fd, (int)r);
	return r;
}

/* The file behind an fd if its class has such a function, pinned; else the system call is the kernel's. */
static struct file *positioned(int fd, off_t pos, bool write)
{
	const struct file_class *cls = shim_ready ? file_class_of(fd) : NULL;
	struct file *f;

	if (!cls || !(write ? (void *)cls->write : (void *)cls->read) || pos < 0)
		return NULL;
	f = file_get(fd);
	if (!f || f->cls == cls)
		return f;
	file_put(f); /* the number became another file of ours meanwhile */
	return NULL;
}

long do_pread(int fd, void *buf, size_t len, off_t pos)
{
	struct file *f = positioned(fd, pos, false);
	long r;

	if (!f)
		return sys_call(SYS_pread64, fd, buf, len, pos);
	r = file_read(f, buf, len, (uint64_t)pos);
	file_put(f);
	return r;
}

long do_pwrite(int fd, const void *buf, size_t len, off_t pos)
{
	struct file *f = positioned(fd, pos, true);
	long r;

	if (!f)
		return sys_call(SYS_pwrite64, fd, buf, len, pos);
	r = file_write(f, buf, len, (uint64_t)pos);
	file_put(f);
	return r;
}

/* -- libc's names -- */

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	return (int)shim_ret(do_ioctl(fd, request, arg));
}

EXPORT int close(int fd)
{
	return (int)shim_ret(do_close(fd));
}
EXPORT_ALIAS(close) int __close(int fd);

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	return (int)shim_ret(do_close_range(first, last, (unsigned)flags));
}

EXPORT void closefrom(int low)
{
	/* Before Linux 5.9 one by one, up to what a process may have. */
	if (do_close_range((unsigned)MAX(low, 0), ~0U, 0) != -ENOSYS)
		return;
	for (int fd = MAX(low, 0); fd < 65536; fd++)
		do_close(fd);
}

EXPORT int dup(int fd)
{
	return (int)shim_ret(do_dup(fd));
}

EXPORT int dup2(int oldfd, int newfd)
{
	return (int)shim_ret(do_dup2(oldfd, newfd));
}
EXPORT_ALIAS(dup2) int __dup2(int oldfd, int newfd);

EXPORT int dup3(int oldfd, int newfd, int flags)
{
	return (int)shim_ret(do_dup3(oldfd, newfd, flags));
}

EXPORT int fcntl(int fd, int cmd, ...)
{
	struct f_owner_ex owner;
	unsigned long arg;
	va_list ap;
	long r;

	va_start(ap, cmd);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	if (cmd != F_GETOWN)
		return (int)shim_ret(do_fcntl(fd, cmd, arg));
	/* As libc: a process group is a negative result, not an errno. */
	r = sys_call(SYS_fcntl, fd, F_GETOWN_EX, &owner);
	if (r < 0)
		return (int)shim_ret(r);
	return owner.type == F_OWNER_PGRP ? -owner.pid : owner.pid;
}
EXPORT_ALIAS(fcntl) int fcntl64(int fd, int cmd, ...);
EXPORT_ALIAS(fcntl) int __fcntl(int fd, int cmd, ...);

EXPORT ssize_t pread(int fd, void *buf, size_t len, off_t pos)
{
	return shim_ret(do_pread(fd, buf, len, pos));
}
EXPORT_ALIAS(pread) ssize_t pread64(int fd, void *buf, size_t len, off64_t pos);
EXPORT_ALIAS(pread) ssize_t __pread64(int fd, void *buf, size_t len, off64_t pos);

/* What pread becomes with _FORTIFY_SOURCE; the room that the compiler knew is checked as libc does. */
EXPORT ssize_t __pread_chk(int fd, void *buf, size_t len, off_t pos, size_t room)
{
	if (len > room)
		abort();
	return shim_ret(do_pread(fd, buf, len, pos));
}
EXPORT_ALIAS(__pread_chk) ssize_t __pread64_chk(int fd, void *buf, size_t len, off64_t pos, size_t room);

EXPORT ssize_t pwrite(int fd, const void *buf, size_t len, off_t pos)
{
	return shim_ret(do_pwrite(fd, buf, len, pos));
}
EXPORT_ALIAS(pwrite) ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t pos);
EXPORT_ALIAS(pwrite) ssize_t __pwrite64(int fd, const void *buf, size_t len, off64_t pos);
