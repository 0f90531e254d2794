/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * irqfds: an eventfd that raises a GSI (api.rst 4.75, systems.md C9). The event loop waits for the eventfd,
 * takes its counter and injects. A GSI that is routed to one message has it cached in its irqfd, under a
 * sequence count; every other goes through the table.
 *
 * Why a swapped table can neither lose an event nor send it to an old route once the swap has returned:
 *   - An irqfd on the list has the route of the newest table, but for the moment between the table's
 *     publication and the refresh that follows it under the same irq_lock. One that is being made reads the
 *     table and joins the list in one section of irqfds.lock: if that section is before the refresh's, the
 *     refresh finds the irqfd; if after, the table it reads is the new one.
 *   - An event reads its route inside a section of irq_srcu and delivers in that same section. The swap
 *     synchronises irq_srcu after the refresh: a section that may have read the old route began before and is
 *     waited for; one that begins later reads the new route (srcu.c, A and B).
 *   - The route's words belong together: the reader takes them again if the count was odd or has moved. The
 *     count is odd for a few stores only, and nobody waits while it is.
 *   - The eventfd's counter is taken once, before the route is read; whatever the route is then, one delivery
 *     follows. An irqfd leaves the list only after its last event: until then it is refreshed.
 *
 * With resample the line stays up, driven by a source of its own, until the guest acknowledges it; then
 * it goes down and every resamplefd of that GSI is signalled, so that a device still asking raises it anew.
 */
#include <sched.h>
#include <sys/epoll.h>

#include "base/eventfd.h"
#include "base/mutate.h"
#include "irq/lapic.h"

/* All irqfds with resample of one GSI. */
struct resampler {
	struct irq_ack ack;
	struct resampler *next; /* irqfd_lock */
	struct irq_vm *vm;
	_Atomic(struct irqfd *) members; /* changed under irqfd_lock, read under irq_srcu */
};

struct irqfd {
	struct irqfd *next; /* irqfd_lock and irqfds_lock */
	struct irq_vm *vm;
	uint32_t gsi;
	struct base_eventfd efd, resamplefd;
	struct loop_fd watch;
	struct resampler *resampler; /* NULL without resample */
	_Atomic(struct irqfd *) next_member;
	/* The cached route; written under irqfds_lock. */
	_Atomic uint32_t seq; /* odd: being written */
	_Atomic bool is_msi;  /* false: the table decides */
	_Atomic uint32_t lo, hi, data;
};

/* -- The cached route -- */

#define relaxed_set(p, v) atomic_store_explicit(p, v, memory_order_relaxed)
#define relaxed_get(p)	  atomic_load_explicit(p, memory_order_relaxed)

/* Caches the route that the table has now. irqfds_lock, and irq_srcu or irq_lock held. */
static void cache_route(struct irqfd *f)
{
	uint32_t seq = relaxed_get(&f->seq);
	struct irq_msi m = {0};
	bool is_msi = irq_route_msi(f->vm, f->gsi, &m);

	relaxed_set(&f->seq, seq + 1);
	base_fence(); /* odd before the words; pairs with the reader's fence */
	relaxed_set(&f->is_msi, is_msi);
	relaxed_set(&f->lo, m.lo);
	pause_if(PAUSE_ROUTE_HALF);
	relaxed_set(&f->hi, m.hi);
	relaxed_set(&f->data, m.data);
	atomic_store_explicit(&f->seq, seq + 2, memory_order_release); /* pairs with the reader's acquire */
}

/* Reads it; true if it is a message. irq_srcu held. */
static bool cached_route(const struct irqfd *f, struct irq_msi *m)
{
	uint32_t seq;
	bool is_msi;

	for (;;) {
		seq = atomic_load_explicit(&f->seq, memory_order_acquire);
		is_msi = relaxed_get(&f->is_msi);
		*m = (struct irq_msi){relaxed_get(&f->lo), relaxed_get(&f->hi), relaxed_get(&f->data)};
		base_fence(); /* the words before the second look */
		if (!(seq & 1) && relaxed_get(&f->seq) == seq)
			return is_msi;
		sched_yield(); /* the writer may have lost its CPU */
	}
}

void irqfd_refresh(struct irq_vm *v)
{
	lock_assert_held(&v->lock);
	spin_lock(&v->irqfds_lock);
	for (struct irqfd *f = v->irqfds; f; f = f->next)
		cache_route(f);
	spin_unlock(&v->irqfds_lock);
}

/* Puts f on the list with the route of now. irqfd_lock held. */
static void list_add(struct irqfd *f)
{
	struct irq_vm *v = f->vm;
	int idx = irq_enter(v);

	spin_lock(&v->irqfds_lock);
	cache_route(f);
	f->next = v->irqfds;
	v->irqfds = f;
	spin_unlock(&v->irqfds_lock);
	irq_leave(v, idx);
}

/* Takes it off. irqfd_lock held. */
static void list_del(struct irqfd *f)
{
	struct irqfd **at = &f->vm->irqfds;

	spin_lock(&f->vm->irqfds_lock);
	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	spin_unlock(&f->vm->irqfds_lock);
}

/* -- Events -- */

/* Injects once: by the cached route, or by the table. */
static void inject(struct irqfd *f)
{
	struct irq_msi m;
	int idx = irq_enter(f->vm);

	if (cached_route(f, &m)) {
		pause_if(PAUSE_ROUTE_HELD);
		irq_send_msi(f->vm, &m);
	} else {
		irq_set_line(f->vm, IRQ_SOURCE_USER, f->gsi, 1, NULL);
		irq_set_line(f->vm, IRQ_SOURCE_USER, f->gsi, 0, NULL);
	}
	irq_leave(f->vm, idx);
}

/* Takes what the eventfd has counted and injects once for it. */
static void take_event(struct irqfd *f)
{
	if (!base_eventfd_drain(&f->efd))
		return;
	if (f->resampler)
		irq_set_line(f->vm, IRQ_SOURCE_RESAMPLE, f->gsi, 1, NULL);
	else
		inject(f);
}

static void on_event(void *arg, uint32_t events)
{
	take_event(arg);
}

/* The guest acknowledged: the line goes down, the devices look again. */
static void on_ack(struct irq_ack *ack)
{
	struct resampler *r = container_of(ack, struct resampler, ack);
	struct irqfd *f;

	if (mutated(MUTATE_ACK_TAKES_IRQ))
		mutex_lock(&r->vm->lock);
	irq_set_line(r->vm, IRQ_SOURCE_RESAMPLE, ack->gsi, 0, NULL);
	if (mutated(MUTATE_ACK_TAKES_IRQ))
		mutex_unlock(&r->vm->lock);
	for (f = srcu_dereference(r->members); f; f = srcu_dereference(f->next_member))
		base_eventfd_signal(&f->resamplefd);
}

/* -- Resamplers; irqfd_lock held -- */

/* Makes f a member of its GSI's resampler, which is made if f is the first. -ENOMEM. */
static int join_resampler(struct irqfd *f)
{
	struct resampler *r = f->vm->resamplers;

	while (r && r->ack.gsi != f->gsi)
		r = r->next;
	if (!r) {
		r = base_zalloc(sizeof(*r));
		if (!r)
			return -ENOMEM;
		r->vm = f->vm;
		r->ack.gsi = f->gsi;
		r->ack.fn = on_ack;
		r->next = f->vm->resamplers;
		f->vm->resamplers = r;
		irq_ack_add(f->vm, &r->ack);
	}
	f->resampler = r;
	atomic_store_explicit(&f->next_member, atomic_load(&r->members), memory_order_relaxed);
	srcu_assign(r->members, f); /* pairs with on_ack */
	return 0;
}

/* Takes f out and waits for readers; the last one takes the line down and the resampler away. */
static void leave_resampler(struct irqfd *f)
{
	struct resampler *r = f->resampler, **at = &f->vm->resamplers;
	_Atomic(struct irqfd *) *m = &r->members;

	while (atomic_load(m) != f)
		m = &atomic_load(m)->next_member;
	srcu_assign(*m, atomic_load(&f->next_member));
	srcu_synchronize(&f->vm->srcu);
	if (atomic_load(&r->members))
		return;
	irq_ack_del(f->vm, &r->ack);
	irq_set_line(f->vm, IRQ_SOURCE_RESAMPLE, f->gsi, 0, NULL);
	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	base_free(r);
}

/* -- Life; irqfd_lock held -- */

static void irqfd_free(struct irqfd *f)
{
	base_eventfd_put(&f->efd);
	base_eventfd_put(&f->resamplefd);
	base_free(f);
}

/* Stops watching; what was signalled before is still injected, by a route that is still refreshed. */
static void shutdown_irqfd(struct irqfd *f)
{
	loop_fd_del(&f->watch);
	take_event(f);
	list_del(f);
	if (f->resampler)
		leave_resampler(f);
	irqfd_free(f);
}

/* Makes an irqfd with its references, bound to nothing yet. -EBADF, -EINVAL, -EMFILE, -ENOMEM. */
static int irqfd_make(struct irq_vm *v, const struct kvm_irqfd *args, struct irqfd **out)
{
	struct irqfd *f = base_zalloc(sizeof(*f));
	int r;

	if (!f)
		return -ENOMEM;
	f->vm = v;
	f->gsi = args->gsi;
	f->efd.fd = f->resamplefd.fd = -1;
	r = base_eventfd_get(&f->efd, args->fd);
	if (!r)
		base_eventfd_learn(&f->efd); /* compared with every other irqfd's */
	if (!r && (args->flags & KVM_IRQFD_FLAG_RESAMPLE))
		r = base_eventfd_get(&f->resamplefd, args->resamplefd);
	if (r < 0) {
		irqfd_free(f);
		return r;
	}
	*out = f;
	return 0;
}

/* Binds f. -EBUSY if its eventfd raises something already, -ENOMEM, or errno of epoll. */
static int irqfd_bind(struct irq_vm *v, struct irqfd *f, bool resample)
{
	struct irqfd *o;
	int r;

	for (o = v->irqfds; o; o = o->next)
		if (base_eventfd_same(&o->efd, &f->efd))
			return -EBUSY;
	r = resample ? join_resampler(f) : 0;
	if (r < 0)
		return r;
	list_add(f);
	f->watch = (struct loop_fd){.fd = f->efd.fd, .events = EPOLLIN, .fn = on_event, .arg = f};
	r = loop_fd_add(&f->watch); /* an event from before fires at once */
	if (r < 0) {
		list_del(f);
		if (f->resampler)
			leave_resampler(f);
	}
	return r;
}

static int assign(struct irq_vm *v, const struct kvm_irqfd *args)
{
	bool resample = args->flags & KVM_IRQFD_FLAG_RESAMPLE;
	enum irq_mode mode = irq_get_mode(v);
	struct irqfd *f;
	int r;

	if (resample ? mode != IRQ_MODE_KERNEL : mode == IRQ_MODE_NONE)
		return -EINVAL;
	r = irqfd_make(v, args, &f);
	if (r < 0)
		return r;
	mutex_lock(&v->irqfd_lock);
	r = irqfd_bind(v, f, resample);
	mutex_unlock(&v->irqfd_lock);
	if (r < 0)
		irqfd_free(f);
	return r;
}

/* Unbinds this eventfd from this GSI; that there was no such binding is no error. */
static int deassign(struct irq_vm *v, const struct kvm_irqfd *args)
{
	struct base_eventfd efd;
	struct irqfd *f, *next;
	int r = base_eventfd_peek(&efd, args->fd);

	if (r < 0)
		return r;
	base_eventfd_learn(&efd);
	mutex_lock(&v->irqfd_lock);
	for (f = v->irqfds; f; f = next) {
		next = f->next;
		if (f->gsi == args->gsi && base_eventfd_same(&f->efd, &efd))
			shutdown_irqfd(f);
	}
	mutex_unlock(&v->irqfd_lock);
	return 0;
}

int irq_irqfd(struct irq_vm *v, const struct kvm_irqfd *args)
{
	if (args->flags & ~(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	if (args->flags & KVM_IRQFD_FLAG_DEASSIGN)
		return deassign(v, args);
	return assign(v, args);
}

void irq_release_irqfds(struct irq_vm *v)
{
	mutex_lock(&v->irqfd_lock);
	while (v->irqfds)
		shutdown_irqfd(v->irqfds);
	mutex_unlock(&v->irqfd_lock);
}
