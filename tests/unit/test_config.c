/* SPDX-License-Identifier: MIT */
/* Configuration: what is understood, and that every mistake is told with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/config/config.h"
#include "daemon/config/schema.h"
#include "daemon/track/track.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "include/pyleak/capture.h"

#define SECOND 1000000000ULL
#define HOUR   (3600 * SECOND)

static char dir[PATH_MAX];

static const char *in_dir(const char *name)
{
	static char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static int make_dir(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%s/test_config.XXXXXX", tmp ? tmp : "/tmp");
	return mkdtemp(dir) ? mkdir(in_dir("pyleakd.d"), 0700) : -1;
}

static int remove_dir(void **state)
{
	static const char *const files[] = {"pyleakd.d/.hidden.yaml", "pyleakd.d/10-a.yaml",
		"pyleakd.d/20-b.yaml", "pyleakd.d/README", "main.yaml", "printed.yaml"};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		remove(in_dir(files[i]));
	return remove(in_dir("pyleakd.d")) || remove(dir);
}

static void write_bytes(const char *name, const char *text, size_t size)
{
	FILE *f = fopen(in_dir(name), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, size, f), size);
	assert_int_equal(fclose(f), 0);
}

static void write_file(const char *name, const char *text)
{
	write_bytes(name, text, strlen(text));
}

/* Loads main.yaml; *ret_diag (malloc'ed) is what was written to diag. */
static int load(struct config **ret, char **ret_diag, struct err *err)
{
	size_t size;
	FILE *f = open_memstream(ret_diag, &size);
	int r;

	assert_non_null(f);
	r = config_load(in_dir("main.yaml"), f, ret, err);
	assert_int_equal(fclose(f), 0);
	return r;
}

static struct config *load_good(const char *text)
{
	_cleanup_free_ char *diag = NULL;
	struct config *c = NULL;
	struct err err = {""};

	write_file("main.yaml", text);
	if (load(&c, &diag, &err))
		fail_msg("%s\n%s", err.msg, diag);
	if (*diag)
		fail_msg("warned: %s", diag);
	return c;
}

/* ---- the same configuration ------------------------------------------------------------------ */

static void same_text(const char *a, const char *b)
{
	if (a && b)
		assert_string_equal(a, b);
	else
		assert_ptr_equal(a, b);
}

static void same_when(const struct config_when *a, const struct config_when *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->verdict, b->verdict);
	same_text(a->type, b->type);
	assert_int_equal(a->count, b->count);
	assert_int_equal(a->bytes, b->bytes);
	assert_true(a->share == b->share);
	assert_int_equal(a->n_children, b->n_children);
	for (size_t i = 0; i < a->n_children; i++)
		same_when(&a->children[i], &b->children[i]);
}

static void same_settings(const struct config *a, const struct config *b)
{
	for (size_t i = 0; i < N_SETTINGS; i++) {
		char x[VALUE_TEXT_MAX], y[VALUE_TEXT_MAX];
		const struct setting *s = &settings[i];

		value_format(&s->value, (const char *)a + s->offset, x);
		value_format(&s->value, (const char *)b + s->offset, y);
		if (strcmp(x, y))
			fail_msg("%s.%s: %s is not %s", s->section, s->key, x, y);
	}
	assert_true(a->budget_cpu == b->budget_cpu);
	assert_true(a->dump_headroom == b->dump_headroom);
}

/* Those of benign.yaml come last, and are not part of what is printed. */
static size_t own_suppress(const struct config *c)
{
	size_t n = 0;

	while (n < c->n_suppress && !c->suppress[n].benign)
		n++;
	return n;
}

static void same_config(const struct config *a, const struct config *b)
{
	same_settings(a, b);
	assert_int_equal(a->rules_given, b->rules_given);
	assert_int_equal(a->n_rules, b->n_rules);
	for (size_t i = 0; i < a->n_rules; i++) {
		same_text(a->rules[i].comm, b->rules[i].comm);
		same_text(a->rules[i].exe, b->rules[i].exe);
		same_text(a->rules[i].cmdline, b->rules[i].cmdline);
		same_text(a->rules[i].user, b->rules[i].user);
		same_text(a->rules[i].unit, b->rules[i].unit);
		assert_int_equal(a->rules[i].watch, b->rules[i].watch);
	}
	assert_int_equal(own_suppress(a), own_suppress(b));
	for (size_t i = 0; i < own_suppress(a); i++) {
		same_text(a->suppress[i].type, b->suppress[i].type);
		same_text(a->suppress[i].service, b->suppress[i].service);
		same_text(a->suppress[i].reason, b->suppress[i].reason);
		assert_int_equal(a->suppress[i].until_ms, b->suppress[i].until_ms);
		assert_int_equal(a->suppress[i].up_to, b->suppress[i].up_to);
	}
	assert_int_equal(a->n_triggers, b->n_triggers);
	for (size_t i = 0; i < a->n_triggers; i++) {
		const struct config_trigger *x = &a->triggers[i], *y = &b->triggers[i];

		assert_string_equal(x->name, y->name);
		same_when(&x->when, &y->when);
		assert_int_equal(x->hold_ns, y->hold_ns);
		assert_int_equal(x->actions, y->actions);
		assert_int_equal(x->cooldown_ns, y->cooldown_ns);
		assert_int_equal(x->per_day, y->per_day);
	}
}

static void prints_to_itself(const struct config *c)
{
	_cleanup_(config_freep) struct config *again = NULL;
	_cleanup_fclose_ FILE *f = fopen(in_dir("printed.yaml"), "w");
	_cleanup_free_ char *diag = NULL;
	size_t size;
	FILE *d;

	assert_non_null(f);
	assert_int_equal(config_print(c, f), 0);
	assert_int_equal(fflush(f), 0);
	d = open_memstream(&diag, &size);
	if (config_load(in_dir("printed.yaml"), d, &again, NULL)) {
		fclose(d);
		fail_msg("%s", diag);
	}
	fclose(d);
	same_config(c, again);
}

/* ---- good input ------------------------------------------------------------------------------- */

static void test_defaults(void **state)
{
	_cleanup_(config_freep) struct config *c = NULL, *empty = NULL;

	assert_int_equal(config_new(&c), 0);
	assert_true(c->budget_cpu == 0.01);
	assert_int_equal(c->budget_pause_ns, 1000000);
	assert_int_equal(c->growth_interval_ns, 10 * SECOND);
	assert_int_equal(c->growth_warmup_ns, 600 * SECOND);
	assert_int_equal(c->growth_window_ns, 1800 * SECOND);
	assert_int_equal(c->growth_min_objects, 1000);
	assert_int_equal(c->dump_pause_ns, 20000000);
	assert_int_equal(c->dump_deadline_ns, 30 * SECOND);
	assert_int_equal(c->dump_keys, CAPTURE_KEYS_IDENTIFIERS);
	assert_true(c->dump_headroom == 0.15);
	assert_int_equal(c->storage_history_ns, 14 * 24 * HOUR);
	assert_int_equal(c->storage_dumps_bytes, 1 << 30);
	assert_int_equal(c->n_rules, 0);
	assert_int_equal(c->n_triggers, 0);
	assert_false(c->rules_given);

	empty = load_good("# nothing but this\n");
	same_config(c, empty);
	config_free(empty);
	empty = load_good("");
	same_config(c, empty);
	config_free(empty);
	empty = load_good("---\n...\n");
	same_config(c, empty);
	config_free(empty);
	empty = load_good(
		"targets:\nbudget:\ngrowth: ~\ntriggers: null\ndump:\noutputs:\nstorage:\n");
	same_config(c, empty);
	prints_to_itself(c);
}

static const char everything[] =
	"targets:\n"
	"  - match: {comm: gunicorn, exe: '/usr/bin/python3*', cmdline: '*my\"app*', user: app, "
	"unit: myapp.service}\n"
	"  - match: {cmdline: \"*\\\\[x]*\\u00e9\\u0085\\U0001f40d\"}\n"
	"    watch: false\n"
	"  - match: {}\n"
	"budget:\n"
	"  cpu: unlimited\n"
	"  pause: 1500us\n"
	"growth: {interval: 500ms, warmup: 0, window: 1h30m, min_objects: 1}\n"
	"triggers:\n"
	"  - name: leak\n"
	"    when: {verdict: leak, type: 'app.*'}\n"
	"  - name: combined\n"
	"    when:\n"
	"      verdict: watch\n"
	"      count_above: {type: app.Session, count: 50000}\n"
	"      growth_above: {type: app.*, per_hour: 1000}\n"
	"      share_above: {type: str, share: 60.5%}\n"
	"      rss_above: 1.5GiB\n"
	"      any:\n"
	"        - cgroup_memory_above: 70.25%\n"
	"        - any: [{rss_above: 4294967297B}, {verdict: leak, rss_above: 3G}]\n"
	"    hold: 90s\n"
	"    do: [dump]\n"
	"    cooldown: 30m\n"
	"    per_day: 10\n"
	"dump: {pause: 0.5s, deadline: 2m, keys: off, headroom: 0.3}\n"
	"outputs: {metrics: {listen: '[::1]:9100'}}\n"
	"storage: {history: 2w, dumps: 500MiB}\n";

static void test_everything(void **state)
{
	_cleanup_(config_freep) struct config *c = load_good(everything);
	const struct config_when *w;

	assert_true(c->rules_given);
	assert_int_equal(c->n_rules, 3);
	assert_string_equal(c->rules[0].comm, "gunicorn");
	assert_string_equal(c->rules[0].exe, "/usr/bin/python3*");
	assert_string_equal(c->rules[0].cmdline, "*my\"app*");
	assert_string_equal(c->rules[0].user, "app");
	assert_string_equal(c->rules[0].unit, "myapp.service");
	assert_true(c->rules[0].watch);
	assert_string_equal(c->rules[1].cmdline, "*\\[x]*\xc3\xa9\xc2\x85\xf0\x9f\x90\x8d");
	assert_null(c->rules[1].comm);
	assert_false(c->rules[1].watch);
	assert_true(c->budget_cpu == 0);
	assert_int_equal(c->budget_pause_ns, 1500000);
	assert_int_equal(c->growth_interval_ns, SECOND / 2);
	assert_int_equal(c->growth_warmup_ns, 0);
	assert_int_equal(c->growth_window_ns, 5400 * SECOND);
	assert_int_equal(c->growth_min_objects, 1);
	assert_int_equal(c->dump_keys, CAPTURE_KEYS_OFF);
	assert_true(c->dump_headroom == 0.3);
	assert_int_equal(c->dump_pause_ns, SECOND / 2);
	assert_int_equal(c->storage_history_ns, 14 * 24 * HOUR);
	assert_int_equal(c->storage_dumps_bytes, 500 << 20);

	assert_string_equal(c->metrics_listen, "[::1]:9100");

	assert_int_equal(c->n_triggers, 2);
	assert_string_equal(c->triggers[0].name, "leak");
	assert_int_equal(c->triggers[0].when.kind, WHEN_VERDICT);
	assert_int_equal(c->triggers[0].when.verdict, TRACK_LEAK);
	assert_string_equal(c->triggers[0].when.type, "app.*");
	assert_int_equal(c->triggers[0].hold_ns, 0);
	assert_int_equal(c->triggers[0].actions, ACTION_DUMP);
	assert_int_equal(c->triggers[0].cooldown_ns, 6 * HOUR);
	assert_int_equal(c->triggers[0].per_day, 4);
	w = &c->triggers[1].when;
	assert_int_equal(w->kind, WHEN_ALL);
	assert_int_equal(w->n_children, 6);
	assert_int_equal(w->children[0].kind, WHEN_VERDICT);
	assert_int_equal(w->children[0].verdict, TRACK_WATCH);
	assert_int_equal(w->children[1].kind, WHEN_COUNT);
	assert_string_equal(w->children[1].type, "app.Session");
	assert_int_equal(w->children[1].count, 50000);
	assert_int_equal(w->children[2].kind, WHEN_RATE);
	assert_string_equal(w->children[2].type, "app.*");
	assert_int_equal(w->children[2].count, 1000);
	assert_int_equal(w->children[3].kind, WHEN_SHARE);
	assert_true(w->children[3].share == 0.605);
	assert_int_equal(w->children[4].bytes, 3ULL << 29);
	assert_int_equal(w->children[5].kind, WHEN_ANY);
	assert_int_equal(w->children[5].n_children, 2);
	assert_true(w->children[5].children[0].share == 0.7025);
	assert_int_equal(w->children[5].children[1].kind, WHEN_ANY);
	assert_int_equal(w->children[5].children[1].children[1].kind, WHEN_ALL);
	assert_int_equal(c->triggers[1].hold_ns, 90 * SECOND);
	assert_int_equal(c->triggers[1].per_day, 10);
	prints_to_itself(c);
}

/* Other ways to write the same. */
static void test_notations(void **state)
{
	_cleanup_(config_freep) struct config *a = NULL, *b = NULL, *c = NULL;

	a = load_good("growth:\n  interval: 20s\n  window: 40m\n");
	b = load_good(
		"\xef\xbb\xbf%YAML 1.1\n---\n{growth: {interval: '20s', \"window\": 2400 s}}\n");
	same_config(a, b);
	c = load_good("growth:\r\n  interval: &i 20s\r\n  warmup: *i\r\n");
	assert_int_equal(c->growth_warmup_ns, 20 * SECOND);
	prints_to_itself(c);
}

static const char *packaged_file(void)
{
	static char path[PATH_MAX + 32];
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	/* The build folder is somewhere below the source. */
	assert_true(n > 0);
	exe[n] = '\0';
	for (char *slash; (slash = strrchr(exe, '/'));) {
		*slash = '\0';
		snprintf(path, sizeof(path), "%s/config/pyleakd.yaml", exe);
		if (!access(path, R_OK))
			return path;
	}
	fail_msg("config/pyleakd.yaml is in no folder above this program");
	return NULL;
}

static void test_packaged_file(void **state)
{
	_cleanup_(config_freep) struct config *c = NULL, *built_in = NULL;
	_cleanup_free_ char *diag = NULL;
	struct err err = {""};
	char text[16384];
	size_t size;
	FILE *f;

	f = open_memstream(&diag, &size);
	if (config_load(packaged_file(), f, &c, &err))
		fail_msg("%s", err.msg);
	fclose(f);
	assert_string_equal(diag, "");
	assert_int_equal(config_new(&built_in), 0);
	same_settings(c, built_in);
	assert_int_equal(c->n_rules, 0);
	assert_false(c->rules_given);
	assert_int_equal(c->n_triggers, 1);
	assert_string_equal(c->triggers[0].name, "leak");
	assert_int_equal(c->triggers[0].when.kind, WHEN_VERDICT);
	assert_int_equal(c->triggers[0].when.verdict, TRACK_LEAK);
	assert_null(c->triggers[0].when.type);
	assert_int_equal(c->triggers[0].hold_ns, 0);
	assert_int_equal(c->triggers[0].actions, ACTION_DUMP);
	assert_int_equal(c->triggers[0].cooldown_ns, 6 * HOUR);
	assert_int_equal(c->triggers[0].per_day, 4);
	prints_to_itself(c);

	/* Every setting is written out in it, with its default and a comment. */
	f = fopen(packaged_file(), "r");
	assert_non_null(f);
	size = fread(text, 1, sizeof(text) - 1, f);
	assert_true(size < sizeof(text) - 1);
	text[size] = '\0';
	fclose(f);
	for (size_t i = 0; i < N_SETTINGS; i++) {
		char line[128], *section, *at;

		snprintf(line, sizeof(line), "\n%s:\n", settings[i].section);
		section = strstr(text, line);
		snprintf(line, sizeof(line), "\n  %s: %s ", settings[i].key, settings[i].dflt);
		at = section ? strstr(section, line) : NULL;
		if (!at || strcspn(at + 1, "#") >= strcspn(at + 1, "\n"))
			fail_msg("%s.%s is not documented with its default %s", settings[i].section,
				settings[i].key, settings[i].dflt);
	}
}

static void test_drop_ins(void **state)
{
	_cleanup_(config_freep) struct config *c = NULL, *main_only = NULL;
	_cleanup_free_ char *diag = NULL;
	struct err err;

	main_only = load_good("growth: {interval: 20s, window: 40m}\n"
			      "targets: [{match: {comm: a}}]\n"
			      "triggers: [{name: leak, when: {verdict: leak}}, "
			      "{name: rss, when: {rss_above: 1GiB}}]\n");
	write_file("pyleakd.d/20-b.yaml", "growth: {window: 50m}\n"
					  "targets: [{match: {comm: c}}]\n");
	write_file("pyleakd.d/10-a.yaml",
		"growth: {window: 45m, warmup: 1m}\n"
		"targets: [{match: {comm: b}}]\n"
		"triggers: [{name: leak, when: {verdict: watch}, per_day: 2}, "
		"{name: more, when: {rss_above: 2GiB}}]\n");
	write_file("pyleakd.d/.hidden.yaml", "not: read\n");
	write_file("pyleakd.d/README", "not: read\n");
	assert_int_equal(load(&c, &diag, &err), 0);
	assert_string_equal(diag, "");
	assert_int_equal(main_only->growth_window_ns, 2400 * SECOND);
	assert_int_equal(c->growth_interval_ns, 20 * SECOND);
	assert_int_equal(c->growth_warmup_ns, 60 * SECOND);
	assert_int_equal(c->growth_window_ns, 3000 * SECOND);
	assert_int_equal(c->n_rules, 3);
	assert_string_equal(c->rules[0].comm, "a");
	assert_string_equal(c->rules[1].comm, "b");
	assert_string_equal(c->rules[2].comm, "c");
	assert_int_equal(c->n_triggers, 3);
	assert_string_equal(c->triggers[0].name, "leak");
	assert_int_equal(c->triggers[0].when.verdict, TRACK_WATCH);
	assert_int_equal(c->triggers[0].per_day, 2);
	assert_string_equal(c->triggers[1].name, "rss");
	assert_string_equal(c->triggers[2].name, "more");

	/* Mistakes in several files: all are told, each with its file. */
	free(TAKE_PTR(diag));
	write_file("main.yaml", "budget: {cpu: 2}\n");
	write_file("pyleakd.d/10-a.yaml", "growth:\n  windwo: 3m\n");
	write_file("pyleakd.d/20-b.yaml", "- x\n");
	assert_int_equal(load(&c, &diag, &err), -EINVAL);
	assert_non_null(strstr(diag, "/main.yaml:1:15: budget.cpu: "));
	assert_non_null(strstr(diag, "/pyleakd.d/10-a.yaml:2:3: growth: unknown key 'windwo', "
				     "did you mean 'window'?"));
	assert_non_null(
		strstr(diag, "/pyleakd.d/20-b.yaml:1:1: this is a list, it takes a mapping"));
	assert_non_null(strstr(err.msg, "(and 2 more)"));
}

/* ---- bad input --------------------------------------------------------------------------------- */

struct bad {
	const char *text;
	const char *want; /* lines, each "line:col: beginning of a message", in that order */
};

static const struct bad bad[] = {
	/* keys */
	{"growht: {}\n", "1:1: unknown key 'growht', did you mean 'growth'? Allowed are targets,"},
	{"zebra: 1\n", "1:1: unknown key 'zebra', allowed are targets, budget,"},
	{"growth:\n  interval: 1s\n  windows: 1h\n",
		"3:3: growth: unknown key 'windows', did you mean 'window'?"},
	{"growth:\n  window: 1h\n  warmup: 1s\n  window: 2h\n",
		"4:3: growth.window: given twice, the first time in line 2"},
	{"growth: {}\ngrowth: {}\n", "2:1: growth: given twice"},
	{"[a, b]: 1\n", "1:1: this is a list, it takes the name of a key"},
	{"~: 1\n", "1:1: this is nothing, it takes the name of a key"},
	/* kinds */
	{"just text\n", "1:1: this is a single value, it takes a mapping with the keys targets,"},
	{"growth: [1]\n",
		"1:9: growth: this is a list, it takes a mapping with the keys interval,"},
	{"growth:\n  window: [30m]\n", "2:11: growth.window: this is a list, it takes a duration"},
	{"growth:\n  window: {a: b}\n",
		"2:11: growth.window: this is a mapping, it takes a duration"},
	{"growth:\n  window:\n", "2:10: growth.window: this is nothing, it takes a duration"},
	{"growth:\n  min_objects: '5'\n", "2:16: growth.min_objects: this is a string, it takes"},
	{"targets: {match: {}}\n", "1:10: targets: this is a mapping, it takes a list of rules"},
	{"triggers: leak\n", "1:11: triggers: this is a single value, it takes a list of triggers"},
	{"growth:\n  window: !!int 30\n", "2:11: growth.window: tags are not allowed"},
	/* values */
	{"growth:\n  window: 30\n", "2:11: growth.window: '30' has no unit, it takes a duration"},
	{"growth:\n  window: 30 parsecs\n", "2:11: growth.window: '30 parsecs' is not understood"},
	{"growth:\n  window: -30m\n", "2:11: growth.window: '-30m' is not understood"},
	{"growth:\n  window: 10ms\n",
		"2:11: growth.window: '10ms' is out of range, allowed is 1s to 30d"},
	{"growth:\n  window: 2000000d\n", "2:11: growth.window: '2000000d' is out of range"},
	{"growth:\n  min_objects: 0\n",
		"2:16: growth.min_objects: '0' is out of range, allowed is 1 to 1000000000000"},
	{"growth:\n  min_objects: -5\n", "2:16: growth.min_objects: '-5' is not understood"},
	{"growth:\n  min_objects: 1e3\n", "2:16: growth.min_objects: '1e3' is not understood"},
	{"growth:\n  min_objects: 99999999999999999999999\n",
		"2:16: growth.min_objects: '99999999999999999999999' is out of range"},
	{"budget:\n  cpu: 1\n", "2:8: budget.cpu: '1' is not clear, it takes a share such as 1%"},
	{"budget:\n  cpu: 101%\n", "2:8: budget.cpu: '101%' is not understood, it takes a share"},
	{"budget:\n  cpu: 0%\n",
		"2:8: budget.cpu: '0%' is out of range, allowed is 0.01% to 100%, or unlimited"},
	{"budget:\n  cpu: unlimted\n", "2:8: budget.cpu: 'unlimted' is not understood"},
	{"storage:\n  dumps: 100\n", "2:10: storage.dumps: '100' has no unit, it takes a size"},
	{"storage:\n  dumps: 3GB\n", "2:10: storage.dumps: '3GB' is not understood"},
	{"storage:\n  dumps: 1KiB\n",
		"2:10: storage.dumps: '1KiB' is out of range, allowed is 1MiB to 1024TiB"},
	{"dump:\n  keys: some\n", "2:9: dump.keys: 'some' is not understood, it takes off, ident"},
	{"dump: {keys: \"a\\0b\"}\n", "1:14: dump.keys: a NUL character is not allowed"},
	{"dump: {keys: \"\\e[31mred\"}\n", "1:14: dump.keys: '?[31mred' is not understood"},
	/* targets */
	{"targets:\n  - watch: true\n", "2:5: targets[0]: 'match' is missing"},
	{"targets:\n  - match: {com: x}\n",
		"2:13: targets[0].match: unknown key 'com', did you mean 'comm'?"},
	{"targets:\n  - match: {comm: x}\n  - match: {exe: ''}\n",
		"3:18: targets[1].match.exe: the glob '' is empty"},
	{"targets:\n  - match: {exe: '/bin/[py'}\n",
		"2:18: targets[0].match.exe: the glob '/bin/[py' has a '[' without ']'"},
	{"targets:\n  - match: {exe: '[]'}\n",
		"2:18: targets[0].match.exe: the glob '[]' has a '['"},
	{"targets:\n  - match: {exe: 'a\\'}\n",
		"2:18: targets[0].match.exe: the glob 'a\\' ends in"},
	{"targets:\n  - match: {exe: \"a\\nb\"}\n",
		"2:18: targets[0].match.exe: the glob 'a?b' has a control character"},
	{"targets:\n  - match: {comm: x}\n    watch: maybe\n",
		"3:12: targets[0].watch: 'maybe' is not understood, it takes true or false"},
	{"targets:\n  - match: {comm: x}\n    watch: 'true'\n",
		"3:12: targets[0].watch: this is a string, it takes true or false"},
	{"targets:\n  - x\n", "2:5: targets[0]: this is a single value, it takes a mapping"},
	/* triggers */
	{"triggers:\n  - when: {verdict: leak}\n", "2:5: triggers[0]: 'name' is missing"},
	{"triggers:\n  - name: a\n", "2:5: triggers[0]: 'when' is missing"},
	{"triggers:\n  - name: a b\n    when: {verdict: leak}\n",
		"2:11: triggers[0].name: 'a b' is not a name"},
	{"triggers:\n  - {name: a, when: {verdict: leak}}\n  - {name: a, when: {verdict: leak}}\n",
		"3:5: triggers[1]: the name 'a' is taken by the trigger in line 2"},
	{"triggers:\n  - name: a\n    when: {}\n", "3:11: triggers[0].when: no condition"},
	{"triggers:\n  - name: a\n    when: {verdict: leek}\n",
		"3:21: triggers[0].when.verdict: unknown verdict 'leek', did you mean 'leak'?"},
	{"triggers:\n  - name: a\n    when: {type: x}\n",
		"3:12: triggers[0].when: `type` belongs to `verdict`"},
	{"triggers:\n  - name: a\n    when: {count_above: {type: x}}\n",
		"3:25: triggers[0].when.count_above: 'count' is missing"},
	{"triggers:\n  - name: a\n    when: {count_above: 50}\n",
		"3:25: triggers[0].when.count_above: this is a single value, it takes a mapping"},
	{"triggers:\n  - name: a\n    when: {any: []}\n",
		"3:17: triggers[0].when.any: an empty list is never true"},
	{"triggers:\n  - name: a\n    when: {any: [{verdict: leak}, {rss_above: 5}]}\n",
		"3:47: triggers[0].when.any[1].rss_above: '5' has no unit"},
	{"triggers:\n  - name: a\n    when: {any: [{any: [{any: [{any: [{any: [{verdict: "
	 "leak}]}]}]}]}]}\n",
		"3:45: triggers[0].when.any[0].any[0].any[0].any[0].any: nested too deep"},
	{"triggers:\n  - name: a\n    when: {verdict: leak}\n    do: dump\n",
		"4:9: triggers[0].do: this is a single value, it takes a list of actions"},
	{"triggers:\n  - name: a\n    when: {verdict: leak}\n    do: []\n",
		"4:9: triggers[0].do: an empty list does nothing"},
	{"triggers:\n  - name: a\n    when: {verdict: leak}\n    do: [dump, webhook]\n",
		"4:16: triggers[0].do[1]: action 'webhook' is not available in this version, allowed: "
		"dump"},
	{"triggers:\n  - name: a\n    when: {verdict: leak}\n    do: [exec, alertmanager]\n",
		"4:10: triggers[0].do[0]: action 'exec' is not available\n"
		"4:16: triggers[0].do[1]: action 'alertmanager' is not available"},
	{"triggers:\n  - name: a\n    when: {verdict: leak}\n    do: [dmp]\n",
		"4:10: triggers[0].do[0]: unknown action 'dmp', did you mean 'dump'?"},
	{"triggers:\n  - name: a\n    when: {verdict: leak}\n    do: [dump, dump]\n",
		"4:16: triggers[0].do[1]: action 'dump' is given twice"},
	{"triggers:\n  - name: a\n    when: {verdict: leak}\n    per_day: 0\n",
		"4:14: triggers[0].per_day: '0' is out of range, allowed is 1 to 1000"},
	/* outputs */
	{"outputs: {metrics: {listen: 9100}}\n",
		"1:29: outputs.metrics.listen: '9100' is no address to listen at, it takes an address"},
	{"outputs: {metrics: {listen: localhost:9100}}\n",
		"1:29: outputs.metrics.listen: 'localhost:9100' is no address to listen at"},
	{"outputs: {metrics: 9100}\n", "1:20: outputs.metrics: this is"},
	{"outputs: {webhook: {}}\n",
		"1:20: outputs.webhook: this version has no such output, it has `metrics`"},
	{"outputs:\n  webhok: {}\n", "2:3: outputs: unknown key 'webhok', did you mean 'webhook'?"},
	/* the text itself */
	{"growth: {window: 30m\n", "2:1: not valid YAML: did not find expected ',' or '}'"},
	{"growth:\n\twindow: 30m\n", "2:1: not valid YAML: found character that cannot start"},
	{"growth: *nothing\n", "1:9: not valid YAML: found undefined alias"},
	{"a: \"b\n", "2:1: not valid YAML: found unexpected end of stream"},
	{"growth: {}\n---\ngrowth: {}\n", "2:1: a second document, allowed is one in a file"},
	{"# \xc3\xa9\xc3\xa9\ngrowth: {\xff: 1}\n", "2:10: invalid leading UTF-8 octet"},
	{"# \xc3\xa9\nx: \xc3(\n", "2:5: invalid trailing UTF-8 octet"},
	{"x: a\x01 b\n", "1:5: control characters are not allowed"},
	{"\xff\xfeg\n", "1:1: this is UTF-16"},
	/* several at once */
	{"budget: {cpu: 5}\ngrowth:\n  windw: 30m\n  warmup: [x]\n",
		"1:15: budget.cpu: '5' is not clear\n3:3: growth: unknown key 'windw'\n"
		"4:11: growth.warmup: this is a list"},
	{"triggers:\n  - name: 'x y'\n    when: {rss_above: 7}\n    do: [sing]\n",
		"2:11: triggers[0].name: 'x y' is not a name\n"
		"3:23: triggers[0].when.rss_above: '7' has no unit\n"
		"4:10: triggers[0].do[0]: unknown action 'sing', allowed are dump, exec,"},
	/* a syntax error does not hide what stands before it */
	{"budget:\n  cpu: 5\ntriggers:\n  - name: x y\n\tz\n",
		"2:8: budget.cpu: '5' is not clear\n4:11: triggers[0].name: 'x y' is not a name\n"
		"5:1: not valid YAML: found a tab character"},
	/* a mark is a character, not a byte */
	{"targets: [{match: {exe: 'é*', usr: x}}]\n",
		"1:31: targets[0].match: unknown key 'usr', did"},
};

/* Every "path:L:C: …" is followed by line L of the file and a caret below column C. Returns how many
 * there are. */
static size_t check_carets(const char *diag, const char *text)
{
	size_t path_len = strlen(in_dir("main.yaml")), n = 0;

	while (*diag) {
		const char *source = strchr(diag, '\n') + 1, *caret = strchr(source, '\n') + 1;
		size_t line, column, len;
		const char *from = text;

		assert_memory_equal(diag, in_dir("main.yaml"), path_len);
		assert_int_equal(sscanf(diag + path_len, ":%zu:%zu: ", &line, &column), 2);
		for (size_t l = 1; l < line && *from; l++)
			from += strcspn(from, "\n") + (strchr(from, '\n') != NULL);
		len = (size_t)(caret - 1 - source);
		if (strcspn(from, "\n") != strcspn(from, "\n\t\x01\xff\xc3")) {
			/* shown otherwise */
		} else {
			assert_int_equal(len, strcspn(from, "\n"));
			assert_memory_equal(source, from, len);
		}
		assert_int_equal(strspn(caret, " "), column - 1);
		assert_memory_equal(caret + column - 1, "^\n", 2);
		diag = caret + column + 1;
		n++;
	}
	return n;
}

static void test_bad(void **state)
{
	assert_true(ARRAY_SIZE(bad) >= 25);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct config *untouched = (struct config *)&bad, *c = untouched;
		_cleanup_free_ char *diag = NULL;
		const char *at, *end;
		struct err err = {""};
		size_t n = 0;
		int r;

		write_file("main.yaml", bad[i].text);
		r = load(&c, &diag, &err);
		if (r != -EINVAL)
			fail_msg("taken for good (%d): %s", r, bad[i].text);
		assert_ptr_equal(c, untouched);
		at = diag;
		for (const char *want = bad[i].want; *want; want = *end ? end + 1 : end, n++) {
			char line[PATH_MAX + 512];

			end = strchrnul(want, '\n');
			snprintf(line, sizeof(line), "%s:%.*s", in_dir("main.yaml"),
				(int)(end - want), want);
			at = strstr(at, line);
			if (!at)
				fail_msg("%s\ngave\n%s\nwanted %s", bad[i].text, diag, bad[i].want);
			if (!n)
				assert_memory_equal(err.msg, line, strlen(line));
		}
		if (check_carets(diag, bad[i].text) != n)
			fail_msg("%s\ngave\n%s\nwanted only %s", bad[i].text, diag, bad[i].want);
		/* Without a place to write to, the error alone says what and where. */
		assert_int_equal(config_load(in_dir("main.yaml"), NULL, &c, &err), -EINVAL);
		assert_non_null(strstr(err.msg, "main.yaml:"));
	}
}

static void test_exact_output(void **state)
{
	_cleanup_free_ char *diag = NULL;
	char want[2 * PATH_MAX];
	struct config *c;

	write_file("main.yaml", "growth:\n  window:\t30  # half an hour\n");
	assert_int_equal(load(&c, &diag, NULL), -EINVAL);
	snprintf(want, sizeof(want),
		"%s:2:11: growth.window: '30' has no unit, it takes a duration such as 500ms, 10s, "
		"30m, 6h or 14d\n"
		"  window: 30  # half an hour\n"
		"          ^\n",
		in_dir("main.yaml"));
	assert_string_equal(diag, want);
}

static void test_warnings(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{"growth: {interval: 10m}\n",
			":1:20: warning: growth.window holds fewer than 6 samples"},
		{"growth: {window: 50s}\n",
			":1:18: warning: growth.window holds fewer than 6 samples"},
		{"dump:\n  pause: 1m\n", ":2:10: warning: dump.pause is not below dump.deadline"},
		{"storage: {history: 1h}\ngrowth: {window: 2h}\n",
			":1:20: warning: storage.history is shorter than growth.window"},
		{"targets:\n  - match: {comm: x}\n    watch: false\n",
			":2:5: warning: targets: no rule has `watch: true`"},
		{"targets:\n  - match: {}\n  - match: {comm: x}\n",
			":3:5: warning: targets[1]: never reached, the rule in "},
		{"targets:\n  - match: {comm: longer-than-fifteen}\n",
			":2:19: warning: targets[0].match.comm: 'longer-than-fifteen' never "
			"matches"},
		{"triggers:\n  - {name: a, when: {verdict: leak}, cooldown: 12h, per_day: 3}\n",
			":2:53: warning: triggers[0]: has no effect, `cooldown`"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(config_freep) struct config *c = NULL;
		_cleanup_free_ char *diag = NULL;

		write_file("main.yaml", cases[i].text);
		assert_int_equal(load(&c, &diag, NULL), 0);
		if (!strstr(diag, cases[i].want))
			fail_msg("%s\ngave\n%s\nwanted %s", cases[i].text, diag, cases[i].want);
		prints_to_itself(c);
	}
}

/* Small files that would be endless, and large ones. */
static void test_suppress(void **state)
{
	static const struct {
		const char *text, *want;
	} wrong[] = {
		{"growth: {suppress: {type: a}}\n", "it takes a list of suppressions"},
		{"growth: {suppress: [{type: a}]}\n", "'reason' is missing"},
		{"growth: {suppress: [{reason: a}]}\n", "'type' is missing"},
		{"growth: {suppress: [{type: a, reason: ''}]}\n", "the reason is empty"},
		{"growth: {suppress: [{type: a, reason: b, until: tomorrow}]}\n", "'tomorrow' is no day"},
		{"growth: {suppress: [{type: a, reason: b, why: c}]}\n", "why"},
		{"growth: {suppress: [{type: a, reason: b, up_to: 0}]}\n", "up_to: "},
		{"growth: {suppress: [{type: a, reason: b, up_to: many}]}\n", "up_to: "},
		{"benign: []\n", "unknown key 'benign'"},
	};
	_cleanup_(config_freep) struct config *c = load_good(
		"growth:\n  suppress:\n"
		"    - {type: 'app.*', service: 'shop*', reason: 'ticket 1', until: 2027-01-31}\n"
		"    - {type: str, reason: always}\n"
		"    - {type: int, reason: few, up_to: 100}\n");
	int64_t end;

	assert_int_equal(parse_rfc3339("2027-01-31T00:00:00Z", &end), 0);
	assert_int_equal(c->n_suppress, 3);
	assert_string_equal(config_suppressed(c, "x", "int", 100, 0), "few");
	assert_null(config_suppressed(c, "x", "int", 101, 0));
	assert_null(config_suppressed(c, "x", "int", TRACK_UNKNOWN, 0));
	assert_string_equal(config_suppressed(c, "shop.service", "app.Session", 7, end - 1), "ticket 1");
	assert_null(config_suppressed(c, "shop.service", "app.Session", 7, end));
	assert_null(config_suppressed(c, "other.service", "app.Session", 7, end - 1));
	assert_null(config_suppressed(c, "shop.service", "lib.Session", 7, end - 1));
	assert_string_equal(config_suppressed(c, "other.service", "str", 7, end + 1), "always");
	prints_to_itself(c);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		_cleanup_(config_freep) struct config *none = NULL;
		_cleanup_free_ char *diag = NULL;
		struct err err = {{0}};

		write_file("main.yaml", wrong[i].text);
		assert_int_equal(load(&none, &diag, &err), -EINVAL);
		if (!strstr(diag, wrong[i].want))
			fail_msg("%s: not about: %s", diag, wrong[i].want);
	}
}

/* benign.yaml beside the configuration: what it may say, and that what it hides has an end. */
static void test_benign(void **state)
{
	static const struct {
		const char *text, *want;
	} wrong[] = {
		{"benign: [{type: a, reason: b}]\n", "benign.yaml:1:10: benign[0]: 'up_to' is missing"},
		{"benign: {}\n", "it takes a list of suppressions"},
		{"growth: {window: 1s}\n", "benign.yaml:1:1: unknown key 'growth'"},
		{"benign: [{type: '[', reason: b, up_to: 5}]\n", "has a '[' without ']'"},
		{"benign: [", "benign.yaml:2:1: not valid YAML"},
		{"benign: [{type: a, reason: \"\\x1b[2J\", up_to: \"\\x1b\"}]\n", "up_to: "},
	};
	_cleanup_(config_freep) struct config *c = NULL, *shipped = NULL;
	_cleanup_free_ char *diag = NULL, *text = NULL;
	struct err err = {""};
	size_t n;
	FILE *f;

	write_file("benign.yaml", "benign:\n  - {type: 'a.*', reason: ends, up_to: 9}\n");
	c = load_good("growth: {suppress: [{type: a.B, reason: mine}]}\n");
	assert_int_equal(c->n_suppress, 2);
	assert_string_equal(config_suppressed(c, "x", "a.B", 5, 0), "mine"); /* before what is for everybody */
	assert_string_equal(config_suppressed(c, "x", "a.C", 9, 0), "ends");
	assert_null(config_suppressed(c, "x", "a.C", 10, 0));
	f = open_memstream(&text, &n);
	assert_int_equal(config_print(c, f), 0);
	fclose(f);
	assert_non_null(strstr(text, "1 patterns of benign.yaml"));
	assert_null(strstr(text, "up_to"));
	prints_to_itself(c); /* with the same file beside it */
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		_cleanup_(config_freep) struct config *none = NULL;
		_cleanup_free_ char *why = NULL;

		write_file("benign.yaml", wrong[i].text);
		assert_int_equal(load(&none, &why, &err), -EINVAL);
		if (!strstr(why, wrong[i].want))
			fail_msg("%s: not about: %s", why, wrong[i].want);
		assert_null(strchr(why, 0x1b));
	}
	assert_int_equal(unlink(in_dir("benign.yaml")), 0);
	assert_int_equal(config_load(packaged_file(), NULL, &shipped, &err), 0);
	assert_true(shipped->n_suppress >= 5);
	for (size_t i = 0; i < shipped->n_suppress; i++)
		assert_true(shipped->suppress[i].benign && shipped->suppress[i].up_to <= 5000);
	assert_non_null(config_suppressed(shipped, "x", "re.Pattern", 600, 0));
	assert_null(config_suppressed(shipped, "x", "re.Pattern", 60000, 0));
	assert_null(config_suppressed(shipped, "x", "dict", 6, 0));
}

static void test_bombs(void **state)
{
	_cleanup_free_ char *big = malloc((1 << 20) + 2), *diag = NULL;
	struct config *c = NULL;
	struct err err;
	size_t n = 0;

	assert_non_null(big);
	memset(big, '#', (1 << 20) + 1);
	write_bytes("main.yaml", big, 1 << 20);
	assert_int_equal(config_load(in_dir("main.yaml"), NULL, &c, &err), 0);
	config_free(c);
	write_bytes("main.yaml", big, (1 << 20) + 1);
	assert_int_equal(config_load(in_dir("main.yaml"), NULL, &c, &err), -EFBIG);
	assert_non_null(strstr(err.msg, "larger than 1 MiB"));

	/* Ten levels of ten aliases: ten thousand million conditions. */
	n = (size_t)snprintf(
		big, 1 << 20, "triggers:\n  - name: a\n    when: &a0 {verdict: leak}\n");
	for (int i = 1; i < 10; i++) {
		n += (size_t)snprintf(
			big + n, (1 << 20) - n, "  - name: b%d\n    when: &a%d {any: [", i, i);
		for (int k = 0; k < 10; k++)
			n += (size_t)snprintf(big + n, (1 << 20) - n, "*a%d,", i - 1);
		n += (size_t)snprintf(big + n, (1 << 20) - n, "]}\n");
	}
	write_file("main.yaml", big);
	assert_int_equal(load(&c, &diag, &err), -EINVAL);
	assert_non_null(strstr(diag, "too many conditions, allowed are 32 in one trigger"));
	free(TAKE_PTR(diag));

	/* Something that contains itself. */
	write_file("main.yaml", "triggers: [{name: a, when: &w {any: [*w]}}]\n");
	assert_int_equal(load(&c, &diag, &err), -EINVAL);
	assert_non_null(strstr(diag, "nested too deep"));
	free(TAKE_PTR(diag));

	/* One rule by alias, many times. */
	n = (size_t)snprintf(big, 1 << 20, "targets: [&r {match: {comm: x}}");
	for (int i = 0; i < 100000; i++)
		n += (size_t)snprintf(big + n, (1 << 20) - n, ",*r");
	snprintf(big + n, (1 << 20) - n, "]\n");
	write_file("main.yaml", big);
	assert_int_equal(load(&c, &diag, &err), -EINVAL);
	assert_non_null(strstr(diag, "targets[256]: too many rules, allowed are 256"));
	free(TAKE_PTR(diag));

	/* More unknown keys than anybody reads. */
	for (n = 0; n < 300000; n += 6)
		memcpy(big + n, "zz: 1\n", 7);
	write_file("main.yaml", big);
	assert_int_equal(load(&c, &diag, &err), -EINVAL);
	assert_true(strlen(diag) < 100000);
	assert_non_null(strstr(diag, " more mistakes"));
	free(TAKE_PTR(diag));

	/* As deep as it gets. */
	memset(big, '[', 200000);
	big[200000] = '\0';
	write_file("main.yaml", big);
	assert_int_equal(load(&c, &diag, &err), -EINVAL);

	/* Too long for a glob, and for a line on a screen. */
	free(TAKE_PTR(diag));
	n = (size_t)snprintf(
		big, 1 << 20, "targets: [{match: {comm: x, cmdline: %0256d, zzz: 1}}]\n", 0);
	write_file("main.yaml", big);
	assert_int_equal(load(&c, &diag, &err), -EINVAL);
	assert_non_null(strstr(diag, ":1:38: targets[0].match.cmdline: 256 bytes are too long"));
	assert_non_null(strstr(diag, ":1:296: targets[0].match: unknown key 'zzz'"));
	assert_non_null(strstr(diag, "0, zzz: 1}}]\n"));
	for (const char *line = diag; *line; line = strchr(line, '\n') + 1)
		if (line[0] != '/')
			assert_true(strcspn(line, "\n") <= 160);
}

static void test_files(void **state)
{
	struct config *c = NULL;
	struct err err;

	assert_int_equal(config_load(in_dir("nothing.yaml"), NULL, &c, &err), -ENOENT);
	assert_non_null(
		strstr(err.msg, "nothing.yaml: cannot read the configuration: No such file"));
	assert_int_equal(config_load(dir, NULL, &c, &err), -EISDIR);
	assert_int_equal(config_load("/dev/null", NULL, &c, &err), 0);
	config_free(c);
	config_free(NULL);
	c = NULL;
	config_freep(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_defaults, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_everything, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_notations, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_packaged_file, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_drop_ins, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_bad, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_exact_output, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_warnings, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_suppress, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_benign, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_bombs, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_files, make_dir, remove_dir),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
