/* SPDX-License-Identifier: MIT */
#include "graph/sandbox.h"

#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define NOBODY          65534
#define DESCRIPTORS_MAX 64

static int limit(int what, const char *name, uint64_t soft, uint64_t hard, struct err *err)
{
	struct rlimit l;

	if (getrlimit(what, &l) < 0)
		return err_set(
			err, -errno, "sandbox: cannot read limit %s: %s", name, strerror(errno));
	/* An already lower limit stays. */
	if (l.rlim_max == RLIM_INFINITY || hard < l.rlim_max)
		l.rlim_max = hard;
	l.rlim_cur = MIN((rlim_t)soft, l.rlim_max);
	if (setrlimit(what, &l) < 0)
		return err_set(
			err, -errno, "sandbox: cannot set limit %s: %s", name, strerror(errno));
	return 0;
}

/* Each step may be forbidden already (a unit without CAP_SETUID, a filter without capset): then
 * there is less to give away, or the filter of sandbox_close() is what keeps it from use. */
static void drop_privileges(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

	if (geteuid() == 0) {
		for (int cap = 0; cap <= 63; cap++)
			(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
		if (setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0)
			(void)!setresuid(NOBODY, NOBODY, NOBODY);
	}
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	(void)syscall(SYS_capset, &h, none);
}

int sandbox_begin(pid_t parent, uint64_t memory_bytes, uint64_t cpu_seconds, struct err *err)
{
	int rc = limit(RLIMIT_CORE, "core", 0, 0, err);

	if (rc == 0)
		rc = limit(RLIMIT_NOFILE, "nofile", DESCRIPTORS_MAX, DESCRIPTORS_MAX, err);
	if (rc == 0 && memory_bytes)
		rc = limit(RLIMIT_AS, "as", memory_bytes, memory_bytes, err);
	/* At the soft limit SIGXCPU ends it, five seconds later SIGKILL would. */
	if (rc == 0 && cpu_seconds)
		rc = limit(RLIMIT_CPU, "cpu", cpu_seconds, cpu_seconds + 5, err);
	if (rc < 0)
		return rc;
	drop_privileges();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_set(err, -errno, "sandbox: no_new_privs: %s", strerror(errno));
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	/* After the change of uid, which clears it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return err_set(err, -errno, "sandbox: parent death signal: %s", strerror(errno));
	if (getppid() != parent)
		return err_set(err, -ESRCH, "sandbox: whoever asked for this is gone");
	return 0;
}

int sandbox_close(struct err *err)
{
	static const char *const allowed[] = {/* descriptors that are there */
		"read", "pread64", "readv", "write", "pwrite64", "writev", "lseek", "_llseek",
		"fstat", "fsync", "fdatasync", "ftruncate", "close", "dup", "fcntl", "poll",
		"ppoll",
		/* memory */
		"brk", "mmap", "munmap", "mremap", "mprotect", "madvise",
		/* threads of the font library, waiting, ending */
		"futex", "set_robust_list", "rseq", "sched_yield", "sched_getaffinity", "gettid",
		"getpid", "clock_nanosleep", "nanosleep", "setitimer", "exit", "exit_group",
		/* signals to itself: abort() */
		"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "tgkill",
		"restart_syscall",
		/* harmless facts */
		"clock_gettime", "clock_getres", "gettimeofday", "time", "getrandom", "getuid",
		"geteuid", "getgid", "getegid", "uname", "sysinfo", "getrusage"};
	/* Whatever could leave the address space of this process for a new one. */
	const uint64_t threads = CLONE_VM | CLONE_THREAD;
	scmp_filter_ctx c = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int rc = c ? 0 : -ENOMEM;

	for (size_t i = 0; i < ARRAY_SIZE(allowed) && rc == 0; i++) {
		int nr = seccomp_syscall_resolve_name(allowed[i]);

		if (nr >= 0) /* not every architecture has all of them */
			rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, nr, 0);
	}
	/* fstat() is newfstatat(fd, "", …, AT_EMPTY_PATH) in newer C libraries. A path would be
	 * allowed too: it tells that a file exists, no more. */
	if (rc == 0)
		rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 0);
	if (rc == 0)
		rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			SCMP_A0(SCMP_CMP_MASKED_EQ, threads, threads));
	/* Its flags lie in memory, out of the filter's sight; without it the C library uses clone. */
	if (rc == 0)
		rc = seccomp_rule_add(c, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (rc == 0)
		rc = seccomp_load(c);
	if (c)
		seccomp_release(c);
	if (rc < 0)
		return err_set(err, -ENOTSUP, "sandbox: no system call filter: %s", strerror(-rc));
	return 0;
}
