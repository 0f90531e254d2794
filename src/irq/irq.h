/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chips and routes that turn lines and messages into vectors: 8259 pair, IOAPIC, one LAPIC per vCPU, PIT
 * with speaker port, GSI routing, irqfd. Locks: irq_lock for routing updates and irqfd lists, one lock per
 * chip, irq_srcu for readers of the routing table. Lines may be raised from any thread, the loop included.
 */
#ifndef USERKVM_IRQ_IRQ_H
#define USERKVM_IRQ_IRQ_H

#include <linux/kvm.h>

#include "base/base.h"
#include "bus/bus.h"

struct irq_vm; /* one VM's interrupt world */
struct lapic;  /* one vCPU's local APIC */

enum irq_mode { IRQ_MODE_NONE, IRQ_MODE_KERNEL, IRQ_MODE_SPLIT };
/* Who drives a line: its level is the OR of its sources. The VMM's ioctls are IRQ_SOURCE_USER. */
enum irq_source { IRQ_SOURCE_USER, IRQ_SOURCE_RESAMPLE, IRQ_SOURCE_PIT };
enum irq_request { IRQ_REQ_INIT, IRQ_REQ_SIPI, IRQ_REQ_NMI, IRQ_REQ_SMI, IRQ_REQ_EXTINT };

/* Calls up, from any thread, under chip locks: they must not sleep nor call back into irq/. */
struct irq_port {
	/* Look at your interrupts again (wakes a halted vCPU, sets the exit word of a running one). */
	void (*kick)(void *vcpu);
	/* The same, and nothing but time has passed: nobody tells the vCPU of anything in memory. */
	void (*tick)(void *vcpu);
	void (*request)(void *vcpu, enum irq_request what, uint8_t vector);
	/* Split irqchip: leave KVM_RUN with KVM_EXIT_IOAPIC_EOI for this vector. */
	void (*eoi_exit)(void *vcpu, uint8_t vector);
	/* CLOCK_MONOTONIC ns at which the guest's TSC reaches the value. */
	uint64_t (*tsc_deadline_ns)(void *vcpu, uint64_t guest_tsc);
	/* Not under a chip lock: the guest ended an interrupt of lapic_set_synic. NULL: none is ever set. */
	void (*synic_eoi)(void *vcpu, uint8_t vector);
	/* Routes to event channels of Xen's and sources of Hyper-V's; vm is irq_create's ctx. 1 = taken, -errno.
	 * NULL: such routes are refused. */
	int (*xen_event)(void *vm, uint32_t vcpu, uint32_t port);
	int (*sint)(void *vm, uint32_t vcpu, uint32_t sint);
	/* PIC output towards the boot vCPU (and every vCPU whose LINT0 accepts ExtINT). */
	void (*kick_boot)(void *vm);
};

/* ctx is passed to kick_boot. locks: kvm->slots_lock for bus registration. -ENOMEM. */
int irq_create(struct irq_vm **out, const struct irq_port *port, void *ctx, struct bus_set *bus,
	       struct mutex *slots_lock);
/* Detaches every irqfd; idempotent; first thing of the VM file's release. */
void irq_release_irqfds(struct irq_vm *v);
/* Nobody calls up any more on a thread of ours: irqfds, the PIT and the IOAPIC's timer end. Before the vCPUs do; takes
 * slots_lock. Idempotent. */
void irq_stop(struct irq_vm *v);
/* No vCPU left; before bus_destroy, and takes slots_lock. */
void irq_destroy(struct irq_vm *v);
enum irq_mode irq_get_mode(const struct irq_vm *v);

/* -- ioctls; kvm->lock held unless said otherwise. errno as KVM 6.1 -- */
int irq_create_chip(struct irq_vm *v);		       /* -EEXIST; -EINVAL is the caller's (vCPUs exist) */
int irq_create_split(struct irq_vm *v, unsigned pins); /* -EEXIST, -EINVAL */
unsigned irq_split_pins(const struct irq_vm *v);
int irq_get_chip(struct irq_vm *v, struct kvm_irqchip *chip); /* -ENXIO no chip, -EINVAL id */
int irq_set_chip(struct irq_vm *v, const struct kvm_irqchip *chip);
int irq_create_pit(struct irq_vm *v, const struct kvm_pit_config *cfg); /* -EEXIST, -ENOENT */
int irq_get_pit(struct irq_vm *v, struct kvm_pit_state2 *s);		/* -ENXIO */
int irq_set_pit(struct irq_vm *v, const struct kvm_pit_state2 *s);
int irq_set_pit_reinject(struct irq_vm *v, bool reinject);
int irq_set_routing(struct irq_vm *v, const struct kvm_irq_routing_entry *e, unsigned n, unsigned flags);
/* Any thread, no lock needed. Status as KVM_IRQ_LINE_STATUS: <0 ignored/masked, 0 coalesced, >0 delivered;
 * NULL for KVM_IRQ_LINE, whose caller does not compensate lost RTC ticks. source: enum irq_source. */
int irq_set_line(struct irq_vm *v, unsigned source, uint32_t gsi, int level,
		 int *status);					 /* -ENXIO without chip */
int irq_signal_msi(struct irq_vm *v, const struct kvm_msi *msi); /* as the ioctl returns: >0, 0, -errno */
int irq_irqfd(struct irq_vm *v, const struct kvm_irqfd *args);
/* A source of Hyper-V's was acknowledged: notifiers of its GSIs hear of it. No lock held. */
void irq_notify_sint(struct irq_vm *v, uint32_t vcpu, uint32_t sint);
/* KVM_CAP_X2APIC_API flags: 1 = 32-bit ids, 2 = no broadcast quirk. */
void irq_set_x2apic_api(struct irq_vm *v, uint64_t flags);

/* -- LAPIC; every function below is for the owning vCPU's thread (vcpu->mutex) unless marked any -- */
int lapic_create(struct lapic **out, struct irq_vm *v, void *vcpu, uint32_t id, bool bsp);
void lapic_destroy(struct lapic *l); /* leaves the maps first */
void lapic_reset(struct lapic *l, bool init);
int lapic_get_state(struct lapic *l, struct kvm_lapic_state *s);
int lapic_set_state(struct lapic *l, const struct kvm_lapic_state *s); /* -EINVAL */
uint64_t lapic_get_base(const struct lapic *l);
/* IA32_APIC_BASE: -EINVAL (#GP) for reserved bits and forbidden mode changes; host may change more. */
int lapic_set_base(struct lapic *l, uint64_t base, bool host, bool x2apic_allowed, uint64_t reserved);
/* True if the physical address is this LAPIC's MMIO page and it is in xAPIC mode. */
bool lapic_mmio_match(const struct lapic *l, uint64_t gpa);
void lapic_mmio_read(struct lapic *l, uint32_t offset, unsigned len, void *data);
void lapic_mmio_write(struct lapic *l, uint32_t offset, unsigned len, const void *data);
int lapic_msr_read(struct lapic *l, uint32_t index, uint64_t *val); /* 0x800..0x8ff; -EINVAL = #GP */
int lapic_msr_write(struct lapic *l, uint32_t index, uint64_t val);
uint64_t lapic_get_tscdeadline(const struct lapic *l);
void lapic_set_tscdeadline(struct lapic *l, uint64_t guest_tsc);
uint64_t lapic_get_cr8(const struct lapic *l);
void lapic_set_cr8(struct lapic *l, uint64_t val);
bool lapic_sw_enabled(const struct lapic *l);
bool lapic_is_bsp(const struct lapic *l);
/* True if this vCPU takes the PIC's INTR (or, split irqchip, KVM_INTERRUPT's vector) now. Any thread. */
bool lapic_accepts_extint(const struct lapic *l);
/* CPUID changed: is TSC-deadline mode offered. */
void lapic_set_features(struct lapic *l, bool tsc_deadline);
/* The VMM gave the vCPU corrected machine check interrupts (MCG_CMCI_P), or took them: LVT entry 0x2f0. */
void lapic_set_cmci(struct lapic *l, bool cmci);
/* KVM_SMI/KVM_NMI/KVM_INTERRUPT do not pass here. Any: an NMI through LVT LINT1 (KVM_NMI from QEMU uses it
 * directly). */
/* lvt: the entry's register offset, 0x320 (timer) to 0x370 (error), or 0x2f0 (CMCI). 1 = delivered, 0 = masked or disabled. */
int lapic_local_deliver(struct lapic *l, unsigned lvt);
/* Requests a fixed, edge-triggered interrupt; 1 = taken, 0 = not. Any thread. */
int lapic_interrupt(struct lapic *l, uint8_t vector);
/* Hyper-V's SynIC uses the vector (its EOI is told to port->synic_eoi), or needs no EOI for it. */
void lapic_set_synic(struct lapic *l, uint8_t vector, bool connected, bool auto_eoi);
/* PV EOI (MSR_KVM_PV_EOI_EN): the vCPU room reads and writes the guest's word; these decide and settle. */
bool lapic_pv_eoi_wanted(struct lapic *l); /* after an injection: may the guest skip the EOI */
void lapic_pv_eoi_done(struct lapic *l);   /* the guest cleared the word: do the EOI */

/* -- What the run loop asks (KERNEL: PIC and LAPIC; SPLIT: LAPIC and EXTINT from KVM_INTERRUPT) -- */
/* The vector that would be delivered now, or -1. Cheap: called at every poll. */
int irq_cpu_pending(struct irq_vm *v, struct lapic *l);
/* Acknowledges and returns it; -1 if it went away. */
int irq_cpu_ack(struct irq_vm *v, struct lapic *l);

#endif
