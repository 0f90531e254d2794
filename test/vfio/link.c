/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The link to a VM and how long devices keep it, from inside (systems.md B1, B2).
 *	make check T=vfio/link
 * torture: link, torture: opens
 */
#include "world.h"

_Atomic long fake_made, fake_ended;

static void fake_destroy(struct kvm_file *file)
{
	struct fake_vm *vm = container_of(file, struct fake_vm, file);

	bool keep = vm->keep;

	atomic_fetch_add(&fake_ended, 1);
	atomic_store(&vm->alive, 0); /* the last of a kept one */
	if (!keep)
		base_free(vm);
}

static const struct kvm_file_ops fake_ops = {.destroy = fake_destroy};

struct fake_vm *fake_vm_new(void)
{
	struct fake_vm *vm = base_zalloc(sizeof(*vm));

	assert_non_null(vm);
	*vm = (struct fake_vm){.file = {.magic = KVM_FILE_MAGIC, .ops = &fake_ops}, .alive = ALIVE};
	ref_init(&vm->file.users, 1);
	atomic_fetch_add(&fake_made, 1);
	return vm;
}

static void fake_put(struct fake_vm *vm)
{
	kvm_file_put(&vm->file);
}

static long ended(void)
{
	return atomic_load(&fake_ended);
}

/* -- The link alone -- */

static void plain(void **state)
{
	struct vfio_kvm_reference l;
	struct fake_vm *vm = fake_vm_new();
	long before = ended();

	link_init(&l);
	assert_null(link_get(&l));
	link_set(&l, &vm->file);
	assert_ptr_equal(link_get(&l), &vm->file);
	assert_int_equal(ref_read(&vm->file.users), 2);
	link_set(&l, NULL);
	assert_null(link_get(&l));
	fake_put(vm);
	assert_int_equal(ended(), before);
	fake_put(vm);
	assert_int_equal(ended(), before + 1);
}

/*
 * Eight threads take what is linked while the VM's last reference but theirs goes: after the link was cut, as
 * KVM_DEV_TYPE_VFIO does it, or before (the memory then stays until it is cut). Each gets NULL or a VM that lives
 * until it puts it; each VM ends once. Seen to fail with get_safe outside the lock in link_get (ASan and TSan: used
 * after its end), and with kvm_file_get in its place (a VM that had ended; the count rose from 0).
 */
#define TAKERS 8

/* What must have happened once: a busy machine gets some more rounds for it. */
#define UNTIL(t, seen) (torture_more(&(t)) || (!(seen) && torture_now_ns() - (t).start_ns < 20000000000U))

static struct {
	struct vfio_kvm_reference link;
	_Atomic bool stop;
	_Atomic long taken;
} race;

static void *taker(void *arg)
{
	while (!atomic_load(&race.stop)) {
		struct kvm_file *f = link_get(&race.link);

		if (!f) {
			sched_yield();
			continue;
		}
		if (atomic_load(&container_of(f, struct fake_vm, file)->alive) != ALIVE)
			abort();
		atomic_fetch_add(&race.taken, 1);
		kvm_file_put(f);
	}
	return NULL;
}

static void link_race(void **state)
{
	struct torture t = torture_begin(1000, 10000000);
	long made = atomic_load(&fake_made), before = ended();
	pthread_t threads[TAKERS];
	uint64_t rounds = 0;

	link_init(&race.link);
	atomic_store(&race.stop, false);
	for (int n = 0; n < TAKERS; n++)
		pthread_create(&threads[n], NULL, taker, NULL);
	while (UNTIL(t, atomic_load(&race.taken))) {
		struct fake_vm *vm = fake_vm_new();

		vm->keep = rounds++ % 2;
		link_set(&race.link, &vm->file);
		sched_yield();
		if (!vm->keep) {
			link_set(&race.link, NULL);
			fake_put(vm);
			continue;
		}
		fake_put(vm);
		sched_yield();
		link_set(&race.link, NULL);
		while (atomic_load(&vm->alive))
			sched_yield();
		base_free(vm);
	}
	atomic_store(&race.stop, true);
	for (int n = 0; n < TAKERS; n++)
		pthread_join(threads[n], NULL);
	assert_int_equal(ended() - before, atomic_load(&fake_made) - made);
	assert_true(atomic_load(&race.taken) > 0);
	torture_end(&t, "link");
}

/* -- The device's reference (B2) -- */

static long get_device(struct world *w, const char *name)
{
	return call(w->group, VFIO_GROUP_GET_DEVICE_FD, (void *)(uintptr_t)name);
}

/* Taken at the first open, dropped at the last close, once, whatever the link says meanwhile. Seen to fail with
 * the reference taken at each open. */
static void first_and_last(void **state)
{
	struct fake_vm *vm = fake_vm_new(), *other = fake_vm_new();
	long before = ended();
	struct world w;
	int one, two;

	world_open(&w, "/dev/vfio/0");
	link_file(w.group, vm);
	assert_int_equal(ref_read(&vm->file.users), 1); /* the link itself is not counted */
	one = (int)get_device(&w, "test0");
	assert_true(one >= 0);
	assert_int_equal(ref_read(&vm->file.users), 2);
	two = (int)get_device(&w, "test0");
	assert_true(two >= 0);
	assert_int_equal(ref_read(&vm->file.users), 2);
	/* Another link is for those who open first. */
	link_file(w.group, other);
	file_close(one);
	assert_int_equal(ref_read(&vm->file.users), 2);
	one = (int)get_device(&w, "test0");
	assert_int_equal(ref_read(&other->file.users), 1);
	fake_put(vm);
	assert_int_equal(ended(), before);
	file_close(two);
	assert_int_equal(ended(), before);
	file_close(one);
	assert_int_equal(ended(), before + 1);
	one = (int)get_device(&w, "test0");
	assert_int_equal(ref_read(&other->file.users), 2);
	link_file(w.group, NULL);
	file_close(one);
	fake_put(other);
	assert_int_equal(ended(), before + 2);
	world_close(&w);
}

/* A driver that does not ask for a VM does not keep it: it ends while the device is open. Seen to fail with the
 * test of USERKVM_NEEDS_KVM removed from first_open. */
static void not_needed(void **state)
{
	struct fake_vm *vm = fake_vm_new();
	long before = ended();
	struct world w;
	int dev;

	world_open(&w, "/dev/vfio/1");
	link_file(w.group, vm);
	dev = (int)get_device(&w, "test1");
	assert_true(dev >= 0);
	link_file(w.group, NULL);
	fake_put(vm);
	assert_int_equal(ended(), before + 1);
	file_close(dev);
	world_close(&w);
}

/* -- Failing allocations: every step gives back what it took. Seen to fail with strip left out of first_open's
 * failure. -- */

static long open_both_paths(struct fake_vm *vm)
{
	struct vfio_device_bind_iommufd b = {.argsz = sizeof(b)};
	struct vfio_device_attach_iommufd_pt a = {.argsz = 12, .pt_id = 1};
	struct vfio_iommu_type1_dma_map m = {.argsz = sizeof(m), .flags = 3, .size = 4096};
	struct iommu_ioas_alloc alloc = {.size = sizeof(alloc)};
	struct world w = {-1, -1};
	int fds[4] = {-1, -1, -1, -1};
	long r = w.container = vfio_open("/dev/vfio/vfio", O_RDWR);

	if (r >= 0)
		r = w.group = vfio_open("/dev/vfio/0", O_RDWR);
	if (r >= 0)
		r = call(w.group, VFIO_GROUP_SET_CONTAINER, &w.container);
	if (r >= 0)
		r = call(w.container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU);
	if (r >= 0)
		r = call(w.container, VFIO_IOMMU_MAP_DMA, &m);
	if (r >= 0) {
		link_file(w.group, vm);
		r = fds[0] = (int)get_device(&w, "test0");
	}
	if (w.group >= 0)
		link_file(w.group, NULL);
	if (r >= 0)
		r = fds[1] = (int)get_device(&w, "test0");
	if (r >= 0)
		r = fds[2] = vfio_open("/dev/iommu", O_RDWR);
	if (r >= 0)
		r = call(fds[2], IOMMU_IOAS_ALLOC, &alloc);
	if (r >= 0)
		r = fds[3] = vfio_open("/dev/vfio/devices/vfio1", O_RDWR);
	b.iommufd = fds[2];
	if (r >= 0)
		r = call(fds[3], VFIO_DEVICE_BIND_IOMMUFD, &b);
	if (r >= 0)
		r = call(fds[3], VFIO_DEVICE_ATTACH_IOMMUFD_PT, &a);
	for (int n = 0; n < 4; n++) {
		if (fds[n] >= 0)
			file_close(fds[n]);
	}
	if (w.group >= 0)
		file_close(w.group);
	if (w.container >= 0)
		file_close(w.container);
	return r;
}

static void failing_allocations(void **state)
{
	struct fake_vm *vm = fake_vm_new();
	long live, n;

	assert_int_equal(open_both_paths(vm), 0);
	live = base_alloc_live();
	for (n = 1; n < 200; n++) {
		long r;

		base_alloc_fail_at(n);
		r = open_both_paths(vm);
		base_alloc_fail_at(0);
		assert_int_equal(files_live(), 0);
		assert_int_equal(ref_read(&vm->file.users), 1);
		assert_true(base_alloc_live() <= live);
		if (!r)
			break;
		assert_int_equal(r, -ENOMEM);
	}
	assert_true(n > 10 && n < 200);
	fake_put(vm);
}

/* -- Opens, closes, links and VMs that end, all at once (B1) -- */

static struct {
	struct world w;
	_Atomic bool stop;
	_Atomic long opened, refused;
} opens;

/* Opens and closes the device: with a VM that lives, or refused. */
static void *opener(void *arg)
{
	while (!atomic_load(&opens.stop)) {
		long fd = get_device(&opens.w, "test0");

		if (fd < 0) {
			if (fd != -EINVAL)
				abort();
			atomic_fetch_add(&opens.refused, 1);
			sched_yield();
			continue;
		}
		atomic_fetch_add(&opens.opened, 1);
		file_close((int)fd);
	}
	return NULL;
}

static void open_race(void **state)
{
	struct torture t = torture_begin(300, 10000000);
	long made = atomic_load(&fake_made), before = ended();
	pthread_t threads[3];

	world_open(&opens.w, "/dev/vfio/0");
	for (int n = 0; n < 3; n++)
		pthread_create(&threads[n], NULL, opener, NULL);
	while (UNTIL(t, atomic_load(&opens.opened) && atomic_load(&opens.refused))) {
		struct fake_vm *vm = fake_vm_new();

		link_file(opens.w.group, vm);
		sched_yield();
		link_file(opens.w.group, NULL);
		fake_put(vm);
	}
	atomic_store(&opens.stop, true);
	for (int n = 0; n < 3; n++)
		pthread_join(threads[n], NULL);
	assert_true(atomic_load(&opens.opened) > 0 && atomic_load(&opens.refused) > 0);
	world_close(&opens.w);
	assert_int_equal(ended() - before, atomic_load(&fake_made) - made);
	assert_int_equal(files_live(), 0);
	torture_end(&t, "opens");
}

static int no_reports(void **state)
{
	assert_int_equal(lockdep_reports() + base_bug_count(), 0);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(plain),
	    cmocka_unit_test(link_race),
	    cmocka_unit_test(first_and_last),
	    cmocka_unit_test(not_needed),
	    cmocka_unit_test(failing_allocations),
	    cmocka_unit_test(open_race),
	};

	setenv("USERKVM_VFIO", "test", 1);
	vfio_init();
	return cmocka_run_group_tests(tests, NULL, no_reports);
}
