/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory accesses of translated code in each form that they may have (enum jit_nearness): an instruction gets the one that
 * suits it, for good, and obeys what makes mappings forgotten in all of them. Each test has its own cpus.
 *	make check T=engine/jit_near
 */
#include "engine/jit.h"
#include "rig_code.h"

#define CODE_AT 0x6000UL
#define DATA_AT 0x40000UL
#define SEEDS	24

static void load(struct rig *r, const uint8_t *code, const uint8_t *end)
{
	memcpy(r->ram + CODE_AT, code, (size_t)(end - code));
	r->c->rip = CODE_AT;
	r->c->gpr[RSP] = 0x9000;
	r->c->gpr[RDI] = DATA_AT;
	r->c->gpr[R13] = 0;
}
#define LOAD(r, name) load(r, name, name##_end)

static struct rig *fresh(void **state)
{
	struct rig *r = rig_fresh(state, 0, true);

	put(r, PD + 5 * 8, 0x19000 | 7, 8); /* 0xa00000 and its table */
	assert_non_null(r->c->jit);
	return r;
}

static void run(struct rig *r)
{
	assert_int_equal(engine_run(r->c), ENGINE_EXIT_HLT);
}

/* -- Which form -- */

CODE(by_turns,
     "mov $10000, %ecx\n 1: xor $0x1000, %rdi\n mov (%rdi), %rax\n add %rax, %r13\n dec %ecx\n jnz 1b\n hlt");
CODE(by_turns_write,
     "mov $10000, %ecx\n 1: xor $0x1000, %rdi\n incq (%rdi)\n incq %r13\n dec %ecx\n jnz 1b\n hlt");
/* Another page each 16th time. */
CODE(now_and_then,
     "mov $160000, %ecx\n 1: mov %ecx, %ebx\n and $0x10, %ebx\n shl $8, %ebx\n mov (%rdi,%rbx), %rax\n"
     "add %rax, %r13\n dec %ecx\n jnz 1b\n hlt");
CODE(crooked, "mov $10000, %ecx\n add $3, %rdi\n 1: xor $8, %rdi\n mov (%rdi), %rax\n add %rax, %r13\n dec "
	      "%ecx\n jnz 1b\n hlt");
CODE(the_same, "mov $10000, %ecx\n 1: xor $0x100, %rdi\n mov (%rdi), %rax\n add %rax, %r13\n dec %ecx\n jnz "
	       "1b\n hlt");

static const struct {
	const char *name;
	const uint8_t *code, *end;
	bool by_table;
	bool writes;
} sites[] = {
    {"by_turns", by_turns, by_turns_end, true, false},
    {"by_turns_write", by_turns_write, by_turns_write_end, true, true},
    {"now_and_then", now_and_then, now_and_then_end, false, false},
    {"crooked", crooked, crooked_end, true, false},
    {"the_same", the_same, the_same_end, false, false},
};

/* As the timer of code_keep_looking does. */
static void look_again(struct rig *r)
{
	atomic_store(&r->c->look, true);
}

/* Sites of blocks that are alive which could look near, and go to the table at once. */
static unsigned on_trial(const struct jit *j)
{
	unsigned n = 0;

	for (uint32_t k = 0; k < j->nsites; k++)
		n += j->site[k].look && j->rw[j->site[k].look] == 0xe9 && !j->block[j->site[k].block].dead;
	return n;
}

static bool remembered(struct jit *j)
{
	bool any = false;

	for (unsigned k = 0; k < 64; k++)
		any |= *jit_by_table(j, CODE_AT + k);
	return any;
}

/*
 * Seen to fail: without jit_near_judge in jit_run; with a judgement that always says near, or always the table; with the count
 * of a trial taken for misses (now_and_then is tried for ever); without jit_forget.
 */
static void each_gets_its_form(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(sites); k++) {
		struct rig *r = fresh(state);
		unsigned changes = 0;
		uint64_t sum = 0;
		unsigned was = 0;

		print_message("%s\n", sites[k].name);
		for (unsigned round = 0; round < 20; round++) {
			load(r, sites[k].code, sites[k].end);
			look_again(r);
			if (!sites[k].writes)
				memset(r->ram + DATA_AT, 1, 0x3000);
			run(r);
			if (round)
				assert_int_equal(r->c->gpr[R13], sum);
			sum = r->c->gpr[R13];
			changes += on_trial(r->c->jit) != was;
			was = on_trial(r->c->jit);
		}
		assert_int_equal(remembered(r->c->jit), sites[k].by_table);
		assert_int_equal(was, 0);
		assert_true(changes <= 6);
		assert_int_equal(r->c->jit->stats.retranslated, sites[k].by_table);
		assert_int_equal(get(r, DATA_AT, 4), sites[k].writes ? 20 * 5000 : 0x01010101);
	}
}

/* Four hundred loads in as many places, from two pages by turns: some share a slot and throw each other out. */
CODE(many, "mov $5000, %ecx\n 1:\n .rept 200\n xor $0x2a8, %rdi\n mov (%rdi), %rax\n add %rax, %r13\n"
	   "xor $0x548, %rsi\n mov (%rsi), %rax\n add %rax, %r13\n .endr\n dec %ecx\n jnz 1b\n hlt");

/* Seen to fail with TRIES 1000 (they are tried for ever), and without jit_by_table in emit_look (blocks are made for ever). */
static void it_ends(void **state)
{
	struct rig *r = fresh(state);
	uint64_t made = 0;
	uint64_t sum = 0;

	assert_true((size_t)(many_end - many) < 0x7000);
	for (unsigned k = 0; k < 0x2000; k += 8)
		put(r, DATA_AT + k, k * 3 + 1, 8);
	for (unsigned round = 0; round < 60; round++) {
		memcpy(r->ram + 0x100000, many, (size_t)(many_end - many));
		r->c->rip = 0x100000;
		r->c->gpr[R13] = 0;
		r->c->gpr[RDI] = DATA_AT;
		r->c->gpr[RSI] = DATA_AT + 0x1000;
		look_again(r);
		run(r);
		if (round)
			assert_int_equal(r->c->gpr[R13], sum);
		sum = r->c->gpr[R13];
		if (round == 45)
			made = r->c->jit->stats.translated;
	}
	print_message("%lu blocks made, %lu of them again\n", made, r->c->jit->stats.retranslated);
	assert_true(r->c->jit->stats.retranslated > 0);
	assert_int_equal(r->c->jit->stats.translated, made);
	assert_int_equal(on_trial(r->c->jit), 0);
}

/* -- What each form obeys -- */

/*
 * A page is mapped elsewhere by turns; what follows the store to the table differs. Reads, aligned or not, also of the
 * page behind, and writes, some in a group and some alone.
 */
#define MAPS(name, bits, flush)                                                                           \
	CODE(name,                                                                                        \
	     "mov %cr4, %rax\n or $0x80, %eax\n mov %rax, %cr4\n mov $40, %ebx\n mov $0x19000, %edi\n"    \
	     "mov $0xa00000, %r12d\n mov %r12, %rsi\n 1: mov %ebx, %eax\n and $1, %eax\n shl $12, %eax\n" \
	     "add $0x100007+" bits ", %eax\n mov %rax, (%rdi)\n " flush                                   \
	     "\n mov (%r12), %eax\n add %rax, %r13\n"                                                     \
	     "mov 0x1000(%r12), %eax\n add %rax, %r13\n mov 0x301(%rsi), %eax\n add %rax, %r13\n"         \
	     "incl 0x208(%r12)\n incl 0x409(%rsi)\n incl 0x1400(%rsi)\n dec %ebx\n jnz 1b\n hlt")
#define LOAD_CR3 "mov %cr3, %rax\n mov %rax, %cr3"
MAPS(local_pages, "0", LOAD_CR3);
MAPS(global_pages, "0x100", LOAD_CR3);
MAPS(invlpg, "0x100", "invlpg (%r12)");
MAPS(no_pge, "0x100", "mov %cr4, %rax\n xor $0x80, %eax\n mov %rax, %cr4\n xor $0x80, %eax\n mov %rax, %cr4");

static const struct {
	const char *name;
	const uint8_t *code, *end;
	unsigned second; /* turns that the second page gets */
} turns[] = {
    {"CR3, local", local_pages, local_pages_end, 20},
    {"CR3, global", global_pages, global_pages_end, 0},
    {"INVLPG", invlpg, invlpg_end, 20},
    {"CR4.PGE", no_pge, no_pge_end, 20},
};

/* Seen to fail: without near_clear in jit_new_page and in jit_new_space, without their stores to the table (NEAR_NOT), with
 * a near page that is put there without near->used. */
static void new_mappings_are_obeyed(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(turns) * SEEDS; k++) {
		unsigned n = k % ARRAY_SIZE(turns), second = turns[n].second, first = 40 - second;
		struct rig *r = fresh(state);

		jit_near_forced = 1 + k * 0x123456789abcdULL;
		put(r, 0x19000, 0x100007, 8);
		put(r, 0x19008, 0x102007, 8);
		put(r, 0x100000, 1, 4);
		put(r, 0x101000, 100, 4);
		put(r, 0x102000, 10000, 4);
		put(r, 0x100301, 1, 4);
		put(r, 0x101301, 100, 4);
		load(r, turns[n].code, turns[n].end);
		run(r);
		if (r->c->gpr[R13] != first * 2 + second * 200 + 40 * 10000)
			fail_msg("%s, %u: %lu", turns[n].name, k, r->c->gpr[R13]);
		assert_int_equal(get(r, 0x100208, 4), first);
		assert_int_equal(get(r, 0x101208, 4), second);
		assert_int_equal(get(r, 0x100409, 4), first);
		assert_int_equal(get(r, 0x101409, 4), second);
		assert_int_equal(get(r, 0x102400, 4), 40);
	}
	jit_near_forced = 0;
}

/* The page may not be written any more, once the loop is warm. */
CODE(protect,
     "mov $60, %ebx\n mov $0x19000, %edi\n mov $0xa00000, %r12d\n 1: mov $0x100007, %eax\n cmp $1, %ebx\n"
     "jne 2f\n mov $0x100005, %eax\n 2: mov %rax, (%rdi)\n invlpg (%r12)\n mov (%r12), %eax\n inc %r13\n"
     "incl 0x300(%r12)\n incl 0x1300(%r12)\n mov (%rdi), %rax\n and %rax, %r14\n dec %ebx\n jnz 1b\n hlt");

/* Its bit D is cleared each time, and set by the write that follows. Seen to fail without near_clear and without the store to
 * wneg in jit_new_page. */
static void write_protection_is_obeyed(void **state)
{
	for (unsigned k = 0; k < SEEDS; k++) {
		struct rig *r = fresh(state);

		jit_near_forced = 1 + k * 0x123456789abcdULL;
		put(r, 0x19000, 0x100007, 8);
		put(r, 0x19008, 0x102007, 8);
		LOAD(r, protect);
		r->c->gpr[R14] = ~0ULL;
		run(r);
		assert_int_equal(rig_vector(r), EXC_PF);
		assert_int_equal(r->c->gpr[R13], 60);
		assert_int_equal(r->c->gpr[R14] & 0x67, 0x67); /* accessed and dirty */
		assert_int_equal(get(r, 0x100300, 4), 59);
	}
	jit_near_forced = 0;
}

static unsigned told;

static enum engine_fill fill_tracked(void *ctx, uint64_t gpa, bool write, struct engine_page *page)
{
	enum engine_fill f = rig_fill(ctx, gpa, write, page);

	if (gpa >> 12 == DATA_AT >> 12) {
		page->tracked = true;
		page->writable = write;
	}
	return f;
}

static void on_tracked(void *ctx, uint64_t gpa, const void *data, unsigned len)
{
	told++;
}

/* One of the two pages is tracked: whoever writes there is told, each time. Seen to fail with tracked pages in the table. */
static void tracked_pages_are_told(void **state)
{
	static struct engine_port port;

	port = rig_port;
	port.fill = fill_tracked;
	port.tracked = on_tracked;
	for (unsigned k = 0; k < SEEDS; k++) {
		struct rig *r = fresh(state);

		jit_near_forced = 1 + k * 0x123456789abcdULL;
		r->c->port = &port;
		told = 0;
		LOAD(r, by_turns_write);
		run(r);
		assert_int_equal(told, 5000);
		assert_int_equal(get(r, DATA_AT, 8), 5000);
		assert_int_equal(get(r, DATA_AT + 0x1000, 8), 5000);
	}
	jit_near_forced = 0;
}

/* A block overwrites its own next instruction; between, the write goes to another page. */
CODE(smc,
     "mov $40, %ecx\n xor %eax, %eax\n 2: lea 1f(%rip), %rdi\n test $1, %cl\n jz 3f\n mov $0x40000, %edi\n"
     "3: movb $7, 1(%rdi)\n 1: mov $1, %dl\n add %dl, %al\n lea 1b(%rip), %rdi\n movb $1, 1(%rdi)\n"
     "dec %ecx\n jnz 2b\n hlt");

/* Seen to fail without jit_is_code_page in fill_first. */
static void stores_to_code_are_seen(void **state)
{
	for (unsigned k = 0; k < SEEDS; k++) {
		struct rig *r = fresh(state);

		jit_near_forced = 1 + k * 0x123456789abcdULL;
		LOAD(r, smc);
		run(r);
		assert_int_equal(r->c->gpr[RAX], 20 * 8);
	}
	jit_near_forced = 0;
}

/* -- Revocation -- */

static struct engine_cpu *volatile kicked;
static struct sigaction our_sigsegv; /* base/sig's; cmocka puts its own in place of it */

static uint8_t *volatile data; /* where the pages from DATA_AT on are now */
#define DATA_SIZE 0x3000UL
#define ELSEWHERE 0x400000UL

static enum engine_fill fill_moving(void *ctx, uint64_t gpa, bool write, struct engine_page *page)
{
	enum engine_fill f = rig_fill(ctx, gpa, write, page);

	if (gpa - DATA_AT < DATA_SIZE)
		page->host = data + (gpa - DATA_AT);
	return f;
}

/* The data move: whoever still writes where they were writes in vain. */
static void kick_handler(int sig, siginfo_t *info, void *ucontext)
{
	struct rig *r;
	uint8_t *to;

	if (!kicked)
		return;
	r = kicked->ctx;
	to = r->ram + DATA_AT + (data == r->ram + DATA_AT ? ELSEWHERE : 0);
	memcpy(to, data, DATA_SIZE);
	data = to;
	engine_kick(kicked, ucontext);
}

/* Groups, single accesses, some not aligned, with and without an index. */
CODE(busy, "mov $600000, %ecx\n mov $0x1000, %edx\n 1: xor $0x1000, %rdi\n incq (%rdi)\n incw 9(%rdi)\n"
	   "mov 0x303(%rdi), %rax\n add %rax, %r13\n mov $1, %eax\n lock xadd %rax, 0x500(%rdi,%rdx)\n add "
	   "%rax, %r13\n"
	   "push %rax\n pop %r9\n add %r9, %r13\n dec %ecx\n jnz 1b\n hlt");

static uint64_t busy_sum(struct rig *r)
{
	uint64_t sum = r->c->gpr[R13];

	for (unsigned k = 0; k < DATA_SIZE; k += 8)
		sum = sum * 3 + *(uint64_t *)(data + k);
	return sum;
}

/*
 * A kick forgets all pages and begins the look-up again. Seen to fail with find_window's `again` at the window's end, and with
 * a window that begins behind look_table.
 */
static void kicks_are_survived(void **state)
{
	struct sigaction sa = {.sa_sigaction = kick_handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
	struct rig_kicker k = {.whom = pthread_self()};
	struct engine_port port = rig_port;
	uint64_t sum = 0;
	pthread_t thread;

	port.fill = fill_moving;
	sigaction(SIGSEGV, &our_sigsegv, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	for (unsigned n = 0; n <= SEEDS; n++) {
		struct rig *r;

		kicked = NULL;
		r = fresh(state);
		jit_near_forced = n * 0x123456789abcdULL;
		data = r->ram + DATA_AT;
		r->c->port = &port;
		put(r, DATA_AT + 0x303, 3, 8);
		put(r, DATA_AT + 0x1303, 5, 8);
		LOAD(r, busy);
		if (n == 1)
			pthread_create(&thread, NULL, rig_kick, &k);
		kicked = n ? r->c : NULL;
		run(r);
		if (n)
			assert_true(busy_sum(r) == sum);
		sum = busy_sum(r);
	}
	kicked = NULL;
	jit_near_forced = 0;
	atomic_store(&k.stop, true);
	pthread_join(thread, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(each_gets_its_form),      RIG_TEST(it_ends),
	    RIG_TEST(new_mappings_are_obeyed), RIG_TEST(write_protection_is_obeyed),
	    RIG_TEST(tracked_pages_are_told),  RIG_TEST(stores_to_code_are_seen),
	    RIG_TEST(kicks_are_survived),
	};

	if (base_sig_enable())
		return 1;
	sigaction(SIGSEGV, NULL, &our_sigsegv);
	jit_near_period = 0;
	setenv("USERKVM_ENGINE", "jit:0", 1); /* no code is cold */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
