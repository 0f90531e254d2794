/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to api/: statistics, each named once. KVM_GET_STATS_FD (api.rst 4.133) describes them to the VMM.
 * They count what reached the VMM, not what the engine does inside.
 */
#ifndef USERKVM_API_STATS_H
#define USERKVM_API_STATS_H

#include "base/base.h"

/* STAT(field, kind): kind is CUMULATIVE or INSTANT, no unit. */
#define VM_STATS(STAT)                      \
	STAT(vcpus, INSTANT)                \
	STAT(memslot_updates, CUMULATIVE)   \
	STAT(ioeventfd_updates, CUMULATIVE) \
	STAT(irqfd_updates, CUMULATIVE)     \
	STAT(irq_line_calls, CUMULATIVE)    \
	STAT(msi_calls, CUMULATIVE)         \
	STAT(routing_updates, CUMULATIVE)

#define VCPU_STATS(STAT)                   \
	STAT(exits, CUMULATIVE)            \
	STAT(io_exits, CUMULATIVE)         \
	STAT(mmio_exits, CUMULATIVE)       \
	STAT(halt_exits, CUMULATIVE)       \
	STAT(irq_window_exits, CUMULATIVE) \
	STAT(debug_exits, CUMULATIVE)      \
	STAT(msr_exits, CUMULATIVE)        \
	STAT(signal_exits, CUMULATIVE)     \
	STAT(shutdown_exits, CUMULATIVE)

#define STAT_FIELD(name, kind) _Atomic uint64_t name;
struct vm_stats {
	VM_STATS(STAT_FIELD)
};
struct vcpu_stats {
	VCPU_STATS(STAT_FIELD)
};
#undef STAT_FIELD

struct kvm;
struct vcpu_handle;
/* A new stats fd, which holds the VM; h NULL: the VM's own. -EMFILE, -ENOMEM. */
int stats_file_create(struct kvm *kvm, struct vcpu_handle *h);
/* Adds 1 to a counter of the VM; open stats files see it. */
void stats_add(struct kvm *kvm, _Atomic uint64_t *stat);
/* Counts one return from KVM_RUN. */
void stats_count_run(struct vcpu_handle *h, long result);

/* -- report.c -- */
/* The vCPU's line, if USERKVM_STATS wants one. */
void report_vcpu(const struct vcpu_handle *h);

#endif
