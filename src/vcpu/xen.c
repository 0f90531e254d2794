/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Xen: attributes, shared pages, event channels, run states, timers. An event that a line or an irqfd raises is only
 * noted; the target's own thread writes it into guest memory. The VMM's and the guest's own go there at once.
 */
#include "vcpu/xen.h"

#include "base/eventfd.h"
#include "vcpu/internal.h"

#define AS_NORMAL    0
#define NSEC_PER_SEC 1000000000ULL
#define PENDING	     0x800 /* of the shared info page: a bit per port */
#define MASK_64	     0xa00
#define MASK_32	     0x880
#define WALL_64	     0xc00
#define WALL_HI_64   0xc0c
#define WALL_32	     0x900
#define WALL_HI_32   0x924
#define SELECTOR_64  8 /* of vcpu_info: a bit per word of PENDING */
#define SELECTOR_32  4
#define INFO_SIZE    64
#define RS_UPDATE    BIT(63)
#define FIRST_VECTOR 0x10
#define PRIO_2LEVEL  KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL

enum { RS_RUNNING, RS_RUNNABLE, RS_BLOCKED, RS_OFFLINE };
enum { TYPE_INTERDOMAIN = 2, TYPE_IPI = 5 };

/* A port that the guest sends to. */
struct outbound {
	struct outbound *next;
	uint32_t send_port, type, port, vcpu; /* port 0: an eventfd */
	struct base_eventfd event;
};

struct xen_vm {
	struct mutex lock; /* outbound, config */
	struct kvm_xen_hvm_config config;
	_Atomic uint32_t flags, msr; /* of config */
	_Atomic bool long_mode;
	_Atomic uint8_t upcall_vector;
	_Atomic uint32_t version;
	_Atomic uint64_t shinfo; /* guest-physical, or XEN_NO_PAGE */
	struct outbound *outbound;
};

static uint64_t now_ns(struct vcpu_vm *vm)
{
	return clock_kvmclock_ns(vm, base_rdtsc());
}

bool xen_active(const struct vcpu_vm *vm)
{
	return atomic_load_explicit(&vm->xen->flags, memory_order_relaxed) &
	       KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL;
}

bool xen_long_mode(const struct vcpu_vm *vm)
{
	return atomic_load(&vm->xen->long_mode);
}

void xen_latch_long_mode(struct vcpu_vm *vm, bool on)
{
	atomic_store(&vm->xen->long_mode, on);
}

unsigned xen_max_port(const struct vcpu_vm *vm)
{
	return xen_long_mode(vm) ? XEN_PORTS : 1024;
}

uint32_t xen_version(const struct vcpu_vm *vm)
{
	return atomic_load(&vm->xen->version);
}

void xen_config(const struct vcpu_vm *vm, struct kvm_xen_hvm_config *out)
{
	mutex_lock(&vm->xen->lock);
	*out = vm->xen->config;
	mutex_unlock(&vm->xen->lock);
}

bool xen_sends(const struct vcpu_vm *vm)
{
	return atomic_load(&vm->xen->flags) & KVM_XEN_HVM_CONFIG_EVTCHN_SEND;
}

uint32_t vcpu_xen_msr(const struct vcpu_vm *vm)
{
	return atomic_load_explicit(&vm->xen->msr, memory_order_relaxed);
}

/* -- Event channels -- */

/* Sets a bit of a bitmap in guest memory. 1 = it was set, 0, -EFAULT. */
static int set_bit(struct mem *mem, uint64_t gpa, unsigned bit)
{
	uint64_t old = 0;
	uint32_t word, mask = 1u << (bit & 31);
	int r;

	gpa += bit / 32 * sizeof(word);
	r = mem_read(mem, AS_NORMAL, gpa, &word, sizeof(word));
	for (old = word; !r && !(old & mask);) {
		uint64_t seen = old;

		r = mem_cmpxchg(mem, AS_NORMAL, gpa, sizeof(word), &seen, old | mask);
		if (!r && seen == old)
			return 0;
		old = seen;
	}
	return r ? r : 1;
}

static int test_bit(struct mem *mem, uint64_t gpa, unsigned bit)
{
	uint32_t word;
	int r = mem_read(mem, AS_NORMAL, gpa + bit / 32 * sizeof(word), &word, sizeof(word));

	return r ? r : (int)(word >> (bit & 31) & 1);
}

/* The bits are in shared info: now the target's vcpu_info, and the interrupt. */
static void tell(struct vcpu_vm *vm, struct vcpu *t, uint64_t info, uint32_t port)
{
	bool lm = xen_long_mode(vm);
	uint8_t one = 1, vector = atomic_load(&t->xen.upcall_vector);

	if (set_bit(vm->mem, info + (lm ? SELECTOR_64 : SELECTOR_32), port / (lm ? 64 : 32)))
		return; /* told before, or no such page any more */
	mem_write(vm->mem, AS_NORMAL, info, &one, sizeof(one));
	if (vector && t->lapic)
		lapic_interrupt(t->lapic, vector);
	else
		vcpu_request(t, VCPU_REQ_EVENT);
}

/* A masked port that somebody polls wakes him. */
static void check_poller(struct vcpu *t, uint32_t port)
{
	int64_t poll = atomic_load(&t->xen.poll);

	if (poll != -1 && poll != port)
		return;
	atomic_store(&t->unhalted, true);
	vcpu_request(t, VCPU_REQ_EVENT);
}

int xen_send(struct vcpu_vm *vm, struct vcpu *t, uint32_t port)
{
	uint64_t info = t ? atomic_load(&t->xen.info) : XEN_NO_PAGE, page = atomic_load(&vm->xen->shinfo);
	int r;

	if (info == XEN_NO_PAGE || page == XEN_NO_PAGE || port >= xen_max_port(vm))
		return -EINVAL;
	r = set_bit(vm->mem, page + PENDING, port);
	if (r)
		return r < 0 ? -EINVAL : 0;
	r = test_bit(vm->mem, page + (xen_long_mode(vm) ? MASK_64 : MASK_32), port);
	if (r) {
		check_poller(t, port);
		return r < 0 ? -EINVAL : -ENOTCONN;
	}
	tell(vm, t, info, port);
	if (atomic_load(&t->xen.poll))
		check_poller(t, port);
	return 1;
}

int xen_raise(struct vcpu_vm *vm, uint32_t id, uint32_t port)
{
	struct vcpu *t = vcpu_by_id(vm, id);

	if (!t || port >= xen_max_port(vm))
		return -EINVAL;
	atomic_fetch_or(&t->xen.raised[port / 64], BIT(port % 64));
	vcpu_request(t, VCPU_REQ_XEN);
	return 1;
}

bool xen_port_pending(struct vcpu *v, uint32_t port)
{
	uint64_t page = atomic_load(&v->vm->xen->shinfo);

	return page == XEN_NO_PAGE || test_bit(v->vm->mem, page + PENDING, port);
}

bool xen_has_interrupt(struct vcpu *v, int *vector)
{
	uint64_t info = atomic_load_explicit(&v->xen.info, memory_order_relaxed);
	uint8_t pending;

	*vector = atomic_load_explicit(&v->vm->xen->upcall_vector, memory_order_relaxed);
	if (likely(info == XEN_NO_PAGE) || !*vector)
		return false;
	return !mem_read(v->vm->mem, AS_NORMAL, info, &pending, sizeof(pending)) && pending;
}

void xen_request(struct vcpu *v)
{
	for (unsigned i = 0; i < ARRAY_SIZE(v->xen.raised); i++) {
		uint64_t bits = atomic_load_explicit(&v->xen.raised[i], memory_order_relaxed);

		for (bits = bits ? atomic_exchange(&v->xen.raised[i], 0) : 0; bits; bits &= bits - 1)
			xen_send(v->vm, v, 64 * i + (unsigned)__builtin_ctzll(bits));
	}
	if (!atomic_load(&v->xen.timer_due))
		return;
	xen_send(v->vm, v, v->xen.timer_port);
	v->xen.timer_expires = 0;
	atomic_store(&v->xen.timer_due, false);
}

/* -- Outbound ports -- */

static struct outbound **find_outbound(struct xen_vm *x, uint32_t port)
{
	struct outbound **p = &x->outbound;

	while (*p && (*p)->send_port != port)
		p = &(*p)->next;
	return p;
}

static void outbound_free(struct outbound *o)
{
	if (!o->port)
		base_eventfd_put(&o->event);
	base_free(o);
}

int xen_send_outbound(struct vcpu *v, uint32_t port)
{
	struct xen_vm *x = v->vm->xen;
	uint32_t to = 0, id = 0;
	struct outbound *o;
	int r;

	mutex_lock(&x->lock);
	o = *find_outbound(x, port);
	if (o) {
		to = o->port;
		id = o->vcpu;
		if (!to)
			base_eventfd_signal(&o->event);
	}
	mutex_unlock(&x->lock);
	if (!o)
		return 0;
	if (!to)
		return 1;
	r = xen_send(v->vm, vcpu_by_id(v->vm, id), to);
	return r >= 0 || r == -ENOTCONN;
}

static int outbound_del(struct xen_vm *x, uint32_t port)
{
	struct outbound **p, *o;

	mutex_lock(&x->lock);
	p = find_outbound(x, port);
	o = *p;
	if (o)
		*p = o->next;
	mutex_unlock(&x->lock);
	if (!o)
		return -ENOENT;
	outbound_free(o);
	return 0;
}

static void outbound_reset(struct xen_vm *x)
{
	struct outbound *list, *next;

	mutex_lock(&x->lock);
	list = x->outbound;
	x->outbound = NULL;
	mutex_unlock(&x->lock);
	for (; list; list = next) {
		next = list->next;
		outbound_free(list);
	}
}

/* Only the vCPU of a port may change. */
static int outbound_update(struct xen_vm *x, const struct kvm_xen_hvm_attr *a)
{
	struct outbound *o;
	int r = 0;

	mutex_lock(&x->lock);
	o = *find_outbound(x, a->u.evtchn.send_port);
	if (!o)
		r = -ENOENT;
	else if (o->type != a->u.evtchn.type || !o->port || o->port != a->u.evtchn.deliver.port.port ||
		 a->u.evtchn.deliver.port.priority != PRIO_2LEVEL)
		r = -EINVAL;
	else
		o->vcpu = a->u.evtchn.deliver.port.vcpu;
	mutex_unlock(&x->lock);
	return r;
}

/* The delivery that the VMM asks for; -EINVAL, or base_eventfd_get's. */
static int outbound_fill(struct vcpu_vm *vm, struct outbound *o, const struct kvm_xen_hvm_attr *a)
{
	uint32_t port = a->u.evtchn.deliver.port.port;

	if (a->u.evtchn.type == TYPE_IPI ? port != a->u.evtchn.send_port
					 : a->u.evtchn.type != TYPE_INTERDOMAIN || port >= xen_max_port(vm))
		return -EINVAL;
	o->send_port = a->u.evtchn.send_port;
	o->type = a->u.evtchn.type;
	if (!port)
		return base_eventfd_get(&o->event, a->u.evtchn.deliver.eventfd.fd);
	if (a->u.evtchn.deliver.port.priority != PRIO_2LEVEL)
		return -EINVAL;
	o->port = port;
	o->vcpu = a->u.evtchn.deliver.port.vcpu;
	return 0;
}

static int outbound_add(struct vcpu_vm *vm, const struct kvm_xen_hvm_attr *a)
{
	struct outbound *o = base_zalloc(sizeof(*o)), **p;
	int r;

	if (!o)
		return -ENOMEM;
	r = outbound_fill(vm, o, a);
	if (r) {
		base_free(o);
		return r;
	}
	mutex_lock(&vm->xen->lock);
	p = find_outbound(vm->xen, o->send_port);
	r = *p ? -EEXIST : 0;
	if (!r)
		*p = o;
	mutex_unlock(&vm->xen->lock);
	if (r)
		outbound_free(o);
	return r;
}

static int set_outbound(struct vcpu_vm *vm, const struct kvm_xen_hvm_attr *a)
{
	uint32_t port = a->u.evtchn.send_port;

	if (a->u.evtchn.flags == KVM_XEN_EVTCHN_RESET) {
		outbound_reset(vm->xen);
		return 0;
	}
	if (!port || port >= xen_max_port(vm))
		return -EINVAL;
	switch (a->u.evtchn.flags) {
	case KVM_XEN_EVTCHN_DEASSIGN: return outbound_del(vm->xen, port);
	case KVM_XEN_EVTCHN_UPDATE: return outbound_update(vm->xen, a);
	case 0: return outbound_add(vm, a);
	default: return -EINVAL;
	}
}

/* -- The VM's attributes -- */

int vcpu_vm_xen_config(struct vcpu_vm *vm, const struct kvm_xen_hvm_config *c)
{
	if (c->flags & ~(KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL | KVM_XEN_HVM_CONFIG_EVTCHN_SEND))
		return -EINVAL;
	if ((c->flags & KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL) &&
	    (c->blob_addr_32 || c->blob_addr_64 || c->blob_size_32 || c->blob_size_64))
		return -EINVAL;
	mutex_lock(&vm->xen->lock);
	vm->xen->config = *c;
	mutex_unlock(&vm->xen->lock);
	atomic_store(&vm->xen->flags, c->flags);
	atomic_store(&vm->xen->msr, c->msr);
	return 0;
}

/* Tells what time it was when kvmclock was 0. */
static int write_wall(struct vcpu_vm *vm, uint64_t page)
{
	bool lm = xen_long_mode(vm);
	uint64_t at = page + (lm ? WALL_64 : WALL_32), ns = clock_wall_ns(vm);
	uint32_t version, wall[2] = {(uint32_t)(ns / NSEC_PER_SEC), (uint32_t)(ns % NSEC_PER_SEC)};
	uint32_t hi = (uint32_t)(ns / NSEC_PER_SEC >> 32);
	int r = mem_read(vm->mem, AS_NORMAL, at, &version, sizeof(version));

	version = (version + 1) | 1;
	r = r ?: mem_write(vm->mem, AS_NORMAL, at, &version, sizeof(version));
	r = r ?: mem_write(vm->mem, AS_NORMAL, at + sizeof(version), wall, sizeof(wall));
	r = r ?: mem_write(vm->mem, AS_NORMAL, page + (lm ? WALL_HI_64 : WALL_HI_32), &hi, sizeof(hi));
	version++;
	return r ?: mem_write(vm->mem, AS_NORMAL, at, &version, sizeof(version));
}

static int set_shared_info(struct vcpu_vm *vm, uint64_t gfn)
{
	uint64_t page = gfn << PAGE_SHIFT;
	int r;

	if (gfn == XEN_NO_PAGE) {
		atomic_store(&vm->xen->shinfo, XEN_NO_PAGE);
		return 0;
	}
	r = write_wall(vm, page);
	if (r)
		return r;
	atomic_store(&vm->xen->shinfo, page);
	clock_refresh(vm);
	return 0;
}

int vcpu_vm_xen_set_attr(struct vcpu_vm *vm, const struct kvm_xen_hvm_attr *a)
{
	switch (a->type) {
	case KVM_XEN_ATTR_TYPE_LONG_MODE: atomic_store(&vm->xen->long_mode, a->u.long_mode != 0); return 0;
	case KVM_XEN_ATTR_TYPE_SHARED_INFO: return set_shared_info(vm, a->u.shared_info.gfn);
	case KVM_XEN_ATTR_TYPE_UPCALL_VECTOR:
		if (a->u.vector && a->u.vector < FIRST_VECTOR)
			return -EINVAL;
		atomic_store(&vm->xen->upcall_vector, a->u.vector);
		return 0;
	case KVM_XEN_ATTR_TYPE_EVTCHN: return set_outbound(vm, a);
	case KVM_XEN_ATTR_TYPE_XEN_VERSION: atomic_store(&vm->xen->version, a->u.xen_version); return 0;
	default: return -ENOENT;
	}
}

int vcpu_vm_xen_get_attr(struct vcpu_vm *vm, struct kvm_xen_hvm_attr *a)
{
	uint64_t page = atomic_load(&vm->xen->shinfo);

	switch (a->type) {
	case KVM_XEN_ATTR_TYPE_LONG_MODE: a->u.long_mode = xen_long_mode(vm); return 0;
	case KVM_XEN_ATTR_TYPE_SHARED_INFO:
		a->u.shared_info.gfn = page == XEN_NO_PAGE ? page : page >> PAGE_SHIFT;
		return 0;
	case KVM_XEN_ATTR_TYPE_UPCALL_VECTOR: a->u.vector = atomic_load(&vm->xen->upcall_vector); return 0;
	case KVM_XEN_ATTR_TYPE_XEN_VERSION: a->u.xen_version = xen_version(vm); return 0;
	default: return -ENOENT;
	}
}

int vcpu_vm_xen_evtchn_send(struct vcpu_vm *vm, const struct kvm_irq_routing_xen_evtchn *e)
{
	int r;

	if (!e->port || e->port >= xen_max_port(vm) || e->priority != PRIO_2LEVEL)
		return -EINVAL;
	r = xen_send(vm, vcpu_by_id(vm, e->vcpu), e->port);
	return r > 0 || r == -ENOTCONN ? 0 : r;
}

/* -- Run states -- */

/* Accounts the time since the last change; what this thread waited for a CPU was "runnable". */
static void change_runstate(struct vcpu *v, uint32_t state)
{
	uint64_t now = now_ns(v->vm), delta = now - v->xen.rs.entry_time, delay = v->xen.rs.last_delay, steal;

	if (!v->xen.rs.entry_time)
		v->xen.rs.state = RS_OFFLINE;
	pv_run_delay(v, &delay);
	if (v->xen.rs.state == RS_RUNNING) {
		steal = MIN(delay - v->xen.rs.last_delay, delta);
		delta -= steal;
		v->xen.rs.time[RS_RUNNABLE] += steal;
	}
	v->xen.rs.last_delay = delay;
	v->xen.rs.time[v->xen.rs.state] += delta;
	v->xen.rs.state = state;
	v->xen.rs.entry_time = now;
}

/* The guest's record: 32-bit guests have no padding behind the state. */
static void write_runstate(struct vcpu *v)
{
	uint64_t gpa = v->xen.runstate, entry = v->xen.rs.entry_time | RS_UPDATE;
	uint64_t at = gpa + (xen_long_mode(v->vm) ? 8 : 4);
	struct mem *mem = v->vm->mem;

	if (gpa == XEN_NO_PAGE || mem_write(mem, AS_NORMAL, at, &entry, sizeof(entry)))
		return;
	mem_write(mem, AS_NORMAL, gpa, &v->xen.rs.state, sizeof(v->xen.rs.state));
	mem_write(mem, AS_NORMAL, at + sizeof(entry), v->xen.rs.time, sizeof(v->xen.rs.time));
	mem_write(mem, AS_NORMAL, at, &v->xen.rs.entry_time, sizeof(entry));
}

void xen_begin_run(struct vcpu *v)
{
	if (likely(!vcpu_xen_msr(v->vm)))
		return;
	if (atomic_load(&v->xen.poll) && atomic_load(&v->mp_state) == KVM_MP_STATE_HALTED)
		atomic_store(&v->mp_state, KVM_MP_STATE_RUNNABLE); /* a signal ended SCHEDOP_poll */
	xen_poll_end(v);
	change_runstate(v, RS_RUNNING);
	write_runstate(v);
}

static uint64_t runstate_sum(const struct kvm_xen_vcpu_attr *a)
{
	return a->u.runstate.time_running + a->u.runstate.time_runnable + a->u.runstate.time_blocked +
	       a->u.runstate.time_offline;
}

static int set_runstate(struct vcpu *v, const struct kvm_xen_vcpu_attr *a)
{
	uint64_t add = a->type == KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADJUST ? ~0ULL : 0,
		 state = a->u.runstate.state;
	uint64_t times[4] = {a->u.runstate.time_running, a->u.runstate.time_runnable,
			     a->u.runstate.time_blocked, a->u.runstate.time_offline};

	if (state > RS_OFFLINE && !(add && state == ~0ULL))
		return -EINVAL;
	if (a->type == KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT) {
		change_runstate(v, (uint32_t)state);
		return 0;
	}
	if (a->u.runstate.state_entry_time != runstate_sum(a) ||
	    now_ns(v->vm) < (v->xen.rs.entry_time & add) + a->u.runstate.state_entry_time)
		return -EINVAL;
	v->xen.rs.entry_time = (v->xen.rs.entry_time & add) + a->u.runstate.state_entry_time;
	for (unsigned i = 0; i < 4; i++)
		v->xen.rs.time[i] = (v->xen.rs.time[i] & add) + times[i];
	if (!add) {
		v->xen.rs.state = (uint32_t)state;
		pv_run_delay(v, &v->xen.rs.last_delay);
	} else if (state <= RS_OFFLINE) {
		change_runstate(v, (uint32_t)state);
	}
	return 0;
}

static void get_runstate(const struct vcpu *v, struct kvm_xen_vcpu_attr *a)
{
	a->u.runstate.state = v->xen.rs.state;
	if (a->type == KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT)
		return;
	a->u.runstate.state_entry_time = v->xen.rs.entry_time;
	a->u.runstate.time_running = v->xen.rs.time[RS_RUNNING];
	a->u.runstate.time_runnable = v->xen.rs.time[RS_RUNNABLE];
	a->u.runstate.time_blocked = v->xen.rs.time[RS_BLOCKED];
	a->u.runstate.time_offline = v->xen.rs.time[RS_OFFLINE];
}

/* -- Timers -- */

static void on_timer(void *arg)
{
	struct vcpu *v = arg;

	atomic_store(&v->xen.timer_due, true);
	vcpu_request(v, VCPU_REQ_XEN);
}

static void on_poll_timer(void *arg)
{
	struct vcpu *v = arg;

	atomic_store(&v->unhalted, true);
	vcpu_request(v, VCPU_REQ_EVENT);
}

void xen_poll_end(struct vcpu *v)
{
	if (!atomic_load(&v->xen.poll))
		return;
	loop_timer_cancel(&v->xen.poll_timer);
	atomic_store(&v->xen.poll, 0);
}

void xen_set_timer(struct vcpu *v, uint64_t expires)
{
	uint64_t now = now_ns(v->vm);

	loop_timer_cancel(&v->xen.timer);
	atomic_store(&v->xen.timer_due, false);
	v->xen.timer_expires = expires;
	if (!expires)
		return;
	if (expires <= now)
		on_timer(v);
	else
		loop_timer_set(&v->xen.timer, base_now_ns() + MIN(expires - now, (uint64_t)INT64_MAX / 2));
}

static int set_timer_attr(struct vcpu *v, const struct kvm_xen_vcpu_attr *a)
{
	if (a->u.timer.port && a->u.timer.priority != PRIO_2LEVEL)
		return -EINVAL;
	xen_set_timer(v, 0);
	v->xen.timer_port = a->u.timer.port;
	if (a->u.timer.port)
		xen_set_timer(v, a->u.timer.expires_ns);
	return 0;
}

/* -- A vCPU's attributes -- */

/* A page of the guest's for us: it must be there now. */
static int set_gpa(struct vcpu *v, uint64_t gpa, size_t size)
{
	if (gpa == XEN_NO_PAGE)
		return 0;
	if ((gpa & PAGE_OFFSET_MASK) + size > PAGE_SIZE || !mem_is_visible(v->vm->mem, AS_NORMAL, gpa))
		return -EINVAL;
	return 0;
}

int vcpu_xen_set_attr(struct vcpu *v, const struct kvm_xen_vcpu_attr *a)
{
	int r;

	switch (a->type) {
	case KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO:
		r = set_gpa(v, a->u.gpa, INFO_SIZE);
		if (!r)
			atomic_store(&v->xen.info, a->u.gpa);
		vcpu_request_quiet(v, VCPU_REQ_CLOCK);
		return r;
	case KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO:
		r = set_gpa(v, a->u.gpa, 32);
		if (!r)
			v->xen.time = a->u.gpa;
		vcpu_request_quiet(v, VCPU_REQ_CLOCK);
		return r;
	case KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR:
		r = set_gpa(v, a->u.gpa, 48);
		if (!r)
			v->xen.runstate = a->u.gpa;
		return r;
	case KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT:
	case KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA:
	case KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADJUST: return set_runstate(v, a);
	case KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID:
		if (a->u.vcpu_id >= VCPU_MAX)
			return -EINVAL;
		v->xen.vcpu_id = a->u.vcpu_id;
		return 0;
	case KVM_XEN_VCPU_ATTR_TYPE_TIMER: return set_timer_attr(v, a);
	case KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR:
		if (a->u.vector && a->u.vector < FIRST_VECTOR)
			return -EINVAL;
		atomic_store(&v->xen.upcall_vector, a->u.vector);
		return 0;
	default: return -ENOENT;
	}
}

int vcpu_xen_get_attr(struct vcpu *v, struct kvm_xen_vcpu_attr *a)
{
	switch (a->type) {
	case KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO: a->u.gpa = atomic_load(&v->xen.info); return 0;
	case KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO: a->u.gpa = v->xen.time; return 0;
	case KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR:
		a->u.gpa = v->xen.runstate;
		return v->xen.runstate == XEN_NO_PAGE ? -ENOENT : 0;
	case KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT:
	case KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA: get_runstate(v, a); return 0;
	case KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADJUST: return -EINVAL;
	case KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID: a->u.vcpu_id = v->xen.vcpu_id; return 0;
	case KVM_XEN_VCPU_ATTR_TYPE_TIMER:
		a->u.timer.port = v->xen.timer_port;
		a->u.timer.priority = PRIO_2LEVEL;
		a->u.timer.expires_ns = v->xen.timer_expires;
		return 0;
	case KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR: a->u.vector = atomic_load(&v->xen.upcall_vector); return 0;
	default: return -ENOENT;
	}
}

/* -- Birth and end -- */

int xen_vm_init(struct vcpu_vm *vm)
{
	vm->xen = base_zalloc(sizeof(*vm->xen));
	if (!vm->xen)
		return -ENOMEM;
	mutex_init(&vm->xen->lock, LOCK_XEN);
	atomic_store(&vm->xen->shinfo, XEN_NO_PAGE);
	return 0;
}

void xen_vm_destroy(struct vcpu_vm *vm)
{
	outbound_reset(vm->xen);
	base_free(vm->xen);
	vm->xen = NULL;
}

void xen_init(struct vcpu *v)
{
	v->xen.vcpu_id = v->index;
	atomic_store(&v->xen.info, XEN_NO_PAGE);
	v->xen.time = v->xen.runstate = XEN_NO_PAGE;
	loop_timer_init(&v->xen.timer, on_timer, v);
	loop_timer_init(&v->xen.poll_timer, on_poll_timer, v);
}

void xen_destroy(struct vcpu *v)
{
	loop_timer_cancel(&v->xen.timer);
	loop_timer_cancel(&v->xen.poll_timer);
}
