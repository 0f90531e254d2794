/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty rings (api.rst 8.29): one per vCPU, in pages that the VMM has mapped. The VMM may write anything there
 * at any time, so our own indices count, and what a collected entry says is checked like an ioctl's argument.
 *
 * The slot's bitmap stays underneath: a set bit says that the page was entered since it was last taken back,
 * and fill.c's rules hold as they stand. Whoever sets a bit enters the page; a reset takes the bit, then the
 * right to write, and revokes. api.rst has the VMM reset before it reads the page, so what is written until the
 * revocation is in the page that it reads, and what is written later is entered again.
 *
 *			ring_push	mem_reset_rings		the VMM
 *	ring_push	ring->lock	entries owned by turns	by turns: flags 0 -> DIRTY (us) -> RESET (VMM)
 *	mem_reset_rings	by turns	slots_lock		-> 0 (us)
 *
 * What no vCPU wrote (a device, an ioctl's thread) is entered in the first ring that has room. KVM 6.1 warns
 * and loses it.
 */
#include "base/log.h"
#include "mem/slot.h"

#define RESERVED 64 /* entries between "soft full" and full: KVM_DIRTY_RING_RSVD_ENTRIES */
#define FOR_US	 32 /* of those, what the engine leaves to the hypervisor's own writes */

struct mem_ring {
	struct mem *mem;
	struct kvm_dirty_gfn *entries; /* shared with the VMM */
	uint32_t size;		       /* entries, a power of two */
	struct spinlock lock;	       /* guards pushes: the vCPU's, and those of threads without one */
	_Atomic uint32_t dirty;	       /* entries ever pushed, */
	_Atomic uint32_t reset;	       /* and taken back */
	_Atomic(struct mem_ring *) next;
};

static __thread __attribute__((tls_model("initial-exec"))) struct mem_ring *current;

/* Marks made before there were rings are in none: they are forgotten, or their pages would never be entered. */
static void forget_marks(struct mem *m)
{
	bool flush = false;

	for (unsigned as = 0; as < MEM_ADDRESS_SPACES; as++) {
		struct slot_set *set = atomic_load(&m->active[as]);

		for (unsigned i = 0; i < set->n; i++) {
			_Atomic uint64_t *log = atomic_load(&set->slots[i]->log);

			for (uint64_t w = 0; log && w < slot_words(set->slots[i]); w++)
				flush |= slot_revoke_write(set->slots[i], w, atomic_exchange(&log[w], 0));
		}
	}
	if (flush)
		mem_revoke(m);
}

int mem_ring_enable(struct mem *m, uint64_t bytes, bool has_vcpus)
{
	lock_assert_held(m->slots_lock);
	if (!bytes || bytes & (bytes - 1))
		return -EINVAL;
	if (bytes < RESERVED * sizeof(struct kvm_dirty_gfn) || bytes < PAGE_SIZE)
		return -EINVAL;
	if (bytes > MEM_RING_MAX_BYTES)
		return -E2BIG;
	if (m->ring_bytes || has_vcpus)
		return -EINVAL;
	m->ring_bytes = (uint32_t)bytes;
	forget_marks(m);
	return 0;
}

uint32_t mem_ring_bytes(const struct mem *m)
{
	return m->ring_bytes;
}

int mem_ring_create(struct mem_ring **out, struct mem *m, void *entries)
{
	struct mem_ring *r = base_zalloc(sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->mem = m;
	r->entries = entries;
	r->size = m->ring_bytes / sizeof(*r->entries);
	spin_init(&r->lock, LOCK_RING);
	mutex_lock(m->slots_lock);
	atomic_store(&r->next, atomic_load(&m->rings));
	atomic_store(&m->rings, r);
	mutex_unlock(m->slots_lock);
	*out = r;
	return 0;
}

void mem_ring_destroy(struct mem_ring *r)
{
	_Atomic(struct mem_ring *) *p;
	struct mem *m;

	if (!r)
		return;
	m = r->mem;
	mutex_lock(m->slots_lock);
	for (p = &m->rings; atomic_load(p) != r; p = &atomic_load(p)->next)
		;
	atomic_store(p, atomic_load(&r->next));
	srcu_synchronize(m->srcu);
	mutex_unlock(m->slots_lock);
	base_free(r);
}

struct mem_ring *mem_ring_use(struct mem_ring *r)
{
	struct mem_ring *before = current;

	current = r;
	return before;
}

/* -- Pushing -- */

static uint32_t used(const struct mem_ring *r)
{
	return atomic_load(&r->dirty) - atomic_load(&r->reset);
}

bool mem_ring_soft_full(const struct mem_ring *r)
{
	return r && used(r) >= r->size - RESERVED;
}

/* The ring of the vCPU that runs on this thread, or NULL. */
static struct mem_ring *own_ring(const struct mem *m)
{
	return current && current->mem == m ? current : NULL;
}

bool ring_has_room(const struct mem *m)
{
	const struct mem_ring *r = own_ring(m);

	return !r || used(r) < r->size - FOR_US;
}

/* False if the ring is full. */
static bool push(struct mem_ring *r, uint32_t slot, uint64_t rel)
{
	struct kvm_dirty_gfn *e;
	uint32_t at;
	bool room;

	spin_lock(&r->lock);
	at = atomic_load(&r->dirty);
	room = used(r) < r->size;
	if (room) {
		e = &r->entries[at & (r->size - 1)];
		e->slot = slot;
		e->offset = rel;
		/* Counted first: the VMM may have collected it and ask for the reset at once. */
		atomic_store(&r->dirty, at + 1);
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE); /* the VMM acquires */
	}
	spin_unlock(&r->lock);
	return room;
}

bool ring_push(struct mem *m, const struct slot *s, uint64_t rel)
{
	uint32_t slot = s->as << 16 | s->id;
	struct mem_ring *r = own_ring(m);

	if (r && push(r, slot, rel))
		return true;
	for (r = atomic_load(&m->rings); r; r = atomic_load(&r->next)) {
		if (push(r, slot, rel))
			return true;
	}
	base_log(LOG_INFO, "dirty ring: no room for slot %#x, page %#llx: the mark is lost", slot,
		 (unsigned long long)rel);
	return false;
}

/* -- Taking back -- */

/* Pages of one slot, at most 64 from `base` on: what is revoked at once. */
struct batch {
	uint32_t slot;
	uint64_t base, mask;
	bool flush;
};

/* Clears the marks of a batch and takes the right to write. */
static void batch_end(struct mem *m, struct batch *b)
{
	_Atomic uint64_t *log;
	struct slot *s;

	if (!b->mask || slot_by_id(m, b->slot, &s) || !s)
		return;
	log = atomic_load(&s->log);
	if (!log || b->base >= s->npages)
		return;
	if (s->npages - b->base < 64)
		b->mask &= BIT(s->npages - b->base) - 1;
	atomic_fetch_and(&log[b->base / 64], ~b->mask);
	b->flush |= slot_revoke_write(s, b->base / 64, b->mask);
}

/* Adds one page; what does not fit goes first. */
static void batch_add(struct mem *m, struct batch *b, uint32_t slot, uint64_t rel)
{
	uint64_t base = rel & ~63ULL;

	if (slot != b->slot || base != b->base) {
		batch_end(m, b);
		b->slot = slot;
		b->base = base;
		b->mask = 0;
	}
	b->mask |= BIT(rel % 64);
}

/* Takes back what the VMM has collected of one ring. */
static long reset_ring(struct mem_ring *r, struct batch *b)
{
	long n = 0;

	for (;; n++) {
		struct kvm_dirty_gfn *e = &r->entries[atomic_load(&r->reset) & (r->size - 1)];
		uint32_t slot;
		uint64_t rel;

		if (n == r->size || !(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET) ||
		    !used(r))
			return n;
		slot = __atomic_load_n(&e->slot, __ATOMIC_RELAXED);
		rel = __atomic_load_n(&e->offset, __ATOMIC_RELAXED);
		__atomic_store_n(&e->flags, 0, __ATOMIC_RELEASE);
		atomic_fetch_add(&r->reset, 1);
		batch_add(r->mem, b, slot, rel);
	}
}

long mem_reset_rings(struct mem *m)
{
	struct batch b = {.slot = UINT32_MAX};
	long n = 0;

	lock_assert_held(m->slots_lock);
	if (!m->ring_bytes)
		return -EINVAL;
	for (struct mem_ring *r = atomic_load(&m->rings); r; r = atomic_load(&r->next))
		n += reset_ring(r, &b);
	batch_end(m, &b);
	if (b.flush)
		mem_revoke(m);
	return n;
}
