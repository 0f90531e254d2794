/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The native side. A run is entered and left through signal frames: int3 in native_run raises SIGTRAP, whose
 * handler replaces the interrupted context by the test's; the test ends in a fault or an int3 of its own,
 * whose handler takes the state and puts native_run's context back. FS, GS, DS and ES, which frames do not
 * hold, are switched in the assembly around the handler.
 *
 * A seccomp filter turns system calls made by test code into SIGSYS.
 */
#include <asm/ldt.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "diff.h"

uint8_t *native_code, *native_data;
void (*native_on_crash)(void);
_Atomic unsigned watchdog_ticks;

/* -- What the assembly reads and writes -- */

uint64_t diff_fsbase, diff_gsbase;	/* the test's, as found or to be loaded */
uint64_t diff_host_fs, diff_host_gs;	/* ours */
uint16_t diff_sel[4], diff_host_sel[4]; /* DS ES FS GS */
uint32_t diff_next;			/* enum after */
enum after { AFTER_RESUME, AFTER_ENTER, AFTER_LEAVE };

void diff_handler(int sig, siginfo_t *info, void *uc);
void diff_entry(int sig, siginfo_t *info, void *uc);
void diff_restorer(void);
void diff_trap(void);
extern char diff_trap_at[];

__asm__(".text\n"
	".globl diff_trap, diff_trap_at\n"
	"diff_trap:\n\tint3\ndiff_trap_at:\n\tret\n"
	".globl diff_restorer\n"
	"diff_restorer:\n\tmov $15, %eax\n\tsyscall\n"
	".globl diff_entry\n"
	"diff_entry:\n"
	/* NT, AC and ID of the test stay set in a handler, and no frame brings them back */
	"\tpushf\n\tandq $~0x244000, (%rsp)\n\tpopf\n"
	"\trdfsbase %rax\n\tmov %rax, diff_fsbase(%rip)\n"
	"\trdgsbase %rax\n\tmov %rax, diff_gsbase(%rip)\n"
	"\tmov %ds, diff_sel(%rip)\n\tmov %es, diff_sel+2(%rip)\n"
	"\tmov %fs, diff_sel+4(%rip)\n\tmov %gs, diff_sel+6(%rip)\n"
	"\tmov diff_host_fs(%rip), %rax\n\twrfsbase %rax\n"
	"\tsub $8, %rsp\n\tcld\n\tcall diff_handler\n\tadd $8, %rsp\n"
	"\tcmpl $1, diff_next(%rip)\n\tja 2f\n\tjb 1f\n"
	/* enter: selectors first, for they load bases */
	"\tmov diff_sel(%rip), %ds\n\tmov diff_sel+2(%rip), %es\n"
	"\tmov diff_sel+4(%rip), %fs\n\tmov diff_sel+6(%rip), %gs\n"
	"\tcmpw $0, diff_sel+4(%rip)\n\tjne 3f\n"
	"1:\tmov diff_fsbase(%rip), %rax\n\twrfsbase %rax\n"
	"\tcmpl $1, diff_next(%rip)\n\tje 3f\n\tret\n"
	"3:\tcmpw $0, diff_sel+6(%rip)\n\tjne 4f\n"
	"\tmov diff_gsbase(%rip), %rax\n\twrgsbase %rax\n"
	"4:\tret\n"
	/* leave */
	"2:\tmov diff_host_sel(%rip), %ds\n\tmov diff_host_sel+2(%rip), %es\n"
	"\tmov diff_host_sel+4(%rip), %fs\n\tmov diff_host_sel+6(%rip), %gs\n"
	"\tmov diff_host_fs(%rip), %rax\n\twrfsbase %rax\n"
	"\tmov diff_host_gs(%rip), %rax\n\twrgsbase %rax\n"
	"\tret\n");

/* -- State of a run -- */

static enum { IDLE, RUNNING } phase;
static const struct tstate *input;
static struct outcome *result;
static gregset_t host_gregs;
static uint8_t host_fp[4096];
static uint32_t fp_size;
static unsigned started_tick;
static struct sigaction_kernel {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
} old_action[65];

static const uint8_t greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* Everything but bytes 464..511, which tell the kernel how large the area is. */
static void fp_copy(uint8_t *to, const uint8_t *from)
{
	memcpy(to, from, 464);
	memcpy(to + 512, from + 512, fp_size - 512);
}

static void enter(ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;
	uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;
	uint64_t all = 0xe7;

	memcpy(&fp_size, fp + 480, 4);
	if (fp_size > XS_SIZE)
		fp_size = XS_SIZE;
	memcpy(host_gregs, g, sizeof(host_gregs));
	fp_copy(host_fp, fp);
	fp_copy(fp, input->xs);
	memcpy(&all, fp + 472, 8); /* what the kernel restores */
	all &= 0xe7;
	memcpy(fp + 512, &all, 8);
	memset(fp + 520, 0, 56);
	for (unsigned n = 0; n < 16; n++)
		g[greg_of[n]] = input->gpr[n];
	g[REG_RIP] = input->rip;
	g[REG_EFL] = input->rflags;
	g[REG_CSGSFS] = input->sel[S_CS] | (uint64_t)input->sel[S_SS] << 48;
	uc->uc_flags |= 6; /* restore SS as given */
	diff_sel[0] = input->sel[S_DS];
	diff_sel[1] = input->sel[S_ES];
	diff_sel[2] = input->sel[S_FS];
	diff_sel[3] = input->sel[S_GS];
	diff_fsbase = input->fsbase;
	diff_gsbase = input->gsbase;
	diff_next = AFTER_ENTER;
	started_tick = watchdog_ticks;
	phase = RUNNING;
}

static void take(ucontext_t *uc, struct outcome *o)
{
	greg_t *g = uc->uc_mcontext.gregs;

	for (unsigned n = 0; n < 16; n++)
		o->st.gpr[n] = g[greg_of[n]];
	o->st.rip = g[REG_RIP];
	o->st.rflags = g[REG_EFL];
	o->st.sel[S_CS] = g[REG_CSGSFS];
	o->st.sel[S_SS] = (uint64_t)g[REG_CSGSFS] >> 48;
	o->st.sel[S_DS] = diff_sel[0];
	o->st.sel[S_ES] = diff_sel[1];
	o->st.sel[S_FS] = diff_sel[2];
	o->st.sel[S_GS] = diff_sel[3];
	o->st.fsbase = diff_fsbase;
	o->st.gsbase = diff_gsbase;
	memset(o->st.xs, 0, XS_SIZE);
	fp_copy(o->st.xs, (uint8_t *)uc->uc_mcontext.fpregs);
	o->error = g[REG_ERR];
	o->cr2 = g[REG_CR2];
}

static void leave(ucontext_t *uc)
{
	memcpy(uc->uc_mcontext.gregs, host_gregs, sizeof(host_gregs));
	fp_copy((uint8_t *)uc->uc_mcontext.fpregs, host_fp);
	diff_next = AFTER_LEAVE;
	phase = IDLE;
}

static void finish(ucontext_t *uc, int vector)
{
	take(uc, result);
	result->vector = vector;
	leave(uc);
}

/* A fault outside test code: the engine's stubs and windows have handlers, anything else is our bug. */
static void forward(int sig, siginfo_t *info, void *uc)
{
	void (*fn)(int, siginfo_t *, void *) = (void (*)(int, siginfo_t *, void *))old_action[sig].handler;

	uint64_t rip = ((ucontext_t *)uc)->uc_mcontext.gregs[REG_RIP], fault, again;

	diff_next = AFTER_RESUME;
	if (fn && (sig == SIGFPE || sig == SIGILL || base_window_find(rip, &fault, &again))) {
		fn(sig, info, uc);
		return;
	}
	printf("signal %d at %lx (diff_trap is %p), address %p\n", sig, rip, (void *)diff_trap,
	       info->si_addr);
	if (native_on_crash)
		native_on_crash();
	_exit(3);
}

static void on_tick(ucontext_t *uc)
{
	watchdog_ticks++;
	engine_side_kick();
	if (phase == RUNNING && watchdog_ticks - started_tick > 4)
		finish(uc, END_TIMEOUT);
	else
		diff_next = AFTER_RESUME;
}

void diff_handler(int sig, siginfo_t *info, void *ucontext)
{
	ucontext_t *uc = ucontext;

	if (sig == SIGPROF)
		on_tick(uc);
	else if (phase == RUNNING)
		finish(uc, sig == SIGSYS ? END_ODD : uc->uc_mcontext.gregs[REG_TRAPNO]);
	else if (sig == SIGTRAP && input && uc->uc_mcontext.gregs[REG_RIP] == (greg_t)diff_trap_at)
		enter(uc);
	else
		forward(sig, info, uc);
}

void native_run(const struct tstate *in, struct outcome *out)
{
	input = in;
	result = out;
	diff_trap();
	input = NULL;
}

/* -- Set-up -- */

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(2);
}

static void map_areas(void)
{
	int fd = memfd_create("diff", 0);
	size_t code = CODE_PAGES * PAGE_SIZE;

	must(fd >= 0 && !ftruncate(fd, code + DATA_SIZE), "memfd");
	native_code = mmap(NULL, code + DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(native_code != MAP_FAILED, "mmap");
	native_data = native_code + code;
	must(mmap((void *)CODE, 2 * PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, fd,
		  0) == (void *)CODE,
	     "mmap code");
	for (unsigned n = 0; n < DATA_PAGES; n++) {
		void *at = (void *)(DATA + n * PAGE_SIZE);
		int prot = data_page_kind[n] == READ_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;

		if (data_page_kind[n] != ABSENT)
			must(mmap(at, PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd,
				  code + n * PAGE_SIZE) == at,
			     "mmap data");
	}
	for (size_t n = 0; n < 2 * PAGE_SIZE; n += PAGE_SIZE)
		(void)*(volatile uint8_t *)(CODE + n);
}

static void load_ldt(void)
{
	for (unsigned n = 0; n < L_ENTRIES; n++) {
		struct user_desc d = {
		    .entry_number = n,
		    .base_addr = ldt[n].base,
		    .limit = ldt[n].limit,
		    .seg_32bit = ldt[n].big,
		    .contents = ldt[n].contents,
		    .read_exec_only = ldt[n].read_only,
		    .limit_in_pages = ldt[n].pages,
		    .seg_not_present = ldt[n].absent,
		    .useable = 1,
		};

		must(!syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)), "modify_ldt");
	}
}

void native_take_signals(void)
{
	static bool again;
	static const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGPROF};
	static uint8_t stack[1 << 18] __attribute__((aligned(64)));
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};

	must(!sigaltstack(&ss, NULL), "sigaltstack");
	for (unsigned n = 0; n < ARRAY_SIZE(sigs); n++) {
		struct sigaction_kernel k = {
		    .handler = diff_entry,
		    .flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | 0x04000000,
		    .restorer = diff_restorer,
		    .mask = sigs[n] == SIGPROF ? 0 : 1ULL << (SIGPROF - 1),
		};

		must(!syscall(SYS_rt_sigaction, sigs[n], &k, again ? NULL : &old_action[sigs[n]], 8),
		     "sigaction");
	}
	again = true;
}

static void forbid_syscalls(void)
{
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
	    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 1, 0),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_SIZE(code), .filter = code};

	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	must(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), "seccomp");
}

/* By CPU time: a process that others keep from running is not late. */
static void start_watchdog(void)
{
	struct itimerval it = {{0, 50000}, {0, 50000}};

	setitimer(ITIMER_PROF, &it, NULL);
}

void native_init(void)
{
	__asm__ volatile("rdfsbase %0" : "=r"(diff_host_fs));
	__asm__ volatile("rdgsbase %0" : "=r"(diff_host_gs));
	__asm__ volatile("mov %%ds, %0" : "=m"(diff_host_sel[0]));
	__asm__ volatile("mov %%es, %0" : "=m"(diff_host_sel[1]));
	__asm__ volatile("mov %%fs, %0" : "=m"(diff_host_sel[2]));
	__asm__ volatile("mov %%gs, %0" : "=m"(diff_host_sel[3]));
	map_areas();
	load_ldt();
	native_take_signals();
	forbid_syscalls();
	start_watchdog();
}
