/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The IOAPIC: registers, edges, levels and Remote IRR, masks, RTC coalescing, interrupt storms, state.
 * make check T=irq/ioapic */
#include "world.h"

#define IOAPIC 0xfec00000ULL
#define MASKED 0x10000u
#define LEVEL  0x8000u

static int setup(void **state)
{
	world_begin(IRQ_MODE_KERNEL, 2);
	enable_all();
	outb(0x21, 0xff); /* the PIC keeps out of this */
	outb(0xa1, 0xff);
	return 0;
}

static int teardown(void **state)
{
	world_end();
	return 0;
}

static void io_write(uint64_t addr, uint32_t v)
{
	int idx = srcu_read_lock(&w.srcu);

	assert_int_equal(bus_write(w.bus, BUS_MMIO, addr, 4, &v), 0);
	srcu_read_unlock(&w.srcu, idx);
}

static uint32_t io_read(uint64_t addr)
{
	int idx = srcu_read_lock(&w.srcu);
	uint32_t v = 0xdeadbeef;

	assert_int_equal(bus_read(w.bus, BUS_MMIO, addr, 4, &v), 0);
	srcu_read_unlock(&w.srcu, idx);
	return v;
}

static void reg_write(uint8_t reg, uint32_t v)
{
	io_write(IOAPIC, reg);
	io_write(IOAPIC + 0x10, v);
}

static uint32_t reg_read(uint8_t reg)
{
	io_write(IOAPIC, reg);
	return io_read(IOAPIC + 0x10);
}

static void entry(unsigned pin, uint32_t low, uint8_t dest)
{
	reg_write(0x11 + 2 * pin, (uint32_t)dest << 24);
	reg_write(0x10 + 2 * pin, low);
}

static void without_chip(void **state)
{
	struct kvm_irqchip c = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct irq_vm *v;

	assert_int_equal(irq_create(&v, &world_port, &w, w.bus, &w.slots), 0);
	assert_int_equal(irq_get_chip(v, &c), -ENXIO);
	assert_int_equal(irq_set_chip(v, &c), -ENXIO);
	assert_int_equal(irq_set_line(v, IRQ_SOURCE_USER, 4, 1, NULL), -ENXIO);
	irq_destroy(v);
	assert_int_equal(irq_create_chip(w.irq), -EEXIST);
	assert_int_equal(irq_create_split(w.irq, 24), -EEXIST);
}

static void no_memory(void **state)
{
	struct irq_vm *v;
	long n, live;
	int r = -1;

	for (n = 1; r; n++) {
		live = base_alloc_live();
		base_alloc_fail_at(n);
		r = irq_create(&v, &world_port, &w, w.bus, &w.slots);
		base_alloc_fail_at(0);
		if (r) {
			assert_int_equal(r, -ENOMEM);
			assert_int_equal(base_alloc_live(), live);
		}
	}
	assert_true(n > 3);
	for (n = 1, r = -1; r; n++) {
		base_alloc_fail_at(n);
		r = irq_create_chip(v);
		base_alloc_fail_at(0);
		if (r)
			assert_int_equal(r, -ENOMEM);
		assert_int_equal(irq_get_mode(v), r ? IRQ_MODE_NONE : IRQ_MODE_KERNEL);
	}
	assert_true(n > 4);
	irq_destroy(v);
}

static void registers(void **state)
{
	assert_int_equal(reg_read(1), 0x170011);
	reg_write(0, 0xff000000);
	assert_int_equal(reg_read(0), 0x0f000000);
	assert_int_equal(reg_read(2), 0x0f000000);
	reg_write(1, 0);
	assert_int_equal(reg_read(1), 0x170011);
	assert_int_equal(reg_read(0x10), MASKED);
	assert_int_equal(reg_read(0x40), 0xffffffff); /* behind the last pin */
	assert_int_equal(reg_read(5), 0xffffffff);
	reg_write(0x40, 0);
	reg_write(5, 0);
	assert_int_equal(io_read(IOAPIC), 5);
	assert_int_equal(io_read(IOAPIC + 0x40), 0); /* version 0x11 has no EOI register */
	/* Remote IRR and delivery status are read-only */
	reg_write(0x10, MASKED | LEVEL | 0x5000 | 0x31);
	assert_int_equal(reg_read(0x10), MASKED | LEVEL | 0x31);
	reg_write(0x11, 0x12345678);
	assert_int_equal(reg_read(0x11), 0x12345678);
}

static void edges(void **state)
{
	assert_int_equal(set_line(20, 1), -1); /* masked, but remembered */
	entry(20, 0x41, 1);
	assert_int_equal(pending(1), -1); /* unmasking alone sends no old edge */
	assert_int_equal(set_line(20, 1), 0);
	assert_int_equal(set_line(20, 0), 1);
	assert_int_equal(set_line(20, 1), 1);
	assert_int_equal(pending(1), 0x41);
	assert_int_equal(pending(0), -1);
	assert_int_equal(set_line(20, 1), 0);
	set_line(20, 0);
	assert_int_equal(serve(1), 0x41);
	assert_int_equal(pending(1), -1);
	entry(20, 0x41, 7); /* nobody has id 7 */
	assert_int_equal(set_line(20, 1), 0);
}

static void levels(void **state)
{
	entry(10, LEVEL | 0x51, 0);
	assert_int_equal(set_line(10, 1), 1);
	assert_int_equal(reg_read(0x10 + 20) & 0x4000, 0x4000);
	assert_int_equal(set_line(10, 1), -1); /* Remote IRR: waits for the EOI; the PIC masks nothing */
	assert_int_equal(lr(0, APIC_TMR + (0x51 / 32) * 16), 1u << (0x51 % 32));
	assert_int_equal(irq_cpu_ack(w.irq, w.cpu[0].l), 0x51);
	lw(0, APIC_EOI, 0);
	assert_int_equal(pending(0), 0x51); /* the line is still up: again */
	irq_cpu_ack(w.irq, w.cpu[0].l);
	set_line(10, 0);
	lw(0, APIC_EOI, 0);
	assert_int_equal(pending(0), -1);
	assert_int_equal(reg_read(0x10 + 20) & 0x4000, 0);
	/* masked while up, then unmasked: delivered by the write */
	entry(10, LEVEL | MASKED | 0x51, 0);
	assert_int_equal(set_line(10, 1), -1);
	entry(10, LEVEL | 0x51, 0);
	assert_int_equal(pending(0), 0x51);
	/* switching to edge clears Remote IRR: the EOI of guests without an EOI register */
	entry(10, MASKED | 0x51, 0);
	assert_int_equal(reg_read(0x10 + 20) & 0x4000, 0);
}

static void delivery_modes(void **state)
{
	entry(16, 4 << 8, 1);
	set_line(16, 1);
	assert_int_equal(w.cpu[1].nmis, 1);
	entry(17, 2 << 8, 1);
	set_line(17, 1);
	assert_int_equal(w.cpu[1].smis, 1);
	entry(18, 5 << 8, 1);
	set_line(18, 1);
	assert_int_equal(w.cpu[1].inits, 1);
	entry(19, 7 << 8 | 0x61, 1); /* ExtINT comes by wire, not by message */
	set_line(19, 1);
	assert_int_equal(pending(1), -1);
	/* lowest priority, logical: exactly one of the two */
	lw(0, APIC_LDR, 1u << 24);
	lw(1, APIC_LDR, 2u << 24);
	entry(20, 1 << 8 | 1 << 11 | 0x62, 3);
	assert_int_equal(set_line(20, 1), 1);
	assert_int_equal((pending(0) == 0x62) + (pending(1) == 0x62), 1);
	/* fixed, logical: both */
	entry(21, 1 << 11 | 0x63, 3);
	assert_int_equal(set_line(21, 1), 2);
}

/* RTC ticks that a vCPU has not ended yet are told to a VMM that asks; others are not treated so. */
static void rtc_coalescing(void **state)
{
	entry(8, 0x71, 0);
	assert_int_equal(set_line(8, 1), 1);
	set_line(8, 0);
	assert_int_equal(set_line(8, 1), 0);
	set_line(8, 0);
	assert_int_equal(irq_cpu_ack(w.irq, w.cpu[0].l), 0x71);
	assert_int_equal(set_line(8, 1), 0);
	set_line(8, 0);
	lw(0, APIC_EOI, 0);
	assert_int_equal(set_line(8, 1), 1);
}

/* A guest that never silences its device gets a pause, then the interrupt again. */
static void storm(void **state)
{
	uint64_t start;
	unsigned i;

	entry(10, LEVEL | 0x51, 0);
	set_line(10, 1);
	for (i = 0; i < 9999; i++)
		assert_int_equal(serve(0), 0x51);
	assert_int_equal(serve(0), 0x51);
	assert_int_equal(pending(0), -1);
	start = base_now_ns();
	assert_true(wait_pending(0));
	assert_true(base_now_ns() - start > 5 * MS);
	assert_int_equal(serve(0), 0x51);
	assert_int_equal(pending(0), 0x51);
}

static void state_travels(void **state)
{
	struct kvm_irqchip c = {.chip_id = KVM_IRQCHIP_IOAPIC};

	entry(10, LEVEL | 0x51, 0);
	entry(11, 0x52, 0);
	set_line(10, 1);
	set_line(11, 1);
	assert_int_equal(irq_get_chip(w.irq, &c), 0);
	assert_true(c.chip.ioapic.base_address == IOAPIC);
	assert_int_equal(c.chip.ioapic.redirtbl[10].fields.remote_irr, 1);
	assert_int_equal(c.chip.ioapic.irr, 1 << 10); /* the edge was delivered */
	set_line(10, 0);
	entry(10, MASKED, 0);
	c.chip.ioapic.redirtbl[10].fields.remote_irr = 0;
	assert_int_equal(serve(0), 0x52);
	assert_int_equal(serve(0), 0x51);
	assert_int_equal(pending(0), -1);
	/* a pending level is delivered by the restore */
	assert_int_equal(irq_set_chip(w.irq, &c), 0);
	assert_int_equal(pending(0), 0x51);
	/* any bits whatever must not hurt */
	memset(&c.chip, 0xff, sizeof(c.chip));
	assert_int_equal(irq_set_chip(w.irq, &c), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(without_chip),   T(no_memory),	  T(registers), T(edges),	  T(levels),
	    T(delivery_modes), T(rtc_coalescing), T(storm),	T(state_travels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
