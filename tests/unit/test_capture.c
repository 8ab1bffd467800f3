/* SPDX-License-Identifier: MIT */
/* The parts of the capture helper that need no target: control groups, the units the walker
 * writes (which may be nonsense), strings, and which system calls may be made again. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/util/cgroup.h"
#include "capture/graph.h"
#include "capture/huge.h"
#include "capture/job.h"
#include "capture/preflight.h"
#include "capture/labels.h"
#include "capture/stop.h"
#include "capture/strings.h"

/* ---- control groups ---- */

static char folder[300];

static void put_file(const char *name, const char *text)
{
	char path[512], *slash;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	for (slash = path + strlen(folder) + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = '\0';
		(void)mkdir(path, 0700);
		*slash = '/';
	}
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fputs(text, f) < 0, 0);
	fclose(f);
}

static int make_folder(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(folder, sizeof(folder), "%s/test_capture.XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(folder));
	cgroup_set_root(folder);
	put_file("proc/meminfo",
		"MemTotal:       1000000 kB\nMemFree: 5 kB\nMemAvailable:    600000 kB\n");
	return 0;
}

static int remove_folder(void **state)
{
	char command[600];

	cgroup_set_root("");
	snprintf(command, sizeof(command), "rm -r '%s'", folder);
	return system(command);
}

static void two_levels_of_v2(void **state)
{
	struct memory_room group, host;
	struct cgroup g;

	put_file("proc/42/cgroup", "0::/app.slice/app.service\n");
	put_file("proc/self/mountinfo",
		"22 1 0:20 / /proc rw - proc proc rw\n"
		"31 23 0:28 / /cg rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
	put_file("cg/app.slice/app.service/memory.max", "max\n");
	put_file("cg/app.slice/app.service/memory.current", "7\n");
	put_file("cg/app.slice/memory.max", "1000\n");
	put_file("cg/app.slice/memory.current", "900\n");
	put_file("cg/app.slice/memory.stat", "anon 5\ninactive_file 300\nactive_file 1\n");
	put_file("cg/app.slice/app.service/pids.max", "20\n");
	put_file("cg/app.slice/app.service/pids.current", "15\n");
	put_file("cg/app.slice/pids.max", "max\n");
	cgroup_find(42, "memory", &g);
	assert_true(g.v2);
	assert_int_equal(g.n, 3);
	cgroup_memory_room(&g, &group, &host);
	assert_int_equal(group.limit_bytes, 1000);
	assert_int_equal(group.free_bytes, 400);
	assert_int_equal(host.limit_bytes, 1000000 * 1024ULL);
	assert_int_equal(host.free_bytes, 600000 * 1024ULL);
	cgroup_find(42, "pids", &g);
	assert_int_equal(cgroup_pids_free(&g), 5);
}

static void v1_in_a_container(void **state)
{
	struct memory_room group, host;
	struct cgroup g;

	/* the group is mounted at its own folder, as docker does it */
	put_file("proc/42/cgroup",
		"9:name=systemd:/x\n4:memory:/docker/abc/inner\n3:cpu,pids:/\n0::/\n");
	put_file("proc/self/mountinfo",
		"35 31 0:32 /docker/abc /cg/memory rw shared:1 - cgroup cgroup rw,memory\n"
		"36 31 0:33 / /cg/pids rw - cgroup cgroup rw,cpu,pids\n");
	put_file("cg/memory/inner/memory.limit_in_bytes", "9223372036854771712\n");
	put_file("cg/memory/memory.limit_in_bytes", "2000\n");
	put_file("cg/memory/memory.usage_in_bytes", "2500\n");
	put_file("cg/pids/pids.max", "10\n");
	put_file("cg/pids/pids.current", "12\n");
	cgroup_find(42, "memory", &g);
	assert_false(g.v2);
	assert_int_equal(g.n, 2);
	cgroup_memory_room(&g, &group, &host);
	assert_int_equal(group.limit_bytes, 2000);
	assert_int_equal(group.free_bytes, 0);
	cgroup_find(42, "pids", &g);
	assert_int_equal(g.n, 1);
	assert_int_equal(cgroup_pids_free(&g), 0);
}

/* v1 has the limits, systemd's hybrid hierarchy; v2 tells of the pressure, of another group. */
static void pressure_beside_v1(void **state)
{
	struct memory_pressure group, host;
	struct cgroup g;

	put_file("proc/42/cgroup", "4:memory:/limited\n0::/app.service\n");
	put_file("proc/self/mountinfo",
		"35 31 0:32 / /cg/memory rw shared:1 - cgroup cgroup rw,memory\n"
		"36 31 0:33 / /cg/unified rw - cgroup2 cgroup2 rw\n");
	put_file("cg/unified/app.service/memory.pressure",
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
		"full avg10=6.00 avg60=1.00 avg300=0.00 total=8\n");
	cgroup_find(42, "memory", &g);
	assert_false(g.v2);
	assert_string_equal(g.dir[0] + strlen(folder), "/cg/memory/limited");
	cgroup_memory_pressure(&g, &group, &host);
	assert_true(group.full_percent == 0);
	cgroup_find(42, NULL, &g);
	assert_true(g.v2);
	cgroup_memory_pressure(&g, &group, &host);
	assert_true(group.full_percent == 6);
	assert_int_equal(group.full_us, 8);
}

static void pressure_of_groups_and_host(void **state)
{
	struct memory_pressure group, host;
	struct cgroup g;

	put_file("proc/42/cgroup", "0::/app.slice/app.service\n");
	put_file("proc/self/mountinfo", "31 23 0:28 / /cg rw - cgroup2 cgroup2 rw\n");
	put_file("cg/app.slice/app.service/memory.pressure",
		"some avg10=90.00 avg60=1.00 avg300=0.00 total=77\n"
		"full avg10=1.50 avg60=1.00 avg300=0.00 total=1500\n");
	put_file("cg/app.slice/memory.pressure",
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
		"full avg10=7.25 avg60=1.00 avg300=0.00 total=900\n");
	cgroup_find(42, "memory", &g);
	cgroup_memory_pressure(&g, &group, &host);
	assert_true(group.full_percent == 7.25);
	assert_int_equal(group.full_us, 1500);
	/* a kernel without it */
	assert_true(host.full_percent == 0);
	assert_int_equal(host.full_us, 0);
	put_file("proc/pressure/memory",
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
		"full avg10=3.00 avg60=0.00 avg300=0.00 total=12345678901\n");
	put_file("cg/app.slice/memory.pressure", "full of nonsense\n");
	cgroup_memory_pressure(&g, &group, &host);
	assert_true(group.full_percent == 1.5);
	assert_true(host.full_percent == 3);
	assert_true(host.full_us == 12345678901);
}

static void shadow_stacks(void **state)
{
	assert_true(preflight_shadow_stack("Name:\tx\nx86_Thread_features:\tshstk \n"));
	assert_true(preflight_shadow_stack("x86_Thread_features:\twrss shstk \nThreads:\t1\n"));
	assert_false(preflight_shadow_stack(
		"x86_Thread_features:\t\nx86_Thread_features_locked:\tshstk wrss \n"));
	assert_false(preflight_shadow_stack("Name:\tshstk\n"));
	assert_false(preflight_shadow_stack(""));
}

static void nothing_known_limits_nothing(void **state)
{
	struct memory_room group, host;
	struct cgroup g;

	cgroup_find(42, "memory", &g);
	assert_int_equal(g.n, 0);
	put_file("proc/42/cgroup", "0::/../../elsewhere\ngarbage\n:\n::\n");
	put_file("proc/self/mountinfo", "31 23 0:28 / /cg rw - cgroup2 cgroup2 rw\nshort\n - \n");
	put_file("cg/memory.max", "what\n");
	cgroup_find(42, "memory", &g);
	assert_true(g.n <= 1);
	cgroup_memory_room(&g, &group, &host);
	assert_int_equal(group.limit_bytes, 0);
	assert_true(cgroup_pids_free(&g) == UINT64_MAX);
}

/* ---- units ---- */

#define NODE(addr, flags)                                                                          \
	{addr, WALK_MAKE(WALK_NODE, WALK_NODE_ARG(64, flags))},                                    \
	{                                                                                          \
		0x1000, 3                                                                          \
	}

static void nodes_and_edges(void **state)
{
	const struct walk_unit u[] = {
		NODE(0x10000, WALK_NODE_TRACKED),
		{0x20000, WALK_MAKE(WALK_EDGE_INDEX, 7)},
		{0x30000, WALK_MAKE(WALK_EDGE_KEYED, 0x5000) | WALK_UNTRACKED},
		{0x30000, WALK_MAKE(WALK_EDGE_PLAIN, 0) | WALK_UNTRACKED},
		NODE(0x20000, WALK_NODE_TRACKED),
		{0x40000, WALK_MAKE(WALK_EDGE_PLAIN, 0)},
		{0x20000, WALK_MAKE(WALK_SKIP, 0)},
		NODE(0x30000, 0),
		{0x99000, WALK_MAKE(WALK_EDGE_PLAIN, 0)},
		{0x30000, WALK_MAKE(WALK_AGAIN, 0)},
		{0x98000, WALK_MAKE(WALK_EDGE_PLAIN, 0)},
	};
	struct graph g = {.minor = 11};

	assert_int_equal(graph_take(&g, u, sizeof(u) / sizeof(u[0])), 0);
	assert_int_equal(g.n_nodes, 3);
	assert_int_equal(g.n_types, 1);
	assert_int_equal(g.n_edges, 4);
	assert_int_equal(g.nodes[0].n_edges, 3);
	assert_int_equal(g.nodes[0].flags, SNAPSHOT_NODE_TRACKED);
	assert_int_equal(g.nodes[0].bytes, 64);
	assert_int_equal(g.nodes[1].n_edges, 0);
	assert_int_equal(g.nodes[1].flags, SNAPSHOT_NODE_TRACKED | SNAPSHOT_NODE_SKIPPED);
	assert_int_equal(g.nodes[2].n_edges, 1);
	assert_int_equal(g.edges[3].raw.a, 0x98000);
	assert_int_equal(g.skipped, 1);
	/* once, though two edges lead there */
	assert_int_equal(g.n_queue, 1);
	assert_int_equal(g.queue[0], 0x30000);
	graph_release(&g);
}

/* a <- b <- c, and d of the wanted type as a, held by nobody; e holds none of them */
static void neighbours_in_rounds(void **state)
{
	const struct walk_unit u[] = {
		NODE(0xc000, WALK_NODE_TRACKED),
		{0xb000, WALK_MAKE(WALK_EDGE_INDEX, 0)},
		NODE(0xe000, WALK_NODE_TRACKED),
		{0xf000, WALK_MAKE(WALK_EDGE_INDEX, 0)},
		NODE(0xb000, WALK_NODE_TRACKED),
		{0xf000, WALK_MAKE(WALK_EDGE_INDEX, 0) | WALK_UNTRACKED},
		{0xa000, WALK_MAKE(WALK_EDGE_INDEX, 1)},
		{0xa000, WALK_MAKE(WALK_NODE, WALK_NODE_ARG(64, 0))},
		{0x2000, 3},
		{0xd000, WALK_MAKE(WALK_NODE, WALK_NODE_ARG(64, 0))},
		{0x2000, 3},
	};
	const size_t n = sizeof(u) / sizeof(u[0]);
	const int64_t more[] = {2, 1, 1, 0};
	struct graph g = {.minor = 12};
	struct walk_unit headers[sizeof(u) / sizeof(u[0])];
	size_t n_headers = 0;

	for (size_t i = 0; i < n; i++)
		if (WALK_TAG(u[i].b) == WALK_NODE) {
			headers[n_headers++] = u[i++];
			headers[n_headers++] = u[i];
		}
	graph_restart(&g, GRAPH_TYPES);
	assert_int_equal(graph_take(&g, headers, n_headers), 0);
	assert_int_equal(g.n_types, 2);
	assert_int_equal(u64map_put(&g.wanted, 0x2000, 1), 0);
	for (size_t i = 0; i < 4; i++) {
		graph_restart(&g, GRAPH_NEAR);
		/* in pieces, as buffers are drained */
		assert_int_equal(graph_take(&g, u, 3), 0);
		assert_int_equal(graph_take(&g, u + 3, n - 3), 0);
		assert_int_equal(graph_settle(&g), more[i]);
	}
	assert_int_equal(g.n_nodes, 4);
	assert_int_equal(g.nodes[0].addr, 0xc000);
	assert_int_equal(g.nodes[1].addr, 0xb000);
	assert_int_equal(g.nodes[1].n_edges, 1);
	assert_int_equal(g.n_edges, 2);
	assert_int_equal(g.edges[1].raw.a, 0xa000);
	assert_int_equal(g.n_queue, 0);
	graph_restart(&g, GRAPH_NODES);
	assert_int_equal(graph_take(&g, headers, n_headers), 0);
	assert_int_equal(graph_take(&g, u + 2, 1), -EPROTO);
	assert_int_equal(g.n_nodes, 5);
	assert_int_equal(g.n_edges, 0);
	graph_release(&g);
}

static void a_graph_has_its_limit(void **state)
{
	const struct walk_unit u[] = {NODE(0x10000, 0)};
	struct graph g = {.minor = 12, .max_bytes = 200000};
	int r = 0;

	for (int i = 0; i < 100000 && r == 0; i++)
		r = graph_take(&g, u, 2);
	assert_int_equal(r, -ENOMEM);
	assert_true(g.n_nodes > 1000 && g.cap_nodes * sizeof(*g.nodes) <= 200000);
	graph_restart(&g, GRAPH_NODES);
	assert_int_equal(g.bytes, g.cap_types * sizeof(*g.types));
	assert_int_equal(graph_take(&g, u, 2), 0);
	graph_release(&g);
}

static void nonsense_is_refused(void **state)
{
	const struct walk_unit cut[] = {{0x10000, WALK_MAKE(WALK_NODE, 0)}};
	const struct walk_unit orphan[] = {{0x10000, WALK_MAKE(WALK_EDGE_PLAIN, 0)}};
	const struct walk_unit stray[] = {NODE(0x10000, 0), {0x20000, WALK_MAKE(WALK_SKIP, 0)}};
	const struct walk_unit unknown[] = {NODE(0x10000, 0), {0x20000, WALK_MAKE(0x7f, 0)}};
	const struct walk_unit zero[] = {{0, 0}};
	struct graph g = {.minor = 13};

	assert_int_equal(graph_take(&g, cut, 1), -EPROTO);
	assert_int_equal(graph_take(&g, orphan, 1), -EPROTO);
	assert_int_equal(graph_take(&g, stray, 3), -EPROTO);
	assert_int_equal(graph_take(&g, unknown, 3), -EPROTO);
	assert_int_equal(graph_take(&g, zero, 1), -EPROTO);
	graph_release(&g);
}

static struct snapshot_node refcount_node(int minor, uint64_t raw)
{
	const struct walk_unit u[] = {{0x10000, WALK_MAKE(WALK_NODE, 0)}, {0x1000, raw}};
	struct graph g = {.minor = minor};
	struct snapshot_node n;

	assert_int_equal(graph_take(&g, u, 2), 0);
	n = g.nodes[0];
	graph_release(&g);
	return n;
}

static void refcounts_of_every_version(void **state)
{
	assert_int_equal(refcount_node(8, 5).refcount, 5);
	assert_int_equal(refcount_node(8, 999999999).flags, 0);
	assert_int_equal(refcount_node(11, 999999998).flags, SNAPSHOT_NODE_IMMORTAL);
	assert_int_equal(refcount_node(11, 70000).flags, 0);
	assert_int_equal(refcount_node(12, 0xffffffff).flags, SNAPSHOT_NODE_IMMORTAL);
	assert_int_equal(refcount_node(13, 7).flags, 0);
	assert_int_equal(refcount_node(14, 0x00010000c0000000).flags, SNAPSHOT_NODE_IMMORTAL);
	/* flags stand in the upper half */
	assert_int_equal(refcount_node(14, 0x0001000000000003).refcount, 3);
}

/* ---- strings ---- */

static void strings_once_each(void **state)
{
	struct strings s = {0};
	char text[16];

	assert_int_equal(strings_add(&s, "", 0), 0);
	assert_int_equal(strings_add(&s, "a", 1), 1);
	assert_int_equal(strings_add(&s, "ab", 2), 2);
	assert_int_equal(strings_add(&s, "a", 1), 1);
	for (int i = 0; i < 5000; i++) {
		int n = snprintf(text, sizeof(text), "n%d", i);

		assert_int_equal(strings_add(&s, text, (size_t)n), 3 + i);
	}
	assert_int_equal(strings_add(&s, "n4711", 5), 3 + 4711);
	assert_int_equal(s.n, 5003);
	assert_int_equal(s.v[2].length, 2);
	assert_memory_equal(s.bytes + s.v[2].at, "ab", 2);
	strings_release(&s);
}

static void strings_have_an_end(void **state)
{
	struct strings s = {0};
	char *big = malloc(40 << 20);

	assert_non_null(big);
	memset(big, 'x', 40 << 20);
	assert_int_equal(strings_add(&s, big, 40 << 20), 1);
	assert_int_equal(strings_add(&s, big, (40 << 20) - 1), 0);
	assert_int_equal(strings_add(&s, "small", 5), 2);
	free(big);
	strings_release(&s);
}

/* ---- system calls ---- */

static struct user_regs_struct interrupted(long nr, long result)
{
	struct user_regs_struct r = {0};

	r.orig_rax = (unsigned long)nr;
	r.rax = (unsigned long)result;
	return r;
}

static void what_may_be_made_again(void **state)
{
	struct user_regs_struct r = interrupted(SYS_epoll_wait, -EINTR);

	assert_true(stop_fix_eintr(&r));
	assert_int_equal((long)r.rax, -KERNEL_ERESTARTNOHAND);
	assert_true(stop_in_syscall(&r));
	/* would close somebody else's descriptor */
	r = interrupted(SYS_close, -EINTR);
	assert_false(stop_fix_eintr(&r));
	/* a result, not an interruption */
	r = interrupted(SYS_recvfrom, 4);
	assert_false(stop_fix_eintr(&r));
	assert_false(stop_in_syscall(&r));
	/* not in a system call at all: the number there is an old one */
	r = interrupted(-1, -EINTR);
	assert_false(stop_fix_eintr(&r));
	assert_false(stop_in_syscall(&r));
	/* the kernel starts these again by itself */
	r = interrupted(SYS_read, -KERNEL_ERESTARTSYS);
	assert_false(stop_fix_eintr(&r));
	assert_true(stop_in_syscall(&r));
}

static void what_looks_random(void **state)
{
	static const char *const names[] = {"", "x", "SESSIONS", "attribute_made_7",
		"utf8_to_utf16", "SHA256", "_cache", "getUserByIdentifier", "decode", "added",
		"x86_64", "s3_bucket_2", "feedback", "größe", "value2member_map", "d2", "a1b2",
		"http2_max_streams", "RegisterUserByName", "MAX_RETRIES_PER_HOST_2"};
	static const char *const random[] = {"d41d8cd98f00b204e9800998ecf8427e", "deadbeef01",
		"deadbeefcafebabe", "sk_live_a8f5f167f44f4964e6c998dee827110c",
		"t8f14e45fceea167a5a36", "Zk3QpXv9LmT2", "a_0b4e7c2d_b3c4d5e6f708",
		"RsB_hwQbgMW_oVek_v3mniCoUkBLfqm"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (labels_looks_random(names[i], strlen(names[i])))
			fail_msg("%s is a name", names[i]);
	for (size_t i = 0; i < ARRAY_SIZE(random); i++)
		if (!labels_looks_random(random[i], strlen(random[i])))
			fail_msg("%s is no name", random[i]);
}

/* ---- refusals ---- */

static void which_guard_it_was(void **state)
{
	struct job j = {0};
	struct err err;

	(void)state;
	assert_int_equal(job_refusal(&j, -EDQUOT), CAPTURE_BY_MEMORY);
	assert_int_equal(job_refusal(&j, -EOPNOTSUPP), CAPTURE_BY_KIND);
	assert_int_equal(job_refusal(&j, -EAGAIN), CAPTURE_BY_MOMENT);
	assert_int_equal(job_refusal(&j, -EBUSY), CAPTURE_BY_MOMENT);
	assert_int_equal(job_refusal(&j, -EACCES), CAPTURE_BY_RIGHT);
	assert_int_equal(job_refusal(&j, -EPROTO), CAPTURE_BY_OTHER);
	assert_int_equal(job_refuse(&j, CAPTURE_BY_PAUSE, &err, -EDQUOT, "%d ms", 7), -EDQUOT);
	assert_string_equal(err.msg, "7 ms");
	assert_int_equal(job_refusal(&j, -EDQUOT), CAPTURE_BY_PAUSE);
}

/* ---- huge pages ---- */

#define MIB ((uint64_t)1 << 20)

static void which_huge_pages_are_asked_for(void **state)
{
	static const struct {
		struct huge_area before;
		struct huge_area now[2]; /* bytes 0: not there */
		uint64_t start, end;     /* 0: not asked for */
	} cases[] = {
		/* whole before, some of it split */
		{{100 * MIB, 140 * MIB, 40 * MIB}, {{100 * MIB, 140 * MIB, 10 * MIB}}, 100 * MIB, 140 * MIB},
		{{100 * MIB, 140 * MIB, 40 * MIB}, {{0}}, 100 * MIB, 140 * MIB},
		/* only what huge pages can cover: 2 MiB inside of ragged ends */
		{{101 * MIB + 4096, 141 * MIB - 4096, 38 * MIB}, {{0}}, 102 * MIB, 140 * MIB},
		/* nothing was lost, or there is more than there was */
		{{100 * MIB, 140 * MIB, 40 * MIB}, {{100 * MIB, 140 * MIB, 40 * MIB}}, 0, 0},
		{{100 * MIB, 140 * MIB, 38 * MIB}, {{100 * MIB, 140 * MIB, 40 * MIB}}, 0, 0},
		/* nine tenths; a huge page less is holes, which must stay holes */
		{{100 * MIB, 140 * MIB, 36 * MIB}, {{0}}, 100 * MIB, 140 * MIB},
		{{100 * MIB, 140 * MIB, 34 * MIB}, {{0}}, 0, 0},
		{{100 * MIB, 140 * MIB, 2 * MIB}, {{0}}, 0, 0},
		/* an mprotect() in between made two of it: both count */
		{{100 * MIB, 140 * MIB, 40 * MIB},
			{{100 * MIB, 120 * MIB, 20 * MIB}, {120 * MIB, 140 * MIB, 20 * MIB}}, 0, 0},
		{{100 * MIB, 140 * MIB, 40 * MIB},
			{{100 * MIB, 120 * MIB, 20 * MIB}, {120 * MIB, 140 * MIB, 18 * MIB}}, 100 * MIB, 140 * MIB},
		/* a neighbour's are no comfort */
		{{100 * MIB, 140 * MIB, 40 * MIB},
			{{60 * MIB, 100 * MIB, 40 * MIB}, {140 * MIB, 180 * MIB, 40 * MIB}}, 100 * MIB, 140 * MIB},
		/* no huge page fits in */
		{{100 * MIB + 4096, 102 * MIB, 0}, {{0}}, 0, 0},
		{{101 * MIB, 102 * MIB, 0}, {{0}}, 0, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct huge now = {.v = (struct huge_area *)cases[i].now,
			.n = (size_t)(cases[i].now[0].bytes > 0) + (cases[i].now[1].bytes > 0)};
		uint64_t start = 0, end = 0;
		bool lost = huge_is_lost(&cases[i].before, &now, &start, &end);

		if (lost != (cases[i].end > 0) || start != cases[i].start || end != cases[i].end)
			fail_msg("case %zu: %d, %" PRIx64 " to %" PRIx64, i, lost, start, end);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(two_levels_of_v2, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(v1_in_a_container, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(
			pressure_of_groups_and_host, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(pressure_beside_v1, make_folder, remove_folder),
		cmocka_unit_test(shadow_stacks),
		cmocka_unit_test_setup_teardown(
			nothing_known_limits_nothing, make_folder, remove_folder),
		cmocka_unit_test(nodes_and_edges),
		cmocka_unit_test(neighbours_in_rounds),
		cmocka_unit_test(a_graph_has_its_limit),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(refcounts_of_every_version),
		cmocka_unit_test(strings_once_each),
		cmocka_unit_test(strings_have_an_end),
		cmocka_unit_test(what_may_be_made_again),
		cmocka_unit_test(what_looks_random),
		cmocka_unit_test(which_huge_pages_are_asked_for),
		cmocka_unit_test(which_guard_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
