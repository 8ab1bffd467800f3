/* SPDX-License-Identifier: MIT */
#include "daemon/probe/probe.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "bpf/pyleak.skel.h"
#include "daemon/probe/calibrate.h"
#include "daemon/probe/plan.h"
#include "daemon/python/mem.h"
#include "daemon/util/macros.h"
#include "daemon/util/u64map.h"
#include "daemon/util/units.h"
#include "include/pyleak/counts.h"

#define DEFAULT_TARGETS 64
#define DEFAULT_TYPES   16384
#define GONE_MAX        65536 /* dead classes kept between two reads */
#define BATCH           1024

struct gone {
	uint64_t type;
	struct pyleak_count count;
	uint32_t epoch; /* the target's when it died */
};

struct gone_list {
	struct gone *v;
	size_t n, cap;
	uint64_t dropped;
};

struct probe_target {
	struct probe *probe;
	const struct python *py;
	struct probe_target_options options;
	struct plan plan;
	struct python_rings rings;
	bool has_rings; /* and they are all there is to walk */
	uint32_t slot;
	int counts; /* map: type -> struct pyleak_count */
	struct bpf_link *births, *deaths;

	struct gone_list gone; /* not yet reported by probe_target_read() */

	uint32_t armed;  /* number of the census that is out, 0: none */
	uint32_t number; /* last one given */
	bool ready;      /* its result is here and waits for probe_dispatch(): */
	struct census_result result;
	struct census_type *result_types;
};

struct probe {
	struct pyleak_bpf *bpf;
	struct ring_buffer *ring;
	int epoll, wake;
	unsigned max_targets, max_types;
	struct pyleak_target *shared; /* the array, mapped; one slot more than max_targets */
	size_t shared_bytes;
	struct probe_target **targets; /* by slot */
	uint64_t cost_ns, cost_stepped_ns;
};

/* ---- errors ---- */

/* The last thing libbpf complained about: it knows best, but says it only here. */
static char libbpf_last[256];

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
	}
	return debug ? vfprintf(stderr, fmt, ap) : 0;
}

/* Why BPF was refused: by name the capability that is missing, if one is. */
static int refused(struct err *err, const char *what)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {0};
	bool bpf, perfmon, admin;

	if (syscall(SYS_capget, &h, d) < 0)
		return err_set(err, -EPERM, "%s: not permitted", what);
	bpf = d[1].effective & 1u << (CAP_BPF - 32);
	perfmon = d[1].effective & 1u << (CAP_PERFMON - 32);
	admin = d[0].effective & 1u << CAP_SYS_ADMIN;
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
static int slot_counts(struct probe *p, uint32_t slot, unsigned types)
{
	LIBBPF_OPTS(bpf_map_create_opts, o, .map_flags = BPF_F_NO_PREALLOC);
	_cleanup_close_ int fd = bpf_map_create(BPF_MAP_TYPE_HASH, "pyleak_counts", sizeof(__u64),
		sizeof(struct pyleak_count), types, &o);

	if (fd < 0)
		return fd;
	if (bpf_map_update_elem(bpf_map__fd(p->bpf->maps.counts_of), &slot, &fd, BPF_ANY))
		return -errno;
	return TAKE_FD(fd);
}

/* Who is to be counted in this slot, see struct pyleak_target. Does not switch it on. */
static int slot_identity(struct probe *p, uint32_t slot, pid_t pid, uint32_t *ret_tgid)
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
static void slot_enable(struct probe *p, uint32_t slot, uint32_t tgid)
{
	__atomic_store_n(&p->shared[slot].tgid, tgid, __ATOMIC_SEQ_CST);
}

static void slot_disable(struct probe *p, uint32_t slot)
{
	__atomic_store_n(&p->shared[slot].armed, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&p->shared[slot].tgid, 0, __ATOMIC_SEQ_CST);
}

/* After its links are gone. */
static void slot_clear(struct probe *p, uint32_t slot)
{
	bpf_map_delete_elem(bpf_map__fd(p->bpf->maps.counts_of), &slot);
	memset(&p->shared[slot], 0, sizeof(p->shared[slot]));
}

static uint64_t slot_hits(const struct probe *p, uint32_t slot)
{
	return __atomic_load_n(&p->shared[slot].hits, __ATOMIC_SEQ_CST);
}

/* ---- open ---- */

/*
 * Attaches to functions of our own: the behaviour test for uprobe_multi links and for the filter
 * by process (kernels 6.6 to 6.9 without a later fix let only the thread through whose id was
 * given), and the cost of a hit on this host.
 */
static int calibrate(struct probe *p, struct err *err)
{
	static const uint64_t fake_type[32] = {[OFF_TP_FLAGS / 8] = TPFLAGS_HAVE_GC};
	uint32_t slot = p->max_targets, tgid;
	unsigned long offsets[2];
	__u64 cookies[2] = {
		PYLEAK_COOKIE(slot, PYLEAK_RDI, false), PYLEAK_COOKIE(slot, PYLEAK_RDI, true)};
	LIBBPF_OPTS(bpf_uprobe_multi_opts, o, .offsets = offsets, .cookies = cookies, .cnt = 2);
	_cleanup_close_ int counts = -1;
	struct bpf_link *link = NULL;
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
		r = counts;
		goto out;
	}
	link = bpf_program__attach_uprobe_multi(
		p->bpf->progs.on_birth, getpid(), "/proc/self/exe", NULL, &o);
	if (!link) {
		r = -errno;
		if (r == -EPERM || r == -EACCES)
			r = refused(err, "attaching a uprobe_multi link");
		else if (r == -EINVAL || r == -EOPNOTSUPP || r == -ENOSYS)
			r = err_set(err, -EOPNOTSUPP,
				"this kernel has no uprobe_multi links: Linux 6.6 or newer with "
				"CONFIG_UPROBES, CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS is "
				"needed");
		else
			err_set(err, r, "attaching a uprobe_multi link to pyleakd itself: %s",
				strerror(-r));
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
			"this kernel filters uprobe_multi links by thread, which loses the other "
			"threads "
			"of a target: fixed in Linux 6.10 and its stable series 6.6 and 6.9");
		goto out;
	}
	p->cost_ns = calibrate_time(CALIBRATE_PUSH, 200, (uintptr_t)fake_type);
	p->cost_stepped_ns = calibrate_time(CALIBRATE_MOV, 20, (uintptr_t)fake_type);
	r = 0;
out:
	slot_disable(p, slot);
	bpf_link__destroy(link);
	slot_clear(p, slot);
	return r;
}

static int on_event(void *userdata, void *data, size_t n);

int probe_open(const struct probe_options *o, struct probe **ret, struct err *err)
{
	_cleanup_(probe_freep) struct probe *p = calloc(1, sizeof(*p));
	long page = sysconf(_SC_PAGESIZE);
	int r;

	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	p->epoll = p->wake = -1;
	p->max_targets = MIN(o && o->max_targets ? o->max_targets : DEFAULT_TARGETS,
		(unsigned)PYLEAK_MAX_TARGETS);
	p->max_types =
		MIN(o && o->max_types ? o->max_types : DEFAULT_TYPES, (unsigned)PYLEAK_MAX_TYPES);
	p->targets = calloc(p->max_targets, sizeof(struct probe_target *));
	if (!p->targets)
		return err_set(err, -ENOMEM, "out of memory");

	libbpf_set_print(libbpf_print);
	libbpf_last[0] = '\0';
	p->bpf = pyleak_bpf__open();
	if (!p->bpf)
		return err_set(err, -errno, "opening the built-in BPF object: %s", strerror(errno));
	bpf_map__set_max_entries(p->bpf->maps.targets, p->max_targets + 1);
	bpf_map__set_max_entries(p->bpf->maps.counts_of, p->max_targets + 1);
	r = pyleak_bpf__load(p->bpf);
	if (r == -EPERM || r == -EACCES)
		return refused(err, "loading BPF programs");
	if (r == -ENOSYS)
		return err_set(
			err, -EOPNOTSUPP, "this kernel was built without CONFIG_BPF_SYSCALL");
	if (r)
		return err_set(err, r == -EINVAL ? -EOPNOTSUPP : r,
			"loading BPF programs: %s (%s); LIBBPF_DEBUG=1 shows what the kernel says",
			strerror(-r), libbpf_last);

	p->shared_bytes = (p->max_targets + 1) * sizeof(struct pyleak_target);
	p->shared_bytes = (p->shared_bytes + (size_t)page - 1) / (size_t)page * (size_t)page;
	p->shared = mmap(NULL, p->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		bpf_map__fd(p->bpf->maps.targets), 0);
	if (p->shared == MAP_FAILED) {
		p->shared = NULL;
		return err_set(err, -errno, "mapping the table of targets: %s", strerror(errno));
	}
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

	r = calibrate(p, err);
	if (r)
		return r;
	*ret = TAKE_PTR(p);
	return 0;
}

void probe_free(struct probe *p)
{
	if (!p)
		return;
	for (unsigned i = 0; p->targets && i < p->max_targets; i++)
		probe_target_free(p->targets[i]);
	free(p->targets);
	ring_buffer__free(p->ring);
	closep(&p->epoll);
	closep(&p->wake);
	if (p->shared)
		munmap(p->shared, p->shared_bytes);
	pyleak_bpf__destroy(p->bpf);
	free(p);
}

void probe_freep(struct probe **p)
{
	probe_free(*p);
}

uint64_t probe_cost_ns(const struct probe *p, bool stepped)
{
	return stepped ? p->cost_stepped_ns : p->cost_ns;
}

/* ---- attach ---- */

static int attach_kind(struct probe_target *t, enum plan_kind kind, struct bpf_program *prog,
	struct bpf_link **ret, struct err *err)
{
	unsigned long offsets[PLAN_SITES_MAX];
	__u64 cookies[PLAN_SITES_MAX];
	LIBBPF_OPTS(bpf_uprobe_multi_opts, o, .offsets = offsets, .cookies = cookies);
	struct bpf_link *link;
	char path[64];
	int r;

	for (size_t i = 0; i < t->plan.n; i++) {
		const struct plan_site *s = &t->plan.v[i];

		if (s->kind != kind)
			continue;
		offsets[o.cnt] = s->offset;
		cookies[o.cnt++] = PYLEAK_COOKIE(t->slot, s->place.reg, s->place.stepped);
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->py->fd);
	link = bpf_program__attach_uprobe_multi(prog, t->py->id.pid, path, NULL, &o);
	if (link) {
		*ret = link;
		return 0;
	}
	r = -errno;
	if (r == -EPERM || r == -EACCES)
		return refused(err, "attaching probes");
	if (r == -ESRCH)
		return err_set(err, r, "pid %d has exited", t->py->id.pid);
	return err_set(err, r, "attaching %zu probes to %s of pid %d: %s", o.cnt, t->py->path,
		t->py->id.pid, strerror(-r));
}

/*
 * Functions that no symbol names but that stand in tp_alloc of built-in types: from 3.11 on dict has
 * _PyType_AllocNoTrack there. Read from the living process, because in a shared library the slot
 * is filled by the linker. What cannot be read or lies in another file is left out.
 */
static int plan_slots(struct probe_target *t, struct err *err)
{
	static const char *const types[] = {"PyBaseObject_Type", "PyDict_Type", "PyList_Type",
		"PySet_Type", "PyTuple_Type", "PyFrozenSet_Type"};
	const struct python *py = t->py;
	uint64_t addr, alloc;
	char name[64];
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (python_symbol(py, types[i], &addr, NULL) ||
			mem_read_u64(py->id.pid, addr + OFF_TP_ALLOC, &alloc) || !alloc ||
			!elf_image_is_code(py->elf, alloc - py->bias))
			continue;
		snprintf(name, sizeof(name), "%s.tp_alloc", types[i]);
		r = plan_add_birth(py->elf, &t->plan, name, alloc - py->bias, err);
		if (r)
			return r;
	}
	return 0;
}

static void target_release(struct probe_target *t)
{
	if (t->counts >= 0)
		close(t->counts);
	free(t->gone.v);
	free(t->result_types);
	free(t);
}

int probe_attach(struct probe *p, const struct python *py, const struct probe_target_options *o,
	struct probe_target **ret, struct err *err)
{
	struct probe_target *t;
	struct pyleak_target *s;
	uint32_t slot, tgid;
	int r;

	for (slot = 0; slot < p->max_targets && p->targets[slot]; slot++)
		;
	if (slot == p->max_targets)
		return err_set(err, -EUSERS,
			"pid %d: no room, at most %u processes can be watched at a time",
			py->id.pid, p->max_targets);
	t = calloc(1, sizeof(*t));
	if (!t)
		return err_set(err, -ENOMEM, "out of memory");
	*t = (struct probe_target){.probe = p, .py = py, .slot = slot, .counts = -1};
	if (o)
		t->options = *o;
	r = plan_make(py->elf, &t->plan, err);
	if (!r)
		r = plan_slots(t, err);
	if (r) {
		err_prefix(err, r, "%s", py->path);
		target_release(t);
		return r;
	}

	s = &p->shared[slot];
	r = slot_identity(p, slot, py->id.pid, &tgid);
	if (r) {
		r = r == -ENOENT ? -ESRCH : r;
		err_set(err, r, "pid %d%s%s", py->id.pid, r == -ESRCH ? " has exited" : ": ",
			r == -ESRCH ? "" : strerror(-r));
		goto fail;
	}
	t->counts = slot_counts(p, slot, p->max_types);
	if (t->counts < 0) {
		r = err_set(err, t->counts, "pid %d: no map for its counters: %s", py->id.pid,
			strerror(-t->counts));
		goto fail;
	}
	/* Without rings there are counters and no census: probe_census_arm() will say so. */
	t->has_rings = python_find_rings(py, &t->rings, NULL) == 0 &&
		       (py->interpreters <= 1 || py->minor < 12);
	if (t->has_rings) {
		for (int i = 0; i < 4; i++)
			s->head[i] = t->rings.head[3 - i];
		s->collecting = t->rings.collecting;
	}
	r = attach_kind(t, PLAN_DEATH, p->bpf->progs.on_death, &t->deaths, err);
	if (!r)
		r = attach_kind(t, PLAN_BIRTH, p->bpf->progs.on_birth, &t->births, err);
	/* The pid may have become somebody else's between python_open() and now. */
	if (!r && !proc_id_alive(&py->id))
		r = err_set(err, -ESRCH, "pid %d has exited", py->id.pid);
	if (r)
		goto fail;
	p->targets[slot] = t;
	slot_enable(p, slot, tgid);
	*ret = t;
	return 0;
fail:
	bpf_link__destroy(t->births);
	bpf_link__destroy(t->deaths);
	slot_clear(p, slot);
	target_release(t);
	return r;
}

void probe_target_free(struct probe_target *t)
{
	struct probe *p;

	if (!t)
		return;
	p = t->probe;
	slot_disable(p, t->slot);
	bpf_link__destroy(t->births);
	bpf_link__destroy(t->deaths);
	p->targets[t->slot] = NULL;
	/* What is still in the ring buffer must not go to the next owner of the slot. */
	ring_buffer__consume(p->ring);
	slot_clear(p, t->slot);
	target_release(t);
}

char *probe_target_describe(const struct probe_target *t, char *buf, size_t n)
{
	return plan_describe(&t->plan, buf, n);
}

/* ---- reading counters ---- */

struct entry {
	uint64_t type;
	struct pyleak_count count;
};

/* All entries of the target's hash, in no order. *ret is malloc'ed. */
static int read_counts(const struct probe_target *t, struct entry **ret, size_t *ret_n)
{
	LIBBPF_OPTS(bpf_map_batch_opts, o);
	_cleanup_free_ uint64_t *keys = NULL;
	_cleanup_free_ struct pyleak_count *values = NULL;
	_cleanup_free_ struct entry *v = NULL;
	size_t n = 0, cap = 0, batch = BATCH;
	__u32 token = 0;
	bool first = true;

	for (int r = 0; r != -ENOENT; first = first && r == -ENOSPC) {
		struct entry *bigger;
		__u32 got = (__u32)batch;

		if (!keys) {
			keys = calloc(batch, sizeof(*keys));
			values = calloc(batch, sizeof(*values));
			if (!keys || !values)
				return -ENOMEM;
		}
		r = bpf_map_lookup_batch(
			t->counts, first ? NULL : &token, &token, keys, values, &got, &o);
		if (r == -ENOSPC) { /* one bucket of the hash holds more than fit */
			batch *= 4;
			if (batch > (size_t)PYLEAK_MAX_TYPES * 4)
				return -ENOSPC;
			freep(&keys);
			freep(&values);
			keys = NULL;
			values = NULL;
			continue;
		}
		if (r && r != -ENOENT)
			return r;
		if (n + got > cap) {
			cap = MAX(cap * 2, n + got);
			bigger = realloc(v, cap * sizeof(*v));
			if (!bigger)
				return -ENOMEM;
			v = bigger;
		}
		for (__u32 i = 0; i < got; i++)
			v[n++] = (struct entry){.type = keys[i], .count = values[i]};
	}
	*ret = TAKE_PTR(v);
	*ret_n = n;
	return 0;
}

/* Whether it says something. Types whose deaths nobody sees do not: their births alone would
 * look like a leak. */
static bool worth_telling(const struct pyleak_count *c)
{
	return c->flags & PYLEAK_COUNT_GC;
}

static void gone_add(struct gone_list *g, const struct pyleak_event *e)
{
	struct gone *bigger;
	size_t cap;

	if (g->n == g->cap) {
		cap = g->cap ? g->cap * 2 : 64;
		bigger = cap <= GONE_MAX ? realloc(g->v, cap * sizeof(*bigger)) : NULL;
		if (!bigger) {
			g->dropped++;
			return;
		}
		g->v = bigger;
		g->cap = cap;
	}
	g->v[g->n++] = (struct gone){.type = e->type, .count = e->count, .epoch = e->epoch};
}

/* The incarnations that have died, as a set. */
static int gone_set(const struct gone_list *g, struct u64map *ret)
{
	int r = u64map_reserve(ret, g->n);

	for (size_t i = 0; i < g->n && !r; i++)
		r = u64map_put(ret, g->v[i].count.incarnation, i + 1);
	return r;
}

static int drain(struct probe *p);

int probe_target_read(struct probe_target *t, struct probe_count **ret, size_t *ret_n,
	struct probe_totals *ret_totals)
{
	const struct pyleak_target *s = &t->probe->shared[t->slot];
	_cleanup_free_ struct probe_count *out = NULL;
	_cleanup_free_ struct entry *v = NULL;
	_cleanup_(u64map_release) struct u64map gone = {0};
	size_t n, n_out = 0;
	uint64_t stepped;
	int r;

	/* The entries first, the dead after: what dies in between is in both, never in none. */
	r = read_counts(t, &v, &n);
	if (!r)
		r = drain(t->probe);
	if (!r)
		r = gone_set(&t->gone, &gone);
	if (r)
		return r;
	out = calloc(n + t->gone.n + 1, sizeof(*out));
	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct pyleak_count *c = &v[i].count;

		if (worth_telling(c) && !u64map_get(&gone, c->incarnation))
			out[n_out++] = (struct probe_count){.type = v[i].type,
				.incarnation = c->incarnation,
				.births = c->births,
				.deaths = c->deaths};
	}
	for (size_t i = 0; i < t->gone.n; i++) {
		const struct pyleak_count *c = &t->gone.v[i].count;

		if (worth_telling(c))
			out[n_out++] = (struct probe_count){.type = t->gone.v[i].type,
				.incarnation = c->incarnation,
				.births = c->births,
				.deaths = c->deaths,
				.gone = true};
	}
	t->gone.n = 0;
	if (ret_totals) {
		stepped = __atomic_load_n(&s->hits_stepped, __ATOMIC_RELAXED);
		ret_totals->hits = slot_hits(t->probe, t->slot);
		ret_totals->dropped = __atomic_load_n(&s->dropped, __ATOMIC_RELAXED) +
				      __atomic_load_n(&s->lost, __ATOMIC_RELAXED) + t->gone.dropped;
		ret_totals->run_ns = (ret_totals->hits > stepped ? ret_totals->hits - stepped : 0) *
					     t->probe->cost_ns +
				     stepped * t->probe->cost_stepped_ns;
	}
	*ret = TAKE_PTR(out);
	*ret_n = n_out;
	return 0;
}

/* ---- census ---- */

static struct census_type census_type_at(const struct entry *e, uint32_t epoch)
{
	const struct pyleak_count *c = &e->count;
	bool stamped = c->epoch == epoch;

	return (struct census_type){.type = e->type,
		.live = c->live_epoch == epoch ? c->live : 0,
		.births = stamped ? c->births_at : c->births,
		.deaths = stamped ? c->deaths_at : c->deaths,
		.incarnation = c->incarnation};
}

/* The counters of every type as they stood at the census's instant, see struct pyleak_count. */
static int census_collect(struct probe_target *t, uint32_t epoch)
{
	_cleanup_free_ struct entry *v = NULL;
	_cleanup_free_ struct census_type *out = NULL;
	_cleanup_(u64map_release) struct u64map seen = {0};
	struct pyleak_count again;
	size_t n, n_out = 0;
	int r;

	r = read_counts(t, &v, &n);
	if (r)
		return r;
	for (size_t i = 0; i < n; i++) {
		/* A hit may have changed it while it was copied. Stamped at the first look: the
		 * second is whole. Not stamped at the second: the first is. Else a third. If it
		 * is gone, its event has the truth. */
		bool was = v[i].count.epoch == epoch;

		r = bpf_map_lookup_elem(t->counts, &v[i].type, &again);
		if (!r && again.epoch == epoch && !was)
			r = bpf_map_lookup_elem(t->counts, &v[i].type, &again);
		if (r || again.incarnation != v[i].count.incarnation)
			v[i].count.incarnation = 0;
		else if (again.epoch == epoch)
			v[i].count = again;
	}
	ring_buffer__consume(t->probe->ring);
	out = calloc(n + t->gone.n + 1, sizeof(*out));
	if (!out || u64map_reserve(&seen, n))
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (!v[i].count.incarnation || !worth_telling(&v[i].count))
			continue;
		out[n_out] = census_type_at(&v[i], epoch);
		if (!out[n_out].live && !out[n_out].births && !out[n_out].deaths)
			continue; /* came after the census, or was never counted */
		if (t->gone.n && u64map_put(&seen, v[i].count.incarnation, 1))
			return -ENOMEM;
		n_out++;
	}
	for (size_t i = 0; i < t->gone.n; i++) {
		struct entry e = {.type = t->gone.v[i].type, .count = t->gone.v[i].count};

		if (t->gone.v[i].epoch < epoch) /* had died before */
			continue;
		if (u64map_get(&seen, e.count.incarnation) || !worth_telling(&e.count))
			continue;
		out[n_out] = census_type_at(&e, epoch);
		if (out[n_out].live || out[n_out].births || out[n_out].deaths)
			n_out++;
	}
	t->result_types = TAKE_PTR(out);
	t->result.types = t->result_types;
	t->result.n_types = n_out;
	return 0;
}

/* Turns an answered census into a result that waits for probe_dispatch(). */
static int census_finish(struct probe_target *t)
{
	const struct pyleak_census *c = &t->probe->shared[t->slot].census;
	int r = 0;

	t->result = (struct census_result){
		.at_ms =
			now_realtime_ms() - (int64_t)((now_monotonic_ns() - c->start_ns) / 1000000),
		.pause_ns = c->end_ns - c->start_ns,
		.objects = c->objects,
	};
	if (c->status == PYLEAK_CENSUS_OK)
		r = census_collect(t, c->epoch);
	else
		t->result.status =
			c->status == PYLEAK_CENSUS_TOO_LARGE ? CENSUS_TOO_LARGE : CENSUS_FAULT;
	if (r)
		t->result.status = CENSUS_FAULT;
	t->ready = true;
	return r == -ENOMEM ? r : 0;
}

static int on_event(void *userdata, void *data, size_t n)
{
	struct probe *p = userdata;
	const struct pyleak_event *e = data;
	struct probe_target *t;

	if (n < sizeof(*e) || e->slot >= p->max_targets || !p->targets[e->slot])
		return 0;
	t = p->targets[e->slot];
	if (e->kind == PYLEAK_EVENT_GONE)
		gone_add(&t->gone, e);
	return 0; /* an ended census shows in the slot itself */
}

/* Takes in all events; answered censuses become results. */
static int drain(struct probe *p)
{
	int n = ring_buffer__consume(p->ring), r = 0;

	if (n < 0)
		return n;
	for (unsigned i = 0; i < p->max_targets; i++) {
		struct probe_target *t = p->targets[i];

		if (!t || !t->armed || t->ready ||
			__atomic_load_n(&p->shared[i].census.number, __ATOMIC_SEQ_CST) != t->armed)
			continue;
		r = census_finish(t);
		/* Whoever called may not be the event loop: make sure that comes round. */
		if (eventfd_write(p->wake, 1) < 0 && errno != EAGAIN)
			return -errno;
	}
	return r;
}

int probe_fd(const struct probe *p)
{
	return p->epoll;
}

int probe_dispatch(struct probe *p)
{
	eventfd_t ignored;
	int r = drain(p);

	eventfd_read(p->wake, &ignored);
	for (unsigned i = 0; i < p->max_targets; i++) {
		struct probe_target *t = p->targets[i];
		_cleanup_free_ struct census_type *types = NULL;
		struct census_result result;

		if (!t || !t->ready)
			continue;
		/* The callback may arm the next one, or free the target. */
		t->ready = false;
		t->armed = 0;
		result = t->result;
		types = TAKE_PTR(t->result_types);
		if (t->options.on_census)
			t->options.on_census(t, &result, t->options.userdata);
	}
	return r;
}

int probe_census_arm(struct probe_target *t, uint64_t budget_ns)
{
	struct pyleak_target *s = &t->probe->shared[t->slot];

	if (!t->has_rings)
		return -EPROTO;
	if (t->armed)
		return -EBUSY;
	if (++t->number == 0)
		t->number = 1;
	t->armed = t->number;
	s->budget_ns = budget_ns;
	s->armed_ns = now_monotonic_ns();
	__atomic_store_n(&s->armed, t->number, __ATOMIC_SEQ_CST);
	return 0;
}

void probe_census_cancel(struct probe_target *t)
{
	__atomic_store_n(&t->probe->shared[t->slot].armed, 0, __ATOMIC_SEQ_CST);
	/* If the walk has begun its event will come, with a number that nobody waits for. */
	t->armed = 0;
	t->ready = false;
	free(t->result_types);
	t->result_types = NULL;
}

/* Gives a type that no hit has shown yet its entry, so that it has one identity from now on. */
static int entry_make(struct probe_target *t, uint64_t type, struct pyleak_count *ret)
{
	struct pyleak_target *s = &t->probe->shared[t->slot];
	struct pyleak_count c = {.epoch = __atomic_load_n(&s->epoch, __ATOMIC_SEQ_CST)};
	uint64_t flags;
	int r;

	r = mem_read_u64(t->py->id.pid, type + OFF_TP_FLAGS, &flags);
	if (r)
		return r;
	if (flags & TPFLAGS_HAVE_GC)
		c.flags |= PYLEAK_COUNT_GC;
	if (flags & TPFLAGS_TYPE_SUBCLASS)
		c.flags |= PYLEAK_COUNT_META;
	c.incarnation = __atomic_add_fetch(&t->probe->bpf->bss->incarnations, 1, __ATOMIC_SEQ_CST);
	r = bpf_map_update_elem(t->counts, &type, &c, BPF_NOEXIST);
	if (r && r != -EEXIST)
		return r;
	return bpf_map_lookup_elem(t->counts, &type, ret);
}

int probe_census_outside(struct probe_target *t, uint64_t max_objects)
{
	_cleanup_free_ struct python_level *levels = NULL;
	_cleanup_free_ struct census_type *out = NULL;
	struct census_result result = {.outside = true};
	struct pyleak_count c;
	uint64_t before, objects;
	size_t n, n_out = 0;
	int r;

	if (!t->has_rings)
		return -EPROTO;
	before = slot_hits(t->probe, t->slot);
	r = python_read_levels(t->py, &t->rings, 3, max_objects, &levels, &n, &objects);
	if (r)
		return r;
	result.at_ms = now_realtime_ms();
	result.objects = objects;
	out = calloc(n + 1, sizeof(*out));
	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (bpf_map_lookup_elem(t->counts, &levels[i].type, &c)) {
			r = entry_make(t, levels[i].type, &c);
			if (r)
				return r == -E2BIG ? -ENOSPC : -EAGAIN;
		}
		out[n_out++] = (struct census_type){.type = levels[i].type,
			.live = levels[i].count,
			.births = c.births,
			.deaths = c.deaths,
			.incarnation = c.incarnation};
	}
	/* Levels and counters belong together only if nothing was born or died meanwhile. */
	if (slot_hits(t->probe, t->slot) != before)
		return -EAGAIN;
	result.types = out;
	result.n_types = n_out;
	if (t->options.on_census)
		t->options.on_census(t, &result, t->options.userdata);
	return 0;
}
