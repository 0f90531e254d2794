/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs: the time a thread spends in guest code. An asynchronous signal that comes meanwhile is kept and
 * queued again at the end. Begin and end make no system call unless a mask was given or something was caught.
 */
#include <ucontext.h>

#include <linux/membarrier.h>
#include <sys/mman.h>

#include "base/lock_raw.h"
#include "base/log.h"
#include "base/sig_int.h"
#include "base/window.h"

#define TLS __thread __attribute__((tls_model("initial-exec")))

static TLS struct sig_run *_Atomic current;
static TLS bool opened; /* this thread's mask lets faults and the kick through */
static TLS int own_tid; /* 0: not asked yet */
static TLS struct sig_kick own_kick;

SIGSAFE struct sig_run *sig_run_current(void)
{
	return atomic_load_explicit(&current, memory_order_relaxed);
}

/* -- In handlers -- */

SIGSAFE void sig_run_catch(struct sig_run *run, int sig, const siginfo_t *info, void *ucontext)
{
	ucontext_t *uc = ucontext;
	uint32_t n = atomic_load_explicit(&run->ncaught, memory_order_relaxed);

	/* The first one tells what mask to go back to, if begin did not change it. */
	if (!n && !run->mask_changed)
		run->saved_mask = uc->uc_sigmask;
	if (n < ARRAY_SIZE(run->caught)) {
		run->caught[n].info = *info;
		run->caught[n].info.si_signo = sig;
		atomic_store_explicit(&run->ncaught, n + 1, memory_order_relaxed);
	}
	sig_set_put(&uc->uc_sigmask, sig_set_get(&uc->uc_sigmask) | SIGBIT(sig));
	atomic_store(run->exit_word, 1);
}

SIGSAFE void sig_run_kicked(void *ucontext)
{
	greg_t *rip = &((ucontext_t *)ucontext)->uc_mcontext.gregs[REG_RIP];
	uint64_t fault, again;

	/* First: a kick that is left out counts on what follows. Pairs with base_sig_kick_once. */
	atomic_fetch_add(&own_kick.handled, 1);
	for (struct sig_run *r = sig_run_current(); r; r = r->outer)
		atomic_fetch_add(&r->kicked.handled, 1);
	if (!sig_run_current() && base_window_find((uint64_t)*rip, &fault, &again))
		*rip = (greg_t)again;
	for (struct sig_run *r = sig_run_current(); r; r = r->outer) {
		if (r->kick)
			r->kick(r->arg, ucontext);
	}
}

void sig_run_forked(void)
{
	atomic_store(&current, NULL);
	own_tid = 0;
	atomic_fetch_add(&own_kick.handled, 1); /* what was pending stays with the parent */
}

SIGSAFE void sig_requeue(const siginfo_t *info)
{
	long pid = sys_call(SYS_getpid), tid = sys_call(SYS_gettid);

	/* A full queue refuses the siginfo, not the signal. */
	if (sys_call(SYS_rt_tgsigqueueinfo, pid, tid, info->si_signo, info) < 0)
		sys_call(SYS_tgkill, pid, tid, info->si_signo);
}

/* -- Begin and end -- */

/* Lets faults and the kick through on this thread; base_sig_mask keeps it so. */
static void open_mask(void)
{
	uint64_t open = SIG_OPEN;

	sig_procmask(SIG_UNBLOCK, &open, NULL);
	opened = true;
}

/* Adds 1 in one instruction, so that no handler comes in between; nobody but this thread and its handlers writes it. */
static void count_own(_Atomic uint32_t *n)
{
	__asm__ volatile("incl %0" : "+m"(*n) : : "memory", "cc");
}

void base_sig_run_begin(struct sig_run *run, const sigset_t *mask)
{
	uint64_t wanted;

	run->mask_changed = mask != NULL;
	atomic_store_explicit(&run->ncaught, 0, memory_order_relaxed);
	count_own(&run->kicked.handled); /* what is still on its way is another run's */
	run->outer = sig_run_current();
	if (unlikely(!opened))
		open_mask();
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store_explicit(&current, run, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	if (!mask)
		return;
	/* The kernel stores the old mask before it delivers what the new one opens. */
	wanted = sig_set_get(mask) & ~(SIG_OPEN | SIG_LIBC);
	sig_procmask(SIG_SETMASK, &wanted, (uint64_t *)&run->saved_mask);
}

/* Queues what was caught, behind a closed mask, then opens it: handlers run before this returns. */
static void requeue_all(struct sig_run *run)
{
	uint64_t all = ~(SIG_FAULTS | SIG_LIBC), saved;

	sig_procmask(SIG_SETMASK, &all, NULL);
	atomic_store_explicit(&current, run->outer, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	for (uint32_t i = 0; i < atomic_load(&run->ncaught); i++)
		sig_requeue(&run->caught[i].info);
	saved = sig_set_get(&run->saved_mask);
	sig_procmask(SIG_SETMASK, &saved, NULL);
}

bool base_sig_run_end(struct sig_run *run)
{
	if (run->mask_changed && !base_sig_run_caught(run)) {
		uint64_t saved = sig_set_get(&run->saved_mask);

		/* With the run still open: what this mask lets in is caught. */
		sig_procmask(SIG_SETMASK, &saved, NULL);
	}
	if (!base_sig_run_caught(run)) {
		atomic_store_explicit(&current, run->outer, memory_order_relaxed);
		atomic_signal_fence(memory_order_seq_cst);
		/* One may have come just before; from here on they go to the VMM's handlers. */
		if (likely(!base_sig_run_caught(run)))
			return false;
	}
	requeue_all(run);
	return true;
}

bool base_sig_run_caught(const struct sig_run *run)
{
	return atomic_load_explicit(&run->ncaught, memory_order_relaxed) != 0;
}

/* -- Kicks -- */

int base_sig_listen(struct sig_kick **kick)
{
	*kick = &own_kick;
	if (unlikely(!opened))
		open_mask();
	if (unlikely(!own_tid))
		own_tid = (int)sys_call(SYS_gettid);
	return own_tid;
}

/* What `sent` is while a kick is on its way. */
static uint64_t next_mark(int tid, struct sig_kick *k)
{
	return (uint64_t)tid << 32 | (atomic_load(&k->handled) + 1);
}

void base_sig_kick_once(int tid, struct sig_kick *k)
{
	/* Looked at after what the kick is for. While it stays, no handler has begun, and a kick that was sent is
	 * on its way; marked only once it is sent, so that nobody counts on one that is not. */
	uint64_t mark = next_mark(tid, k);

	if (atomic_load(&k->sent) == mark)
		return;
	base_sig_kick(tid);
	atomic_store(&k->sent, mark);
}

bool base_sig_kick_due(int tid, struct sig_kick *k)
{
	return atomic_load(&k->sent) != next_mark(tid, k);
}

void base_sig_kick(int tid)
{
	long pid = sys_call(SYS_getpid);

	/* EAGAIN: other processes of the user have filled his queue of real-time signals. Nobody may do without the
	 * kick, so it is tried until there is room. */
	while (sys_call(SYS_tgkill, pid, tid, SIG_KICK) == -EAGAIN)
		sys_call(SYS_sched_yield);
}

/*
 * Where membarrier(2) is missing or refused: taking a permission away from a page that this CPU has touched
 * makes the kernel interrupt every CPU on which this process runs.
 */
static void barrier_by_shootdown(void)
{
	static _Atomic uint32_t lock;
	static _Atomic(char *) page;
	char *p;

	raw_lock(&lock);
	p = atomic_load(&page);
	if (!p) {
		long m = sys_call(SYS_mmap, 0, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				  -1, 0);

		p = m < 0 && m > -4096 ? NULL : (char *)m;
		atomic_store(&page, p);
	}
	if (p) {
		sys_call(SYS_mprotect, p, PAGE_SIZE, PROT_READ | PROT_WRITE);
		*(volatile char *)p = 1;
		sys_call(SYS_mprotect, p, PAGE_SIZE, PROT_READ);
	}
	base_bug_on(!p);
	raw_unlock(&lock);
}

void base_membarrier(void)
{
	long r = sys_call(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);

	if (r == -EPERM) {
		sys_call(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
		r = sys_call(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	}
	if (r)
		barrier_by_shootdown();
}
