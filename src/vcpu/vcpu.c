/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation, reset, kicks, and the calls up from irq/. */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vcpu/internal.h"

#define APIC_DEFAULT_BASE 0xfee00000ULL
#define APIC_BASE_BSP	  BIT(8)
#define APIC_BASE_ENABLE  BIT(11)
#define SMBASE_RESET	  0x30000
#define RDX_RESET	  0x600 /* family 6, where the VMM set no CPUID */

/* -- Process and VM -- */

int vcpu_init(void)
{
	static _Atomic int state; /* 0 = to do, 1 = done; racing callers repeat idempotent work */
	int r;

	if (atomic_load(&state))
		return 0;
	r = cpuid_init();
	if (!r)
		r = msr_init();
	if (!r)
		atomic_store(&state, 1);
	return r;
}

int vcpu_vm_init(struct vcpu_vm *vm)
{
	int r = clock_vm_init(vm);

	if (r)
		return r;
	r = msr_vm_init(vm);
	if (!r)
		r = hyperv_vm_init(vm);
	if (!r) {
		r = xen_vm_init(vm);
		if (r)
			hyperv_vm_destroy(vm);
	}
	if (r) {
		msr_vm_destroy(vm);
		clock_vm_destroy(vm);
	}
	return r;
}

void vcpu_vm_destroy(struct vcpu_vm *vm)
{
	xen_vm_destroy(vm);
	pmu_vm_destroy(vm);
	hyperv_vm_destroy(vm);
	msr_vm_destroy(vm);
	clock_vm_destroy(vm);
}

struct vcpu *vcpu_by_id(struct vcpu_vm *vm, uint32_t id)
{
	unsigned i, n = atomic_load(&vm->nr_vcpus);

	for (i = 0; i < n; i++) {
		struct vcpu *v = atomic_load(&vm->vcpus[i]);

		if (v && v->id == id)
			return v;
	}
	return NULL;
}

/* -- Creation -- */

static bool is_reset_bsp(const struct vcpu *v)
{
	return v->id == v->vm->boot_cpu_id;
}

/* Makes the engine's CPU, the LAPIC and the log; what was made is destroyed by the caller on failure. */
static int make_parts(struct vcpu *v)
{
	int r = engine_cpu_create(&v->cpu, v->vm->code, &vcpu_engine_port, v);

	if (r)
		return r;
	v->exit_word = engine_exit_word(v->cpu);
	v->sig.exit_word = v->exit_word;
	v->sig.kick = engine_kick;
	v->sig.arg = v->cpu;
	r = replay_init(v);
	if (r)
		return r;
	if (mem_ring_bytes(v->vm->mem)) {
		r = mem_ring_create(&v->ring, v->vm->mem,
				    (uint8_t *)v->run + KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE);
		if (r)
			return r;
	}
	if (irq_get_mode(v->vm->irq) == IRQ_MODE_NONE)
		return 0;
	return lapic_create(&v->lapic, v->vm->irq, v, v->id, is_reset_bsp(v));
}

int vcpu_create(struct vcpu **out, struct vcpu_vm *vm, uint32_t id, unsigned index, struct kvm_run *run)
{
	struct vcpu *v = base_zalloc(sizeof(*v));
	int r;

	if (!v)
		return -ENOMEM;
	v->vm = vm;
	v->id = id;
	v->index = index;
	v->run = run;
	v->ev.extint = -1;
	mutex_init(&v->mutex, LOCK_VCPU);
	hyperv_init(v);
	pmu_init(v);
	xen_init(v);
	r = make_parts(v);
	if (r) {
		vcpu_destroy(v);
		return r;
	}
	clock_vcpu_init(v);
	vcpu_reset(v, false);
	atomic_store(&v->mp_state,
		     v->lapic && !is_reset_bsp(v) ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE);
	*out = v;
	return 0;
}

void vcpu_destroy(struct vcpu *v)
{
	if (!v)
		return;
	hyperv_destroy(v);
	pmu_destroy(v);
	xen_destroy(v);
	if (v->lapic)
		lapic_destroy(v->lapic);
	if (v->cpu) {
		msr_destroy(v);
		cpuid_destroy(v);
		engine_cpu_destroy(v->cpu);
	}
	replay_destroy(v);
	mem_ring_destroy(v->ring);
	base_free(v);
}

struct mutex *vcpu_mutex(struct vcpu *v)
{
	return &v->mutex;
}

unsigned vcpu_engine_stats(const struct vcpu *v, struct engine_stats *s, struct engine_left *left,
			   unsigned max)
{
	engine_stats(v->cpu, s);
	return engine_stats_left(v->cpu, left, max);
}

uint32_t vcpu_id(const struct vcpu *v)
{
	return v->id;
}

/* -- Reset -- */

/* RDX holds the CPU's signature after RESET and INIT. */
static void reset_rdx(struct vcpu *v)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, 1, 0);
	struct kvm_regs r;

	engine_get_regs(v->cpu, &r);
	r.rdx = e ? e->eax : RDX_RESET;
	engine_set_regs(v->cpu, &r);
}

void vcpu_reset(struct vcpu *v, bool init)
{
	if (v->ev.smi.in_smm)
		smm_switch(v, false);
	v->ev = (struct vcpu_events){.extint = v->ev.extint};
	v->pending = (struct vcpu_pending){0};
	v->hlt_active = false;
	atomic_store(&v->nmi_queued, 0);
	atomic_store(&v->unhalted, false);
	replay_clear(v);
	engine_reset(v->cpu, init);
	if (!init) {
		v->smbase = SMBASE_RESET;
		v->cr8 = 0;
		v->apic_base = APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (is_reset_bsp(v) ? APIC_BASE_BSP : 0);
		cpuid_reset(v);
	}
	if (v->lapic)
		lapic_reset(v->lapic, init);
	msr_reset(v, init);
	pv_reset(v, init);
	pmu_reset(v);
	reset_rdx(v);
	vcpu_request_quiet(v, VCPU_REQ_EVENT);
}

/* -- Kicks -- */

static void poke(struct vcpu *v)
{
	atomic_store(v->exit_word, 1); /* before the look at waiting; pairs with run_sleep */
	if (atomic_load(&v->waiting))
		syscall(SYS_futex, v->exit_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void vcpu_kick(struct vcpu *v)
{
	atomic_store_explicit(&v->news, true, memory_order_relaxed); /* before the exit word */
	poke(v);
}

void vcpu_request(struct vcpu *v, uint64_t bits)
{
	atomic_fetch_or(&v->requests, bits);
	vcpu_kick(v);
}

void vcpu_look_again(struct vcpu *v)
{
	atomic_fetch_or(&v->requests, VCPU_REQ_EVENT);
	poke(v);
}

/* -- Calls up from irq/: any thread, under chip locks -- */

static void port_kick(void *vcpu)
{
	vcpu_request(vcpu, VCPU_REQ_EVENT);
}

static void port_tick(void *vcpu)
{
	vcpu_look_again(vcpu);
}

static void port_request(void *vcpu, enum irq_request what, uint8_t vector)
{
	struct vcpu *v = vcpu;
	uint64_t bits = VCPU_REQ_EVENT;

	switch (what) {
	case IRQ_REQ_INIT:
		atomic_store(&v->init_sipi, VCPU_EVENT_INIT); /* a SIPI that came before is void */
		break;
	case IRQ_REQ_SIPI:
		atomic_store(&v->sipi_vector, vector);
		atomic_fetch_or(&v->init_sipi, VCPU_EVENT_SIPI);
		break;
	case IRQ_REQ_NMI:
		atomic_fetch_add(&v->nmi_queued, 1);
		bits |= VCPU_REQ_NMI;
		break;
	case IRQ_REQ_SMI: bits |= VCPU_REQ_SMI; break;
	case IRQ_REQ_EXTINT: break;
	}
	vcpu_request(v, bits);
}

static void port_eoi_exit(void *vcpu, uint8_t vector)
{
	struct vcpu *v = vcpu;

	atomic_fetch_or(&v->eoi_vectors[vector / 64], BIT(vector % 64));
	vcpu_request(v, VCPU_REQ_EOI_EXIT);
}

static int port_xen_event(void *vm, uint32_t vcpu, uint32_t port)
{
	return xen_raise(vm, vcpu, port);
}

static int port_sint(void *vm, uint32_t vcpu, uint32_t sint)
{
	return synic_raise(vm, vcpu, sint);
}

static void port_synic_eoi(void *vcpu, uint8_t vector)
{
	synic_eoi(vcpu, vector);
}

static uint64_t port_tsc_deadline_ns(void *vcpu, uint64_t guest_tsc)
{
	return clock_tsc_deadline_ns(vcpu, guest_tsc);
}

/* The PIC's output rose: whoever takes ExtINT finds out by itself; an AP before its SIPI cannot. */
static void port_kick_boot(void *ctx)
{
	struct vcpu_vm *vm = ctx;
	unsigned i, n = atomic_load(&vm->nr_vcpus);

	for (i = 0; i < n; i++) {
		struct vcpu *v = atomic_load(&vm->vcpus[i]);
		uint32_t mp = v ? atomic_load(&v->mp_state) : KVM_MP_STATE_UNINITIALIZED;

		if (mp != KVM_MP_STATE_UNINITIALIZED && mp != KVM_MP_STATE_INIT_RECEIVED)
			vcpu_request(v, VCPU_REQ_EVENT);
	}
}

const struct irq_port vcpu_irq_port = {
    .kick = port_kick,
    .tick = port_tick,
    .request = port_request,
    .eoi_exit = port_eoi_exit,
    .synic_eoi = port_synic_eoi,
    .xen_event = port_xen_event,
    .sint = port_sint,
    .tsc_deadline_ns = port_tsc_deadline_ns,
    .kick_boot = port_kick_boot,
};
