/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The replay log: see replay.h. */
#include "vcpu/internal.h"

int replay_init(struct vcpu *v)
{
	v->replay.log = base_zalloc(REPLAY_FIRST * sizeof(*v->replay.log));
	v->replay.pio = base_zalloc(PAGE_SIZE);
	v->replay.room = REPLAY_FIRST;
	return v->replay.log && v->replay.pio ? 0 : -ENOMEM;
}

void replay_destroy(struct vcpu *v)
{
	base_free(v->replay.log);
	base_free(v->replay.pio);
	v->replay.log = NULL;
	v->replay.pio = NULL;
}

void replay_clear(struct vcpu *v)
{
	v->replay.n = 0;
	v->replay.pos = 0;
}

void replay_rewind(struct vcpu *v)
{
	v->replay.pos = 0;
}

/* Drops the log of an instruction that retired or was left. */
static void drop_stale(struct vcpu *v)
{
	struct vcpu_replay *r = &v->replay;

	if (r->n && (r->retired != engine_retired(v->cpu) || r->linear_rip != engine_linear_rip(v->cpu)))
		replay_clear(v);
}

const struct vcpu_access *replay_find(struct vcpu *v, enum vcpu_access_kind kind, uint64_t addr, uint32_t len,
				      bool write)
{
	struct vcpu_replay *r = &v->replay;
	const struct vcpu_access *a;

	drop_stale(v);
	if (r->pos >= r->n)
		return NULL;
	a = &r->log[r->pos];
	if (a->kind == kind && a->addr == addr && a->len == len && a->write == write) {
		r->pos++;
		return a;
	}
	r->n = r->pos;
	return NULL;
}

bool replay_reserve(struct vcpu *v)
{
	struct vcpu_replay *r = &v->replay;
	struct vcpu_access *log;

	drop_stale(v);
	if (r->n < r->room)
		return true;
	if (r->room >= REPLAY_MAX)
		return false;
	log = base_zalloc(2 * r->room * sizeof(*log));
	if (!log)
		return false;
	memcpy(log, r->log, r->n * sizeof(*log));
	base_free(r->log);
	r->log = log;
	r->room *= 2;
	return true;
}

void replay_add(struct vcpu *v, const struct vcpu_access *a, const void *pio_data)
{
	struct vcpu_replay *r = &v->replay;

	drop_stale(v);
	base_bug_on(r->n >= r->room);
	if (r->n >= r->room)
		return;
	if (!r->n) {
		r->retired = engine_retired(v->cpu);
		r->linear_rip = engine_linear_rip(v->cpu);
	}
	r->log[r->n++] = *a;
	r->pos = r->n;
	if (pio_data)
		memcpy(r->pio, pio_data, MIN(a->len, PAGE_SIZE));
}
