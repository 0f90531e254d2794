/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the engine asks: pages, devices, and whatever belongs to the surroundings of a CPU. Devices of ours
 * are called inside an srcu section opened here; what nobody claims goes to the VMM through kvm_run.
 */
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mutate.h"
#include "vcpu/internal.h"

#define APIC_TASKPRI	 0x80
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_LAST	 0x8ff
#define KVMVAPIC_PORT	 0x7e
#define FILL_YIELDS	 1000 /* then naps, */
#define FILL_NAP_NS	 100000
#define FILL_TRIES	 10000 /* and outside KVM_RUN no more than this */
#define MWAIT_NAP_NS	 100000

enum engine_status vcpu_stop(struct vcpu *v, const struct vcpu_access *a, void (*complete)(struct vcpu *v))
{
	v->pending = (struct vcpu_pending){
	    .complete = complete, .linear_rip = engine_linear_rip(v->cpu), .access = *a};
	v->run_result = 0;
	return ENGINE_STOP;
}

enum engine_status vcpu_stop_result(struct vcpu *v, int result)
{
	v->pending.complete = NULL;
	v->run_result = result;
	return ENGINE_STOP;
}

/* An interrupt may have become deliverable by what this instruction did to the APIC. */
static void look_again(struct vcpu *v)
{
	if (irq_cpu_pending(v->vm->irq, v->lapic) >= 0)
		vcpu_look_again(v);
}

/* -- Pages -- */

/* A slot update is soon over; the change of the VMM's mappings may wait for its userfault handler. */
static void fill_wait(struct vcpu *v, unsigned tries)
{
	const struct timespec nap = {.tv_nsec = FILL_NAP_NS};

	sched_yield();
	if (tries < FILL_YIELDS)
		return;
	atomic_store(&v->waiting, true);
	syscall(SYS_futex, v->exit_word, FUTEX_WAIT_PRIVATE, 0, &nap, NULL, 0);
	atomic_store(&v->waiting, false);
}

/* mem_fill, waiting out MEM_RETRY here: the engine would begin the instruction again, device accesses
 * included. MEM_RETRY: a signal was caught, or nobody runs who could be interrupted. */
static enum mem_fill_result fill(struct vcpu *v, uint64_t gpa, bool write, struct mem_page *p)
{
	for (unsigned tries = 0;; tries++) {
		enum mem_fill_result r;

		r = mem_fill(v->vm->mem, vcpu_as(v), gpa, write, p);
		if (r != MEM_RETRY || (v->in_run && base_sig_run_caught(&v->sig)) ||
		    (!v->in_run && tries == FILL_TRIES))
			return r;
		fill_wait(v, tries);
	}
}

/* Leaves KVM_RUN with the instruction to be begun again. */
static enum engine_fill fill_leave(struct vcpu *v, int result, uint32_t reason)
{
	v->run_result = result;
	v->run->exit_reason = reason;
	return FILL_BADHOST;
}

static enum engine_fill port_fill(void *ctx, uint64_t gpa, bool write, struct engine_page *page)
{
	struct vcpu *v = ctx;
	struct mem_page p;

	switch (fill(v, gpa, write, &p)) {
	case MEM_FIXED:
		*page = (struct engine_page){
		    .host = p.host, .writable = p.writable, .tracked = p.tracked, .id = p.id};
		if (write && unlikely(mem_ring_soft_full(v->ring)))
			vcpu_request(v, VCPU_REQ_EVENT); /* the exit comes behind this instruction */
		return FILL_FIXED;
	case MEM_MMIO: return FILL_MMIO;
	case MEM_READONLY: return FILL_READONLY;
	case MEM_RETRY: return fill_leave(v, -EINTR, KVM_EXIT_INTR);
	case MEM_FULL: return fill_leave(v, RUN_FILLED, KVM_EXIT_DIRTY_RING_FULL);
	case MEM_NOMEM: break;
	}
	v->run_result = -ENOMEM;
	return FILL_BADHOST;
}

static void port_tracked(void *ctx, uint64_t gpa, const void *data, unsigned len)
{
	struct vcpu *v = ctx;

	mem_track_told(v->vm->mem, gpa, data, len);
}

/* -- Memory-mapped devices -- */

/* Takes the VMM's answer to KVM_EXIT_MMIO. */
static void complete_mmio(struct vcpu *v)
{
	struct vcpu_access *a = &v->pending.access;

	if (!a->write)
		memcpy(a->data, v->run->mmio.data, sizeof(a->data));
	replay_add(v, a, NULL);
}

/* True if the local APIC claims the access. */
static bool mmio_lapic(struct vcpu *v, uint64_t gpa, void *data, unsigned len, bool write)
{
	uint32_t offset = gpa & PAGE_OFFSET_MASK;

	if (!v->lapic || !lapic_mmio_match(v->lapic, gpa))
		return false;
	if (v->tpr_reporting && (offset & ~0xfU) == APIC_TASKPRI) {
		struct kvm_regs regs;

		engine_get_regs(v->cpu, &regs);
		v->tpr_access.rip = regs.rip;
		v->tpr_access.write = write;
		vcpu_request(v, VCPU_REQ_TPR_REPORT);
	}
	if (write)
		lapic_mmio_write(v->lapic, offset, len, data);
	else
		lapic_mmio_read(v->lapic, offset, len, data);
	look_again(v);
	return true;
}

/* True if a device on the buses claims the access. */
static bool mmio_bus(struct vcpu *v, uint64_t gpa, void *data, unsigned len, bool write)
{
	struct bus_set *bus = v->vm->bus;
	int idx, r;

	if (!bus_may_claim(bus, BUS_MMIO, gpa) && !bus_may_claim(bus, BUS_FAST_MMIO, gpa))
		return false;
	idx = srcu_read_lock(v->vm->srcu);
	if (!write)
		r = bus_read(bus, BUS_MMIO, gpa, len, data);
	else if (!bus_write(bus, BUS_FAST_MMIO, gpa, 0, NULL))
		r = 0;
	else
		r = bus_write(bus, BUS_MMIO, gpa, len, data);
	srcu_read_unlock(v->vm->srcu, idx);
	return !r;
}

/* Asks the VMM. */
static enum engine_status mmio_exit(struct vcpu *v, const struct vcpu_access *a)
{
	struct kvm_run *run = v->run;

	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = a->addr;
	run->mmio.len = a->len;
	run->mmio.is_write = a->write;
	memcpy(run->mmio.data, a->data, sizeof(a->data));
	return vcpu_stop(v, a, complete_mmio);
}

static enum engine_status port_mmio(void *ctx, uint64_t gpa, void *data, unsigned len, bool write)
{
	struct vcpu *v = ctx;
	const struct vcpu_access *done = replay_find(v, ACCESS_MMIO, gpa, len, write);
	struct vcpu_access a = {.kind = ACCESS_MMIO, .write = write, .len = len, .addr = gpa};

	if (done) {
		if (!write)
			memcpy(data, done->data, len);
		return ENGINE_OK;
	}
	if (!replay_reserve(v))
		return vcpu_stop_result(v, -ENOMEM);
	if (write)
		memcpy(a.data, data, len);
	if (!mmio_lapic(v, gpa, data, len, write) && !mmio_bus(v, gpa, data, len, write))
		return mmio_exit(v, &a);
	if (!write)
		memcpy(a.data, data, len);
	replay_add(v, &a, NULL);
	return ENGINE_OK;
}

/* -- Ports -- */

/* Takes the VMM's answer to KVM_EXIT_IO. */
static void complete_pio(struct vcpu *v)
{
	const struct vcpu_access *a = &v->pending.access;

	replay_add(v, a, a->write ? NULL : (uint8_t *)v->run + VCPU_IO_PAGE_OFFSET);
}

/*
 * `count` accesses to a device of ours; false if nobody claims the first. A device that goes away in between
 * swallows writes and reads as zero, as in KVM.
 */
static bool pio_bus(struct vcpu *v, uint16_t port, uint8_t *data, unsigned size, unsigned count, bool write)
{
	int idx, r = 0;
	unsigned i;

	if (!bus_may_claim(v->vm->bus, BUS_PIO, port))
		return false;
	idx = srcu_read_lock(v->vm->srcu);
	for (i = 0; i < count && !r; i++, data += size) {
		if (write)
			r = bus_write(v->vm->bus, BUS_PIO, port, size, data);
		else
			r = bus_read(v->vm->bus, BUS_PIO, port, size, data);
		if (r && i && !write)
			memset(data, 0, (size_t)size * (count - i));
	}
	srcu_read_unlock(v->vm->srcu, idx);
	return !r || i > 1;
}

/* Asks the VMM; the data go through the second page of the vCPU's mapping. */
static enum engine_status pio_exit(struct vcpu *v, const struct vcpu_access *a, const void *data,
				   unsigned size, unsigned count)
{
	struct kvm_run *run = v->run;
	uint8_t *page = (uint8_t *)run + VCPU_IO_PAGE_OFFSET;
	enum engine_status st;

	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = a->write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = size;
	run->io.port = a->addr;
	run->io.count = count;
	run->io.data_offset = VCPU_IO_PAGE_OFFSET;
	if (a->write)
		memcpy(page, data, a->len);
	else
		memset(page, 0, a->len);
	st = vcpu_stop(v, a, complete_pio);
	v->pending.early = a->write && count == 1 && a->addr == KVMVAPIC_PORT &&
			   !(v->vm->disabled_quirks & KVM_X86_QUIRK_OUT_7E_INC_RIP);
	return st;
}

static enum engine_status port_pio(void *ctx, uint16_t port, void *data, unsigned size, unsigned count,
				   bool write)
{
	struct vcpu *v = ctx;
	struct vcpu_access a = {.kind = ACCESS_PIO, .write = write, .len = size * count, .addr = port};

	if (replay_find(v, ACCESS_PIO, port, a.len, write)) {
		if (!write)
			memcpy(data, v->replay.pio, a.len);
		return ENGINE_OK;
	}
	base_bug_on(a.len > PAGE_SIZE);
	if (mutated(MUTATE_KVM_IN_EXIT)) {
		mutex_lock(v->vm->lock);
		mutex_unlock(v->vm->lock);
	}
	if (a.len > PAGE_SIZE || !replay_reserve(v))
		return vcpu_stop_result(v, -ENOMEM);
	if (!pio_bus(v, port, data, size, count, write))
		return pio_exit(v, &a, data, size, count);
	replay_add(v, &a, write ? NULL : data);
	return ENGINE_OK;
}

/* -- CPUID, MSRs, time -- */

static enum engine_status port_cpuid(void *ctx, uint32_t regs[4])
{
	return vcpu_cpuid_port(ctx, regs);
}

static enum engine_status port_rdmsr(void *ctx, uint32_t index, uint64_t *value)
{
	return vcpu_rdmsr_port(ctx, index, value);
}

static enum engine_status port_wrmsr(void *ctx, uint32_t index, uint64_t value)
{
	struct vcpu *v = ctx;
	enum engine_status st = vcpu_wrmsr_port(v, index, value);

	if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST && v->lapic)
		look_again(v);
	return st;
}

static enum engine_status port_rdpmc(void *ctx, uint32_t index, uint64_t *value)
{
	return vcpu_rdpmc_port(ctx, index, value);
}

static uint64_t port_tsc(void *ctx)
{
	return clock_guest_tsc(ctx);
}

/* -- The rest -- */

static enum engine_status port_cr8(void *ctx, uint64_t *value, bool write)
{
	struct vcpu *v = ctx;
	uint64_t before = vcpu_get_cr8(v);

	if (!write) {
		*value = before;
		return ENGINE_OK;
	}
	if (vcpu_set_cr8(v, *value))
		return ENGINE_GP;
	if (*value >= before)
		return ENGINE_OK;
	if (v->lapic) {
		look_again(v);
	} else {
		v->set_tpr_exit = true;
		vcpu_kick(v);
	}
	return ENGINE_OK;
}

/* MONITOR and MWAIT are NOPs, as KVM has them by default; without that quirk #UD unless the guest's CPUID has
 * them. With MWAIT exits disabled the guest means it: a short nap that any request ends. */
static enum engine_status port_mwait(void *ctx, bool monitor)
{
	struct vcpu *v = ctx;
	const struct timespec nap = {.tv_nsec = MWAIT_NAP_NS};
	bool offered = cpuid_feature(v, 1, 2) & BIT(3);

	if (!offered && (v->vm->disabled_quirks & KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS))
		return ENGINE_UD;
	if (monitor || !(v->vm->disabled_exits & KVM_X86_DISABLE_EXITS_MWAIT))
		return ENGINE_OK;
	atomic_store(&v->waiting, true);
	syscall(SYS_futex, v->exit_word, FUTEX_WAIT_PRIVATE, 0, &nap, NULL, 0);
	atomic_store(&v->waiting, false);
	return ENGINE_OK;
}

/* A filter, or exits for refused MSRs, may concern any of them. */
static bool port_msr_watched(void *ctx, uint32_t index)
{
	struct vcpu *v = ctx;

	return v->vm->user_space_msr_mask || atomic_load_explicit(&v->vm->msr_filter, memory_order_relaxed);
}

static enum engine_status port_hypercall(void *ctx, bool vmmcall)
{
	return vcpu_hypercall(ctx, vmmcall);
}

static enum engine_status port_rsm(void *ctx)
{
	return smm_leave(ctx);
}

/* NMIs open again; one that waited is taken at the next boundary. */
static void port_iret(void *ctx)
{
	struct vcpu *v = ctx;

	v->ev.nmi.masked = false;
	if (v->ev.nmi.pending)
		vcpu_look_again(v);
}

static bool port_poll(void *ctx)
{
	struct vcpu *v = ctx;

	atomic_store(v->exit_word, 0);
	if (unlikely(v->pmu.armed) && !engine_counts(v->cpu)->left)
		vcpu_request_quiet(v, VCPU_REQ_PMU);
	if (v->completing)
		return false;
	return atomic_load(&v->requests) || v->set_tpr_exit || base_sig_run_caught(&v->sig);
}

const struct engine_port vcpu_engine_port = {
    .fill = port_fill,
    .tracked = port_tracked,
    .mmio = port_mmio,
    .pio = port_pio,
    .cpuid = port_cpuid,
    .rdmsr = port_rdmsr,
    .wrmsr = port_wrmsr,
    .rdpmc = port_rdpmc,
    .cr8 = port_cr8,
    .tsc = port_tsc,
    .hypercall = port_hypercall,
    .mwait = port_mwait,
    .msr_watched = port_msr_watched,
    .rsm = port_rsm,
    .iret = port_iret,
    .poll = port_poll,
};
