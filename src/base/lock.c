/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The locks: a futex word with three states (free, held, held and waited for). */
#include "base/lock.h"

#include <limits.h>

#include "base/lock_raw.h"
#include "base/log.h"
#include "base/sys.h"

#define SPIN_ROUNDS 100 /* about 3 us: longer than any spinlock section, shorter than a wake-up */

/* -- The word -- */

bool raw_trylock(_Atomic uint32_t *word)
{
	uint32_t zero = 0;

	return atomic_compare_exchange_strong_explicit(word, &zero, 1, memory_order_acquire,
						       memory_order_relaxed);
}

/* Waits in the kernel until the word is ours; leaves it at 2, for we cannot know who else waits. */
static int wait_for(_Atomic uint32_t *word, bool interruptible)
{
	while (atomic_exchange_explicit(word, 2, memory_order_acquire)) {
		if (sys_futex_wait(word, 2, 0) == -EINTR && interruptible)
			return -EINTR;
	}
	return 0;
}

/* Spins a little: most sections are shorter than a trip to the kernel. */
static bool spin_for(_Atomic uint32_t *word)
{
	for (int i = 0; i < SPIN_ROUNDS; i++) {
		if (!atomic_load_explicit(word, memory_order_relaxed) && raw_trylock(word))
			return true;
		__builtin_ia32_pause();
	}
	return false;
}

void raw_lock(_Atomic uint32_t *word)
{
	if (!raw_trylock(word) && !spin_for(word))
		wait_for(word, false);
}

int raw_lock_interruptible(_Atomic uint32_t *word)
{
	if (raw_trylock(word) || spin_for(word))
		return 0;
	return wait_for(word, true);
}

void raw_unlock(_Atomic uint32_t *word)
{
	if (atomic_exchange_explicit(word, 0, memory_order_release) == 2)
		sys_futex_wake(word, 1);
}

/* -- Ledger -- */

#ifdef USERKVM_CHECKED
#define note_acquire(role, lock, mode) lockdep_acquire((enum lock_role)(role), lock, mode)
#define note_release(role, lock)       lockdep_release((enum lock_role)(role), lock)

static void set_owner(struct mutex *m, bool own)
{
	atomic_store_explicit(&m->owner, own ? (void *)pthread_self() : NULL, memory_order_relaxed);
}
#else
#define note_acquire(role, lock, mode) ((void)0)
#define note_release(role, lock)       ((void)0)
#define set_owner(m, own)	       ((void)0)
#endif

/* -- Mutex -- */

void mutex_init(struct mutex *m, enum lock_role role)
{
	*m = (struct mutex){.role = role};
}

void mutex_forked(struct mutex *m)
{
	atomic_exchange_explicit(&m->state, 0, memory_order_acquire);
	set_owner(m, false);
}

/* Reports a lock that nobody can want any more. */
static inline void check_retired(const struct mutex *m)
{
#ifdef USERKVM_CHECKED
	if (unlikely(atomic_load_explicit(&m->retired, memory_order_relaxed)))
		base_bug("a retired lock is taken");
#endif
}

void mutex_lock(struct mutex *m)
{
	check_retired(m);
	note_acquire(m->role, m, LOCKDEP_EXCL);
	raw_lock(&m->state);
	set_owner(m, true);
}

bool mutex_trylock(struct mutex *m)
{
	if (!raw_trylock(&m->state))
		return false;
	note_acquire(m->role, m, LOCKDEP_TRY);
	set_owner(m, true);
	return true;
}

int mutex_lock_interruptible(struct mutex *m)
{
	int r;

	note_acquire(m->role, m, LOCKDEP_EXCL);
	r = raw_lock_interruptible(&m->state);
	if (r)
		note_release(m->role, m);
	else
		set_owner(m, true);
	return r;
}

void mutex_unlock(struct mutex *m)
{
	set_owner(m, false);
	note_release(m->role, m);
	raw_unlock(&m->state);
}

/* -- Spinlock -- */

void spin_init(struct spinlock *s, enum lock_role role)
{
	mutex_init(&s->m, role);
}

void spin_lock(struct spinlock *s)
{
	mutex_lock(&s->m);
}

void spin_unlock(struct spinlock *s)
{
	mutex_unlock(&s->m);
}
