/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lock checker, in checked builds only. Nodes are roles, not locks. An edge "held -> wanted" is recorded
 * with the stack that first made it, before the wait it stands for; a cycle of edges is a possible deadlock
 * whether or not it ever happens. SRCU: a read section never waits, so entering one makes no edge into its
 * role; whatever is taken inside makes an edge out of it; a synchronise or barrier is the wait for its
 * readers and makes an edge into it.
 *
 * The same goes for sections of other kinds: a vCPU in guest code, for which a flush counts as a wait. Beyond the
 * order, each role says how patient its holder may be: see lock_roles.def.
 *
 * Works inside signal handlers: a handler that interrupts the graph's update skips the graph, never waits.
 */
#ifdef USERKVM_CHECKED
#include "base/lock.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/lock_raw.h"
#include "base/log.h"
#include "base/sys.h"

#define MAX_HELD  64
#define MAX_STACK 16
#define TLS	  __thread __attribute__((tls_model("initial-exec")))

enum lock_kind { MUTEX, SPIN, SRCU, SECTION, HOST };
enum lock_patience { ATOMIC, WAITS, FAULTS }; /* what a holder may do: lock_roles.def */

struct role_info {
	const char *name;
	enum lock_kind kind;
	enum lock_patience held;
};

static const struct role_info roles[LOCK_ROLES] = {
#define ROLE(id, name, kind, held, guards, notes) [LOCK_##id] = {name, kind, held},
#include "base/lock_roles.def"
#undef ROLE
};

_Static_assert(LOCK_ROLES <= 64, "a row of the edge matrix is one word");

/* -- What this thread holds -- */

struct held {
	const void *lock;
	uint32_t role;
	int mode;
};

static TLS struct held held[MAX_HELD];
static TLS unsigned nheld;
static TLS bool busy;		      /* this thread is inside the graph */
static TLS struct lock_nowait nowait; /* what: not NULL where no lock may be taken */

/* -- The graph; changed under graph_lock, bits of `edges` read without -- */

static _Atomic uint32_t graph_lock;
static _Atomic uint64_t edges[LOCK_ROLES]; /* [held] bit wanted */
static struct edge_stack {
	int n;
	void *pc[MAX_STACK];
} stacks[LOCK_ROLES][LOCK_ROLES];

static _Atomic unsigned reports;
static void (*_Atomic hook)(const char *text);

/* -- Reports -- */

static char text[16384];
static size_t text_len;

/* Appends to the report being built (graph_lock held). */
static void __attribute__((format(printf, 1, 2))) say(const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text + text_len, sizeof(text) - text_len, fmt, ap);
	va_end(ap);
	if (n > 0)
		text_len = MIN(text_len + (size_t)n, sizeof(text) - 1);
}

/* Appends a stack, innermost call first; static functions show as module+offset, for addr2line. */
static void say_stack(const struct edge_stack *s)
{
	for (int i = 0; i < s->n; i++) {
		Dl_info info;

		if (!dladdr(s->pc[i], &info) || !info.dli_fname)
			say("      %p\n", s->pc[i]);
		else
			say("      %s+0x%zx (%s)\n", info.dli_fname,
			    (size_t)((char *)s->pc[i] - (char *)info.dli_fbase),
			    info.dli_sname ? info.dli_sname : "?");
	}
}

/* Records the caller's stack without this file's own frames. */
static __attribute__((noinline)) void take_stack(struct edge_stack *s)
{
	void *pc[MAX_STACK + 3];
	int n = backtrace(pc, MAX_STACK + 3), skip = MIN(n, 3);

	s->n = n - skip;
	memcpy(s->pc, pc + skip, sizeof(pc[0]) * (size_t)s->n);
}

/* Appends what this thread holds. */
static void say_held(void)
{
	for (unsigned i = 0; i < nheld && i < MAX_HELD; i++)
		say("   holds %s (%p)%s\n", roles[held[i].role].name, held[i].lock,
		    held[i].mode == LOCKDEP_SRCU ? ", reading" : "");
}

/* Hands the finished report out and counts it (graph_lock held). */
static void deliver(void)
{
	void (*fn)(const char *) = atomic_load(&hook);
	char *line = text, *end;

	atomic_fetch_add(&reports, 1);
	if (fn) {
		fn(text);
		text_len = 0;
		return;
	}
	for (; (end = strchr(line, '\n')); line = end + 1)
		base_log(LOG_ERROR, "lockdep: %.*s", (int)(end - line), line);
	text_len = 0;
}

/* One report that needs no graph. */
static void complain(const char *what, const char *name, const void *lock)
{
	struct edge_stack s;

	if (busy)
		return;
	busy = true;
	raw_lock(&graph_lock);
	take_stack(&s);
	say("%s: %s (%p)\n", what, name, lock);
	say_held();
	say("   here:\n");
	say_stack(&s);
	deliver();
	raw_unlock(&graph_lock);
	busy = false;
}

/* -- Cycles -- */

/*
 * Depth-first from `from` to `to`. path[] receives the nodes; returns their number, 0 if there is no way.
 */
static unsigned find_path(unsigned from, unsigned to, uint64_t *seen, uint8_t *path)
{
	uint64_t next = atomic_load(&edges[from]) & ~*seen;

	path[0] = (uint8_t)from;
	if (from == to)
		return 1;
	*seen |= BIT(from);
	while (next) {
		unsigned n = (unsigned)__builtin_ctzll(next), len;

		next &= next - 1;
		if (*seen & BIT(n))
			continue;
		len = find_path(n, to, seen, path + 1);
		if (len)
			return len + 1;
	}
	return 0;
}

/* Reports the cycle that the new edge from -> to closes, with the first-seen stack of each old edge. */
static void report_cycle(unsigned from, unsigned to, const uint8_t *path, unsigned len,
			 const struct edge_stack *now)
{
	say("possible deadlock: %s is wanted while %s is held, but there is a way back\n", roles[to].name,
	    roles[from].name);
	say_held();
	say("   new: %s -> %s\n", roles[from].name, roles[to].name);
	say_stack(now);
	for (unsigned i = 0; i + 1 < len; i++) {
		say("   seen before: %s -> %s\n", roles[path[i]].name, roles[path[i + 1]].name);
		say_stack(&stacks[path[i]][path[i + 1]]);
	}
	deliver();
}

/* Adds the edge from -> to if it is new; reports a cycle or a wrong order, once per edge. */
static void add_edge(unsigned from, unsigned to, const struct edge_stack *now)
{
	uint8_t path[LOCK_ROLES + 1];
	uint64_t seen = 0;
	unsigned len;

	raw_lock(&graph_lock);
	if (atomic_load(&edges[from]) & BIT(to)) {
		raw_unlock(&graph_lock);
		return;
	}
	len = find_path(to, from, &seen, path);
	stacks[from][to] = *now;
	atomic_fetch_or(&edges[from], BIT(to));
	if (len) {
		report_cycle(from, to, path, len, now);
	} else if (to < from) {
		say("wrong order: %s is wanted while %s is held, against lock_roles.def\n", roles[to].name,
		    roles[from].name);
		say_held();
		say_stack(now);
		deliver();
	}
	raw_unlock(&graph_lock);
}

/* True if this thread holds a lock of the role. */
static bool holds_role(unsigned role)
{
	for (unsigned i = 0; i < nheld; i++) {
		if (held[i].role == role)
			return true;
	}
	return false;
}

/* True if the table lets locks of the role nest, and this thread holds the parent. */
static bool same_role_ok(unsigned role)
{
	static const struct {
		enum lock_role inner, parent;
	} nests[] = {
#define ROLE(id, name, kind, held, guards, notes)
#define NEST(inner, parent) {LOCK_##inner, LOCK_##parent},
#include "base/lock_roles.def"
#undef ROLE
	};

	for (unsigned i = 0; i < ARRAY_SIZE(nests); i++) {
		if (nests[i].inner == role && holds_role(nests[i].parent))
			return true;
	}
	return false;
}

/* This thread is about to wait for `role`: an edge from everything that it holds. False if it would wait for
 * itself. */
static __attribute__((noinline)) bool wait_edges(unsigned role, const void *lock)
{
	struct edge_stack now = {.n = 0};
	bool self = false;

	if (nowait.what)
		complain("wanted where nothing may be waited for", nowait.what, lock);

	for (unsigned i = 0; i < nheld; i++) {
		unsigned from = held[i].role;

		if (from == role && roles[role].kind == HOST)
			continue; /* the loader's is recursive */
		if (from == role) {
			self |= held[i].lock == lock;
			if (held[i].lock == lock || !same_role_ok(role))
				complain(held[i].lock == lock ? "self-deadlock" : "nested in its own role",
					 roles[role].name, lock);
			continue;
		}
		if (atomic_load_explicit(&edges[from], memory_order_relaxed) & BIT(role))
			continue;
		busy = true;
		if (!now.n)
			take_stack(&now);
		add_edge(from, role, &now);
		busy = false;
	}
	return !self;
}

/* -- Entry points -- */

void lockdep_acquire(enum lock_role role, const void *lock, int mode)
{
	if (!busy && (mode == LOCKDEP_EXCL || mode == LOCKDEP_READ))
		wait_edges(role, lock);
	if (nheld == MAX_HELD) {
		complain("too many locks held", roles[role].name, lock);
		return;
	}
	held[nheld] = (struct held){.lock = lock, .role = role, .mode = mode};
	nheld++;
}

void lockdep_release(enum lock_role role, const void *lock)
{
	for (unsigned i = nheld; i-- > 0;) {
		if (held[i].lock != lock)
			continue;
		memmove(&held[i], &held[i + 1], sizeof(held[0]) * (nheld - i - 1));
		nheld--;
		return;
	}
	complain("released, but not held by this thread", roles[role].name, lock);
}

bool lockdep_holds(enum lock_role role, const void *lock)
{
	for (unsigned i = 0; i < nheld; i++) {
		if (held[i].lock == lock && held[i].role == role)
			return true;
	}
	return false;
}

/* Reports each lock whose holder may not have this much patience. */
static void check_patience(enum lock_patience wanted, const char *what)
{
	for (unsigned i = 0; i < nheld && !busy; i++) {
		if (roles[held[i].role].held < wanted)
			complain(wanted == WAITS ? "a wait under a lock that allows none"
						 : "the VMM may be waited for under a lock that forbids it",
				 what, held[i].lock);
	}
}

bool lockdep_sync(enum lock_role role, const void *domain)
{
	if (busy)
		return true;
	check_patience(WAITS, roles[role].name);
	return wait_edges(role, domain);
}

void lock_section_enter(enum lock_role role, const void *section)
{
	lockdep_acquire(role, section, LOCKDEP_SRCU);
}

void lock_section_leave(enum lock_role role, const void *section)
{
	lockdep_release(role, section);
}

void lock_section_wait(enum lock_role role, const void *section)
{
	lockdep_sync(role, section);
}

void lock_host_enter(void)
{
	lockdep_acquire(LOCK_HOST, NULL, LOCKDEP_READ);
}

void lock_host_leave(void)
{
	lockdep_release(LOCK_HOST, NULL);
}

struct lock_nowait lock_nowait_enter(const char *what, bool alloc)
{
	struct lock_nowait outer = nowait;

	nowait = (struct lock_nowait){.what = what, .alloc = alloc};
	return outer;
}

void lock_nowait_leave(struct lock_nowait outer)
{
	nowait = outer;
}

/* -- Assertions -- */

void lock_assert_held(const struct mutex *m)
{
	if (!lockdep_holds((enum lock_role)m->role, m))
		complain("needed here, but not held", roles[m->role].name, m);
}

void lock_assert_none(const char *where)
{
	for (unsigned i = 0; i < nheld; i++) {
		if (held[i].role != LOCK_VCPU && held[i].role != LOCK_GUEST)
			complain("held where nothing may be", where, held[i].lock);
	}
}

void lock_assert_may_wait(const char *what)
{
	check_patience(WAITS, what);
}

void lock_assert_may_fault(const char *what)
{
	check_patience(FAULTS, what);
}

void lock_assert_may_put(const char *what)
{
	for (unsigned i = 0; i < nheld; i++) {
		if (held[i].role >= LOCK_USAGE) /* the outermost that a last put takes */
			complain("what may be a last reference is dropped under a lock", what, held[i].lock);
	}
}

void lock_assert_may_alloc(void)
{
	if (nowait.what && !nowait.alloc)
		complain("the allocator is entered where it may have been interrupted", nowait.what, NULL);
}

void lock_assert_teardown(const struct mutex *m)
{
	if (!atomic_load(&m->retired))
		complain("needed in retirement, but in use", roles[m->role].name, m);
}

void mutex_retire(struct mutex *m, const struct ref *users)
{
	if (ref_read(users))
		complain("retired while there are users", roles[m->role].name, m);
	if (atomic_load(&m->state))
		complain("retired while held", roles[m->role].name, m);
	atomic_store(&m->retired, true);
}

/* -- For tests -- */

unsigned lockdep_reports(void)
{
	return atomic_load(&reports);
}

void lockdep_on_report(void (*fn)(const char *text))
{
	atomic_store(&hook, fn);
}

void lockdep_reset(void)
{
	raw_lock(&graph_lock);
	for (unsigned i = 0; i < LOCK_ROLES; i++)
		atomic_store(&edges[i], 0);
	atomic_store(&reports, 0);
	raw_unlock(&graph_lock);
}

/* USERKVM_LOCK_EDGES=FILE: the orders that this process has seen, "outer -> inner", appended when it ends. */
static __attribute__((destructor)) void lockdep_tell(void)
{
	const char *file = getenv("USERKVM_LOCK_EDGES");
	long fd;

	if (!file || !*file)
		return;
	raw_lock(&graph_lock);
	text_len = 0;
	for (unsigned i = 0; i < LOCK_TEST_A; i++) {
		for (unsigned j = 0; j < LOCK_TEST_A; j++) {
			if (atomic_load(&edges[i]) & BIT(j))
				say("%s -> %s\n", roles[i].name, roles[j].name);
		}
	}
	fd = sys_call(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd >= 0) {
		sys_call(SYS_write, fd, text, text_len);
		sys_call(SYS_close, fd);
	}
	text_len = 0;
	raw_unlock(&graph_lock);
}

/* The child of a fork: the graph's lock may have been another thread's. */
static void after_fork(void)
{
	atomic_store(&graph_lock, 0);
	text_len = 0;
	busy = false;
	nowait = (struct lock_nowait){0};
}

/* backtrace() loads the unwinder when first called: have that behind us before a lock or handler calls it. */
static __attribute__((constructor)) void lockdep_prepare(void)
{
	void *pc[2];

	backtrace(pc, 2);
	if (getenv("USERKVM_LOG")) /* its file is opened now, and not while somebody counts descriptors */
		base_log_on(LOG_ERROR);
	pthread_atfork(NULL, NULL, after_fork);
}
#endif
