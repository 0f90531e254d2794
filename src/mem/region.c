/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM_SET_USER_MEMORY_REGION: check, classify, prepare, commit. The commit cannot fail, and only what makes
 * something (a slot, a log, room for one more slot) allocates: a deletion needs no memory.
 *
 * Deleting or moving: the slot becomes INVALID, so that vCPUs retry instead of taking the address for a
 * device; readers that saw it valid are waited for; what was handed out is revoked; only then the new set
 * is published. When its predecessor's readers are gone as well, nobody can reach the old slot.
 */
#include "base/mutate.h"
#include "mem/slot.h"

#define GENERATION_IN_PROGRESS BIT(63)
#define MAX_GFN		       (BIT(52 - PAGE_SHIFT) - 1)
#define HVA_LIMIT	       0x7ffffffff000UL /* TASK_SIZE_MAX: what access_ok allows */

enum change_kind { CHANGE_NONE, CHANGE_CREATE, CHANGE_DELETE, CHANGE_MOVE, CHANGE_FLAGS };

struct change {
	const struct kvm_userspace_memory_region *r;
	unsigned as;
	enum change_kind kind;
	struct slot *old;	    /* before; NULL for a creation */
	struct slot *new;	    /* after; NULL for a deletion, old for a change of flags */
	struct slot_set *bigger[2]; /* sets with room for one more slot, if the present ones have none */
	_Atomic uint64_t *log;	    /* a bitmap for new, if logging begins */
};

/* -- Check -- */

/* What can be said without looking at any slot: 0 or -EINVAL. */
static int check_region(const struct kvm_userspace_memory_region *r)
{
	uint64_t page_bits = r->guest_phys_addr | r->memory_size | r->userspace_addr;

	if (r->flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
		return -EINVAL;
	if (page_bits & PAGE_OFFSET_MASK)
		return -EINVAL;
	if (r->memory_size > HVA_LIMIT || r->userspace_addr > HVA_LIMIT - r->memory_size)
		return -EINVAL;
	if (r->guest_phys_addr + r->memory_size < r->guest_phys_addr)
		return -EINVAL;
	return r->memory_size >> PAGE_SHIFT > MEM_MAX_PAGES ? -EINVAL : 0;
}

/* What the ioctl asks for, from what there is: 0 or -EINVAL. */
static int classify(const struct mem *m, struct change *c)
{
	const struct kvm_userspace_memory_region *r = c->r;
	uint64_t npages = r->memory_size >> PAGE_SHIFT;
	bool logged;

	if (!npages) {
		c->kind = CHANGE_DELETE;
		return c->old ? 0 : -EINVAL;
	}
	if (!c->old) {
		c->kind = CHANGE_CREATE;
		return m->total_pages + npages < npages ? -EINVAL : 0;
	}
	if (r->userspace_addr != (uint64_t)c->old->hva || npages != c->old->npages ||
	    !!(r->flags & KVM_MEM_READONLY) != c->old->readonly)
		return -EINVAL;
	logged = atomic_load(&c->old->log);
	if (r->guest_phys_addr >> PAGE_SHIFT != c->old->base_gfn)
		c->kind = CHANGE_MOVE;
	else if (!!(r->flags & KVM_MEM_LOG_DIRTY_PAGES) != logged)
		c->kind = CHANGE_FLAGS;
	return 0;
}

/* Whether the slot fits where it is to be: -EEXIST, or -EINVAL beyond any physical address. */
static int check_place(const struct mem *m, const struct change *c)
{
	uint64_t base = c->r->guest_phys_addr >> PAGE_SHIFT, npages = c->r->memory_size >> PAGE_SHIFT;

	if (c->kind != CHANGE_CREATE && c->kind != CHANGE_MOVE)
		return 0;
	if (slot_set_overlaps(atomic_load(&m->active[c->as]), base, npages, c->old))
		return -EEXIST;
	return base + npages - 1 > MAX_GFN ? -EINVAL : 0;
}

/* -- Prepare -- */

/* A new bitmap is wanted unless an old one goes on. */
static bool logging_begins(const struct change *c)
{
	return (c->r->flags & KVM_MEM_LOG_DIRTY_PAGES) && !(c->old && atomic_load(&c->old->log));
}

static void discard(struct change *c)
{
	if (c->new != c->old)
		slot_free(c->new);
	base_free(c->bigger[0]);
	base_free(c->bigger[1]);
}

/* Room for one more slot in both sets. */
static int grow_sets(struct mem *m, struct change *c)
{
	const struct slot_set *set = atomic_load(&m->active[c->as]);

	if (c->kind != CHANGE_CREATE || set->n < set->capacity)
		return 0;
	for (unsigned i = 0; i < 2; i++) {
		c->bigger[i] = slot_set_create(set->capacity * 2, 0);
		if (!c->bigger[i])
			return -ENOMEM;
	}
	return 0;
}

/* Allocates everything that the commit needs: 0, or -ENOMEM with nothing left. */
static int prepare(struct mem *m, struct change *c)
{
	bool all_set = atomic_load(&m->manual_protect) & KVM_DIRTY_LOG_INITIALLY_SET;

	if (c->kind == CHANGE_DELETE)
		return 0;
	if (c->kind == CHANGE_FLAGS)
		c->new = c->old;
	else if (!(c->new = slot_create(c->r)))
		return -ENOMEM;
	if (slot_reserve_id(m, c->r->slot) || grow_sets(m, c))
		goto fail;
	if (logging_begins(c)) {
		c->log = slot_log_create(c->new, all_set);
		if (!c->log)
			goto fail;
	}
	return 0;
fail:
	discard(c);
	return -ENOMEM;
}

/* -- Commit -- */

/* A moved slot keeps its sptes, those included that a vCPU attached since the change was prepared; all of
 * them belong to an earlier generation now. Readers of the INVALID slot do not look at them. */
static void carry_arch(struct change *c)
{
	if (c->kind != CHANGE_MOVE)
		return;
	atomic_store(&c->new->gen, atomic_load(&c->old->gen));
	atomic_store(&c->new->sptes, atomic_exchange(&c->old->sptes, NULL));
}

/*
 * Publishes the edited set; on return nobody reads the one before, and both have the same content. Nobody may
 * wait for readers with slots_arch_lock: one of them may be about to take it.
 */
static void publish(struct mem *m, struct change *c)
{
	struct slot_set *old, *set;

	if (mutated(MUTATE_UPDATE_AWAITS_INVALIDATION))
		lock_section_wait(LOCK_INVALIDATING, m);
	mutex_lock(&m->slots_arch_lock);
	old = atomic_load(&m->active[c->as]);
	set = m->inactive[c->as];
	if (c->bigger[0])
		set = slot_set_replace(c->bigger[0], set);
	slot_set_edit(set, c->old, c->new);
	carry_arch(c);
	srcu_assign(m->active[c->as], set);
	if (!mutated(MUTATE_SLOTS_ARCH_ACROSS_SYNC))
		mutex_unlock(&m->slots_arch_lock);
	srcu_synchronize(m->srcu);
	if (mutated(MUTATE_SLOTS_ARCH_ACROSS_SYNC))
		mutex_unlock(&m->slots_arch_lock);
	if (c->bigger[1])
		old = slot_set_replace(c->bigger[1], old);
	slot_set_edit(old, c->old, c->new);
	m->inactive[c->as] = old;
}

/* Revokes what vCPUs hold, if they can hold anything that `told` recorded. */
static void flush_if(struct mem *m, _Atomic bool *told)
{
	if (atomic_exchange(told, false))
		mem_revoke(m);
}

/* Takes a slot out of use: on return nobody reaches its memory through it. */
static void invalidate_slot(struct mem *m, struct slot *s)
{
	bool inside = mutated(MUTATE_SYNC_IN_SECTION);
	int idx = inside ? srcu_read_lock(m->srcu) : 0;

	atomic_store(&s->invalid, true);
	srcu_synchronize(m->srcu);
	if (inside)
		srcu_read_unlock(m->srcu, idx);
	atomic_fetch_add(&s->gen, 1);
	flush_if(m, &s->used);
}

/* Switches logging of a slot on or off. */
static void commit_flags(struct mem *m, struct change *c)
{
	_Atomic uint64_t *old = atomic_load(&c->old->log);

	atomic_store(&c->old->log, c->log);
	/* Pages handed out writable without a mark were handed out by readers of the old pointer. */
	srcu_synchronize(m->srcu);
	if (c->log) {
		atomic_fetch_add(&c->old->gen, 1);
		flush_if(m, &c->old->used);
	} else {
		base_free((void *)old);
	}
}

static void commit(struct mem *m, struct change *c)
{
	uint64_t gen = atomic_fetch_or(&m->generation, GENERATION_IN_PROGRESS);
	struct slot **entry = &m->by_id[c->as][c->r->slot & 0xffff];

	if (c->kind == CHANGE_FLAGS) {
		commit_flags(m, c);
	} else {
		if (c->old)
			invalidate_slot(m, c->old);
		if (c->new)
			atomic_store(&c->new->log, c->log);
		if (c->kind == CHANGE_MOVE && !c->log && (c->r->flags & KVM_MEM_LOG_DIRTY_PAGES))
			atomic_store(&c->new->log, atomic_exchange(&c->old->log, NULL));
		publish(m, c);
		*entry = c->new;
		m->total_pages += c->new ? c->new->npages : 0;
		m->total_pages -= c->old ? c->old->npages : 0;
		/* Those who found nothing at the new place are gone; what they told is forgotten. */
		if (c->new)
			flush_if(m, &m->absent_told);
		if (c->old) {
			track_slot_gone(m, c->old);
			slot_free(c->old);
		}
	}
	atomic_store(&m->generation, (gen & ~GENERATION_IN_PROGRESS) + 1);
}

int mem_set_region(struct mem *m, const struct kvm_userspace_memory_region *r)
{
	struct change c = {.r = r, .as = r->slot >> 16};
	int err = check_region(r);

	lock_assert_held(m->slots_lock);
	if (!err)
		err = slot_by_id(m, r->slot, &c.old);
	if (!err)
		err = classify(m, &c);
	if (!err)
		err = check_place(m, &c);
	if (err || c.kind == CHANGE_NONE)
		return err;
	err = prepare(m, &c);
	if (!err)
		commit(m, &c);
	return err;
}
