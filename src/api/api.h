/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The KVM ABI: the ioctl table, capabilities, device objects, stats, on the files of file/. The shim calls
 * these; results are what the system call returns inside the kernel (>= 0, or -errno). Any thread.
 */
#ifndef USERKVM_API_API_H
#define USERKVM_API_API_H

#include "file/file.h"

/* open("/dev/kvm"): a new fd. O_CLOEXEC is honoured; -EEXIST for O_CREAT|O_EXCL, -EMFILE, -ENOMEM. */
int api_open(int flags);
/* KVM_* on an fd that file_get does not know: it may be a file of another process running userkvm. */
long api_ioctl_unknown(int fd, unsigned long request, void *arg);
/* True for an open /dev/kvm of ours. */
bool api_is_system(int fd);

#endif
