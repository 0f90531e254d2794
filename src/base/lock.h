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

#include "base/ref.h"
#include "base/util.h"

enum lock_role {
#define ROLE(id, name, kind, held, guards, notes) LOCK_##id,
#include "base/lock_roles.def"
#undef ROLE
	LOCK_ROLES
};

struct mutex {
	_Atomic uint32_t state; /* futex word: 0 free, 1 held, 2 held and waited for */
	uint32_t role;
#ifdef USERKVM_CHECKED
	_Atomic(void *) owner;
	_Atomic bool retired;
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

/* -- Assertions: each reports and goes on -- */

/* This thread holds m. */
void lock_assert_held(const struct mutex *m);
/* This thread holds nothing but a vcpu->mutex and its own guest section; called before guest code runs. */
void lock_assert_none(const char *where);
/* Nobody can want m any more, for what it guards has no user left (mutex_retire). */
void lock_assert_teardown(const struct mutex *m);
/* This thread may wait for a thread of ours: a grace period, a vCPU, the loop. */
void lock_assert_may_wait(const char *what);
/* This thread may wait for the VMM: for its userfault handler when its memory is touched, for its reader. */
void lock_assert_may_fault(const char *what);
/* This thread is about to drop a reference, and the last one takes locks from usage_lock on: it holds none. */
void lock_assert_may_put(const char *what);
/* This thread is in no handler that may have interrupted the allocator. */
void lock_assert_may_alloc(void);

/* What m guards is being destroyed, users being the count that keeps it alive: 0, or this reports. Whoever takes m
 * afterwards is reported. */
void mutex_retire(struct mutex *m, const struct ref *users);

/* -- What is waited for like a lock and is none -- */

/* This thread is in a section of the role until it leaves; entering waits for nobody. */
void lock_section_enter(enum lock_role role, const void *section);
void lock_section_leave(enum lock_role role, const void *section);
/* This thread is about to wait until other threads left their sections of the role. */
void lock_section_wait(enum lock_role role, const void *section);
/* Around a call of the C library that takes a lock of its own, and around what it calls with that lock held. */
void lock_host_enter(void);
void lock_host_leave(void);
/* Around code that may take no lock: a handler of ours, which may have interrupted its holder (and the allocator), or
 * the child of a fork, where the holder does not exist (alloc: the C library has repaired the allocator there). */
struct lock_nowait {
	const char *what;
	bool alloc;
};
struct lock_nowait lock_nowait_enter(const char *what, bool alloc);
void lock_nowait_leave(struct lock_nowait outer);

/* -- Ledger: for the primitives of this room -- */

void lockdep_acquire(enum lock_role role, const void *lock, int mode);
void lockdep_release(enum lock_role role, const void *lock);
/* An exclusive wait for the domain's readers. False if this thread would wait for itself: reported, do not. */
bool lockdep_sync(enum lock_role role, const void *domain);
bool lockdep_holds(enum lock_role role, const void *lock);

/* -- For tests -- */

/* Number of reports so far. Tests look at it at exit; a library never aborts on its own. */
unsigned lockdep_reports(void);
/* Called instead of logging; NULL restores logging. */
void lockdep_on_report(void (*fn)(const char *text));
void lockdep_reset(void);

#else
static inline void lock_assert_held(const struct mutex *m)
{
	(void)m;
}
#define lock_assert_none(where)		  ((void)0)
#define lock_assert_teardown(m)		  ((void)0)
#define lock_assert_may_wait(what)	  ((void)0)
#define lock_assert_may_fault(what)	  ((void)0)
#define lock_assert_may_put(what)	  ((void)0)
#define lock_assert_may_alloc()		  ((void)0)
#define mutex_retire(m, users)		  ((void)0)
#define lock_section_enter(role, section) ((void)0)
#define lock_section_leave(role, section) ((void)0)
#define lock_section_wait(role, section)  ((void)0)
#define lock_host_enter()		  ((void)0)
#define lock_host_leave()		  ((void)0)
struct lock_nowait {
	char nothing;
};
#define lock_nowait_enter(what, alloc)	  ((struct lock_nowait){0})
#define lock_nowait_leave(outer)	  ((void)(outer))
#endif

#define LOCKDEP_EXCL 0 /* may wait for everybody */
#define LOCKDEP_READ 1 /* fair read: counts as blocking */
#define LOCKDEP_SRCU 2 /* recursive read side */
#define LOCKDEP_TRY  3 /* adds no wait edge */

#endif
