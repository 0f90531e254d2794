/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the engine did: its counters, and with USERKVM_STATS which instructions blocks left to the interpreter. */
#include "engine/jit.h"

#define KINDS	  2 /* not translated; an access that the table does not know */
#define MNEMONICS (ZYDIS_MNEMONIC_MAX_VALUE + 1)

uint64_t *jit_stats_table(void)
{
	const char *s = getenv("USERKVM_STATS");

	return s && *s && strcmp(s, "0") ? base_zalloc(sizeof(uint64_t) * KINDS * MNEMONICS) : NULL;
}

void jit_stats_site(struct jit *j, const struct jit_site *s)
{
	bool access = s->kind == SITE_READ || s->kind == SITE_WRITE;

	j->by_mnemonic[access * MNEMONICS + s->mnemonic]++;
}

/* Read while the vCPU may run: a value of some moment. */
#define READS_OTHERS __attribute__((no_sanitize("thread")))

READS_OTHERS void engine_stats(const struct engine_cpu *c, struct engine_stats *out)
{
	const struct jit *j = c->jit;

	*out = (struct engine_stats){.instructions = c->retired, .interpreted = c->retired};
	if (!j)
		return;
	out->translations = j->stats.translated;
	out->translations32 = j->stats.translated32;
	out->translations16 = j->stats.translated16;
	out->retranslations = j->stats.retranslated;
	out->entries = j->stats.exits;
	out->comparisons = j->stats.validations;
	out->epochs = j->stats.bumps;
	out->flushes = j->stats.flushes;
	out->code_bytes = j->used;
	out->code_most = MAX(j->stats.code_most, j->used);
	out->code_limit = JIT_CODE_SIZE;
	out->fills = j->stats.fills;
	out->left = j->stats.fallbacks;
	out->interpreted = j->stats.fallbacks + j->stats.cold;
}

READS_OTHERS unsigned engine_stats_left(const struct engine_cpu *c, struct engine_left *out, unsigned max)
{
	const uint64_t *table = c->jit ? c->jit->by_mnemonic : NULL;
	unsigned n = 0;

	for (unsigned k = 0; table && k < KINDS * MNEMONICS; k++) {
		uint64_t count = table[k];
		unsigned at = n;

		while (at && out[at - 1].count < count)
			at--;
		if (!count || at == max)
			continue;
		if (n < max)
			n++;
		memmove(out + at + 1, out + at, (n - 1 - at) * sizeof(*out));
		out[at] = (struct engine_left){
		    .name = ZydisMnemonicGetString((ZydisMnemonic)(k % MNEMONICS)),
		    .access = k >= MNEMONICS,
		    .count = count,
		};
	}
	return n;
}
