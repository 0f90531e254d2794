/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which way the guest goes, and which of its accesses lie beside each other: see jit_trace.h. */
#include "engine/jit_trace.h"

/* -- The path -- */

static bool same_page(uint64_t a, uint64_t b)
{
	return !((a ^ b) >> PAGE_SHIFT);
}

/* A near branch to an address that the instruction holds. */
static bool is_relative(const struct trace_insn *i)
{
	const ZydisDecodedOperand *o = &i->d.op[0];

	return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative &&
	       i->d.in.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
}

bool trace_is_jcc(const struct trace_insn *i)
{
	unsigned op = i->d.in.opcode;

	return is_relative(i) && ((i->d.in.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && op >> 4 == 7) ||
				  (i->d.in.opcode_map == ZYDIS_OPCODE_MAP_0F && op >> 4 == 8));
}

bool trace_is_near_ret(const struct trace_insn *i)
{
	return i->d.in.mnemonic == ZYDIS_MNEMONIC_RET && (i->d.in.opcode == 0xc3 || i->d.in.opcode == 0xc2);
}

/* JMP or CALL, not far, through a register or memory in 64-bit mode. */
static bool is_indirect(const struct trace_insn *i)
{
	return i->d.in.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && i->d.in.opcode == 0xff &&
	       (i->d.in.raw.modrm.reg == 2 || i->d.in.raw.modrm.reg == 4) && !(i->key & JIT_KEY_MODE);
}

/* Seen taken more often than the trace was begun by half, or else backwards. */
static bool expect_taken(struct jit *j, const struct trace *t, const struct trace_insn *i)
{
	unsigned start = *jit_heat(j, t->insn[0].rip), there = *jit_heat(j, i->target);

	if (start)
		return there * 2 >= start;
	return i->target <= i->rip;
}

/* Behind what certainly goes elsewhere, or changes what blocks depend on, no code is worth translating. */
static bool leads_away(const struct trace_insn *i)
{
	switch (i->d.in.meta.category) {
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_INTERRUPT: return true;
	default:
		return i->d.in.mnemonic == ZYDIS_MNEMONIC_UD2 || i->d.in.mnemonic == ZYDIS_MNEMONIC_STAC ||
		       i->d.in.mnemonic == ZYDIS_MNEMONIC_CLAC;
	}
}

#define ELSEWHERE JIT_NO_ADDEND /* no address */
struct path {
	uint64_t back[TRACE_CALLS]; /* return addresses of followed calls */
	unsigned calls;
};

/* A store to where the return address of the call before it lies, as in a retpoline: the return leads elsewhere. */
static bool replaces_return(const struct trace *t, const struct trace_insn *i)
{
	const ZydisDecodedOperand *o = &i->d.op[0];

	return t->n && t->insn[t->n - 1].way == WAY_TAKEN &&
	       t->insn[t->n - 1].d.in.meta.category == ZYDIS_CATEGORY_CALL &&
	       o->type == ZYDIS_OPERAND_TYPE_MEMORY && jit_writes(o) && o->mem.base == ZYDIS_REGISTER_RSP &&
	       o->mem.index == ZYDIS_REGISTER_NONE && !o->mem.disp.value;
}

/* The trace may go on there: it names its places by 32 bits. */
static bool is_beside(const struct trace *t, uint64_t target)
{
	int64_t distance = (int64_t)(target - t->insn[0].rip);

	return is_canonical(target) && distance == (int32_t)distance &&
	       (!t->alone || same_page(target, t->insn[0].rip));
}

static enum trace_way way_of(struct jit *j, const struct trace *t, struct trace_insn *i, struct path *p)
{
	bool near = false;

	if (is_relative(i)) {
		i->target = t->key & JIT_KEY_MODE ? jit_mode_target(t, i) : i->next + i->d.op[0].imm.value.u;
		near = is_beside(t, i->target);
	}
	if (p->calls && replaces_return(t, i))
		p->back[p->calls - 1] = ELSEWHERE;
	if (trace_is_jcc(i))
		return near && expect_taken(j, t, i) ? WAY_TAKEN : WAY_ON;
	if (!leads_away(i))
		return WAY_ON;
	if (is_indirect(i)) {
		i->target = jit_led_to(j, i->rip);
		near = is_beside(t, i->target);
	}
	if (near && i->d.in.meta.category == ZYDIS_CATEGORY_UNCOND_BR)
		return WAY_TAKEN;
	if (near && i->d.in.meta.category == ZYDIS_CATEGORY_CALL && p->calls < TRACE_CALLS) {
		p->back[p->calls++] = i->next;
		return WAY_TAKEN;
	}
	if (trace_is_near_ret(i) && (i->d.in.operand_width == 64 || t->key & JIT_KEY_MODE) && p->calls) {
		i->target = p->back[--p->calls];
		return i->target == ELSEWHERE ? WAY_END : WAY_BACK;
	}
	return WAY_END;
}

/* The trace's page of an address, read if it is a new one; NULL: there is none. */
static struct trace_page *page_of(struct engine_cpu *c, struct trace *t, uint64_t rip)
{
	struct trace_page *page = &t->page[t->npages];
	struct place p;

	for (unsigned k = 0; k < t->npages; k++)
		if (same_page(rip, t->page[k].lin))
			return &t->page[k];
	if (t->alone || t->npages == JIT_BLOCK_PAGES || !is_canonical(rip) ||
	    !mmu_try_fetch(c, rip & ~PAGE_OFFSET_MASK, &p) ||
	    raw_copy(c, page->bytes, p.host, PAGE_SIZE, p.seq))
		return NULL;
	page->lin = rip & ~PAGE_OFFSET_MASK;
	page->host = p.host;
	page->global = jit_is_global(c, rip);
	t->npages++;
	return page;
}

/* Adds bytes to those that the trace was made from; false: in too many places. */
static bool cover(struct trace *t, unsigned page, unsigned off, unsigned len)
{
	struct jit_range *r = t->nranges ? &t->range[t->nranges - 1] : NULL;

	if (r && r->page == page && r->off + r->len == off) {
		r->len = (uint16_t)(r->len + len);
		return true;
	}
	for (unsigned k = 0; k < t->nranges; k++)
		if (t->range[k].page == page && off >= t->range[k].off &&
		    off + len <= t->range[k].off + t->range[k].len)
			return true;
	if (t->nranges == JIT_RANGES)
		return false;
	t->range[t->nranges++] = (struct jit_range){(uint16_t)off, (uint16_t)len, (uint8_t)page};
	return true;
}

/* Those of the instruction: on one page or two, which decode has read. */
static bool cover_insn(struct engine_cpu *c, struct trace *t, const struct trace_insn *i)
{
	unsigned off = i->rip & PAGE_OFFSET_MASK, len = (unsigned)(i->next - i->rip);
	unsigned first = MIN(len, (unsigned)PAGE_SIZE - off);

	return cover(t, (unsigned)(page_of(c, t, i->rip) - t->page), off, first) &&
	       (first == len || cover(t, (unsigned)(page_of(c, t, i->next) - t->page), 0, len - first));
}

/* Decodes the instruction at i->rip; false: it is not whole. */
static bool decode(struct engine_cpu *c, struct trace *t, struct trace_insn *i)
{
	const struct trace_page *page = page_of(c, t, i->rip), *behind;
	unsigned at = i->rip & PAGE_OFFSET_MASK, here = MIN((unsigned)PAGE_SIZE - at, 15U);
	const ZydisDecoder *dec = decode_machine(c);

	if (!page)
		return false;
	i->bytes = page->bytes + at;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(dec, i->bytes, here, &i->d.in, i->d.op))) {
		behind = here < 15 ? page_of(c, t, i->rip + here) : NULL;
		if (!behind)
			return false;
		memcpy(i->joined, i->bytes, here);
		memcpy(i->joined + here, behind->bytes, 15 - here);
		i->bytes = i->joined;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(dec, i->bytes, 15, &i->d.in, i->d.op)))
			return false;
	}
	i->next = i->rip + i->d.in.length;
	return true;
}

/* True if the trace may go on at rip. The loop that it is gets unrolled; another one begins its own trace. */
static bool may_follow(struct trace *t, uint64_t rip)
{
	if (t->n == (t->key & JIT_KEY_MODE ? JIT_BLOCK_MAX / 2 : JIT_BLOCK_MAX))
		return false;
	if (t->n && rip == t->insn[0].rip) {
		t->unrolled = true;
		return t->n < TRACE_UNROLLED;
	}
	for (unsigned k = 1; k < t->n && !t->unrolled; k++)
		if (t->insn[k].rip == rip)
			return false;
	return true;
}

static void collect(struct engine_cpu *c, struct trace *t)
{
	struct path p = {.calls = 0};
	uint64_t rip = jit_lin(c);

	t->key = (uint16_t)jit_key(c);
	t->base = jit_base(c);
	t->unrolled = false;
	for (t->n = t->nranges = 0; (t->end = rip, may_follow(t, rip)); t->n++) {
		struct trace_insn *i = &t->insn[t->n];

		i->rip = rip;
		i->key = t->key;
		if (!decode(c, t, i))
			return;
		if (t->key & JIT_KEY_MODE) {
			if (!jit_mode_fits(t, i))
				return;
			jit_mode_respell(&i->d);
		}
		if (!cover_insn(c, t, i))
			return;
		i->way = way_of(c->jit, t, i, &p);
		rip = i->way == WAY_ON || i->way == WAY_END ? i->next : i->target;
		if (i->way == WAY_END) {
			t->end = rip;
			t->n++;
			return;
		}
	}
}

/* -- Accesses -- */

bool trace_address(const struct trace_insn *i, const ZydisDecodedOperand *o, struct address *a)
{
	const ZydisDecodedInstruction *in = &i->d.in;

	*a = (struct address){.base = -1, .index = -1};
	if ((in->address_width != 64 && !(i->key & JIT_KEY_MODE)) ||
	    o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
	    (o->mem.type != ZYDIS_MEMOP_TYPE_MEM && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN))
		return false;
	a->disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
	if (o->mem.base == ZYDIS_REGISTER_RIP) {
		a->disp += (int64_t)i->next;
		a->absolute = true;
	} else {
		a->base = decode_gpr_number(o->mem.base);
		a->index = decode_gpr_number(o->mem.index);
		if ((in->attributes & ZYDIS_ATTRIB_HAS_SIB) && !in->raw.modrm.mod && in->raw.sib.base == 5) {
			a->base = -1;
			a->disp = in->raw.disp.value;
		}
		a->absolute = a->base < 0 && a->index < 0;
	}
	a->scale = o->mem.scale ? (unsigned)__builtin_ctz(o->mem.scale) : 0;
	if (i->key & JIT_KEY_MODE) {
		a->width = (uint8_t)in->address_width;
		jit_mode_segment(i->key, (unsigned)(o->mem.segment - ZYDIS_REGISTER_ES), a);
		return true;
	}
	if (o->mem.segment == ZYDIS_REGISTER_FS)
		a->seg = CPU_OFF(seg[FS].base);
	if (o->mem.segment == ZYDIS_REGISTER_GS)
		a->seg = CPU_OFF(seg[GS].base);
	return true;
}

static void access_add(struct trace_insn *i, const struct address *a, unsigned size, bool write)
{
	if (size && size <= 64)
		i->access[i->naccess++] =
		    (struct trace_access){.a = *a, .size = size, .write = write, .group = NO_GROUP};
}

unsigned trace_stack_step(const struct trace_insn *i)
{
	const unsigned flat = JIT_KEY_FLAT | JIT_KEY_STACK32;

	if (!(i->key & JIT_KEY_MODE))
		return i->d.in.operand_width == 64 ? 8 : 0;
	return (i->key & flat) == flat && i->d.in.operand_width == 32 ? 4 : 0;
}

static void access_stack(struct trace_insn *i, int base, int64_t disp, bool write)
{
	struct address a = {.base = base, .index = -1, .disp = disp};

	if (i->key & JIT_KEY_MODE)
		a = jit_mode_stack(i->key, base, (int32_t)disp);
	access_add(i, &a, trace_stack_step(i), write);
}

/* BT and its like with a register index: the access is not where the operand says. */
static bool is_bit_string(const ZydisDecodedInstruction *in)
{
	return in->opcode_map == ZYDIS_OPCODE_MAP_0F &&
	       (in->opcode == 0xa3 || in->opcode == 0xab || in->opcode == 0xb3 || in->opcode == 0xbb);
}

/* The accesses as jit_op will ask for them. */
static void find_accesses(struct trace_insn *i)
{
	const ZydisDecodedInstruction *in = &i->d.in;
	struct address a;

	i->naccess = 0;
	if (in->mnemonic != ZYDIS_MNEMONIC_LEA && !is_bit_string(in) &&
	    in->meta.category != ZYDIS_CATEGORY_PREFETCH && in->meta.category != ZYDIS_CATEGORY_WIDENOP)
		for (unsigned k = 0; k < in->operand_count && !i->naccess; k++) {
			const ZydisDecodedOperand *o = &i->d.op[k];

			if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && trace_address(i, o, &a))
				access_add(i, &a, o->size / 8, jit_writes(o));
		}
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_CALL: access_stack(i, RSP, -(int64_t)trace_stack_step(i), true); break;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_RET: access_stack(i, RSP, 0, false); break;
	case ZYDIS_MNEMONIC_LEAVE: access_stack(i, RBP, 0, false); break;
	default: break;
	}
}

/* -- What is known of a register: a value that has a number, and a constant beside it -- */

#define NO_VALUE UINT32_MAX

struct known {
	struct {
		uint32_t value;
		int64_t off;
	} gpr[GPRS];
	uint32_t values;
};

static void forget(struct known *w, int n)
{
	w->gpr[n].value = w->values++;
	w->gpr[n].off = 0;
}

/* Flat 32-bit code's values are taken modulo 4 GiB. */
static int whole(const struct trace_insn *i, const ZydisDecodedOperand *o)
{
	unsigned size = i->key & JIT_KEY_MODE ? 32 : 64;

	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->size == size ? decode_gpr_number(o->reg.value)
									 : -1;
}

/* An instruction that adds a constant to a register, or copies one: true, and *from, *add. */
static bool is_sum(const struct trace_insn *i, int *to, int *from, int64_t *add)
{
	const ZydisDecodedOperand *o = i->d.op;
	struct address a;

	*to = whole(i, &o[0]);
	*from = *to;
	*add = 0;
	if (*to < 0)
		return false;
	switch (i->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_INC: *add = 1; return true;
	case ZYDIS_MNEMONIC_DEC: *add = -1; return true;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (o[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return false;
		*add = i->d.in.mnemonic == ZYDIS_MNEMONIC_ADD ? o[1].imm.value.s : -o[1].imm.value.s;
		return true;
	case ZYDIS_MNEMONIC_MOV: *from = whole(i, &o[1]); return *from >= 0;
	case ZYDIS_MNEMONIC_LEA:
		if (!trace_address(i, &o[1], &a) || a.absolute || a.index >= 0 || a.width == 16)
			return false;
		*from = a.base;
		*add = a.disp;
		return true;
	default: return false;
	}
}

/* PUSH, POP, CALL, RET, LEAVE in their usual form: what they do to RSP is known. */
static bool moves_stack(const struct trace_insn *i)
{
	ZydisMnemonic m = i->d.in.mnemonic;

	return trace_stack_step(i) &&
	       (m == ZYDIS_MNEMONIC_PUSH || m == ZYDIS_MNEMONIC_PUSHFQ || m == ZYDIS_MNEMONIC_PUSHFD ||
		m == ZYDIS_MNEMONIC_POP || m == ZYDIS_MNEMONIC_CALL || m == ZYDIS_MNEMONIC_RET ||
		m == ZYDIS_MNEMONIC_LEAVE);
}

static void learn(struct known *w, const struct trace_insn *i)
{
	int64_t add, step = trace_stack_step(i);
	int to, from;

	if (is_sum(i, &to, &from, &add)) {
		w->gpr[to].value = w->gpr[from].value;
		w->gpr[to].off = w->gpr[from].off + add;
		return;
	}
	/* Before the operands: of POP and LEAVE the stack pointer's way is known, and POP may write it. */
	if (moves_stack(i) && i->d.in.mnemonic == ZYDIS_MNEMONIC_LEAVE)
		w->gpr[RSP] = w->gpr[RBP];
	for (unsigned k = 0; k < i->d.in.operand_count; k++) {
		const ZydisDecodedOperand *o = &i->d.op[k];
		int n = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? decode_gpr_number(o->reg.value) : -1;

		if (n >= 0 && jit_writes(o) &&
		    (n != RSP || o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT || !moves_stack(i)))
			forget(w, n >= 16 ? n - 16 : n);
	}
	if (!moves_stack(i))
		return;
	switch (i->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_CALL: w->gpr[RSP].off -= step; break;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_LEAVE: w->gpr[RSP].off += step; break;
	default: w->gpr[RSP].off += step + (i->d.in.opcode == 0xc2 ? (int64_t)i->d.op[0].imm.value.u : 0);
	}
}

/* -- Groups -- */

/* The group's key and the access's place in it. */
static struct trace_group key_of(const struct known *w, struct trace_access *x)
{
	const struct address *a = &x->a;
	struct trace_group g = {.base = NO_VALUE, .index = NO_VALUE, .seg = a->seg};

	x->off = a->disp;
	if (a->base >= 0) {
		g.base = w->gpr[a->base].value;
		x->off += w->gpr[a->base].off;
	}
	if (a->index >= 0) {
		g.index = w->gpr[a->index].value;
		g.scale = a->scale;
		x->off += (int64_t)((uint64_t)w->gpr[a->index].off << a->scale);
	}
	if (a->width)
		x->off = (int32_t)x->off;
	g.lo = x->off;
	g.hi = x->off + x->size;
	g.write = x->write;
	return g;
}

static bool joins(const struct trace_group *g, const struct trace_group *k)
{
	int64_t lo = MIN(g->lo, k->lo), hi = MAX(g->hi, k->hi);

	if (g->base != k->base || g->index != k->index || g->scale != k->scale || g->seg != k->seg ||
	    hi - lo > TRACE_SPAN)
		return false;
	/* A place that is known lies in one page or does not. */
	return g->base != NO_VALUE || g->index != NO_VALUE || g->seg ||
	       same_page((uint64_t)lo, (uint64_t)hi - 1);
}

static void group_access(struct trace *t, const struct known *w, struct trace_access *x)
{
	struct trace_group k = key_of(w, x);

	for (unsigned n = t->ngroups; n--;) {
		struct trace_group *g = &t->group[n];

		if (!joins(g, &k))
			continue;
		g->lo = MIN(g->lo, k.lo);
		g->hi = MAX(g->hi, k.hi);
		g->write |= k.write;
		g->members++;
		x->group = (int)n;
		return;
	}
	if (t->ngroups == TRACE_GROUPS)
		return;
	k.members = 1;
	x->group = (int)t->ngroups;
	t->group[t->ngroups++] = k;
}

/* What the interpreter does here may change segments, or registers that no operand names. */
static bool unknown(const struct trace_insn *i)
{
	switch (i->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_RDTSC: return false;
	default: break;
	}
	if (i->key & JIT_KEY_MODE && jit_mode_unknown(i))
		return true;
	switch (i->d.in.meta.category) {
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_STRINGOP:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_SYSTEM: return true;
	default: break;
	}
	return i->d.in.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED ||
	       i->d.in.meta.isa_ext == ZYDIS_ISA_EXT_RDWRFSGS ||
	       (i->d.op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && i->d.op[0].reg.value >= ZYDIS_REGISTER_ES &&
		i->d.op[0].reg.value <= ZYDIS_REGISTER_GS);
}

/* No access joins an earlier one from here on. */
static void forget_all(struct known *w)
{
	for (int n = 0; n < GPRS; n++)
		forget(w, n);
}

void trace_make(struct engine_cpu *c, struct trace *t, bool plain)
{
	struct known w = {.values = 0};
	uint32_t segs = 0;

	collect(c, t);
	t->ngroups = 0;
	forget_all(&w);
	for (unsigned k = 0; k < t->n; k++) {
		struct trace_insn *i = &t->insn[k];

		find_accesses(i);
		if (unknown(i)) {
			forget_all(&w);
			segs++;
		}
		for (unsigned x = 0; x < i->naccess && !plain; x++)
			if ((!i->access[x].a.seg || !segs) && !i->access[x].a.check &&
			    i->access[x].a.width != 16)
				group_access(t, &w, &i->access[x]);
		learn(&w, i);
	}
	for (unsigned k = 0; k < t->n; k++)
		for (unsigned x = 0; x < t->insn[k].naccess; x++) {
			struct trace_access *a = &t->insn[k].access[x];

			if (a->group != NO_GROUP && t->group[a->group].members < 2)
				a->group = NO_GROUP;
		}
}
