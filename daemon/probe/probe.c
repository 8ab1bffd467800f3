/* SPDX-License-Identifier: MIT */
#include "daemon/probe/probe.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "daemon/probe/calibrate.h"
#include "daemon/probe/probe_private.h"

#define DEFAULT_TARGETS PYLEAK_MAX_TARGETS
#define DEFAULT_TYPES   65536

/* ---- errors ---- */

/* The last thing libbpf complained about: it knows best, but says it only here. */
static char libbpf_last[256];
static char verifier_last[256]; /* and what the kernel has against a program; "": nothing */

/* The last line of the kernel's log before its statistics. */
static void keep_verdict(const char *log)
{
	const char *end = strstr(log, "\nprocessed "), *line;

	if (!end)
		return;
	for (line = end; line > log && line[-1] != '\n'; line--)
		;
	snprintf(verifier_last, sizeof(verifier_last), "%.*s", (int)MIN(end - line, 255L), line);
}

static int libbpf_print(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	static int debug = -1;
	va_list copy;

	if (debug < 0)
		debug = getenv("LIBBPF_DEBUG") != NULL;
	if (level == LIBBPF_WARN) {
		va_copy(copy, ap);
		vsnprintf(libbpf_last, sizeof(libbpf_last), fmt, copy);
		va_end(copy);
		libbpf_last[strcspn(libbpf_last, "\n")] = '\0';
		if (strstr(libbpf_last, "BEGIN PROG LOAD LOG")) {
			_cleanup_free_ char *log = NULL;

			va_copy(copy, ap);
			if (vasprintf(&log, fmt, copy) < 0)
				log = NULL;
			va_end(copy);
			if (log)
				keep_verdict(log);
		}
	}
	return debug ? vfprintf(stderr, fmt, ap) : 0;
}

/* Why BPF was refused: by name the capability that is missing, if one is. */
int probe_refused(const struct probe *p, struct err *err, const char *what)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {0};
	bool bpf, perfmon, admin;

	if (verifier_last[0])
		return err_set(err, -EPERM,
			"%s: this kernel's verifier rejects them (%s); pyleak cannot run here, please "
			"report it with the output of pyleakd --support",
			what, verifier_last);
	if (syscall(SYS_capget, &h, d) < 0)
		return err_set(err, -EPERM, "%s: not permitted", what);
	bpf = d[1].effective & 1u << (CAP_BPF - 32);
	perfmon = d[1].effective & 1u << (CAP_PERFMON - 32);
	admin = d[0].effective & 1u << CAP_SYS_ADMIN;
	/* Since 6.16 and backports: CVE-2025-38466, a perf uprobe can break any program. */
	if (p->perf && !admin)
		return err_set(err, -EPERM,
			"%s: not permitted, CAP_SYS_ADMIN missing, which perf uprobes need where "
			"the kernel has no uprobe_multi links; run as root or grant it",
			what);
	if (!admin && (!bpf || !perfmon))
		return err_set(err, -EPERM,
			"%s: not permitted, %s%s%s missing; run as root or grant %s", what,
			bpf ? "" : "CAP_BPF", !bpf && !perfmon ? " and " : "",
			perfmon ? "" : "CAP_PERFMON", !bpf && !perfmon ? "both" : "it");
	return err_set(err, -EPERM,
		"%s: not permitted although the capabilities are there; a seccomp filter "
		"(SystemCallFilter=bpf perf_event_open allows it), kernel lockdown or a security "
		"module "
		"forbids it",
		what);
}

/* ---- slots ---- */

/* The slot's hash, made and hung into the outer map. */
int slot_counts(struct probe *p, uint32_t slot, unsigned types)
{
	_cleanup_close_ int fd = counts_map(types);
	int r;

	if (fd < 0)
		return fd;
	r = slot_hang(p, slot, fd);
	return r ? r : TAKE_FD(fd);
}

int counts_map(unsigned types)
{
	LIBBPF_OPTS(bpf_map_create_opts, o, .map_flags = BPF_F_NO_PREALLOC);

	return bpf_map_create(BPF_MAP_TYPE_HASH, "pyleak_counts", sizeof(__u64),
		sizeof(struct pyleak_count), types, &o);
}

int slot_hang(struct probe *p, uint32_t slot, int counts)
{
	if (bpf_map_update_elem(bpf_map__fd(p->bpf->maps.counts_of), &slot, &counts, BPF_ANY))
		return -errno;
	return 0;
}

/* Who is to be counted in this slot, see struct pyleak_target. Does not switch it on. */
int slot_identity(struct probe *p, uint32_t slot, pid_t pid, uint32_t *ret_tgid)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[64], line[512], *last;
	struct stat st;
	unsigned long tgid = 0;

	snprintf(path, sizeof(path), "%s/%d/ns/pid", proc_root(), pid);
	if (stat(path, &st) < 0)
		return -errno;
	snprintf(path, sizeof(path), "%s/%d/status", proc_root(), pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (!tgid && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "NSpid:", 6))
			continue;
		/* One number a namespace, the innermost last. */
		line[strcspn(line, "\n")] = '\0';
		last = strrchr(line, '\t');
		tgid = last ? strtoul(last + 1, NULL, 10) : 0;
	}
	if (!tgid || tgid > INT32_MAX)
		return -ESRCH;
	/* The kernel compares with its own dev_t: twenty bits of minor number. */
	p->shared[slot].pidns_dev = (uint64_t)major(st.st_dev) << 20 | minor(st.st_dev);
	p->shared[slot].pidns_ino = st.st_ino;
	*ret_tgid = (uint32_t)tgid;
	return 0;
}

/* From here on its hits count: all sites at the same instant. */
void slot_enable(struct probe *p, uint32_t slot, uint32_t tgid)
{
	p->shared[slot].limit = UINT64_MAX;
	__atomic_store_n(&p->shared[slot].tgid, tgid, __ATOMIC_SEQ_CST);
}

void slot_disable(struct probe *p, uint32_t slot)
{
	__atomic_store_n(&p->shared[slot].armed, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&p->shared[slot].tgid, 0, __ATOMIC_SEQ_CST);
}

/* After its links are gone. */
void slot_clear(struct probe *p, uint32_t slot)
{
	bpf_map_delete_elem(bpf_map__fd(p->bpf->maps.counts_of), &slot);
	memset(&p->shared[slot], 0, sizeof(p->shared[slot]));
}

uint64_t slot_hits(const struct probe *p, uint32_t slot)
{
	return __atomic_load_n(&p->shared[slot].hits, __ATOMIC_SEQ_CST);
}

/* ---- open ---- */

/*
 * Attaches to functions of our own: the behaviour test for uprobe_multi links and for the filter
 * by process (kernels 6.6 to 6.9 without a later fix let only the thread through whose id was
 * given), and the cost of a hit on this host. -EOPNOTSUPP: not in this way.
 */
static int calibrate(struct probe *p, struct err *err)
{
	static const uint64_t fake_type[32] = {[OFF_TP_FLAGS / 8] = TPFLAGS_HAVE_GC};
	uint32_t slot = p->max_targets, tgid;
	unsigned long offsets[2];
	__u64 cookies[2] = {
		PYLEAK_COOKIE(slot, PYLEAK_RDI, false, PYLEAK_GROUP_INSTANCES),
		PYLEAK_COOKIE(slot, PYLEAK_RDI, true, PYLEAK_GROUP_INSTANCES)};
	_cleanup_close_ int counts = -1;
	struct links links = {0};
	uint64_t before;
	int r;

	r = calibrate_offsets(&offsets[0], &offsets[1]);
	if (r)
		return err_set(err, r, "cannot find own code to calibrate probes on");
	r = slot_identity(p, slot, getpid(), &tgid);
	if (r)
		return err_set(err, r,
			"cannot read own %s/%d/status and ns/pid: %s; is /proc mounted?",
			proc_root(), getpid(), strerror(-r));
	counts = slot_counts(p, slot, 16);
	if (counts < 0) {
		r = err_set(err, counts, "no map for counters: %s", strerror(-counts));
		goto out;
	}
	r = links_attach(
		p, p->bpf->progs.on_birth, getpid(), "/proc/self/exe", offsets, cookies, 2, &links);
	if (r == -EPERM || r == -EACCES) {
		r = probe_refused(p, err, "attaching probes");
		goto out;
	}
	if (r) {
		r = err_set(err,
			r == -EINVAL || r == -ENOSYS || (p->perf && r == -ENOENT) ? -EOPNOTSUPP : r,
			"attaching %s to pyleakd itself: %s",
			p->perf ? "perf uprobes" : "a uprobe_multi link", strerror(-r));
		goto out;
	}
	slot_enable(p, slot, tgid);
	before = slot_hits(p, slot);
	r = calibrate_thread((uintptr_t)fake_type);
	if (r) {
		err_set(err, r, "cannot start a thread to test probes with: %s", strerror(-r));
		goto out;
	}
	if (slot_hits(p, slot) == before) {
		r = err_set(err, -EOPNOTSUPP,
			"%s of this kernel are blind to all threads but one (uprobe_multi links "
			"before Linux 6.10 and its stable series 6.6 and 6.9)",
			p->perf ? "perf uprobes" : "uprobe_multi links");
		goto out;
	}
	p->cost_ns = calibrate_time(CALIBRATE_PUSH, 200, (uintptr_t)fake_type);
	p->cost_stepped_ns = calibrate_time(CALIBRATE_MOV, 20, (uintptr_t)fake_type);
	r = 0;
out:
	slot_disable(p, slot);
	links_release(&links);
	slot_clear(p, slot);
	return r;
}

static int on_event(void *userdata, void *data, size_t n);

/* Loads programs and maps for p->perf or for uprobe_multi, and tries them out. */
static int bring_up(struct probe *p, struct err *err)
{
	long page = sysconf(_SC_PAGESIZE);
	struct bpf_program *prog;
	int r;

	libbpf_last[0] = verifier_last[0] = '\0';
	p->bpf = pyleak_bpf__open();
	if (!p->bpf)
		return err_set(err, -errno, "opening the built-in BPF object: %s", strerror(errno));
	/* The same programs serve both ways; the kernel wants to know which when it loads them. */
	if (p->perf)
		bpf_object__for_each_program(prog, p->bpf->obj)
			bpf_program__set_expected_attach_type(prog, 0);
	bpf_map__set_max_entries(p->bpf->maps.targets, p->max_targets + 1);
	bpf_map__set_max_entries(p->bpf->maps.counts_of, p->max_targets + 1);
	bpf_map__set_max_entries(p->bpf->maps.progresses, p->max_targets + 1);
	r = pyleak_bpf__load(p->bpf);
	if (r == -EPERM || r == -EACCES)
		return probe_refused(p, err, "loading BPF programs");
	if (r == -ENOSYS)
		return err_set(err, -ENOSYS, "this kernel was built without CONFIG_BPF_SYSCALL");
	if (r)
		return err_set(err, r == -EINVAL ? -EOPNOTSUPP : r,
			"loading BPF programs: %s (%s); LIBBPF_DEBUG=1 shows what the kernel says",
			strerror(-r), verifier_last[0] ? verifier_last : libbpf_last);

	p->shared_bytes = (p->max_targets + 1) * sizeof(struct pyleak_target);
	p->shared_bytes = (p->shared_bytes + (size_t)page - 1) / (size_t)page * (size_t)page;
	p->shared = mmap(NULL, p->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		bpf_map__fd(p->bpf->maps.targets), 0);
	if (p->shared == MAP_FAILED) {
		p->shared = NULL;
		return err_set(err, -errno, "mapping the table of targets: %s", strerror(errno));
	}
	return calibrate(p, err);
}

static void take_down(struct probe *p)
{
	if (p->shared)
		munmap(p->shared, p->shared_bytes);
	p->shared = NULL;
	pyleak_bpf__destroy(p->bpf);
	p->bpf = NULL;
}

static int bring_up_somehow(struct probe *p, bool perf, struct err *err)
{
	int r;

	if (!perf) {
		r = bring_up(p, err);
		if (r != -EOPNOTSUPP)
			return r == -ENOSYS ? -EOPNOTSUPP : r;
		if (err)
			p->no_multi = *err;
		take_down(p);
	}
	p->perf = true;
	r = bring_up(p, err);
	if (r && p->no_multi.msg[0])
		err_prefix(err, r,
			"%s, so perf uprobes were tried (Linux 6.6 or newer with CONFIG_UPROBES "
			"and CONFIG_BPF_EVENTS is best)",
			p->no_multi.msg);
	return r == -ENOSYS ? -EOPNOTSUPP : r;
}

int probe_open(const struct probe_options *o, struct probe **ret, struct err *err)
{
	const char *force = getenv("PYLEAK_FORCE_PERF");
	_cleanup_(probe_freep) struct probe *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	p->epoll = p->wake = -1;
	p->max_targets = MIN(o && o->max_targets ? o->max_targets : DEFAULT_TARGETS,
		(unsigned)PYLEAK_MAX_TARGETS);
	p->max_types =
		MIN(o && o->max_types ? o->max_types : DEFAULT_TYPES, (unsigned)PYLEAK_MAX_TYPES);
	p->targets = calloc(p->max_targets, sizeof(struct probe_target *));
	p->leaving = calloc(p->max_targets, sizeof(*p->leaving));
	if (!p->targets || !p->leaving)
		return err_set(err, -ENOMEM, "out of memory");

	r = closers_new(&p->closers);
	if (r)
		return err_set(err, r, "out of memory");
	libbpf_set_print(libbpf_print);
	r = bring_up_somehow(p, (o && o->perf) || (force && !strcmp(force, "1")), err);
	if (r)
		return r;
	p->ring = ring_buffer__new(bpf_map__fd(p->bpf->maps.events), on_event, p, NULL);
	if (!p->ring)
		return err_set(err, -errno, "mapping the ring buffer: %s", strerror(errno));
	p->epoll = epoll_create1(EPOLL_CLOEXEC);
	p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->epoll < 0 || p->wake < 0 ||
		epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->wake,
			&(struct epoll_event){.events = EPOLLIN}) < 0 ||
		epoll_ctl(p->epoll, EPOLL_CTL_ADD, ring_buffer__epoll_fd(p->ring),
			&(struct epoll_event){.events = EPOLLIN}) < 0)
		return err_set(err, -errno, "cannot wait for events: %s", strerror(errno));
	*ret = TAKE_PTR(p);
	return 0;
}

void probe_free(struct probe *p)
{
	if (!p)
		return;
	if (p->shared)
		probe_detach_all(p);
	for (unsigned i = 0; p->targets && i < p->max_targets; i++)
		probe_target_free(p->targets[i]);
	free(p->targets);
	ring_buffer__free(p->ring);
	closep(&p->epoll);
	closep(&p->wake);
	children_release(&p->children);
	closers_free(p->closers);
	free(p->leaving);
	take_down(p);
	free(p);
}

void probe_freep(struct probe **p)
{
	probe_free(*p);
}

const char *probe_way(const struct probe *p)
{
	return p->perf ? "perf" : "uprobe_multi";
}

const char *probe_way_reason(const struct probe *p)
{
	return p->no_multi.msg;
}

const char *probe_library(void)
{
	static char name[32];

	snprintf(name, sizeof(name), "libbpf %s", libbpf_version_string());
	return name;
}

uint64_t probe_cost_ns(const struct probe *p, bool stepped)
{
	return stepped ? p->cost_stepped_ns : p->cost_ns;
}

uint64_t probe_let_go_ns(const struct probe *p)
{
	return closers_took_ns(p->closers);
}

/* ---- events ---- */

static int on_event(void *userdata, void *data, size_t n)
{
	struct probe *p = userdata;
	const struct pyleak_event *e = data;
	struct probe_target *t;

	if (n < sizeof(*e) || e->slot >= p->max_targets || !p->targets[e->slot])
		return 0;
	t = p->targets[e->slot];
	if (e->kind == PYLEAK_EVENT_GONE)
		counters_gone(&t->gone, e);
	return 0; /* an ended census and a reached limit show in the slot itself */
}

/* Takes in all events; answered censuses become results. */
int probe_drain(struct probe *p)
{
	int n = ring_buffer__consume(p->ring), r = 0;
	bool ready = false;

	if (n < 0)
		return n;
	for (unsigned i = 0; i < p->max_targets; i++) {
		struct probe_target *t = p->targets[i];

		/* Whether or not there was room for its event. */
		if (t && t->limit != UINT64_MAX &&
			__atomic_load_n(&p->shared[i].limit, __ATOMIC_SEQ_CST) == UINT64_MAX) {
			t->limit = UINT64_MAX;
			t->limit_reached = true;
		}
		ready = ready || (t && t->limit_reached);
		if (!t || !t->armed || t->ready ||
			__atomic_load_n(&p->shared[i].census.number, __ATOMIC_SEQ_CST) != t->armed)
			continue;
		r = census_finish(t);
		ready = true;
	}
	/* Whoever called may not be the event loop: make sure that comes round. */
	if (ready && eventfd_write(p->wake, 1) < 0 && errno != EAGAIN)
		return -errno;
	return r;
}

int probe_fd(const struct probe *p)
{
	return p->epoll;
}

int probe_dispatch(struct probe *p)
{
	eventfd_t ignored;
	int r = probe_drain(p);

	eventfd_read(p->wake, &ignored);
	for (unsigned i = 0; i < p->max_targets; i++) {
		struct probe_target *t = p->targets[i];
		_cleanup_free_ struct census_type *types = NULL;
		struct census_result result;

		if (t && t->limit_reached) {
			t->limit_reached = false;
			if (t->options.on_limit)
				t->options.on_limit(t, t->options.userdata);
			t = p->targets[i]; /* that may have freed it */
		}
		if (!t || !t->ready)
			continue;
		/* The callback may arm the next one, or free the target. */
		t->ready = false;
		t->armed = 0;
		result = t->result;
		types = TAKE_PTR(t->result_types);
		/* One has come since it was armed. */
		if (result.status == CENSUS_OK && python_interpreters(t->py) > 1) {
			result.status = CENSUS_FAULT;
			result.fault = -EMLINK;
		}
		if (t->options.on_census)
			t->options.on_census(t, &result, t->options.userdata);
	}
	return r;
}
