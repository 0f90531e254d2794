/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signals: who owns which, while a vCPU runs and otherwise.
 *
 * The library installs one handler for the synchronous faults (SEGV, BUS, FPE, TRAP), for one real-time
 * signal of its own (the kick), and for every signal to which the VMM gives a handler. The VMM's
 * dispositions are recorded (base_sig_action) and called from ours when no vCPU runs on the thread.
 * While one runs, an asynchronous signal is caught: its siginfo is saved, the signal is masked in the
 * interrupted context, and the run's exit word is set. base_sig_run_end restores the masks and queues the
 * caught signals again, so that the VMM's handler (or sigwait) sees each of them after KVM_RUN returned
 * EINTR. See design.md, "No VMM signal handler runs while guest state is live".
 */
#ifndef USERKVM_BASE_SIG_H
#define USERKVM_BASE_SIG_H

#include <signal.h>

#include "base/util.h"

#define SIG_KICK (__SIGRTMIN + 29) /* 61; hidden from the VMM by the shim */

/* What is known of kicks on their way to a thread. */
struct sig_kick {
	_Atomic uint32_t handled; /* handlers begun */
	_Atomic uint64_t sent; /* thread, and what `handled` was, plus one, before the last kick was sent */
};

struct sig_caught {
	siginfo_t info;
};

/* One KVM_RUN on one thread. Filled by the caller's base_sig_run_begin, on its stack or in the vCPU. */
struct sig_run {
	_Atomic uint32_t *exit_word; /* set to 1 (and futex-woken by nobody: same thread) when caught */
	struct sig_kick kicked;
	void (*kick)(void *arg, void *ucontext); /* runs in the handler of SIG_KICK; async-signal-safe */
	void *arg;
	sigset_t saved_mask;
	bool mask_changed;
	_Atomic uint32_t ncaught;
	struct sig_caught caught[64]; /* one per signal number at most: they are masked when caught */
	struct sig_run *outer;
};

/* Counted: 0->1 installs our handlers. -errno. */
int base_sig_enable(void);
/* 1->0 turns the hooks into pass-throughs; dispositions that we took stay ours. */
void base_sig_disable(void);
/* How many enabled and did not disable; for leak checks in tests. */
int base_sig_users(void);

/* What the shim calls for sigaction(2)/signal(2): EINVAL as the kernel; SIG_KICK is refused with EINVAL. */
int base_sig_action(int sig, const struct sigaction *act, struct sigaction *old);
/* What the shim calls for sigprocmask/pthread_sigmask: SIG_KICK and the faults stay open. Returns errno > 0.
 */
int base_sig_mask(int how, const sigset_t *set, sigset_t *old);

/*
 * Begins a run on this thread. `mask`, if not NULL, replaces the thread's signal mask for the run
 * (KVM_SET_SIGNAL_MASK); signals opened only by it are caught even if their disposition is the default.
 */
void base_sig_run_begin(struct sig_run *run, const sigset_t *mask);
/* Ends it; true if any signal was caught (KVM_RUN then returns -EINTR). */
bool base_sig_run_end(struct sig_run *run);
/* True if a signal has been caught in this run so far. */
bool base_sig_run_caught(const struct sig_run *run);

/*
 * Lets SIG_KICK through on this thread and returns its id and flag for base_sig_kick_once. Outside a run the kick does one
 * thing: a PC inside a window goes on at the window's `again`.
 */
int base_sig_listen(struct sig_kick **kick);
/*
 * base_sig_kick, unless the last one's handler has still to begin: that one will do, for it comes after what was
 * done before this call. Real-time signals queue, and a thread that gets no CPU would collect thousands. *k is
 * what base_sig_listen told, or that of a run on the thread; it outlives the call. Any threads at once.
 */
void base_sig_kick_once(int tid, struct sig_kick *k);
/* False while a kick is on its way that base_sig_kick_once would count on. */
bool base_sig_kick_due(int tid, struct sig_kick *k);
/* Sends SIG_KICK to a thread of this process. Any thread. */
void base_sig_kick(int tid);
/* membarrier(PRIVATE_EXPEDITED): every thread that ran user code has passed through the kernel since. */
void base_membarrier(void);

/*
 * A hook for faults at PCs that are in no window (engine stubs): returns true if it changed the ucontext
 * so that execution can go on. One hook per process; the engine's.
 */
void base_sig_set_fault_hook(bool (*fn)(int sig, siginfo_t *info, void *ucontext));

#endif
