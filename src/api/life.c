/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The counted process-wide set-up: what "enabling virtualization on every CPU" is to KVM. */
#include "api/life.h"

#include "api/kvm.h"
#include "base/mutate.h"
#include "engine/engine.h"
#include "vcpu/vcpu.h"

static struct {
	struct mutex lock; /* guards users; outermost of all */
	unsigned users;
	bool tables; /* what is computed once per process is there */
} life = {.lock = {.role = LOCK_USAGE}};

/* The parent's users are not ours. */
static void forked(void)
{
	mutex_forked(&life.lock);
	life.users = 0;
	registry_forked();
	mem_forked();
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
	base_tsc_khz(); /* the measurement ends here, not when the first VM is made */
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
	r = files_start();
	if (r)
		base_sig_disable();
	return r;
}

/* The mutation: one lock guards the users and the list of VMs, inside a lock of the C library's. */
static void life_lock(void)
{
	if (mutated(MUTATE_USAGE_IN_REGISTRY)) {
		lock_host_enter();
		life.lock.role = LOCK_REGISTRY;
	}
	mutex_lock(&life.lock);
}

static void life_unlock(void)
{
	mutex_unlock(&life.lock);
	if (mutated(MUTATE_USAGE_IN_REGISTRY)) {
		life.lock.role = LOCK_USAGE;
		lock_host_leave();
	}
}

int life_get(void)
{
	int r = 0;

	owner_adopt();
	life_lock();
	owner_on_fork(forked);
	if (!life.users)
		r = enable();
	if (!r)
		life.users++;
	life_unlock();
	return r;
}

void life_put(void)
{
	life_lock();
	base_bug_on(!life.users);
	/* Loop and close watch stay for the next user: they cost nothing while nothing happens. */
	if (life.users && !--life.users)
		base_sig_disable();
	life_unlock();
}

unsigned life_users(void)
{
	unsigned n;

	mutex_lock(&life.lock);
	n = life.users;
	mutex_unlock(&life.lock);
	return n;
}
