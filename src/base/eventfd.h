/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Our own reference to an eventfd that the VMM gave us, independent of the VMM's fd number: a duplicate at a
 * high number. Two references are the same eventfd if their identities agree, whatever their numbers.
 */
#ifndef USERKVM_BASE_EVENTFD_H
#define USERKVM_BASE_EVENTFD_H

#include "base/util.h"

struct base_eventfd {
	int fd;	       /* our duplicate, close-on-exec */
	bool nonblock; /* the VMM opened it with EFD_NONBLOCK: writes and reads never wait */
	bool has_id;   /* the kernel told an identity (Linux 5.2); else kcmp(2) decides */
	int64_t id;
};

/* Takes a reference. -EBADF closed fd, -EINVAL not an eventfd, -EMFILE no fd number left; then e->fd is -1.
 * Any thread. */
int base_eventfd_get(struct base_eventfd *e, int fd);
void base_eventfd_put(struct base_eventfd *e);
bool base_eventfd_same(const struct base_eventfd *a, const struct base_eventfd *b);
/* Adds 1 to the counter. Never waits: a full counter stays full, as eventfd_signal in the kernel. */
void base_eventfd_signal(const struct base_eventfd *e);
/* Takes the counter (1 of a semaphore) without waiting; 0 if there was none. */
uint64_t base_eventfd_drain(const struct base_eventfd *e);

#endif
