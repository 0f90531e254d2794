/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What KVM API operations cost: build/bench/api [WORD...] measures the rows whose names contain a word.
 * tools/bench.sh runs it under userkvm and on the machine's own KVM and prints both.
 */
#include "bench.h"

/* Bars in ns: {median, p99} idle, with one and with eight running vCPUs (issue 3; a machine with two cores). */
#define BARS(i50, i99, o50, o99, e50, e99) .bar = {{i50, i99}, {o50, o99}, {e50, e99}}
#define MEDIAN(x)			   BARS(x, 0, x, 0, 0, 0)
#define LIFE				   .begin = lend_ram, .end = take_ram, .samples = 300
#define SLOT_CHANGE			   BARS(100000, 100000, 100000, 100000, 100000, 1000000), .samples = 1000

static const struct row rows[] = {
    {"create VM + vCPU", LIFE, .body = make_bare, .after = unmake_bare, MEDIAN(100000)},
    {"create VM + vCPU, usual set-up", LIFE, .body = make_full, .after = unmake_full, MEDIAN(100000)},
    {"destroy VM + vCPU, usual set-up", LIFE, .before = make_full, .body = unmake_full, MEDIAN(100000)},
    {"GET_REGS", .body = get_regs, .samples = 2000, .calls = 20, MEDIAN(100)},
    {"PIO exit and re-entry", load_pio, .body = run_pio, .samples = 2000, .calls = 20, MEDIAN(800)},
    {"MMIO exit and re-entry", load_mmio, .body = run_mmio, .samples = 2000, .calls = 20, MEDIAN(900)},
    {"bare eventfd write", open_event, .body = write_event, .after = drain_event, .end = close_event,
     .samples = 2000, .calls = 20},
    {"ioeventfd hit, in the guest's loop", load_bell, .body = run_to_end, .end = unload_bell, .samples = 150,
     .ops = 1000, MEDIAN(150), .above = "bare eventfd write"},
    {"the guest's loop without it", load_loop, .body = run_to_end, .samples = 150, .ops = 1000},
    {"ioeventfd add", open_event, .body = add_bell, .after = del_bell, .end = close_event, .samples = 1000,
     BARS(0, 5000, 0, 5000, 0, 0)},
    {"ioeventfd delete", open_event, .before = add_bell, .body = del_bell, .end = close_event,
     .samples = 1000, BARS(0, 50000, 0, 50000, 0, 0)},
    {"irqfd add", open_event, .body = add_irqfd, .after = del_irqfd, .end = close_event, .samples = 500},
    {"irqfd delete", open_event, .before = add_irqfd, .body = del_irqfd, .end = close_event, .samples = 500},
    {"routing update", .body = route, .samples = 1000},
    {"irqfd write to guest handler", begin_irq, .body = fire_irq, .end = end_irq, .samples = 300,
     .has_target = true},
    {"MSI to guest handler", begin_target, .body = fire_msi, .end = end_target, .samples = 1000,
     .not_eight = true, .has_target = true, BARS(0, 0, 0, 5000, 0, 0)},
    {"bare signal to handler", begin_bare_signal, .body = fire_signal, .end = end_bare_signal,
     .samples = 1000, .not_eight = true, .has_target = true},
    {"signal to handler of a vCPU thread", begin_signal, .body = fire_signal, .end = end_target,
     .samples = 1000, BARS(10000, 0, 10000, 0, 0, 0), .above = "bare signal to handler", .not_eight = true,
     .has_target = true},
    {"memslot add", map_slot, .body = add_slot, .after = del_slot, .end = unmap_slot, SLOT_CHANGE},
    {"memslot add, after a miss", map_unknown, .before = look_there, .body = add_slot, .after = del_slot,
     .end = unmap_slot, SLOT_CHANGE},
    {"memslot delete", map_slot, .before = add_slot, .body = del_slot, .end = unmap_slot, SLOT_CHANGE},
    {"memslot delete, after use", map_slot, .before = add_slot_touched, .body = del_slot, .end = unmap_slot,
     SLOT_CHANGE},
    {"memslot move", map_moving, .body = move_slot, .end = unmap_moving, SLOT_CHANGE},
    {"memslot add after 300 ioeventfds", map_slot_and_event, .before = hang_300, .body = add_slot,
     .after = del_slot_and_300, .end = unmap_slot_and_event, BARS(0, 100000, 0, 100000, 100000, 1000000),
     .samples = 200},
    {"dirty log GET, 4 GiB, 64 dirty", begin_log, .before = dirty_pages, .body = get_log, .end = end_log,
     .samples = 200},
    {"dirty log GET, manual protect", begin_manual_log, .before = dirty_pages, .body = get_log,
     .end = end_log, .samples = 200},
    {"dirty log CLEAR, manual protect", begin_manual_log, .before = dirty_and_get, .body = clear_log,
     .end = end_log, .samples = 200},
};

int main(int argc, char **argv)
{
	char **words = argv + 1;

	if (argc == 2 && !strcmp(argv[1], "--first-vm"))
		return b_first_vm_child();
	b_noise(words);
	b_rows(rows, sizeof(rows) / sizeof(rows[0]), words);
	b_first_vm(words);
	b_thousand_vms(words);
	b_registrations(words);
	return 0;
}
