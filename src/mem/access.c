/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest memory for the hypervisor itself: ioctls and device models. A page is marked dirty after it was
 * written: marked before, a collector could take the mark and copy the page between the two.
 */
#include "mem/slot.h"

/* A piece of guest memory that is contiguous in the host. */
struct piece {
	struct slot *slot;
	uint8_t *host;
	uint64_t rel; /* page in the slot */
	size_t len;
};

/* The piece at gpa, at most len bytes; false if there is none for this access. Inside a read section. */
static bool find_piece(struct mem *m, unsigned as, uint64_t gpa, size_t len, bool write, struct piece *p)
{
	struct slot *s = slot_find(m, as, gpa >> PAGE_SHIFT);
	uint64_t offset;

	if (!s || atomic_load(&s->invalid) || (write && s->readonly))
		return false;
	offset = gpa - (s->base_gfn << PAGE_SHIFT);
	*p = (struct piece){.slot = s,
			    .host = s->hva + offset,
			    .rel = offset >> PAGE_SHIFT,
			    .len = MIN(len, (s->npages << PAGE_SHIFT) - offset)};
	return true;
}

/* Marks every page that a piece touches. */
static void mark_piece(const struct piece *p)
{
	uint64_t last = ((uint64_t)(p->host - p->slot->hva) + p->len - 1) >> PAGE_SHIFT;

	for (uint64_t rel = p->rel; rel <= last; rel++)
		slot_mark_dirty(p->slot, rel);
}

int mem_read(struct mem *m, unsigned as, uint64_t gpa, void *buf, size_t len)
{
	int idx = srcu_read_lock(m->srcu), r = 0;
	struct piece p;

	for (; len && !r; gpa += p.len, buf = (char *)buf + p.len, len -= p.len) {
		if (!find_piece(m, as, gpa, len, false, &p)) {
			r = -EFAULT;
			break;
		}
		r = base_copy_in(buf, p.host, p.len);
	}
	srcu_read_unlock(m->srcu, idx);
	return r;
}

int mem_write(struct mem *m, unsigned as, uint64_t gpa, const void *buf, size_t len)
{
	int idx = srcu_read_lock(m->srcu), r = 0;
	struct piece p;

	for (; len && !r; gpa += p.len, buf = (const char *)buf + p.len, len -= p.len) {
		if (!find_piece(m, as, gpa, len, true, &p)) {
			r = -EFAULT;
			break;
		}
		r = base_copy_out(p.host, buf, p.len);
		mark_piece(&p); /* after a fault, too: part may have been written */
	}
	srcu_read_unlock(m->srcu, idx);
	return r;
}

/* The exchange itself. */
static int exchange(void *host, unsigned size, uint64_t *old, uint64_t val)
{
	uint32_t old32 = (uint32_t)*old;
	int r;

	if (size == 8)
		return base_cmpxchg64_unsafe(host, old, val);
	r = base_cmpxchg32_unsafe(host, &old32, (uint32_t)val);
	*old = old32;
	return r;
}

int mem_cmpxchg(struct mem *m, unsigned as, uint64_t gpa, unsigned size, uint64_t *old, uint64_t val)
{
	int idx = srcu_read_lock(m->srcu), r = -EFAULT;
	uint64_t expected = *old;
	struct piece p;

	if ((size == 4 || size == 8) && gpa % size == 0 && find_piece(m, as, gpa, size, true, &p)) {
		r = exchange(p.host, size, old, val);
		if (!r && *old == expected)
			mark_piece(&p);
	}
	srcu_read_unlock(m->srcu, idx);
	return r;
}
