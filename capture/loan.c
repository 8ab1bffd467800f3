/* SPDX-License-Identifier: MIT */
#include "capture/loan.h"

#include <cpuid.h>
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <linux/ptrace.h> /* after sys/ptrace.h: they share names */
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon/python/mem.h"
#include "daemon/util/units.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

/* Frames, registers and the system call instruction in this file are those of x86-64. */
#define RED_ZONE      128 /* below the stack pointer, used by leaf functions (x86-64 psABI) */
#define STACK_NEEDED  (16u << 10)
#define XSTATE_MAX    (12u << 10) /* 11 KiB with AMX */
#define FRAME_ROOM    1024        /* one frame and its siginfo, 440 bytes, rounded up */
#define MAPS_FRESH_NS ((uint64_t)250 * 1000000)
#define CODE_MAX      (16u << 20)

/* arch/x86/include/uapi/asm/sigcontext.h */
#define FP_XSTATE_MAGIC1   0x46505853U
#define FP_XSTATE_MAGIC2   0x46505845U
#define XSTATE_SW_RESERVED 464 /* of the FXSAVE area: software reserved bytes */
#define XSTATE_XFEATURES   464 /* NT_X86_XSTATE: the features of this task (XCR0) */
#define XSTATE_BV          512 /* the features whose state is there */
#define XSTATE_MIN         576 /* legacy area and header */
#define XFEATURE_TILES_BIT 18
#define XFEATURE_TILES     (UINT64_C(1) << XFEATURE_TILES_BIT)
/* arch/x86/include/uapi/asm/ucontext.h */
#define UC_FP_XSTATE         1
#define UC_SIGCONTEXT_SS     2
#define UC_STRICT_RESTORE_SS 4
/* Not a mode sigaltstack() knows: rt_sigreturn() ignores it and leaves the thread's alternate
 * stack as it is (restore_altstack() squashes all errors but EFAULT). */
#define SS_KEEP 0x40

struct sw_bytes { /* struct _fpx_sw_bytes */
	uint32_t magic1, extended_size;
	uint64_t xfeatures;
	uint32_t xstate_size, padding[7];
};

struct frame { /* struct rt_sigframe without the siginfo, which rt_sigreturn() does not read */
	uint64_t restorer;
	uint64_t uc_flags, uc_link;
	struct {
		uint64_t sp;
		int32_t flags, padding;
		uint64_t size;
	} altstack;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip,
		eflags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
	uint64_t mask;
};
_Static_assert(sizeof(struct sw_bytes) == 48, "kernel ABI");
_Static_assert(sizeof(struct frame) == 8 + 40 + 256 + 8, "kernel ABI");

static void *number(uint64_t v)
{
	return (void *)(uintptr_t)v;
}

/* ---- places ---- */

static const uint8_t syscall_insn[] = {0x0f, 0x05, 0xc3};
static const uint8_t sigreturn_insn[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};

static uint64_t find_bytes(pid_t pid, const struct proc_map *m, const uint8_t *what, size_t n)
{
	size_t size = MIN(m->end - m->start, (uint64_t)CODE_MAX);
	_cleanup_free_ uint8_t *buf = malloc(size);
	const uint8_t *at;
	ssize_t got;

	if (!buf)
		return 0;
	got = mem_read_some(pid, m->start, buf, size);
	if (got <= 0)
		return 0;
	at = memmem(buf, (size_t)got, what, n);
	return at ? m->start + (uint64_t)(at - buf) : 0;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

int loan_find_places(const struct job *j, struct loan_places *ret, struct err *err)
{
	char path[64];
	int r;

	*ret = LOAN_PLACES_NONE;
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)j->pid);
	ret->mem = open(path, O_RDONLY | O_CLOEXEC);
	if (ret->mem < 0)
		return err_set(err, -errno, "pid %d: cannot read its memory: %s", (int)j->pid,
			strerror(errno));
	r = proc_maps_read(j->pid, &ret->maps, err);
	if (r < 0)
		return r;
	ret->maps_at_ns = now_monotonic_ns();
	for (size_t i = 0; i < ret->maps.n; i++)
		if (strstr(base_name(ret->maps.v[i].path), "ld-musl"))
			return err_set(err, -EOPNOTSUPP,
				"pid %d runs on musl: captures are only proven with glibc",
				(int)j->pid);
	/* libc first; a Python with libc linked in has the same two functions */
	for (int pass = 0; pass < 2 && !(ret->syscall_ret && ret->sigreturn); pass++)
		for (size_t i = 0; i < ret->maps.n; i++) {
			const struct proc_map *m = &ret->maps.v[i];
			bool libc = strncmp(base_name(m->path), "libc.so", 7) == 0 ||
				    strncmp(base_name(m->path), "libc-", 5) == 0;

			if (m->perm[2] != 'x' || m->path[0] != '/' || libc != (pass == 0))
				continue;
			if (!ret->syscall_ret)
				ret->syscall_ret =
					find_bytes(j->pid, m, syscall_insn, sizeof(syscall_insn));
			if (!ret->sigreturn)
				ret->sigreturn = find_bytes(
					j->pid, m, sigreturn_insn, sizeof(sigreturn_insn));
		}
	if (!ret->syscall_ret || !ret->sigreturn)
		return err_set(err, -EOPNOTSUPP,
			"pid %d: no glibc whose system calls could be borrowed was found in it",
			(int)j->pid);
	return 0;
}

void loan_places_release(struct loan_places *p)
{
	if (!p)
		return;
	proc_maps_release(&p->maps);
	closep(&p->mem);
}

static bool holds(int mem, uint64_t at, const uint8_t *what, size_t n)
{
	uint8_t buf[sizeof(sigreturn_insn)];

	return pread(mem, buf, n, (off_t)at) == (ssize_t)n && memcmp(buf, what, n) == 0;
}

bool loan_places_hold(const struct job *j)
{
	const struct loan_places *p = j->places;

	return holds(p->mem, p->syscall_ret, syscall_insn, sizeof(syscall_insn)) &&
	       holds(p->mem, p->sigreturn, sigreturn_insn, sizeof(sigreturn_insn));
}

int loan_refresh(struct job *j, bool force)
{
	struct proc_maps maps;
	int r;

	if (!force && now_monotonic_ns() - j->places->maps_at_ns < MAPS_FRESH_NS)
		return 0;
	r = proc_maps_read(j->pid, &maps, NULL);
	if (r < 0)
		return r;
	proc_maps_release(&j->places->maps);
	j->places->maps = maps;
	j->places->maps_at_ns = now_monotonic_ns();
	return 0;
}

/* ---- may this thread lend? ---- */

/* A restartable sequence is aborted when its thread is stopped in it; that must happen with the
 * registers it had. */
static bool in_rseq(pid_t pid, const struct thread *t)
{
	struct ptrace_rseq_configuration c;
	struct {
		uint32_t version, flags;
		uint64_t start, post_commit_offset, abort;
	} cs;
	uint64_t at;

	memset(&c, 0, sizeof(c));
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, number(sizeof(c)), &c) < 0 ||
		c.rseq_abi_pointer == 0)
		return false;
	/* struct rseq: cpu_id_start, cpu_id, rseq_cs */
	if (mem_read_u64(pid, c.rseq_abi_pointer + 8, &at) < 0)
		return true;
	if (at == 0)
		return false;
	if (mem_read(pid, at, &cs, sizeof(cs)) < 0)
		return true;
	return t->regs.rip - cs.start < cs.post_commit_offset;
}

int loan_check(const struct job *j, struct thread *t)
{
	const struct proc_map *m;
	uint64_t sp;

	if (stop_regs(t) < 0)
		return -EAGAIN;
	sp = t->regs.rsp;
	if (t->regs.cs != 0x33 || t->regs.eflags & 0x100) /* not 64-bit code; single-stepping */
		return -EAGAIN;
	m = proc_maps_find(&j->places->maps, sp);
	if (!m || m->perm[0] != 'r' || m->perm[1] != 'w' || m->inode != 0)
		return -EAGAIN;
	if (sp - m->start < STACK_NEEDED + RED_ZONE)
		return -EAGAIN;
	/* Its own stack: the main thread's by name; glibc keeps other threads' control block
	 * (fs_base) at the top of their stack. Coroutines, signal stacks: another time. */
	if (t->tid == j->pid ? strcmp(m->path, "[stack]") != 0
			     : t->regs.fs_base < m->start || t->regs.fs_base >= m->end)
		return -EAGAIN;
	return in_rseq(j->pid, t) ? -EAGAIN : 0;
}

/* ---- frames ---- */

static int write_target(pid_t pid, uint64_t at, const void *buf, size_t n)
{
	struct iovec local = {.iov_base = (void *)(uintptr_t)buf, .iov_len = n};
	struct iovec remote = {.iov_base = number(at), .iov_len = n};
	ssize_t put = process_vm_writev(pid, &local, 1, &remote, 1, 0);

	if (put < 0)
		return -errno;
	return (size_t)put == n ? 0 : -EFAULT;
}

static void fill_frame(struct frame *f, const struct user_regs_struct *r, uint64_t restorer)
{
	memset(f, 0, sizeof(*f));
	f->restorer = restorer;
	f->uc_flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
	f->altstack.flags = SS_KEEP;
	f->r8 = r->r8;
	f->r9 = r->r9;
	f->r10 = r->r10;
	f->r11 = r->r11;
	f->r12 = r->r12;
	f->r13 = r->r13;
	f->r14 = r->r14;
	f->r15 = r->r15;
	f->rdi = r->rdi;
	f->rsi = r->rsi;
	f->rbp = r->rbp;
	f->rbx = r->rbx;
	f->rdx = r->rdx;
	f->rax = r->rax;
	f->rcx = r->rcx;
	f->rsp = r->rsp;
	f->rip = r->rip;
	f->eflags = r->eflags;
	f->cs = (uint16_t)r->cs;
	f->ss = (uint16_t)r->ss;
}

/*
 * What a signal frame may hold of the state in x (n bytes). Where the processor has AMX the regset has room
 * for its tiles; the frame of a thread that never asked for them (arch_prctl(ARCH_REQ_XCOMP_PERM)) has
 * not, and one that has makes the kernel restore no more than the legacy area (fpu/signal.c,
 * check_xstate_in_sigframe()). Without tiles in use their area, which is the last, is left out.
 */
static size_t frame_state(uint8_t *x, size_t n)
{
	unsigned eax, ebx = 0, ecx, edx;
	uint64_t in_use;

	memcpy(&in_use, x + XSTATE_BV, 8);
	if (n <= XSTATE_MIN || in_use & XFEATURE_TILES ||
		!__get_cpuid_count(0xd, XFEATURE_TILES_BIT, &eax, &ebx, &ecx, &edx) || eax == 0)
		return n;
	return ebx >= XSTATE_MIN && ebx < n ? ebx : n;
}

int loan_begin(struct loan *l, const struct job *j, struct thread *t, bool reap, struct err *err)
{
	_Alignas(64) static uint8_t x[XSTATE_MAX + 64];
	static uint8_t stack[STACK_NEEDED];
	struct iovec v = {.iov_base = x, .iov_len = XSTATE_MAX};
	struct user_regs_struct regs;
	uint64_t top, fp;
	struct frame f;
	struct sw_bytes sw;
	const uint32_t magic2 = FP_XSTATE_MAGIC2;
	size_t n;
	int r;

	*l = (struct loan){.job = j, .thread = t, .reap = reap};
	if (!loan_places_hold(j))
		return err_set(err, -ESRCH, "pid %d started another program before it was captured",
			(int)j->pid);
	r = stop_regs(t);
	if (r == 0 && ptrace(PTRACE_GETSIGMASK, t->tid, number(8), &l->mask) < 0)
		r = -errno;
	if (r == 0 && ptrace(PTRACE_GETREGSET, t->tid, number(NT_X86_XSTATE), &v) < 0)
		r = -errno;
	if (r < 0)
		return err_set(err, r, "pid %d: cannot read the state of thread %d: %s",
			(int)j->pid, (int)t->tid, strerror(-r));
	if (v.iov_len < XSTATE_MIN || v.iov_len >= XSTATE_MAX)
		return err_set(err, -EOPNOTSUPP,
			"pid %d: %zu bytes of processor state are more than captures know to save",
			(int)j->pid, v.iov_len);

	/* In memory the state is as the kernel writes it into a signal frame: size and features in the
	 * software bytes, a second magic number behind it; where exactly it is looked for depends on
	 * the kernel. */
	n = frame_state(x, v.iov_len);
	memset(&sw, 0, sizeof(sw));
	sw.magic1 = FP_XSTATE_MAGIC1;
	sw.extended_size = (uint32_t)v.iov_len + sizeof(magic2);
	memcpy(&sw.xfeatures, x + XSTATE_XFEATURES, 8);
	sw.xstate_size = (uint32_t)n;
	if (n < v.iov_len) {
		sw.xfeatures &= ~XFEATURE_TILES;
		memcpy(x + n, &magic2, sizeof(magic2));
	}
	memcpy(x + XSTATE_SW_RESERVED, &sw, sizeof(sw));
	memcpy(x + v.iov_len, &magic2, sizeof(magic2));

	top = t->regs.rsp - RED_ZONE;
	fp = (top - v.iov_len - sizeof(magic2)) & ~63ULL;
	/* as at a function's entry: 8 below a multiple of 16 */
	l->sp_back = ((fp - FRAME_ROOM) & ~15ULL) - 8;
	l->sp_exit = l->sp_back - FRAME_ROOM;
	if (t->regs.rsp - l->sp_exit > STACK_NEEDED)
		return err_set(err, -EOPNOTSUPP, "pid %d: its processor state needs too much stack",
			(int)j->pid);

	/* All of it is there and this stack's: there is no guard page in between that has no mapping of its
	 * own (MADV_GUARD_INSTALL, glibc 2.42), behind which another thread's stack begins. */
	if (mem_read(j->pid, t->regs.rsp - STACK_NEEDED, stack, sizeof(stack)) < 0)
		return err_set(err, -EAGAIN, "pid %d: thread %d has too little stack left",
			(int)j->pid, (int)t->tid);

	/* By itself the thread makes an interrupted system call again, as after a signal without
	 * a handler. */
	regs = t->regs;
	if (stop_in_syscall(&regs) && (long)regs.rax != -EINTR) {
		regs.rax = regs.orig_rax;
		regs.rip -= 2;
	}
	fill_frame(&f, &regs, j->places->sigreturn);
	f.uc_flags |= UC_FP_XSTATE;
	f.fpstate = fp;
	f.mask = l->mask;
	r = write_target(j->pid, fp, x, v.iov_len + sizeof(magic2));
	if (r == 0)
		r = write_target(j->pid, l->sp_back, &f, sizeof(f));
	if (r == 0) {
		fill_frame(&f, &regs, j->places->sigreturn);
		f.rip = j->places->syscall_ret;
		f.rax = SYS_exit;
		f.rdi = LOAN_EXIT_STATUS;
		f.rsp = l->sp_exit;
		f.mask = ~0ULL;
		r = write_target(j->pid, l->sp_exit, &f, sizeof(f));
	}
	if (r < 0)
		return err_set(err, r == -EFAULT ? -EAGAIN : r,
			"pid %d: cannot write below the stack of thread %d: %s", (int)j->pid,
			(int)t->tid, strerror(-r));
	job_die_at(j, reap ? STEP_REAP_FRAMES : STEP_FORK_FRAMES);
	return 0;
}

/* ---- running ---- */

static int failed(const struct loan *l, const char *what, struct err *err)
{
	int e = errno;

	return err_set(err, -e, "pid %d: cannot %s thread %d: %s", (int)l->job->pid, what,
		(int)l->thread->tid, strerror(e));
}

int loan_arm(struct loan *l, uint64_t nr, const uint64_t args[6], struct err *err)
{
	struct thread *t = l->thread;
	struct user_regs_struct regs = t->regs;
	const uint64_t all = ~0ULL;

	/* First straight into rt_sigreturn(): should we die before the thread runs, it goes back
	 * without having made our call, which a seccomp filter, in force again by then, might
	 * kill it for. */
	regs.rip = l->job->places->sigreturn;
	regs.rsp = l->sp_back + 8;
	regs.orig_rax = (unsigned long)-1;
	if (ptrace(PTRACE_SETREGS, t->tid, NULL, &regs) < 0)
		return failed(l, "set the registers of", err);
	l->armed = true;
	job_die_at(l->job, l->reap ? STEP_REAP_REGS : STEP_FORK_REGS);
	if (ptrace(PTRACE_SETSIGMASK, t->tid, number(8), &all) < 0)
		return failed(l, "block the signals of", err);
	job_die_at(l->job, l->reap ? STEP_REAP_MASK : STEP_FORK_MASK);
	regs.rip = l->job->places->syscall_ret;
	regs.rsp = l->sp_back;
	regs.rax = nr;
	regs.rdi = args[0];
	regs.rsi = args[1];
	regs.rdx = args[2];
	regs.r10 = args[3];
	regs.r8 = args[4];
	regs.r9 = args[5];
	if (ptrace(PTRACE_SETREGS, t->tid, NULL, &regs) < 0)
		return failed(l, "set the registers of", err);
	return 0;
}

static int wait_next(struct loan *l, uint64_t timeout_ns, int *ret_status, struct err *err)
{
	const struct job *j = l->job;
	int r = stop_wait(j->wake, l->thread->tid, timeout_ns, ret_status);

	if (r == -ESRCH) {
		l->thread->state = THREAD_GONE;
		l->armed = false;
		return err_set(err, r, "pid %d ended while it was captured", (int)j->pid);
	}
	if (r < 0)
		return err_set(err, r, "pid %d: thread %d did not come back in time", (int)j->pid,
			(int)l->thread->tid);
	return 0;
}

int loan_run(struct loan *l, int how, uint64_t timeout_ns, int *ret_status, struct err *err)
{
	int r;

	/* a request to stop that was still under way stops it before the call: that is nothing */
	for (int n = 0; n < 4; n++) {
		if (ptrace((enum __ptrace_request)how, l->thread->tid, NULL, NULL) < 0)
			return failed(l, "run", err);
		if (!l->reap)
			job_die_at(l->job, STEP_FORK_RUNNING);
		r = wait_next(l, job_time_left(l->job, timeout_ns), ret_status, err);
		if (r < 0 || STOP_EVENT(*ret_status) != PTRACE_EVENT_STOP ||
			STOP_SIGNAL(*ret_status) != SIGTRAP)
			return r;
	}
	return 0;
}

bool loan_in_signal_code(struct loan *l, int status)
{
	if (STOP_EVENT(status) == PTRACE_EVENT_STOP)
		return true;
	if (STOP_EVENT(status) == 0 && !STOP_IS_SYSCALL(status)) {
		l->signal = STOP_SIGNAL(status);
		return true;
	}
	return false;
}

bool loan_is_out(const struct loan *l)
{
	const struct loan_places *p = l->job->places;
	struct user_regs_struct regs;

	if (!l->armed || ptrace(PTRACE_GETREGS, l->thread->tid, NULL, &regs) < 0 ||
		(regs.rsp != l->sp_back && regs.rsp != l->sp_back + 8) ||
		(regs.rip - p->syscall_ret >= sizeof(syscall_insn) &&
			regs.rip - p->sigreturn > sizeof(sigreturn_insn)))
		return false;
	return true;
}

/* What it did wrong while it was ours is not the program's, which had every signal blocked. */
static void drop_fault(struct loan *l)
{
	switch (l->signal) {
	case SIGSEGV:
	case SIGBUS:
	case SIGILL:
	case SIGFPE:
	case SIGTRAP:
	case SIGSYS:
		l->signal = 0;
	}
}

int loan_rest(struct loan *l, int64_t *ret_value, struct err *err)
{
	pid_t tid = l->thread->tid;

	for (int n = 0; n < 8; n++) {
		struct user_regs_struct regs;
		int status = 0, r;

		/* any stop takes back a request to stop: ask only now */
		if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0 ||
			ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
			return failed(l, "run", err);
		r = wait_next(l, job_time_left(l->job, UINT64_MAX), &status, err);
		if (r < 0)
			return r;
		if (!loan_in_signal_code(l, status))
			continue;
		if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
			return failed(l, "read the registers of", err);
		*ret_value = (int64_t)regs.rax;
		job_die_at(l->job, l->reap ? STEP_REAP_BACK : STEP_FORK_BACK);
		return 0;
	}
	return err_set(
		err, -EIO, "pid %d: thread %d does not come to rest", (int)l->job->pid, (int)tid);
}

int loan_restore(struct loan *l, struct err *err)
{
	struct thread *t = l->thread;

	drop_fault(l);
	if (ptrace(PTRACE_SETSIGMASK, t->tid, number(8), &l->mask) < 0)
		return failed(l, "put back the signal mask of", err);
	job_die_at(l->job, l->reap ? STEP_REAP_MASK_BACK : STEP_FORK_MASK_BACK);
	if (ptrace(PTRACE_SETREGS, t->tid, NULL, &t->regs) < 0)
		return failed(l, "put back the registers of", err);
	l->armed = false;
	job_die_at(l->job, l->reap ? STEP_REAP_REGS_BACK : STEP_FORK_REGS_BACK);
	return 0;
}

void loan_release(struct loan *l)
{
	struct thread *t = l->thread;

	if (!t || t->state != THREAD_STOPPED)
		return;
	(void)ptrace(PTRACE_DETACH, t->tid, NULL, number((uint64_t)l->signal));
	t->state = THREAD_FREE;
	t->have_regs = false;
	l->armed = false;
}
