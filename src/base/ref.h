/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reference counts that saturate instead of wrapping. A misuse (get from 0, put below 0) saturates the
 * count, so that the object leaks rather than being freed under somebody, and is reported by base_bug().
 */
#ifndef USERKVM_BASE_REF_H
#define USERKVM_BASE_REF_H

#include "base/util.h"

struct ref {
	_Atomic uint32_t count;
};

void ref_init(struct ref *ref, uint32_t n);
/* One more; the caller already holds one. */
void ref_get(struct ref *ref);
/* One more unless destruction began (count 0); the caller keeps the memory addressable by other means. */
bool ref_get_unless_zero(struct ref *ref);
/* One less; true when that was the last and the caller must destroy the object. */
bool ref_put(struct ref *ref);
/* One less, of a count that somebody else surely still holds; reaching 0 is a bug and is reported. */
void ref_put_not_last(struct ref *ref);
uint32_t ref_read(const struct ref *ref);

#endif
