/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The order of injection: what was half delivered, exceptions, SMI, NMI, interrupt; what masks each of them;
 * and that a delivery which stopped is made again.	make check T=vcpu/events
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "vcpu/internal.h"

/* -- A world around event.c: it records what happens as text -- */

static char tape[256];
static bool interruptible, window, stop_next;
static unsigned shadow;
static int irq_vector; /* -1 none */
static struct kvm_debugregs dregs;
static struct kvm_sregs sregs;
static enum irq_mode mode;
static uint32_t lvt0;

static void record(const char *what, unsigned n)
{
	size_t at = strlen(tape);

	snprintf(tape + at, sizeof(tape) - at, n ? "%s%u " : "%s ", what, n);
}

enum engine_exit engine_deliver(struct engine_cpu *c, const struct engine_event *ev)
{
	static const char *const name[] = {[ENGINE_EV_INTR] = "intr",
					   [ENGINE_EV_NMI] = "nmi",
					   [ENGINE_EV_EXCEPTION] = "exc",
					   [ENGINE_EV_SOFT] = "soft"};

	record(name[ev->kind], ev->kind == ENGINE_EV_NMI ? 0 : ev->vector);
	if (stop_next) {
		stop_next = false;
		return ENGINE_EXIT_STOP;
	}
	if (ev->kind == ENGINE_EV_INTR)
		interruptible = false; /* through an interrupt gate */
	return ENGINE_EXIT_STEPPED;
}

bool engine_interruptible(const struct engine_cpu *c)
{
	return interruptible && !shadow;
}

unsigned engine_get_shadow(const struct engine_cpu *c)
{
	return shadow;
}

void engine_want_window(struct engine_cpu *c, bool want)
{
	window = want;
}

bool xen_has_interrupt(struct vcpu *v, int *vector)
{
	return false;
}

bool stimer_waits(const struct vcpu *v)
{
	return false;
}

uint64_t engine_get_cr0(const struct engine_cpu *c)
{
	return 1;
}

void engine_get_debugregs(const struct engine_cpu *c, struct kvm_debugregs *d)
{
	*d = dregs;
}

int engine_set_debugregs(struct engine_cpu *c, const struct kvm_debugregs *d)
{
	dregs = *d;
	return 0;
}

void engine_get_sregs(const struct engine_cpu *c, struct kvm_sregs *s)
{
	*s = sregs;
}

int engine_set_sregs(struct engine_cpu *c, const struct kvm_sregs *s)
{
	sregs = *s;
	return 0;
}

void engine_get_regs(const struct engine_cpu *c, struct kvm_regs *r)
{
	*r = (struct kvm_regs){.rip = 0xfff0};
}

void engine_set_regs(struct engine_cpu *c, const struct kvm_regs *r)
{
	record("rip", r->rip);
}

bool engine_pae_paging(const struct engine_cpu *c)
{
	return false;
}

void engine_get_pdptrs(const struct engine_cpu *c, uint64_t pdptrs[4])
{
}

void engine_set_pdptrs(struct engine_cpu *c, const uint64_t pdptrs[4])
{
}

int irq_cpu_pending(struct irq_vm *v, struct lapic *l)
{
	return irq_vector;
}

int irq_cpu_ack(struct irq_vm *v, struct lapic *l)
{
	int vector = irq_vector;

	irq_vector = -1;
	return vector;
}

enum irq_mode irq_get_mode(const struct irq_vm *v)
{
	return mode;
}

uint64_t lapic_get_base(const struct lapic *l)
{
	return 0xfee00800;
}

bool lapic_is_bsp(const struct lapic *l)
{
	return false;
}

void lapic_mmio_read(struct lapic *l, uint32_t offset, unsigned len, void *data)
{
	memcpy(data, offset == 0x350 ? &lvt0 : &(uint32_t){0}, len);
}

void lapic_mmio_write(struct lapic *l, uint32_t offset, unsigned len, const void *data)
{
}

int lapic_msr_read(struct lapic *l, uint32_t index, uint64_t *val)
{
	return -EINVAL;
}

int mem_read(struct mem *m, unsigned as, uint64_t gpa, void *buf, size_t len)
{
	return -EFAULT;
}

int mem_write(struct mem *m, unsigned as, uint64_t gpa, const void *buf, size_t len)
{
	return -EFAULT;
}

int run_exit(struct vcpu *v, enum engine_exit x)
{
	return x == ENGINE_EXIT_STOP ? 0 : -EINVAL;
}

void smm_enter(struct vcpu *v)
{
	record("smi", 0);
	v->ev.smi.in_smm = true;
	v->ev.nmi.masked = true;
}

void vcpu_reset(struct vcpu *v, bool init)
{
	record("init", 0);
}

void replay_clear(struct vcpu *v)
{
}

void replay_rewind(struct vcpu *v)
{
}

static int setup(void **state)
{
	static struct vcpu_vm vm;
	static struct kvm_run run;
	struct vcpu *v = base_zalloc(sizeof(*v));

	if (!v)
		return -1;
	memset(&run, 0, sizeof(run));
	v->vm = &vm;
	v->run = &run;
	v->lapic = (struct lapic *)&vm; /* any */
	v->ev.extint = -1;
	*state = v;
	tape[0] = 0;
	interruptible = true;
	window = stop_next = false;
	shadow = 0;
	irq_vector = -1;
	lvt0 = 0x10000;
	mode = IRQ_MODE_KERNEL;
	memset(&dregs, 0, sizeof(dregs));
	memset(&sregs, 0, sizeof(sregs));
	return 0;
}

static int teardown(void **state)
{
	base_free(*state);
	return 0;
}

static void post_nmi(struct vcpu *v, unsigned n)
{
	atomic_store(&v->nmi_queued, n);
	vcpu_request_quiet(v, VCPU_REQ_NMI);
	event_collect(v);
}

static void post_smi(struct vcpu *v)
{
	vcpu_request_quiet(v, VCPU_REQ_SMI);
	event_collect(v);
}

/* -- Order -- */

static void test_exception_smi_nmi_interrupt(void **state)
{
	struct vcpu *v = *state;

	event_queue(v, 14, true, 2);
	post_smi(v);
	post_nmi(v, 1);
	irq_vector = 0x31;
	assert_int_equal(event_inject(v), 1);
	/* The SMI handler masks NMIs; the test's SMM leaves interrupts on, so the interrupt comes too. */
	assert_string_equal(tape, "exc14 smi intr49 ");
	assert_int_equal(v->ev.nmi.pending, 1);
	v->ev.smi.in_smm = false;
	v->ev.nmi.masked = false; /* RSM */
	assert_int_equal(event_inject(v), 1);
	assert_string_equal(tape, "exc14 smi intr49 nmi ");
	assert_true(v->ev.nmi.masked);
}

static void test_half_delivered_first(void **state)
{
	struct vcpu *v = *state;

	v->ev.irq.injected = true;
	v->ev.irq.vector = 0x20;
	post_nmi(v, 1);
	irq_vector = 0x31;
	assert_int_equal(event_inject(v), 1);
	assert_string_equal(tape, "intr32 nmi ");
	assert_true(window); /* 0x31 waits for IF */
	assert_false(v->ev.irq.injected);
}

static void test_stopped_delivery_is_repeated(void **state)
{
	struct vcpu *v = *state;

	irq_vector = 0x40;
	stop_next = true;
	assert_int_equal(event_inject(v), 0);
	assert_true(v->ev.irq.injected);
	assert_true(v->pending.delivering);
	assert_int_equal(irq_vector, -1); /* acknowledged once */
	assert_int_equal(event_redeliver(v), 2);
	assert_string_equal(tape, "intr64 intr64 ");
	assert_false(v->ev.irq.injected);
}

/* -- Masks -- */

static void test_interrupt_waits_for_if(void **state)
{
	struct vcpu *v = *state;

	interruptible = false;
	irq_vector = 0x40;
	assert_int_equal(event_inject(v), 1);
	assert_string_equal(tape, "");
	assert_true(window);
	irq_vector = -1;
	assert_int_equal(event_inject(v), 1);
	assert_false(window); /* nobody waits any more */
}

static void test_shadow_holds_nmi_and_smi(void **state)
{
	struct vcpu *v = *state;

	shadow = ENGINE_SHADOW_STI;
	post_nmi(v, 1);
	assert_int_equal(event_inject(v), 1);
	assert_true(v->step_once);
	shadow = 0;
	assert_int_equal(event_inject(v), 1);
	assert_false(v->step_once);
	shadow = ENGINE_SHADOW_MOVSS;
	post_smi(v);
	assert_int_equal(event_inject(v), 1);
	assert_true(v->step_once);
	assert_string_equal(tape, "nmi ");
}

/* One running and one waiting at most. */
static void test_nmis_collapse(void **state)
{
	struct vcpu *v = *state;

	post_nmi(v, 5);
	assert_int_equal(v->ev.nmi.pending, 2);
	assert_int_equal(event_inject(v), 1);
	post_nmi(v, 5);
	assert_int_equal(v->ev.nmi.pending, 1);
	assert_string_equal(tape, "nmi ");
	v->ev.nmi.masked = false; /* IRET */
	assert_int_equal(event_inject(v), 1);
	assert_string_equal(tape, "nmi nmi ");
}

static void test_blockirq(void **state)
{
	struct vcpu *v = *state;

	v->guest_debug = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_BLOCKIRQ;
	event_queue(v, 3, false, 0);
	post_nmi(v, 1);
	irq_vector = 0x40;
	assert_int_equal(event_inject(v), 1);
	assert_string_equal(tape, "exc3 ");
	assert_int_equal(irq_vector, 0x40);
}

/* -- Exceptions -- */

static void test_double_and_triple_fault(void **state)
{
	struct vcpu *v = *state;

	event_queue(v, 13, true, 8);
	event_queue(v, 14, true, 0);
	assert_int_equal(v->ev.exc.vector, 14); /* contributory, then #PF: serial */
	event_queue(v, 11, true, 8);
	assert_int_equal(v->ev.exc.vector, 8);
	assert_int_equal(v->ev.exc.error, 0);
	event_queue(v, 13, true, 0);
	assert_true(atomic_load(&v->requests) & VCPU_REQ_TRIPLE_FAULT);
	assert_false(v->ev.exc.pending);
}

static void test_payload(void **state)
{
	struct vcpu *v = *state;

	v->ev.exc = (struct vcpu_exception){
	    .pending = true, .vector = 14, .has_error = true, .has_payload = true, .payload = 0xdead000};
	assert_int_equal(event_inject(v), 1);
	assert_int_equal(sregs.cr2, 0xdead000);
	dregs.dr6 = 0xffff0ff0 | 3;
	dregs.dr7 = 0x2400; /* GD */
	v->ev.exc = (struct vcpu_exception){
	    .pending = true, .vector = 1, .has_payload = true, .payload = 0x4000 | 1 << 16 | 1 << 12};
	assert_int_equal(event_inject(v), 1);
	assert_int_equal(dregs.dr6, 0xfffe4ff0); /* BS set, RTM cleared, B0 and B1 gone, bit 12 dropped */
	assert_int_equal(dregs.dr7, 0x400);
	assert_string_equal(tape, "exc14 exc1 ");
}

/* -- External interrupts of the VMM -- */

static void test_split_extint(void **state)
{
	struct vcpu *v = *state;

	mode = IRQ_MODE_SPLIT;
	v->ev.extint = 0x30;
	assert_int_equal(event_inject(v), 1);
	assert_string_equal(tape, ""); /* LVT0 is masked */
	lvt0 = 0x700;
	assert_false(event_dm_ready(v));
	assert_int_equal(event_inject(v), 1);
	assert_string_equal(tape, "intr48 ");
	assert_int_equal(v->ev.extint, -1);
	interruptible = true;
	assert_true(event_dm_ready(v));
	lvt0 = 0x10700;
	assert_false(event_dm_ready(v));
}

static void test_window_request(void **state)
{
	struct vcpu *v = *state;

	mode = IRQ_MODE_NONE;
	v->lapic = NULL;
	v->run->request_interrupt_window = 1;
	interruptible = false;
	assert_int_equal(event_inject(v), 1);
	assert_true(window);
	interruptible = true;
	assert_int_equal(event_inject(v), 1);
	assert_false(window);
	assert_true(event_dm_ready(v));
	v->ev.irq.injected = true;
	assert_false(event_dm_ready(v));
}

/* -- INIT and SIPI -- */

static void test_init_sipi(void **state)
{
	struct vcpu *v = *state;

	atomic_store(&v->mp_state, KVM_MP_STATE_UNINITIALIZED);
	post_nmi(v, 1);
	assert_false(event_wakes(v)); /* an NMI does not start a processor */
	atomic_store(&v->init_sipi, VCPU_EVENT_SIPI);
	assert_true(event_wakes(v));
	event_init_sipi(v);
	assert_int_equal(atomic_load(&v->mp_state), KVM_MP_STATE_UNINITIALIZED); /* no INIT before */
	atomic_store(&v->init_sipi, VCPU_EVENT_INIT);
	event_init_sipi(v);
	assert_int_equal(atomic_load(&v->mp_state), KVM_MP_STATE_INIT_RECEIVED);
	assert_false(event_wakes(v));
	atomic_store(&v->sipi_vector, 0x9a);
	atomic_store(&v->init_sipi, VCPU_EVENT_SIPI);
	event_init_sipi(v);
	assert_int_equal(atomic_load(&v->mp_state), KVM_MP_STATE_RUNNABLE);
	assert_int_equal(sregs.cs.selector, 0x9a00);
	assert_int_equal(sregs.cs.base, 0x9a000);
	assert_string_equal(tape, "init rip ");
}

static void test_smm_latches_init(void **state)
{
	struct vcpu *v = *state;

	v->ev.smi.in_smm = true;
	atomic_store(&v->init_sipi, VCPU_EVENT_INIT | VCPU_EVENT_SIPI);
	event_init_sipi(v);
	assert_int_equal(atomic_load(&v->init_sipi), VCPU_EVENT_INIT);
	v->ev.smi.in_smm = false;
	event_init_sipi(v);
	assert_string_equal(tape, "init ");
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(test_exception_smi_nmi_interrupt),
	    CASE(test_half_delivered_first),
	    CASE(test_stopped_delivery_is_repeated),
	    CASE(test_interrupt_waits_for_if),
	    CASE(test_shadow_holds_nmi_and_smi),
	    CASE(test_nmis_collapse),
	    CASE(test_blockirq),
	    CASE(test_double_and_triple_fault),
	    CASE(test_payload),
	    CASE(test_split_extint),
	    CASE(test_window_request),
	    CASE(test_init_sipi),
	    CASE(test_smm_latches_init),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
