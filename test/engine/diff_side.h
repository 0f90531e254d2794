/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine's sides of the differential test: guests of their own, of which one may be the interpreter's. */
#ifndef DIFF_SIDE_H
#define DIFF_SIDE_H

#include "diff.h"
#include "engine/jit.h"

#define KBASE	       0xffff800000000000UL
#define RAM_PAGES      48
#define K_GDT	       8
#define K_IDT	       9
#define K_TSS	       10
#define K_STACK	       11
#define K_HANDLERS     12
#define K_IVT	       13
#define K_COUNT	       14 /* what handlers counted that went back: trap flag, disturbing interrupts */
#define CODE_PAGE      16
#define DATA_PAGE      20
#define KPAGE(page)    ((page)*PAGE_SIZE)
#define KLIN(page)     (KBASE + KPAGE(page))
#define LDT_OFFSET     0x800
#define DISTURB_VECTOR 0xe0

struct side {
	const char *name;
	uint8_t *ram;
	struct engine_code *code;
	struct engine_cpu *cpu;
	bool real;    /* the run under way is in real mode */
	bool disturb; /* polls leave, and what leaves does something else before it goes on */
	unsigned started_tick;
};

/*
 * What the guest sees at page n of CODE and DATA. Neighbours are none in memory, so that an access to two pages that goes
 * by the first one's translation is seen.
 */
static inline unsigned code_frame(unsigned n)
{
	return CODE_PAGE + 2 - 2 * n;
}
static inline unsigned data_frame(unsigned n)
{
	return DATA_PAGE + (n * 5 + 3) % DATA_PAGES;
}
static inline uint8_t *side_code(const struct side *s, unsigned n)
{
	return s->ram + KPAGE(code_frame(n));
}
static inline uint8_t *side_data(const struct side *s, unsigned n)
{
	return s->ram + KPAGE(data_frame(n));
}

void side_create(struct side *s, bool translate);
void side_tables(const struct side *s);
void side_handlers(const struct side *s, bool step);
enum engine_exit disturb(struct side *s);
bool side_poll(struct side *s);

#endif
