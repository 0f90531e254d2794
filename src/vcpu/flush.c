/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Revocation: mem_port.flush makes every host pointer that a vCPU holds harmless and returns without waiting
 * for a thread to be scheduled.
 *
 *	vCPU				flush
 *	in_guest_tid = tid		requests |= REVOKE
 *	look at requests		look at in_guest_tid; membarrier; look again
 *
 * At least one sees the other: either the vCPU drops its pointers itself before it uses any, or flush signals it. The
 * vCPU's side runs at each entry and has no fence: if it looked at requests before the barrier, its tid is seen by the
 * second look, else it sees the request. SIG_KICK followed by a membarrier means that the
 * thread runs engine_kick before its next user instruction; who was signalled at the first look needs no other. A request that a signalled vCPU finds later is
 * redundant but harmless; it also covers the signal that arrives after guest_leave, which nobody handles. What
 * runs in the handler is hidden from ThreadSanitizer, whose own code it may interrupt.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mutate.h"
#include "vcpu/internal.h"

#define GIVE_CYCLES 100000 /* some 40 us */

static __thread __attribute__((tls_model("initial-exec"))) int own_tid;

/* The child of a fork is another thread than its TLS remembers. */
static void forget_tid(void)
{
	own_tid = 0;
}

/* Before any lock of ours is taken, for libc's own is taken here. */
static __attribute__((constructor)) void register_fork(void)
{
	pthread_atfork(NULL, NULL, forget_tid);
}

void guest_revoke(struct vcpu *v)
{
	if (vcpu_request_take(v, VCPU_REQ_REVOKE))
		engine_revoke(v->cpu);
}

void guest_enter(struct vcpu *v)
{
	if (unlikely(!own_tid))
		own_tid = syscall(SYS_gettid);
	lock_section_enter(LOCK_GUEST, v);
	atomic_store_explicit(&v->in_guest_tid, own_tid, memory_order_release);
	base_light_fence(); /* before the look at requests; pairs with vcpu_flush */
	guest_revoke(v);
}

void guest_leave(struct vcpu *v)
{
	atomic_store_explicit(&v->in_guest_tid, 0, memory_order_release);
	lock_section_leave(LOCK_GUEST, v);
}

/*
 * Revocations one upon the other would leave a vCPU nothing but its handler: it would never end the read section that
 * the updater waits for. One that was signalled and has executed nothing since gets a little time, whether it uses it
 * or not; one whose signal is still pending needs none.
 */
static void give_time(struct vcpu *v, int tid)
{
	uint64_t now = engine_progress(v->cpu), start = __builtin_ia32_rdtsc();

	if (atomic_exchange(&v->flushed_at, now) != now || !base_sig_kick_due(tid, &v->sig.kicked))
		return;
	while (engine_progress(v->cpu) == now && atomic_load(&v->in_guest_tid) == tid &&
	       __builtin_ia32_rdtsc() - start < GIVE_CYCLES)
		__builtin_ia32_pause();
}

/* True if the vCPU was in its section, and so was signalled. */
static bool kick_inside(struct vcpu *v)
{
	int tid = atomic_load(&v->in_guest_tid);

	if (!tid)
		return false;
	give_time(v, tid);
	base_sig_kick_once(tid, &v->sig.kicked);
	return true;
}

/* Signals those of the first n vCPUs that are inside and were not yet; true if there was one. */
static bool kick_all(struct vcpu_vm *vm, unsigned n, uint64_t kicked[VCPU_MAX / 64])
{
	bool any = false;

	for (unsigned i = 0; i < n; i++) {
		struct vcpu *v = atomic_load(&vm->vcpus[i]);

		if (!v || (kicked[i / 64] & BIT(i % 64)) || !kick_inside(v))
			continue;
		kicked[i / 64] |= BIT(i % 64);
		any = true;
	}
	return any;
}

/* Takes or drops every vcpu->mutex: what a flush never does. */
static void lock_vcpus(struct vcpu_vm *vm, bool lock)
{
	for (unsigned i = 0; i < atomic_load(&vm->nr_vcpus); i++) {
		struct vcpu *v = atomic_load(&vm->vcpus[i]);

		if (lock)
			mutex_lock(&v->mutex);
		else
			mutex_unlock(&v->mutex);
	}
}

/* mem_port.flush; ctx is the struct vcpu_vm. */
static void vcpu_flush(void *ctx)
{
	struct vcpu_vm *vm = ctx;
	uint64_t kicked[VCPU_MAX / 64] = {0};
	unsigned n = atomic_load(&vm->nr_vcpus);

	/* It never waits; on a host without signals it would have to. */
	lock_section_wait(LOCK_GUEST, vm);
	if (mutated(MUTATE_FLUSH_LOCKS_VCPUS))
		lock_vcpus(vm, true);
	for (unsigned i = 0; i < n; i++) {
		struct vcpu *v = atomic_load(&vm->vcpus[i]);

		if (v)
			vcpu_request_quiet(v, VCPU_REQ_REVOKE);
	}
	kick_all(vm, n, kicked);
	if (n)
		base_membarrier();
	if (kick_all(vm, n, kicked))
		base_membarrier();
	if (mutated(MUTATE_FLUSH_LOCKS_VCPUS))
		lock_vcpus(vm, false);
}

const struct mem_port vcpu_mem_port = {.flush = vcpu_flush};
