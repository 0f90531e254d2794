/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* write(2) and libc's streams, for the parameters of /sys/module/kvm...; all else is libc's. */
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

#include "shim/shim.h"

/* libc's function of that name. */
static void *next(const char *name, void *_Atomic *known)
{
	void *fn = atomic_load_explicit(known, memory_order_relaxed);

	if (!fn) {
		fn = dlsym(RTLD_NEXT, name);
		atomic_store_explicit(known, fn, memory_order_relaxed);
	}
	return fn;
}

long do_write(int fd, const void *buf, size_t len)
{
	long r;

	if (shim_ready && api_params_write(fd, buf, len, &r))
		return r;
	return sys_call(SYS_write, fd, buf, len);
}

/* libc's write may be cancelled, the bare system call not. */
EXPORT ssize_t write(int fd, const void *buf, size_t len)
{
	static void *_Atomic known;
	ssize_t (*real)(int, const void *, size_t);
	long r;

	if (shim_ready && api_params_write(fd, buf, len, &r))
		return shim_ret(r);
	real = (__typeof__(real))next("write", &known);
	return real ? real(fd, buf, len) : shim_ret(sys_call(SYS_write, fd, buf, len));
}

/* The open(2) flags of an fopen mode; -1: it is none. */
static int flags_of(const char *mode)
{
	int flags = mode[0] == 'r' ? O_RDONLY : mode[0] == 'w' || mode[0] == 'a' ? O_WRONLY : -1;

	if (flags >= 0 && strchr(mode, '+'))
		flags = O_RDWR;
	return flags >= 0 && strchr(mode, 'e') ? flags | O_CLOEXEC : flags;
}

static FILE *open_param(const char *path, const char *mode)
{
	int flags = flags_of(mode);
	FILE *f;
	long fd;

	if (flags < 0) {
		errno = EINVAL;
		return NULL;
	}
	fd = shim_ret(do_open(AT_FDCWD, path, flags, 0));
	if (fd < 0)
		return NULL;
	f = fdopen((int)fd, mode);
	if (!f)
		do_close((int)fd);
	return f;
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
	static void *_Atomic known;
	FILE *(*real)(const char *, const char *);

	if (path_is_param(path))
		return open_param(path, mode);
	real = (__typeof__(real))next("fopen", &known);
	return real(path, mode);
}

EXPORT FILE *fopen64(const char *path, const char *mode)
{
	static void *_Atomic known;
	FILE *(*real)(const char *, const char *);

	if (path_is_param(path))
		return open_param(path, mode);
	real = (__typeof__(real))next("fopen64", &known);
	return real(path, mode);
}
