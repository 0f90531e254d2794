/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The replay log: device accesses that the current instruction has already performed. The engine restarts
 * an instruction that had to stop; its accesses come again in the same order and those already done, by the
 * VMM or by a device of ours, are answered from here instead of being done twice.
 */
#ifndef USERKVM_VCPU_REPLAY_H
#define USERKVM_VCPU_REPLAY_H

#include "base/base.h"

enum vcpu_access_kind { ACCESS_MMIO, ACCESS_PIO, ACCESS_RDMSR, ACCESS_WRMSR, ACCESS_HYPERCALL };

/* One device access as a port call describes it, and its outcome. */
struct vcpu_access {
	enum vcpu_access_kind kind;
	bool write;
	bool failed;	 /* MSR: the VMM says #GP */
	uint32_t len;	 /* bytes; PIO: size * count */
	uint64_t addr;	 /* gpa, port, MSR index */
	uint8_t data[8]; /* MMIO and MSR: the value read or written */
};

#define REPLAY_FIRST 16	  /* entries at first; grows */
#define REPLAY_MAX   4096 /* more than any XSAVE area to MMIO, 8 bytes at a time */

struct vcpu_replay {
	unsigned n, pos; /* entries; the next one to answer */
	unsigned room;
	uint64_t retired;    /* engine_retired when the log was begun */
	uint64_t linear_rip; /* of the instruction it belongs to */
	struct vcpu_access *log;
	uint8_t *pio; /* PAGE_SIZE bytes: data of a PIO entry; one instruction has one */
};

struct vcpu;

/* -ENOMEM. */
int replay_init(struct vcpu *v);
void replay_destroy(struct vcpu *v);
/* Forgets everything. */
void replay_clear(struct vcpu *v);
/* The instruction is about to be executed again: answers start from the first access. */
void replay_rewind(struct vcpu *v);
/*
 * If the instruction did this access before, returns its record (and steps to the next), else NULL. A log of
 * another instruction, or an order that does not fit, is dropped.
 */
const struct vcpu_access *replay_find(struct vcpu *v, enum vcpu_access_kind kind, uint64_t addr, uint32_t len,
				      bool write);
/* Makes room for one more entry, so that replay_add cannot fail; false without memory. */
bool replay_reserve(struct vcpu *v);
/* Records an access that is done; what replay_find looked for is behind it. data: PIO's, else NULL. */
void replay_add(struct vcpu *v, const struct vcpu_access *a, const void *pio_data);

#endif
