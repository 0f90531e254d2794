/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The i8254: refusals, access modes, latches, speaker port, ticks with and without reinjection, state.
 * make check T=irq/pit */
#include "world.h"

static int setup(void **state)
{
	const struct kvm_pit_config cfg = {.flags = KVM_PIT_SPEAKER_DUMMY};

	world_begin(IRQ_MODE_KERNEL, 1);
	assert_int_equal(irq_create_pit(w.irq, &cfg), 0);
	outb(0x20, 0x11);
	outb(0x21, 0x30);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0x21, 0xfe);
	return 0;
}

static int setup_bare(void **state)
{
	world_begin(IRQ_MODE_NONE, 0);
	return 0;
}

static int teardown(void **state)
{
	world_end();
	return 0;
}

static void program(unsigned n, unsigned mode, uint16_t val)
{
	outb(0x43, n << 6 | 3 << 4 | mode << 1);
	outb(0x40 + n, val);
	outb(0x40 + n, val >> 8);
}

static uint16_t read16(unsigned n)
{
	uint8_t low = inb(0x40 + n);

	return low | inb(0x40 + n) << 8;
}

/* Takes the tick as the guest does, through the PIC; false after 2 s. */
static bool take_tick(void)
{
	if (!wait_pending(0))
		return false;
	assert_int_equal(irq_cpu_ack(w.irq, w.cpu[0].l), 0x30);
	outb(0x20, 0x20);
	return true;
}

static void refusals(void **state)
{
	const struct kvm_pit_config cfg = {0};
	struct kvm_pit_state2 s;
	uint8_t v;
	int idx;

	assert_int_equal(irq_create_pit(w.irq, &cfg), -ENOENT);
	assert_int_equal(irq_get_pit(w.irq, &s), -ENXIO);
	assert_int_equal(irq_set_pit(w.irq, &s), -ENXIO);
	assert_int_equal(irq_set_pit_reinject(w.irq, true), -ENXIO);
	assert_int_equal(irq_create_chip(w.irq), 0);
	base_alloc_fail_at(1);
	assert_int_equal(irq_create_pit(w.irq, &cfg), -ENOMEM);
	base_alloc_fail_at(0);
	assert_int_equal(irq_create_pit(w.irq, &cfg), 0);
	assert_int_equal(irq_create_pit(w.irq, &cfg), -EEXIST);
	idx = srcu_read_lock(&w.srcu); /* no speaker port unless asked for */
	assert_int_equal(bus_read(w.bus, BUS_PIO, 0x61, 1, &v), -EOPNOTSUPP);
	assert_int_equal(bus_read(w.bus, BUS_PIO, 0x44, 1, &v), -EOPNOTSUPP);
	srcu_read_unlock(&w.srcu, idx);
}

static void access_modes(void **state)
{
	uint16_t a, b;

	program(2, 0, 0xffff);
	a = read16(2);
	usleep(3000); /* 3,580 ticks */
	b = read16(2);
	assert_in_range(a - b, 3500, 60000);
	outb(0x43, 2 << 6 | 1 << 4); /* low byte only: the high one is 0 */
	outb(0x42, 0x80);
	inb(0x42);
	outb(0x43, 2 << 6 | 2 << 4 | 2 << 1); /* high byte only */
	outb(0x42, 0x40);
	assert_in_range(inb(0x42), 0x30, 0x40);
	assert_int_equal(inb(0x43), 0);
	/* a latched count stands still and is read once, low byte first */
	program(2, 0, 0xffff);
	outb(0x43, 2 << 6);
	a = read16(2);
	usleep(3000);
	assert_in_range(0xffff - a, 0, 60000);
	b = read16(2);
	assert_in_range(a - b, 3500, 60000);
	outb(0x43, 2 << 6);
	usleep(2000);
	outb(0x43, 2 << 6); /* a second latch before the first was read is ignored */
	a = read16(2);
	outb(0x43, 2 << 6);
	b = read16(2);
	assert_in_range(a - b, 2000, 60000);
}

static void read_back(void **state)
{
	uint8_t status;

	program(2, 3, 0x8000);
	program(1, 2, 18);
	outb(0x43, 0xc0 | 0x20 | 2 << 2); /* status of channel 2 only */
	status = inb(0x42);
	assert_int_equal(status & 0x7f, 3 << 4 | 3 << 1);
	outb(0x43, 0xc0 | 2 << 2); /* both: status first, then the count */
	assert_int_equal(inb(0x42) & 0x7f, 0x36);
	assert_in_range(read16(2), 1, 0x8000);
	outb(0x43, 0xc0 | 0x20 | 2 << 1 | 2 << 2);
	assert_int_equal(inb(0x41) & 0x7f, 3 << 4 | 2 << 1);
	assert_int_equal(inb(0x42) & 0x7f, 0x36);
	/* modes 6 and 7 are 2 and 3 */
	outb(0x43, 1 << 6 | 3 << 4 | 7 << 1);
	outb(0x43, 0xc0 | 0x20 | 2 << 1);
	assert_int_equal(inb(0x41) & 0x7f, 0x36);
}

/* What Linux does to measure the TSC: gate channel 2, count down once, watch OUT2 in port 0x61. */
static void speaker_port(void **state)
{
	uint64_t start, end;
	uint8_t seen = 0;
	int i;

	outb(0x61, 0);
	assert_int_equal(inb(0x61) & 3, 0);
	outb(0x61, 1);
	program(2, 0, 23864); /* 20 ms */
	start = base_now_ns();
	assert_int_equal(inb(0x61) & 0x21, 0x01);
	while (!(inb(0x61) & 0x20) && base_now_ns() - start < 2000 * MS)
		;
	end = base_now_ns();
	assert_in_range(end - start, 19 * MS, 1500 * MS);
	outb(0x61, 2);
	assert_int_equal(inb(0x61) & 3, 2);
	for (i = 0; i < 3000; i++)
		seen |= (inb(0x61) & 0x10) ? 1 : 2;
	assert_int_equal(seen, 3); /* the refresh bit toggles */
	/* a rising gate restarts square waves */
	program(2, 3, 0xfffe);
	usleep(5000);
	outb(0x61, 3);
	assert_in_range(read16(2), 0xf000, 0xfffe);
}

static void periodic_ticks(void **state)
{
	uint64_t start = base_now_ns();
	int i, quiet;

	program(0, 2, 5966); /* 200 Hz */
	for (i = 0; i < 20; i++)
		assert_true(take_tick());
	assert_in_range(base_now_ns() - start, 99 * MS, 1500 * MS);
	outb(0x43, 3 << 4 | 5 << 1); /* mode 5 waits for a gate that channel 0 does not have */
	outb(0x40, 0xff);
	outb(0x40, 0xff);
	/* What is still owed comes, on the loop's thread; then no more. */
	start = base_now_ns();
	for (quiet = 0; quiet < 20; quiet++) {
		assert_true(base_now_ns() - start < 2000 * MS);
		usleep(1000);
		if (pending(0) >= 0) {
			take_tick();
			quiet = 0;
		}
	}
}

static void one_shot(void **state)
{
	uint64_t start = base_now_ns();

	program(0, 0, 11932); /* 10 ms */
	assert_true(take_tick());
	assert_in_range(base_now_ns() - start, 9 * MS, 1500 * MS);
	usleep(25000);
	assert_int_equal(pending(0), -1);
}

/* Runs 200 Hz past a guest that is deaf for 100 ms; ticks still missing when it caught up, or after 200 ms.
 */
static int missing_after_deafness(bool reinject)
{
	uint64_t start = base_now_ns(), run;
	int n = 0, due;

	program(0, 2, 5966);
	usleep(100000);
	do {
		if (pending(0) >= 0)
			n += take_tick();
		else
			usleep(100);
		run = base_now_ns() - start;
		due = run / (5 * MS);
	} while (reinject ? n < due - 3 && run < 3000 * MS : run < 200 * MS);
	outb(0x43, 3 << 4 | 5 << 1);
	outb(0x40, 0xff);
	outb(0x40, 0xff);
	while (pending(0) >= 0)
		take_tick();
	return due - n;
}

static void reinjection(void **state)
{
	assert_in_range(missing_after_deafness(true) + 3, 0, 6);
	assert_int_equal(irq_set_pit_reinject(w.irq, false), 0);
	assert_int_equal(irq_set_pit_reinject(w.irq, false), 0);
	assert_in_range(missing_after_deafness(false), 15, 45);
	assert_int_equal(irq_set_pit_reinject(w.irq, true), 0);
}

/* Ticks while IRQ 0 is masked are not owed. */
static void unmasking_forgets(void **state)
{
	int n = 0;

	outb(0x21, 0xff);
	program(0, 2, 5966);
	usleep(100000);
	program(2, 2, 0);
	outb(0x21, 0xfe);
	for (uint64_t end = base_now_ns() + 20 * MS; base_now_ns() < end;)
		if (pending(0) >= 0)
			n += take_tick();
		else
			usleep(100);
	assert_in_range(n, 1, 12);
}

/* LINT0 as NMI: each tick is an NMI, as the old watchdog wants. */
static void watchdog(void **state)
{
	lw(0, APIC_SPIV, 0x1ff);
	lw(0, APIC_LVT0, DM_NMI << 8);
	irq_set_pit_reinject(w.irq, false);
	program(0, 2, 5966);
	assert_true(wait_for(&w.cpu[0].nmis, 3));
}

static void state_travels(void **state)
{
	struct kvm_pit_state2 s, t;

	program(0, 2, 5966);
	program(2, 3, 0x1234);
	outb(0x61, 2);
	assert_int_equal(irq_get_pit(w.irq, &s), 0);
	assert_int_equal(s.channels[0].count, 5966);
	assert_int_equal(s.channels[0].mode, 2);
	assert_int_equal(s.channels[2].count, 0x1234);
	assert_int_equal(s.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
	program(0, 5, 0);
	while (pending(0) >= 0)
		take_tick();
	/* the HPET has taken over: no ticks of ours */
	s.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
	assert_int_equal(irq_set_pit(w.irq, &s), 0);
	usleep(15000);
	assert_int_equal(pending(0), -1);
	assert_int_equal(irq_get_pit(w.irq, &t), 0);
	assert_int_equal(t.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON | KVM_PIT_FLAGS_HPET_LEGACY);
	s.flags = 0;
	assert_int_equal(irq_set_pit(w.irq, &s), 0);
	assert_true(take_tick());
	assert_true(take_tick());
	/* any bits whatever must not hurt */
	memset(&s, 0xff, sizeof(s));
	assert_int_equal(irq_set_pit(w.irq, &s), 0);
	s.flags = 0;
	s.channels[0].mode = 2;
	s.channels[0].count = 0;
	s.channels[2].mode = 3;
	s.channels[2].count = 1;
	assert_int_equal(irq_set_pit(w.irq, &s), 0);
	outb(0x43, 0xde);
	inb(0x40);
	inb(0x42);
	inb(0x61);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(refusals, setup_bare, teardown),
	    T(access_modes),
	    T(read_back),
	    T(speaker_port),
	    T(periodic_ticks),
	    T(one_shot),
	    T(reinjection),
	    T(unmasking_forgets),
	    T(watchdog),
	    T(state_travels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
