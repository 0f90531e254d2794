/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One guest instruction to host code. The rule is "copy, do not lift": prefixes, opcode and immediate stay, the
 * register fields name other registers, and a memory operand is what jit_access says.
 */
#include "engine/jit_emit.h"

/* Host register of a guest's; -1: in struct engine_cpu. */
static const int8_t host_of[16] = {H_RAX, H_GUEST_RCX, H_RDX, H_RBX, H_GUEST_RSP, H_RBP, H_RSI, H_RDI,
				   H_R8,  H_R9,	       H_R10, H_R11, -1,	  -1,	 -1,	-1};

#define GPR_OFF(n) ((uint32_t)(offsetof(struct engine_cpu, gpr) + 8 * (n)))

void jit_op_call(struct making *m)
{
	struct jit_site *s = jit_site_new(m, SITE_CALL, 0);

	s->slow = s->start;
	e_leave(&m->e, (uint32_t)(s - m->j->site), JIT_OFF(slow_thunk));
}

/* -- Registers -- */

int jit_host_of(int n)
{
	return host_of[n];
}

/* AH..BH cannot be named beside a REX prefix: they come to a temp, and are put back by turning their register. */
static unsigned high_in(struct making *m, int n, unsigned temp)
{
	e_rorx(&m->e, temp, (unsigned)host_of[n - 16], 8);
	return temp;
}

static void high_out(struct making *m, int n, unsigned temp)
{
	unsigned host = (unsigned)host_of[n - 16];

	e_rorx(&m->e, host, host, 8);
	e_mov8(&m->e, host, temp);
	e_rorx(&m->e, host, host, 64 - 8);
}

/* A host register that holds guest register n: its own, or `temp` after a load. */
unsigned jit_reg_in(struct making *m, int n, unsigned temp)
{
	if (n >= 16)
		return high_in(m, n, temp);
	if (host_of[n] >= 0)
		return (unsigned)host_of[n];
	e_gs(&m->e, OP_MOV_LOAD, true, temp, GPR_OFF(n));
	return temp;
}

void jit_reg_out(struct making *m, int n, unsigned temp)
{
	if (n >= 16)
		high_out(m, n, temp);
	else if (host_of[n] < 0)
		e_gs(&m->e, OP_MOV_STORE, true, temp, GPR_OFF(n));
}

bool jit_in_memory(int n)
{
	return n >= 16 || host_of[n] < 0;
}

struct operands {
	const ZydisDecodedOperand *reg, *rm, *opc, *mem;
	bool cl; /* shifts by CL */
};

static bool is_shift(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_SHL || m == ZYDIS_MNEMONIC_SHR || m == ZYDIS_MNEMONIC_SAR ||
	       m == ZYDIS_MNEMONIC_ROL || m == ZYDIS_MNEMONIC_ROR || m == ZYDIS_MNEMONIC_RCL ||
	       m == ZYDIS_MNEMONIC_RCR || m == ZYDIS_MNEMONIC_SHLD || m == ZYDIS_MNEMONIC_SHRD;
}

static bool sort_register(const struct making *m, const ZydisDecodedOperand *o, struct operands *ops)
{
	ZydisRegister r = o->reg.value;
	int n = decode_gpr_number(r);

	if (r == ZYDIS_REGISTER_RFLAGS || r == ZYDIS_REGISTER_EFLAGS || r == ZYDIS_REGISTER_FLAGS)
		return true;
	if (n < 0)
		return false;
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG: ops->reg = o; return true;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM: ops->rm = o; return true;
	case ZYDIS_OPERAND_ENCODING_OPCODE: ops->opc = o; return true;
	case ZYDIS_OPERAND_ENCODING_NONE:
		if (n == RCX && r == ZYDIS_REGISTER_CL && is_shift(m->d.in.mnemonic)) {
			ops->cl = true;
			return true;
		}
		return host_of[n & 15] == (n & 15);
	default: return false;
	}
}

/* True if every operand is of a kind that a copy can rename. */
static bool sort_operands(const struct making *m, struct operands *ops)
{
	*ops = (struct operands){0};
	for (unsigned k = 0; k < m->d.in.operand_count; k++) {
		const ZydisDecodedOperand *o = &m->d.op[k];

		switch (o->type) {
		case ZYDIS_OPERAND_TYPE_REGISTER:
			if (!sort_register(m, o, ops))
				return false;
			break;
		case ZYDIS_OPERAND_TYPE_MEMORY: ops->mem = o; break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE:
			if (o->imm.is_relative)
				return false;
			break;
		default: return false;
		}
	}
	return true;
}

/* The renamed host register of an operand; loads what lives in memory into `temp`. */
static unsigned rename_in(struct making *m, const ZydisDecodedOperand *o, unsigned temp)
{
	return jit_reg_in(m, decode_gpr_number(o->reg.value), temp);
}

/* The same, but for the destination of a move that fills it: what that held before does not matter. */
static unsigned rename_operand(struct making *m, const ZydisDecodedOperand *o, unsigned temp)
{
	switch (m->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
		if (jit_writes(o) && o->size >= 32 && jit_in_memory(decode_gpr_number(o->reg.value)))
			return temp;
		break;
	default: break;
	}
	return rename_in(m, o, temp);
}

/* Stores back what a temp held. */
static void rename_out(struct making *m, const ZydisDecodedOperand *o, unsigned temp)
{
	if (o && jit_writes(o))
		jit_reg_out(m, decode_gpr_number(o->reg.value), temp);
}

/* -- Bytes -- */

struct fields {
	unsigned reg, vvvv;
	unsigned x, b; /* extension bits of the operand in ModRM.rm */
};

static void emit_legacy(struct making *m, const struct fields *f)
{
	const ZydisDecodedInstruction *in = &m->d.in;
	unsigned rex =
	    0x40 | (unsigned)in->raw.rex.W << 3 | (f->reg >> 3 & 1) << 2 | (f->x & 1) << 1 | (f->b & 1);
	struct emit *e = &m->e;

	for (unsigned k = 0; k < in->raw.prefix_count; k++) {
		uint8_t p = in->raw.prefixes[k].value;

		if (p == 0x66 || p == 0xf2 || p == 0xf3 || p == 0xf0)
			e8(e, p);
	}
	/* An empty one means something beside SPL..DIL, which are spelt with one. */
	if (rex != 0x40 || (in->attributes & ZYDIS_ATTRIB_HAS_REX))
		e8(e, rex);
	if (in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		e8(e, 0x0f);
	if (in->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		e8(e, 0x38);
	if (in->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		e8(e, 0x3a);
}

static void emit_vex(struct making *m, const struct fields *f)
{
	const ZydisDecodedInstruction *in = &m->d.in;
	struct emit *e = &m->e;

	e8(e, 0xc4);
	e8(e, (~f->reg >> 3 & 1) << 7 | (~f->x & 1) << 6 | (~f->b & 1) << 5 | in->raw.vex.m_mmmm);
	e8(e, (unsigned)in->raw.vex.W << 7 | (~f->vvvv & 15) << 3 | (unsigned)in->raw.vex.L << 2 |
		  in->raw.vex.pp);
}

static void emit_evex(struct making *m, const struct fields *f)
{
	const ZydisDecodedInstruction *in = &m->d.in;
	struct emit *e = &m->e;

	e8(e, 0x62);
	e8(e, (~f->reg >> 3 & 1) << 7 | (~f->x & 1) << 6 | (~f->b & 1) << 5 | (~f->reg >> 4 & 1) << 4 |
		  in->raw.evex.mmm);
	e8(e, (unsigned)in->raw.evex.W << 7 | (~f->vvvv & 15) << 3 | 4 | in->raw.evex.pp);
	e8(e, (unsigned)in->raw.evex.z << 7 | (unsigned)in->raw.evex.L2 << 6 | (unsigned)in->raw.evex.L << 5 |
		  (unsigned)in->raw.evex.b << 4 | (~f->vvvv >> 4 & 1) << 3 | in->raw.evex.aaa);
}

void jit_emit_copy(struct making *m, unsigned reg, int rm, int opc, unsigned vvvv)
{
	const ZydisDecodedInstruction *in = &m->d.in;
	struct fields f = {.reg = reg, .vvvv = vvvv};
	unsigned op = in->opcode;
	struct emit *e = &m->e;

	if (opc >= 0) {
		op = (op & ~7u) | (unsigned)(opc & 7);
		f.b = (unsigned)opc >> 3;
	} else if (rm < 0 && in->attributes & ZYDIS_ATTRIB_HAS_MODRM && m->at.base < 0) {
		e8(e, 0x65);
	} else if (in->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		f.x = (unsigned)(rm < 0 ? m->at.index >> 3 : rm >> 4);
		f.b = (unsigned)(rm < 0 ? m->at.base : rm) >> 3;
	}
	if (in->attributes & ZYDIS_ATTRIB_HAS_EVEX)
		emit_evex(m, &f);
	else if (in->attributes & ZYDIS_ATTRIB_HAS_VEX)
		emit_vex(m, &f);
	else
		emit_legacy(m, &f);
	e8(e, op);
	if (in->attributes & ZYDIS_ATTRIB_HAS_MODRM && rm < 0)
		e_operand(e, reg, &m->at, !(in->attributes & ZYDIS_ATTRIB_HAS_EVEX));
	else if (in->attributes & ZYDIS_ATTRIB_HAS_MODRM)
		e8(e, 0xc0 | (reg & 7) << 3 | (unsigned)(rm & 7));
	for (unsigned k = 0; k < 2; k++)
		for (unsigned byte = 0; byte < in->raw.imm[k].size / 8; byte++)
			e8(e, m->i->bytes[in->raw.imm[k].offset + byte]);
}

/* -- Copies -- */

/* The number of a register that lives in memory as a whole; -1: another. */
static int slot_of(const ZydisDecodedOperand *o)
{
	int n = o ? decode_gpr_number(o->reg.value) : -1;

	return n >= 0 && n < 16 && host_of[n] < 0 ? n : -1;
}

/* Instructions that mean the same with a memory operand, and cost no more. */
static bool may_name_memory(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR: return true;
	default: return m >= ZYDIS_MNEMONIC_CMOVB && m <= ZYDIS_MNEMONIC_CMOVZ;
	}
}

/* ModRM.reg and ModRM.rm change their places: the opcode has a form for either direction, or either order is the same. */
static bool may_turn(const ZydisDecodedInstruction *in)
{
	if (in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return false;
	return (in->opcode < 0x40 && (in->opcode & 7) < 4) || (in->opcode >= 0x84 && in->opcode <= 0x85) ||
	       (in->opcode >= 0x88 && in->opcode <= 0x8b);
}

static void turn(struct making *m, struct operands *ops)
{
	const ZydisDecodedOperand *o = ops->reg;

	ops->reg = ops->rm;
	ops->rm = o;
	if (m->d.in.mnemonic != ZYDIS_MNEMONIC_TEST)
		m->d.in.opcode ^= 2;
}

/* A register of the guest that lives in memory, as the copy's memory operand. */
static bool copy_slot(struct making *m, struct operands *ops)
{
	unsigned reg = m->d.in.raw.modrm.reg;

	if (!ops->rm || ops->opc || !may_name_memory(m->d.in.mnemonic) ||
	    slot_of(ops->reg) == slot_of(ops->rm))
		return false;
	if (slot_of(ops->rm) < 0 || (jit_writes(ops->rm) && slot_of(ops->reg) >= 0)) {
		if (!may_turn(&m->d.in))
			return false;
		turn(m, ops);
	}
	/* Of 32 bits it would have to clear the others; what is narrower is read as a whole soon, and waited for. */
	if (jit_writes(ops->rm) && ops->rm->size != 64)
		return false;
	if (ops->cl)
		e_rr(&m->e, OP_MOV_STORE, true, H_GUEST_RCX, H_RCX);
	if (ops->reg)
		reg = rename_operand(m, ops->reg, H_R15);
	m->at = (struct place_of){-1, -1, (int32_t)GPR_OFF(slot_of(ops->rm))};
	jit_emit_copy(m, reg, -1, -1, 0);
	rename_out(m, ops->reg, H_R15);
	return true;
}

/* A copied instruction without a memory operand. */
static bool copy_registers(struct making *m, struct operands *ops)
{
	unsigned reg = m->d.in.raw.modrm.reg, rm = 0;
	bool same = slot_of(ops->reg) >= 0 && slot_of(ops->reg) == slot_of(ops->rm);
	int opc = -1;

	if (copy_slot(m, ops))
		return true;
	if (ops->cl)
		e_rr(&m->e, OP_MOV_STORE, true, H_GUEST_RCX, H_RCX);
	if (ops->rm)
		rm = same ? rename_in(m, ops->rm, H_R14) : rename_operand(m, ops->rm, H_R14);
	if (ops->reg)
		reg = same ? rm : rename_operand(m, ops->reg, H_R15);
	if (ops->opc)
		opc = (int)rename_operand(m, ops->opc, H_R14);
	jit_emit_copy(m, reg, (int)rm, opc, 0);
	rename_out(m, ops->reg, same ? H_R14 : H_R15);
	rename_out(m, ops->rm, H_R14);
	rename_out(m, ops->opc, H_R14);
	return true;
}

/* With one. */
static bool copy_memory(struct making *m, const struct operands *ops)
{
	unsigned reg = m->d.in.raw.modrm.reg, size = ops->mem->size / 8;
	bool slot = ops->reg && jit_in_memory(decode_gpr_number(ops->reg->reg.value));
	struct jit_site *s;
	struct address a;

	if (ops->opc || (slot && ops->cl) || size > 8 || (size & (size - 1)) || !size ||
	    !trace_address(m->i, ops->mem, &a))
		return false;
	s = jit_access(m, &a, jit_writes(ops->mem) ? SITE_WRITE : SITE_READ, size);
	if (ops->cl)
		e_rr(&m->e, OP_MOV_STORE, true, H_GUEST_RCX, H_RCX);
	if (ops->reg)
		reg = rename_operand(m, ops->reg, H_RCX);
	jit_emit_copy(m, reg, -1, -1, 0);
	s->end = e_here(&m->e);
	rename_out(m, ops->reg, H_RCX);
	return true;
}

static bool divides(const struct making *m)
{
	return m->d.in.mnemonic == ZYDIS_MNEMONIC_DIV || m->d.in.mnemonic == ZYDIS_MNEMONIC_IDIV;
}

/* A division by a register: a window, for it may end in SIGFPE, and then the interpreter raises #DE. */
static bool copy_division(struct making *m, struct operands *ops)
{
	struct jit_site *s = jit_site_new(m, SITE_CALL, 0);

	jit_only_slow(m, s, NULL);
	copy_registers(m, ops);
	s->end = e_here(&m->e);
	return true;
}

bool jit_plain_form(const ZydisDecodedInstruction *in)
{
	return in->raw.prefix_count <= JIT_MAX_PREFIXES &&
	       !(in->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE |
				   ZYDIS_ATTRIB_HAS_XACQUIRE | ZYDIS_ATTRIB_HAS_XRELEASE |
				   ZYDIS_ATTRIB_HAS_VEX | ZYDIS_ATTRIB_HAS_EVEX | ZYDIS_ATTRIB_HAS_XOP));
}

/* Instructions that may be copied, if their operands allow. */
static bool copyable(const ZydisDecodedInstruction *in)
{
	if (!jit_plain_form(in))
		return false;
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_ADCX:
	case ZYDIS_MNEMONIC_ADOX:
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_SFENCE: return true;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		/* A register index into memory reaches beyond the operand: jit_bit_string. */
		return in->opcode == 0xba || in->raw.modrm.mod == 3;
	default:
		return (in->mnemonic >= ZYDIS_MNEMONIC_SETB && in->mnemonic <= ZYDIS_MNEMONIC_SETZ &&
			in->mnemonic != ZYDIS_MNEMONIC_SETSSBSY) ||
		       (in->meta.category == ZYDIS_CATEGORY_CMOV);
	}
}

/* -- LEA and the stack -- */

/* Sums of other sizes: what a 16-bit result keeps, and an address of 16 bits cuts off. */
static void lea_small(struct making *m, const struct address *a, unsigned dst)
{
	e_lea_full(&m->e, false, m->d.in.operand_width == 16, dst, a->base < 0 ? -1 : host_of[a->base],
		   a->index < 0 ? -1 : host_of[a->index], a->scale, (int32_t)a->disp);
	if (a->width == 16 && m->d.in.operand_width == 32)
		e_rr(&m->e, OP_MOVZX16, false, dst, dst);
}

static bool op_lea(struct making *m)
{
	int n = decode_gpr_number(m->d.op[0].reg.value);
	unsigned width = m->d.in.operand_width;
	struct address a;
	unsigned dst;

	if (!trace_address(m->i, &m->d.op[1], &a) || n < 0)
		return false;
	if (a.width && !a.absolute) {
		lea_small(m, &a, (unsigned)host_of[n]);
		return true;
	}
	if (width == 16 || a.width == 16)
		return false;
	dst = host_of[n] < 0 ? H_R14 : (unsigned)host_of[n];
	if (a.absolute) {
		e_mov_imm(&m->e, dst, width == 64 ? (uint64_t)a.disp : (uint32_t)a.disp);
	} else {
		int base = a.base < 0 ? -1 : (int)jit_reg_in(m, a.base, H_R14);
		int index = a.index < 0 ? -1 : (int)jit_reg_in(m, a.index, H_R15);

		e_lea_full(&m->e, width == 64, false, dst, base, index, a.scale, (int32_t)a.disp);
	}
	if (host_of[n] < 0)
		e_gs(&m->e, OP_MOV_STORE, true, dst, GPR_OFF(n));
	return true;
}

struct jit_site *jit_stack_access(struct making *m, enum jit_site_kind kind, int32_t disp)
{
	return jit_access(m, &(struct address){.base = RSP, .index = -1, .disp = disp}, kind, 8);
}

void jit_stack_done(struct making *m, struct jit_site *s, int32_t change)
{
	s->end = e_here(&m->e);
	e_lea(&m->e, H_GUEST_RSP, H_GUEST_RSP, change);
}

void jit_push_tmp(struct making *m)
{
	struct jit_site *s;

	if (m->b->key & JIT_KEY_MODE) {
		jit_mode_push_tmp(m);
		return;
	}
	s = jit_stack_access(m, SITE_WRITE, -8);

	e_gs(&m->e, OP_MOV_LOAD, true, H_RCX, JIT_OFF(tmp));
	e_store(&m->e, H_RCX, &m->at);
	jit_stack_done(m, s, -8);
}

/* PUSH of memory: the value waits in jit->tmp while the stack's place is looked up. */
static bool op_push_memory(struct making *m)
{
	struct jit_site *s;
	struct address a;

	if (!trace_address(m->i, &m->d.op[0], &a))
		return false;
	s = jit_access(m, &a, SITE_READ, 8);
	e_load(&m->e, H_RCX, &m->at);
	s->end = e_here(&m->e);
	e_gs(&m->e, OP_MOV_STORE, true, H_RCX, JIT_OFF(tmp));
	jit_push_tmp(m);
	return true;
}

static bool op_push(struct making *m)
{
	const ZydisDecodedOperand *o = &m->d.op[0];
	struct jit_site *s;

	if (m->d.in.operand_width != 64)
		return false;
	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		s = jit_stack_access(m, SITE_WRITE, -8);
		e_mov_imm(&m->e, H_RCX, (uint64_t)o->imm.value.s);
		e_store(&m->e, H_RCX, &m->at);
	} else {
		int n = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? decode_gpr_number(o->reg.value) : -1;

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
			return op_push_memory(m);
		if (n < 0)
			return false;
		s = jit_stack_access(m, SITE_WRITE, -8);
		e_store(&m->e, jit_reg_in(m, n, H_RCX), &m->at);
	}
	jit_stack_done(m, s, -8);
	return true;
}

static bool op_pop(struct making *m)
{
	const ZydisDecodedOperand *o = &m->d.op[0];
	int n = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? decode_gpr_number(o->reg.value) : -1;
	struct jit_site *s;

	if (m->d.in.operand_width != 64 || n < 0)
		return false;
	s = jit_stack_access(m, SITE_READ, 0);
	e_load(&m->e, host_of[n] < 0 ? H_RCX : (unsigned)host_of[n], &m->at);
	s->end = e_here(&m->e);
	if (host_of[n] < 0)
		e_gs(&m->e, OP_MOV_STORE, true, H_RCX, GPR_OFF(n));
	if (n != RSP)
		e_lea(&m->e, H_GUEST_RSP, H_GUEST_RSP, 8);
	return true;
}

static bool op_leave(struct making *m)
{
	struct jit_site *s;

	if (m->d.in.operand_width != 64)
		return false;
	s = jit_access(m, &(struct address){.base = RBP, .index = -1}, SITE_READ, 8);
	e_load(&m->e, H_RCX, &m->at);
	s->end = e_here(&m->e);
	e_lea(&m->e, H_GUEST_RSP, H_RBP, 8);
	e_rr(&m->e, OP_MOV_STORE, true, H_RCX, H_RBP);
	return true;
}

static bool stack_op(struct making *m)
{
	switch (m->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH: return op_push(m);
	case ZYDIS_MNEMONIC_POP: return op_pop(m);
	case ZYDIS_MNEMONIC_LEAVE: return op_leave(m);
	default: return jit_return(m);
	}
}

bool jit_op(struct making *m)
{
	bool mode = m->b->key & JIT_KEY_MODE;
	struct operands ops;

	switch (m->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_LEA: return op_lea(m);
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_RET: return mode ? jit_mode_stack_op(m) : stack_op(m);
	case ZYDIS_MNEMONIC_NOP: return !(m->d.in.attributes & ZYDIS_ATTRIB_HAS_LOCK);
	default: break;
	}
	if (m->d.in.meta.category == ZYDIS_CATEGORY_PREFETCH)
		return !(m->d.in.attributes & ZYDIS_ATTRIB_HAS_LOCK);
	if (m->d.in.attributes & (ZYDIS_ATTRIB_HAS_VEX | ZYDIS_ATTRIB_HAS_EVEX))
		return jit_vector_op(m);
	if (m->d.in.meta.category == ZYDIS_CATEGORY_COND_BR ||
	    m->d.in.meta.category == ZYDIS_CATEGORY_UNCOND_BR || m->d.in.meta.category == ZYDIS_CATEGORY_CALL)
		return jit_branch(m);
	if (!copyable(&m->d.in))
		return jit_bit_string(m) || jit_cmpxchg_pair(m) || jit_string_op(m) || jit_system_op(m) ||
		       jit_vector_op(m);
	if (!sort_operands(m, &ops))
		return jit_system_op(m);
	if (mode && !jit_mode_same(m))
		return false;
	if ((m->d.in.attributes & ZYDIS_ATTRIB_HAS_LOCK) && !ops.mem)
		return false;
	if (!ops.mem && divides(m))
		return copy_division(m, &ops);
	return ops.mem ? copy_memory(m, &ops) : copy_registers(m, &ops);
}
