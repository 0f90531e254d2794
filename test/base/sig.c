/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* make check T=base/sig: windows, dispositions, caught signals, masks of a run, kicks. */
#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/base.h"
#include "base/sys.h"
#include "../sig_shim.h"

static int enable(void **state)
{
	return base_sig_enable();
}

static uint8_t *unmapped(void)
{
	uint8_t *p = mmap(NULL, PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

/* -- Windows -- */

static void copies_of_nowhere_give_efault(void **state)
{
	static const size_t sizes[] = {1, 2, 3, 4, 8, 100};
	uint8_t *p = unmapped(), buf[128] = {0};
	uint32_t o32 = 5;
	uint64_t o64 = 5;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(base_copy_in(buf, p, sizes[i]), -EFAULT);
		assert_int_equal(base_copy_out(p, buf, sizes[i]), -EFAULT);
		assert_int_equal(base_copy_in(buf, (void *)0x8000000000000000UL, sizes[i]), -EFAULT);
		assert_int_equal(base_copy_in(buf, NULL, sizes[i]), -EFAULT);
	}
	assert_int_equal(base_cmpxchg32_unsafe((uint32_t *)p, &o32, 1), -EFAULT);
	assert_int_equal(base_cmpxchg64_unsafe((uint64_t *)p, &o64, 1), -EFAULT);
	assert_int_equal(o32 + o64, 10);
	munmap(p, PAGE_SIZE);
}

static void copies_stop_at_the_edge(void **state)
{
	uint8_t *p = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t buf[64];

	munmap(p + PAGE_SIZE, PAGE_SIZE);
	memset(buf, 0xab, sizeof(buf));
	assert_int_equal(base_copy_out(p + PAGE_SIZE - 10, buf, 64), -EFAULT);
	assert_int_equal(p[PAGE_SIZE - 1], 0xab); /* what fitted was written */
	assert_int_equal(base_copy_in(buf, p + PAGE_SIZE - 4, 8), -EFAULT);
	assert_int_equal(base_copy_in(buf, p + PAGE_SIZE - 8, 8), 0);
	munmap(p, PAGE_SIZE);
}

static void copies_and_exchanges_work(void **state)
{
	uint8_t a[300], b[300];
	uint32_t w = 7, o = 6;
	uint64_t w64 = 7, o64 = 7;

	for (int i = 0; i < 300; i++)
		a[i] = (uint8_t)i;
	for (size_t n = 0; n <= 300; n++) {
		memset(b, 0xee, sizeof(b));
		assert_int_equal(base_copy_in(b, a, n), 0);
		assert_memory_equal(a, b, n);
		assert_true(n == 300 || b[n] == 0xee);
		memset(b, 0xee, sizeof(b));
		assert_int_equal(base_copy_out(b, a, n), 0);
		assert_memory_equal(a, b, n);
		assert_true(n == 300 || b[n] == 0xee);
	}
	assert_int_equal(base_cmpxchg32_unsafe(&w, &o, 9), 0);
	assert_int_equal(o, 7);
	assert_int_equal(w, 7);
	assert_int_equal(base_cmpxchg32_unsafe(&w, &o, 9), 0);
	assert_int_equal(w, 9);
	assert_int_equal(base_cmpxchg64_unsafe(&w64, &o64, 1UL << 40), 0);
	assert_true(w64 == 1UL << 40);
}

static void table_knows_its_windows(void **state)
{
	uint64_t fault, again;

	assert_false(base_window_find((uint64_t)unmapped, &fault, &again));
	assert_false(base_window_find(0, &fault, &again));
	assert_false(base_window_find(UINT64_MAX, &fault, &again));
}

/* -- Dispositions -- */

static _Atomic int calls;
static siginfo_t last_info;

static void vmm_handler(int sig, siginfo_t *info, void *uc)
{
	last_info = *info;
	atomic_fetch_add(&calls, 1);
}

static void vmm_action(int sig, int flags)
{
	struct sigaction act = {.sa_sigaction = vmm_handler, .sa_flags = flags | SA_SIGINFO};

	sigemptyset(&act.sa_mask);
	assert_int_equal(base_sig_action(sig, &act, NULL), 0);
}

static void default_action(int sig)
{
	struct sigaction act = {.sa_handler = SIG_DFL};

	assert_int_equal(base_sig_action(sig, &act, NULL), 0);
}

static void bad_actions_are_refused(void **state)
{
	struct sigaction act = {.sa_handler = SIG_IGN};

	assert_int_equal(base_sig_action(0, &act, NULL), -EINVAL);
	assert_int_equal(base_sig_action(65, &act, NULL), -EINVAL);
	assert_int_equal(base_sig_action(SIGKILL, &act, NULL), -EINVAL);
	assert_int_equal(base_sig_action(SIGSTOP, &act, NULL), -EINVAL);
	assert_int_equal(base_sig_action(SIG_KICK, &act, NULL), -EINVAL);
	assert_int_equal(base_sig_action(33, &act, NULL), -EINVAL);
	assert_int_equal(base_sig_mask(99, &(sigset_t){0}, NULL), EINVAL);
}

static void vmm_sees_its_own_dispositions(void **state)
{
	struct sigaction old;

	vmm_action(SIGUSR1, SA_RESTART | SA_NODEFER);
	assert_int_equal(base_sig_action(SIGUSR1, NULL, &old), 0);
	assert_ptr_equal(old.sa_sigaction, vmm_handler);
	assert_int_equal(old.sa_flags, SA_RESTART | SA_NODEFER | SA_SIGINFO);
	assert_int_equal(base_sig_action(SIGTERM, NULL, &old), 0);
	assert_ptr_equal(old.sa_handler, SIG_DFL);
	default_action(SIGUSR1);
	assert_int_equal(base_sig_action(SIGUSR1, NULL, &old), 0);
	assert_ptr_equal(old.sa_handler, SIG_DFL);
}

static void handlers_run_outside_runs(void **state)
{
	union sigval v = {.sival_int = 77};

	atomic_store(&calls, 0);
	vmm_action(SIGUSR1, 0);
	sigqueue(getpid(), SIGUSR1, v);
	assert_int_equal(atomic_load(&calls), 1);
	assert_int_equal(last_info.si_value.sival_int, 77);
	assert_int_equal(last_info.si_code, SI_QUEUE);
	default_action(SIGUSR1);
}

static sigset_t mask_inside;

static void mask_reader(int sig)
{
	base_sig_mask(SIG_BLOCK, NULL, &mask_inside);
}

static void masks_of_handlers_are_honoured(void **state)
{
	struct sigaction act = {.sa_handler = mask_reader};
	sigset_t before, after;

	sigemptyset(&act.sa_mask);
	sigaddset(&act.sa_mask, SIGALRM);
	base_sig_mask(SIG_BLOCK, NULL, &before);
	assert_int_equal(base_sig_action(SIGUSR1, &act, NULL), 0);
	raise(SIGUSR1);
	assert_true(sigismember(&mask_inside, SIGUSR1));
	assert_true(sigismember(&mask_inside, SIGALRM));
	assert_false(sigismember(&mask_inside, SIGUSR2));
	act.sa_flags = SA_NODEFER | SA_RESETHAND;
	assert_int_equal(base_sig_action(SIGUSR1, &act, NULL), 0);
	raise(SIGUSR1);
	assert_false(sigismember(&mask_inside, SIGUSR1));
	assert_int_equal(base_sig_action(SIGUSR1, NULL, &act), 0);
	assert_ptr_equal(act.sa_handler, SIG_DFL);
	base_sig_mask(SIG_BLOCK, NULL, &after);
	assert_int_equal(before.__val[0], after.__val[0]);
}

static void faults_and_kick_stay_open(void **state)
{
	sigset_t all, now, saved;

	sigfillset(&all);
	assert_int_equal(base_sig_mask(SIG_SETMASK, &all, &saved), 0);
	assert_int_equal(base_sig_mask(SIG_BLOCK, NULL, &now), 0);
	assert_false(sigismember(&now, SIGSEGV));
	assert_false(sigismember(&now, SIG_KICK));
	assert_true(sigismember(&now, SIGUSR1));
	assert_int_equal(base_sig_mask(SIG_SETMASK, &saved, NULL), 0);
}

/* Stores where nothing is mapped. */
static void crash(void)
{
	volatile int *volatile nowhere = (volatile int *)8;

	*nowhere = 1;
}

/* Runs fn in a child; returns its wait status. */
static int in_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		default_action(SIGSEGV); /* cmocka's until now */
		fn();
		_exit(42);
	}
	waitpid(pid, &status, 0);
	return status;
}

static void die_by_term(void)
{
	raise(SIGTERM);
}

static void die_by_segv(void)
{
	crash();
}

static void die_by_sent_segv(void)
{
	kill(getpid(), SIGSEGV);
}

static void die_in_ignored_segv(void)
{
	struct sigaction act = {.sa_handler = SIG_IGN};

	base_sig_action(SIGSEGV, &act, NULL);
	crash();
}

static void ignore_and_live(void)
{
	struct sigaction act = {.sa_handler = SIG_IGN};

	base_sig_action(SIGTERM, &act, NULL);
	base_sig_action(SIGSEGV, &act, NULL);
	raise(SIGTERM);
	raise(SIGCHLD);
	kill(getpid(), SIGSEGV);
}

static void defaults_still_kill(void **state)
{
	assert_int_equal(WTERMSIG(in_child(die_by_term)), SIGTERM);
	assert_int_equal(WTERMSIG(in_child(die_by_segv)), SIGSEGV);
	assert_int_equal(WTERMSIG(in_child(die_by_sent_segv)), SIGSEGV);
	assert_int_equal(WTERMSIG(in_child(die_in_ignored_segv)), SIGSEGV);
	assert_int_equal(WEXITSTATUS(in_child(ignore_and_live)), 42);
}

static sigjmp_buf jump;

static void jump_out(int sig)
{
	siglongjmp(jump, sig);
}

static void vmm_gets_its_own_faults(void **state)
{
	struct sigaction act = {.sa_handler = jump_out}, old;
	int sig;

	assert_int_equal(base_sig_action(SIGSEGV, &act, &old), 0);
	sig = sigsetjmp(jump, 1);
	if (!sig)
		crash();
	assert_int_equal(sig, SIGSEGV);
	assert_int_equal(base_sig_action(SIGSEGV, &old, NULL), 0);
}

static bool skip_hlt(int sig, siginfo_t *info, void *uc)
{
	greg_t *rip = &((ucontext_t *)uc)->uc_mcontext.gregs[REG_RIP];

	if (*(uint8_t *)*rip != 0xf4)
		return false;
	++*rip;
	return true;
}

static void hook_gets_other_faults(void **state)
{
	base_sig_set_fault_hook(skip_hlt);
	__asm__ volatile("hlt");
	base_sig_set_fault_hook(NULL);
}

/* A vfork child changes its own dispositions, never our record of the parent's. */
static void vfork_child_leaves_the_record_alone(void **state)
{
	struct sigaction act = {.sa_handler = SIG_IGN}, old;
	int status, r;
	pid_t pid;

	vmm_action(SIGUSR1, 0);
	pid = vfork();
	if (!pid) {
		r = base_sig_action(SIGUSR1, &act, &old);
		_exit(r || old.sa_sigaction != vmm_handler);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(base_sig_action(SIGUSR1, NULL, &old), 0);
	assert_ptr_equal(old.sa_sigaction, vmm_handler);
	atomic_store(&calls, 0);
	raise(SIGUSR1);
	assert_int_equal(atomic_load(&calls), 1);
	default_action(SIGUSR1);
}

/* -- Runs -- */

static _Atomic uint32_t word;

static void caught_signals_come_back(void **state)
{
	union sigval v = {.sival_int = 99};
	struct sig_run run = {.exit_word = &word};

	atomic_store(&calls, 0);
	atomic_store(&word, 0);
	vmm_action(SIGUSR1, 0);
	base_sig_run_begin(&run, NULL);
	assert_false(base_sig_run_caught(&run));
	sigqueue(getpid(), SIGUSR1, v);
	assert_int_equal(atomic_load(&calls), 0);
	assert_int_equal(atomic_load(&word), 1);
	assert_true(base_sig_run_caught(&run));
	sigqueue(getpid(), SIGUSR1, v); /* masked now: stays pending in the kernel */
	assert_int_equal(atomic_load(&run.ncaught), 1);
	assert_true(base_sig_run_end(&run));
	assert_true(atomic_load(&calls) >= 1);
	assert_int_equal(last_info.si_value.sival_int, 99);
	assert_int_equal(last_info.si_code, SI_QUEUE);
	default_action(SIGUSR1);
}

static void fatal_defaults_are_kept_too(void)
{
	struct sig_run run = {.exit_word = &word};

	base_sig_run_begin(&run, NULL);
	raise(SIGTERM);
	if (!base_sig_run_caught(&run))
		_exit(1);
	base_sig_run_end(&run); /* dies here */
}

static void fatal_signal_waits_for_the_end(void **state)
{
	assert_int_equal(WTERMSIG(in_child(fatal_defaults_are_kept_too)), SIGTERM);
}

static void ignored_signals_are_not_caught(void **state)
{
	struct sigaction act = {.sa_handler = SIG_IGN};
	struct sig_run run = {.exit_word = &word};

	assert_int_equal(base_sig_action(SIGUSR1, &act, NULL), 0);
	base_sig_run_begin(&run, NULL);
	raise(SIGUSR1);
	raise(SIGCHLD);
	raise(SIGWINCH);
	assert_false(base_sig_run_end(&run));
	default_action(SIGUSR1);
}

/* As a VMM with KVM_SET_SIGNAL_MASK: the signal is blocked outside, open inside, and taken by sigtimedwait.
 */
static void mask_of_the_run_opens_a_blocked_signal(void **state)
{
	struct sig_run run = {.exit_word = &word};
	sigset_t set, saved, inside, now;
	struct timespec zero = {0};

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	base_sig_mask(SIG_BLOCK, &set, &saved);
	base_sig_mask(SIG_BLOCK, NULL, &inside);
	sigdelset(&inside, SIGUSR1);
	sigaddset(&inside, SIGUSR2);

	base_sig_run_begin(&run, &inside);
	raise(SIGUSR2); /* closed inside: pending */
	assert_false(base_sig_run_caught(&run));
	raise(SIGUSR1);
	assert_true(base_sig_run_caught(&run));
	vmm_action(SIGUSR2, 0);
	atomic_store(&calls, 0);
	assert_true(base_sig_run_end(&run));
	assert_int_equal(atomic_load(&calls), 1); /* SIGUSR2, open again */
	assert_int_equal(sigtimedwait(&set, NULL, &zero), SIGUSR1);
	assert_int_equal(sigtimedwait(&set, NULL, &zero), -1);
	base_sig_mask(SIG_BLOCK, NULL, &now);
	assert_true(sigismember(&now, SIGUSR1));
	assert_false(sigismember(&now, SIGUSR2));

	/* Pending before the run: caught as soon as the mask opens. */
	raise(SIGUSR1);
	base_sig_run_begin(&run, &inside);
	assert_true(base_sig_run_caught(&run));
	assert_true(base_sig_run_end(&run));
	assert_int_equal(sigtimedwait(&set, NULL, &zero), SIGUSR1);

	/* Nothing came: nothing is told, and the mask is back. */
	base_sig_run_begin(&run, &inside);
	assert_false(base_sig_run_end(&run));
	base_sig_mask(SIG_BLOCK, NULL, &now);
	assert_int_equal(now.__val[0], saved.__val[0] | (1UL << (SIGUSR1 - 1)));
	base_sig_mask(SIG_SETMASK, &saved, NULL);
	default_action(SIGUSR2);
}

static void many_signals_each_come_once(void **state)
{
	struct sig_run run = {.exit_word = &word};
	int n = 0;

	atomic_store(&calls, 0);
	for (int s = SIGRTMIN; s < SIG_KICK; s++)
		vmm_action(s, 0);
	base_sig_run_begin(&run, NULL);
	for (int s = SIGRTMIN; s < SIG_KICK; s++, n++)
		raise(s);
	assert_int_equal(atomic_load(&run.ncaught), n);
	assert_true(base_sig_run_end(&run));
	assert_int_equal(atomic_load(&calls), n);
	for (int s = SIGRTMIN; s < SIG_KICK; s++)
		default_action(s);
}

static void runs_nest(void **state)
{
	_Atomic uint32_t inner_word = 0;
	struct sig_run outer = {.exit_word = &word}, inner = {.exit_word = &inner_word};

	atomic_store(&calls, 0);
	vmm_action(SIGUSR1, 0);
	base_sig_run_begin(&outer, NULL);
	base_sig_run_begin(&inner, NULL);
	raise(SIGUSR1);
	assert_int_equal(atomic_load(&inner_word), 1);
	assert_true(base_sig_run_end(&inner)); /* goes to the outer run */
	assert_int_equal(atomic_load(&calls), 0);
	assert_true(base_sig_run_caught(&outer));
	assert_true(base_sig_run_end(&outer));
	assert_int_equal(atomic_load(&calls), 1);
	default_action(SIGUSR1);
}

static void fault_in_a_run_is_a_fault(void **state)
{
	struct sig_run run = {.exit_word = &word};
	uint8_t *p = unmapped(), b;

	base_sig_run_begin(&run, NULL);
	assert_int_equal(base_copy_in(&b, p, 1), -EFAULT);
	assert_false(base_sig_run_end(&run));
	munmap(p, PAGE_SIZE);
}

/* -- Kicks -- */

static _Atomic int kicked, stop, runner_tid;

static void on_kick(void *arg, void *uc)
{
	atomic_fetch_add(&kicked, 1);
	*(int *)arg += 1;
}

static void *runner(void *arg)
{
	int mine = 0;
	_Atomic uint32_t w = 0;
	struct sig_run run = {.exit_word = &w, .kick = on_kick, .arg = &mine};
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL); /* past the shim: begin must open it itself */
	base_sig_run_begin(&run, NULL);
	atomic_store(&runner_tid, (int)sys_call(SYS_gettid));
	while (!atomic_load(&stop))
		;
	base_sig_run_end(&run);
	return NULL;
}

static void kick_runs_before_the_barrier_ends(void **state)
{
	pthread_t t;

	pthread_create(&t, NULL, runner, NULL);
	while (!atomic_load(&runner_tid))
		usleep(100);
	for (int i = 1; i <= 200; i++) {
		base_sig_kick(atomic_load(&runner_tid));
		base_membarrier();
		/* It is in its handler, or will run it before its next instruction: wait for the count. */
		while (atomic_load(&kicked) < i)
			;
		assert_int_equal(atomic_load(&kicked), i);
	}
	atomic_store(&stop, 1);
	pthread_join(t, NULL);
	base_sig_kick((int)sys_call(SYS_gettid)); /* no run here: nothing happens */
	assert_int_equal(atomic_load(&kicked), 200);
}

static void begin_and_end_are_cheap(void **state)
{
	struct sig_run run = {.exit_word = &word};
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 1000; i++) {
		uint64_t t = base_now_ns();

		for (int j = 0; j < 10; j++) {
			base_sig_run_begin(&run, NULL);
			base_sig_run_end(&run);
		}
		t = base_now_ns() - t;
		best = MIN(best, t);
	}
	assert_true(best / 10 < 400); /* no system call: tens of ns; a call or two would show */
}

static void checker_is_silent(void **state)
{
	base_sig_disable();
	assert_int_equal(lockdep_reports(), 0);
	assert_int_equal(base_bug_count(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(copies_of_nowhere_give_efault),
	    cmocka_unit_test(copies_stop_at_the_edge),
	    cmocka_unit_test(copies_and_exchanges_work),
	    cmocka_unit_test(table_knows_its_windows),
	    cmocka_unit_test(bad_actions_are_refused),
	    cmocka_unit_test(vmm_sees_its_own_dispositions),
	    cmocka_unit_test(handlers_run_outside_runs),
	    cmocka_unit_test(masks_of_handlers_are_honoured),
	    cmocka_unit_test(faults_and_kick_stay_open),
	    cmocka_unit_test(defaults_still_kill),
	    cmocka_unit_test(vmm_gets_its_own_faults),
	    cmocka_unit_test(hook_gets_other_faults),
	    cmocka_unit_test(vfork_child_leaves_the_record_alone),
	    cmocka_unit_test(caught_signals_come_back),
	    cmocka_unit_test(fatal_signal_waits_for_the_end),
	    cmocka_unit_test(ignored_signals_are_not_caught),
	    cmocka_unit_test(mask_of_the_run_opens_a_blocked_signal),
	    cmocka_unit_test(many_signals_each_come_once),
	    cmocka_unit_test(runs_nest),
	    cmocka_unit_test(fault_in_a_run_is_a_fault),
	    cmocka_unit_test(kick_runs_before_the_barrier_ends),
	    cmocka_unit_test(begin_and_end_are_cheap),
	    cmocka_unit_test(checker_is_silent),
	};

	return cmocka_run_group_tests(tests, enable, NULL);
}
