/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest memory for the hypervisor itself: ioctls, device models, the vCPUs' paravirtual pages.
 *
 * An accessor is a vCPU of one access. It finds its page in an srcu section, marks it dirty if it writes, and
 * leaves the section; then it touches the page, and may hang there in a userfault for as long as the VMM's
 * handler pleases: it holds nothing. What changes meanwhile revokes it (mem_revoke): the sequence moves, and
 * the kick takes it from its window back to the comparison. Then it begins again at the byte it had reached.
 *
 *	accessor			mem_revoke
 *	into the list			sequence moves
 *	sequence read			those in the list are kicked, one membarrier
 *	page found
 *
 * Who entered the list after it was walked finds the page after whatever the revocation is for.
 */
#include "base/mutate.h"
#include "mem/slot.h"

#include <sched.h>

struct accessor {
	int tid;
	struct sig_kick *kick;
	struct accessor *next, **link;
};

void mem_revoke(struct mem *m)
{
	bool kicked = false;

	atomic_fetch_add(&m->revoke_seq, 1);
	spin_lock(&m->access_lock);
	for (struct accessor *a = m->accessors; a; a = a->next) {
		base_sig_kick_once(a->tid, a->kick);
		kicked = true;
	}
	spin_unlock(&m->access_lock);
	if (kicked)
		base_membarrier();
	m->port->flush(m->ctx);
}

static void access_begin(struct mem *m, struct accessor *a)
{
	lock_assert_none("guest memory");
	a->tid = base_sig_listen(&a->kick);
	spin_lock(&m->access_lock);
	a->next = m->accessors;
	a->link = &m->accessors;
	if (a->next)
		a->next->link = &a->next;
	m->accessors = a;
	spin_unlock(&m->access_lock);
}

static void access_end(struct mem *m, struct accessor *a)
{
	spin_lock(&m->access_lock);
	*a->link = a->next;
	if (a->next)
		a->next->link = a->link;
	spin_unlock(&m->access_lock);
}

/* A page for one attempt, and what ends the attempt. */
struct target {
	uint8_t *host; /* of the byte at gpa */
	size_t len;    /* up to the page's end */
	struct base_guard guard;
};

/* find_target inside the section: 0, -EFAULT, or -EAGAIN for a slot that is being changed. */
static int find(struct mem *m, unsigned as, uint64_t gpa, bool write, struct target *t)
{
	struct slot *s = slot_find(m, as, gpa >> PAGE_SHIFT);
	struct mem_page page;
	uint64_t offset;

	if (!s || (write && s->readonly))
		return -EFAULT;
	if (atomic_load(&s->invalid))
		return -EAGAIN;
	offset = gpa - (s->base_gfn << PAGE_SHIFT);
	t->host = s->hva + offset;
	t->len = PAGE_SIZE - (gpa & PAGE_OFFSET_MASK);
	return slot_grant(m, s, offset >> PAGE_SHIFT, write, &page) == MEM_FIXED ? 0 : -ENOMEM;
}

/* Finds the page of gpa, dirty if it is to be written. 0, or -EFAULT. */
static int find_target(struct mem *m, unsigned as, uint64_t gpa, bool write, struct target *t)
{
	int idx, r;

	t->guard = (struct base_guard){.seq = &m->revoke_seq, .expected = atomic_load(&m->revoke_seq)};
	for (;;) {
		idx = srcu_read_lock(m->srcu);
		r = find(m, as, gpa, write, t);
		srcu_read_unlock(m->srcu, idx);
		if (r != -EAGAIN)
			return r;
		sched_yield(); /* the update waits for nobody who waits for us */
	}
}

/* Copies between buf and guest memory. 0, or -EFAULT. */
static int copy(struct mem *m, unsigned as, uint64_t gpa, uint8_t *buf, size_t len, bool write)
{
	struct target t;

	while (len) {
		int idx = 0, r = find_target(m, as, gpa, write, &t);
		size_t n;
		long left;

		if (r)
			return r;
		n = MIN(len, t.len);
		if (mutated(MUTATE_FAULT_IN_SRCU))
			idx = srcu_read_lock(m->srcu);
		left = write ? base_guarded_copy(t.host, buf, n, &t.guard)
			     : base_guarded_copy(buf, t.host, n, &t.guard);
		if (mutated(MUTATE_FAULT_IN_SRCU))
			srcu_read_unlock(m->srcu, idx);
		if (left < 0)
			return -EFAULT;
		n -= (size_t)left;
		gpa += n;
		buf += n;
		len -= n;
	}
	return 0;
}

int mem_read(struct mem *m, unsigned as, uint64_t gpa, void *buf, size_t len)
{
	struct accessor a;
	int r;

	access_begin(m, &a);
	r = copy(m, as, gpa, buf, len, false);
	access_end(m, &a);
	return r;
}

int mem_write(struct mem *m, unsigned as, uint64_t gpa, const void *buf, size_t len)
{
	struct accessor a;
	int r;

	access_begin(m, &a);
	r = copy(m, as, gpa, (uint8_t *)(uintptr_t)buf, len, true);
	access_end(m, &a);
	if (!r)
		track_wrote(m, as, gpa, buf, len);
	return r;
}

/* The exchange, without the list. A word that differs is not written, so its page is not marked. */
static int cmpxchg(struct mem *m, unsigned as, uint64_t gpa, unsigned size, uint64_t *old, uint64_t val)
{
	struct target t;
	uint64_t now = 0;
	int r;

	do {
		r = copy(m, as, gpa, (uint8_t *)&now, size, false);
		if (r)
			return r;
		if (now != *old) {
			*old = now;
			return 0;
		}
		r = find_target(m, as, gpa, true, &t);
		if (!r)
			r = base_guarded_cmpxchg(t.host, size, old, val, &t.guard);
	} while (r > 0);
	return r;
}

int mem_cmpxchg(struct mem *m, unsigned as, uint64_t gpa, unsigned size, uint64_t *old, uint64_t val)
{
	uint64_t expected = *old;
	struct accessor a;
	int r;

	if ((size != 4 && size != 8) || gpa % size)
		return -EFAULT;
	access_begin(m, &a);
	r = cmpxchg(m, as, gpa, size, old, val);
	access_end(m, &a);
	if (!r && *old == expected)
		track_wrote(m, as, gpa, &val, size);
	return r;
}
