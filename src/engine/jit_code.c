/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Code memory (written through one mapping, executed through another), blocks, and what a PC belongs to. */
#include <cpuid.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/jit_emit.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif

/* -- Memory -- */

static void *map_zero(size_t size)
{
	void *p =
	    mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static bool map_code(struct jit *j)
{
	void *rw = MAP_FAILED, *rx = MAP_FAILED;
	int fd;

	if (jit_perf_on())
		return jit_perf_memory(j);
	fd = memfd_create("userkvm-jit", MFD_CLOEXEC | MFD_EXEC);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("userkvm-jit", MFD_CLOEXEC);
	if (fd >= 0 && !ftruncate(fd, JIT_CODE_SIZE)) {
		rw = mmap(NULL, JIT_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		rx = mmap(NULL, JIT_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	if (fd >= 0)
		close(fd);
	j->rw = rw == MAP_FAILED ? NULL : rw;
	j->rx = rx == MAP_FAILED ? NULL : rx;
	return j->rw && j->rx;
}

static void unmap(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

static void unmap_all(struct jit *j)
{
	unmap(j->rw, JIT_CODE_SIZE);
	unmap(j->rx, JIT_CODE_SIZE);
	unmap(j->bucket, JIT_BUCKETS * sizeof(*j->bucket));
	unmap(j->block, JIT_BLOCKS * sizeof(*j->block));
	unmap(j->site, JIT_SITES * sizeof(*j->site));
	unmap(j->exit, JIT_EXITS * sizeof(*j->exit));
	unmap(j->step, JIT_STEPS * sizeof(*j->step));
	unmap(j->trace, sizeof(*j->trace));
	unmap(j->stub, JIT_STUBS * sizeof(*j->stub));
	unmap(j->bytes, JIT_BYTES);
	unmap(j->insn, JIT_INSNS * sizeof(*j->insn));
	j->rw = NULL;
}

/* What generated code finds at its start: constants, for the most part. */
static void set_constants(struct engine_cpu *c)
{
	struct jit *j = c->jit;

	j->mask_page = ~PAGE_OFFSET_MASK;
	j->mask_index = (uint64_t)(JIT_TLB - 1) << PAGE_SHIFT;
	j->mask_global = JIT_MASK_GLOBAL;
	for (unsigned k = 0; k < ARRAY_SIZE(j->mask_near); k++)
		j->mask_near[k] = ~PAGE_OFFSET_MASK | ((1U << k) - 1);
	j->mask_sign = BIT(63);
	j->mask_if = FLAG_IF;
	j->mask_not_if = ~FLAG_IF;
	j->mask_df = FLAG_DF;
	j->mask_not_df = ~FLAG_DF;
	j->mask_smap = CR4_SMAP;
	j->mask_tsd = CR4_TSD;
	j->mask_fsgsbase = CR4_FSGSBASE;
	j->mask_arith = FLAGS_ARITH;
	j->mask_not_arith = ~FLAGS_ARITH;
	for (unsigned k = 0; k < ARRAY_SIZE(j->mask_bit); k++)
		j->mask_bit[k] = (16U << k) - 1;
	j->self = (uint64_t)c;
	j->helper = (uint64_t)jit_slow;
	j->head_helper = (uint64_t)jit_head;
	j->again = (uint64_t)jit_again;
	j->fill = (uint64_t)jit_fill;
	j->vector_out = 1;
	j->exit_id = JIT_NO_EXIT;
	memset(j->near, 1, sizeof(j->near)); /* in use, to be cleared */
}

bool jit_start(struct engine_cpu *c)
{
	struct jit *j = c->jit;

	if (j->rw)
		return true;
	j->bucket = map_zero(JIT_BUCKETS * sizeof(*j->bucket));
	j->block = map_zero(JIT_BLOCKS * sizeof(*j->block));
	j->site = map_zero(JIT_SITES * sizeof(*j->site));
	j->exit = map_zero(JIT_EXITS * sizeof(*j->exit));
	j->step = map_zero(JIT_STEPS * sizeof(*j->step));
	j->trace = map_zero(sizeof(*j->trace));
	j->stub = map_zero(JIT_STUBS * sizeof(*j->stub));
	j->bytes = map_zero(JIT_BYTES);
	j->insn = map_zero(JIT_INSNS * sizeof(*j->insn));
	if (!map_code(j) || !j->bucket || !j->block || !j->site || !j->exit || !j->step || !j->trace ||
	    !j->stub || !j->bytes || !j->insn) {
		unmap_all(j);
		return false;
	}
	j->by_mnemonic = jit_stats_table();
	set_constants(c);
	jit_make_thunks(c);
	jit_perf_thunks(j);
	jit_flush(c);
	return true;
}

void jit_destroy(struct engine_cpu *c)
{
	if (!c->jit)
		return;
	if (c->jit->rw)
		base_log(LOG_INFO,
			 "jit: %lu instructions, %lu blocks made, %lu again, %lu flushes, %lu entries, %lu "
			 "comparisons, %lu epochs, %lu instructions by the interpreter",
			 c->retired, c->jit->stats.translated, c->jit->stats.retranslated,
			 c->jit->stats.flushes, c->jit->stats.exits, c->jit->stats.validations,
			 c->jit->stats.bumps, c->jit->stats.fallbacks);
	unmap_all(c->jit);
	base_free(c->jit->by_mnemonic);
}

/* -- Blocks -- */

static unsigned hash(uint64_t rip, unsigned key)
{
	return (unsigned)((rip ^ rip >> 15 ^ rip >> 31) + key * 0x1357) & (JIT_BUCKETS - 1);
}

void jit_flush(struct engine_cpu *c)
{
	struct jit *j = c->jit;

	if (j->nblocks) {
		memset(j->bucket, 0, JIT_BUCKETS * sizeof(*j->bucket));
		memset(j->code_pages, 0, sizeof(j->code_pages));
		memset(j->by_lin, 0, sizeof(j->by_lin));
		memset(j->by_bit, 0, sizeof(j->by_bit));
		memset(j->jump, 0, sizeof(j->jump[0]) * j->ntables);
	}
	memset(j->table_of, 0, sizeof(j->table_of));
	j->ntables = 0;
	j->ninsns = 0;
	memset(j->no_block, 0xff, sizeof(j->no_block));
	j->stats.code_most = MAX(j->stats.code_most, j->used);
	j->used = j->thunks_end;
	j->nblocks = j->nsites = j->nexits = j->nsteps = j->bytes_used = 0;
	j->exit_id = JIT_NO_EXIT;
	j->stats.flushes++;
	jit_near_flush(j);
	jit_tlb_clear(c);
}

int jit_table(struct jit *j, unsigned key)
{
	if (!j->table_of[key] && j->ntables < JIT_TABLES) {
		j->jump[j->ntables].at[jit_jump_index(~0ULL, key & JIT_KEY_MODE ? UINT32_MAX : 0)].not_rip =
		    JIT_NO_TARGET;
		j->table_of[key] = (uint8_t)++j->ntables;
	}
	return j->table_of[key] - 1;
}

struct jit_block *jit_find(struct engine_cpu *c)
{
	uint64_t rip = jit_lin(c);
	struct jit *j = c->jit;
	unsigned key = jit_key(c);
	uint32_t base = jit_base(c);

	for (uint32_t k = j->bucket[hash(rip, key)]; k; k = j->block[k - 1].next) {
		struct jit_block *b = &j->block[k - 1];

		if (b->rip == rip && b->key == key && b->base == base && !b->dead)
			return b;
	}
	return NULL;
}

void jit_insert(struct engine_cpu *c, struct jit_block *b)
{
	struct jit *j = c->jit;
	uint32_t *head = &j->bucket[hash(b->rip, b->key)];

	/* A dead block at this address is still jumped to: it leads here from now on. */
	for (uint32_t *k = head; *k;) {
		struct jit_block *old = &j->block[*k - 1];

		if (old->dead && old->rip == b->rip && old->key == b->key && old->base == b->base) {
			j->rw[old->entry] = 0xe9;
			jit_patch(j, old->entry + 1, b->entry);
			*k = old->next;
			continue;
		}
		k = &old->next;
	}
	b->next = *head;
	*head = (uint32_t)(b - j->block) + 1;
}

void jit_patch(struct jit *j, uint32_t patch, uint32_t to)
{
	uint32_t rel = to - (patch + 4);

	memcpy(j->rw + patch, &rel, 4);
}

/* -- PCs -- */

/* What a handler may call: no sanitizer hears of it. */
#define SIGSAFE __attribute__((no_sanitize("thread")))

static __thread __attribute__((tls_model("initial-exec"))) struct jit *watched;

/* The site whose window holds a PC of generated code; NULL. Async-signal-safe. */
static SIGSAFE const struct jit_site *site_at(const struct jit *j, uint64_t pc)
{
	uint32_t off = (uint32_t)(pc - (uint64_t)j->rx), lo = 0, hi = j->nsites;

	if (!j->rx || pc - (uint64_t)j->rx >= JIT_CODE_SIZE)
		return NULL;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (j->site[mid].start <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* Sites of instructions without a window begin where the next one does. */
	while (lo && j->site[lo - 1].end <= off && j->site[lo - 1].start == j->site[lo - 1].end &&
	       j->site[lo - 1].start == off)
		lo--;
	return lo && off < j->site[lo - 1].end ? &j->site[lo - 1] : NULL;
}

static SIGSAFE bool find_window(uint64_t pc, uint64_t *fault, uint64_t *again)
{
	const struct jit_site *s = watched ? site_at(watched, pc) : NULL;

	if (!s)
		return false;
	*fault = (uint64_t)watched->rx + s->slow;
	*again = (uint64_t)watched->rx + s->again;
	return true;
}

void jit_watch(struct jit *j)
{
	watched = j;
}

/* -- The choice -- */

#define HWCAP2_FSGSBASE 2

unsigned jit_threshold = JIT_THRESHOLD;

/* What generated code is made of: BMI2, LAHF in 64-bit mode, and GS bases set by the process. */
static bool host_can(void)
{
	uint32_t a, b, c, d;

	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
	    !(b & BIT(8)))
		return false;
	return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 1);
}

size_t jit_size(void)
{
	static _Atomic int wanted; /* 0 not asked yet, 1 no, 2 yes */
	int w = atomic_load(&wanted);

	if (!w) {
		const char *tier = getenv("USERKVM_ENGINE");

		w = (!tier || !*tier || !strncmp(tier, "jit", 3)) && host_can() ? 2 : 1;
		if (w == 2 && tier && !strncmp(tier, "jit:", 4))
			jit_threshold = (unsigned)strtoul(tier + 4, NULL, 10);
		if (w == 2)
			base_window_also(find_window);
		atomic_store(&wanted, w);
	}
	return w == 2 ? sizeof(struct jit) : 0;
}
