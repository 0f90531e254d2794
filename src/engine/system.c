/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* System instructions: flags, I/O, MSRs, TLB, the APIC-less rest. Segment registers are sysseg.c's. */
#include "engine/code.h"
#include "engine/system.h"

static _Noreturn void gp0(struct engine_cpu *c)
{
	engine_raise_err(c, EXC_GP, 0);
}

static void op_ud(struct engine_cpu *c, const struct insn *i)
{
	engine_raise(c, EXC_UD);
}

/* A privileged instruction with no effect that a guest can see. */
static void op_nop_cpl0(struct engine_cpu *c, const struct insn *i)
{
	require_cpl0(c);
}

/* -- Interrupt flag -- */

static bool iopl_allows(const struct engine_cpu *c)
{
	return c->real || c->cpl <= (c->rflags & FLAG_IOPL) >> 12;
}

/* CPL 3 below its IOPL, but with a virtual interrupt flag: VME in virtual-8086 mode, PVI otherwise. */
static bool has_vif(const struct engine_cpu *c)
{
	return c->cpl == 3 && (c->cr4 & (c->v86 ? CR4_VME : CR4_PVI));
}

static void op_cli(struct engine_cpu *c, const struct insn *i)
{
	if (iopl_allows(c))
		c->rflags &= ~FLAG_IF;
	else if (has_vif(c))
		c->rflags &= ~FLAG_VIF;
	else
		gp0(c);
}

static void op_sti(struct engine_cpu *c, const struct insn *i)
{
	if (iopl_allows(c)) {
		if (!(c->rflags & FLAG_IF))
			engine_set_shadow(c, ENGINE_SHADOW_STI);
		c->rflags |= FLAG_IF;
		if (unlikely(c->want_window))
			c->slow |= SLOW_WINDOW;
	} else if (has_vif(c) && !(c->rflags & FLAG_VIP)) {
		c->rflags |= FLAG_VIF;
	} else {
		gp0(c);
	}
}

/* CLAC, STAC */
static void op_set_ac(struct engine_cpu *c, const struct insn *i)
{
	if (c->cpl || !(c->feat.cr4_allowed & CR4_SMAP))
		engine_raise(c, EXC_UD);
	rflags_set(c, i->op ? c->rflags | FLAG_AC : c->rflags & ~FLAG_AC);
}

static void op_hlt(struct engine_cpu *c, const struct insn *i)
{
	require_cpl0(c);
	engine_leave(c, ENGINE_EXIT_HLT);
}

/* -- I/O -- */

/* May the ports be used at this CPL and IOPL? SDM 1 19.5.2. */
static bool io_allowed(struct engine_cpu *c, uint16_t port, unsigned size)
{
	const struct engine_seg *tr = &c->seg[TR];
	uint32_t off;

	if (c->real || (!c->v86 && iopl_allows(c)))
		return true;
	if (tr->unusable || !(SEG_TYPE(tr->attr) & 8) || tr->limit < 103)
		return false;
	off = guest_ld_sys(c, tr->base + 102, 2) + port / 8;
	if (off + 1 > tr->limit)
		return false;
	return !(guest_ld_sys(c, tr->base + off, 2) >> (port & 7) & ((1u << size) - 1));
}

void system_io_check(struct engine_cpu *c, uint16_t port, unsigned size)
{
	if (!io_allowed(c, port, size))
		gp0(c);
	debug_check_io(c, port, size);
}

static uint16_t io_port(struct engine_cpu *c, const struct insn *i)
{
	uint16_t port = i->op ? i->imm & 0xff : c->gpr[RDX];

	system_io_check(c, port, i->opsize);
	return port;
}

/* Calls the port; false if the instruction stops here. */
static bool io_call(struct engine_cpu *c, const struct insn *i, uint16_t port, uint64_t *val, bool in)
{
	enum engine_status st;

	c->io.rip = c->rip;
	c->io.retired = c->retired;
	c->io.len = i->len;
	c->io.size = i->opsize;
	c->io.in = in;
	port_enter(c);
	st = c->port->pio(c->ctx, port, val, i->opsize, 1, !in);
	port_leave(c);
	if (likely(st == ENGINE_STOP)) {
		engine_leave_soon(c, ENGINE_EXIT_STOP);
		return false;
	}
	engine_obey(c, st);
	return true;
}

static void io_read(struct engine_cpu *c, uint64_t val, unsigned size)
{
	if (size == 1)
		c->gpr[RAX] = (c->gpr[RAX] & ~0xffULL) | (uint8_t)val;
	else
		gpr_write(c, RAX, val, size);
}

static void op_in(struct engine_cpu *c, const struct insn *i)
{
	uint16_t port = io_port(c, i);
	uint64_t val = 0;

	if (io_call(c, i, port, &val, true))
		io_read(c, val, i->opsize);
}

static void op_out(struct engine_cpu *c, const struct insn *i)
{
	uint16_t port = io_port(c, i);
	uint64_t val = c->gpr[RAX];

	io_call(c, i, port, &val, false);
}

bool engine_finish_io(struct engine_cpu *c, const void *data)
{
	uint64_t val = 0;

	/* Traps, counts and shadows are run_careful's. */
	if (c->io.rip != c->rip || c->io.retired != c->retired || !c->io.len || (c->slow & SLOW_REASONS) ||
	    c->shadow || c->db_hits)
		return false;
	if (c->io.in) {
		memcpy(&val, data, c->io.size);
		io_read(c, val, c->io.size);
	}
	c->rip = (c->rip + c->io.len) & c->ip_mask;
	c->retired++;
	c->io.len = 0;
	return true;
}

/* -- What the surroundings own -- */

/* Bits that mirror the guest's own registers, as KVM keeps them up to date. */
static void cpuid_runtime(struct engine_cpu *c, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	if (leaf == 1) {
		r[2] &= ~BIT(27);
		if ((c->cr4 & CR4_OSXSAVE) && (r[2] & BIT(26)))
			r[2] |= BIT(27);
	} else if (leaf == 7 && sub == 0) {
		r[2] &= ~BIT(4);
	} else if (leaf == 13 && sub == 0 && r[1]) {
		r[1] = engine_xsave_size(c->xcr0, false);
	} else if (leaf == 13 && sub == 1 && (r[0] & 10)) {
		r[1] = engine_xsave_size(c->xcr0 | c->xss, true);
	}
}

static void op_serialize(struct engine_cpu *c, const struct insn *i)
{
	code_serialize(c);
}

static void op_cpuid(struct engine_cpu *c, const struct insn *i)
{
	uint32_t leaf = c->gpr[RAX], sub = c->gpr[RCX];
	uint32_t r[4] = {leaf, 0, sub, 0};

	PORT_CALL(c, c->port->cpuid(c->ctx, r));
	code_serialize(c);
	cpuid_runtime(c, leaf, sub, r);
	c->gpr[RAX] = r[0];
	c->gpr[RBX] = r[1];
	c->gpr[RCX] = r[2];
	c->gpr[RDX] = r[3];
}

static void op_rdpmc(struct engine_cpu *c, const struct insn *i)
{
	uint64_t val = 0;

	if (c->cpl && !(c->cr4 & CR4_PCE))
		gp0(c);
	PORT_CALL(c, c->port->rdpmc(c->ctx, (uint32_t)c->gpr[RCX], &val));
	c->gpr[RAX] = (uint32_t)val;
	c->gpr[RDX] = val >> 32;
}

/* The port may set registers, RIP included, so next_rip is kept here. */
static void hypercall(struct engine_cpu *c, bool vmmcall)
{
	static const uint8_t insn[2][3] = {{0x0f, 0x01, 0xc1}, {0x0f, 0x01, 0xd9}};
	uint64_t next = c->next_rip;
	enum engine_status st;

	port_enter(c);
	st = c->port->hypercall(c->ctx, vmmcall);
	port_leave(c);
	if (st == ENGINE_FIX) {
		guest_write(c, engine_linear_rip(c), insn[!vmmcall], sizeof(insn[0]));
		c->next_rip = c->rip;
		return;
	}
	engine_obey(c, st);
	c->next_rip = next;
}

static void op_vmcall(struct engine_cpu *c, const struct insn *i)
{
	hypercall(c, false);
}

static void op_vmmcall(struct engine_cpu *c, const struct insn *i)
{
	hypercall(c, true);
}

static void op_rsm(struct engine_cpu *c, const struct insn *i)
{
	if (!c->smm)
		engine_raise(c, EXC_UD);
	PORT_CALL(c, c->port->rsm(c->ctx));
	c->next_rip = c->rip;
}

static void op_monitor(struct engine_cpu *c, const struct insn *i)
{
	uint64_t addr = i->adsize == 8 ? c->gpr[RAX] : gpr_read(c, RAX, i->adsize);

	if (c->cpl)
		engine_raise(c, EXC_UD);
	if ((uint32_t)c->gpr[RCX])
		gp0(c);
	guest_ld(c, seg_linear(c, i->seg, addr, 1, false), 1);
	PORT_CALL(c, c->port->mwait(c->ctx, true));
}

static void op_mwait(struct engine_cpu *c, const struct insn *i)
{
	if (c->cpl)
		engine_raise(c, EXC_UD);
	if (c->gpr[RCX] & 0xfffffffe)
		gp0(c);
	PORT_CALL(c, c->port->mwait(c->ctx, false));
}

/* -- Segment bases -- */

static void op_swapgs(struct engine_cpu *c, const struct insn *i)
{
	uint64_t base = c->seg[GS].base;

	if (!c->code64)
		engine_raise(c, EXC_UD);
	require_cpl0(c);
	c->seg[GS].base = c->kernel_gs_base;
	c->kernel_gs_base = base;
}

/* RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE: i->op is the segment, plus 8 to write. */
static void op_segbase(struct engine_cpu *c, const struct insn *i)
{
	struct engine_seg *s = &c->seg[i->op & 7];
	uint64_t val = gpr_read(c, i->rm, i->opsize);

	if (!c->code64 || !(c->cr4 & CR4_FSGSBASE))
		engine_raise(c, EXC_UD);
	if (!(i->op & 8)) {
		gpr_write(c, i->rm, s->base, i->opsize);
		return;
	}
	if (!control_is_canonical(c, val))
		gp0(c);
	s->base = val;
}

/* -- TLB -- */

static void op_invlpg(struct engine_cpu *c, const struct insn *i)
{
	uint64_t lin = insn_offset(c, i);

	require_cpl0(c);
	if (!c->code64 || i->seg >= FS)
		lin += c->seg[i->seg].base;
	mmu_flush_page(c, lin);
}

static void op_invpcid(struct engine_cpu *c, const struct insn *i)
{
	uint64_t type = gpr_read(c, i->reg, c->code64 ? 8 : 4), lin, pcid, addr;
	uint64_t ea;

	if (!c->feat.pcid)
		engine_raise(c, EXC_UD);
	require_cpl0(c);
	ea = insn_ea(c, i, 16, false);
	pcid = guest_ld(c, ea, 8);
	addr = guest_ld(c, c->code64 ? ea + 8 : (uint32_t)(ea + 8), 8);
	lin = c->code64 ? addr : (uint32_t)addr;
	if (type > 3 || pcid >> 12)
		gp0(c);
	if (type < 2 && pcid && !(c->cr4 & CR4_PCIDE))
		gp0(c);
	if (type == 0 && c->code64 && !control_is_canonical(c, addr))
		gp0(c);
	if (type == 0)
		mmu_flush_page_of(c, lin, pcid);
	else if (type == 1)
		mmu_flush_pcid(c, pcid);
	else
		mmu_flush_all(c);
}

/* -- SYSCALL and friends -- */

static void op_syscall(struct engine_cpu *c, const struct insn *i)
{
	far_syscall(c);
}

static void op_sysret(struct engine_cpu *c, const struct insn *i)
{
	far_sysret(c, i->opsize);
}

static void op_sysenter(struct engine_cpu *c, const struct insn *i)
{
	far_sysenter(c);
}

static void op_sysexit(struct engine_cpu *c, const struct insn *i)
{
	far_sysexit(c, i->opsize);
}

/* -- Selection -- */

static insn_fn select_io(struct insn *i, const struct insn_decoded *d)
{
	bool in = d->in.mnemonic == ZYDIS_MNEMONIC_IN;
	const ZydisDecodedOperand *data = &d->op[in ? 0 : 1], *port = &d->op[in ? 1 : 0];

	i->opsize = data->size / 8;
	i->op = port->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	return in ? op_in : op_out;
}

/* MOV of control and debug registers; i->op is the register's number. */
static insn_fn select_mov(struct insn *i, const struct insn_decoded *d)
{
	static const insn_fn fn[2][2] = {{op_mov_from_cr, op_mov_to_cr}, {op_mov_from_dr, op_mov_to_dr}};

	for (unsigned k = 0; k < 2; k++) {
		ZydisRegister r = d->op[k].reg.value;
		ZydisRegisterClass class = ZydisRegisterGetClass(r);
		bool debug = class == ZYDIS_REGCLASS_DEBUG;

		if (d->op[k].type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    (!debug && class != ZYDIS_REGCLASS_CONTROL))
			continue;
		i->op = ZydisRegisterGetId(r);
		if (debug ? i->op > 7 : i->op > 8 || !(0x11d >> i->op & 1))
			return op_ud;
		return fn[debug][k == 0];
	}
	return NULL;
}

static insn_fn select_segbase(struct insn *i, ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_RDFSBASE: i->op = FS; break;
	case ZYDIS_MNEMONIC_RDGSBASE: i->op = GS; break;
	case ZYDIS_MNEMONIC_WRFSBASE: i->op = FS | 8; break;
	default: i->op = GS | 8; break;
	}
	if (i->opsize == 2) /* 66 has no say here */
		i->opsize = 4;
	return op_segbase;
}

static insn_fn select_named(struct insn *i, const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_CLI: return op_cli;
	case ZYDIS_MNEMONIC_STI: return op_sti;
	case ZYDIS_MNEMONIC_CLAC: i->op = 0; return op_set_ac;
	case ZYDIS_MNEMONIC_STAC: i->op = 1; return op_set_ac;
	case ZYDIS_MNEMONIC_HLT: return op_hlt;
	case ZYDIS_MNEMONIC_CPUID: return op_cpuid;
	case ZYDIS_MNEMONIC_RDMSR: return op_rdmsr;
	case ZYDIS_MNEMONIC_WRMSR: return op_wrmsr;
	case ZYDIS_MNEMONIC_RDPMC: return op_rdpmc;
	case ZYDIS_MNEMONIC_XGETBV: return op_xgetbv;
	case ZYDIS_MNEMONIC_XSETBV: return op_xsetbv;
	case ZYDIS_MNEMONIC_CLTS: return op_clts;
	case ZYDIS_MNEMONIC_LMSW: return op_lmsw;
	case ZYDIS_MNEMONIC_SMSW: return op_smsw;
	case ZYDIS_MNEMONIC_INVLPG: return op_invlpg;
	case ZYDIS_MNEMONIC_INVPCID: return op_invpcid;
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_WBINVD: return op_nop_cpl0; /* WBNOINVD too */
	case ZYDIS_MNEMONIC_SERIALIZE: return op_serialize;
	case ZYDIS_MNEMONIC_SWAPGS: return op_swapgs;
	case ZYDIS_MNEMONIC_MONITOR: return op_monitor;
	case ZYDIS_MNEMONIC_MWAIT: return op_mwait;
	case ZYDIS_MNEMONIC_VMCALL: return op_vmcall;
	case ZYDIS_MNEMONIC_VMMCALL: return op_vmmcall;
	case ZYDIS_MNEMONIC_RSM: return op_rsm;
	case ZYDIS_MNEMONIC_SYSCALL: return op_syscall;
	case ZYDIS_MNEMONIC_SYSRET: return op_sysret;
	case ZYDIS_MNEMONIC_SYSENTER: return op_sysenter;
	case ZYDIS_MNEMONIC_SYSEXIT: return op_sysexit;
	/* VMX, SVM, protection keys: the guest has none of them. */
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_RDPKRU:
	case ZYDIS_MNEMONIC_WRPKRU: return op_ud;
	default: return NULL;
	}
}

insn_fn system_select(struct insn *i, const struct insn_decoded *d)
{
	insn_fn fn;

	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT: return select_io(i, d);
	case ZYDIS_MNEMONIC_MOV: fn = select_mov(i, d); return fn ? fn : sysseg_select(i, d);
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE: return select_segbase(i, d->in.mnemonic);
	default: break;
	}
	fn = select_named(i, d);
	return fn ? fn : sysseg_select(i, d);
}
