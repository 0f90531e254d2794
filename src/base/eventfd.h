/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Our own reference to an eventfd that the VMM gave us, independent of the VMM's fd number: a duplicate at a
 * high number. Two references are the same eventfd if their identities agree, whatever their numbers.
 */
#ifndef USERKVM_BASE_EVENTFD_H
#define USERKVM_BASE_EVENTFD_H

#include "base/util.h"

struct base_eventfd {
	int fd;	       /* our duplicate, close-on-exec; or the VMM's own number (base_eventfd_peek) */
	bool nonblock; /* the VMM opened it with EFD_NONBLOCK: writes and reads never wait */
	bool has_id;   /* id is known */
	int64_t id;    /* the kernel's, unique among the eventfds that are open */
};

/* Takes a reference. -EBADF closed fd or O_PATH, -EINVAL not an eventfd, -EMFILE no fd number left; then e->fd
 * is -1. Any thread. */
int base_eventfd_get(struct base_eventfd *e, int fd);
/* The VMM's fd as it stands, without a reference: for comparing, while the ioctl that names it runs. -EBADF,
 * -EINVAL. Not for base_eventfd_put. */
int base_eventfd_peek(struct base_eventfd *e, int fd);
void base_eventfd_put(struct base_eventfd *e);
/* Asks for the identity now (about 2 us), so that comparing costs nothing. Without it (Linux before 5.2)
 * base_eventfd_same asks kcmp(2) each time. */
void base_eventfd_learn(struct base_eventfd *e);
bool base_eventfd_same(const struct base_eventfd *a, const struct base_eventfd *b);
/* Adds 1 to the counter. Never waits: a full counter stays full, as eventfd_signal in the kernel. */
void base_eventfd_signal(const struct base_eventfd *e);
/* Takes the counter (1 of a semaphore) without waiting; 0 if there was none. */
uint64_t base_eventfd_drain(const struct base_eventfd *e);

#endif
