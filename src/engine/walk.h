/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to mmu.c, walk.c and tlb.c: walks of the guest's page tables, and what is kept of them. */
#ifndef USERKVM_ENGINE_WALK_H
#define USERKVM_ENGINE_WALK_H

#include "engine/access.h"
#include "engine/system.h"

#define PTE_P	BIT(0)
#define PTE_W	BIT(1)
#define PTE_U	BIT(2)
#define PTE_A	BIT(5)
#define PTE_D	BIT(6)
#define PTE_PS	BIT(7)
#define PTE_G	BIT(8)
#define PTE_NX	BIT(63)
#define PF_P	1u
#define PF_W	2u
#define PF_U	4u
#define PF_RSVD 8u
#define PF_I	16u

enum walk_status {
	WALK_OK,
	WALK_FAULT,   /* not present, or reserved bits: walk.rsvd */
	WALK_MOVED,   /* host pointers were revoked, or an entry changed: walk again */
	WALK_BADHOST, /* a table's host memory is gone: nothing that the guest did */
};

struct walk {
	uint64_t lin;
	uint64_t seq; /* in: the revocation sequence under which pointers are used */
	bool quiet;   /* in: outside a run: never leaves through c->jump */
	uint64_t gpa; /* of lin itself */
	bool user, write, nx, dirty, rsvd;
	bool narrow;	/* entries of 4 bytes */
	unsigned shift; /* of the mapping: 12, 21, 22 or 30; 64 without paging */
	unsigned n;	/* entries read */
	struct {
		uint64_t gpa, pte;
	} level[5];
};

/* Reads the entries and combines their rights; touches nothing. */
enum walk_status walk_tables(struct engine_cpu *c, struct walk *w);
/* Sets the accessed bits, and the dirty bit for a write, by locked compare-exchange. Tables in read-only
 * slots keep theirs, as under KVM. */
enum walk_status walk_set_ad(struct engine_cpu *c, struct walk *w, bool write);
/*
 * The host page of gpa, from c->ptlb or port->fill. FILL_RETRY: pointers were revoked meanwhile, walk again.
 * May leave with LEAVE_REDO (not quiet).
 */
enum engine_fill walk_page(struct engine_cpu *c, const struct walk *w, uint64_t gpa, bool write,
			   struct engine_page *page);

/* -- Privilege classes -- */

enum mmu_class { CLASS_USER, CLASS_SUPER, CLASS_SUPER_SMAP };
#define CLASS_BITS 2
#define GEN_MAX	   1022
#define GEN_MASK   (1023u << CLASS_BITS)

struct rights {
	bool read, write, exec;
};

/* What a class may do with a page by its tables' bits. */
static inline struct rights class_rights(const struct engine_cpu *c, enum mmu_class class, bool user,
					 bool write, bool nx)
{
	bool smep = (c->cr4 & CR4_SMEP) && (c->cr0 & CR0_PG);
	struct rights r;

	if (class == CLASS_USER)
		return (struct rights){user, user && write, user && !nx};
	r.read = class == CLASS_SUPER || !user;
	r.write = r.read && (write || !(c->cr0 & CR0_WP));
	r.exec = !nx && !(smep && user);
	return r;
}

/* -- The translation cache (tlb.c) -- */

/* That of the address space. */
static inline uint64_t mmu_generation(const struct engine_cpu *c)
{
	return (c->tlb_key & GEN_MASK) >> CLASS_BITS;
}

/* c->tlb has the access. */
static inline bool tlb_has(const struct engine_cpu *c, uint64_t lin, enum mmu_class class, unsigned acc)
{
	const struct tlb_entry *e = TLB_AT(c, lin);
	uint64_t tag = acc & ACC_EXEC ? e->xtag : acc & ACC_WRITE ? e->wtag : e->rtag;

	return tag == ((lin & ~PAGE_OFFSET_MASK) | (c->tlb_key & GEN_MASK) | class);
}

/* Puts what the second level knows of the page into c->tlb, for this class; true: that has the access now. */
bool tlb_reload(struct engine_cpu *c, uint64_t lin, enum mmu_class class, unsigned acc);
/* Caches what a walk found under w->seq. */
void tlb_insert(struct engine_cpu *c, const struct walk *w, enum mmu_class class,
		const struct engine_page *page);
/* Forgets the page: in generation `gen`, and as a global page. */
void tlb_forget_page(struct engine_cpu *c, uint64_t lin, uint64_t gen);
/* A large page was cached there, perhaps. */
bool tlb_may_be_large(const struct engine_cpu *c, uint64_t lin);
/* c->stlb and c->ptlb hold what was found under seq only: emptied if that is news. */
void tlb_hold(struct engine_cpu *c, uint64_t seq);

static inline uint64_t walk_seq(struct engine_cpu *c)
{
	uint64_t seq = atomic_load_explicit(&c->revoke_seq, memory_order_relaxed);

	atomic_signal_fence(memory_order_seq_cst);
	return seq;
}

#endif
