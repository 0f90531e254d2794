/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every ioctl refuses, with which errno, and that the VM is usable afterwards.
 *	make check T=api/refusals
 *	USERKVM_ORACLE=1 build/checked/test/api/refusals
 * WORKS: Refusals | the errno of KVM 6.1 for wrong arguments
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/eventfd.h>

#include "kvm_util.h"

static struct ku_vm vm;
static struct ku_vcpu cpu;

static int setup(void **state)
{
	ku_vm_create(&vm, 2 << 20);
	ku_vcpu_create(&vm, 0, &cpu);
	return 0;
}

/* Whatever was refused: the guest still runs. */
static int teardown(void **state)
{
	static const uint8_t hlt[] = {0xf4};

	ku_load(&vm, 0x1000, hlt, sizeof(hlt));
	ku_real_mode(&cpu, 0x1000);
	KU_CHECK(ku_run(&cpu) == KVM_EXIT_HLT);
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
	return 0;
}

/* -- Unknown ioctls, closed fds, bad pointers -- */

static void unknown(void **state)
{
	assert_int_equal(ku_errno(vm.sys, _IO(KVMIO, 0xfe), 0), EINVAL);
	assert_int_equal(ku_errno(vm.fd, _IO(KVMIO, 0xfe), 0), ENOTTY);
	assert_int_equal(ku_errno(cpu.fd, _IO(KVMIO, 0xfe), 0), EINVAL);
	/* Right number, wrong size; right ioctl, wrong file. */
	assert_int_equal(ku_errno(cpu.fd, _IOR(KVMIO, 0x81, char), 0), EINVAL);
	assert_int_equal(ku_errno(vm.sys, KVM_CREATE_VCPU, 0), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_CREATE_VM, 0), ENOTTY);
	assert_int_equal(ku_errno(vm.fd, KVM_RUN, 0), ENOTTY);
	assert_int_equal(ku_errno(cpu.fd, KVM_CREATE_VCPU, 0), EINVAL);
	/* Encryption is not offered. */
	assert_int_equal(ku_errno(vm.fd, KVM_MEMORY_ENCRYPT_OP, 0), ENOTTY);
}

static void closed(void **state)
{
	assert_int_equal(ku_errno(-1, KVM_GET_API_VERSION, 0), EBADF);
	assert_int_equal(ku_errno(5000, KVM_RUN, 0), EBADF);
	assert_int_equal(ku_errno(0, KVM_RUN, 0) == 0, 0);
}

/* Every ioctl that takes a pointer, with NULL, an unmapped page, and one that ends in an unmapped page. Seen to fail
 * with the copy in, and with the copy out, not looked at in run_row. */
static void bad_pointers(void **state)
{
	static const struct {
		int on; /* 0 VM, 1 vCPU */
		unsigned long request;
	} calls[] = {{0, KVM_SET_USER_MEMORY_REGION},
		     {0, KVM_GET_DIRTY_LOG},
		     {0, KVM_CLEAR_DIRTY_LOG},

		     {0, KVM_CREATE_DEVICE},
		     {0, KVM_ENABLE_CAP},
		     {0, KVM_IOEVENTFD},
		     {0, KVM_IRQFD},
		     {0, KVM_SIGNAL_MSI},
		     {0, KVM_IRQ_LINE},
		     {0, KVM_SET_GSI_ROUTING},
		     {0, KVM_REGISTER_COALESCED_MMIO},
		     {0, KVM_UNREGISTER_COALESCED_MMIO},
		     {0, KVM_GET_CLOCK},
		     {0, KVM_SET_CLOCK},
		     {0, KVM_CREATE_PIT2},
		     {0, KVM_X86_SET_MSR_FILTER},
		     {1, KVM_GET_REGS},
		     {1, KVM_SET_REGS},
		     {1, KVM_GET_SREGS},
		     {1, KVM_SET_SREGS},
		     {1, KVM_GET_SREGS2},
		     {1, KVM_SET_SREGS2},
		     {1, KVM_GET_FPU},
		     {1, KVM_SET_FPU},
		     {1, KVM_SET_XSAVE},
		     {1, KVM_GET_XSAVE2},
		     {1, KVM_GET_XCRS},
		     {1, KVM_SET_XCRS},
		     {1, KVM_GET_DEBUGREGS},
		     {1, KVM_SET_DEBUGREGS},
		     {1, KVM_GET_VCPU_EVENTS},
		     {1, KVM_SET_VCPU_EVENTS},
		     {1, KVM_GET_MP_STATE},
		     {1, KVM_SET_MP_STATE},
		     {1, KVM_GET_MSRS},
		     {1, KVM_SET_MSRS},
		     {1, KVM_SET_CPUID},
		     {1, KVM_SET_CPUID2},
		     {1, KVM_GET_CPUID2},
		     {1, KVM_TRANSLATE},
		     {1, KVM_INTERRUPT},
		     {1, KVM_SET_GUEST_DEBUG},
		     {1, KVM_TPR_ACCESS_REPORTING},

		     {1, KVM_X86_SETUP_MCE},
		     {1, KVM_X86_SET_MCE},
		     {1, KVM_ENABLE_CAP}};
	uint8_t *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(page + 4096, 4096);
	for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		int fd = calls[i].on ? cpu.fd : vm.fd, e;

		e = ku_errno(fd, calls[i].request, NULL);
		if (e != EFAULT)
			print_error("call %u with NULL: %d\n", i, e);
		assert_int_equal(e, EFAULT);
		assert_int_equal(ku_errno(fd, calls[i].request, page + 4096), EFAULT);
		assert_int_equal(ku_errno(fd, calls[i].request, (void *)0xffff800000000000), EFAULT);
		assert_int_equal(ku_errno(fd, calls[i].request, page + 4095), EFAULT);
	}
	munmap(page, 4096);
}

/* -- Creation -- */

static void creation(void **state)
{
	assert_int_equal(ku_errno(vm.sys, KVM_CREATE_VM, (void *)1), EINVAL);
	assert_int_equal(ku_errno(vm.sys, KVM_CREATE_VM, (void *)~0UL), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_CREATE_VCPU, 0), EEXIST);
	assert_int_equal(ku_errno(vm.fd, KVM_CREATE_VCPU, (void *)100000), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_CREATE_VCPU, (void *)-1L), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_CREATE_IRQCHIP, 0), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_SET_BOOT_CPU_ID, 0), EBUSY);
	assert_int_equal(ku_errno(cpu.fd, KVM_RUN, (void *)1), EINVAL);
}

static void irqchip_twice(void **state)
{
	struct kvm_pit_config pit = {0};
	struct kvm_irqchip chip = {.chip_id = 7};
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	struct ku_vm other;

	ku_vm_create(&other, 0);
	assert_int_equal(ku_errno(other.fd, KVM_CREATE_PIT2, &pit), ENOENT);
	assert_int_equal(ku_errno(other.fd, KVM_GET_IRQCHIP, &chip), ENXIO);
	split.args[0] = 4097;
	assert_int_equal(ku_errno(other.fd, KVM_ENABLE_CAP, &split), EINVAL);
	assert_int_equal(ku_errno(other.fd, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ku_errno(other.fd, KVM_CREATE_IRQCHIP, 0), EEXIST);
	split.args[0] = 24;
	assert_int_equal(ku_errno(other.fd, KVM_ENABLE_CAP, &split), EEXIST);
	assert_int_equal(ku_errno(other.fd, KVM_GET_IRQCHIP, &chip), EINVAL);
	assert_int_equal(ku_errno(other.fd, KVM_CREATE_PIT2, &pit), 0);
	assert_int_equal(ku_errno(other.fd, KVM_CREATE_PIT2, &pit), EEXIST);
	ku_vm_destroy(&other);
}

/* Without an interrupt controller of ours, what belongs to one is refused. */
static void no_irqchip(void **state)
{
	struct kvm_irq_level line = {.irq = 1, .level = 1};
	struct kvm_msi msi = {.address_lo = 0xfee00000};
	struct kvm_lapic_state lapic;
	struct kvm_pit_state2 pit;
	struct kvm_reinject_control reinject = {.pit_reinject = 1};
	struct kvm_vapic_addr vapic = {0};

	assert_int_equal(ku_errno(vm.fd, KVM_IRQ_LINE, &line), ENXIO);
	assert_int_equal(ku_errno(vm.fd, KVM_SIGNAL_MSI, &msi), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_GET_PIT2, &pit), ENXIO);
	assert_int_equal(ku_errno(vm.fd, KVM_REINJECT_CONTROL, &reinject), ENXIO);
	assert_int_equal(ku_errno(cpu.fd, KVM_GET_LAPIC, &lapic), EINVAL);
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_VAPIC_ADDR, &vapic), EINVAL);
	/* ... and before its argument is read. */
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_VAPIC_ADDR, NULL), EINVAL);
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_LAPIC, NULL), EINVAL);
}

static void devices(void **state)
{
	struct kvm_create_device dev = {.type = 1000};

	assert_int_equal(ku_errno(vm.fd, KVM_CREATE_DEVICE, &dev), ENODEV);
	dev = (struct kvm_create_device){.type = KVM_DEV_TYPE_XICS, .flags = KVM_CREATE_DEVICE_TEST};
	assert_int_equal(ku_errno(vm.fd, KVM_CREATE_DEVICE, &dev), ENODEV);
}

static void vm_settings(void **state)
{
	uint64_t addr = 0xfffbc000;

	assert_int_equal(ku_errno(vm.fd, KVM_SET_TSS_ADDR, (void *)0xfffbd000), 0);
	assert_int_equal(ku_errno(vm.fd, KVM_SET_TSS_ADDR, (void *)0xffffffff), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_SET_TSS_ADDR, (void *)0x100000000), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_SET_IDENTITY_MAP_ADDR, &addr), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_SET_IDENTITY_MAP_ADDR, NULL), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_SET_NR_MMU_PAGES, (void *)1), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_SET_NR_MMU_PAGES, (void *)100), 0);
	if (!ku_oracle())
		assert_int_equal(ioctl(vm.fd, KVM_GET_NR_MMU_PAGES, 0), 100);
}

static void enable_caps(void **state)
{
	struct kvm_enable_cap cap = {.cap = 9999};

	assert_int_equal(ku_errno(vm.fd, KVM_ENABLE_CAP, &cap), EINVAL);
	assert_int_equal(ku_errno(cpu.fd, KVM_ENABLE_CAP, &cap), EINVAL);
	cap = (struct kvm_enable_cap){.cap = KVM_CAP_X2APIC_API, .args = {1 << 7}};
	assert_int_equal(ku_errno(vm.fd, KVM_ENABLE_CAP, &cap), EINVAL);
	cap = (struct kvm_enable_cap){.cap = KVM_CAP_X86_USER_SPACE_MSR, .args = {1 << 20}};
	assert_int_equal(ku_errno(vm.fd, KVM_ENABLE_CAP, &cap), EINVAL);
	cap = (struct kvm_enable_cap){.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {8}};
	assert_int_equal(ku_errno(vm.fd, KVM_ENABLE_CAP, &cap), EINVAL);
	cap = (struct kvm_enable_cap){.cap = KVM_CAP_EXCEPTION_PAYLOAD, .flags = 1};
	assert_int_equal(ku_errno(vm.fd, KVM_ENABLE_CAP, &cap), EINVAL);
	cap = (struct kvm_enable_cap){.cap = KVM_CAP_MAX_VCPU_ID, .args = {1 << 20}};
	assert_int_equal(ku_errno(vm.fd, KVM_ENABLE_CAP, &cap), EINVAL);
}

/* -- Memory slots -- */

/* Seen to fail without the look at unknown flags in check_region. */
static void memslots(void **state)
{
	uint8_t *ram = mmap(NULL, 64 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t g = 0x10000000;
	int slots = ioctl(vm.sys, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);

	/* Alignment, size, wrap, flags, slot number, address space. */
	assert_int_equal(ku_set_slot(&vm, 1, 0, g + 1, ram, 0x1000), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 1, 0, g, ram, 0x1001), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 1, 0, g, ram + 1, 0x1000), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 1, 0, 0xfffffffffffff000, ram, 0x2000), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 1, 0, g, (void *)0x7ffffffffffff000, 0x2000), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 1, 4, g, ram, 0x1000), EINVAL);
	assert_int_equal(ku_set_slot(&vm, slots, 0, g, ram, 0x1000), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 2 << 16 | 1, 0, g, ram, 0x1000), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 1, 0, g, ram, 1ULL << 43), EINVAL);
	/* Nothing there to delete. */
	assert_int_equal(ku_set_slot(&vm, 1, 0, g, ram, 0), EINVAL);
	/* Overlap of another slot: of slot 0 (RAM), of a neighbour by one page. */
	assert_int_equal(ku_set_slot(&vm, 1, 0, 0x1000, ram, 0x1000), EEXIST);
	assert_int_equal(ku_set_slot(&vm, 1, 0, g, ram, 0x4000), 0);
	assert_int_equal(ku_set_slot(&vm, 2, 0, g + 0x3000, ram, 0x4000), EEXIST);
	assert_int_equal(ku_set_slot(&vm, 2, 0, g + 0x4000, ram + 0x4000, 0x4000), 0);
	/* The other address space is another world. */
	if (ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE) > 1)
		assert_int_equal(ku_set_slot(&vm, 1 << 16 | 1, 0, g, ram, 0x4000), 0);
	/* Of an existing slot: the same again, then size, host address, READONLY. */
	assert_int_equal(ku_set_slot(&vm, 1, 0, g, ram, 0x4000), 0);
	assert_int_equal(ku_set_slot(&vm, 1, 0, g, ram, 0x5000), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 1, 0, g, ram + 0x10000, 0x4000), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 1, KVM_MEM_READONLY, g, ram, 0x4000), EINVAL);
	/* A move, a move onto a neighbour. */
	assert_int_equal(ku_set_slot(&vm, 1, 0, g + 0x100000, ram, 0x4000), 0);
	assert_int_equal(ku_set_slot(&vm, 1, 0, g + 0x5000, ram, 0x4000), EEXIST);
	assert_int_equal(ku_set_slot(&vm, 1, 0, 0, NULL, 0), 0);
	assert_int_equal(ku_set_slot(&vm, 1, 0, 0, NULL, 0), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 2, 0, 0, NULL, 0), 0);
	munmap(ram, 64 << 12);
}

static void dirty_logs(void **state)
{
	uint64_t bits[16];
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bits};
	struct kvm_clear_dirty_log clear = {.slot = 0, .num_pages = 64, .dirty_bitmap = bits};

	assert_int_equal(ku_errno(vm.fd, KVM_GET_DIRTY_LOG, &log), ENOENT);
	log.slot = 5;
	assert_int_equal(ku_errno(vm.fd, KVM_GET_DIRTY_LOG, &log), ENOENT);
	log.slot = 1 << 20;
	assert_int_equal(ku_errno(vm.fd, KVM_GET_DIRTY_LOG, &log), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_CLEAR_DIRTY_LOG, &clear), ENOENT);
	log = (struct kvm_dirty_log){.slot = 0, .dirty_bitmap = NULL};
	assert_int_equal(ku_set_slot(&vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, vm.ram, vm.ram_size), 0);
	assert_int_equal(ku_errno(vm.fd, KVM_GET_DIRTY_LOG, &log), EFAULT);
	assert_int_equal(ku_set_slot(&vm, 0, 0, 0, vm.ram, vm.ram_size), 0);
	assert_int_equal(ku_errno(vm.fd, KVM_RESET_DIRTY_RINGS, 0), EINVAL);
}

/* -- Doorbells -- */

static void ioeventfds(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	struct kvm_ioeventfd io = {.addr = 0xc000, .len = 2, .fd = fd, .flags = KVM_IOEVENTFD_FLAG_PIO};

	io.len = 3;
	assert_int_equal(ku_errno(vm.fd, KVM_IOEVENTFD, &io), EINVAL);
	io.len = 2;
	io.flags |= 1 << 10;
	assert_int_equal(ku_errno(vm.fd, KVM_IOEVENTFD, &io), EINVAL);
	io.flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN;
	assert_int_equal(ku_errno(vm.fd, KVM_IOEVENTFD, &io), ENOENT);
	io.flags = KVM_IOEVENTFD_FLAG_PIO;
	assert_int_equal(ku_errno(vm.fd, KVM_IOEVENTFD, &io), 0);
	assert_int_equal(ku_errno(vm.fd, KVM_IOEVENTFD, &io), EEXIST);
	io.addr = 0xc010;
	io.fd = 5000;
	assert_int_equal(ku_errno(vm.fd, KVM_IOEVENTFD, &io), EBADF);
	io.fd = vm.fd;
	assert_int_equal(ku_errno(vm.fd, KVM_IOEVENTFD, &io), EINVAL);
	io = (struct kvm_ioeventfd){.addr = ~0ULL, .len = 4, .fd = fd};
	assert_int_equal(ku_errno(vm.fd, KVM_IOEVENTFD, &io), EINVAL);
	io = (struct kvm_ioeventfd){.addr = 0xc000,
				    .len = 2,
				    .fd = fd,
				    .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN};
	assert_int_equal(ku_errno(vm.fd, KVM_IOEVENTFD, &io), 0);
	close(fd);
}

static void irqfds(void **state)
{
	struct kvm_irqfd irqfd = {.fd = 5000, .gsi = 5};
	struct ku_vm other;

	/* Nobody there to interrupt. */
	assert_int_equal(ku_errno(vm.fd, KVM_IRQFD, &irqfd), EINVAL);
	ku_vm_create(&other, 0);
	assert_int_equal(ku_errno(other.fd, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ku_errno(other.fd, KVM_IRQFD, &irqfd), EBADF);
	irqfd.fd = other.fd;
	assert_int_equal(ku_errno(other.fd, KVM_IRQFD, &irqfd), EINVAL);
	irqfd = (struct kvm_irqfd){.fd = eventfd(0, 0), .gsi = 5, .flags = 1 << 10};
	assert_int_equal(ku_errno(other.fd, KVM_IRQFD, &irqfd), EINVAL);
	irqfd.flags = 0;
	assert_int_equal(ku_errno(other.fd, KVM_IRQFD, &irqfd), 0);
	irqfd.gsi = 6;
	assert_int_equal(ku_errno(other.fd, KVM_IRQFD, &irqfd), EBUSY);
	close((int)irqfd.fd);
	ku_vm_destroy(&other);
}

static void coalesced(void **state)
{
	struct kvm_coalesced_mmio_zone zone = {.addr = 0x20000000, .size = 4096, .pio = 2};

	assert_int_equal(ku_errno(vm.fd, KVM_REGISTER_COALESCED_MMIO, &zone), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_UNREGISTER_COALESCED_MMIO, &zone), EINVAL);
	zone.pio = 0;
	assert_int_equal(ku_errno(vm.fd, KVM_UNREGISTER_COALESCED_MMIO, &zone), 0);
	assert_int_equal(ku_errno(vm.fd, KVM_REGISTER_COALESCED_MMIO, &zone), 0);
	assert_int_equal(ku_errno(vm.fd, KVM_UNREGISTER_COALESCED_MMIO, &zone), 0);
}

/* Seen to fail without the look at the number of entries in copy_array_in. */
static void routing(void **state)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e;
	} r = {.head = {.nr = 1, .flags = 1}};
	struct ku_vm other;

	ku_vm_create(&other, 0);
	assert_int_equal(ku_errno(other.fd, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ku_errno(other.fd, KVM_SET_GSI_ROUTING, &r), EINVAL);
	r.head = (struct kvm_irq_routing){.nr = 100000};
	assert_int_equal(ku_errno(other.fd, KVM_SET_GSI_ROUTING, &r), EINVAL);
	r.head.nr = 1;
	r.e = (struct kvm_irq_routing_entry){.gsi = 1, .type = 99};
	assert_int_equal(ku_errno(other.fd, KVM_SET_GSI_ROUTING, &r), EINVAL);
	r.e = (struct kvm_irq_routing_entry){.gsi = 100000, .type = KVM_IRQ_ROUTING_MSI};
	assert_int_equal(ku_errno(other.fd, KVM_SET_GSI_ROUTING, &r), EINVAL);
	r.e = (struct kvm_irq_routing_entry){.gsi = 1, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {9, 1}};
	assert_int_equal(ku_errno(other.fd, KVM_SET_GSI_ROUTING, &r), EINVAL);
	r.e = (struct kvm_irq_routing_entry){.gsi = 1, .type = KVM_IRQ_ROUTING_MSI};
	assert_int_equal(ku_errno(other.fd, KVM_SET_GSI_ROUTING, &r), 0);
	ku_vm_destroy(&other);
}

/* -- vCPU state -- */

static void impossible_sregs(void **state)
{
	struct kvm_sregs before, s, after;

	ku_get_sregs(&cpu, &before);
	s = before;
	s.cr0 = 0x80000000; /* PG without PE */
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_SREGS, &s), EINVAL);
	s = before;
	s.cr0 |= 0x80000001;
	s.efer |= 0x500; /* long mode without PAE */
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_SREGS, &s), EINVAL);
	s = before;
	s.efer |= 0x400; /* LMA without paging */
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_SREGS, &s), EINVAL);
	s = before;
	s.cr4 |= 1ULL << 40;
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_SREGS, &s), EINVAL);
	ku_get_sregs(&cpu, &after);
	assert_memory_equal(&before, &after, sizeof(after));
}

static void impossible_state(void **state)
{
	struct kvm_mp_state mp = {.mp_state = 77};
	struct kvm_debugregs debug = {.dr6 = 1ULL << 32};
	struct kvm_vcpu_events events;
	struct kvm_xcrs xcrs;
	struct kvm_interrupt irq = {.irq = 256};
	struct kvm_guest_debug dbg = {.control = 0};
	struct kvm_tpr_access_ctl tpr = {.flags = 1};
	uint64_t mcg = 0xff;

	assert_int_equal(ku_errno(cpu.fd, KVM_SET_MP_STATE, &mp), EINVAL);
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_DEBUGREGS, &debug), EINVAL);
	debug = (struct kvm_debugregs){.flags = 1};
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_DEBUGREGS, &debug), EINVAL);
	assert_int_equal(ku_errno(cpu.fd, KVM_GET_VCPU_EVENTS, &events), 0);
	events.flags = 1U << 30;
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_VCPU_EVENTS, &events), EINVAL);
	assert_int_equal(ku_errno(cpu.fd, KVM_GET_XCRS, &xcrs), 0);
	xcrs.nr_xcrs = 1000;
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_XCRS, &xcrs), EINVAL);
	xcrs.nr_xcrs = 1;
	xcrs.xcrs[0] = (struct kvm_xcr){.xcr = 0, .value = 2}; /* without x87 */
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_XCRS, &xcrs), EINVAL);
	assert_int_equal(ku_errno(cpu.fd, KVM_INTERRUPT, &irq), EINVAL);
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_GUEST_DEBUG, &dbg), 0);
	assert_int_equal(ku_errno(cpu.fd, KVM_TPR_ACCESS_REPORTING, &tpr), EINVAL);
	assert_int_equal(ku_errno(cpu.fd, KVM_X86_SETUP_MCE, &mcg), EINVAL);
	mcg = 0;
	assert_int_equal(ku_errno(cpu.fd, KVM_X86_SETUP_MCE, &mcg), EINVAL);
}

/* Seen to fail without the look at the number of entries in copy_array_in. */
static void arrays(void **state)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[3];
	} m = {.head.nmsrs = 3, .e = {{.index = 0x174, .data = 8}, {.index = 0xdeadbeef}, {.index = 0x175}}};
	struct kvm_cpuid2 cpuid = {.nent = 257};
	struct {
		uint32_t len;
		uint8_t set[16];
	} mask = {.len = 16};

	/* How many were done before the first refusal. */
	assert_int_equal(ioctl(cpu.fd, KVM_SET_MSRS, &m), 1);
	m.e[0].data = 0;
	assert_int_equal(ioctl(cpu.fd, KVM_GET_MSRS, &m), 1);
	assert_int_equal(m.e[0].data, 8);
	m.head.nmsrs = 0;
	assert_int_equal(ioctl(cpu.fd, KVM_GET_MSRS, &m), 0);
	m.head.nmsrs = 256;
	assert_int_equal(ku_errno(cpu.fd, KVM_GET_MSRS, &m), E2BIG);
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_MSRS, &m), E2BIG);
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_CPUID2, &cpuid), E2BIG);
	cpuid.nent = 0;
	assert_int_equal(ku_errno(cpu.fd, KVM_GET_CPUID2, &cpuid), E2BIG);
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_SIGNAL_MASK, &mask), EINVAL);
	mask.len = 8;
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_SIGNAL_MASK, &mask), 0);
	assert_int_equal(ku_errno(cpu.fd, KVM_SET_SIGNAL_MASK, NULL), 0);
}

static void clocks(void **state)
{
	struct kvm_clock_data clock = {.flags = 1 << 30};

	assert_int_equal(ku_errno(vm.fd, KVM_SET_CLOCK, &clock), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_GET_CLOCK, &clock), 0);
	clock.flags = 0;
	assert_int_equal(ku_errno(vm.fd, KVM_SET_CLOCK, &clock), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(unknown),	    TEST(closed),     TEST(bad_pointers), TEST(creation),
	    TEST(irqchip_twice),    TEST(no_irqchip), TEST(devices),	  TEST(vm_settings),
	    TEST(enable_caps),	    TEST(memslots),   TEST(dirty_logs),	  TEST(ioeventfds),
	    TEST(irqfds),	    TEST(coalesced),  TEST(routing),	  TEST(impossible_sregs),
	    TEST(impossible_state), TEST(arrays),     TEST(clocks)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
