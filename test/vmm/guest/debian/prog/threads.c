/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "soak.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 4, ADDS = 20000, ITEMS = 4000, SLOTS = 16 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static _Atomic uint64_t atomic_sum, bits;
static uint64_t locked_sum, queue[SLOTS], produced, consumed, taken_sum, taken_xor;
static _Thread_local uint64_t mine;

static void *adder(void *arg)
{
	uint64_t id = (uintptr_t)arg;
	for (int i = 0; i < ADDS; i++) {
		atomic_fetch_add(&atomic_sum, id);
		uint64_t old = atomic_load(&bits);
		while (!atomic_compare_exchange_weak(&bits, &old, old ^ 1ull << (id * 16 + i % 16)))
			;
		mine += id;
		if (i % 4 == 0) {
			pthread_mutex_lock(&lock);
			locked_sum += id;
			pthread_mutex_unlock(&lock);
		}
	}
	return (void *)(uintptr_t)mine;
}

static void *producer(void *arg)
{
	struct rng r = {(uintptr_t)arg};
	for (int i = 0; i < ITEMS; i++) {
		pthread_mutex_lock(&lock);
		while (produced - consumed == SLOTS)
			pthread_cond_wait(&changed, &lock);
		queue[produced++ % SLOTS] = rng_next(&r);
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void *consumer(void *arg)
{
	(void)arg;
	for (int i = 0; i < ITEMS; i++) {
		pthread_mutex_lock(&lock);
		while (produced == consumed)
			pthread_cond_wait(&changed, &lock);
		uint64_t v = queue[consumed++ % SLOTS];
		taken_sum += v;
		taken_xor ^= v;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

/* A message handed over through plain memory, ordered by a release and an acquire. */
static _Atomic unsigned turn;
static uint64_t message[8];
static void *reader(void *arg)
{
	uint64_t bad = 0;
	for (unsigned i = 1; i <= *(unsigned *)arg; i++) {
		while (atomic_load_explicit(&turn, memory_order_acquire) != 2 * i - 1)
			sched_yield();
		for (int k = 0; k < 8; k++)
			bad += message[k] != i * 1000u + (unsigned)k;
		atomic_store_explicit(&turn, 2 * i, memory_order_release);
	}
	return (void *)(uintptr_t)bad;
}

static void messages(void)
{
	pthread_t t;
	unsigned n = 2000;
	void *bad;
	expect(!pthread_create(&t, NULL, reader, &n), "pthread_create");
	for (unsigned i = 1; i <= n; i++) {
		for (int k = 0; k < 8; k++)
			message[k] = i * 1000u + (unsigned)k;
		atomic_store_explicit(&turn, 2 * i - 1, memory_order_release);
		while (atomic_load_explicit(&turn, memory_order_acquire) != 2 * i)
			sched_yield();
	}
	pthread_join(t, &bad);
	expect(!bad, "messages between threads");
}

void part_threads(uint64_t seed)
{
	pthread_t t[THREADS];
	uint64_t want = 0, own = 0, sum = 0, x = 0;
	for (uintptr_t i = 0; i < THREADS; i++)
		expect(!pthread_create(&t[i], NULL, adder, (void *)i), "pthread_create");
	for (uint64_t i = 0; i < THREADS; i++) {
		void *r;
		pthread_join(t[i], &r);
		own += (uintptr_t)r;
		want += i * ADDS;
	}
	expect(atomic_sum == want, "atomic additions");
	expect(own == want, "thread-local additions");
	expect(locked_sum == want / 4, "additions under a mutex");
	expect(bits == (ADDS % 32 ? ~0ull : 0), "bits flipped by compare-and-exchange");
	for (int i = 0; i < THREADS; i++)
		expect(!pthread_create(&t[i], NULL, i % 2 ? consumer : producer,
				       (void *)(uintptr_t)(seed + (uint64_t)i)),
		       "pthread_create");
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < THREADS; i += 2) {
		struct rng r = {seed + (uint64_t)i};
		for (int k = 0; k < ITEMS; k++) {
			uint64_t v = rng_next(&r);
			sum += v;
			x ^= v;
		}
	}
	expect(taken_sum == sum && taken_xor == x, "what consumers took");
	messages();
	printf("threads %llx %llx\n", (unsigned long long)sum, (unsigned long long)x);
}
