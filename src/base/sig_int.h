/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to base: what sig.c (dispositions, handlers) and sig_run.c (runs) share. */
#ifndef USERKVM_BASE_SIG_INT_H
#define USERKVM_BASE_SIG_INT_H

#include "base/sig.h"
#include "base/sys.h"

/* Handlers interrupt anything, the sanitizer's own code too: they are not instrumented. */
#define SIGSAFE __attribute__((no_sanitize("thread")))

#define SIGBIT(sig) BIT((sig)-1)
/* Signals that stay open on every thread: faults, without which a window kills, and the kick. */
#define SIG_FAULTS (SIGBIT(SIGSEGV) | SIGBIT(SIGBUS) | SIGBIT(SIGFPE) | SIGBIT(SIGTRAP) | SIGBIT(SIGILL))
#define SIG_OPEN   (SIG_FAULTS | SIGBIT(SIG_KICK))
/* glibc's own (SIGCANCEL, SIGSETXID): never blocked, never ours. */
#define SIG_LIBC (SIGBIT(32) | SIGBIT(33))

/* The innermost run of this thread, or NULL. */
struct sig_run *sig_run_current(void);
/* In a handler: keeps an asynchronous signal for the end of the run. */
void sig_run_catch(struct sig_run *run, int sig, const siginfo_t *info, void *ucontext);
/* In the handler of SIG_KICK. */
void sig_run_kicked(void *ucontext);
/* In the child of a fork. */
void sig_run_forked(void);
/* Queues a signal to this thread, siginfo and all. */
void sig_requeue(const siginfo_t *info);

/* The kernel's 64-bit set at the head of a sigset_t. */
static inline SIGSAFE uint64_t sig_set_get(const sigset_t *set)
{
	return set->__val[0];
}

static inline SIGSAFE void sig_set_put(sigset_t *set, uint64_t bits)
{
	set->__val[0] = bits;
}

/* rt_sigprocmask on kernel sets. */
static inline SIGSAFE long sig_procmask(int how, const uint64_t *set, uint64_t *old)
{
	return sys_call(SYS_rt_sigprocmask, how, set, old, sizeof(*set));
}

#endif
