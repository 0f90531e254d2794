/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memslots and dirty logs. */
#include "bench.h"

#define SLOT   (1UL << 20)
#define LARGE  (4UL << 30)
#define STRIDE (LARGE / 64) /* 64 dirty pages in 4 GiB */

/* Writes a byte to 64 pages spread over the large slot, then out. */
KU_ASM(dirty_code, 64,
       "3: mov $64, %ecx\n mov $0x100000000, %rax\n mov $0x4000000, %edx\n"
       "1: incb 0x5008(%rax)\n add %rdx, %rax\n dec %ecx\n jnz 1b\n out %al, $0x80\n jmp 3b");
/* Reads a page of the spare slot, then out. */
KU_ASM(touch_code, 64, "mov $0x40000000, %eax\n 1: incb (%rax)\n out %al, $0x80\n jmp 1b");

/* Reads the spare place while nothing is there, then out. */
KU_ASM(peek_code, 64, "mov $0x40000000, %eax\n 1: mov (%rax), %cl\n out %al, $0x80\n jmp 1b");

static void map(struct world *w, size_t size)
{
	w->mem_size = size;
	w->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	KU_CHECK(w->mem != MAP_FAILED);
}

/* -- Slots -- */

void map_slot(struct world *w)
{
	map(w, SLOT);
	W_LOAD(w, touch_code);
}

void unmap_slot(struct world *w)
{
	munmap(w->mem, w->mem_size);
}

void add_slot(struct world *w)
{
	KU_CHECK(ku_set_slot(&w->vm, 5, 0, W_SPARE, w->mem, SLOT) == 0);
}

void del_slot(struct world *w)
{
	KU_CHECK(ku_set_slot(&w->vm, 5, 0, W_SPARE, w->mem, 0) == 0);
}

/* A slot that a vCPU has used: its removal revokes what all of them hold. */
void add_slot_touched(struct world *w)
{
	add_slot(w);
	w_restart(w);
	KU_CHECK(ku_run(&w->cpu) == KVM_EXIT_IO);
}

/* A slot where vCPU 0 found nothing: what it remembers of that is revoked. */
void map_unknown(struct world *w)
{
	map(w, SLOT);
	W_LOAD(w, peek_code);
}

void look_there(struct world *w)
{
	KU_CHECK(ku_run(&w->cpu) == KVM_EXIT_MMIO);
	KU_CHECK(ku_run(&w->cpu) == KVM_EXIT_IO);
}

void map_moving(struct world *w)
{
	map_slot(w);
	add_slot(w);
}

void move_slot(struct world *w)
{
	uint64_t to = W_SPARE + (w->m++ % 2 ? 0 : 2 * SLOT);

	KU_CHECK(ku_set_slot(&w->vm, 5, 0, to, w->mem, SLOT) == 0);
}

void unmap_moving(struct world *w)
{
	KU_CHECK(ku_set_slot(&w->vm, 5, 0, 0, w->mem, 0) == 0);
	unmap_slot(w);
}

/* -- Slots behind a burst of registrations -- */

void map_slot_and_event(struct world *w)
{
	map_slot(w);
	open_event(w);
}

void del_slot_and_300(struct world *w)
{
	del_slot(w);
	drop_300(w);
}

void unmap_slot_and_event(struct world *w)
{
	close_event(w);
	unmap_slot(w);
}

/* -- Dirty log of 4 GiB -- */

static uint64_t bitmap[LARGE / 4096 / 64];

static void get(struct world *w)
{
	struct kvm_dirty_log log = {.slot = 6, .dirty_bitmap = bitmap};

	KU_CHECK(ioctl(w->vm.fd, KVM_GET_DIRTY_LOG, &log) == 0);
}

void begin_log(struct world *w)
{
	map(w, LARGE);
	KU_CHECK(ku_set_slot(&w->vm, 6, KVM_MEM_LOG_DIRTY_PAGES, W_LARGE, w->mem, LARGE) == 0);
	W_LOAD(w, dirty_code);
	memset(bitmap, 0, sizeof(bitmap));
}

void begin_manual_log(struct world *w)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {1}};

	KU_CHECK(ioctl(w->vm.fd, KVM_ENABLE_CAP, &cap) == 0);
	begin_log(w);
}

void dirty_pages(struct world *w)
{
	KU_CHECK(ku_run(&w->cpu) == KVM_EXIT_IO);
}

void dirty_and_get(struct world *w)
{
	dirty_pages(w);
	get(w);
}

static void check_bits(const struct world *w)
{
	uint64_t n = 0;

	for (size_t i = 0; i < sizeof(bitmap) / sizeof(bitmap[0]); i++)
		n += __builtin_popcountll(bitmap[i]);
	KU_CHECK(n == LARGE / STRIDE);
	(void)w;
}

void get_log(struct world *w)
{
	get(w);
}

void clear_log(struct world *w)
{
	struct kvm_clear_dirty_log log = {
	    .slot = 6, .num_pages = LARGE / 4096, .first_page = 0, .dirty_bitmap = bitmap};

	KU_CHECK(ioctl(w->vm.fd, KVM_CLEAR_DIRTY_LOG, &log) == 0);
}

void end_log(struct world *w)
{
	check_bits(w);
	KU_CHECK(ku_set_slot(&w->vm, 6, 0, W_LARGE, w->mem, 0) == 0);
	munmap(w->mem, w->mem_size);
}
