/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parameters of KVM's modules as files of /sys/module/MODULE/parameters. A process that has /dev/kvm from
 * us has these from us too, never the machine's; each process has its own.
 */
#ifndef USERKVM_API_PARAMS_H
#define USERKVM_API_PARAMS_H

#include <stddef.h>
#include <stdbool.h>
#include <sys/types.h>

/* The text behind "/sys/module/" names a parameters folder of KVM: it is answered here, if only with -ENOENT. */
bool params_own(const char *path);
/* The file's mode, or -ENOENT. */
int params_mode(const char *path);
/* open(2): a new fd whose content is the value, or -errno. Writes to it are params_write's. */
int params_open(const char *path, int flags);
/* write(2): true if fd is a parameter that may be written; then *r is the result. A new value acts before the
 * call returns: nx_huge_pages walks the VMs, so no lock may be held. */
bool params_write(int fd, const void *buf, size_t len, long *r);

#endif
