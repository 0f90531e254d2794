/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dispositions and handlers: see sig.h. The VMM's dispositions are kept here; the kernel has ours for every
 * signal that the VMM handles or that would kill the process, and the VMM's own for the rest (ignored ones,
 * stops, SIGSYS, libc's). A handler reads a disposition without a lock; writers have all signals blocked.
 */
#include <pthread.h>
#include <ucontext.h>

#include <linux/membarrier.h>

#include "base/lock.h"
#include "base/lock_raw.h"
#include "base/log.h"
#include "base/mutate.h"
#include "base/sig_int.h"
#include "base/window.h"

#define SA_RESTORER_FLAG 0x04000000UL
/* What of the VMM's flags the kernel must see when the handler is ours. */
#define SA_KEPT (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT | SA_ONSTACK)

/* The kernel's struct sigaction. */
struct kact {
	uint64_t handler;
	uint64_t flags;
	uint64_t restorer;
	uint64_t mask;
};

struct disposition {
	_Atomic uint32_t seq; /* odd while being written */
	_Atomic uint64_t handler, flags, mask;
	_Atomic bool ours; /* the kernel has our handler */
};

static struct disposition table[_NSIG];
static struct spinlock lock = {.m = {.role = LOCK_SIGNAL}}; /* writers of table; taken with signals blocked */
static _Atomic int users;				    /* base_sig_enable less base_sig_disable */
static _Atomic bool ready;				    /* table holds the truth */
static _Atomic long
    owner_pid; /* whose table this is; a vfork child shares the memory, not the dispositions */
static bool (*_Atomic fault_hook)(int sig, siginfo_t *info, void *ucontext);

/* What a handler returns to. Debuggers and unwinders know it by these bytes, preceded by no CFI. */
__asm__(".pushsection .text\n\t.balign 16\n\tnop\n\t.hidden base_sig_restorer\n\t.globl base_sig_restorer\n\t"
	".type base_sig_restorer, @function\nbase_sig_restorer:\n\tmovq $15, %rax\n\tsyscall\n\t"
	".size base_sig_restorer, . - base_sig_restorer\n\t.popsection");
extern char base_sig_restorer[] __attribute__((visibility("hidden")));

/* -- Kinds of signals -- */

enum sig_kind { KIND_FATAL, KIND_IGNORED, KIND_STOP, KIND_FAULT, KIND_KICK, KIND_NEVER };

static enum sig_kind kind_of(int sig)
{
	switch (sig) {
	case SIGSEGV:
	case SIGBUS:
	case SIGFPE:
	case SIGTRAP:
	case SIGILL: return KIND_FAULT;
	case SIG_KICK: return KIND_KICK;
	case SIGKILL:
	case SIGSTOP:
	case SIGSYS:
	case 32:
	case 33: return KIND_NEVER;
	case SIGCHLD:
	case SIGURG:
	case SIGWINCH:
	case SIGCONT: return KIND_IGNORED;
	case SIGTSTP:
	case SIGTTIN:
	case SIGTTOU: return KIND_STOP;
	default: return KIND_FATAL;
	}
}

/* True if the kernel gets our handler for a signal with this recorded handler. */
static bool wants_ours(int sig, uint64_t handler)
{
	enum sig_kind k = kind_of(sig);

	if (k == KIND_NEVER)
		return false;
	if (k == KIND_FAULT)
		return true;
	if (handler == (uint64_t)SIG_DFL)
		return k == KIND_FATAL;
	return handler != (uint64_t)SIG_IGN;
}

/* -- The table -- */

static SIGSAFE struct kact table_read(int sig)
{
	struct disposition *d = &table[sig];
	struct kact k = {0};
	uint32_t s;

	do {
		s = atomic_load_explicit(&d->seq, memory_order_acquire);
		k.handler = atomic_load_explicit(&d->handler, memory_order_acquire);
		k.flags = atomic_load_explicit(&d->flags, memory_order_acquire);
		k.mask = atomic_load_explicit(&d->mask, memory_order_acquire);
	} while ((s & 1) || s != atomic_load_explicit(&d->seq, memory_order_relaxed));
	return k;
}

/* Needs the lock, all signals blocked. */
static SIGSAFE void table_write(int sig, const struct kact *k)
{
	struct disposition *d = &table[sig];

	atomic_fetch_add(&d->seq, 1);
	atomic_store(&d->handler, k->handler);
	atomic_store(&d->flags, k->flags);
	atomic_store(&d->mask, k->mask);
	atomic_fetch_add(&d->seq, 1);
}

static uint64_t lock_table(void)
{
	uint64_t all = ~SIG_FAULTS, saved = 0;

	sig_procmask(SIG_BLOCK, &all, &saved);
	spin_lock(&lock);
	return saved;
}

static void unlock_table(uint64_t saved)
{
	spin_unlock(&lock);
	sig_procmask(SIG_SETMASK, &saved, NULL);
}

/* -- The kernel's view -- */

static SIGSAFE long kernel_action(int sig, const struct kact *act, struct kact *old)
{
	return sys_call(SYS_rt_sigaction, sig, act, old, sizeof(act->mask));
}

static void on_signal(int sig, siginfo_t *info, void *ucontext);
static void on_fault(int sig, siginfo_t *info, void *ucontext);
static void on_kick(int sig, siginfo_t *info, void *ucontext);

/* Tells the kernel about the recorded disposition of a signal. Needs the lock. */
static long install(int sig, const struct kact *rec)
{
	struct kact k = *rec;

	if (wants_ours(sig, rec->handler)) {
		bool fault = kind_of(sig) == KIND_FAULT;

		k.handler = fault ? (uint64_t)on_fault : (uint64_t)on_signal;
		k.flags = SA_SIGINFO | (rec->flags & SA_KEPT);
		if (rec->handler == (uint64_t)SIG_DFL)
			k.flags |= SA_RESTART;
		k.mask = ~SIG_LIBC;
	}
	k.flags |= SA_RESTORER_FLAG;
	k.restorer = (uint64_t)base_sig_restorer;
	atomic_store(&table[sig].ours, wants_ours(sig, rec->handler));
	return kernel_action(sig, &k, NULL);
}

/* -- Handlers -- */

/* The default action, which is to die, for a signal that reached our handler. */
static SIGSAFE void die_of(int sig, const siginfo_t *info, bool sync)
{
	struct kact dfl = {.flags = SA_RESTORER_FLAG, .restorer = (uint64_t)base_sig_restorer};

	atomic_store(&table[sig].ours, false);
	kernel_action(sig, &dfl, NULL);
	/* A fault repeats itself when we return; another signal is queued and comes when our mask opens. */
	if (!sync)
		sig_requeue(info);
}

/* SA_RESETHAND: the next one finds the default. */
static SIGSAFE void reset_disposition(int sig)
{
	struct kact dfl = {0};

	raw_lock(&lock.m.state);
	table_write(sig, &dfl);
	raw_unlock(&lock.m.state);
}

/* Does with a signal what the VMM asked for. The caller's handler runs with all signals blocked. */
static SIGSAFE void forward(int sig, siginfo_t *info, void *ucontext, bool sync)
{
	struct kact act = table_read(sig);
	ucontext_t *uc = ucontext;
	uint64_t mask;

	if (act.handler == (uint64_t)SIG_IGN && !sync)
		return;
	if (act.handler == (uint64_t)SIG_IGN || act.handler == (uint64_t)SIG_DFL) {
		die_of(sig, info, sync);
		return;
	}
	if (act.flags & SA_RESETHAND)
		reset_disposition(sig);
	mask = sig_set_get(&uc->uc_sigmask) | act.mask;
	if (!(act.flags & SA_NODEFER))
		mask |= SIGBIT(sig);
	mask &= ~(SIG_LIBC | SIGBIT(SIG_KICK));
	sig_procmask(SIG_SETMASK, &mask, NULL);
	if (act.flags & SA_SIGINFO)
		((void (*)(int, siginfo_t *, void *))act.handler)(sig, info, ucontext);
	else
		((void (*)(int))act.handler)(sig);
}

/* An asynchronous signal: kept if a vCPU runs here, else the VMM's. */
static SIGSAFE void on_signal(int sig, siginfo_t *info, void *ucontext)
{
	struct sig_run *run = sig_run_current();

	if (run)
		sig_run_catch(run, sig, info, ucontext);
	else
		forward(sig, info, ucontext, false);
}

/* True for a fault that this very instruction made, false for one that was sent (kill, a late machine check).
 */
static SIGSAFE bool is_synchronous(int sig, const siginfo_t *info)
{
	return info->si_code > 0 && !(sig == SIGBUS && info->si_code == BUS_MCEERR_AO);
}

/* True if the fault was a window's or the engine's, and execution can go on. */
static SIGSAFE bool resolve_fault(int sig, siginfo_t *info, void *ucontext)
{
	greg_t *rip = &((ucontext_t *)ucontext)->uc_mcontext.gregs[REG_RIP];
	bool (*hook)(int, siginfo_t *, void *) = atomic_load_explicit(&fault_hook, memory_order_relaxed);
	struct lock_nowait outer = lock_nowait_enter("a fault handler of ours", false);
	uint64_t fault, again;
	bool done;

	done = (sig == SIGSEGV || sig == SIGBUS) && base_window_find((uint64_t)*rip, &fault, &again);
	if (done)
		*rip = (greg_t)fault;
	else
		done =
		    hook && atomic_load_explicit(&users, memory_order_relaxed) && hook(sig, info, ucontext);
	lock_nowait_leave(outer);
	return done;
}

/* A synchronous fault: ours, else the VMM's. */
static SIGSAFE void on_fault(int sig, siginfo_t *info, void *ucontext)
{
	if (!is_synchronous(sig, info))
		on_signal(sig, info, ucontext);
	else if (!resolve_fault(sig, info, ucontext))
		forward(sig, info, ucontext, true);
}

static SIGSAFE void on_kick(int sig, siginfo_t *info, void *ucontext)
{
	struct lock_nowait outer = lock_nowait_enter("a handler of ours", false);

	if (mutated(MUTATE_ALLOC_IN_HANDLER))
		base_free(base_zalloc(1));
	sig_run_kicked(ucontext);
	lock_nowait_leave(outer);
}

/* -- Enabling -- */

static void after_fork(void)
{
	atomic_store(&lock.m.state, 0);
	atomic_store(&owner_pid, sys_call(SYS_getpid));
	sig_run_forked();
}

/* Before any lock of ours is taken, for libc's own is taken here. */
static __attribute__((constructor)) void register_fork(void)
{
	pthread_atfork(NULL, NULL, after_fork);
}

/* Records every disposition that the process has and puts ours in place. Needs the lock. */
static int take_over(void)
{
	struct kact kick = {.handler = (uint64_t)on_kick,
			    .flags = SA_SIGINFO | SA_RESTART | SA_RESTORER_FLAG,
			    .restorer = (uint64_t)base_sig_restorer,
			    .mask = ~SIG_LIBC};
	long r = kernel_action(SIG_KICK, &kick, NULL);

	for (int sig = 1; sig < _NSIG && !r; sig++) {
		struct kact k;

		if (kind_of(sig) == KIND_NEVER || kind_of(sig) == KIND_KICK)
			continue;
		r = kernel_action(sig, NULL, &k);
		if (r)
			break;
		k.flags &= ~SA_RESTORER_FLAG;
		table_write(sig, &k);
		if (wants_ours(sig, k.handler))
			r = install(sig, &k);
	}
	return (int)r;
}

int base_sig_enable(void)
{
	uint64_t saved;
	int r = 0;

	if (mutated(MUTATE_LOAD_IN_LOCK)) {
		lock_host_enter();
		pthread_atfork(NULL, NULL, NULL);
		lock_host_leave();
	}
	saved = lock_table();
	if (!atomic_load(&ready)) {
		r = take_over();
		atomic_store(&owner_pid, sys_call(SYS_getpid));
		atomic_store(&ready, !r);
		sys_call(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	}
	if (!r)
		atomic_fetch_add(&users, 1);
	unlock_table(saved);
	return r;
}

void base_sig_disable(void)
{
	base_bug_on(atomic_fetch_sub(&users, 1) <= 0);
}

int base_sig_users(void)
{
	return atomic_load(&users);
}

void base_sig_set_fault_hook(bool (*fn)(int sig, siginfo_t *info, void *ucontext))
{
	atomic_store(&fault_hook, fn);
}

/* -- What the shim calls -- */

static struct kact from_user(const struct sigaction *act)
{
	return (struct kact){.handler = (uint64_t)act->sa_handler,
			     .flags = (uint32_t)act->sa_flags & ~SA_RESTORER_FLAG,
			     .mask = sig_set_get(&act->sa_mask) & ~(SIGBIT(SIGKILL) | SIGBIT(SIGSTOP))};
}

static void to_user(struct sigaction *old, const struct kact *k)
{
	memset(old, 0, sizeof(*old));
	old->sa_handler = (__sighandler_t)k->handler;
	old->sa_flags = (int)(k->flags & ~SA_RESTORER_FLAG);
	sig_set_put(&old->sa_mask, k->mask);
}

/* Straight to the kernel: before we own anything, for signals that are never ours, in a vfork child. */
static int pass_through(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct kact k = {0}, was = {0};
	long r;

	if (act) {
		k = from_user(act);
		k.flags |= SA_RESTORER_FLAG;
		k.restorer = (uint64_t)base_sig_restorer;
	}
	r = kernel_action(sig, act ? &k : NULL, &was);
	if (r)
		return (int)r;
	if (was.handler == (uint64_t)on_signal || was.handler == (uint64_t)on_fault)
		was = table_read(sig);
	if (old)
		to_user(old, &was);
	return 0;
}

int base_sig_action(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct kact k = {0}, was;
	uint64_t saved;
	long r = 0;

	if (sig < 1 || sig >= _NSIG || sig == 32 || sig == 33)
		return -EINVAL;
	if (act && (sig == SIGKILL || sig == SIGSTOP))
		return -EINVAL;
	if (atomic_load(&ready) && sig == SIG_KICK)
		return -EINVAL;
	if (!atomic_load(&ready) || kind_of(sig) == KIND_NEVER ||
	    atomic_load(&owner_pid) != sys_call(SYS_getpid))
		return pass_through(sig, act, old);
	if (act)
		k = from_user(act);
	saved = lock_table();
	was = table_read(sig);
	if (act) {
		table_write(sig, &k);
		r = install(sig, &k);
	}
	unlock_table(saved);
	if (!r && old)
		to_user(old, &was);
	return (int)r;
}

int base_sig_mask(int how, const sigset_t *set, sigset_t *old)
{
	uint64_t bits = set ? sig_set_get(set) : 0, was = 0;
	long r;

	if (how != SIG_UNBLOCK) {
		bits &= ~SIG_LIBC;
		if (atomic_load_explicit(&ready, memory_order_relaxed))
			bits &= ~SIG_OPEN;
	}
	r = sig_procmask(how, set ? &bits : NULL, &was);
	if (!r && old)
		sig_set_put(old, was);
	return (int)-r;
}
