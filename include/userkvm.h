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

#ifdef __cplusplus
extern "C" {
#endif

/* open("/dev/kvm", flags): a new system fd, or -1 (EMFILE, ENOMEM). Close it with close(2). */
int userkvm_open(int flags);
/* ioctl(2) on a fd of ours; on any other fd, the kernel's. */
int userkvm_ioctl(int fd, unsigned long request, void *arg);
/* 1 if the fd is one of ours. */
int userkvm_is_fd(int fd);
/* "MAJOR.MINOR.PATCH" */
const char *userkvm_version(void);
/* Lock-order and invariant reports so far; always 0 in a release build. */
unsigned userkvm_reports(void);

#ifdef __cplusplus
}
#endif
#endif
