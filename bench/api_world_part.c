/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM that rows are measured in, and its running vCPUs. */
#include "bench.h"

#define TABLES 0x100000UL /* PML4, PDPT, eight PDs */
#define GDT    0x1000UL
#define IDT    0x2000UL
#define STACK  0x9000UL

/* Walks RDI .. RDI + 128 KiB, a load and a store to each line. */
KU_ASM(
    busy_code, 64,
    "1: mov %rdi, %rsi\n lea 0x20000(%rdi), %rdx\n"
    "2: mov (%rsi), %rax\n inc %rax\n mov %rax, 8(%rsi)\n add $64, %rsi\n cmp %rdx, %rsi\n jb 2b\n jmp 1b");
/* Counts, says end of interrupt. */
KU_ASM(handler_code, 64,
       "push %rax\n mov $0x20000, %eax\n lock incl (%rax)\n mov $0xfee000b0, %eax\n movl $0, (%rax)\n"
       "pop %rax\n iretq");

static void make_tables(struct world *w)
{
	uint64_t *pml4 = (uint64_t *)(w->vm.ram + TABLES), *pdpt = pml4 + 512, *pd = pdpt + 512;
	uint64_t *gdt = (uint64_t *)(w->vm.ram + GDT), *idt = (uint64_t *)(w->vm.ram + IDT);

	pml4[0] = (TABLES + 0x1000) | 7;
	for (uint64_t i = 0; i < 8; i++)
		pdpt[i] = (TABLES + 0x2000 + i * 0x1000) | 7;
	for (uint64_t i = 0; i < 8 * 512; i++)
		pd[i] = i << 21 | 0xe7; /* accessed and dirty already */
	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	idt[2 * W_VECTOR] = (W_HANDLER & 0xffff) | 8ULL << 16 | 0x8e00ULL << 32 | (W_HANDLER >> 16) << 48;
	ku_load(&w->vm, W_HANDLER, handler_code, handler_code_end - handler_code);
}

static void long_mode(struct ku_vcpu *cpu, struct kvm_regs *r)
{
	struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_sregs s;

	ku_get_sregs(cpu, &s);
	s.cr0 = 0x80050033;
	s.cr3 = TABLES;
	s.cr4 = 0x620;
	s.efer = 0x500;
	s.gdt = (struct kvm_dtable){.base = GDT, .limit = 0x17};
	s.idt = (struct kvm_dtable){.base = IDT, .limit = 0xfff};
	s.cs = ku_flat(8, 11, true);
	s.ds = s.es = s.fs = s.gs = s.ss = ku_flat(16, 3, false);
	ku_set_sregs(cpu, &s);
	ku_set_regs(cpu, r);
	KU_CHECK(ioctl(cpu->fd, KVM_SET_MP_STATE, &runnable) == 0);
}

static bool go_on(struct ru *r)
{
	(void)r;
	return true;
}

static void start_busy(struct world *w, unsigned n)
{
	struct kvm_regs r = {.rip = W_BUSY, .rsp = STACK, .rdi = W_DATA + n * 0x20000, .rflags = 2};
	struct ku_vcpu *cpu = &w->busy_cpu[n];

	ku_vcpu_create(&w->vm, n + 1, cpu);
	long_mode(cpu, &r);
	w->busy[n] = (struct ru){.cpu = cpu, .on_exit = go_on};
	ru_start(&w->busy[n]);
	RU_UNTIL(*(volatile uint64_t *)(w->vm.ram + W_DATA + n * 0x20000 + 8));
}

void w_create(struct world *w, unsigned busy)
{
	memset(w, 0, sizeof(*w));
	ku_vm_create(&w->vm, W_RAM);
	KU_CHECK(ioctl(w->vm.fd, KVM_SET_TSS_ADDR, 0xfffbd000UL) == 0);
	KU_CHECK(ioctl(w->vm.fd, KVM_CREATE_IRQCHIP, 0) == 0);
	make_tables(w);
	ku_load(&w->vm, W_BUSY, busy_code, busy_code_end - busy_code);
	ku_vcpu_create(&w->vm, 0, &w->cpu);
	for (w->nbusy = 0; w->nbusy < busy; w->nbusy++)
		start_busy(w, w->nbusy);
}

void w_destroy(struct world *w)
{
	for (unsigned i = 0; i < w->nbusy; i++) {
		ru_stop(&w->busy[i]);
		ku_vcpu_destroy(&w->busy_cpu[i]);
	}
	ku_vcpu_destroy(&w->cpu);
	ku_vm_destroy(&w->vm);
}

void w_load(struct world *w, const uint8_t *code, const uint8_t *end)
{
	ku_load(&w->vm, W_CODE, code, end - code);
	w_restart(w);
}

void w_restart(struct world *w)
{
	struct kvm_regs r = {.rip = W_CODE, .rsp = STACK, .rflags = 2};

	long_mode(&w->cpu, &r);
}

/* -- vCPU 0 on its own thread -- */

/* Enables the local APIC, as a guest does by its spurious-interrupt register. */
static void enable_apic(struct world *w)
{
	struct kvm_lapic_state l;
	uint32_t svr = 0x1ff;

	KU_CHECK(ioctl(w->cpu.fd, KVM_GET_LAPIC, &l) == 0);
	memcpy(l.regs + 0xf0, &svr, sizeof(svr));
	KU_CHECK(ioctl(w->cpu.fd, KVM_SET_LAPIC, &l) == 0);
}

void w_start_target(struct world *w)
{
	enable_apic(w);
	w->target = (struct ru){.cpu = &w->cpu, .on_exit = go_on};
	ru_start(&w->target);
	RU_UNTIL(*(volatile uint64_t *)(w->vm.ram + W_FLAG + 8));
}

void w_stop_target(struct world *w)
{
	ru_stop(&w->target);
}

/* -- Routing -- */

static struct kvm_irq_routing_entry line(unsigned gsi, unsigned chip, unsigned pin)
{
	return (struct kvm_irq_routing_entry){
	    .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = chip, .pin = pin}};
}

void w_route(struct world *w, unsigned msis)
{
	static struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[1024];
	} table;
	unsigned n = 0;

	for (unsigned i = 0; i < 16; i++)
		table.e[n++] = line(i, i < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, i % 8);
	for (unsigned i = 0; i < 24; i++)
		table.e[n++] = line(i, KVM_IRQCHIP_IOAPIC, i);
	for (unsigned i = 0; i < msis; i++)
		table.e[n++] = (struct kvm_irq_routing_entry){
		    .gsi = W_GSI + i,
		    .type = KVM_IRQ_ROUTING_MSI,
		    .u.msi = {.address_lo = 0xfee00000, .data = W_VECTOR},
		};
	table.head.nr = n;
	KU_CHECK(ioctl(w->vm.fd, KVM_SET_GSI_ROUTING, &table) == 0);
}
