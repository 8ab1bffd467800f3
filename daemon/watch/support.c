/* SPDX-License-Identifier: MIT */
#include "daemon/watch/support.h"

#include <jansson.h>
#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "daemon/dump/dump.h"
#include "daemon/probe/plan.h"
#include "daemon/probe/probe.h"
#include "daemon/python/mem.h"
#include "daemon/python/python.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

#define COLUMNS 100

static json_t *text(const char *s)
{
	json_t *j = json_string(s);

	return j ? j : json_string("?"); /* a path may be anything; JSON wants UTF-8 */
}

/* ---- the host ------------------------------------------------------------------------------ */

static json_t *host_probes(const struct probe *p, int r, const struct err *err)
{
	if (r)
		return json_pack("{s:b, s:s}", "works", 0, "reason", err->msg);
	return json_pack("{s:b, s:s, s:I, s:I}", "works", 1, "reason", probe_way_reason(p),
		"cost_ns", (json_int_t)probe_cost_ns(p, false), "cost_stepped_ns",
		(json_int_t)probe_cost_ns(p, true));
}

static json_t *host_capabilities(void)
{
	static const struct {
		const char *name;
		unsigned bit;
	} caps[] = {
		{"CAP_BPF", CAP_BPF},
		{"CAP_PERFMON", CAP_PERFMON},
		{"CAP_SYS_PTRACE", CAP_SYS_PTRACE},
		{"CAP_SYS_ADMIN", CAP_SYS_ADMIN},
	};
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {0};
	json_t *o = json_object();

	syscall(SYS_capget, &h, d);
	for (size_t i = 0; i < ARRAY_SIZE(caps); i++)
		json_object_set_new(o, caps[i].name,
			json_boolean(d[caps[i].bit / 32].effective & 1u << caps[i].bit % 32));
	return o;
}

/* Tried on a child of our own. To suspend seccomp is what a dump of a target under seccomp needs. */
static json_t *host_ptrace(void)
{
	static const uint64_t word = 0x70796c65616b;
	bool seize = false, suspend = false, memory = false;
	uint64_t got = 0;
	pid_t pid = fork();

	if (pid == 0) {
		pause();
		_exit(0);
	}
	if (pid > 0) {
		memory = mem_read_u64(pid, (uintptr_t)&word, &got) == 0 && got == word;
		suspend = ptrace(PTRACE_SEIZE, pid, 0,
				  PTRACE_O_EXITKILL | PTRACE_O_SUSPEND_SECCOMP) == 0;
		seize = suspend || ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL) == 0;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return json_pack("{s:b, s:b, s:b}", "seize", seize, "suspend_seccomp", suspend,
		"read_memory", memory);
}

/* ---- each Python --------------------------------------------------------------------------- */

static json_t *sites_json(const struct plan *plan)
{
	json_t *list = json_array();

	for (size_t i = 0; i < plan->n; i++) {
		const struct plan_site *s = &plan->v[i];

		json_array_append_new(
			list, json_pack("{s:s, s:s, s:i, s:s, s:b}", "kind",
				      s->kind == PLAN_BIRTH ? "birth" : "death", "function",
				      s->function, "offset", (int)s->place.delta, "instruction",
				      s->place.insn, "stepped", s->place.stepped));
	}
	return list;
}

static void _printf_(2, 3) miss(json_t *list, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	json_array_append_new(list, text(line));
}

/* What cannot be had of this process, and why; levels and rates are what is left. */
static json_t *shortcomings(const struct python *py, const json_t *sites, const struct probe *probe,
	const struct proc_info *info, const char **ret_levels, const char **ret_rates)
{
	json_t *list = json_array();
	struct python_rings rings;
	struct err err = {{0}};
	size_t stepped = 0, i;
	json_t *s;

	*ret_levels = "exact";
	*ret_rates = "exact";
	if (python_find_rings(py, &rings, &err)) {
		*ret_levels = "blind";
		*ret_rates = "estimate";
		miss(list, "no census, a dump gives the levels: %s", err.msg);
	} else if (py->interpreters > 1) {
		*ret_levels = "blind";
		*ret_rates = "estimate";
		miss(list,
			"no census while there %s %d sub-interpreter%s, whose objects are in lists "
			"of "
			"their own; a dump gives the levels of the main one",
			py->interpreters > 2 ? "are" : "is", py->interpreters - 1,
			py->interpreters > 2 ? "s" : "");
	}
	json_array_foreach (sites, i, s) {
		stepped += json_is_true(json_object_get(s, "stepped"));
	}
	if (stepped)
		miss(list, "%zu of %zu sites are single-stepped: %llu ns a hit instead of %llu",
			stepped, json_array_size(sites),
			(unsigned long long)probe_cost_ns(probe, true),
			(unsigned long long)probe_cost_ns(probe, false));
	/* Measured: Debian's 3.14.10 and 3.15.2. */
	if (py->minor >= 14 && !strcmp(*ret_rates, "exact")) {
		*ret_rates = "estimate";
		miss(list,
			"births of user classes may be inlined into the interpreter loop of this "
			"build (GCC 16 with LTO does so): where the census shows that, they are "
			"derived from it and from deaths");
	}
	if (info->seccomp_mode == 2)
		miss(list, "it is under seccomp: a dump needs ptrace's suspend_seccomp");
	if (info->tracer)
		miss(list, "pid %d traces it: no dump until it lets go", (int)info->tracer);
	return list;
}

/* A process of the same build that probes were put on already. */
static const json_t *twin_of(const json_t *list, const struct python *py)
{
	const json_t *row;
	size_t i;

	json_array_foreach (list, i, row) {
		const json_t *build = json_object_get(row, "build");
		const char *id = json_string_value(json_object_get(build, "build_id"));

		if (id && *id && !strcmp(id, py->build_id) &&
			json_is_true(json_object_get(row, "supported")))
			return row;
	}
	return NULL;
}

/* Attaches for a moment to learn which sites would be used, then lets go; once a build, because
 * to let go takes long where there are only perf uprobes. */
static json_t *python_row(struct probe *probe, pid_t pid, const json_t *before)
{
	struct probe_target_options po = {0};
	struct probe_target *t = NULL;
	struct python *py = NULL;
	struct proc_info info = {0};
	struct err err = {{0}};
	const char *levels, *rates;
	char sites[768] = "";
	const json_t *twin;
	json_t *row, *list, *missing;
	bool fits;
	int r;

	r = python_open(pid, &py, &err);
	if (r == -ENOEXEC || r == -ESRCH)
		return NULL;
	proc_info_get(pid, &info, NULL);
	if (r)
		return json_pack("{s:i, s:o, s:n, s:n, s:b, s:o, s:n, s:[], s:n, s:[o]}", "pid",
			pid, "comm", text(info.comm), "python", "build", "supported", 0, "reason",
			text(err.msg), "sites", "site_list", "expect", "missing", text(err.msg));
	twin = twin_of(before, py);
	if (twin) {
		snprintf(sites, sizeof(sites), "%s",
			json_string_value(json_object_get(twin, "sites")));
		list = json_incref(json_object_get(twin, "site_list"));
	} else if (probe && probe_attach(probe, py, &po, &t, &err) == 0) {
		probe_target_describe(t, sites, sizeof(sites));
		list = sites_json(probe_target_plan(t));
	} else {
		list = json_array();
	}
	fits = twin || t;
	missing = shortcomings(py, list, probe, &info, &levels, &rates);
	if (!fits)
		miss(missing, "no probes: %s", probe ? err.msg : "not possible on this host");
	row = json_pack("{s:i, s:o, s:s, s:{s:o, s:s, s:s, s:b}, s:b, s:o, s:s, s:o, s:b, s:i, "
			"s:{s:s, s:s}, s:o}",
		"pid", pid, "comm", text(info.comm), "python", py->version, "build", "path",
		text(py->path), "kind", py->kind == PYTHON_STATIC ? "static" : "shared", "build_id",
		py->build_id, "stripped", py->stripped, "supported", fits, "reason",
		text(fits ? "" : err.msg), "sites", sites, "site_list", list, "census",
		!strcmp(levels, "exact"), "interpreters", py->interpreters, "expect", "levels",
		fits ? levels : "blind", "rates", fits ? rates : "blind", "missing", missing);
	probe_target_free(t);
	python_free(py);
	return row;
}

static json_t *pythons(struct probe *probe)
{
	_cleanup_free_ pid_t *pids = NULL;
	json_t *list = json_array(), *row;
	size_t n = 0;

	proc_list(65536, &pids, &n);
	for (size_t i = 0; i < n; i++) {
		if (!python_looks_like(pids[i]))
			continue;
		row = python_row(probe, pids[i], list);
		if (row)
			json_array_append_new(list, row);
	}
	return list;
}

/* ---- for people ---------------------------------------------------------------------------- */

/* "  label    words words", wrapped, continued under the first word. */
static void print_field(FILE *f, const char *label, const char *s)
{
	size_t at = (size_t)fprintf(f, "  %-10s", label), indent = at;

	while (*s) {
		size_t n = strcspn(s, " ");

		if (at > indent && at + 1 + n > COLUMNS)
			at = (size_t)fprintf(f, "\n%*s", (int)indent, "") - 1;
		else if (at > indent)
			at += (size_t)fprintf(f, " ");
		at += (size_t)fprintf(f, "%.*s", (int)n, s);
		s += n;
		s += strspn(s, " ");
	}
	fputc('\n', f);
}

static const char *get_text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static void print_way(FILE *f, const char *label, const json_t *way, const char *more)
{
	char line[1024];
	bool works = json_is_true(json_object_get(way, "works"));

	if (works)
		snprintf(line, sizeof(line),
			"yes%s; a hit costs %lld ns, %lld ns where the instruction is "
			"single-stepped",
			more, json_integer_value(json_object_get(way, "cost_ns")),
			json_integer_value(json_object_get(way, "cost_stepped_ns")));
	else
		snprintf(line, sizeof(line), "no: %s", get_text(way, "reason"));
	print_field(f, label, line);
}

static void print_flags(FILE *f, const char *label, const json_t *flags)
{
	char line[256] = "";
	const char *key;
	json_t *v;

	json_object_foreach ((json_t *)flags, key, v) {
		size_t at = strlen(line);

		snprintf(line + at, sizeof(line) - at, "%s%s %s", at ? ", " : "", key,
			json_is_true(v) ? "yes" : "NO");
	}
	print_field(f, label, line);
}

static void print_sites(FILE *f, const json_t *row, const char *kind, const char *label)
{
	char line[4096] = "";
	json_t *s;
	size_t i;

	json_array_foreach (json_object_get(row, "site_list"), i, s) {
		size_t at = strlen(line);

		if (strcmp(get_text(s, "kind"), kind))
			continue;
		snprintf(line + at, sizeof(line) - at, "%s%s+%lld %s (%s)", at ? ", " : "",
			get_text(s, "function"), json_integer_value(json_object_get(s, "offset")),
			get_text(s, "instruction"),
			json_is_true(json_object_get(s, "stepped")) ? "STEPPED" : "emulated");
	}
	if (line[0])
		print_field(f, label, line);
}

/* The process of the same build that stands further up, if there is one. */
static long long same_build(const json_t *list, size_t i)
{
	const json_t *row = json_array_get(list, i);
	const char *id = get_text(json_object_get(row, "build"), "build_id");

	for (size_t k = 0; k < i && *id; k++) {
		const json_t *other = json_array_get(list, k);

		if (!strcmp(get_text(json_object_get(other, "build"), "build_id"), id) &&
			*get_text(other, "sites") &&
			!strcmp(get_text(other, "sites"), get_text(row, "sites")))
			return json_integer_value(json_object_get(other, "pid"));
	}
	return 0;
}

static void print_python(FILE *f, const json_t *row, long long same)
{
	const json_t *build = json_object_get(row, "build");
	const json_t *expect = json_object_get(row, "expect");
	char line[256];
	json_t *m;
	size_t i;

	fprintf(f, "\npid %lld (%s)", json_integer_value(json_object_get(row, "pid")),
		get_text(row, "comm"));
	if (*get_text(row, "python"))
		fprintf(f, ": CPython %s, %s%s, %s", get_text(row, "python"),
			get_text(build, "kind"),
			json_is_true(json_object_get(build, "stripped")) ? ", stripped" : "",
			get_text(build, "path"));
	fprintf(f, "%s\n",
		json_is_true(json_object_get(row, "supported")) ? "" : "  NOT SUPPORTED");
	if (same) {
		snprintf(line, sizeof(line), "as in pid %lld", same);
		print_field(f, "sites", line);
	} else {
		print_sites(f, row, "birth", "births");
		print_sites(f, row, "death", "deaths");
	}
	if (json_is_object(expect)) {
		snprintf(line, sizeof(line), "levels %s, rates %s", get_text(expect, "levels"),
			get_text(expect, "rates"));
		print_field(f, "expect", line);
	}
	json_array_foreach (json_object_get(row, "missing"), i, m)
		print_field(f, "missing", json_string_value(m));
}

static void print_table(FILE *f, const json_t *doc)
{
	const json_t *host = json_object_get(doc, "host");
	json_t *list = json_object_get(doc, "pythons"), *row;
	char more[128];
	size_t i;

	fprintf(f, "pyleak %s, Linux %s\n", get_text(doc, "version"), get_text(doc, "kernel"));
	snprintf(more, sizeof(more), " (%s, BTF is not needed)", get_text(host, "library"));
	print_way(f, "probes", json_object_get(host, "uprobe_multi"), more);
	print_way(f, "fallback", json_object_get(host, "perf"), ", perf uprobes");
	print_flags(f, "privilege", json_object_get(host, "capabilities"));
	print_flags(f, "ptrace", json_object_get(host, "ptrace"));
	print_field(f, "capture", get_text(doc, "capture"));
	print_field(f, "uncounted",
		"objects that the collector does not track and whose allocator is "
		"shared with raw memory (str, bytes, int, float) have no counters; a "
		"dump shows them");
	json_array_foreach (list, i, row)
		print_python(f, row, same_build(list, i));
	if (!json_array_size(list))
		fprintf(f, "\nno Python is running\n");
}

int support_print(FILE *f, bool as_json)
{
	struct probe_options po = {.max_targets = 4, .max_types = 1024};
	struct probe *probe = NULL, *perf = NULL;
	struct err err = {{0}}, perf_err = {{0}};
	struct utsname un;
	json_t *doc, *multi, *list;
	char at[RFC3339_MAX];
	bool way_is_multi;
	int r, perf_r;

	uname(&un);
	r = probe_open(&po, &probe, &err);
	way_is_multi = !r && !strcmp(probe_way(probe), "uprobe_multi");
	if (r || way_is_multi)
		multi = host_probes(probe, r, &err);
	else
		multi = json_pack("{s:b, s:s}", "works", 0, "reason", probe_way_reason(probe));
	po.perf = true;
	perf_r = probe_open(&po, &perf, &perf_err);
	list = pythons(r ? NULL : probe);
	doc = json_pack(
		"{s:s, s:s, s:s, s:b, s:s, s:s, s:s, s:{s:s, s:o, s:o, s:b, s:o, s:o}, s:o}", "at",
		format_rfc3339(at, sizeof(at), now_realtime_ms()), "version", PYLEAK_VERSION,
		"kernel", un.release, "probes", r == 0, "probes_way", r ? "" : probe_way(probe),
		"probes_reason", r ? err.msg : "", "capture", dump_helper_way(), "host", "library",
		probe_library(), "uprobe_multi", multi, "perf",
		host_probes(perf, perf_r, &perf_err), "btf_needed", 0, "capabilities",
		host_capabilities(), "ptrace", host_ptrace(), "pythons", list);
	probe_free(probe);
	probe_free(perf);
	if (as_json) {
		json_dumpf(doc, f, JSON_INDENT(2));
		fputc('\n', f);
	} else {
		print_table(f, doc);
	}
	json_decref(doc);
	return r ? EXIT_REFUSED : EXIT_FINE;
}
