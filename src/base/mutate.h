/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules broken on purpose, in checked builds only: each flag switches off one fix in the shipped code, so that
 * test/lockorder can show that the checker reports the deadlock (systems.md, section 2) which the fix prevents.
 * In release builds every use folds to nothing.
 */
#ifndef USERKVM_BASE_MUTATE_H
#define USERKVM_BASE_MUTATE_H

#include "base/util.h"

/* What the code does while the flag is set. */
#define MUTATION_LIST(M)                                                                                 \
	M(USAGE_IN_REGISTRY, "enabling is counted under the registry's lock, and that under the libc's") \
	M(WALK_LOCKED, "a walk of the VMs keeps the registry locked while it looks at one")              \
	M(HOST_IN_SRCU, "a vCPU takes a lock of the libc's inside an srcu section")                      \
	M(SLOTS_ARCH_ACROSS_SYNC, "slots_arch_lock is held across synchronise")                          \
	M(SLOTS_IN_SRCU, "a reader of memslots takes slots_lock inside its srcu section")                \
	M(SYNC_IN_SECTION, "a memslot update synchronises inside a section of its own")                  \
	M(FLUSH_LOCKS_VCPUS, "a flush takes each vcpu->mutex instead of signalling")                     \
	M(KVM_IN_EXIT, "a port access takes kvm->lock")                                                  \
	M(INVALIDATE_TAKES_SLOTS, "an invalidation takes slots_lock")                                    \
	M(UPDATE_AWAITS_INVALIDATION, "a memslot update waits for invalidations, with slots_lock")       \
	M(FAULT_IN_SRCU, "guest memory is touched inside an srcu section")                               \
	M(SYNC_IN_IRQ, "a routing update synchronises before it drops irq_lock")                         \
	M(ACK_TAKES_IRQ, "an ack notifier takes irq_lock")                                               \
	M(LOAD_IN_LOCK, "the libc's loader or fork handlers are called under a lock of ours")            \
	M(LINK_IN_GROUP, "a VFIO group's link to its VM is set under group_lock, not under a leaf")      \
	M(PUT_IN_GROUP, "what a closed VFIO device held is put under group_lock and dev_set->lock")      \
	M(PUT_UNDER_LOCK, "a VM's reference is put under a spinlock")                                    \
	M(COPY_UNDER_SPIN, "guest memory is written under a spinlock")                                   \
	M(STOP_UNDER_LOCK, "a flush runs under a lock that a vCPU takes")                                \
	M(EVENTFD_WAITS, "a full eventfd of the VMM is waited for")                                      \
	M(ALLOC_IN_HANDLER, "the handler of the kick allocates")                                         \
	M(FORK_CHILD_WAITS, "a forked child takes a lock of its parent's")                               \
	M(FORK_HOLDS_LOOP, "fork runs the VMM's handlers with the event loop locked")

/*
 * No rule is broken by these: while one is set, a thread pauses where the order of two steps matters, so that a unit
 * test meets the race each time and not once in a million.
 */
#define PAUSE_LIST(P)                                                                      \
	P(ROUTE_HELD, "an event, between the reading of its route and the sending")        \
	P(ROUTE_HALF, "a swap of routes, in the midst of what it writes to an irqfd")      \
	P(RING, "a coalesced write, between the reading of the ring's end and its moving") \
	P(VFIO_ADD, "KVM_DEV_VFIO_FILE_ADD, between the look at the list and the entry")   \
	P(TSC, "the measurement of the TSC, which begins when it is asked for and not with the process")

enum mutation {
#define M(name, what) MUTATE_##name,
#define P(name, what) PAUSE_##name,
	MUTATION_LIST(M) PAUSE_LIST(P)
#undef P
#undef M
	    MUTATIONS
};
_Static_assert(MUTATIONS <= 64, "one bit each");

#ifdef USERKVM_CHECKED
void mutate_pause(void);
extern _Atomic uint64_t base_mutations; /* bits; set by tests */
static inline bool mutated(enum mutation m)
{
	return unlikely(atomic_load_explicit(&base_mutations, memory_order_relaxed) & BIT(m));
}
#else
static inline bool mutated(enum mutation m)
{
	(void)m;
	return false;
}
static inline void mutate_pause(void)
{
}
#endif

/* Pauses while the flag is set: long enough for the other side to be done, if it has a CPU. */
static inline void pause_if(enum mutation m)
{
	if (mutated(m))
		mutate_pause();
}

#endif
