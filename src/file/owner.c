/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Generations: see file.h, "Owners". */
#include <sys/mman.h>

#include "base/loop.h"
#include "base/sys.h"
#include "file/internal.h"

#define ADOPTING UINT32_MAX

static struct {
	uint32_t last_generation;
	_Atomic int pid;
	_Atomic(_Atomic uint32_t *) cookie; /* the page that fork wipes */
	_Atomic(void *) hooks[OWNER_HOOKS];
} owner;

uint32_t owner_generation(void)
{
	_Atomic uint32_t *cookie = atomic_load_explicit(&owner.cookie, memory_order_acquire);

	return cookie ? atomic_load_explicit(cookie, memory_order_acquire) : 0;
}

static bool is_owner(void)
{
	return atomic_load_explicit(&owner.pid, memory_order_relaxed) == (int)sys_call(SYS_getpid);
}

bool owner_is_me(void)
{
	if (is_owner())
		return true;
	owner_adopt();
	return is_owner();
}

int owner_start(void)
{
	_Atomic uint32_t *cookie;
	long r;

	if (atomic_load(&owner.cookie))
		return 0;
	r = sys_call(SYS_mmap, NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r < 0 && r > -4096)
		return -ENOMEM;
	cookie = (_Atomic uint32_t *)r;
	/* Without it (before Linux 4.14) pthread_atfork still tells us of fork(3). */
	sys_call(SYS_madvise, r, PAGE_SIZE, MADV_WIPEONFORK);
	atomic_store(&owner.pid, (int)sys_call(SYS_getpid));
	owner.last_generation++;
	atomic_store(cookie, owner.last_generation);
	atomic_store_explicit(&owner.cookie, cookie, memory_order_release);
	return 0;
}

void owner_on_fork(void (*fn)(void))
{
	for (int i = 0; i < OWNER_HOOKS; i++) {
		void *none = NULL;

		if (atomic_compare_exchange_strong(&owner.hooks[i], &none, (void *)fn) || none == (void *)fn)
			return;
	}
	base_bug_on(true);
}

void owner_adopt(void)
{
	static __thread __attribute__((tls_model("initial-exec"))) bool adopting;
	_Atomic uint32_t *cookie = atomic_load_explicit(&owner.cookie, memory_order_acquire);
	struct lock_nowait outer;
	uint32_t zero = 0;

	/* A handler that interrupts the adoption is a stranger until it is over. */
	if (!cookie || adopting || is_owner())
		return;
	/* A vfork child sees its parent's cookie: nothing is to be adopted. */
	if (!atomic_compare_exchange_strong(cookie, &zero, ADOPTING)) {
		while (atomic_load(cookie) == ADOPTING)
			sys_call(SYS_sched_yield);
		return;
	}
	adopting = true;
	outer = lock_nowait_enter("a forked child", false);
	loop_forked();
	files_forked();
	for (int i = 0; i < OWNER_HOOKS; i++) {
		void (*fn)(void) = (void (*)(void))atomic_load(&owner.hooks[i]);

		if (fn)
			fn();
	}
	lock_nowait_leave(outer);
	atomic_store(&owner.pid, (int)sys_call(SYS_getpid));
	owner.last_generation++;
	atomic_store_explicit(cookie, owner.last_generation, memory_order_release);
	adopting = false;
}

void owner_forked(void)
{
	_Atomic uint32_t *cookie = atomic_load(&owner.cookie);

	/* fork(3) only: its child never shares our pages. */
	if (cookie)
		atomic_store(cookie, 0);
	owner_adopt();
}
