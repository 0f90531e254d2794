/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Coverage: mnemonic x operand size x form (register, memory, two pages, faulting). The table counts tests that were the
 * same on all sides. A cell that a chooser aimed at often and in vain gets a reason made of how the attempts ended.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "diff.h"

#define ENOUGH 1000
#define MANY   (200 * ENOUGH) /* attempts after which a cell that hardly fills is left alone */

static const char *const size_name[8] = {"8", "16", "32", "64", "80", "128", "256", "512"};
static const char *const form_name[FORMS] = {"register", "memory", "straddling", "faulting"};

/* How an attempt ended that was to be of another form. */
enum miss { NO_FAULT, MISS_GP, MISS_SS, MISS_PF, MISS_AC, MISS_UD, MISS_OTHER, NOT_DRAWN, SKIP, MISSES };
static const char *const miss_name[MISSES] = {
    "no fault", "#GP", "#SS", "#PF", "#AC", "#UD", "another fault", "no such encoding", "not compared"};

struct cell {
	bool known, can_mem, can_reg, no_access, privileged;
	uint16_t bytes;	       /* of the largest memory operand */
	uint32_t n[FORMS];     /* tests */
	uint32_t tried[FORMS]; /* aimed at, whatever came of it */
	uint32_t missed[FORMS][MISSES];
};
static struct cell (*cells)[ZYDIS_MNEMONIC_MAX_VALUE + 1][8]; /* of a mode */

/* In a file of another length is the table of another program: it begins anew. */
void cover_init(const char *file)
{
	size_t size = MODES * sizeof(*cells);
	int fd = file ? open(file, O_RDWR | O_CREAT, 0644) : -1;

	if (fd < 0) {
		cells = shared_memory(size);
		return;
	}
	if (lseek(fd, 0, SEEK_END) != (off_t)size && (ftruncate(fd, 0) || ftruncate(fd, (off_t)size)))
		exit(2);
	cells = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (cells == MAP_FAILED)
		exit(2);
	close(fd);
}

static struct cell *cell_of(int mode, unsigned mnemonic, unsigned size)
{
	return &cells[mode_index(mode)][mnemonic][size];
}

unsigned cover_size(const struct tinsn *i)
{
	unsigned v = i->in.avx.vector_length ? i->in.avx.vector_length : i->in.operand_width;

	for (unsigned n = 0; n < i->in.operand_count_visible; n++) {
		const ZydisDecodedOperand *o = &i->op[n];
		ZydisRegisterClass c = o->type == ZYDIS_OPERAND_TYPE_REGISTER
					   ? ZydisRegisterGetClass(o->reg.value)
					   : ZYDIS_REGCLASS_INVALID;

		if (c == ZYDIS_REGCLASS_X87)
			return 4;
		if (c == ZYDIS_REGCLASS_XMM && !i->in.avx.vector_length)
			return 5;
	}
	return v == 512 ? 7 : v == 256 ? 6 : v == 128 ? 5 : v == 64 ? 3 : v == 16 ? 1 : v == 8 ? 0 : 2;
}

bool accesses_memory(const struct tinsn *i)
{
	for (unsigned n = 0; n < i->in.operand_count; n++)
		if (i->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY && i->op[n].mem.type != ZYDIS_MEMOP_TYPE_AGEN)
			return true;
	return false;
}

/* Names a memory operand, but does not access it as others do. */
static bool accesses_nothing(const struct tinsn *i)
{
	switch (i->in.mnemonic) {
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_CLDEMOTE: return true;
	default: return i->in.meta.category == ZYDIS_CATEGORY_PREFETCH;
	}
}

static unsigned memory_bytes(const struct tinsn *i)
{
	unsigned most = 0;

	for (unsigned n = 0; n < i->in.operand_count; n++)
		if (i->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			most = MAX(most, i->op[n].size / 8U);
	return most;
}

/* -- Counting -- */

void cover_known(int mode, const struct tinsn *i)
{
	struct cell *c = cell_of(mode, i->in.mnemonic, cover_size(i));

	c->known = true;
	if (accesses_memory(i))
		c->can_mem = true;
	else
		c->can_reg = true;
	c->bytes = (uint16_t)MAX(c->bytes, memory_bytes(i));
	c->no_access |= accesses_nothing(i);
	c->privileged |= !!(i->in.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) ||
			 i->in.meta.category == ZYDIS_CATEGORY_IO ||
			 i->in.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

static enum miss miss_of(int vector)
{
	switch (vector) {
	case 3: return NO_FAULT;
	case 6: return MISS_UD;
	case 12: return MISS_SS;
	case 13: return MISS_GP;
	case 14: return MISS_PF;
	case 17: return MISS_AC;
	default: return MISS_OTHER;
	}
}

void cover_count(int mode, const struct tinsn *i, enum form aimed, enum form form, int vector)
{
	struct cell *c = cell_of(mode, i->in.mnemonic, cover_size(i));

	cover_known(mode, i);
	if (aimed < FORMS) {
		c->tried[aimed]++;
		c->missed[aimed][miss_of(vector)] += aimed != form;
	}
	c->n[form]++;
}

void cover_not_drawn(int mode, unsigned mnemonic, unsigned size, enum form form)
{
	struct cell *c = cell_of(mode, mnemonic, size);

	c->tried[form] += 10;
	c->missed[form][NOT_DRAWN] += 10;
}

void cover_skipped(int mode, const struct tinsn *i)
{
	struct cell *c = cell_of(mode, i->in.mnemonic, cover_size(i));

	if (i->aim >= FORMS)
		return;
	c->tried[i->aim]++;
	c->missed[i->aim][SKIP]++;
}

/* -- What is wanted -- */

static bool in_vain(const struct cell *c, enum form f)
{
	return c->tried[f] > MANY || (c->tried[f] >= ENOUGH && c->n[f] < c->tried[f] / 200);
}

static enum miss often_missed(const struct cell *c, enum form f)
{
	enum miss most = NO_FAULT;

	for (enum miss m = 0; m < MISSES; m++)
		if (c->missed[f][m] > c->missed[f][most])
			most = m;
	return most;
}

static const char *reason_in_vain(const struct cell *c, enum form f)
{
	switch (often_missed(c, f)) {
	case NOT_DRAWN: return "no encoding of it was found";
	case MISS_UD: return "it is #UD before it accesses anything";
	case MISS_GP:
		return c->privileged	    ? "privileged: #GP before it accesses anything"
		       : f == FORM_STRADDLE ? "its operand must be aligned: #GP"
					    : "#GP, all but always";
	case NO_FAULT:
		return f == FORM_FAULT ? "nothing that it accesses can fault" : "no operand of that form";
	case SKIP: return "its addresses are this process's own";
	case MISS_PF: return "#PF, all but always";
	default: return "another fault, all but always";
	}
}

/* Why a cell has few tests of a form, or NULL: it was not tried often enough yet. */
static const char *reason(const struct cell *c, enum form f)
{
	if (f == FORM_REG && !c->can_reg)
		return "always has a memory operand";
	if (f != FORM_REG && !c->can_mem)
		return "never has a memory operand";
	if (f == FORM_STRADDLE && c->bytes == 1)
		return "one byte has no second page";
	if (f == FORM_FAULT && c->no_access)
		return "accesses no memory";
	return in_vain(c, f) ? reason_in_vain(c, f) : NULL;
}

static bool wants(const struct cell *c, enum form f)
{
	return c->n[f] < ENOUGH && !reason(c, f);
}

bool cover_wants(int mode, unsigned mnemonic, unsigned size, enum form form)
{
	return wants(cell_of(mode, mnemonic, size), form);
}

enum form cover_pick(int mode, const struct tinsn *i)
{
	const struct cell *c = cell_of(mode, i->in.mnemonic, cover_size(i));
	enum form best = FORMS;

	if (!accesses_memory(i))
		return wants(c, FORM_REG) ? FORM_REG : FORMS;
	for (enum form f = FORM_MEM; f < FORMS; f++)
		if (wants(c, f) && (best == FORMS || c->n[f] < c->n[best]))
			best = f;
	return best;
}

/* -- The table -- */

static void print_cell(FILE *out, int mode, unsigned m, unsigned s, struct cover_sums *sum)
{
	const struct cell *c = cell_of(mode, m, s);

	if (out)
		fprintf(out, "%-6s %-18s %-4s %9u %9u %9u %9u", mode_name(mode), ZydisMnemonicGetString(m),
			size_name[s], c->n[FORM_REG], c->n[FORM_MEM], c->n[FORM_STRADDLE], c->n[FORM_FAULT]);
	for (enum form f = 0; f < FORMS; f++) {
		const char *why = reason(c, f);
		bool few = c->n[f] < ENOUGH;

		sum->cells++;
		sum->tests += c->n[f];
		sum->full += !few;
		sum->empty_why += few && why && !c->n[f];
		sum->few_why += few && why && c->n[f];
		sum->few += few && !why && c->n[f];
		sum->empty += few && !why && !c->n[f];
		if (!out || !few)
			continue;
		fprintf(out, "  [%s: %s", form_name[f], why ? why : "too few tests");
		if (why && in_vain(c, f))
			fprintf(out, "; %u attempts, %u %s", c->tried[f], c->missed[f][often_missed(c, f)],
				miss_name[often_missed(c, f)]);
		fprintf(out, "]");
	}
	if (out)
		fprintf(out, "\n");
}

static struct cover_sums sum_mode(FILE *out, int mode)
{
	struct cover_sums sum = {0};

	for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
		for (unsigned s = 0; s < 8; s++)
			if (cell_of(mode, m, s)->known)
				print_cell(out, mode, m, s, &sum);
	return sum;
}

struct cover_sums cover_sums(int mode)
{
	return sum_mode(NULL, mode);
}

static void print_sums(FILE *out, int mode, const struct cover_sums *s)
{
	if (!out)
		return;
	fprintf(out,
		"coverage %s: %u cells (mnemonic x size x form): %u with %u tests or more; with a reason %u "
		"empty, "
		"%u with fewer; without one %u empty, %u with fewer; %lu tests\n",
		mode_name(mode), s->cells, s->full, ENOUGH, s->empty_why, s->few_why, s->empty, s->few,
		s->tests);
}

void cover_print(const char *file, const char *summary)
{
	FILE *out = file ? fopen(file, "w") : NULL, *too = summary ? fopen(summary, "a") : NULL;

	if (out)
		fprintf(out, "%-6s %-18s %-4s %9s %9s %9s %9s\n", "mode", "mnemonic", "size", "register",
			"memory", "straddle", "fault");
	for (unsigned n = 0; n < MODES; n++) {
		struct cover_sums s = cover_sums(mode_at(n));

		if (!s.tests)
			continue;
		print_sums(stdout, mode_at(n), &s);
		print_sums(too, mode_at(n), &s);
		if (out)
			sum_mode(out, mode_at(n));
	}
	if (out)
		fclose(out);
	if (too)
		fclose(too);
}
