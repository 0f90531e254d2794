/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The 8259 pair: initialisation, priorities, rotation, cascade, poll, level, spurious, state.
 * make check T=irq/pic */
#include "world.h"

static int setup(void **state)
{
	world_begin(IRQ_MODE_KERNEL, 2);
	return 0;
}

static int teardown(void **state)
{
	world_end();
	return 0;
}

/* What SeaBIOS and Linux do: vectors 0x30 and 0x38, nothing masked. */
static void init_pics(uint8_t icw4)
{
	outb(0x20, 0x11);
	outb(0x21, 0x30);
	outb(0x21, 0x04);
	outb(0x21, icw4);
	outb(0xa0, 0x11);
	outb(0xa1, 0x38);
	outb(0xa1, 0x02);
	outb(0xa1, icw4);
}

static int ack(void)
{
	return irq_cpu_ack(w.irq, w.cpu[0].l);
}

static void pulse(unsigned gsi)
{
	set_line(gsi, 1);
	set_line(gsi, 0);
}

static void wrong_sizes_are_swallowed(void **state)
{
	uint32_t v = 0xffffffff;
	int idx = srcu_read_lock(&w.srcu);

	init_pics(1);
	assert_int_equal(bus_write(w.bus, BUS_PIO, 0x20, 2, &v), 0);
	assert_int_equal(bus_read(w.bus, BUS_PIO, 0x20, 2, &v), 0);
	assert_int_equal(v & 0xffff, 0);
	assert_int_equal(bus_read(w.bus, BUS_PIO, 0x1f, 2, &v), -EOPNOTSUPP);
	assert_int_equal(bus_read(w.bus, BUS_PIO, 0x22, 1, &v), -EOPNOTSUPP);
	srcu_read_unlock(&w.srcu, idx);
	outb(0x21, 0x5a);
	assert_int_equal(inb(0x21), 0x5a);
}

static void vectors_and_masks(void **state)
{
	init_pics(1);
	assert_int_equal(pending(0), -1);
	assert_int_equal(ack(), -1);
	outb(0x21, 0xf7);
	assert_int_equal(set_line(4, 1), -1); /* masked */
	set_line(4, 0);
	assert_int_equal(set_line(3, 1), 1);
	set_line(3, 0);
	assert_int_equal(set_line(3, 1), 0); /* a new edge, but the old one is still requested */
	assert_int_equal(w.cpu[0].kicks > 0, 1);
	assert_int_equal(pending(0), 0x33);
	assert_int_equal(pending(1), -1); /* the other vCPU's LINT0 is masked */
	outb(0x20, 0x0a);
	assert_int_equal(inb(0x20), 0x18);
	assert_int_equal(ack(), 0x33);
	assert_int_equal(inb(0x20), 0x10);
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 0x08);
	outb(0x21, 0x00); /* irq 4's edge was remembered, but irq 3 is in service */
	assert_int_equal(pending(0), -1);
	outb(0x20, 0x20);
	assert_int_equal(pending(0), 0x34);
	assert_int_equal(ack(), 0x34);
	outb(0x20, 0x64); /* specific EOI */
	assert_int_equal(inb(0x20), 0);
}

static void cascade_and_spurious(void **state)
{
	init_pics(1);
	pulse(12);
	assert_int_equal(pending(0), 0x3c);
	pulse(8);
	assert_int_equal(ack(), 0x38);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	assert_int_equal(ack(), 0x3c);
	pulse(1); /* master input 1 is above the cascade */
	assert_int_equal(ack(), 0x31);
	outb(0x20, 0x20);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	assert_int_equal(pending(0), -1);
	/* a level line that goes away between INTR and INTA */
	outb(0x4d1, 0x04);
	assert_int_equal(inb(0x4d1), 0x04);
	set_line(10, 1);
	assert_int_equal(pending(0), 0x3a);
	set_line(10, 0);
	assert_int_equal(ack(), 0x3f); /* spurious on the slave; the master has the cascade in service */
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 0x04);
	outb(0x20, 0x20);
	outb(0xa0, 0x0b);
	assert_int_equal(inb(0xa0), 0);
	/* and on the master itself, where nothing gets into service */
	assert_int_equal(pic_ack(w.irq->pic), 0x37);
	assert_int_equal(inb(0x20), 0);
}

static void level_stays_until_lowered(void **state)
{
	init_pics(1);
	outb(0x4d0, 0xff);
	assert_int_equal(inb(0x4d0), 0xf8); /* 0..2 cannot be level */
	assert_int_equal(set_line(5, 1), 1);
	assert_int_equal(set_line(5, 1), 0);
	assert_int_equal(ack(), 0x35);
	outb(0x20, 0x20);
	assert_int_equal(ack(), 0x35); /* still up */
	set_line(5, 0);
	outb(0x20, 0x20);
	assert_int_equal(pending(0), -1);
	/* two sources hold one line */
	irq_set_line(w.irq, IRQ_SOURCE_USER, 5, 1, NULL);
	irq_set_line(w.irq, IRQ_SOURCE_RESAMPLE, 5, 1, NULL);
	irq_set_line(w.irq, IRQ_SOURCE_USER, 5, 0, NULL);
	assert_int_equal(pending(0), 0x35);
	irq_set_line(w.irq, IRQ_SOURCE_RESAMPLE, 5, 0, NULL);
	assert_int_equal(pending(0), -1);
}

static void rotation(void **state)
{
	init_pics(1);
	pulse(3);
	pulse(4);
	assert_int_equal(ack(), 0x33);
	outb(0x20, 0xa0); /* rotate on non-specific EOI: 3 is now the lowest */
	pulse(3);
	assert_int_equal(ack(), 0x34);
	outb(0x20, 0xe4); /* rotate on specific EOI */
	assert_int_equal(ack(), 0x33);
	outb(0x20, 0x20);
	outb(0x20, 0xc7); /* set priority: 7 lowest, as after reset */
	pulse(6);
	pulse(0);
	assert_int_equal(ack(), 0x30);
	outb(0x20, 0x20);
	assert_int_equal(ack(), 0x36);
}

static void auto_eoi_rotates(void **state)
{
	init_pics(3);
	pulse(1);
	pulse(2 + 8);
	assert_int_equal(ack(), 0x31);
	assert_int_equal(ack(), 0x3a);
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 0);
	outb(0x20, 0x80); /* rotate in automatic EOI */
	pulse(0);
	pulse(1);
	assert_int_equal(ack(), 0x30);
	pulse(0);
	assert_int_equal(ack(), 0x31); /* 0 became the lowest */
	assert_int_equal(ack(), 0x30);
}

static void special_modes(void **state)
{
	init_pics(1);
	pulse(3);
	assert_int_equal(ack(), 0x33);
	pulse(5);
	assert_int_equal(pending(0), -1);
	outb(0x21, 0x08); /* special mask: the masked level in service holds nobody back */
	outb(0x20, 0x68);
	assert_int_equal(ack(), 0x35);
	outb(0x20, 0x20); /* ends 5, not the masked 3 */
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 0x08);
	outb(0x20, 0x48); /* normal mask mode */
	pulse(6);
	assert_int_equal(pending(0), -1);
	/* special fully nested: the cascade in service does not block the slave's higher inputs */
	init_pics(0x11);
	pulse(12);
	assert_int_equal(ack(), 0x3c);
	pulse(9);
	assert_int_equal(ack(), 0x39);
}

static void poll(void **state)
{
	init_pics(1);
	outb(0x20, 0x0c);
	assert_int_equal(inb(0x20), 7);
	pulse(4);
	outb(0x20, 0x0c);
	assert_int_equal(inb(0x20), 0x84);
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 0x10); /* in service, as after INTA */
	assert_int_equal(pending(0), -1);
}

static void state_travels(void **state)
{
	struct kvm_irqchip c = {.chip_id = KVM_IRQCHIP_PIC_MASTER}, bad = {.chip_id = 3};

	assert_int_equal(irq_get_chip(w.irq, &bad), -EINVAL);
	assert_int_equal(irq_set_chip(w.irq, &bad), -EINVAL);
	init_pics(1);
	outb(0x21, 0xf0);
	pulse(2);
	pulse(1);
	assert_int_equal(irq_get_chip(w.irq, &c), 0);
	assert_int_equal(c.chip.pic.irq_base, 0x30);
	assert_int_equal(c.chip.pic.imr, 0xf0);
	assert_int_equal(c.chip.pic.irr, 0x06);
	assert_int_equal(c.chip.pic.elcr_mask, 0xf8);
	init_pics(1);
	assert_int_equal(pending(0), -1);
	assert_int_equal(irq_set_chip(w.irq, &c), 0);
	assert_int_equal(ack(), 0x31);
}

/* INTR reaches a vCPU whose LINT0 takes it, whichever that is, and the boot vCPU without any LAPIC. */
static void who_takes_intr(void **state)
{
	unsigned kicks;

	init_pics(1);
	lw(0, APIC_SPIV, 0x1ff);
	lw(1, APIC_SPIV, 0x1ff);
	lw(0, APIC_LVT0, LVT_MASKED);
	lw(1, APIC_LVT0, DM_EXTINT << 8);
	kicks = w.cpu[1].kicks;
	pulse(3);
	assert_true(w.cpu[1].kicks > kicks);
	assert_int_equal(pending(0), -1);
	assert_int_equal(pending(1), 0x33);
	lw(1, APIC_LVT0, LVT_MASKED);
	assert_int_equal(pending(1), -1);
	kicks = w.cpu[0].kicks;
	lw(0, APIC_LVT0, DM_EXTINT << 8);
	assert_true(w.cpu[0].kicks > kicks);
	lw(0, APIC_LVT0, LVT_MASKED);
	assert_int_equal(lapic_set_base(w.cpu[0].l, 0xfee00100, false, false, 0), 0);
	assert_int_equal(lapic_set_base(w.cpu[1].l, 0xfee00000, false, false, 0), 0);
	assert_int_equal(pending(1), -1);
	assert_int_equal(pending(0), 0x33);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(wrong_sizes_are_swallowed),
	    T(vectors_and_masks),
	    T(cascade_and_spurious),
	    T(level_stays_until_lowered),
	    T(rotation),
	    T(auto_eoi_rotates),
	    T(special_modes),
	    T(poll),
	    T(state_travels),
	    T(who_takes_intr),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
