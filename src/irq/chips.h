/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside the irq room: the VM's interrupt world and the verbs of its chips.
 *
 * One rule keeps the lock order simple: whoever takes a chip's lock has entered irq_srcu before
 * (irq_enter), so routes, ack notifiers and LAPICs may be used under it. Ack notifiers run without any
 * chip lock.
 */
#ifndef USERKVM_IRQ_CHIPS_H
#define USERKVM_IRQ_CHIPS_H

#include "irq/irq.h"

#define IRQ_LAPICS  1024 /* vCPUs of a VM */
#define IRQ_ROUTES  4096 /* KVM_CAP_IRQ_ROUTING: routes and GSIs */
#define PIC_PINS    16	 /* both chips */
#define IOAPIC_PINS KVM_IOAPIC_NUM_PINS
#define RTC_PIN	    8

struct pic;
struct ioapic;
struct pit;
struct irq_table;
struct apic_map;
struct irqfd;
struct resampler;

/* Delivery modes as the chips' registers encode them. ORDER DM */
enum irq_dm { DM_FIXED, DM_LOWEST, DM_SMI, DM_REMOTE_READ, DM_NMI, DM_INIT, DM_STARTUP, DM_EXTINT };
/* Destination shorthands as ICR bits 19:18 encode them. ORDER TO */
enum irq_to { TO_DEST, TO_SELF, TO_ALL, TO_OTHERS };

/* A message on the APIC bus. */
struct irq_msg {
	uint32_t dest;
	uint8_t vector;
	uint8_t mode; /* enum irq_dm */
	uint8_t to;   /* enum irq_to */
	bool logical; /* dest is compared with LDR, not with the id */
	bool level;   /* level-triggered */
	bool asserted;
	bool hint; /* MSI redirection hint: one of the destinations */
	bool tick; /* of the LAPIC's own timer */
};

/* Which LAPICs a message reached, by slot. */
struct irq_dests {
	uint64_t slot[IRQ_LAPICS / 64];
};

enum irq_chip { CHIP_PIC, CHIP_IOAPIC, CHIPS };

/* Called when the guest acknowledges the pin that gsi is routed to. Under irq_srcu, no lock held. */
struct irq_ack {
	_Atomic(struct irq_ack *) next;
	uint32_t gsi;
	void (*fn)(struct irq_ack *ack);
};

struct irq_vm {
	const struct irq_port *port;
	void *ctx;
	struct bus_set *bus;
	struct mutex *slots_lock;
	_Atomic int mode; /* enum irq_mode; stored after what it announces */
	unsigned split_pins;
	_Atomic uint64_t x2apic_api;
	struct mutex lock; /* irq_lock: updates of table and acks */
	struct srcu srcu;  /* irq_srcu: their readers, and readers of lapics and map */
	_Atomic(struct irq_table *) table;
	_Atomic(struct irq_ack *) acks;
	struct pic *pic;
	struct ioapic *ioapic;
	_Atomic(struct pit *) pit;
	struct spinlock map_lock; /* updates of lapics, nr_slots and map */
	_Atomic(struct lapic *) lapics[IRQ_LAPICS];
	_Atomic unsigned nr_slots;	/* slots ever used */
	_Atomic(struct apic_map *) map; /* NULL: no memory, every LAPIC is asked */
	struct mutex irqfd_lock;	/* assign, deassign; the two lists below */
	struct spinlock irqfds_lock; /* the irqfds list and their cached routes, with irqfd_lock to change */
	struct irqfd *irqfds;
	struct resampler *resamplers;
};

#define X2APIC_32BIT_IDS    1
#define X2APIC_NO_BROADCAST 2 /* 0xff is an ordinary destination */

static inline int irq_enter(struct irq_vm *v)
{
	return srcu_read_lock(&v->srcu);
}
static inline void irq_leave(struct irq_vm *v, int idx)
{
	srcu_read_unlock(&v->srcu, idx);
}

/* -- delivery (lapic_deliver.c); irq_srcu held -- */
/* Sends m; src is the sending LAPIC or NULL. Number of LAPICs that took it, -1 if there is none to take it.
 */
int irq_deliver(struct irq_vm *v, struct lapic *src, const struct irq_msg *m, struct irq_dests *reached);
/* True if l, wherever m says it goes, is a destination. */
bool irq_dest_matches(const struct lapic *src, const struct lapic *l, const struct irq_msg *m);

/* -- routing.c -- */
int irq_routing_init(struct irq_vm *v);	   /* an empty table. -ENOMEM */
int irq_routing_default(struct irq_vm *v); /* the PC's routes: 0..15 to both chips, 16..23 to the IOAPIC */
void irq_routing_free(struct irq_vm *v);
void irq_ack_add(struct irq_vm *v, struct irq_ack *ack);
void irq_ack_del(struct irq_vm *v, struct irq_ack *ack); /* waits: fn will not run afterwards */
void irq_notify_ack(struct irq_vm *v, enum irq_chip chip, unsigned pin); /* irq_srcu held, no lock */
void irq_notify_mask(struct irq_vm *v, enum irq_chip chip, unsigned pin, bool masked); /* irq_srcu held */
/* The guest ended an interrupt in l's service. irq_srcu held, no lock. */
void irq_eoi(struct lapic *l, uint8_t vector, bool level, bool directed);
/* True if the end of this vector must reach a chip: PV EOI may not hide it. irq_srcu held. */
bool irq_eoi_needed(struct lapic *l, uint8_t vector);

/* A message that a GSI is routed to. */
struct irq_msi {
	uint32_t lo, hi, data;
};
/* True if a message is all that gsi is routed to. irq_srcu or irq_lock held. */
bool irq_route_msi(struct irq_vm *v, uint32_t gsi, struct irq_msi *msi);
void irq_send_msi(struct irq_vm *v, const struct irq_msi *msi); /* irq_srcu held */

/* -- irqfd.c -- */
/* The table has changed: every irqfd caches its route anew. irq_lock held. */
void irqfd_refresh(struct irq_vm *v);

/* -- pic.c -- */
int pic_create(struct irq_vm *v); /* -ENOMEM, -ENOSPC */
void pic_destroy(struct irq_vm *v);
int pic_set_line(struct pic *p, unsigned pin, unsigned source,
		 bool level); /* irq_srcu held; as irq_set_line */
bool pic_output(const struct pic *p);
int pic_peek(struct pic *p); /* the vector an acknowledge would give; -1 if none. irq_srcu held */
int pic_ack(struct pic *p);  /* irq_srcu held */
void pic_get(struct pic *p, unsigned which, struct kvm_pic_state *s);
void pic_set(struct pic *p, unsigned which, const struct kvm_pic_state *s);

/* -- ioapic.c -- */
int ioapic_create(struct irq_vm *v); /* -ENOMEM, -ENOSPC */
/* Its timer ends; nothing sets it again, for no vCPU runs and no line moves. */
void ioapic_stop(struct irq_vm *v);
void ioapic_destroy(struct irq_vm *v);
int ioapic_set_line(struct ioapic *io, unsigned pin, unsigned source, bool level, bool status);
bool ioapic_has_vector(const struct ioapic *io, uint8_t vector);
void ioapic_eoi(struct ioapic *io, uint8_t vector, bool level); /* irq_srcu held, no lock */
void ioapic_get(struct ioapic *io, struct kvm_ioapic_state *s);
void ioapic_set(struct ioapic *io, const struct kvm_ioapic_state *s);

/* -- pit.c -- */
void pit_unmasked(struct pit *p); /* pin 0 was unmasked: forget what was lost meanwhile. Any lock */
void pit_destroy(struct irq_vm *v);

#endif
