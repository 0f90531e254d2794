/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libc's functions that take a descriptor. */
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "shim/shim.h"

/* -- By number -- */

long do_ioctl(int fd, unsigned long request, void *arg)
{
	struct file *f;
	long r;

	if (!shim_ready || _IOC_TYPE(request) != KVMIO)
		return sys_call(SYS_ioctl, fd, request, arg);
	f = file_get(fd);
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
