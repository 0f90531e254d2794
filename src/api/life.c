/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The counted process-wide set-up: what "enabling virtualization on every CPU" is to KVM. */
#include "api/life.h"

#include "api/kvm.h"
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

int life_get(void)
{
	int r = 0;

	owner_adopt();
	mutex_lock(&life.lock);
	owner_on_fork(forked);
	if (!life.users)
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
