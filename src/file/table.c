/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cache fd number -> file. Two levels of atomic pointers, grown and never shrunk. Look-ups take nothing;
 * entries are written by the process that owns the descriptors, after (dup, open) or before (close) the
 * kernel changes them.
 *
 *	      | get | set          X = may run concurrently on one entry
 *	get   |  X  |  X           - = the last one wins, as with the descriptor itself
 *	set   |  X  |  -
 */
#include <sys/stat.h>

#include "base/sys.h"
#include "file/internal.h"

#define LEAF  1024
#define ROOTS 1024

typedef _Atomic(struct file *) slot_t;

static _Atomic(slot_t *) roots[ROOTS];

/* The entry of an fd; NULL if out of range, or without a leaf and not asked to make one. */
static slot_t *slot_of(int fd, bool make)
{
	slot_t *leaf, *none = NULL;
	unsigned n = (unsigned)fd;

	if (n >= LEAF * ROOTS)
		return NULL;
	leaf = atomic_load_explicit(&roots[n / LEAF], memory_order_acquire);
	if (!leaf && make) {
		leaf = base_zalloc(LEAF * sizeof(*leaf));
		if (leaf && !atomic_compare_exchange_strong(&roots[n / LEAF], &none, leaf)) {
			base_free(leaf);
			leaf = none;
		}
	}
	return leaf ? &leaf[n % LEAF] : NULL;
}

struct file *table_get(int fd)
{
	slot_t *s = slot_of(fd, false);

	return s ? atomic_load_explicit(s, memory_order_acquire) : NULL;
}

bool table_set(int fd, struct file *f)
{
	slot_t *s = slot_of(fd, f != NULL);
	struct file *old;

	if (!s)
		return !f;
	if (f)
		atomic_fetch_add(&f->slots, 1);
	old = atomic_exchange(s, f);
	if (old)
		atomic_fetch_sub(&old->slots, 1);
	return true;
}

int table_next(int fd)
{
	for (unsigned n = (unsigned)fd; n < LEAF * ROOTS; n++) {
		slot_t *leaf = atomic_load_explicit(&roots[n / LEAF], memory_order_acquire);

		if (!leaf)
			n |= LEAF - 1;
		else if (atomic_load_explicit(&leaf[n % LEAF], memory_order_relaxed))
			return (int)n;
	}
	return -1;
}

bool table_scrub(struct file *f)
{
	bool found = false;
	struct stat st;

	if (!atomic_load(&f->slots))
		return false;
	for (int fd = table_next(0); fd >= 0; fd = table_next(fd + 1)) {
		if (table_get(fd) != f)
			continue;
		if (!sys_call(SYS_fstat, fd, &st) && st.st_ino == f->ino)
			found = true;
		else
			table_set(fd, NULL);
	}
	return found;
}

void table_forget(struct file *f)
{
	if (!atomic_load(&f->slots))
		return;
	for (int fd = table_next(0); fd >= 0; fd = table_next(fd + 1)) {
		if (table_get(fd) == f)
			table_set(fd, NULL);
	}
}
