/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to api/: the counted process-wide set-up (systems.md E4). */
#ifndef USERKVM_API_LIFE_H
#define USERKVM_API_LIFE_H

#include "file/file.h"

/*
 * One more user of the process-wide set-up (an open /dev/kvm, a VM). The first brings it up: CPU tables,
 * signal handlers, event loop, close watch. On an error everything is as before. Takes usage_lock.
 */
int life_get(void);
void life_put(void);
/* How many there are; for leak checks in tests. */
unsigned life_users(void);

#endif
