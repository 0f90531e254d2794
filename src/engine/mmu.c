/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linear to host: rights, the translation cache, and what must be forgotten when.
 *
 * A tag in c->tlb is the linear page ORed with c->tlb_key: two bits of privilege class and ten of
 * generation. A generation stands for one CR3 (or PCID) between flushes, so that flushing is mostly a new
 * number. Global pages have a generation of their own in the second level (tlb.c), until the next full flush.
 *
 * Revocation: engine_kick runs in a signal handler on the cpu's own thread and can interrupt any line here.
 * Who inserts a pointer compares the sequence afterwards and withdraws the entry if it moved; who uses one
 * compares it inside the window of the access.
 */
#include <ucontext.h>

#include "engine/jit.h"
#include "engine/walk.h"

/* -- Privilege class -- */

/* Who makes the access: SMAP blocks implicit accesses always and explicit ones unless EFLAGS.AC. */
static enum mmu_class access_class(const struct engine_cpu *c, unsigned acc)
{
	bool smap = (c->cr4 & CR4_SMAP) && (c->cr0 & CR0_PG);

	if (c->cpl == 3 && !(acc & ACC_SYS))
		return CLASS_USER;
	if (smap && ((acc & ACC_SYS) || c->cpl == 3 || !(c->rflags & FLAG_AC)))
		return CLASS_SUPER_SMAP;
	return CLASS_SUPER;
}

void mmu_update_key(struct engine_cpu *c)
{
	c->tlb_key = (c->tlb_key & GEN_MASK) | access_class(c, ACC_READ);
}

static bool rights_allow(struct rights r, unsigned acc)
{
	if (acc & ACC_EXEC)
		return r.exec;
	return acc & ACC_WRITE ? r.write : r.read;
}

static uint32_t fault_code(const struct engine_cpu *c, unsigned acc, enum mmu_class class,
			   const struct walk *w, bool present)
{
	uint32_t e = 0;

	if (present || w->rsvd)
		e |= PF_P;
	if (w->rsvd)
		e |= PF_RSVD;
	if (acc & ACC_WRITE)
		e |= PF_W;
	if (class == CLASS_USER)
		e |= PF_U;
	if ((acc & ACC_EXEC) && ((c->cr4 & CR4_SMEP) || ((c->efer & EFER_NX) && (c->cr4 & CR4_PAE))))
		e |= PF_I;
	return e;
}

/* -- Translation -- */

bool mmu_known(struct engine_cpu *c, uint64_t lin, unsigned acc, struct place *p)
{
	enum mmu_class class = access_class(c, acc);
	uint64_t seq = walk_seq(c);

	if (!c->long_mode)
		lin = (uint32_t)lin;
	if (!tlb_has(c, lin, class, acc) && !tlb_reload(c, lin, class, acc))
		return false;
	*p = (struct place){.host = (uint8_t *)(lin + TLB_AT(c, lin)->addend), .seq = seq};
	return true;
}

bool mmu_try_fetch(struct engine_cpu *c, uint64_t lin, struct place *p)
{
	enum mmu_class class = access_class(c, ACC_EXEC);
	struct walk w = {.lin = lin, .seq = walk_seq(c), .quiet = true};
	struct engine_page page;
	struct rights r;

	if (mmu_known(c, lin, ACC_EXEC, p))
		return true;
	if (walk_tables(c, &w) != WALK_OK)
		return false;
	r = class_rights(c, class, w.user, w.write, w.nx);
	if (!r.exec || walk_set_ad(c, &w, false) != WALK_OK ||
	    walk_page(c, &w, w.gpa, false, &page) != FILL_FIXED)
		return false;
	tlb_insert(c, &w, class, &page);
	*p = (struct place){.gpa = w.gpa, .seq = w.seq, .host = page.host + (lin & PAGE_OFFSET_MASK)};
	return true;
}

void mmu_translate(struct engine_cpu *c, uint64_t lin, unsigned acc, struct place *p)
{
	enum mmu_class class = access_class(c, acc);
	bool write = acc & ACC_WRITE;

	for (;;) {
		struct walk w = {.lin = lin, .seq = walk_seq(c)};
		struct engine_page page;
		struct rights r;
		enum walk_status st = walk_tables(c, &w);

		if (st == WALK_MOVED)
			continue;
		if (st == WALK_BADHOST)
			engine_leave(c, ENGINE_EXIT_BADHOST);
		if (st == WALK_FAULT)
			engine_raise_pf(c, w.lin, fault_code(c, acc, class, &w, false));
		r = class_rights(c, class, w.user, w.write, w.nx);
		if (!rights_allow(r, acc))
			engine_raise_pf(c, w.lin, fault_code(c, acc, class, &w, true));
		st = walk_set_ad(c, &w, write);
		if (st == WALK_MOVED)
			continue;
		if (st == WALK_BADHOST)
			engine_leave(c, ENGINE_EXIT_BADHOST);
		*p = (struct place){.gpa = w.gpa, .seq = w.seq};
		switch (walk_page(c, &w, w.gpa, write, &page)) {
		case FILL_FIXED:
			if (write)
				jit_store_to(c, page.host);
			tlb_insert(c, &w, class, &page);
			p->host = page.host + (lin & PAGE_OFFSET_MASK);
			p->tracked = page.tracked;
			return;
		case FILL_RETRY: break;
		case FILL_BADHOST: engine_leave(c, ENGINE_EXIT_BADHOST);
		default: return;
		}
	}
}

void mmu_find(struct engine_cpu *c, uint64_t lin, unsigned acc, struct place *p)
{
	if (!mmu_known(c, lin, acc, p))
		mmu_translate(c, lin, acc, p);
}

/* -- Flushes -- */

/* What a handler may call: it can interrupt a sanitizer's own code, so no sanitizer hears of it. */
#define SIGSAFE __attribute__((no_sanitize("thread")))

/* Makes an array of entries match nothing. */
static SIGSAFE void no_entries(void *p, size_t len)
{
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(len) : "a"(0xff) : "memory");
}

static SIGSAFE void tlb_clear(struct engine_cpu *c)
{
	no_entries(c->tlb, sizeof(c->tlb));
	c->fetch_len = 0; /* fetch_forget */
	jit_tlb_clear(c);
}

/* A generation that no entry carries; every tag is cleared when the numbers run out. */
static uint64_t new_generation(struct engine_cpu *c)
{
	jit_first_entered(c);
	if (++c->tlb_gen > GEN_MAX) {
		tlb_clear(c);
		c->held_seq = NOTHING_HELD;
		memset(c->pcid_gen, 0, sizeof(c->pcid_gen));
		c->tlb_global_gen = 1;
		c->tlb_gen = 2;
		jit_new_mapping(c);
	}
	return c->tlb_gen;
}

static uint64_t *pcid_slot(struct engine_cpu *c, unsigned pcid)
{
	return &c->pcid_gen[(pcid ^ (pcid >> 6)) & (ARRAY_SIZE(c->pcid_gen) - 1)];
}

static unsigned current_pcid(const struct engine_cpu *c)
{
	return c->cr4 & CR4_PCIDE ? c->cr3 & 0xfff : 0;
}

/* Makes gen the current generation and remembers it for the current PCID (PCID + 1 above the number). */
static void use_generation(struct engine_cpu *c, uint64_t gen)
{
	unsigned pcid = current_pcid(c);

	*pcid_slot(c, pcid) = (uint64_t)(pcid + 1) << 16 | gen;
	c->tlb_key = gen << CLASS_BITS | access_class(c, ACC_READ);
	fetch_forget(c);
	jit_new_space(c);
}

void mmu_flush_all(struct engine_cpu *c)
{
	memset(c->pcid_gen, 0, sizeof(c->pcid_gen));
	c->tlb_large = false;
	c->tlb_large_map = 0;
	jit_no_globals(c);
	c->tlb_global_gen = new_generation(c);
	use_generation(c, new_generation(c));
	jit_new_mapping(c);
}

/* Of the current PCID, and global. What others have of it in c->tlb goes too: they share the slot. */
static void flush_page(struct engine_cpu *c, uint64_t lin, uint64_t gen)
{
	if (!c->long_mode)
		lin = (uint32_t)lin;
	if (tlb_may_be_large(c, lin)) {
		mmu_flush_all(c);
		return;
	}
	tlb_forget_page(c, lin, gen);
	fetch_forget(c);
	jit_new_page(c, lin);
}

void mmu_flush_page(struct engine_cpu *c, uint64_t lin)
{
	flush_page(c, lin, mmu_generation(c));
}

void mmu_flush_page_of(struct engine_cpu *c, uint64_t lin, unsigned pcid)
{
	uint64_t known = *pcid_slot(c, pcid);

	flush_page(c, lin, known >> 16 == pcid + 1 ? known & 0xffff : mmu_generation(c));
}

void mmu_new_cr3(struct engine_cpu *c, bool noflush)
{
	unsigned pcid = current_pcid(c);
	uint64_t known = *pcid_slot(c, pcid);

	if (noflush && known >> 16 == pcid + 1)
		use_generation(c, known & 0xffff);
	else
		use_generation(c, new_generation(c));
}

/* INVPCID of a context: its next use gets a new generation. */
void mmu_flush_pcid(struct engine_cpu *c, unsigned pcid)
{
	if (pcid == current_pcid(c))
		use_generation(c, new_generation(c));
	else if (*pcid_slot(c, pcid) >> 16 == pcid + 1)
		*pcid_slot(c, pcid) = 0;
}

void engine_flush_tlb(struct engine_cpu *c)
{
	mmu_flush_all(c);
}

/* -- Revocation -- */

/* Drops every host pointer. Async-signal-safe. */
static SIGSAFE void drop_pointers(struct engine_cpu *c)
{
	atomic_fetch_add_explicit(&c->revoke_seq, 1, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	tlb_clear(c);
}

void engine_revoke(struct engine_cpu *c)
{
	drop_pointers(c);
}

SIGSAFE void engine_kick(void *arg, void *ucontext)
{
	ucontext_t *uc = ucontext;
	uint64_t fault, again;

	drop_pointers(arg);
	/* Code may have gone with a slot: a new run, a new epoch. */
	if (((struct engine_cpu *)arg)->jit)
		atomic_fetch_or(&((struct engine_cpu *)arg)->exit_word, EXIT_LOOK);
	if (base_window_find(uc->uc_mcontext.gregs[REG_RIP], &fault, &again))
		uc->uc_mcontext.gregs[REG_RIP] = again;
}

/* -- Others -- */

bool engine_translate(struct engine_cpu *c, uint64_t linear, uint64_t *gpa, bool *writable, bool *user)
{
	struct walk w;
	enum walk_status st;

	do {
		w = (struct walk){.lin = linear, .seq = walk_seq(c), .quiet = true};
		st = walk_tables(c, &w);
	} while (st == WALK_MOVED);
	if (st != WALK_OK)
		return false;
	*gpa = w.gpa;
	*writable = w.write;
	*user = w.user;
	return true;
}

/* Locked byte OR or AND in guest RAM; 0 done, 1 the pointer was revoked, 2 the host page is gone. */
static int rmw8(struct engine_cpu *c, uint64_t seq, uint8_t *p, uint8_t and, uint8_t or)
{
	if (or)
		ASM_GOTO(WINDOW("1f", "2f", "%l[fault]", "1f") "1:\tcmpq %[cur], %[seq]\n\t"
							       "jne %l[moved]\n\tlock orb %[v], (%[p])\n2:"
			 :
			 : [seq] "r"(seq), [cur] "m"(c->revoke_seq), [p] "r"(p), [v] "q"(or)
			 : "cc", "memory"
			 : fault, moved);
	else
		ASM_GOTO(WINDOW("1f", "2f", "%l[fault]", "1f") "1:\tcmpq %[cur], %[seq]\n\t"
							       "jne %l[moved]\n\tlock andb %[v], (%[p])\n2:"
			 :
			 : [seq] "r"(seq), [cur] "m"(c->revoke_seq), [p] "r"(p), [v] "q"(and)
			 : "cc", "memory"
			 : fault, moved);
	return 0;
moved:
	return 1;
fault:
	return 2;
}

void sys_rmw8(struct engine_cpu *c, uint64_t lin, uint8_t and, uint8_t or)
{
	for (;;) {
		struct place p;
		int r;

		mmu_find(c, lin, ACC_SYS | ACC_WRITE, &p);
		if (p.tracked) {
			access_rmw8_sys(c, lin, and, or);
			return;
		}
		if (!p.host) {
			guest_st_sys(c, lin, (guest_ld_sys(c, lin, 1) & and) | or, 1);
			return;
		}
		r = rmw8(c, p.seq, p.host, and, or);
		if (r == 2)
			engine_leave(c, ENGINE_EXIT_BADHOST);
		if (r == 0)
			return;
	}
}
