/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Hyper-V's hypercalls: remote TLB flush, IPI, spin hint, signals and messages. */
#include <sched.h>

#include "vcpu/hyperv.h"
#include "vcpu/internal.h"

#define AS_NORMAL 0

enum {
	CALL_FLUSH_SPACE = 0x02,
	CALL_FLUSH_LIST = 0x03,
	CALL_LONG_SPIN = 0x08,
	CALL_SEND_IPI = 0x0b,
	CALL_FLUSH_SPACE_EX = 0x13,
	CALL_FLUSH_LIST_EX = 0x14,
	CALL_SEND_IPI_EX = 0x15,
	CALL_POST_MESSAGE = 0x5c,
	CALL_SIGNAL_EVENT = 0x5d,
	CALL_POST_DEBUG_DATA = 0x69,
	CALL_RETRIEVE_DEBUG_DATA = 0x6a,
	CALL_RESET_DEBUG_SESSION = 0x6b,
};

enum {
	OK = 0,
	BAD_CODE = 2,
	BAD_INPUT = 3,
	BAD_ALIGNMENT = 4,
	BAD_PARAMETER = 5,
	ACCESS_DENIED = 6,
	OPERATION_DENIED = 8,
	BAD_PORT = 17,
};

/* Not a status: ask the VMM. */
#define TO_VMM (~0ULL)

#define PARAM_RESERVED (BIT(62) | BIT(63) | BIT(61) | BIT(60) | 0xf00000000000ULL | 0xf8000000ULL)
#define FLUSH_ALL      BIT(0)
#define SET_SPARSE     0 /* format of a processor set: banks of 64 */
#define SET_ALL	       1
#define MAX_BANKS      (VCPU_MAX / 64)
#define IPI_FIRST      0x10
#define IPI_LAST       0xff
#define XMM_REGS       6
#define CONN_ID_MASK   0x00ffffffU

struct call {
	uint64_t param, in, out;
	uint16_t code, var_cnt, rep_cnt, rep_idx;
	bool fast, rep;
	uint64_t xmm[2 * XMM_REGS]; /* of a fast call that has more input than two registers */
};

/* Which vCPUs, by VP index. */
struct targets {
	bool all;
	uint64_t valid; /* bit per bank of 64 */
	uint64_t bank[MAX_BANKS];
};

/* -- Input -- */

static void parse(struct call *c, const struct kvm_regs *r, bool is64)
{
	if (is64) {
		c->param = r->rcx;
		c->in = r->rdx;
		c->out = r->r8;
	} else {
		c->param = r->rdx << 32 | (uint32_t)r->rax;
		c->in = r->rbx << 32 | (uint32_t)r->rcx;
		c->out = r->rdi << 32 | (uint32_t)r->rsi;
	}
	c->code = (uint16_t)c->param;
	c->fast = c->param & BIT(16);
	c->var_cnt = c->param >> 17 & 0x3ff;
	c->rep_cnt = c->param >> 32 & 0xfff;
	c->rep_idx = c->param >> 48 & 0xfff;
	c->rep = c->rep_cnt || c->rep_idx;
}

static bool uses_xmm(const struct call *c)
{
	return c->fast &&
	       (c->code == CALL_FLUSH_SPACE || c->code == CALL_FLUSH_LIST || c->code == CALL_FLUSH_SPACE_EX ||
		c->code == CALL_FLUSH_LIST_EX || c->code == CALL_SEND_IPI_EX);
}

static void read_xmm(struct vcpu *v, struct call *c)
{
	struct kvm_fpu f;

	engine_get_fpu(v->cpu, &f);
	memcpy(c->xmm, f.xmm, sizeof(c->xmm));
}

/* What CPUID has to say for the call, if it is enforced. */
static bool allowed(const struct vcpu *v, uint16_t code)
{
	uint32_t b = v->hv.cpuid.ebx, e = v->hv.cpuid.enl_eax;

	if (!v->hv.enforce)
		return true;
	switch (code) {
	case CALL_LONG_SPIN: return v->hv.cpuid.enl_ebx && v->hv.cpuid.enl_ebx != ~0U;
	case CALL_POST_MESSAGE: return b & HV_B_POST_MESSAGES;
	case CALL_SIGNAL_EVENT: return b & HV_B_SIGNAL_EVENTS;
	case CALL_POST_DEBUG_DATA:
	case CALL_RETRIEVE_DEBUG_DATA:
	case CALL_RESET_DEBUG_SESSION: /* without a debugger at all: "no such call" */
		return !(v->hv.cpuid.dbg_eax & HV_DBG_KERNEL) || (b & HV_B_DEBUGGING);
	case CALL_FLUSH_SPACE:
	case CALL_FLUSH_LIST: return e & HV_E_TLB_FLUSH;
	case CALL_FLUSH_SPACE_EX:
	case CALL_FLUSH_LIST_EX: return (e & HV_E_TLB_FLUSH) && (e & HV_E_EX_MASKS);
	case CALL_SEND_IPI: return e & HV_E_CLUSTER_IPI;
	case CALL_SEND_IPI_EX: return (e & HV_E_CLUSTER_IPI) && (e & HV_E_EX_MASKS);
	default: return true;
	}
}

/* -- Processor sets -- */

/* The banks of a sparse set: after `used` halves of XMM registers, or at `offset` of the input. */
static uint64_t read_banks(struct vcpu *v, const struct call *c, struct targets *t, unsigned used,
			   unsigned offset)
{
	unsigned n = MIN(c->var_cnt, (uint16_t)MAX_BANKS); /* no vCPU is behind the rest */

	if (c->var_cnt > 64)
		return BAD_INPUT;
	if (!c->fast)
		return mem_read(v->vm->mem, AS_NORMAL, c->in + offset, t->bank, n * sizeof(t->bank[0]))
			   ? BAD_INPUT
			   : OK;
	if (c->var_cnt > 2 * XMM_REGS - used)
		return BAD_INPUT;
	memcpy(t->bank, c->xmm + used, n * sizeof(t->bank[0]));
	return OK;
}

static bool is_meant(struct vcpu *v, const struct targets *t)
{
	uint32_t vp = atomic_load(&v->hv.vp_index), bank = vp / 64;
	unsigned at;

	if (t->all)
		return true;
	if (!(t->valid & BIT(bank)))
		return false;
	at = (unsigned)__builtin_popcountll(t->valid & (BIT(bank) - 1));
	return at < MAX_BANKS && (t->bank[at] >> vp % 64 & 1);
}

/* The next vCPU that is meant, from index *i on; NULL at the end. */
static struct vcpu *next_meant(struct vcpu_vm *vm, const struct targets *t, unsigned *i)
{
	unsigned n = atomic_load(&vm->nr_vcpus);

	while (*i < n) {
		struct vcpu *v = atomic_load(&vm->vcpus[(*i)++]);

		if (v && is_meant(v, t))
			return v;
	}
	return NULL;
}

/* -- Remote TLB flush -- */

/* True once the vCPU cannot use what it had cached: it flushed, or stands where it looks at requests first. */
static bool has_flushed(struct vcpu *v)
{
	return !(atomic_load(&v->requests) & VCPU_REQ_TLB_FLUSH) || engine_stands(v->cpu);
}

/* On return no vCPU that is meant executes an instruction with an old translation. */
static void flush(struct vcpu *v, const struct targets *t)
{
	struct vcpu *o;

	for (unsigned i = 0; (o = next_meant(v->vm, t, &i));)
		vcpu_request(o, VCPU_REQ_TLB_FLUSH);
	base_membarrier(); /* for engine_stands */
	for (unsigned i = 0; (o = next_meant(v->vm, t, &i));) {
		while (o != v && !has_flushed(o))
			sched_yield();
	}
}

static uint64_t flush_tlb(struct vcpu *v, struct call *c)
{
	bool ex = c->code == CALL_FLUSH_SPACE_EX || c->code == CALL_FLUSH_LIST_EX;
	struct targets t = {.valid = 1};
	/* address space, flags, then a mask, or the format and banks of a set */
	uint64_t in[4] = {c->in, c->out, c->xmm[0], c->xmm[1]}, r;

	if (!c->fast && mem_read(v->vm->mem, AS_NORMAL, c->in, in, ex ? 32 : 24))
		return BAD_INPUT;
	if (!ex) {
		t.bank[0] = in[2];
		t.all = (in[1] & FLUSH_ALL) || !in[2]; /* as KVM: some Windows mean "all" by none */
	} else {
		t.all = in[2] != SET_SPARSE;
		t.valid = in[3];
		if (c->var_cnt != (unsigned)__builtin_popcountll(t.valid))
			return BAD_INPUT;
		if (!t.all && c->var_cnt) {
			r = read_banks(v, c, &t, 2, 32);
			if (r)
				return r;
		}
	}
	if (t.all || !ex || c->var_cnt)
		flush(v, &t);
	return (uint64_t)c->rep_cnt << 32; /* all of them */
}

/* -- IPI -- */

static uint64_t send_ipi(struct vcpu *v, struct call *c)
{
	bool ex = c->code == CALL_SEND_IPI_EX;
	struct targets t = {.valid = 1};
	uint64_t in[3] = {c->in, c->out, c->xmm[0]}, r; /* vector, mask or format, banks */
	uint32_t vector;
	struct vcpu *o;

	if (!v->lapic || (!c->fast && mem_read(v->vm->mem, AS_NORMAL, c->in, in, ex ? 24 : 16)))
		return BAD_INPUT;
	vector = (uint32_t)in[0];
	if (!ex) {
		if (c->fast && in[0] >> 32)
			return BAD_INPUT;
		t.bank[0] = in[1];
	} else {
		t.all = in[1] == SET_ALL;
		t.valid = in[2];
		if (c->var_cnt != (unsigned)__builtin_popcountll(t.valid))
			return BAD_INPUT;
		if (!t.all && !c->var_cnt)
			return OK;
		r = t.all ? OK : read_banks(v, c, &t, 1, 24);
		if (r)
			return r;
	}
	if (vector < IPI_FIRST || vector > IPI_LAST)
		return BAD_INPUT;
	for (unsigned i = 0; (o = next_meant(v->vm, &t, &i));)
		if (o->lapic)
			lapic_interrupt(o->lapic, (uint8_t)vector);
	return OK;
}

/* -- What the VMM may have to answer -- */

static uint64_t signal_event(struct vcpu *v, struct call *c)
{
	if (c->rep || c->var_cnt)
		return BAD_INPUT;
	if (!c->fast && ((c->in & 7) || mem_read(v->vm->mem, vcpu_as(v), c->in, &c->in, sizeof(c->in))))
		return BAD_ALIGNMENT;
	if (c->in & 0xffff00000000ULL) /* a flag number: nobody has one */
		return TO_VMM;
	if (c->in & ~(uint64_t)CONN_ID_MASK)
		return BAD_INPUT;
	return hyperv_signal(v->vm, (uint32_t)c->in) ? OK : TO_VMM;
}

static uint64_t debug(struct vcpu *v, const struct call *c)
{
	if (c->fast && c->code != CALL_RESET_DEBUG_SESSION)
		return BAD_PARAMETER;
	if (!(v->hv.cpuid.dbg_eax & HV_DBG_KERNEL))
		return BAD_CODE;
	return hyperv_debugs_by_call(v->vm) ? TO_VMM : OPERATION_DENIED;
}

static uint64_t perform(struct vcpu *v, struct call *c)
{
	uint64_t r;

	switch (c->code) {
	case CALL_LONG_SPIN:
		if (c->rep || c->var_cnt)
			return BAD_INPUT;
		sched_yield();
		return OK;
	case CALL_SIGNAL_EVENT:
		r = signal_event(v, c);
		if (r != TO_VMM)
			return r;
		/* the VMM may know the connection */
		/* fall through */
	case CALL_POST_MESSAGE:
		return c->rep || c->var_cnt || !atomic_load(&v->hv.synic.active) ? BAD_INPUT : TO_VMM;
	case CALL_FLUSH_LIST:
	case CALL_FLUSH_LIST_EX:
		if ((c->var_cnt && c->code == CALL_FLUSH_LIST) || !c->rep_cnt || c->rep_idx)
			return BAD_INPUT;
		return flush_tlb(v, c);
	case CALL_FLUSH_SPACE:
	case CALL_FLUSH_SPACE_EX:
		return (c->var_cnt && c->code == CALL_FLUSH_SPACE) || c->rep ? BAD_INPUT : flush_tlb(v, c);
	case CALL_SEND_IPI:
	case CALL_SEND_IPI_EX:
		return (c->var_cnt && c->code == CALL_SEND_IPI) || c->rep ? BAD_INPUT : send_ipi(v, c);
	case CALL_POST_DEBUG_DATA:
	case CALL_RETRIEVE_DEBUG_DATA:
	case CALL_RESET_DEBUG_SESSION: return debug(v, c);
	default: return BAD_CODE;
	}
}

/* -- Entry -- */

static enum engine_status finish(struct vcpu *v, struct kvm_regs *r, uint64_t result, bool is64)
{
	if (is64) {
		r->rax = result;
	} else {
		r->rdx = result >> 32;
		r->rax = (uint32_t)result;
	}
	engine_set_regs(v->cpu, r);
	return ENGINE_OK;
}

/* Takes the VMM's answer to KVM_EXIT_HYPERV. */
static void complete(struct vcpu *v)
{
	uint64_t result = v->run->hyperv.u.hcall.result;

	memcpy(v->pending.access.data, &result, sizeof(result));
	replay_add(v, &v->pending.access, NULL);
}

static enum engine_status ask_vmm(struct vcpu *v, const struct call *c)
{
	struct vcpu_access a = {.kind = ACCESS_HYPERCALL, .len = 8, .addr = c->param};

	if (!replay_reserve(v))
		return vcpu_stop_result(v, -ENOMEM);
	v->run->exit_reason = KVM_EXIT_HYPERV;
	v->run->hyperv.type = KVM_EXIT_HYPERV_HCALL;
	v->run->hyperv.u.hcall.input = c->param;
	v->run->hyperv.u.hcall.params[0] = c->in;
	v->run->hyperv.u.hcall.params[1] = c->out;
	return vcpu_stop(v, &a, complete);
}

enum engine_status hyperv_call(struct vcpu *v, bool is64)
{
	const struct vcpu_access *done;
	struct call c = {0};
	struct kvm_regs r;
	uint64_t result;

	if (engine_cpl(v->cpu) || !(engine_get_cr0(v->cpu) & BIT(0)))
		return ENGINE_UD;
	engine_get_regs(v->cpu, &r);
	parse(&c, &r, is64);
	done = v->replay.n ? replay_find(v, ACCESS_HYPERCALL, c.param, 8, false) : NULL;
	if (done) {
		memcpy(&result, done->data, sizeof(result));
		return finish(v, &r, result, is64);
	}
	if (!allowed(v, c.code))
		return finish(v, &r, ACCESS_DENIED, is64);
	if (c.param & PARAM_RESERVED)
		return finish(v, &r, BAD_INPUT, is64);
	if (uses_xmm(&c)) {
		if (v->hv.enforce && !(v->hv.cpuid.edx & HV_D_XMM_INPUT))
			return ENGINE_UD;
		read_xmm(v, &c);
	}
	result = perform(v, &c);
	return result == TO_VMM ? ask_vmm(v, &c) : finish(v, &r, result, is64);
}
