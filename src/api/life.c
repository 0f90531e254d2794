/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Generations and the counted process-wide set-up. */
#include "api/life.h"

#include <sys/mman.h>

#include "api/file.h"
#include "api/kvm.h"
#include "base/loop.h"
#include "base/sys.h"
#include "engine/engine.h"
#include "vcpu/vcpu.h"

#define ADOPTING UINT32_MAX

static struct {
	struct mutex lock; /* guards users; outermost of all */
	unsigned users;
	bool tables; /* what is computed once per process is there */
	uint32_t last_generation;
	_Atomic int owner;
	_Atomic(_Atomic uint32_t *) cookie; /* the page that fork wipes */
} life = {.lock = {.role = LOCK_USAGE}};

uint32_t life_generation(void)
{
	_Atomic uint32_t *cookie = atomic_load_explicit(&life.cookie, memory_order_acquire);

	return cookie ? atomic_load_explicit(cookie, memory_order_acquire) : 0;
}

static bool is_owner(void)
{
	return atomic_load_explicit(&life.owner, memory_order_relaxed) == (int)sys_call(SYS_getpid);
}

bool life_is_owner(void)
{
	if (is_owner())
		return true;
	life_adopt();
	return is_owner();
}

/* Maps the cookie's page; needs the lock. */
static int make_cookie(void)
{
	_Atomic uint32_t *cookie;
	long r;

	r = sys_call(SYS_mmap, NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r < 0 && r > -4096)
		return -ENOMEM;
	cookie = (_Atomic uint32_t *)r;
	/* Without it (before Linux 4.14) pthread_atfork still tells us of fork(3). */
	sys_call(SYS_madvise, r, PAGE_SIZE, MADV_WIPEONFORK);
	atomic_store(&life.owner, (int)sys_call(SYS_getpid));
	life.last_generation++;
	atomic_store(cookie, life.last_generation);
	atomic_store_explicit(&life.cookie, cookie, memory_order_release);
	return 0;
}

void life_adopt(void)
{
	static __thread __attribute__((tls_model("initial-exec"))) bool adopting;
	_Atomic uint32_t *cookie = atomic_load_explicit(&life.cookie, memory_order_acquire);
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
	mutex_forked(&life.lock);
	life.users = 0;
	loop_forked();
	files_forked();
	registry_forked();
	atomic_store(&life.owner, (int)sys_call(SYS_getpid));
	life.last_generation++;
	atomic_store_explicit(cookie, life.last_generation, memory_order_release);
	adopting = false;
}

void api_forked(void)
{
	_Atomic uint32_t *cookie = atomic_load(&life.cookie);

	/* fork(3) only: its child never shares our pages. */
	if (cookie)
		atomic_store(cookie, 0);
	life_adopt();
}

/* What is computed once per process and stays. Needs the lock. */
static int init_tables(void)
{
	int r;

	if (life.tables)
		return 0;
	r = engine_init();
	if (!r)
		r = vcpu_init();
	life.tables = !r;
	return r;
}

/* Brings the set-up from nothing to working; needs the lock. */
static int enable(void)
{
	int r;

	r = init_tables();
	if (r)
		return r;
	r = base_sig_enable();
	if (r)
		return r;
	r = loop_start();
	if (!r)
		r = files_start();
	if (r)
		base_sig_disable();
	return r;
}

int life_get(void)
{
	int r = 0;

	life_adopt();
	mutex_lock(&life.lock);
	if (!atomic_load(&life.cookie))
		r = make_cookie();
	if (!r && !life.users)
		r = enable();
	if (!r)
		life.users++;
	mutex_unlock(&life.lock);
	return r;
}

void life_put(void)
{
	mutex_lock(&life.lock);
	base_bug_on(!life.users);
	/* Loop and close watch stay for the next user: they cost nothing while nothing happens. */
	if (life.users && !--life.users)
		base_sig_disable();
	mutex_unlock(&life.lock);
}
