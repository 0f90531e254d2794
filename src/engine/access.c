/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest memory, the slow half: what access.h's windows refuse. A range is resolved into at most two pieces
 * (all faults happen there), then touched piece by piece. A (host, seq) pair stays safe to hold: the raw
 * accessors look at revoke_seq inside their window and give up if it moved.
 */
#include "engine/access.h"

struct piece {
	uint8_t *host; /* NULL: a device, or read-only memory being written */
	uint64_t gpa, seq, lin;
	unsigned len;
	bool tracked;
};

struct span {
	struct piece p[2];
	unsigned n, acc;
};

/* -- Raw accesses: one window each -- */

#define RAW_LD(name, text, mod)                                                                   \
	static enum raw name(struct engine_cpu *c, const void *host, uint64_t seq, uint64_t *out) \
	{                                                                                         \
		uint64_t v;                                                                       \
                                                                                                  \
		ASM_GOTO("771: cmpq %[seq], %[now]\n\t"                                           \
			 "jne %l[moved]\n\t" text " (%[h]), %" mod                                \
			 "[v]\n772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")                \
			 : [v] "=&r"(v)                                                           \
			 : [seq] "r"(seq), [now] "m"(c->revoke_seq), [h] "r"(host)                \
			 : "cc", "memory"                                                         \
			 : moved, bad);                                                           \
		*out = v;                                                                         \
		return RAW_OK;                                                                    \
	moved:                                                                                    \
		return RAW_MOVED;                                                                 \
	bad:                                                                                      \
		return RAW_BAD;                                                                   \
	}
#define RAW_ST(name, text, mod)                                                                \
	static enum raw name(struct engine_cpu *c, void *host, uint64_t seq, uint64_t v)       \
	{                                                                                      \
		ASM_GOTO("771: cmpq %[seq], %[now]\n\t"                                        \
			 "jne %l[moved]\n\t" text " %" mod                                     \
			 "[v], (%[h])\n772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")     \
			 :                                                                     \
			 : [v] "r"(v), [seq] "r"(seq), [now] "m"(c->revoke_seq), [h] "r"(host) \
			 : "cc", "memory"                                                      \
			 : moved, bad);                                                        \
		return RAW_OK;                                                                 \
	moved:                                                                                 \
		return RAW_MOVED;                                                              \
	bad:                                                                                   \
		return RAW_BAD;                                                                \
	}
#define RAW_CAS(name, mod)                                                                              \
	static enum raw name(struct engine_cpu *c, void *host, uint64_t seq, uint64_t *old, uint64_t v) \
	{                                                                                               \
		uint64_t was = *old;                                                                    \
                                                                                                        \
		ASM_GOTO("771: cmpq %[seq], %[now]\n\t"                                                 \
			 "jne %l[moved]\n\t"                                                            \
			 "lock cmpxchg %" mod                                                           \
			 "[v], (%[h])\n772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")              \
			 : [was] "+a"(was)                                                              \
			 : [v] "r"(v), [seq] "r"(seq), [now] "m"(c->revoke_seq), [h] "r"(host)          \
			 : "cc", "memory"                                                               \
			 : moved, bad);                                                                 \
		*old = was;                                                                             \
		return RAW_OK;                                                                          \
	moved:                                                                                          \
		return RAW_MOVED;                                                                       \
	bad:                                                                                            \
		return RAW_BAD;                                                                         \
	}

/* Shows that a byte can be written, by writing it as it is. */
static enum raw raw_touch(struct engine_cpu *c, void *host, uint64_t seq)
{
	ASM_GOTO("771: cmpq %[seq], %[now]\n\t"
		 "jne %l[moved]\n\t"
		 "lock orb $0, (%[h])\n772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")
		 :
		 : [seq] "r"(seq), [now] "m"(c->revoke_seq), [h] "r"(host)
		 : "cc", "memory"
		 : moved, bad);
	return RAW_OK;
moved:
	return RAW_MOVED;
bad:
	return RAW_BAD;
}

RAW_LD(raw_ld8, "movzbl", "k")
RAW_LD(raw_ld16, "movzwl", "k")
RAW_LD(raw_ld32, "movl", "k")
RAW_LD(raw_ld64, "movq", "q")
RAW_ST(raw_st8, "movb", "b")
RAW_ST(raw_st16, "movw", "w")
RAW_ST(raw_st32, "movl", "k")
RAW_ST(raw_st64, "movq", "q")
RAW_CAS(raw_cas8, "b")
RAW_CAS(raw_cas16, "w")
RAW_CAS(raw_cas32, "k")
RAW_CAS(raw_cas64, "q")

static enum raw raw_cas(struct engine_cpu *c, void *host, uint64_t seq, uint64_t *old, uint64_t v,
			unsigned size)
{
	switch (size) {
	case 1: return raw_cas8(c, host, seq, old, v);
	case 2: return raw_cas16(c, host, seq, old, v);
	case 4: return raw_cas32(c, host, seq, old, v);
	default: return raw_cas64(c, host, seq, old, v);
	}
}

static enum raw raw_cas128(struct engine_cpu *c, void *host, uint64_t seq, uint64_t old[2],
			   const uint64_t v[2])
{
	uint64_t lo = old[0], hi = old[1];

	ASM_GOTO("771: cmpq %[seq], %[now]\n\t"
		 "jne %l[moved]\n\t"
		 "lock cmpxchg16b (%[h])\n772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")
		 : "+a"(lo), "+d"(hi)
		 : "b"(v[0]), "c"(v[1]), [seq] "r"(seq), [now] "m"(c->revoke_seq), [h] "r"(host)
		 : "cc", "memory"
		 : moved, bad);
	old[0] = lo;
	old[1] = hi;
	return RAW_OK;
moved:
	return RAW_MOVED;
bad:
	return RAW_BAD;
}

long raw_copy(struct engine_cpu *c, uint8_t *dst, const uint8_t *src, size_t len, uint64_t seq)
{
	long st;

	__asm__ volatile("771: movl $1, %k[st]\n\t"
			 "cmpq %[seq], %[now]\n\t"
			 "jne 773f\n\t"
			 "rep movsb\n772: xorl %k[st], %k[st]\n\t"
			 "jmp 773f\n774: movl $2, %k[st]\n773:\n\t" WINDOW("771b", "772b", "774b", "771b")
			 : [st] "=&r"(st), "+D"(dst), "+S"(src), "+c"(len)
			 : [seq] "r"(seq), [now] "m"(c->revoke_seq)
			 : "cc", "memory");
	return st == 2 ? -1 : (long)len;
}

enum raw raw_compare(struct engine_cpu *c, const uint8_t *host, const uint8_t *with, size_t len, uint64_t seq)
{
	uint64_t word;
	long st;

	/* Who is begun again finds the sequence moved. */
	__asm__ volatile(
	    "771: movl %[moved], %k[st]\n\t"
	    "cmpq %[seq], %[now]\n\t"
	    "jne 773f\n\t"
	    "movl %[other], %k[st]\n"
	    "775: subq $8, %[len]\n\t"
	    "jb 776f\n\t"
	    "movq (%[host]), %[word]\n\t"
	    "cmpq (%[with]), %[word]\n\t"
	    "leaq 8(%[host]), %[host]\n\t"
	    "leaq 8(%[with]), %[with]\n\t"
	    "je 775b\n\t"
	    "jmp 773f\n"
	    "776: addq $8, %[len]\n\t"
	    "jz 772f\n"
	    "777: movb (%[host]), %b[word]\n\t"
	    "cmpb (%[with]), %b[word]\n\t"
	    "jne 773f\n\t"
	    "incq %[host]\n\t"
	    "incq %[with]\n\t"
	    "decq %[len]\n\t"
	    "jnz 777b\n"
	    "772: movl %[ok], %k[st]\n\t"
	    "jmp 773f\n774: movl %[bad], %k[st]\n773:\n\t" WINDOW("771b", "772b", "774b", "771b")
	    : [st] "=&r"(st), [host] "+r"(host), [with] "+r"(with), [len] "+r"(len), [word] "=&q"(word)
	    : [seq] "r"(seq), [now] "m"(c->revoke_seq), [ok] "i"(RAW_OK), [moved] "i"(RAW_MOVED),
	      [bad] "i"(RAW_BAD), [other] "i"(RAW_OTHER)
	    : "cc", "memory");
	return (enum raw)(uint32_t)st;
}

long raw_fill(struct engine_cpu *c, uint8_t *dst, uint64_t val, unsigned size, size_t count, uint64_t seq)
{
	long st;

#define FILL(text)                                                                                         \
	__asm__ volatile("771: movl $1, %k[st]\n\t"                                                        \
			 "cmpq %[seq], %[now]\n\t"                                                         \
			 "jne 773f\n\t" text "\n772: xorl %k[st], %k[st]\n\t"                              \
			 "jmp 773f\n774: movl $2, %k[st]\n773:\n\t" WINDOW("771b", "772b", "774b", "771b") \
			 : [st] "=&r"(st), "+D"(dst), "+c"(count)                                          \
			 : [seq] "r"(seq), [now] "m"(c->revoke_seq), "a"(val)                              \
			 : "cc", "memory")
	switch (size) {
	case 1: FILL("rep stosb"); break;
	case 2: FILL("rep stosw"); break;
	case 4: FILL("rep stosl"); break;
	default: FILL("rep stosq"); break;
	}
#undef FILL
	return st == 2 ? -1 : (long)count;
}

/* -- Resolving -- */

_Noreturn void access_bad(struct engine_cpu *c)
{
	engine_leave(c, ENGINE_EXIT_BADHOST);
}

static void piece_translate(struct engine_cpu *c, struct piece *p, unsigned acc)
{
	struct place at;

	mmu_find(c, p->lin, acc, &at);
	p->host = at.host;
	p->gpa = at.gpa;
	p->seq = at.seq;
	p->tracked = at.tracked;
}

#define ACC_ANY 8 /* not checked for alignment: vectors, images */

/*
 * Alignment checks (SDM 3A 6.15, #AC): CR0.AM, RFLAGS.AC, CPL 3; CPUs make them before page faults. While
 * they are on, nothing stays in the TLB, so that every access comes here.
 */
static inline void check_alignment(struct engine_cpu *c, uint64_t lin, unsigned len, unsigned acc)
{
	if (likely(!(c->slow & SLOW_AC)) || (acc & (ACC_SYS | ACC_ANY)))
		return;
	if (lin & (len - 1))
		engine_raise_err(c, EXC_AC, 0);
}

void access_align(struct engine_cpu *c, uint64_t lin, unsigned size)
{
	check_alignment(c, lin, size, 0);
}

static void tlb_forget(struct engine_cpu *c, uint64_t lin)
{
	struct tlb_entry *e = TLB_AT(c, lin);

	e->rtag = e->wtag = ~0ULL;
}

/* Translates all of [lin, lin + len) for acc before anything is touched. Raises #PF and #AC. */
static void span_resolve(struct engine_cpu *c, struct span *s, uint64_t lin, unsigned len, unsigned acc)
{
	unsigned first = MIN(len, (unsigned)(PAGE_SIZE - (lin & PAGE_OFFSET_MASK)));

	check_alignment(c, lin, len, acc);
	acc &= ~ACC_ANY;
	s->acc = acc;
	s->n = 1;
	s->p[0].lin = lin;
	s->p[0].len = first;
	piece_translate(c, &s->p[0], acc);
	if (first < len) {
		s->p[1].lin = c->long_mode ? lin + first : (uint32_t)(lin + first);
		s->p[1].len = len - first;
		s->n = 2;
		piece_translate(c, &s->p[1], acc);
	}
	if (unlikely(c->slow & SLOW_AC))
		for (unsigned k = 0; k < s->n; k++)
			tlb_forget(c, s->p[k].lin);
	if (unlikely(c->break_data))
		debug_check_data(c, lin, len, acc & ACC_WRITE);
}

/* -- Devices -- */

static void mmio(struct engine_cpu *c, uint64_t gpa, void *buf, unsigned len, bool write)
{
	while (len) {
		unsigned n = MIN(len, 8U);
		enum engine_status st;

		port_enter(c);
		st = c->port->mmio(c->ctx, gpa, buf, n, write);
		port_leave(c);
		engine_obey(c, st);
		gpa += n;
		buf = (uint8_t *)buf + n;
		len -= n;
	}
}

/* -- Pieces -- */

static enum raw raw_word(struct engine_cpu *c, struct piece *p, uint8_t *buf, bool write)
{
	uint64_t v = 0;
	enum raw r;

	if (write)
		memcpy(&v, buf, p->len);
	switch (p->len) {
	case 1: r = write ? raw_st8(c, p->host, p->seq, v) : raw_ld8(c, p->host, p->seq, &v); break;
	case 2: r = write ? raw_st16(c, p->host, p->seq, v) : raw_ld16(c, p->host, p->seq, &v); break;
	case 4: r = write ? raw_st32(c, p->host, p->seq, v) : raw_ld32(c, p->host, p->seq, &v); break;
	default: r = write ? raw_st64(c, p->host, p->seq, v) : raw_ld64(c, p->host, p->seq, &v); break;
	}
	if (!write && r == RAW_OK)
		memcpy(buf, &v, p->len);
	return r;
}

static bool is_word(const struct piece *p)
{
	return p->len == 1 || p->len == 2 || p->len == 4 || p->len == 8;
}

/* One piece, read or written; RAW_MOVED after a revocation (words: nothing done; others: repeatable). */
static enum raw raw_piece(struct engine_cpu *c, struct piece *p, uint8_t *buf, bool write)
{
	long left;

	if (is_word(p))
		return raw_word(c, p, buf, write);
	left = write ? raw_copy(c, p->host, buf, p->len, p->seq) : raw_copy(c, buf, p->host, p->len, p->seq);
	return left < 0 ? RAW_BAD : left ? RAW_MOVED : RAW_OK;
}

void access_told(struct engine_cpu *c, uint64_t gpa, const void *data, unsigned len)
{
	port_enter(c);
	c->port->tracked(c->ctx, gpa, data, len);
	port_leave(c);
}

static inline void piece_told(struct engine_cpu *c, const struct piece *p, const void *data)
{
	if (unlikely(p->tracked))
		access_told(c, p->gpa, data, p->len);
}

/* What `new` did to a span of RAM, after it was written. */
static void span_told(struct engine_cpu *c, const struct span *s, const void *new)
{
	for (unsigned k = 0; k < s->n; k++) {
		piece_told(c, &s->p[k], new);
		new = (const uint8_t *)new + s->p[k].len;
	}
}

/* As raw_piece, but translates again after a revocation and asks the device where there is no RAM. */
static void piece_io(struct engine_cpu *c, struct piece *p, unsigned acc, uint8_t *buf, bool write)
{
	for (;;) {
		if (!p->host) {
			mmio(c, p->gpa, buf, p->len, write);
			return;
		}
		switch (raw_piece(c, p, buf, write)) {
		case RAW_OK:
			if (write)
				piece_told(c, p, buf);
			return;
		case RAW_BAD: access_bad(c);
		default: piece_translate(c, p, acc); /* RAW_MOVED */
		}
	}
}

/* RAW_BAD if one of a span's two pages has no host memory to write to: nothing is written to the other then.
 */
static enum raw span_touch(struct engine_cpu *c, const struct span *s)
{
	enum raw r = RAW_OK;

	if (s->n == 1 || !s->p[0].host || !s->p[1].host)
		return RAW_OK;
	for (unsigned k = 0; k < 2 && r == RAW_OK; k++)
		r = raw_touch(c, s->p[k].host, s->p[k].seq);
	return r;
}

static void span_io(struct engine_cpu *c, struct span *s, void *buf, bool write)
{
	uint8_t *b = buf;

	if (write && unlikely(span_touch(c, s) == RAW_BAD))
		access_bad(c);
	for (unsigned k = 0; k < s->n; k++) {
		struct piece *p = &s->p[k];

		if (!write && (s->acc & ACC_WRITE) && !p->host) {
			/* The read half of a read-modify-write: read-only memory can be read. */
			struct piece r = *p;

			piece_translate(c, &r, s->acc & ACC_SYS);
			piece_io(c, &r, s->acc & ACC_SYS, b, false);
		} else {
			piece_io(c, p, s->acc, b, write);
		}
		b += p->len;
	}
}

/* -- Plain accesses -- */

/* The commonest case: one page of RAM that the translation cache knows, which it does not if anybody is to hear of the
 * access or check it. False: nothing was done. */
static bool quick_io(struct engine_cpu *c, uint64_t lin, void *buf, unsigned len, unsigned acc)
{
	struct piece p = {.len = len};
	struct place at;

	if (len - 1 > (~lin & PAGE_OFFSET_MASK) || !mmu_known(c, lin, acc, &at))
		return false;
	p.host = at.host;
	p.seq = at.seq;
	return raw_piece(c, &p, buf, acc & ACC_WRITE) == RAW_OK;
}

static uint64_t ld(struct engine_cpu *c, uint64_t lin, unsigned size, unsigned acc)
{
	struct span s;
	uint64_t v = 0;

	if (quick_io(c, lin, &v, size, ACC_READ | acc))
		return v;
	span_resolve(c, &s, lin, size, ACC_READ | acc);
	span_io(c, &s, &v, false);
	return v;
}

static void st(struct engine_cpu *c, uint64_t lin, uint64_t val, unsigned size, unsigned acc)
{
	struct span s;

	if (quick_io(c, lin, &val, size, ACC_WRITE | acc))
		return;
	span_resolve(c, &s, lin, size, ACC_WRITE | acc);
	span_io(c, &s, &val, true);
}

static void check_canonical(struct engine_cpu *c, const struct insn *i, uint64_t lin, unsigned size)
{
	if (unlikely(!is_canonical(lin) || !is_canonical(lin + size - 1)))
		raise_seg(c, i ? i->seg : DS);
}

uint64_t access_ld(struct engine_cpu *c, const struct insn *i, uint64_t lin, unsigned size)
{
	check_canonical(c, i, lin, size);
	return ld(c, lin, size, 0);
}

void access_st(struct engine_cpu *c, const struct insn *i, uint64_t lin, uint64_t val, unsigned size)
{
	check_canonical(c, i, lin, size);
	st(c, lin, val, size, 0);
}

uint64_t guest_ld(struct engine_cpu *c, uint64_t lin, unsigned size)
{
	return mem_ld(c, NULL, lin, size);
}

void guest_st(struct engine_cpu *c, uint64_t lin, uint64_t val, unsigned size)
{
	mem_st(c, NULL, lin, val, size);
}

uint64_t guest_ld_sys(struct engine_cpu *c, uint64_t lin, unsigned size)
{
	return ld(c, lin, size, ACC_SYS);
}

void guest_st_sys(struct engine_cpu *c, uint64_t lin, uint64_t val, unsigned size)
{
	st(c, lin, val, size, ACC_SYS);
}

/* Walks [lin, lin + len) in spans of at most a page, so of at most two pieces. */
static void bulk(struct engine_cpu *c, uint64_t lin, uint8_t *buf, unsigned len, bool write)
{
	struct span s;

	if (quick_io(c, lin, buf, len, write ? ACC_WRITE : ACC_READ))
		return;
	while (len) {
		unsigned n = MIN(len, (unsigned)PAGE_SIZE);

		span_resolve(c, &s, lin, n, (write ? ACC_WRITE : ACC_READ) | ACC_ANY);
		span_io(c, &s, buf, write);
		lin += n;
		buf += n;
		len -= n;
	}
}

void guest_read(struct engine_cpu *c, uint64_t lin, void *buf, unsigned len)
{
	bulk(c, lin, buf, len, false);
}

void guest_write(struct engine_cpu *c, uint64_t lin, const void *buf, unsigned len)
{
	if (len > PAGE_SIZE)
		guest_probe(c, lin, len, true);
	bulk(c, lin, (uint8_t *)(uintptr_t)buf, len, true);
}

void guest_probe(struct engine_cpu *c, uint64_t lin, unsigned len, bool write)
{
	struct place at;
	struct span s;

	if (len - 1 <= (~lin & PAGE_OFFSET_MASK) && mmu_known(c, lin, write ? ACC_WRITE : ACC_READ, &at))
		return;
	while (len) {
		unsigned n = MIN(len, (unsigned)PAGE_SIZE);

		span_resolve(c, &s, lin, n, (write ? ACC_WRITE : ACC_READ) | ACC_ANY);
		lin += n;
		len -= n;
	}
}

/* -- Locked operations -- */

/* The range as one piece of host memory: it is one, or its two pages lie together in host memory. */
static bool span_joined(struct span *s)
{
	if (s->n == 1)
		return s->p[0].host != NULL;
	return s->p[0].host && s->p[1].host == s->p[0].host + s->p[0].len && s->p[1].seq == s->p[0].seq;
}

static bool span_ram(const struct span *s)
{
	return s->p[0].host && (s->n == 1 || s->p[1].host);
}

/* Two pieces of RAM apart from each other, with every other cpu of the VM standing still. */
static enum raw rmw_frozen(struct engine_cpu *c, struct span *s, rmw_fn fn, uint64_t src, uint64_t *old,
			   uint64_t *flags)
{
	struct piece *lo = &s->p[0], *hi = &s->p[1];
	uint8_t buf[8] = {0};
	uint64_t new;
	enum raw r, first = RAW_OK, half = RAW_OK;

	stop_world(c);
	r = span_touch(c, s);
	if (r == RAW_OK)
		r = raw_piece(c, lo, buf, false);
	if (r == RAW_OK)
		r = raw_piece(c, hi, buf + lo->len, false);
	if (r == RAW_OK) {
		memcpy(old, buf, 8);
		*flags = c->rflags;
		new = fn(*old, src, flags);
		memcpy(buf, &new, 8);
		r = raw_piece(c, lo, buf, true);
		if (r == RAW_MOVED && !is_word(lo)) { /* a part of it may be written: no way back */
			first = half = RAW_MOVED;
			r = RAW_OK;
		} else if (r == RAW_OK) {
			half = raw_piece(c, hi, buf + lo->len, true);
		}
	}
	resume_world(c);
	if (r != RAW_OK)
		return r;
	if (first != RAW_OK)
		piece_io(c, lo, s->acc, buf, true);
	else
		piece_told(c, lo, buf);
	if (half != RAW_OK) /* revoked between the halves: the second one is owed */
		piece_io(c, hi, s->acc, buf + lo->len, true);
	else
		piece_told(c, hi, buf + lo->len);
	return r;
}

/* One locked read-modify-write on RAM. RAW_MOVED: nothing was done, start over. */
static enum raw rmw_locked(struct engine_cpu *c, struct span *s, unsigned size, rmw_fn fn, uint64_t src,
			   uint64_t *old, uint64_t *flags)
{
	if (!span_joined(s))
		return rmw_frozen(c, s, fn, src, old, flags);
	for (*old = 0;;) {
		uint64_t seen = *old, new;
		enum raw r;

		*flags = c->rflags;
		new = fn(*old, src, flags);
		r = raw_cas(c, s->p[0].host, s->p[0].seq, &seen, new, size);
		if (r != RAW_OK)
			return r;
		if (seen == *old) {
			span_told(c, s, &new);
			return r;
		}
		*old = seen;
	}
}

static uint64_t rmw(struct engine_cpu *c, uint64_t lin, unsigned size, rmw_fn fn, uint64_t src, bool locked,
		    unsigned acc)
{
	uint64_t old = 0, flags, new;
	struct span s;

	for (;;) {
		span_resolve(c, &s, lin, size, ACC_WRITE | acc);
		if (locked && span_ram(&s)) {
			enum raw r = rmw_locked(c, &s, size, fn, src, &old, &flags);

			if (r == RAW_BAD)
				access_bad(c);
			if (r == RAW_MOVED)
				continue;
			c->rflags = flags;
			return old;
		}
		span_io(c, &s, &old, false);
		flags = c->rflags;
		new = fn(old, src, &flags);
		span_io(c, &s, &new, true);
		c->rflags = flags;
		return old;
	}
}

uint64_t access_rmw(struct engine_cpu *c, const struct insn *i, uint64_t lin, unsigned size, rmw_fn fn,
		    uint64_t src, bool locked)
{
	check_canonical(c, i, lin, size);
	return rmw(c, lin, size, fn, src, locked, 0);
}

/* rmw_fn: src is the mask for AND, and the one for OR above it. */
static uint64_t and_or_fn(uint64_t old, uint64_t src, uint64_t *rflags)
{
	return (old & (src & 0xff)) | src >> 8;
}

void access_rmw8_sys(struct engine_cpu *c, uint64_t lin, uint8_t and, uint8_t or)
{
	rmw(c, lin, 1, and_or_fn, and | (uint64_t) or << 8, true, ACC_SYS);
}

struct cas {
	uint64_t expect, val;
};

/* rmw_fn of a compare-exchange; src points to the operands. */
static uint64_t cas_fn(uint64_t old, uint64_t src, uint64_t *rflags)
{
	const struct cas *a = (const struct cas *)(uintptr_t)src;

	return old == a->expect ? a->val : old;
}

bool guest_cmpxchg(struct engine_cpu *c, uint64_t lin, uint64_t *old, uint64_t val, unsigned size)
{
	uint64_t mask = size == 8 ? ~0ULL : BIT(size * 8) - 1;
	struct cas a = {*old & mask, val & mask};
	uint64_t seen = access_rmw(c, NULL, lin, size, cas_fn, (uintptr_t)&a, true);

	*old = seen;
	return seen == a.expect;
}

bool guest_cmpxchg16(struct engine_cpu *c, uint64_t lin, uint64_t old[2], const uint64_t val[2])
{
	uint64_t expect[2] = {old[0], old[1]}, seen[2];
	struct span s;
	enum raw r;

	for (;;) {
		span_resolve(c, &s, lin, 16, ACC_WRITE | ACC_ANY);
		if (!span_ram(&s) || s.n != 1)
			break;
		seen[0] = expect[0];
		seen[1] = expect[1];
		r = raw_cas128(c, s.p[0].host, s.p[0].seq, seen, val);
		if (r == RAW_BAD)
			access_bad(c);
		if (r == RAW_OK) {
			bool equal = seen[0] == expect[0] && seen[1] == expect[1];

			span_told(c, &s, equal ? val : seen);
			goto out;
		}
	}
	/* A device: aligned callers never straddle. */
	span_io(c, &s, seen, false);
	if (seen[0] == expect[0] && seen[1] == expect[1])
		span_io(c, &s, (void *)(uintptr_t)val, true);
out:
	old[0] = seen[0];
	old[1] = seen[1];
	return seen[0] == expect[0] && seen[1] == expect[1];
}
