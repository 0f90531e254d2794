/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of bench/api share: a world to measure in, rows to measure, figures to print. They speak only
 * the KVM ABI, so that one program runs under userkvm and on the machine's own KVM.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include "run_util.h"

/* How many vCPUs of the same VM run guest code meanwhile. */
enum mode { IDLE, ONE, EIGHT, MODES };
#define BUSY_MAX 8

/* -- The world (api_world_part.c): a VM with interrupt controllers, in 64-bit mode -- */

#define W_RAM	  (4UL << 20)
#define W_CODE	  0x10000UL    /* of vCPU 0 */
#define W_HANDLER 0x11000UL    /* of its interrupts: increments *W_FLAG */
#define W_BUSY	  0x12000UL    /* code of the others */
#define W_FLAG	  0x20000UL    /* uint32_t */
#define W_DATA	  0x200000UL   /* 128 KiB that each busy vCPU walks through */
#define W_DEVICE  0x30000000UL /* nobody's: an access leaves for the VMM */
#define W_SPARE	  0x40000000UL /* room for memslots; up to 8 GiB are mapped one to one */
#define W_LARGE	  0x100000000UL
#define W_VECTOR  0x41
#define W_GSI	  24 /* routed to W_VECTOR of vCPU 0 by w_route */

struct world {
	struct ku_vm vm;
	struct ku_vcpu cpu; /* 0: the measuring thread's */
	struct ku_vcpu busy_cpu[BUSY_MAX];
	struct ru busy[BUSY_MAX];
	unsigned nbusy;
	struct ru target; /* cpu on a thread of its own, for rows that want that */
	void *mem;	  /* the row's own: memory, its size, a descriptor, numbers */
	size_t mem_size;
	int fd;
	uint64_t n, m;
};

/* Makes the world and sets `busy` vCPUs running. */
void w_create(struct world *w, unsigned busy);
void w_destroy(struct world *w);
/* Code for vCPU 0, at W_CODE. */
void w_load(struct world *w, const uint8_t *code, const uint8_t *end);
#define W_LOAD(w, name) w_load(w, name, name##_end)
/* Points vCPU 0 at W_CODE, interrupts off. */
void w_restart(struct world *w);
/* Starts vCPU 0 on its own thread with interrupts on; waits until it runs. */
void w_start_target(struct world *w);
void w_stop_target(struct world *w);
/* KVM_SET_GSI_ROUTING of a PC's 40 lines and `msis` messages behind them, the first of which is W_GSI. */
void w_route(struct world *w, unsigned msis);

/* -- Measuring (api_measure_part.c) -- */

/* A row is measured in every mode for which it has samples; times are nanoseconds. */
struct row {
	const char *name;
	void (*begin)(struct world *w);	 /* once per mode; may be NULL, as the next two and `end` */
	void (*before)(struct world *w); /* before each sample */
	void (*body)(struct world *w);	 /* what is timed */
	void (*after)(struct world *w);	 /* after each sample */
	void (*end)(struct world *w);
	unsigned samples; /* per run, idle and with one vCPU; a fifth of them with eight */
	unsigned calls;	  /* of body per sample; 0: 1 */
	unsigned ops;	  /* operations per call; 0: 1 */
	bool has_target;  /* vCPU 0 is one of the running ones */
	bool not_eight;	  /* with eight it would be the host's scheduler that is measured */
	struct {
		uint64_t median, p99; /* 0: none */
	} bar[MODES];
	const char *above; /* the bars come on top of this earlier row's median */
};

uint64_t b_now(void);
/* Measures the rows whose names contain one of the words (all without words) and prints them. */
void b_rows(const struct row *rows, unsigned n, char **words);
/* Prints one figure: `unit` is ns, KiB or x; bar 0: none. */
void b_print(const char *name, enum mode mode, double median, double p99, const char *unit, double bar_median,
	     double bar_p99);
bool b_wanted(const char *name, char **words);

/* -- Figures that are no rows -- */
void b_noise(char **words);	   /* request and acknowledgement between two threads */
void b_first_vm(char **words);	   /* the first VM of a process beside later ones */
void b_thousand_vms(char **words); /* memory and time per VM */
void b_registrations(char **words);
int b_first_vm_child(void); /* what b_first_vm starts: prints two numbers */

/* -- Rows' functions, by file -- */
#define ROW_FN(name) void name(struct world *w)
/* api_life_part.c */
ROW_FN(make_bare);
ROW_FN(unmake_bare);
ROW_FN(make_full);
ROW_FN(unmake_full);
ROW_FN(lend_ram);
ROW_FN(take_ram);
/* api_vcpu_part.c */
ROW_FN(get_regs);
ROW_FN(load_pio);
ROW_FN(run_pio);
ROW_FN(load_mmio);
ROW_FN(run_mmio);
ROW_FN(load_bell);
ROW_FN(run_to_end);
ROW_FN(unload_bell);
ROW_FN(load_loop);
ROW_FN(open_event);
ROW_FN(write_event);
ROW_FN(drain_event);
ROW_FN(close_event);
/* api_bus_part.c */
ROW_FN(add_bell);
ROW_FN(del_bell);
ROW_FN(add_irqfd);
ROW_FN(del_irqfd);
ROW_FN(route);
ROW_FN(begin_irq);
ROW_FN(fire_irq);
ROW_FN(end_irq);
/* api_kick_part.c */
ROW_FN(begin_target);
ROW_FN(end_target);
ROW_FN(fire_msi);
ROW_FN(begin_signal);
ROW_FN(begin_bare_signal);
ROW_FN(fire_signal);
ROW_FN(end_bare_signal);
/* api_mem_part.c */
ROW_FN(map_slot);
ROW_FN(unmap_slot);
ROW_FN(add_slot);
ROW_FN(del_slot);
ROW_FN(move_slot);
ROW_FN(map_moving);
ROW_FN(unmap_moving);
ROW_FN(add_slot_touched);
ROW_FN(map_unknown);
ROW_FN(look_there);
ROW_FN(hang_300);
ROW_FN(drop_300);
ROW_FN(map_slot_and_event);
ROW_FN(del_slot_and_300);
ROW_FN(unmap_slot_and_event);
ROW_FN(begin_log);
ROW_FN(begin_manual_log);
ROW_FN(dirty_pages);
ROW_FN(dirty_and_get);
ROW_FN(get_log);
ROW_FN(clear_log);
ROW_FN(end_log);

#endif
