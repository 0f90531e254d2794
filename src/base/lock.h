/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks with a role. In checked builds (USERKVM_CHECKED) every acquisition is recorded in a per-thread
 * ledger and as an edge "held role -> taken role" in one global graph; a possible cycle, an order that
 * contradicts lock_roles.def, or a wait forbidden under SRCU is reported at once with both stacks,
 * before anything hangs. In release builds the wrappers are the bare primitive.
 */
#ifndef USERKVM_BASE_LOCK_H
#define USERKVM_BASE_LOCK_H

#include <pthread.h>

#include "base/util.h"

enum lock_role {
#define ROLE(id, name, kind, guards, notes) LOCK_##id,
#include "base/lock_roles.def"
#undef ROLE
	LOCK_ROLES
};

struct mutex {
	_Atomic uint32_t state; /* futex word: 0 free, 1 held, 2 held and waited for */
	uint32_t role;
#ifdef USERKVM_CHECKED
	_Atomic(void *) owner;
#endif
};

struct spinlock {
	struct mutex m; /* spins briefly, then sleeps: a vCPU thread may be preempted while holding it */
};

void mutex_init(struct mutex *m, enum lock_role role);
/* In the only thread of a forked child: free, whoever held it in the parent. Acquires, as taking it would. */
void mutex_forked(struct mutex *m);
void mutex_lock(struct mutex *m);
bool mutex_trylock(struct mutex *m);
void mutex_unlock(struct mutex *m);
/* As mutex_lock, but a signal handled while waiting gives -EINTR (vcpu->mutex: api.rst, "vcpu ioctls"). */
int mutex_lock_interruptible(struct mutex *m);

void spin_init(struct spinlock *s, enum lock_role role);
void spin_lock(struct spinlock *s);
void spin_unlock(struct spinlock *s);

#ifdef USERKVM_CHECKED
/* Reports unless this thread holds m. */
void lock_assert_held(const struct mutex *m);
/* Reports if this thread holds any lock but a vcpu->mutex, or an SRCU section; called before guest code runs.
 */
void lock_assert_none(const char *where);
/* Ledger entry points for the primitives of this room. */
void lockdep_acquire(enum lock_role role, const void *lock, int mode);
void lockdep_release(enum lock_role role, const void *lock);
/* Recorded by srcu_synchronize and srcu_barrier: an exclusive wait for the domain's role. */
void lockdep_sync(enum lock_role role, const void *domain);
bool lockdep_holds(enum lock_role role, const void *lock);
/* Number of reports so far. Tests look at it at exit; a library never aborts on its own. */
unsigned lockdep_reports(void);
/* Test hook: called instead of logging; NULL restores logging. */
void lockdep_on_report(void (*fn)(const char *text));
void lockdep_reset(void);
#else
static inline void lock_assert_held(const struct mutex *m)
{
	(void)m;
}
static inline void lock_assert_none(const char *where)
{
	(void)where;
}
#endif

#define LOCKDEP_EXCL 0 /* may wait for everybody */
#define LOCKDEP_READ 1 /* fair read: counts as blocking */
#define LOCKDEP_SRCU 2 /* recursive read side */
#define LOCKDEP_TRY  3 /* adds no wait edge */

#endif
