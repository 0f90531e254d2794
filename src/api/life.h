/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to api/: whose files these are. A "generation" is one existence of the library's state: it grows
 * in a forked child, whose inherited files belong to the parent. The current one stands in a page that a
 * fork wipes, so that even a raw clone(2) is noticed; a vfork child shares the page and is let through, but
 * it is not the owner of the fd table and never writes it.
 */
#ifndef USERKVM_API_LIFE_H
#define USERKVM_API_LIFE_H

#include "base/base.h"

/*
 * One more user of the process-wide set-up (an open /dev/kvm, a VM). The first brings it up: CPU tables,
 * signal handlers, event loop, close watch. On an error everything is as before. Takes usage_lock.
 */
int life_get(void);
void life_put(void);
/* The current generation, 0 if there is none yet. Lock-free. */
uint32_t life_generation(void);
/* True in the process that owns the fd table; a forked child becomes its own owner here, a vfork child
 * never. One getpid(2). */
bool life_is_owner(void);
/* In a forked child: a new generation; nobody else runs yet. Idempotent. */
void life_adopt(void);

#endif
