/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The LAPIC: registers in both modes, base transitions, IPIs, priorities, errors, timers, state.
 * make check T=irq/lapic */
#include "world.h"

#define BASE 0xfee00000ULL
#define EN   0x800ULL
#define X2   0x400ULL
#define BSP  0x100ULL

static int setup4(enum irq_mode mode)
{
	world_begin(mode, 4);
	if (mode == IRQ_MODE_KERNEL) {
		outb(0x21, 0xff);
		outb(0xa1, 0xff);
	}
	enable_all();
	return 0;
}

static int setup(void **state)
{
	return setup4(IRQ_MODE_KERNEL);
}

static int setup_split(void **state)
{
	return setup4(IRQ_MODE_SPLIT);
}

static int teardown(void **state)
{
	world_end();
	return 0;
}

static void x2apic(unsigned cpu)
{
	uint64_t bsp = cpu == 0 ? BSP : 0;

	assert_int_equal(lapic_set_base(w.cpu[cpu].l, BASE | EN | X2 | bsp, false, true, 0), 0);
}

static void x2apic_all(void)
{
	unsigned i;

	for (i = 0; i < w.ncpus; i++)
		x2apic(i);
}

static int wrmsr(unsigned cpu, uint32_t msr, uint64_t v)
{
	return lapic_msr_write(w.cpu[cpu].l, msr, v);
}

static uint64_t rdmsr(unsigned cpu, uint32_t msr)
{
	uint64_t v = 0;

	assert_int_equal(lapic_msr_read(w.cpu[cpu].l, msr, &v), 0);
	return v;
}

/* Which vCPUs have this vector pending, as bits; it is served. */
static unsigned who(int vector)
{
	unsigned i, mask = 0;

	for (i = 0; i < w.ncpus; i++)
		if (pending(i) == vector) {
			mask |= 1 << i;
			serve(i);
		}
	return mask;
}

static void ipi(unsigned cpu, uint32_t dest, uint32_t low)
{
	lw(cpu, APIC_ICR2, dest << 24);
	lw(cpu, APIC_ICR, low);
}

/* -- Refusals -- */

static void base_transitions(void **state)
{
	struct lapic *l = w.cpu[1].l;

	assert_true(lapic_get_base(w.cpu[0].l) == (BASE | EN | BSP));
	assert_true(lapic_get_base(l) == (BASE | EN));
	assert_true(lapic_is_bsp(w.cpu[0].l) && !lapic_is_bsp(l));
	assert_int_equal(lapic_set_base(l, BASE | EN | 1, false, true, 0), -EINVAL);
	assert_int_equal(lapic_set_base(l, BASE | EN | 0x200, true, true, 0), -EINVAL);
	assert_int_equal(lapic_set_base(l, BASE | EN | 1ULL << 40, true, true, ~0ULL << 40), -EINVAL);
	assert_int_equal(lapic_set_base(l, BASE | EN | X2, false, false, 0), -EINVAL);
	assert_int_equal(lapic_set_base(l, BASE | X2, true, true, 0), -EINVAL);
	assert_int_equal(lapic_set_base(l, BASE | EN | X2, false, true, 0), 0);
	assert_int_equal(lapic_set_base(l, BASE | EN, false, true, 0), -EINVAL);
	assert_int_equal(lapic_set_base(l, BASE | X2, false, true, 0), -EINVAL);
	assert_int_equal(lapic_set_base(l, BASE, false, true, 0), 0);
	assert_int_equal(lapic_set_base(l, BASE | EN | X2, false, true, 0), -EINVAL);
	assert_int_equal(lapic_set_base(l, BASE | EN | X2, true, true, 0), 0);
	assert_int_equal(lapic_set_base(l, BASE | EN, true, true, 0), 0); /* the host may */
	assert_int_equal(lr(1, APIC_ID), 1 << 24);
	assert_true(lapic_mmio_match(l, BASE + 0xfff));
	assert_false(lapic_mmio_match(l, BASE + 0x1000));
	assert_int_equal(lapic_set_base(l, 0xfed00000 | EN, false, true, 0), 0);
	assert_true(lapic_mmio_match(l, 0xfed00010));
	assert_false(lapic_mmio_match(l, BASE));
	x2apic(2);
	assert_false(lapic_mmio_match(w.cpu[2].l, BASE));
	/* a disabled LAPIC takes nothing */
	assert_int_equal(lapic_set_base(w.cpu[3].l, BASE, false, true, 0), 0);
	ipi(0, 3, 0x45);
	assert_int_equal(pending(3), -1);
}

static void x2apic_refusals(void **state)
{
	static const uint16_t no_read[] = {0x800, 0x801, 0x804, 0x807, 0x809, 0x80b, 0x80c,
					   0x80e, 0x82f, 0x831, 0x83a, 0x83f, 0x840, 0x8ff};
	static const uint16_t no_write[] = {0x800, 0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x817,
					    0x818, 0x820, 0x831, 0x839, 0x83a, 0x840, 0x8ff};
	uint64_t v;
	unsigned i;

	assert_int_equal(lapic_msr_read(w.cpu[1].l, 0x802, &v), -EINVAL); /* still xAPIC */
	assert_int_equal(wrmsr(1, 0x80b, 0), -EINVAL);
	x2apic(1);
	for (i = 0; i < ARRAY_SIZE(no_read); i++)
		assert_int_equal(lapic_msr_read(w.cpu[1].l, no_read[i], &v), -EINVAL);
	for (i = 0; i < ARRAY_SIZE(no_write); i++)
		assert_int_equal(wrmsr(1, no_write[i], 0), -EINVAL);
	assert_int_equal(wrmsr(1, 0x808, 1ULL << 32), -EINVAL);
	assert_int_equal(wrmsr(1, 0x828, 1), -EINVAL);
	assert_int_equal(wrmsr(1, 0x828, 0), 0);
	assert_true(rdmsr(1, 0x802) == 1);
	assert_true(rdmsr(1, 0x80d) == 2); /* cluster 0, bit 1 */
}

static void xapic_registers(void **state)
{
	static const uint16_t lvts[] = {APIC_LVTT, APIC_LVTTHMR, APIC_LVTPC,
					APIC_LVT0, APIC_LVT1,	 APIC_LVTERR};
	static const uint32_t bits[] = {0x300ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};
	unsigned i;
	uint64_t eight;
	uint8_t b;

	assert_int_equal(lr(1, APIC_VERSION), 0x50014);
	lw(1, APIC_VERSION, 0);
	assert_int_equal(lr(1, APIC_VERSION), 0x50014);
	lw(1, APIC_DFR, 0);
	assert_int_equal(lr(1, APIC_DFR), 0x0fffffff);
	lw(1, APIC_LDR, 0xffffffff);
	assert_int_equal(lr(1, APIC_LDR), 0xff000000);
	lw(1, APIC_SPIV, 0xffffffff);
	assert_int_equal(lr(1, APIC_SPIV), 0x3ff);
	for (i = 0; i < ARRAY_SIZE(lvts); i++) {
		lw(1, lvts[i], 0xffffffff);
		assert_int_equal(lr(1, lvts[i]), bits[i]);
		lw(1, lvts[i], 0x55);
		assert_int_equal(lr(1, lvts[i]), 0x55);
	}
	lw(1, APIC_SPIV, 0xff); /* software disable masks every entry, for good */
	for (i = 0; i < ARRAY_SIZE(lvts); i++) {
		assert_int_equal(lr(1, lvts[i]), 0x10055);
		lw(1, lvts[i], 0x55);
		assert_int_equal(lr(1, lvts[i]), 0x10055);
	}
	/* only aligned words are written; parts of the first word are read */
	lw(1, APIC_TPR, 0x20);
	lapic_mmio_write(w.cpu[1].l, APIC_TPR, 1, "\x55");
	lapic_mmio_write(w.cpu[1].l, APIC_TPR + 4, 4, "\x55\x55\x55\x55");
	assert_int_equal(lr(1, APIC_TPR), 0x20);
	lapic_mmio_read(w.cpu[1].l, APIC_VERSION + 2, 1, &b);
	assert_int_equal(b, 5);
	lapic_mmio_read(w.cpu[1].l, APIC_VERSION, 8, &eight);
	assert_true(eight == 0);
}

static void errors(void **state)
{
	lw(1, APIC_LVTERR, 0xfe);
	assert_int_equal(lr(1, 0x0f00), 0);
	assert_int_equal(pending(1), 0xfe);
	assert_int_equal(lr(1, APIC_ESR), 0);
	lw(1, APIC_ESR, 0);
	assert_int_equal(lr(1, APIC_ESR), ESR_REGISTER);
	lw(1, APIC_ESR, 0);
	assert_int_equal(lr(1, APIC_ESR), 0);
	assert_int_equal(serve(1), 0xfe);
	ipi(1, 0, 0x0f); /* illegal vector, sent */
	lw(1, APIC_ESR, 0);
	assert_int_equal(lr(1, APIC_ESR), ESR_SEND_VECTOR);
	lw(1, APIC_LVTERR, 3); /* an illegal vector for errors must not recurse */
	ipi(1, 0, 0x0f);
}

/* -- IPIs -- */

static void shorthands(void **state)
{
	ipi(1, 0, 0x40000 | 0x51);
	assert_int_equal(who(0x51), 1 << 1);
	ipi(1, 0, 0x80000 | 0x52);
	assert_int_equal(who(0x52), 0xf);
	ipi(1, 0, 0xc0000 | 0x53);
	assert_int_equal(who(0x53), 0xd);
	ipi(1, 3, 0x54);
	assert_int_equal(who(0x54), 1 << 3);
	ipi(1, 9, 0x55);
	assert_int_equal(who(0x55), 0);
	ipi(1, 0xff, 0x56);
	assert_int_equal(who(0x56), 0xf);
	assert_int_equal(lr(1, APIC_ICR), 0x56);
	assert_int_equal(lr(1, APIC_ICR2), 0xff000000);
}

static void modes(void **state)
{
	ipi(0, 1, 4 << 8);
	assert_int_equal(w.cpu[1].nmis, 1);
	ipi(0, 1, 2 << 8);
	assert_int_equal(w.cpu[1].smis, 1);
	ipi(0, 1, 5 << 8 | 0xc000); /* INIT, level, assert */
	assert_int_equal(w.cpu[1].inits, 1);
	ipi(0, 1, 5 << 8 | 0x8000); /* INIT, level, de-assert: ignored */
	assert_int_equal(w.cpu[1].inits, 1);
	ipi(0, 0, 0xc0000 | 6 << 8 | 0x9a);
	assert_int_equal(w.cpu[0].sipis, 0);
	assert_int_equal(w.cpu[1].sipis + w.cpu[2].sipis + w.cpu[3].sipis, 3);
	assert_int_equal(w.cpu[3].sipi_vector, 0x9a);
	/* software-disabled: NMI and start-up still arrive, vectors do not */
	lw(2, APIC_SPIV, 0xff);
	ipi(0, 2, 4 << 8);
	assert_int_equal(w.cpu[2].nmis, 1);
	ipi(0, 2, 0x45);
	assert_int_equal(pending(2), -1);
}

static void logical(void **state)
{
	unsigned i;

	for (i = 0; i < 4; i++)
		lw(i, APIC_LDR, 1u << (24 + i));
	ipi(0, 0x0a, 0x800 | 0x51);
	assert_int_equal(who(0x51), 0xa);
	for (i = 0; i < 4; i++) {
		lw(i, APIC_DFR, 0);
		lw(i, APIC_LDR, (uint32_t)(i / 2) << 28 | 1u << (24 + i % 2));
	}
	ipi(0, 0x13, 0x800 | 0x52);
	assert_int_equal(who(0x52), 0xc);
	ipi(0, 0x02, 0x800 | 0x53);
	assert_int_equal(who(0x53), 0x2);
	/* lowest priority reaches exactly one, the same one for the same vector, and spreads over vectors */
	unsigned seen = 0, v;
	for (v = 0x60; v < 0x70; v++) {
		unsigned a, b;

		ipi(0, 0xff, 0x800 | 0x100 | v);
		a = who(v);
		ipi(0, 0xff, 0x800 | 0x100 | v);
		b = who(v);
		assert_int_equal(__builtin_popcount(a), 1);
		assert_int_equal(a, b);
		seen |= a;
	}
	assert_int_equal(seen, 0xf);
	/* ids are the guest's to change; two with one id both take it */
	lw(3, APIC_ID, 2u << 24);
	ipi(0, 2, 0x54);
	assert_int_equal(who(0x54), 0xc);
	lw(3, APIC_ID, 0x77u << 24);
	ipi(0, 0x77, 0x55);
	assert_int_equal(who(0x55), 0x8);
}

static void x2apic_ipis(void **state)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000 | 0xff << 12, .data = 0x57};

	x2apic_all();
	assert_int_equal(wrmsr(0, 0x830, 3ULL << 32 | 0x51), 0);
	assert_int_equal(who(0x51), 0x8);
	assert_true(rdmsr(0, 0x830) == (3ULL << 32 | 0x51));
	wrmsr(0, 0x830, 0x6ULL << 32 | 0x800 | 0x52); /* cluster 0, bits 1 and 2 */
	assert_int_equal(who(0x52), 0x6);
	wrmsr(0, 0x830, 0x10001ULL << 32 | 0x800 | 0x53); /* a cluster without anybody */
	assert_int_equal(who(0x53), 0);
	wrmsr(0, 0x830, 0xffffffffULL << 32 | 0x54);
	assert_int_equal(who(0x54), 0xf);
	wrmsr(0, 0x830, 0xffULL << 32 | 0x55); /* an id, not everybody */
	assert_int_equal(who(0x55), 0);
	assert_int_equal(wrmsr(1, 0x83f, 0x56), 0);
	assert_int_equal(who(0x56), 0x2);
	/* a device's 0xff means everybody until the VMM says otherwise */
	assert_int_equal(irq_signal_msi(w.irq, &msi), 4);
	assert_int_equal(who(0x57), 0xf);
	irq_set_x2apic_api(w.irq, X2APIC_NO_BROADCAST);
	assert_int_equal(irq_signal_msi(w.irq, &msi), 0);
	assert_int_equal(who(0x57), 0);
	irq_set_x2apic_api(w.irq, X2APIC_32BIT_IDS | X2APIC_NO_BROADCAST);
	msi.address_hi = 1;
	assert_int_equal(irq_signal_msi(w.irq, &msi), -EINVAL);
	msi.address_lo = 0xfee00000 | 2 << 12;
	msi.address_hi = 0x100;
	assert_int_equal(irq_signal_msi(w.irq, &msi), 0); /* id 0x102 */
	msi.address_hi = 0;
	assert_int_equal(irq_signal_msi(w.irq, &msi), 1);
	assert_int_equal(who(0x57), 0x4);
	msi.flags = 2;
	assert_int_equal(irq_signal_msi(w.irq, &msi), -EINVAL);
}

/* -- Priorities -- */

static void priorities(void **state)
{
	unsigned kicks;

	ipi(0, 1, 0x51);
	ipi(0, 1, 0x52);
	ipi(0, 1, 0x31);
	lw(1, APIC_TPR, 0x50);
	assert_int_equal(pending(1), -1);
	assert_int_equal(lapic_get_cr8(w.cpu[1].l), 5);
	kicks = w.cpu[1].kicks;
	lapic_set_cr8(w.cpu[1].l, 4);
	assert_true(w.cpu[1].kicks > kicks);
	assert_int_equal(pending(1), 0x52);
	assert_int_equal(irq_cpu_ack(w.irq, w.cpu[1].l), 0x52);
	assert_int_equal(lr(1, APIC_PPR), 0x50);
	assert_int_equal(pending(1), -1); /* same class */
	ipi(0, 1, 0x61);
	assert_int_equal(irq_cpu_ack(w.irq, w.cpu[1].l), 0x61);
	lw(1, APIC_EOI, 0);
	assert_int_equal(lr(1, APIC_ISR + 0x20), 1u << 0x12);
	lw(1, APIC_EOI, 0);
	assert_int_equal(serve(1), 0x51);
	assert_int_equal(pending(1), -1);
	lw(1, APIC_TPR, 0);
	assert_int_equal(serve(1), 0x31);
	assert_int_equal(irq_cpu_ack(w.irq, w.cpu[1].l), -1);
	lw(1, APIC_EOI, 0); /* nothing in service: nothing happens */
	/* a vector requested twice before it is taken arrives once, one requested in service again */
	ipi(0, 1, 0x51);
	ipi(0, 1, 0x51);
	irq_cpu_ack(w.irq, w.cpu[1].l);
	ipi(0, 1, 0x51);
	lw(1, APIC_EOI, 0);
	assert_int_equal(serve(1), 0x51);
	assert_int_equal(pending(1), -1);
}

static void pv_eoi(void **state)
{
	struct lapic *l = w.cpu[1].l;

	assert_false(lapic_pv_eoi_wanted(l));
	ipi(0, 1, 0x51);
	irq_cpu_ack(w.irq, l);
	assert_true(lapic_pv_eoi_wanted(l));
	ipi(0, 1, 0x31); /* something waits: the EOI must be seen */
	assert_false(lapic_pv_eoi_wanted(l));
	lapic_pv_eoi_done(l);
	assert_int_equal(irq_cpu_ack(w.irq, l), 0x31);
	assert_true(lapic_pv_eoi_wanted(l));
	ipi(0, 1, 0x61);
	irq_cpu_ack(w.irq, l); /* nested */
	assert_false(lapic_pv_eoi_wanted(l));
	lw(1, APIC_EOI, 0);
	lw(1, APIC_EOI, 0);
	assert_int_equal(lr(1, APIC_ISR + 0x10) | lr(1, APIC_ISR + 0x30), 0);
}

/* The VMM's IOAPIC hears of the end of level-triggered interrupts of its pins, and of nothing else. */
static void split_eoi(void **state)
{
	struct kvm_irq_routing_entry e[3] = {
	    {.gsi = 4,
	     .type = KVM_IRQ_ROUTING_MSI,
	     .u.msi = {.address_lo = 0xfee01000, .data = 0x8000 | 0x51}},
	    {.gsi = 5, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee01000, .data = 0x52}},
	    {.gsi = 30,
	     .type = KVM_IRQ_ROUTING_MSI,
	     .u.msi = {.address_lo = 0xfee01000, .data = 0x8000 | 0x53}},
	};

	assert_int_equal(lr(1, APIC_VERSION), 0x50014 | VERSION_DIRECTED_EOI);
	assert_int_equal(irq_set_routing(w.irq, e, 3, 0), 0);
	set_line(4, 1);
	assert_int_equal(irq_cpu_ack(w.irq, w.cpu[1].l), 0x51);
	assert_false(lapic_pv_eoi_wanted(w.cpu[1].l));
	assert_int_equal(w.cpu[1].eois, 0);
	lw(1, APIC_EOI, 0);
	assert_int_equal(w.cpu[1].eois, 1);
	assert_int_equal(w.cpu[1].eoi_vector, 0x51);
	set_line(5, 1);
	assert_int_equal(serve(1), 0x52);
	set_line(30, 1);
	assert_int_equal(serve(1), 0x53);
	assert_int_equal(w.cpu[1].eois, 1);
	/* the route goes away while the interrupt is in service: the end is told all the same */
	set_line(4, 1);
	irq_cpu_ack(w.irq, w.cpu[1].l);
	e[0].u.msi.address_lo = 0xfee02000;
	assert_int_equal(irq_set_routing(w.irq, e, 3, 0), 0);
	lw(1, APIC_EOI, 0);
	assert_int_equal(w.cpu[1].eois, 2);
	/* directed EOI: the guest tells the IOAPIC itself */
	lw(2, APIC_SPIV, 0x11ff);
	assert_int_equal(lr(2, APIC_SPIV), 0x11ff);
	set_line(4, 1);
	assert_int_equal(serve(2), 0x51);
	assert_int_equal(w.cpu[2].eois, 0);
}

/* -- Timers -- */

/* Busy hosts are late, never early. */
#define LATE (1500 * MS)

static void one_shot(void **state)
{
	uint64_t start = base_now_ns();
	uint32_t left;

	lw(1, APIC_TDCR, 0xb); /* by 1 */
	lw(1, APIC_LVTT, 0x41);
	lw(1, APIC_TMICT, 20 * MS);
	left = lr(1, APIC_TMCCT);
	assert_in_range(left, 1, 20 * MS);
	assert_int_equal(pending(1), -1);
	assert_true(wait_pending(1));
	assert_in_range(base_now_ns() - start, 20 * MS, 20 * MS + LATE);
	assert_int_equal(lr(1, APIC_TMCCT), 0);
	assert_int_equal(serve(1), 0x41);
	usleep(30000);
	assert_int_equal(pending(1), -1);
	/* stopped in time, and masked: nothing */
	lw(1, APIC_TMICT, 5 * MS);
	lw(1, APIC_TMICT, 0);
	usleep(15000);
	assert_int_equal(pending(1), -1);
	lw(1, APIC_LVTT, 0x10041);
	lw(1, APIC_TMICT, 1 * MS);
	usleep(10000);
	assert_int_equal(pending(1), -1);
}

static void dividers(void **state)
{
	static const uint8_t code[] = {0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa};
	unsigned i;

	lw(1, APIC_LVTT, 0x10041);
	for (i = 0; i < 8; i++) {
		uint32_t before, after;
		uint64_t t0, t1, ticks;

		lw(1, APIC_TDCR, code[i]);
		assert_int_equal(lr(1, APIC_TDCR), code[i]);
		lw(1, APIC_TMICT, 0xffffffff);
		t0 = base_now_ns();
		before = lr(1, APIC_TMCCT);
		usleep(2000);
		after = lr(1, APIC_TMCCT);
		t1 = base_now_ns();
		ticks = before - after;
		assert_true(ticks << i <= t1 - t0 + 256);
		assert_true(ticks << i >= 2 * MS - 256);
	}
	/* a change while it runs keeps the count and changes the speed */
	lw(1, APIC_TDCR, 0xb);
	lw(1, APIC_TMICT, 4000 * MS);
	lw(1, APIC_TDCR, 0xa);
	assert_in_range(lr(1, APIC_TMCCT), 3000 * MS, 4000 * MS);
}

static void periodic(void **state)
{
	uint64_t start, n;

	lw(1, APIC_TDCR, 0xb);
	lw(1, APIC_LVTT, TIMER_PERIODIC | 0x41);
	start = base_now_ns();
	lw(1, APIC_TMICT, 5 * MS);
	for (n = 0; n < 20; n++) {
		assert_true(wait_pending(1));
		serve(1);
	}
	/* ticks keep their grid: a late one does not delay the others */
	assert_in_range(base_now_ns() - start, 100 * MS, 100 * MS + LATE);
	assert_in_range(lr(1, APIC_TMCCT), 0, 5 * MS);
	lw(1, APIC_TMICT, 0);
	serve(1);
	usleep(12000);
	assert_int_equal(pending(1), -1);
	assert_int_equal(lr(1, APIC_TMCCT), 0);
}

static void tsc_deadline(void **state)
{
	struct lapic *l = w.cpu[1].l;
	uint64_t start = base_now_ns();

	lw(1, APIC_LVTT, TIMER_TSC | 0x41);
	assert_int_equal(lr(1, APIC_LVTT), 0x41); /* CPUID does not offer it */
	lapic_set_tscdeadline(l, start + 1);
	assert_true(lapic_get_tscdeadline(l) == 0);
	lapic_set_features(l, true);
	lw(1, APIC_LVTT, TIMER_TSC | 0x41);
	assert_int_equal(lr(1, APIC_LVTT), TIMER_TSC | 0x41);
	lw(1, APIC_TMICT, 1000);
	assert_int_equal(lr(1, APIC_TMICT), 0);
	lapic_set_tscdeadline(l, start + 20 * MS);
	assert_true(lapic_get_tscdeadline(l) == start + 20 * MS);
	assert_int_equal(lr(1, APIC_TMCCT), 0);
	assert_true(wait_pending(1));
	assert_in_range(base_now_ns() - start, 20 * MS, 20 * MS + LATE);
	assert_true(lapic_get_tscdeadline(l) == 0);
	assert_int_equal(serve(1), 0x41);
	lapic_set_tscdeadline(l, 1); /* long past: at once, on this thread */
	assert_int_equal(serve(1), 0x41);
	lapic_set_tscdeadline(l, base_now_ns() + 5 * MS);
	lapic_set_tscdeadline(l, 0);
	usleep(15000);
	assert_int_equal(pending(1), -1);
	lapic_set_tscdeadline(l, base_now_ns() + 5 * MS); /* leaving the mode disarms */
	lw(1, APIC_LVTT, 0x41);
	usleep(15000);
	assert_int_equal(pending(1), -1);
}

/* -- State -- */

static uint32_t in_state(const struct kvm_lapic_state *s, uint32_t offset)
{
	uint32_t v;

	memcpy(&v, s->regs + offset, 4);
	return v;
}

static void state_travels(void **state)
{
	struct kvm_lapic_state s;

	lw(1, APIC_TDCR, 0xb);
	lw(1, APIC_LVTT, TIMER_PERIODIC | 0x41);
	lw(1, APIC_TMICT, 4000 * MS);
	ipi(0, 1, 0x51);
	irq_cpu_ack(w.irq, w.cpu[1].l);
	ipi(0, 1, 0x61);
	ipi(1, 9, 0x44);
	lapic_get_state(w.cpu[1].l, &s);
	assert_int_equal(in_state(&s, APIC_ID), 1 << 24);
	assert_in_range(in_state(&s, APIC_TMCCT), 3000 * MS, 4000 * MS);
	assert_int_equal(in_state(&s, APIC_ISR + 0x20), 1 << 0x11);
	assert_int_equal(in_state(&s, APIC_IRR + 0x30), 1 << 1);
	assert_int_equal(in_state(&s, APIC_ICR2), 9 << 24);
	lapic_reset(w.cpu[1].l, false);
	assert_int_equal(pending(1), -1);
	/* the timer goes on from the current count, not from the initial one */
	memcpy(s.regs + APIC_TMCCT, &(uint32_t){10 * MS}, 4);
	uint64_t start = base_now_ns();
	assert_int_equal(lapic_set_state(w.cpu[1].l, &s), 0);
	assert_int_equal(serve(1), 0x61);
	lw(1, APIC_EOI, 0);
	assert_true(wait_pending(1));
	assert_in_range(base_now_ns() - start, 10 * MS, 10 * MS + LATE);
	assert_int_equal(serve(1), 0x41);
	assert_in_range(lr(1, APIC_TMCCT), 3000 * MS, 4000 * MS);
}

static void state_ids(void **state)
{
	struct kvm_lapic_state s;

	x2apic(2);
	lapic_get_state(w.cpu[2].l, &s);
	assert_int_equal(in_state(&s, APIC_ID), 2 << 24);
	assert_int_equal(lapic_set_state(w.cpu[2].l, &s), 0);
	assert_true(rdmsr(2, 0x802) == 2);
	irq_set_x2apic_api(w.irq, X2APIC_32BIT_IDS);
	assert_int_equal(lapic_set_state(w.cpu[2].l, &s), -EINVAL);
	lapic_get_state(w.cpu[2].l, &s);
	assert_int_equal(in_state(&s, APIC_ID), 2);
	memset(s.regs + APIC_LDR, 0xff, 4); /* fixed by the id */
	assert_int_equal(lapic_set_state(w.cpu[2].l, &s), 0);
	assert_true(rdmsr(2, 0x80d) == 4);
	wrmsr(2, 0x830, 7ULL << 32 | 0x1044);
	lapic_get_state(w.cpu[2].l, &s);
	assert_int_equal(in_state(&s, APIC_ICR), 0x44);
	assert_int_equal(in_state(&s, APIC_ICR2), 7);
	/* any bits whatever must not hurt */
	memset(&s, 0xff, sizeof(s));
	memcpy(s.regs + APIC_ID, &(uint32_t){2}, 4);
	assert_int_equal(lapic_set_state(w.cpu[2].l, &s), 0);
	memset(&s, 0xff, sizeof(s));
	assert_int_equal(lapic_set_state(w.cpu[1].l, &s), 0);
	lapic_reset(w.cpu[1].l, false);
	lapic_reset(w.cpu[2].l, false);
}

static void reset_and_init(void **state)
{
	x2apic(1);
	wrmsr(1, 0x808, 0x20);
	lapic_reset(w.cpu[1].l, true); /* INIT keeps the mode */
	assert_true(lapic_get_base(w.cpu[1].l) == (BASE | EN | X2));
	assert_true(rdmsr(1, 0x808) == 0);
	assert_true(rdmsr(1, 0x80f) == 0xff);
	assert_true(rdmsr(1, 0x835) == 0x10000);
	lapic_reset(w.cpu[1].l, false);
	assert_true(lapic_get_base(w.cpu[1].l) == (BASE | EN));
	assert_int_equal(lr(1, APIC_ID), 1 << 24);
	lapic_reset(w.cpu[0].l, false);
	assert_int_equal(lr(0, APIC_LVT0), 0x700); /* the boot vCPU listens to the PIC */
	lw(1, APIC_SPIV, 0x1ff);
	lw(1, APIC_LVT1, 4 << 8);
	assert_int_equal(lapic_local_deliver(w.cpu[1].l, APIC_LVT1), 1);
	assert_int_equal(w.cpu[1].nmis, 1);
	lw(1, APIC_LVT1, LVT_MASKED);
	assert_int_equal(lapic_local_deliver(w.cpu[1].l, APIC_LVT1), 0);
	assert_int_equal(lapic_local_deliver(w.cpu[1].l, 0x100), 0);
}

/* -- Races -- */

static _Atomic bool stop;

static void *sender(void *arg)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000 | 1 << 12, .data = 0x51};
	unsigned *sent = arg;

	while (!stop) {
		msi.data = 0x51 + (*sent)++ % 4;
		irq_signal_msi(w.irq, &msi);
	}
	return NULL;
}

/* Messages arrive while vCPUs come and go and change their ids. */
static void vcpus_come_and_go(void **state)
{
	pthread_t th[2];
	unsigned sent[2] = {0, 0}, i, taken = 0;

	stop = false;
	for (i = 0; i < 2; i++)
		pthread_create(&th[i], NULL, sender, &sent[i]);
	for (i = 0; i < 200; i++) {
		struct cpu *c = &w.cpu[5];

		assert_int_equal(lapic_create(&c->l, w.irq, c, i % 2 ? 1 : 5, false), 0);
		lapic_mmio_write(c->l, APIC_SPIV, 4, &(uint32_t){0x1ff});
		lw(1, APIC_ID, (i % 3 + 1) << 24);
		while (serve(1) >= 0)
			taken++;
		lapic_destroy(c->l);
		c->l = NULL;
	}
	lw(1, APIC_ID, 1 << 24);
	while (!taken || pending(1) < 0)
		taken += serve(1) >= 0;
	stop = true;
	for (i = 0; i < 2; i++)
		pthread_join(th[i], NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(base_transitions),
	    T(x2apic_refusals),
	    T(xapic_registers),
	    T(errors),
	    T(shorthands),
	    T(modes),
	    T(logical),
	    T(x2apic_ipis),
	    T(priorities),
	    T(pv_eoi),
	    cmocka_unit_test_setup_teardown(split_eoi, setup_split, teardown),
	    T(one_shot),
	    T(dividers),
	    T(periodic),
	    T(tsc_deadline),
	    T(state_travels),
	    T(state_ids),
	    T(reset_and_init),
	    T(vcpus_come_and_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
