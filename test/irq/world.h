/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VM without guest for the irq tests: a bus, an interrupt world, some vCPUs that only write down. */
#ifndef TEST_IRQ_WORLD_H
#define TEST_IRQ_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "irq/lapic.h"

#define MAX_CPUS 8
#define MS	 1000000ULL

struct cpu {
	struct lapic *l;
	_Atomic unsigned kicks, inits, sipis, nmis, smis, eois;
	_Atomic int sipi_vector, eoi_vector;
};

static struct world {
	struct srcu srcu;
	struct mutex slots, kvm;
	struct bus_set *bus;
	struct irq_vm *irq;
	struct cpu cpu[MAX_CPUS];
	unsigned ncpus;
	_Atomic unsigned boot_kicks;
} w;

static void port_kick(void *vcpu)
{
	((struct cpu *)vcpu)->kicks++;
}

static void port_request(void *vcpu, enum irq_request what, uint8_t vector)
{
	struct cpu *c = vcpu;

	switch (what) {
	case IRQ_REQ_INIT: c->inits++; break;
	case IRQ_REQ_SIPI:
		c->sipi_vector = vector;
		c->sipis++;
		break;
	case IRQ_REQ_NMI: c->nmis++; break;
	case IRQ_REQ_SMI: c->smis++; break;
	default: break;
	}
}

static void port_eoi_exit(void *vcpu, uint8_t vector)
{
	struct cpu *c = vcpu;

	c->eoi_vector = vector;
	c->eois++;
}

/* The guest's TSC of these tests counts nanoseconds of CLOCK_MONOTONIC. */
static uint64_t port_tsc(void *vcpu, uint64_t tsc)
{
	return tsc;
}

static void port_kick_boot(void *vm)
{
	((struct world *)vm)->boot_kicks++;
}

static const struct irq_port world_port = {.kick = port_kick,
					   .tick = port_kick,
					   .request = port_request,
					   .eoi_exit = port_eoi_exit,
					   .tsc_deadline_ns = port_tsc,
					   .kick_boot = port_kick_boot};

/* Makes the world; mode as irq_get_mode, then ncpus LAPICs with ids 0.. */
static inline void world_begin(enum irq_mode mode, unsigned ncpus)
{
	unsigned i;

	memset(&w, 0, sizeof(w));
	assert_int_equal(loop_start(), 0);
	assert_int_equal(srcu_init(&w.srcu, LOCK_SRCU_VM), 0);
	mutex_init(&w.slots, LOCK_SLOTS);
	assert_int_equal(bus_create(&w.bus, &w.srcu, &w.slots), 0);
	assert_int_equal(irq_create(&w.irq, &world_port, &w, w.bus, &w.slots), 0);
	if (mode == IRQ_MODE_KERNEL)
		assert_int_equal(irq_create_chip(w.irq), 0);
	if (mode == IRQ_MODE_SPLIT)
		assert_int_equal(irq_create_split(w.irq, 24), 0);
	for (i = 0; i < ncpus; i++)
		assert_int_equal(lapic_create(&w.cpu[i].l, w.irq, &w.cpu[i], i, i == 0), 0);
	w.ncpus = ncpus;
}

/* Ends it; nothing may be left and nothing may have been reported. */
static inline void world_end(void)
{
	unsigned i;

	irq_release_irqfds(w.irq);
	for (i = 0; i < w.ncpus; i++)
		lapic_destroy(w.cpu[i].l);
	irq_destroy(w.irq);
	mutex_retire(&w.slots, &(struct ref){0});
	bus_destroy(w.bus);
	srcu_barrier(&w.srcu);
	srcu_cleanup(&w.srcu);
	assert_int_equal(base_bug_count(), 0);
#ifdef USERKVM_CHECKED
	assert_int_equal(lockdep_reports(), 0);
#endif
}

static inline int world_done(void **state)
{
	world_end();
	return 0;
}

/* -- Guest accesses -- */

static inline void outb(uint16_t port, uint8_t v)
{
	int idx = srcu_read_lock(&w.srcu);

	assert_int_equal(bus_write(w.bus, BUS_PIO, port, 1, &v), 0);
	srcu_read_unlock(&w.srcu, idx);
}

static inline uint8_t inb(uint16_t port)
{
	int idx = srcu_read_lock(&w.srcu);
	uint8_t v = 0xaa;

	assert_int_equal(bus_read(w.bus, BUS_PIO, port, 1, &v), 0);
	srcu_read_unlock(&w.srcu, idx);
	return v;
}

static inline void lw(unsigned cpu, uint32_t reg, uint32_t v)
{
	lapic_mmio_write(w.cpu[cpu].l, reg, 4, &v);
}

static inline uint32_t lr(unsigned cpu, uint32_t reg)
{
	uint32_t v = 0xdeadbeef;

	lapic_mmio_read(w.cpu[cpu].l, reg, 4, &v);
	return v;
}

/* Software-enables the LAPICs of all vCPUs. */
static inline void enable_all(void)
{
	unsigned i;

	for (i = 0; i < w.ncpus; i++)
		lw(i, APIC_SPIV, 0x1ff);
}

/* Worlds of two vCPUs: PIC masked and IOAPIC; only LAPICs; and nothing at all. */
static inline int world_kernel(void **state)
{
	world_begin(IRQ_MODE_KERNEL, 2);
	enable_all();
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	return 0;
}

static inline int world_split(void **state)
{
	world_begin(IRQ_MODE_SPLIT, 2);
	enable_all();
	return 0;
}

static inline int world_none(void **state)
{
	world_begin(IRQ_MODE_NONE, 0);
	return 0;
}

static inline int pending(unsigned cpu)
{
	return irq_cpu_pending(w.irq, w.cpu[cpu].l);
}

/* Acknowledges and ends; the vector or -1. */
static inline int serve(unsigned cpu)
{
	int v = irq_cpu_ack(w.irq, w.cpu[cpu].l);

	if (v >= 0)
		lw(cpu, APIC_EOI, 0);
	return v;
}

static inline int set_line(uint32_t gsi, int level)
{
	int status = -2;

	assert_int_equal(irq_set_line(w.irq, IRQ_SOURCE_USER, gsi, level, &status), 0);
	return status;
}

/* Waits until *n reaches want, at most 2 s. */
static inline bool wait_for(_Atomic unsigned *n, unsigned want)
{
	uint64_t end = base_now_ns() + 2000 * MS;

	while (*n < want && base_now_ns() < end)
		usleep(200);
	return *n >= want;
}

/* Waits until vCPU has an interrupt to take, at most 2 s. */
static inline bool wait_pending(unsigned cpu)
{
	uint64_t end = base_now_ns() + 2000 * MS;

	while (pending(cpu) < 0 && base_now_ns() < end)
		usleep(50);
	return pending(cpu) >= 0;
}

#endif
