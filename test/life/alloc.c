/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Failure injected at every allocation, and at every descriptor, of whatever makes or changes a VM: an errno, nothing
 * left behind, and the VM works on (systems.md A5).
 *	make check T=life/alloc
 * torture: create, register, close
 */
#include <sys/eventfd.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "life.h"
#include "torture.h"

#define RAM (1UL << 20)

/* A VM with what the operations need. */
struct rig {
	struct kvm *kvm;
	int vm, made; /* made: the fd that the operation returned, or -1 */
	int efd, resample, dev, group;
	bool split, bare;
	struct fake_vfio vfio;
};

static uint8_t *ram;

/* -- Operations: each is one ioctl that succeeds on a fresh rig -- */

static long set_slot(struct rig *r, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size)
{
	struct kvm_userspace_memory_region m = {.slot = slot,
						.flags = flags,
						.guest_phys_addr = gpa,
						.memory_size = size,
						.userspace_addr = (uintptr_t)ram};

	return call(r->vm, KVM_SET_USER_MEMORY_REGION, &m);
}

static long slot_create(struct rig *r)
{
	return set_slot(r, 3, KVM_MEM_LOG_DIRTY_PAGES, 1 << 30, RAM);
}

static long slot_move(struct rig *r)
{
	return set_slot(r, 0, 0, 1 << 20, RAM);
}

static long slot_flags(struct rig *r)
{
	return set_slot(r, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, RAM);
}

static long slot_delete(struct rig *r)
{
	return set_slot(r, 0, 0, 0, 0);
}

static long ioeventfd(struct rig *r, uint32_t flags, uint64_t addr, uint32_t len)
{
	struct kvm_ioeventfd e = {.flags = flags, .addr = addr, .len = len, .fd = r->efd};

	return call(r->vm, KVM_IOEVENTFD, &e);
}

static long mmio_doorbell(struct rig *r)
{
	return ioeventfd(r, 0, 0xd0000000, 4);
}

/* On two buses at once. */
static long fast_doorbell(struct rig *r)
{
	return ioeventfd(r, 0, 0xd0000000, 0);
}

static long pio_doorbell(struct rig *r)
{
	return ioeventfd(r, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH, 0xc000, 2);
}

static long mmio_doorbell_off(struct rig *r)
{
	return ioeventfd(r, KVM_IOEVENTFD_FLAG_DEASSIGN, 0xd0000000, 4);
}

static long fast_doorbell_off(struct rig *r)
{
	return ioeventfd(r, KVM_IOEVENTFD_FLAG_DEASSIGN, 0xd0000000, 0);
}

static const struct kvm_coalesced_mmio_zone zone = {.addr = 0xe0000000, .size = 0x1000};

static long zone_add(struct rig *r)
{
	return call(r->vm, KVM_REGISTER_COALESCED_MMIO, &zone);
}

static long zone_del(struct rig *r)
{
	return call(r->vm, KVM_UNREGISTER_COALESCED_MMIO, &zone);
}

static long irqfd_on(struct rig *r)
{
	struct kvm_irqfd f = {.fd = (uint32_t)r->efd, .gsi = 5};

	return call(r->vm, KVM_IRQFD, &f);
}

static long irqfd_resample(struct rig *r)
{
	struct kvm_irqfd f = {.fd = (uint32_t)r->efd,
			      .gsi = 5,
			      .flags = KVM_IRQFD_FLAG_RESAMPLE,
			      .resamplefd = (uint32_t)r->resample};

	return call(r->vm, KVM_IRQFD, &f);
}

static long irqfd_off(struct rig *r)
{
	struct kvm_irqfd f = {.fd = (uint32_t)r->efd, .gsi = 5, .flags = KVM_IRQFD_FLAG_DEASSIGN};

	return call(r->vm, KVM_IRQFD, &f);
}

static long routing(struct rig *r)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[2];
	} table = {.head.nr = 2};

	table.e[0] = (struct kvm_irq_routing_entry){
	    .gsi = 20, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = 0x30}};
	table.e[1] = (struct kvm_irq_routing_entry){
	    .gsi = 21, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = 0x31}};
	return call(r->vm, KVM_SET_GSI_ROUTING, &table);
}

static long irqchip(struct rig *r)
{
	return call(r->vm, KVM_CREATE_IRQCHIP, NULL);
}

static long split_irqchip(struct rig *r)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};

	return call(r->vm, KVM_ENABLE_CAP, &cap);
}

static long pit(struct rig *r)
{
	struct kvm_pit_config config = {.flags = 0};

	return call(r->vm, KVM_CREATE_PIT2, &config);
}

static long made(struct rig *r, long fd)
{
	if (fd < 0)
		return fd;
	r->made = (int)fd;
	return 0;
}

static long create_vm(struct rig *r)
{
	int sys = api_open(0);
	long fd = call(sys, KVM_CREATE_VM, NULL);

	file_close(sys);
	return sys < 0 ? sys : made(r, fd);
}

static long create_vcpu(struct rig *r)
{
	return made(r, call(r->vm, KVM_CREATE_VCPU, (void *)7));
}

static long stats(struct rig *r)
{
	return made(r, call(r->vm, KVM_GET_STATS_FD, NULL));
}

static long device(struct rig *r)
{
	long rc = kvm_vfio_new(r->vm);

	if (rc < 0)
		assert_null(r->kvm->devices);
	return made(r, rc);
}

static long file_add(struct rig *r)
{
	long rc = kvm_vfio_attr(r->dev, FILE_ADD, r->group);

	assert_ptr_equal(r->vfio.kvm, rc ? NULL : &r->kvm->handle);
	return rc;
}

static long file_del(struct rig *r)
{
	return kvm_vfio_attr(r->dev, FILE_DEL, r->group);
}

static long msr_filter(struct rig *r)
{
	static uint8_t bitmap[8] = {0xff};
	struct kvm_msr_filter f = {
	    .ranges[0] = {.flags = KVM_MSR_FILTER_READ, .nmsrs = 64, .bitmap = bitmap}};

	return call(r->vm, KVM_X86_SET_MSR_FILTER, &f);
}

struct op {
	const char *name;
	long (*run)(struct rig *r);
	long (*before)(struct rig *r); /* brings about what run undoes */
	unsigned irqchip;	       /* 0 none, 1 in-kernel */
};

static const struct op ops[] = {
    {"KVM_CREATE_VM", create_vm, NULL, 0},
    {"KVM_CREATE_VCPU", create_vcpu, NULL, 0},
    {"KVM_CREATE_VCPU with irqchip", create_vcpu, NULL, 1},
    {"KVM_GET_STATS_FD", stats, NULL, 0},
    {"KVM_CREATE_IRQCHIP", irqchip, NULL, 0},
    {"KVM_CAP_SPLIT_IRQCHIP", split_irqchip, NULL, 0},
    {"KVM_CREATE_PIT2", pit, NULL, 1},
    {"slot create", slot_create, NULL, 0},
    {"slot move", slot_move, NULL, 0},
    {"slot flags", slot_flags, NULL, 0},
    {"slot delete", slot_delete, NULL, 0},
    {"ioeventfd add", mmio_doorbell, NULL, 0},
    {"ioeventfd add, any length", fast_doorbell, NULL, 0},
    {"ioeventfd add, PIO", pio_doorbell, NULL, 0},
    {"ioeventfd delete", mmio_doorbell_off, mmio_doorbell, 0},
    {"ioeventfd delete, any length", fast_doorbell_off, fast_doorbell, 0},
    {"coalesced add", zone_add, NULL, 0},
    {"coalesced delete", zone_del, zone_add, 0},
    {"irqfd", irqfd_on, NULL, 1},
    {"irqfd with resample", irqfd_resample, NULL, 1},
    {"irqfd off", irqfd_off, irqfd_on, 1},
    {"routing", routing, NULL, 1},
    {"MSR filter", msr_filter, NULL, 0},
    {"MSR filter again", msr_filter, msr_filter, 0},
    {"KVM_CREATE_DEVICE", device, NULL, 0},
    {"FILE_ADD", file_add, NULL, 0},
    {"FILE_DEL", file_del, file_add, 0},
};

/* -- One trial -- */

static void rig_open(struct rig *r, const struct op *op)
{
	*r = (struct rig){.made = -1, .dev = -1, .vfio.noncoherent = true};
	r->vm = vm_new(&r->kvm);
	r->efd = eventfd(0, EFD_CLOEXEC);
	r->resample = eventfd(0, EFD_CLOEXEC);
	r->group = fake_open(&r->vfio);
	if (op->irqchip)
		assert_int_equal(irqchip(r), 0);
	assert_int_equal(set_slot(r, 0, 0, 0, RAM), 0);
	if (op->run == file_add || op->run == file_del)
		r->dev = (int)kvm_vfio_new(r->vm);
	if (op->before)
		assert_int_equal(op->before(r), 0);
}

static void rig_close(struct rig *r)
{
	if (r->made >= 0)
		file_close(r->made);
	if (r->dev >= 0)
		file_close(r->dev);
	assert_null(r->vfio.kvm);
	file_close(r->vm);
	file_close(r->group);
	assert_int_equal(atomic_load(&r->vfio.released), 1);
	close(r->efd);
	close(r->resample);
}

static struct rlimit limit;

static void fail_fds(int left)
{
	struct rlimit few = limit;
	int used = 0;

	while (left >= 0 && fcntl(used, F_GETFD) >= 0)
		used++;
	if (left >= 0)
		few.rlim_cur = (rlim_t)(used + left);
	setrlimit(RLIMIT_NOFILE, &few);
}

/* Runs op with its n-th allocation failing, or with n - 1 descriptors left; true if it was not even reached. */
static bool trial(const struct op *op, long n, int error)
{
	struct balance before = balance();
	struct rig r;
	bool reached;
	long rc;

	rig_open(&r, op);
	if (error == -ENOMEM) {
		base_alloc_fail_at(n);
		rc = op->run(&r);
		reached = !base_alloc_fail_at(0);
	} else {
		fail_fds((int)n - 1);
		rc = op->run(&r);
		fail_fds(-1);
		reached = rc != 0;
	}
	if (rc && rc != error)
		fail_msg("%s, %ld: %ld", op->name, n, rc);
	/* Refused: nothing has happened, so it can be done now. */
	if (rc) {
		rc = op->run(&r);
		if (rc)
			fail_msg("%s, repeated after %ld: %ld", op->name, n, rc);
	}
	rig_close(&r);
	assert_balance(&before, op->name);
	return !reached;
}

static void every(int error)
{
	struct rig warm;
	int failed = 0;

	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	api_register_vfio(&fake_vfio_ops);
	getrlimit(RLIMIT_NOFILE, &limit);
	/* What the process sets up once stays. */
	rig_open(&warm, &ops[0]);
	rig_close(&warm);
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		long n = 1;

		while (!trial(&ops[i], n, error))
			if (++n > 100)
				fail_msg("%s: no end", ops[i].name);
		if (getenv("VERBOSE"))
			print_message("%s: %ld\n", ops[i].name, n - 1);
		failed += n > 1;
	}
	/* It did reach them. */
	assert_true(failed > (error == -ENOMEM ? 12 : 5));
	api_register_vfio(NULL);
	munmap(ram, RAM);
}

/* Seen to fail with KVM_STAGE_BUS never set in vm.c. */
static void allocations(void **state)
{
	every(-ENOMEM);
}

/* Seen to fail with file_abandon removed from stats_file_create, and with drop_device from device_create. */
static void descriptors(void **state)
{
	every(-EMFILE);
}

static pthread_barrier_t reading;

/* A reader that is there while the arrays are replaced. */
static void *reader(void *arg)
{
	struct kvm *kvm = arg;
	int idx = srcu_read_lock(&kvm->srcu);

	pthread_barrier_wait(&reading);
	pthread_barrier_wait(&reading);
	srcu_read_unlock(&kvm->srcu, idx);
	return NULL;
}

/*
 * Closed at once after registrations, whose old arrays have been waiting for a reader: the VM's end waits too, and
 * nothing of it is freed later. Seen to fail (reports of srcu_cleanup) with both srcu_barrier removed from kvm_destroy.
 */
static void register_then_close(void **state)
{
	struct op none = {.name = "register, close"};
	unsigned bugs = base_bug_count();
	struct balance before;
	struct rig r;

	rig_open(&r, &none);
	rig_close(&r);
	before = balance();
	pthread_barrier_init(&reading, NULL, 2);
	for (int i = 0; i < 100; i++) {
		pthread_t thread;

		rig_open(&r, &none);
		pthread_create(&thread, NULL, reader, r.kvm);
		pthread_barrier_wait(&reading);
		assert_int_equal(mmio_doorbell(&r), 0);
		assert_int_equal(ioeventfd(&r, 0, 0xd0001000, 4), 0);
		assert_int_equal(pio_doorbell(&r), 0);
		assert_int_equal(zone_add(&r), 0);
		pthread_barrier_wait(&reading);
		pthread_join(thread, NULL);
		rig_close(&r);
	}
	assert_int_equal(base_bug_count(), bugs);
	assert_balance(&before, none.name);
}

/* -- Many -- */

/* All of it at once, many times over: memory and descriptors are what they were. Seen to fail with bus_destroy not
 * freeing its arrays. */
static void create_register_close(void **state)
{
	struct torture t = torture_begin(300, 100000);
	struct op all = {.name = "all", .irqchip = 1};
	struct balance before;
	struct rig r;

	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	api_register_vfio(&fake_vfio_ops);
	rig_open(&r, &all);
	rig_close(&r);
	before = balance();
	while (torture_more(&t)) {
		int cpu, vfio;

		rig_open(&r, &all);
		assert_int_equal(create_vcpu(&r), 0);
		cpu = r.made;
		assert_int_equal(device(&r), 0);
		vfio = r.made;
		assert_int_equal(kvm_vfio_attr(vfio, FILE_ADD, r.group), 0);
		assert_int_equal(pit(&r), 0);
		assert_int_equal(fast_doorbell(&r), 0);
		assert_int_equal(pio_doorbell(&r), 0);
		assert_int_equal(zone_add(&r), 0);
		assert_int_equal(t.round % 2 ? irqfd_on(&r) : irqfd_resample(&r), 0);
		assert_int_equal(routing(&r), 0);
		assert_int_equal(slot_flags(&r), 0);
		assert_int_equal(atomic_load(&r.kvm->noncoherent), 1);
		file_close(cpu);
		rig_close(&r);
	}
	assert_balance(&before, "create, register, close");
	api_register_vfio(NULL);
	munmap(ram, RAM);
	torture_end(&t, "create, register, close");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(allocations), cmocka_unit_test(descriptors),
					   cmocka_unit_test(register_then_close),
					   cmocka_unit_test(create_register_close),
					   cmocka_unit_test(no_reports)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
