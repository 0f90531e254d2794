/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every order in which a VMM can let go of a VM, its vCPU, its statistics, its kvm-vfio device, a VFIO group and a VFIO
 * device: 720 orders, with the mappings gone first and last, with a device that needs the VM and one that does not.
 * After each close exactly what still has a holder is there, and works; after the last nothing is.
 *	make check T=api/close_orders
 * Whether the VM lives is read from our own memory map: the library maps a vCPU's pages as long as its VM exists.
 * WORKS: last closes | all 720 orders of VM, vCPU, stats, kvm-vfio, group and VFIO device, mappings first or last
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>

#include "vfio_util.h"

enum what { VM, VCPU, STATS, KVM_VFIO, GROUP, DEVICE, WHATS };

#define RAM 0x10000

struct world {
	int fd[WHATS];
	bool open[WHATS];
	void *run, *region; /* mappings of the vCPU and of the device */
	bool needs_vm;
};

static const char *const names[] = {"VM", "vCPU", "stats", "kvm-vfio", "group", "device"};
static int sys;
static size_t vcpu_size;
static uint8_t *ram;

/* -- What is there -- */

/* Lines of our memory map with the word in them. */
static int mapped(const char *word)
{
	static char buf[1 << 18];
	int fd = open("/proc/self/maps", O_RDONLY), n = 0;
	size_t len = 0;
	ssize_t r;

	KU_CHECK(fd >= 0);
	while ((r = read(fd, buf + len, sizeof(buf) - 1 - len)) > 0)
		len += (size_t)r;
	close(fd);
	KU_CHECK(len < sizeof(buf) - 1);
	buf[len] = 0;
	for (char *p = buf; (p = strstr(p, word)); p++)
		n++;
	return n;
}

/* -- A world -- */

static void make(struct world *w, bool needs_vm)
{
	struct kvm_userspace_memory_region slot = {.memory_size = RAM, .userspace_addr = (uintptr_t)ram};
	int container;

	*w = (struct world){.needs_vm = needs_vm};
	w->fd[VM] = ioctl(sys, KVM_CREATE_VM, 0);
	KU_CHECK(ioctl(w->fd[VM], KVM_SET_USER_MEMORY_REGION, &slot) == 0);
	w->fd[VCPU] = ioctl(w->fd[VM], KVM_CREATE_VCPU, 0);
	w->fd[STATS] = ioctl(w->fd[VCPU], KVM_GET_STATS_FD, 0);
	w->fd[KVM_VFIO] = vu_kvm_device(w->fd[VM]);
	vu_group(needs_vm ? "/dev/vfio/0" : "/dev/vfio/1", &container, &w->fd[GROUP]);
	KU_CHECK(vu_file(w->fd[KVM_VFIO], 1, w->fd[GROUP]) == 0);
	w->fd[DEVICE] = ioctl(w->fd[GROUP], VFIO_GROUP_GET_DEVICE_FD, needs_vm ? "test0" : "test1");
	KU_CHECK(close(container) == 0);
	for (int i = 0; i < WHATS; i++) {
		KU_CHECK(w->fd[i] >= 0);
		w->open[i] = true;
	}
	w->run = mmap(NULL, vcpu_size, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd[VCPU], 0);
	w->region = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd[DEVICE], VU_REGION(1));
	KU_CHECK(w->run != MAP_FAILED && w->region != MAP_FAILED);
}

static void unmap(struct world *w)
{
	*(volatile uint8_t *)w->run = 0;
	*(volatile uint8_t *)w->region = 1;
	KU_CHECK(munmap(w->run, vcpu_size) == 0);
	KU_CHECK(munmap(w->region, 4096) == 0);
	w->run = w->region = NULL;
}

/* True if somebody holds the VM. */
static bool vm_lives(const struct world *w)
{
	bool device = w->open[DEVICE] || w->region;

	return w->open[VM] || w->open[VCPU] || w->run || w->open[STATS] || w->open[KVM_VFIO] ||
	       (w->needs_vm && device);
}

/* Each fd that is open does what it is for; NULL, or the name of one that does not. */
static const char *works(const struct world *w)
{
	struct kvm_device_attr a = {.group = KVM_DEV_VFIO_GROUP, .attr = 1};
	struct vfio_group_status s = {.argsz = sizeof(s)};
	struct kvm_stats_header h;
	struct kvm_regs regs;

	if (w->open[VM] && ioctl(w->fd[VM], KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) != 1)
		return names[VM];
	if (w->open[VCPU] && ioctl(w->fd[VCPU], KVM_GET_REGS, &regs))
		return names[VCPU];
	if (w->open[STATS] && pread(w->fd[STATS], &h, sizeof(h), 0) != sizeof(h))
		return names[STATS];
	if (w->open[KVM_VFIO] && ioctl(w->fd[KVM_VFIO], KVM_HAS_DEVICE_ATTR, &a))
		return names[KVM_VFIO];
	if (w->open[GROUP] && ioctl(w->fd[GROUP], VFIO_GROUP_GET_STATUS, &s))
		return names[GROUP];
	if (!w->open[DEVICE])
		return NULL;
	/* The driver's own view of the guest's memory: whatever KVM fds are closed, if it asked for the VM. */
	vu_set(w->fd[DEVICE], VU_BUFFER, 0);
	if ((vu_do(w->fd[DEVICE], VU_VM_READ, 0x1000, 8, 0) == 0) != w->needs_vm)
		return "the device's VM";
	return w->needs_vm && vu_get(w->fd[DEVICE], VU_BUFFER) != 0x1122334455667788 ? names[DEVICE] : NULL;
}

static void check(const struct world *w, unsigned order, int step)
{
	int want = vm_lives(w) + (w->run != NULL), have = mapped("/memfd:kvm-vcpu:");
	const char *bad = works(w);

	if (bad)
		fail_msg("order %u, step %d: %s", order, step, bad);
	if (have != want)
		fail_msg("order %u, step %d: the VM %s", order, step,
			 have < want ? "is gone" : "is still there");
}

/* The order-th permutation. */
static void permute(unsigned order, int out[WHATS])
{
	int left[WHATS] = {0, 1, 2, 3, 4, 5};

	for (int n = WHATS; n > 0; n--) {
		unsigned at = order % (unsigned)n;

		order /= (unsigned)n;
		out[WHATS - n] = left[at];
		memmove(&left[at], &left[at + 1], sizeof(left[0]) * (size_t)(n - 1 - (int)at));
	}
}

static void close_in_order(unsigned order, bool needs_vm, bool unmap_first)
{
	struct world w;
	int next[WHATS];

	permute(order, next);
	make(&w, needs_vm);
	if (unmap_first)
		unmap(&w);
	check(&w, order, 0);
	for (int i = 0; i < WHATS; i++) {
		assert_int_equal(close(w.fd[next[i]]), 0);
		w.open[next[i]] = false;
		check(&w, order, i + 1);
	}
	if (!unmap_first)
		unmap(&w);
	check(&w, order, 7);
}

/* After each order nothing is left. */
static void every_order(bool needs_vm, bool unmap_first)
{
	int fds, before;

	close_in_order(0, needs_vm, unmap_first);
	fds = ku_open_fds();
	before = mapped("/memfd:kvm-") + mapped("/memfd:vfio");
	assert_int_equal(before, 0);
	for (unsigned order = 0; order < 720; order++) {
		close_in_order(order, needs_vm, unmap_first);
		assert_int_equal(ku_open_fds(), fds);
	}
	assert_int_equal(mapped("/memfd:kvm-") + mapped("/memfd:vfio"), 0);
}

/*
 * Seen to fail with the count of vfio's link_get given back at once; with the kvm_put of vcpu_release, of
 * device_release or of stats_release left out; with device_open taking the VM for every driver. The orders with the
 * mappings last: with the event loop taking events while a thread is in munmap.
 */
static void needed_unmap_first(void **state)
{
	every_order(true, true);
}

static void needed_unmap_last(void **state)
{
	every_order(true, false);
}

static void not_needed_unmap_first(void **state)
{
	every_order(false, true);
}

static void not_needed_unmap_last(void **state)
{
	every_order(false, false);
}

/* Files that stay with others: the group of a device, and what a kvm-vfio device pins, cannot be opened anew before. */
static void held_groups(void **state)
{
	struct world w;
	int container, group;

	make(&w, true);
	unmap(&w);
	close(w.fd[GROUP]);
	assert_int_equal(open("/dev/vfio/0", O_RDWR), -1);
	assert_int_equal(errno, EBUSY);
	close(w.fd[DEVICE]);
	assert_int_equal(open("/dev/vfio/0", O_RDWR), -1);
	assert_int_equal(errno, EBUSY);
	close(w.fd[KVM_VFIO]);
	/* Nothing links it to the VM any more. */
	vu_group("/dev/vfio/0", &container, &group);
	assert_int_equal(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "test0"), -1);
	assert_int_equal(errno, EINVAL);
	close(container);
	close(group);
	close(w.fd[VM]);
	close(w.fd[VCPU]);
	close(w.fd[STATS]);
	assert_int_equal(mapped("/memfd:kvm-") + mapped("/memfd:vfio"), 0);
}

/* True if the library takes the eventfd's counter. */
static bool drained(int efd, int ms)
{
	uint64_t one = 1;

	assert_int_equal(write(efd, &one, 8), 8);
	for (; ms > 0; ms--) {
		struct pollfd p = {.fd = efd, .events = POLLIN};

		if (poll(&p, 1, 0) == 0)
			return true;
		usleep(1000);
	}
	assert_int_equal(read(efd, &one, 8), 8);
	return false;
}

/* The VM's fd takes its irqfds with it, whoever else holds the VM. Seen to fail with irq_release_irqfds removed from
 * vm_release. */
static void irqfds_go_first(void **state)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .gsi = 4};
	int vm = ioctl(sys, KVM_CREATE_VM, 0), cpu;

	assert_int_equal(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
	cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	assert_int_equal(ioctl(vm, KVM_IRQFD, &irqfd), 0);
	assert_true(drained((int)irqfd.fd, 5000));
	close(vm);
	assert_int_equal(mapped("/memfd:kvm-vcpu:"), 1);
	assert_false(drained((int)irqfd.fd, 20));
	close(cpu);
	close((int)irqfd.fd);
	assert_int_equal(mapped("/memfd:kvm-vcpu:"), 0);
}

static int setup(void **state)
{
	if (ku_oracle())
		return 0;
	sys = ku_open();
	vcpu_size = (size_t)ioctl(sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*(uint64_t *)(ram + 0x1000) = 0x1122334455667788;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(needed_unmap_first),
					   cmocka_unit_test(needed_unmap_last),
					   cmocka_unit_test(not_needed_unmap_first),
					   cmocka_unit_test(not_needed_unmap_last),
					   cmocka_unit_test(held_groups),
					   cmocka_unit_test(irqfds_go_first)};

	if (ku_oracle()) {
		printf("needs the built-in VFIO test devices\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, NULL);
}
