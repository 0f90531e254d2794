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

#define REPLAY_MAX 128 /* an XSAVE or a 64-byte vector store to MMIO, 8 bytes at a time, straddling */

/* PIO data of one stopped instruction or batch: the PIO page's worth. */
struct vcpu_replay {
	unsigned n, pos;     /* entries; the next one to answer */
	uint64_t retired;    /* engine_retired when the log was begun */
	uint64_t linear_rip; /* of the instruction it belongs to */
	struct vcpu_access log[REPLAY_MAX];
	uint8_t *pio; /* PIO data by the VMM: PAGE_SIZE bytes */
	uint32_t pio_len;
};

struct vcpu;

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
/* Records an access that is done. */
void replay_add(struct vcpu *v, const struct vcpu_access *a);

#endif
