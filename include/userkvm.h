/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * userkvm: the KVM API inside the VMM's own process.
 *
 * A VMM normally needs nothing of this header: run under `userkvm run`, its open("/dev/kvm"), ioctl and
 * mmap reach the library by interposition. A program that links libuserkvm directly may call these, which
 * do the same without interposition. Thread-safe. They set errno as the system calls do.
 */
#ifndef USERKVM_H
#define USERKVM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* open("/dev/kvm", flags): a new system fd, or -1 (EMFILE, ENOMEM). Close it with close(2). */
int userkvm_open(int flags);
/* ioctl(2) on a fd of ours; on any other fd, the kernel's. */
int userkvm_ioctl(int fd, unsigned long request, void *arg);
/* 1 if the fd is one of ours. */
int userkvm_is_fd(int fd);
/*
 * What the vCPUs of a VM did to guest-physical [gpa, gpa + len) since the last call, one byte per page, like
 * mincore: bit 0, accessed; bit 1, perhaps written (a vCPU was given the right to). Both are cleared. A page that
 * is not called accessed was not touched between the last call's return and this one's start; one that is touched
 * after the return will be called accessed by the next. Address space 0; pages in no memslot are 0. The library's
 * own accesses count as a vCPU's. 0, or -1: EBADF vm_fd is no VM, EINVAL gpa or len not in pages, EFAULT young, EIO
 * the VM belongs to another process. Stops no vCPU, but each asks again for the pages that it uses afterwards.
 */
#define USERKVM_AGE_ACCESSED 1
#define USERKVM_AGE_WRITTEN  2
int userkvm_age(int vm_fd, uint64_t gpa, uint64_t len, unsigned char *young);
/* "MAJOR.MINOR.PATCH" */
const char *userkvm_version(void);
/* Lock-order and invariant reports so far; always 0 in a release build. */
unsigned userkvm_reports(void);

#ifdef __cplusplus
}
#endif
#endif
