/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to base: the futex mutex without a ledger, for the checker itself and for waits it already knows.
 */
#ifndef USERKVM_BASE_LOCK_RAW_H
#define USERKVM_BASE_LOCK_RAW_H

#include "base/util.h"

/* 0 free, 1 held, 2 held and waited for. */
void raw_lock(_Atomic uint32_t *word);
/* As raw_lock, but -EINTR if a signal handler (without SA_RESTART) ran while waiting. */
int raw_lock_interruptible(_Atomic uint32_t *word);
bool raw_trylock(_Atomic uint32_t *word);
void raw_unlock(_Atomic uint32_t *word);

#endif
