/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty logs: collecting and clearing them. fill.c says why no write is lost. */
#include "mem/slot.h"

#ifdef USERKVM_CHECKED
void (*slot_revoke_hook)(bool done);
#define REVOKE_HOOK(done)                       \
	do {                                    \
		if (unlikely(slot_revoke_hook)) \
			slot_revoke_hook(done); \
	} while (0)
#else
#define REVOKE_HOOK(done) \
	do {              \
	} while (0)
#endif

bool slot_revoke_write(struct slot *s, uint64_t word, uint64_t mask)
{
	bool had = false;

	REVOKE_HOOK(false);
	for (; mask; mask &= mask - 1) {
		_Atomic uint64_t *spte = slot_spte(s, word * 64 + (unsigned)__builtin_ctzll(mask));

		if (spte && (atomic_load(spte) & SPTE_WRITE))
			had |= atomic_fetch_and(spte, ~SPTE_WRITE) & SPTE_WRITE;
	}
	REVOKE_HOOK(true);
	return had;
}

/* The logged slot that an ioctl names: 0, -EINVAL, -ENOENT. */
static int find_logged(const struct mem *m, uint32_t slot, struct slot **s, _Atomic uint64_t **log)
{
	int r = slot_by_id(m, slot, s);

	if (r)
		return r;
	*log = *s ? atomic_load(&(*s)->log) : NULL;
	return *log ? 0 : -ENOENT;
}

/* Moves the bitmap into the snapshot behind it. */
static void take_snapshot(struct mem *m, struct slot *s, _Atomic uint64_t *log)
{
	uint64_t words = slot_words(s);
	bool flush = false;

	for (uint64_t i = 0; i < words; i++) {
		uint64_t mask = atomic_load_explicit(&log[i], memory_order_relaxed);

		if (mask) {
			mask = atomic_exchange(&log[i], 0);
			flush |= slot_revoke_write(s, i, mask);
		}
		atomic_store_explicit(&log[words + i], mask, memory_order_relaxed);
	}
	if (flush)
		mem_revoke(m);
}

/* Puts a snapshot that nobody got back into the bitmap. */
static void return_snapshot(struct slot *s, _Atomic uint64_t *log)
{
	uint64_t words = slot_words(s);

	for (uint64_t i = 0; i < words; i++)
		atomic_fetch_or(&log[i], atomic_load_explicit(&log[words + i], memory_order_relaxed));
}

int mem_get_dirty_log(struct mem *m, const struct kvm_dirty_log *d)
{
	_Atomic uint64_t *log;
	struct slot *s;
	bool manual;
	int r;

	lock_assert_held(m->slots_lock);
	if (m->ring_bytes)
		return -ENXIO;
	r = find_logged(m, d->slot, &s, &log);
	if (r)
		return r;
	manual = atomic_load(&m->manual_protect) & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	if (!manual)
		take_snapshot(m, s, log);
	r = base_copy_out(d->dirty_bitmap, (void *)(manual ? log : log + slot_words(s)),
			  slot_words(s) * sizeof(*log));
	if (r && !manual)
		return_snapshot(s, log);
	return r;
}

/* The range of a clear: whole words, or up to the slot's end. */
static bool range_ok(const struct slot *s, uint64_t first, uint64_t n)
{
	if (first > s->npages || n > s->npages - first)
		return false;
	return n == s->npages - first || n % 64 == 0;
}

int mem_clear_dirty_log(struct mem *m, const struct kvm_clear_dirty_log *d)
{
	uint64_t words = ((uint64_t)d->num_pages + 63) / 64, first = d->first_page / 64;
	_Atomic uint64_t *log, *wanted;
	bool flush = false;
	struct slot *s;
	int r;

	lock_assert_held(m->slots_lock);
	if (m->ring_bytes)
		return -ENXIO;
	if (d->slot >> 16 >= MEM_ADDRESS_SPACES || (d->slot & 0xffff) >= MEM_USER_SLOTS || d->first_page % 64)
		return -EINVAL;
	r = find_logged(m, d->slot, &s, &log);
	if (r)
		return r;
	if (!range_ok(s, d->first_page, d->num_pages))
		return -EINVAL;
	wanted = log + slot_words(s);
	r = base_copy_in((void *)wanted, d->dirty_bitmap, words * sizeof(*wanted));
	if (r)
		return r;
	for (uint64_t i = 0; i < words; i++) {
		uint64_t mask = atomic_load_explicit(&wanted[i], memory_order_relaxed);

		if (!mask)
			continue;
		/* Only what was set counts; that excludes bits behind the slot's end. */
		mask &= atomic_fetch_and(&log[first + i], ~mask);
		flush |= slot_revoke_write(s, first + i, mask);
	}
	if (flush)
		mem_revoke(m);
	return 0;
}

int mem_set_manual_protect(struct mem *m, uint64_t flags)
{
	uint64_t allowed = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

	if (flags & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
		allowed |= KVM_DIRTY_LOG_INITIALLY_SET;
	if (flags & ~allowed)
		return -EINVAL;
	atomic_store(&m->manual_protect, flags);
	return 0;
}

uint64_t mem_manual_protect(const struct mem *m)
{
	return atomic_load(&m->manual_protect);
}
