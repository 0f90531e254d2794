/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Xen's interface to an HVM guest, as much as KVM offers (api.rst 8.29 and 4.126 to 4.130): hypercalls for the VMM,
 * shared info with its wall clock, two-level event channels, vCPU time and run states, one-shot timers, polling.
 * Private to vcpu/; embedded in struct vcpu and struct vcpu_vm, so no include of internal.h here.
 *
 *	xen.c		attributes, pages, event channels, run states, timers
 *	xen_call.c	hypercalls and their page
 */
#ifndef USERKVM_VCPU_XEN_H
#define USERKVM_VCPU_XEN_H

#include <linux/kvm.h>

#include "base/base.h"
#include "base/loop.h"

#define XEN_NO_PAGE   (~0ULL)
#define XEN_INFO_TIME 32   /* pvclock's part of vcpu_info */
#define XEN_PORTS     4096 /* of a 64-bit guest; 1024 of a 32-bit one */

struct vcpu;
struct vcpu_vm;
struct xen_vm;

/* Belongs to the vCPU's own thread, except the atomics. */
struct vcpu_xen {
	uint32_t vcpu_id; /* as Xen numbers it */
	_Atomic uint64_t info;
	uint64_t time, runstate; /* guest-physical, or XEN_NO_PAGE */
	_Atomic uint8_t upcall_vector;
	struct {
		uint32_t state;
		uint64_t entry_time, time[4], last_delay;
	} rs;
	uint32_t timer_port;
	uint64_t timer_expires; /* ns of kvmclock; 0 = none */
	_Atomic bool timer_due;
	struct loop_timer timer, poll_timer;
	_Atomic int64_t poll; /* the port that SCHEDOP_poll waits for; -1 any, 0 it does not wait */
	_Atomic uint64_t raised[XEN_PORTS / 64]; /* by threads that do not touch guest memory */
};

/* -- xen.c -- */
int xen_vm_init(struct vcpu_vm *vm);
void xen_vm_destroy(struct vcpu_vm *vm);
void xen_init(struct vcpu *v);
void xen_destroy(struct vcpu *v);
/* Hypercalls are Xen's. */
bool xen_active(const struct vcpu_vm *vm);
bool xen_long_mode(const struct vcpu_vm *vm);
unsigned xen_max_port(const struct vcpu_vm *vm);
/* True if the guest has to be told of event channels by the VM's vector; *vector then. */
bool xen_has_interrupt(struct vcpu *v, int *vector);
/* VCPU_REQ_XEN: what was raised elsewhere, and the timer. */
void xen_request(struct vcpu *v);
/* KVM_RUN begins: run state. */
void xen_begin_run(struct vcpu *v);
/* An event for a vCPU, by its APIC id, without touching guest memory. Any thread. 1 = taken, -EINVAL. */
int xen_raise(struct vcpu_vm *vm, uint32_t vcpu, uint32_t port);
/* The same at once: 1 = told, 0 = it was pending, -ENOTCONN masked, -EINVAL. No lock but vcpu->mutex held. */
int xen_send(struct vcpu_vm *vm, struct vcpu *target, uint32_t port);
/* EVTCHNOP_send: 1 = done, 0 = the VMM's. */
int xen_send_outbound(struct vcpu *v, uint32_t port);
/* True if the port's event is pending. */
bool xen_port_pending(struct vcpu *v, uint32_t port);
/* Sets the one-shot timer to an absolute kvmclock time (ns), or (0) stops it. */
void xen_set_timer(struct vcpu *v, uint64_t expires);
uint32_t xen_version(const struct vcpu_vm *vm);
void xen_config(const struct vcpu_vm *vm, struct kvm_xen_hvm_config *out);
/* The VMM leaves sending events, and so polling, to us. */
bool xen_sends(const struct vcpu_vm *vm);
/* SCHEDOP_poll is over, however. */
void xen_poll_end(struct vcpu *v);
void xen_latch_long_mode(struct vcpu_vm *vm, bool on);

/* -- xen_call.c -- */
enum engine_status xen_call(struct vcpu *v, bool is64);
/* The MSR of KVM_XEN_HVM_CONFIG was written: fills a hypercall page. -EINVAL = #GP. */
int xen_hypercall_page(struct vcpu *v, uint64_t val);

#endif
