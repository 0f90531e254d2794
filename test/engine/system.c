/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* System instructions as code: from real mode to 64-bit mode and through every family of system.c.
 *	make check T=engine/system */
#include "rig.h"

#define ORIGIN 0x7000UL

/* Code between labels, assembled for ORIGIN: addresses are 0x7000 + label - start. */
__asm__(".pushsection .rodata\n"
	"boot_start:\n"
	".code16\n"
	"	cli\n"
	"	smsw %bx\n"
	"	lgdtl 1f - boot_start\n"
	"	movl %cr0, %eax\n"
	"	orl $1, %eax\n"
	"	movl %eax, %cr0\n"
	"	ljmpl $0x08, $0x7000 + 2f - boot_start\n"
	"1:	.word 0xff\n"
	"	.long 0x1000\n"
	".code32\n"
	"2:	movl $0x10, %eax\n"
	"	movl %eax, %ss\n"
	"	movl %eax, %ds\n"
	"	movl $0x9000, %esp\n"
	"	pushl %ds\n"
	"	popl %es\n"
	"	pushl %cs\n"
	"	popl %esi\n"
	"	sgdtl 0x8000\n"
	"	movl %cr4, %eax\n"
	"	orl $0x10020, %eax\n" /* PAE, FSGSBASE */
	"	movl %eax, %cr4\n"
	"	movl $0x10000, %eax\n"
	"	movl %eax, %cr3\n"
	"	movl $0xc0000080, %ecx\n"
	"	rdmsr\n"
	"	orl $0x901, %eax\n" /* SCE, LME, NX */
	"	wrmsr\n"
	"	movl %cr0, %eax\n"
	"	orl $0x80010000, %eax\n"
	"	movl %eax, %cr0\n"
	"	ljmpl $0x60, $0x7000 + 3f - boot_start\n"
	".code64\n"
	"3:	xorl %eax, %eax\n"
	"	movl %eax, %ds\n"
	"	lidt 4f(%rip)\n"
	"	movl $0x40, %eax\n"
	"	ltr %ax\n"
	"	str %r8d\n"
	"	movq $-4096, %rax\n"
	"	wrgsbase %rax\n"
	"	swapgs\n"
	"	rdgsbase %r9\n"
	"	swapgs\n"
	"	rdgsbase %r10\n"
	"	movl $0x123, %edx\n"
	"	movl $0xcafe, %eax\n"
	"	outw %ax, %dx\n"
	"	inb $0x60, %al\n"
	"	movq %rax, %r11\n"
	"	movq $9, %rax\n"
	"	movq %rax, %cr8\n"
	"	movq %cr8, %r12\n"
	"	vmcall\n"
	"	lar %r8w, %r13d\n"
	"	int $0x30\n"
	"	hlt\n"
	"4:	.word 0xfff\n"
	"	.quad 0x2000\n"
	"boot_isr:\n"
	"	movq (%rsp), %r14\n"
	"	iretq\n"
	"boot_end:\n"
	".popsection\n");
extern const uint8_t boot_start[], boot_isr[], boot_end[];

static void load(struct rig *r, const uint8_t *from, const uint8_t *to)
{
	memcpy(r->ram + ORIGIN, from, to - from);
}

static enum engine_exit run(struct rig *r)
{
	struct sig_run run = {.exit_word = engine_exit_word(r->c), .kick = engine_kick, .arg = r->c};
	enum engine_exit e;

	base_sig_run_begin(&run, NULL);
	e = engine_run(r->c);
	base_sig_run_end(&run);
	return e;
}

static void boot(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	struct kvm_regs g;
	uint64_t off = ORIGIN + (boot_isr - boot_start);

	rig_gdt(r);
	rig_tables(r);
	load(r, boot_start, boot_end);
	put(r, IDT + 0x30 * 16, (off & 0xffff) | (uint64_t)S_CODE64 << 16 | 0x8eULL << 40, 8);
	put(r, IDT + 0x30 * 16 + 8, 0, 8);
	seg_set_real(c, CS, ORIGIN >> 4);
	seg_set_real(c, DS, ORIGIN >> 4);
	c->rip = 0;
	assert_int_equal(run(r), ENGINE_EXIT_HLT);
	engine_get_regs(c, &g);
	assert_int_equal(g.rbx & 0xffff, 0x10);
	assert_int_equal(g.rsi, S_CODE0);
	assert_int_equal(get(r, 0x8000, 2), 0xff);
	assert_int_equal(get(r, 0x8002, 4), GDT);
	assert_true(c->code64);
	assert_int_equal(g.r8, S_TSS);
	assert_int_equal(g.r9, 0);
	assert_int_equal(g.r10, -4096);
	assert_int_equal(g.r11, 0xca01); /* the rig answers with the complement */
	assert_int_equal(g.r12, 9);
	assert_int_equal(r->hypercalls, 1);
	assert_int_equal(g.r13, 0x008b00);
	assert_int_equal(g.r14, g.rip - 1);
	assert_int_equal(g.rsp, 0x9000);
	assert_int_equal(r->irets, 1);
	assert_true(g.rflags & 2);
	assert_int_equal(c->efer, 0xd01);
}

static enum engine_status note_stop(void *ctx, uint64_t gpa, void *data, unsigned len, bool write)
{
	return ENGINE_STOP;
}

/* The exception that the instruction raises, taken from its delivery, which a device stops. */
static int raises(struct rig *r, const char *code, unsigned len, unsigned cpl)
{
	struct engine_cpu *c = r->c;
	struct engine_port port = rig_port;
	struct engine_event ev;
	uint64_t payload;
	int got = -2;

	port.mmio = note_stop;
	rig_long(r, cpl);
	put(r, PD + 8, 0x80000000 | 0x83, 8); /* linear 2 MiB is a device */
	put(r, TSS + 102, 0xffff, 2);	      /* no I/O bitmap */
	c->port = &port;
	c->idt.base = 0x200000;
	memset(r->ram + ORIGIN, 0xf4, 64);
	memcpy(r->ram + ORIGIN, code, len);
	c->rip = ORIGIN;
	c->idt.limit = 0xfff;
	switch (engine_step(c)) {
	case ENGINE_EXIT_STOP:
		if (engine_get_pending(c, &ev, &payload))
			got = ev.vector;
		break;
	case ENGINE_EXIT_STEPPED: got = -1; break;
	default: break;
	}
	c->port = &rig_port;
	c->is_delivering = false;
	return got;
}

#define RAISES(code, cpl) raises(r, code, sizeof(code) - 1, cpl)

static void privileged(void **state)
{
	struct rig *r = *state;

	assert_int_equal(RAISES("\x0f\x01\xf8", 0), -1); /* swapgs */
	assert_int_equal(RAISES("\x0f\x01\xf8", 3), EXC_GP);
	assert_int_equal(RAISES("\xf4", 3), EXC_GP);	     /* hlt */
	assert_int_equal(RAISES("\x0f\x06", 3), EXC_GP);     /* clts */
	assert_int_equal(RAISES("\x0f\x08", 3), EXC_GP);     /* invd */
	assert_int_equal(RAISES("\x0f\x09", 0), -1);	     /* wbinvd */
	assert_int_equal(RAISES("\xf3\x0f\x09", 0), -1);     /* wbnoinvd */
	assert_int_equal(RAISES("\x0f\x20\xc0", 3), EXC_GP); /* mov %cr0 */
	assert_int_equal(RAISES("\x0f\x20\xc8", 0), EXC_UD); /* mov %cr1 */
	assert_int_equal(RAISES("\x0f\x22\xc8", 0), EXC_UD);
	assert_int_equal(RAISES("\x0f\x21\xc0", 3), EXC_GP); /* mov %dr0 */
	assert_int_equal(RAISES("\x0f\x21\xe0", 0), -1);     /* mov %dr4 */
	assert_int_equal(RAISES("\x0f\x32", 3), EXC_GP);     /* rdmsr */
	assert_int_equal(RAISES("\xfa", 3), EXC_GP);	     /* cli */
	assert_int_equal(RAISES("\xfb", 3), EXC_GP);
	assert_int_equal(RAISES("\xe4\x60", 3), EXC_GP);     /* in */
	assert_int_equal(RAISES("\x0f\x01\x38", 3), EXC_GP); /* invlpg */
	assert_int_equal(RAISES("\x0f\x01\x38", 0), -1);
	assert_int_equal(RAISES("\x0f\x01\xca", 3), EXC_UD);	 /* clac */
	assert_int_equal(RAISES("\x0f\x01\xcb", 0), -1);	 /* stac */
	assert_int_equal(RAISES("\x0f\x01\xc8", 3), EXC_UD);	 /* monitor */
	assert_int_equal(RAISES("\x0f\x01\xd0", 0), EXC_UD);	 /* xgetbv without OSXSAVE */
	assert_int_equal(RAISES("\x0f\xaa", 0), EXC_UD);	 /* rsm outside SMM */
	assert_int_equal(RAISES("\x0f\x01\xee", 0), EXC_UD);	 /* rdpkru */
	assert_int_equal(RAISES("\x0f\x0b", 0), EXC_UD);	 /* ud2 */
	assert_int_equal(RAISES("\x0f\xff\xc0", 0), EXC_UD);	 /* ud0 */
	assert_int_equal(RAISES("\x0f\xb9\xc0", 0), EXC_UD);	 /* ud1 */
	assert_int_equal(RAISES("\x0f\x01\xc2", 0), EXC_UD);	 /* vmlaunch */
	assert_int_equal(RAISES("\x0f\x01\xd8", 0), EXC_UD);	 /* vmrun */
	assert_int_equal(RAISES("\x0f\x01\xdd", 0), EXC_UD);	 /* clgi */
	assert_int_equal(RAISES("\x0f\x01\xc1", 0), -1);	 /* vmcall */
	assert_int_equal(RAISES("\x0f\x01\xd9", 0), -1);	 /* vmmcall */
	assert_int_equal(RAISES("\x0f\x01\xe8", 0), -1);	 /* serialize */
	assert_int_equal(RAISES("\xf3\x0f\xae\xc0", 0), EXC_UD); /* rdfsbase without FSGSBASE */
	assert_int_equal(RAISES("\x0f\x05", 3), EXC_UD);	 /* syscall without SCE */
	assert_int_equal(RAISES("\x0f\x34", 3), EXC_GP);	 /* sysenter without CS */
	assert_int_equal(RAISES("\x0f\x00\xd0", 3), EXC_GP);	 /* lldt */
	assert_int_equal(RAISES("\x0f\x00\xc0", 3), -1);	 /* sldt without UMIP */
	assert_int_equal(RAISES("\x8e\xc8", 0), EXC_UD);	 /* mov %eax, %cs */
	assert_int_equal(RAISES("\xcc", 0), -2); /* int3: pending, but no exception of its own */
	r->c->cr4 |= CR4_UMIP;
	assert_int_equal(RAISES("\x0f\x00\xc0", 3), EXC_GP);
	assert_int_equal(RAISES("\x0f\x01\xe0", 3), EXC_GP); /* smsw */
	assert_int_equal(RAISES("\x0f\x01\x00", 3), EXC_GP); /* sgdt */
	r->c->cr4 |= CR4_DE;
	assert_int_equal(RAISES("\x0f\x21\xe0", 0), EXC_UD);
	r->c->dr7 |= DR7_GD;
	assert_int_equal(RAISES("\x0f\x21\xc0", 0), EXC_DB);
	assert_int_equal(r->c->dr6, DR6_FIXED | DR6_BD);
}

/* STI and MOV SS hold interrupts off for one instruction; single steps come after each. */
static void shadows(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	static const uint8_t code[] = {0xfb, 0x90, 0x90, 0x8e, 0xd0, 0x90, 0xfb};
	uint64_t dr[8] = {0};

	rig_long(r, 0);
	memcpy(r->ram + ORIGIN, code, sizeof(code));
	c->rip = ORIGIN;
	c->gpr[RAX] = S_DATA0;
	assert_int_equal(engine_step(c), ENGINE_EXIT_STEPPED);
	assert_int_equal(engine_get_shadow(c), ENGINE_SHADOW_STI);
	assert_false(engine_interruptible(c));
	assert_int_equal(engine_step(c), ENGINE_EXIT_STEPPED);
	assert_true(engine_interruptible(c));
	engine_step(c);
	assert_int_equal(engine_step(c), ENGINE_EXIT_STEPPED);
	assert_int_equal(engine_get_shadow(c), ENGINE_SHADOW_MOVSS);
	engine_step(c);
	assert_int_equal(engine_get_shadow(c), 0);
	engine_step(c); /* STI with IF set: no shadow */
	assert_int_equal(engine_get_shadow(c), 0);
	/* The window opens behind the shadow. */
	rflags_set(c, 2);
	c->rip = ORIGIN;
	engine_want_window(c, true);
	assert_int_equal(run(r), ENGINE_EXIT_WINDOW);
	assert_int_equal(c->rip, ORIGIN + 2);
	/* Guest debug */
	engine_set_debug(c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, dr);
	c->rip = ORIGIN + 1;
	assert_int_equal(run(r), ENGINE_EXIT_DEBUG);
	assert_int_equal(c->rip, ORIGIN + 2);
	assert_int_equal(c->debug_info.pc, ORIGIN + 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {RIG_TEST(boot), RIG_TEST(privileged), RIG_TEST(shadows)};
	int err;

	if (base_sig_enable())
		return 1;
	err = cmocka_run_group_tests(tests, NULL, NULL);
	base_sig_disable();
	return err;
}
