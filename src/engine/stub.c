/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The code memory of stubs and the process-wide cache that finds them again.
 *
 * Code is written through one mapping of a memfd and executed through another, so that no page is ever
 * writable and executable at one address. The cache only grows: look-ups take no lock (chains are published
 * with release stores), additions take stub_lock. It is bounded; when it is full, an instruction that has no
 * stub yet is generated into a slot of its cpu each time it is executed.
 *
 * A forked child shares the memfd with its parent, whose stubs it must not overwrite: the first addition
 * there starts an empty cache in memory of its own.
 */
#include <cpuid.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/fpu.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif

#define CODE_SIZE (16u << 20)
#define SLOTS	  1024u /* cpus that may run with a full cache at the same time */
#define SLOT_BASE (CODE_SIZE - SLOTS * STUB_MAX)
#define BUCKETS	  8192u
#define MAX_STUBS (SLOT_BASE / 96)

struct cache {
	struct vstub *_Atomic bucket[BUCKETS];
	struct vstub pool[MAX_STUBS + SLOTS];
	uint8_t slot_used[SLOTS];
	unsigned stubs;
	uint32_t code_used;
	uint8_t *rw, *rx;
	pid_t owner;
	bool full;
	struct vstub full_stub; /* what instructions get that found no room */
};

static struct cache *_Atomic the_cache;
static struct spinlock lock;

/* -- Code memory -- */

static int map_code(struct cache *k)
{
	int fd = memfd_create("userkvm-stubs", MFD_CLOEXEC | MFD_EXEC);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 every memfd is executable */
		fd = memfd_create("userkvm-stubs", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	k->rw = k->rx = MAP_FAILED;
	if (!ftruncate(fd, CODE_SIZE)) {
		k->rw = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		k->rx = mmap(NULL, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	close(fd);
	if (k->rw != MAP_FAILED && k->rx != MAP_FAILED)
		return 0;
	if (k->rw != MAP_FAILED)
		munmap(k->rw, CODE_SIZE);
	if (k->rx != MAP_FAILED)
		munmap(k->rx, CODE_SIZE);
	return -EPERM;
}

static void op_uncached(struct engine_cpu *c, const struct insn *i);

static int new_cache(struct cache **out)
{
	struct cache *k = mmap(NULL, sizeof(*k), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int err;

	if (k == MAP_FAILED)
		return -ENOMEM;
	err = map_code(k);
	if (err) {
		munmap(k, sizeof(*k));
		return err;
	}
	k->owner = getpid();
	k->full_stub.exec = op_uncached;
	*out = k;
	return 0;
}

int stub_init(void)
{
	struct cache *k = atomic_load(&the_cache);
	int err;

	if (k && k->owner == getpid())
		return 0;
	err = new_cache(&k);
	if (err)
		return err;
	spin_init(&lock, LOCK_STUB);
	atomic_store(&the_cache,
		     k); /* a parent's cache stays mapped: its vCPUs are dead here, nobody looks */
	return 0;
}

bool stub_owns(uint64_t pc)
{
	const struct cache *k = atomic_load_explicit(&the_cache, memory_order_relaxed);

	return k && pc - (uint64_t)k->rx < CODE_SIZE;
}

/* -- Cache -- */

static unsigned hash(const uint8_t *key)
{
	uint64_t a, b;

	memcpy(&a, key, 8);
	memcpy(&b, key + 8, 8);
	a = (a ^ b * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
	return (a ^ a >> 29) >> 17 & (BUCKETS - 1);
}

static struct vstub *find(struct cache *k, const uint8_t *key, unsigned len)
{
	struct vstub *st = atomic_load_explicit(&k->bucket[hash(key)], memory_order_acquire);

	while (st && (st->key_len != len || memcmp(st->key, key, 16)))
		st = atomic_load_explicit(&st->next, memory_order_acquire);
	return st;
}

static unsigned generate(struct vstub *st, const uint8_t *canon, unsigned len, uint8_t *code)
{
	*st = (struct vstub){.key_len = len};
	memcpy(st->key, canon, len);
	return emit_stub(st, code);
}

/* Adds a stub; called with the lock held. NULL if the instruction has no stub. */
static struct vstub *add(struct cache *k, const uint8_t *key, unsigned len)
{
	struct vstub *st = find(k, key, len);
	unsigned h = hash(key), bytes;
	uint8_t code[STUB_MAX];

	if (st)
		return st;
	if (k->full || k->stubs == MAX_STUBS || k->code_used + STUB_MAX > SLOT_BASE) {
		k->full = true;
		return &k->full_stub;
	}
	st = &k->pool[k->stubs];
	bytes = generate(st, key, len, code);
	if (!bytes)
		return NULL;
	memcpy(k->rw + k->code_used, code, bytes);
	st->code = k->code_used;
	st->run = (unsigned (*)(struct engine_fpu *))(k->rx + st->code);
	k->stubs++;
	k->code_used = (k->code_used + bytes + 15) & ~15u;
	atomic_store_explicit(&st->next, k->bucket[h], memory_order_relaxed);
	atomic_store_explicit(&k->bucket[h], st, memory_order_release);
	return st;
}

struct vstub *stub_get(const uint8_t *canon, unsigned len)
{
	struct cache *k = atomic_load(&the_cache);
	uint8_t key[16] = {0};
	struct vstub *st;

	memcpy(key, canon, len);
	st = find(k, key, len);
	if (st)
		return st;
	if (k->owner != getpid()) {
		if (stub_init())
			return NULL;
		k = atomic_load(&the_cache);
	}
	spin_lock(&lock);
	st = add(k, key, len);
	spin_unlock(&lock);
	return st;
}

/* -- A full cache -- */

static struct vstub *take_slot(struct cache *k)
{
	struct vstub *st = NULL;

	spin_lock(&lock);
	for (unsigned n = 0; n < SLOTS && !st; n++)
		if (!k->slot_used[n]) {
			k->slot_used[n] = 1;
			st = &k->pool[MAX_STUBS + n];
		}
	spin_unlock(&lock);
	return st;
}

/* Code that this thread just wrote is fetched after a serialising instruction only. */
static void serialise(void)
{
	uint32_t a, b, c, d;

	__cpuid(0, a, b, c, d);
	(void)(a + b + c + d);
}

struct vstub *stub_get_private(struct engine_fpu *f, const uint8_t *canon, unsigned len)
{
	struct cache *k = atomic_load(&the_cache);
	uint8_t code[STUB_MAX];
	unsigned bytes, at;

	if (!f->slot)
		f->slot = take_slot(k);
	if (!f->slot)
		return NULL;
	at = SLOT_BASE + (f->slot - &k->pool[MAX_STUBS]) * STUB_MAX;
	bytes = generate(f->slot, canon, len, code);
	if (!bytes)
		return NULL;
	memcpy(k->rw + at, code, bytes);
	f->slot->code = at;
	f->slot->run = (unsigned (*)(struct engine_fpu *))(k->rx + at);
	serialise();
	return f->slot;
}

void stub_put_private(struct engine_fpu *f)
{
	struct cache *k = atomic_load(&the_cache);

	if (!f->slot)
		return;
	spin_lock(&lock);
	if (f->slot >= &k->pool[MAX_STUBS] && f->slot < &k->pool[MAX_STUBS + SLOTS])
		k->slot_used[f->slot - &k->pool[MAX_STUBS]] = 0;
	spin_unlock(&lock);
	f->slot = NULL;
}

static ZydisMachineMode machine_mode(const struct engine_cpu *c)
{
	if (c->code64)
		return ZYDIS_MACHINE_MODE_LONG_64;
	return c->code32 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16;
}

/* Decodes and generates again, then does what a cached stub's handler would. */
static void op_uncached(struct engine_cpu *c, const struct insn *i)
{
	struct insn_decoded d;
	struct insn copy = *i;
	struct canon canon;
	ZydisDecoder dec;

	ZydisDecoderInit(&dec, machine_mode(c),
			 c->code64   ? ZYDIS_STACK_WIDTH_64
			 : c->code32 ? ZYDIS_STACK_WIDTH_32
				     : ZYDIS_STACK_WIDTH_16);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, i->bytes, i->len, &d.in, d.op)) ||
	    !canon_make(&canon, &d, i->bytes))
		engine_raise(c, EXC_UD);
	copy.extra = stub_get_private(c->fpu, canon.bytes, canon.len);
	if (!c->fpu->slot)
		engine_leave(c, ENGINE_EXIT_NOEMU);
	if (!copy.extra)
		engine_raise(c, EXC_UD);
	((struct vstub *)copy.extra)->exec(c, &copy);
}
