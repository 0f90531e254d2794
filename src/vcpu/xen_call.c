/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Xen's hypercalls: a few are answered here, the rest is the VMM's (KVM_EXIT_XEN). */
#include <sched.h>

#include "vcpu/internal.h"
#include "vcpu/xen.h"

enum {
	CALL_SET_TIMER = 15,
	CALL_XEN_VERSION = 17,
	CALL_VCPU_OP = 24,
	CALL_SCHED_OP = 29,
	CALL_EVENT_CHANNEL = 32,
};
enum { SCHED_YIELD = 0, SCHED_POLL = 3 };
enum { VCPU_SET_SINGLESHOT = 8, VCPU_STOP_SINGLESHOT = 9 };
#define EVTCHN_SEND	    4
#define FUTURE		    1 /* of a one-shot timer: not if it is past */
#define POLL_PORTS	    128
#define HYPERV_BIT	    BIT(31) /* such a call is Hyper-V's */
#define TIMER_WORKAROUND_NS 100000000ULL
#define MS_NS		    1000000ULL

struct call {
	uint64_t input, param[6];
	bool is64;
};

/* What sched_op and vcpu_op point to. */
struct poll {
	uint64_t ports;
	uint32_t nr, pad;
	uint64_t timeout;
};
struct oneshot {
	uint64_t expires;
	uint32_t flags, pad;
};

/* -- The page -- */

/* One entry per hypercall: mov $n, %eax; vmcall; ret */
static int own_page(struct vcpu *v, uint64_t gpa)
{
	uint8_t page[PAGE_SIZE];

	memset(page, 0xcc, sizeof(page));
	for (uint32_t n = 0; n < PAGE_SIZE / 32; n++) {
		const uint8_t tail[] = {0x0f, 0x01, vcpu_host_is_amd() ? 0xd9 : 0xc1, 0xc3};
		uint8_t *at = page + n * 32;

		at[0] = 0xb8;
		memcpy(at + 1, &n, sizeof(n));
		memcpy(at + 5, tail, sizeof(tail));
	}
	return mem_write(v->vm->mem, vcpu_as(v), gpa, page, sizeof(page)) ? -EINVAL : 0;
}

/* The VMM's own, by number. */
static int vmm_page(struct vcpu *v, uint64_t gpa, uint32_t n, bool lm)
{
	struct kvm_xen_hvm_config c;
	uint8_t page[PAGE_SIZE];
	uint64_t from;

	xen_config(v->vm, &c);
	from = lm ? c.blob_addr_64 : c.blob_addr_32;
	if (n >= (lm ? c.blob_size_64 : c.blob_size_32))
		return -EINVAL;
	if (base_copy_in(page, (const void *)(uintptr_t)(from + (uint64_t)n * PAGE_SIZE), sizeof(page)))
		return -EINVAL;
	return mem_write(v->vm->mem, vcpu_as(v), gpa, page, sizeof(page)) ? -EINVAL : 0;
}

int xen_hypercall_page(struct vcpu *v, uint64_t val)
{
	uint64_t gpa = val & ~PAGE_OFFSET_MASK;
	uint32_t n = val & PAGE_OFFSET_MASK;
	struct kvm_sregs s;
	bool lm;

	engine_get_sregs(v->cpu, &s);
	lm = s.efer & BIT(10);
	xen_latch_long_mode(v->vm, lm);
	if (!xen_active(v->vm))
		return vmm_page(v, gpa, n, lm);
	return n ? -EINVAL : own_page(v, gpa);
}

/* -- Arguments in guest memory -- */

/* Reads by linear address, whatever the privilege; false = -EFAULT. */
static bool read_linear(struct vcpu *v, uint64_t lin, void *buf, size_t len)
{
	uint8_t *to = buf;

	while (len) {
		size_t chunk = MIN(len, PAGE_SIZE - (lin & PAGE_OFFSET_MASK));
		bool writable, user;
		uint64_t gpa;

		if (!engine_translate(v->cpu, lin, &gpa, &writable, &user) ||
		    mem_read(v->vm->mem, vcpu_as(v), gpa, to, chunk))
			return false;
		lin += chunk;
		to += chunk;
		len -= chunk;
	}
	return true;
}

/* -- Calls: true = answered, with *r for RAX -- */

static bool evtchn_send(struct vcpu *v, const struct call *c, int64_t *r)
{
	uint32_t port;

	*r = -EFAULT;
	if (!read_linear(v, c->param[1], &port, sizeof(port)))
		return true;
	*r = 0;
	return xen_send_outbound(v, port);
}

/* Sleeps until one of the ports is pending, an interrupt comes, or the time is over: at the next boundary. */
static void poll_wait(struct vcpu *v, const struct poll *p, const uint32_t *ports)
{
	bool pending = false;

	atomic_store(&v->unhalted, false);
	atomic_store(&v->xen.poll,
		     p->nr == 1 ? (int64_t)ports[0] : -1); /* before the look; pairs with xen_send */
	for (uint32_t i = 0; i < p->nr; i++)
		pending |= xen_port_pending(v, ports[i]);
	if (pending) {
		atomic_store(&v->xen.poll, 0);
		return;
	}
	if (p->timeout)
		loop_timer_set(&v->xen.poll_timer, base_now_ns() + MAX(p->timeout, MS_NS));
	atomic_store(&v->mp_state, KVM_MP_STATE_HALTED);
	vcpu_request(v, VCPU_REQ_EVENT);
}

static bool sched_poll(struct vcpu *v, const struct call *c, int64_t *r)
{
	uint32_t ports[POLL_PORTS];
	struct poll p;

	if (!c->is64 || !v->lapic || !xen_sends(v->vm))
		return false;
	*r = -EFAULT;
	if (!read_linear(v, c->param[1], &p, sizeof(p)))
		return true;
	*r = -EINVAL;
	if (p.nr > POLL_PORTS)
		return true;
	for (uint32_t i = 0; i < p.nr; i++) {
		*r = -EFAULT;
		if (!read_linear(v, p.ports + i * sizeof(ports[0]), &ports[i], sizeof(ports[0])))
			return true;
		*r = -EINVAL;
		if (ports[i] >= xen_max_port(v->vm))
			return true;
	}
	*r = 0;
	poll_wait(v, &p, ports);
	return true;
}

static bool sched_op(struct vcpu *v, const struct call *c, int64_t *r)
{
	if (c->param[0] == SCHED_POLL && sched_poll(v, c, r))
		return true;
	if (c->param[0] != SCHED_POLL && c->param[0] != SCHED_YIELD)
		return false;
	sched_yield();
	*r = 0;
	return true;
}

static bool vcpu_op(struct vcpu *v, const struct call *c, int64_t *r)
{
	struct oneshot t = {0};

	if (!v->xen.timer_port || (c->param[0] != VCPU_SET_SINGLESHOT && c->param[0] != VCPU_STOP_SINGLESHOT))
		return false;
	*r = -EINVAL;
	if (c->param[1] != v->xen.vcpu_id)
		return true;
	*r = 0;
	if (c->param[0] == VCPU_STOP_SINGLESHOT) {
		xen_set_timer(v, 0);
		return true;
	}
	if (!read_linear(v, c->param[2], &t, c->is64 ? sizeof(t) : 12))
		*r = -EFAULT;
	else if ((t.flags & FUTURE) && (int64_t)(t.expires - clock_kvmclock_ns(v->vm, base_rdtsc())) < 0)
		*r = -ETIME;
	else
		xen_set_timer(v, MAX(t.expires, 1U));
	return true;
}

/* As Xen, for times that only an overflow can have made: soon. */
static bool set_timer_op(struct vcpu *v, const struct call *c, int64_t *r)
{
	uint64_t t = c->param[0], now = clock_kvmclock_ns(v->vm, base_rdtsc());

	if (!v->xen.timer_port)
		return false;
	if (!c->is64)
		t |= c->param[1] << 32;
	if (t && ((int64_t)t < 0 || (t > now && (t - now) >> 50)))
		t = now + TIMER_WORKAROUND_NS;
	xen_set_timer(v, t);
	*r = 0;
	return true;
}

static bool answer(struct vcpu *v, const struct call *c, int64_t *r)
{
	switch (c->input) {
	case CALL_XEN_VERSION: *r = xen_version(v->vm); return c->param[0] == 0 && *r;
	case CALL_EVENT_CHANNEL: return c->param[0] == EVTCHN_SEND && evtchn_send(v, c, r);
	case CALL_SCHED_OP: return sched_op(v, c, r);
	case CALL_VCPU_OP: return vcpu_op(v, c, r);
	case CALL_SET_TIMER: return set_timer_op(v, c, r);
	default: return false;
	}
}

/* -- Entry -- */

static enum engine_status finish(struct vcpu *v, struct kvm_regs *regs, uint64_t result)
{
	regs->rax = result;
	engine_set_regs(v->cpu, regs);
	return ENGINE_OK;
}

static void complete(struct vcpu *v)
{
	uint64_t result = v->run->xen.u.hcall.result;

	memcpy(v->pending.access.data, &result, sizeof(result));
	replay_add(v, &v->pending.access, NULL);
}

static enum engine_status ask_vmm(struct vcpu *v, const struct call *c)
{
	struct vcpu_access a = {.kind = ACCESS_HYPERCALL, .len = 8, .addr = c->input};

	if (!replay_reserve(v))
		return vcpu_stop_result(v, -ENOMEM);
	v->run->exit_reason = KVM_EXIT_XEN;
	v->run->xen.type = KVM_EXIT_XEN_HCALL;
	v->run->xen.u.hcall.longmode = c->is64;
	v->run->xen.u.hcall.cpl = engine_cpl(v->cpu);
	v->run->xen.u.hcall.input = c->input;
	memcpy(v->run->xen.u.hcall.params, c->param, sizeof(c->param));
	return vcpu_stop(v, &a, complete);
}

static void parse(struct call *c, const struct kvm_regs *r)
{
	const uint64_t wide[6] = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9};
	const uint64_t narrow[6] = {r->rbx, r->rcx, r->rdx, r->rsi, r->rdi, r->rbp};

	c->input = c->is64 ? r->rax : (uint32_t)r->rax;
	for (unsigned i = 0; i < 6; i++)
		c->param[i] = c->is64 ? wide[i] : (uint32_t)narrow[i];
}

enum engine_status xen_call(struct vcpu *v, bool is64)
{
	const struct vcpu_access *done;
	struct call c = {.is64 = is64};
	struct kvm_regs regs;
	uint64_t result;
	int64_t r = -ENOSYS;

	engine_get_regs(v->cpu, &regs);
	parse(&c, &regs);
	if ((c.input & HYPERV_BIT) && hyperv_active(v))
		return hyperv_call(v, is64);
	done = v->replay.n ? replay_find(v, ACCESS_HYPERCALL, c.input, 8, false) : NULL;
	if (done) {
		memcpy(&result, done->data, sizeof(result));
		return finish(v, &regs, result);
	}
	if (engine_cpl(v->cpu) || !answer(v, &c, &r))
		return ask_vmm(v, &c);
	return finish(v, &regs, (uint64_t)r);
}
