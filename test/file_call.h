/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ioctl(2) as the shim makes it, for unit tests, which link no shim: the result, or -errno. */
#ifndef TEST_FILE_CALL_H
#define TEST_FILE_CALL_H

#include <errno.h>

#include "file/file.h"

static inline long call(int fd, unsigned long request, const void *arg)
{
	struct file *f = file_get(fd);
	long r;

	if (!f)
		return -EBADF;
	r = file_ioctl(f, request, (void *)arg);
	file_put(f);
	return r;
}

#endif
