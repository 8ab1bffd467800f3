/* SPDX-License-Identifier: MIT */
/*
 * What each verb asks of the daemon and what it does with the answer.
 */
#include "ctl/ctl.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>

#include "ctl/ask.h"
#include "ctl/daemon.h"
#include "ctl/options.h"
#include "ctl/replay.h"
#include "ctl/save.h"
#include "ctl/show.h"
#include "ctl/text.h"
#include "ctl/watch.h"
#include "daemon/util/helper.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

struct scratch {
	struct scratch *next;
	char *text;
};

const char *ctl_clean(struct ctl *c, const char *s)
{
	struct scratch *k = malloc(sizeof(*k));
	char *text = text_clean(s ?: "?");

	if (!k || !text) {
		free(k);
		free(text);
		return "?";
	}
	*k = (struct scratch){c->scratch, text};
	c->scratch = k;
	return text;
}

const char *ctl_string(struct ctl *c, const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s ? ctl_clean(c, s) : "-";
}

int ctl_fail(struct ctl *c, int code, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fflush(c->out);
	fprintf(c->err, "pyleakctl: %s\n", ctl_clean(c, text));
	return code;
}

/* ---- asking --------------------------------------------------------------------------------- */

static void print_json(struct ctl *c, const json_t *result)
{
	json_dumpf(result, c->out, JSON_INDENT(2) | JSON_ENCODE_ANY);
	fputc('\n', c->out);
}

/* The usual verb: ask, show. */
static int ask_and_show(struct ctl *c, const char *verb, json_t *args, bool patient,
	void (*show)(struct ctl *c, const json_t *result))
{
	_cleanup_(json_decrefp) json_t *result = NULL;
	int r = daemon_ask(c, verb, args, patient, &result, NULL);

	if (r)
		return r;
	if (c->json)
		print_json(c, result);
	else
		show(c, result);
	return 0;
}

/* Sets key to v (stolen) unless v is NULL because it was not asked for. */
static json_t *with(json_t *args, const char *key, json_t *v)
{
	if (v && json_object_set_new(args, key, v) < 0) {
		json_decref(args);
		return NULL;
	}
	return args;
}

static json_t *with_text(json_t *args, const char *key, const char *text)
{
	json_t *v;

	if (!args || !text)
		return args;
	v = json_string(text);
	if (!v) {
		json_decref(args);
		return NULL;
	}
	return with(args, key, v);
}

int ctl_pid(struct ctl *c, const char *s, pid_t *ret)
{
	size_t digits = strspn(s, "0123456789");
	long pid = digits && !s[digits] && digits <= 10 ? atol(s) : 0;

	if (pid <= 0 || pid > INT_MAX)
		return ctl_fail(c, EXIT_USAGE, "%s is not a pid: give the number of a process", s);
	*ret = (pid_t)pid;
	return 0;
}

/* {"pid": N}, N being the first word; NULL when that is no pid, *ret_code then says what to exit
 * with. */
static json_t *pid_args(struct ctl *c, const struct options *o, int *ret_code)
{
	pid_t pid;

	*ret_code = ctl_pid(c, o->words[0], &pid);
	return *ret_code ? NULL : json_pack("{si}", "pid", (int)pid);
}

/* ---- the verbs ------------------------------------------------------------------------------ */

static int run_status(struct ctl *c, const struct options *o)
{
	return ask_and_show(c, "status", json_object(), false, show_status);
}

static int run_top(struct ctl *c, const struct options *o)
{
	int r;
	json_t *args = pid_args(c, o, &r);

	if (r)
		return r;
	args = with(args, "n", json_integer(o->n));
	args = with(args, "fresh", json_boolean(o->given & OPTION_BIT(OPTION_FRESH)));
	return ask_and_show(c, "top", args, false, show_top);
}

static int run_growth(struct ctl *c, const struct options *o)
{
	int r;
	json_t *args = pid_args(c, o, &r);

	if (r)
		return r;
	args = with(args, "n", json_integer(o->n));
	return ask_and_show(c, "growth", with_text(args, "since", o->since), false, show_growth);
}

static int run_history(struct ctl *c, const struct options *o)
{
	json_t *args;
	int r;

	if (o->n_types != 1)
		return ctl_fail(c, EXIT_USAGE, "history: give one type: history PID --type T");
	args = pid_args(c, o, &r);
	if (r)
		return r;
	args = with_text(args, "type", o->types[0]);
	args = with_text(args, "since", o->since);
	return ask_and_show(c, "history", with_text(args, "step", o->step), false, show_history);
}

static int run_suspects(struct ctl *c, const struct options *o)
{
	int r = 0;
	json_t *args = o->n_words ? pid_args(c, o, &r) : json_object();

	return r ?: ask_and_show(c, "suspects", args, false, show_suspects);
}

/* Verbs that answer what is so of one process, and why. */
static int ask_why(struct ctl *c, const struct options *o, const char *verb)
{
	int r;
	json_t *args = pid_args(c, o, &r);

	return r ?: ask_and_show(c, verb, args, false, show_why);
}

static int run_why(struct ctl *c, const struct options *o)
{
	return ask_why(c, o, "why");
}

static int run_attach(struct ctl *c, const struct options *o)
{
	return ask_why(c, o, "attach");
}

static int run_detach(struct ctl *c, const struct options *o)
{
	return ask_why(c, o, "detach");
}

static int run_pause(struct ctl *c, const struct options *o)
{
	return ask_and_show(c, "pause", json_object(), false, show_paused);
}

static int run_resume(struct ctl *c, const struct options *o)
{
	return ask_and_show(c, "resume", json_object(), false, show_paused);
}

/* What this host can do is for pyleakd to find out, with its own rights. */
static int run_support(struct ctl *c, const struct options *o)
{
	const char *argv[] = {"pyleakd", "--support", c->json ? "--json" : NULL, NULL};
	char path[PATH_MAX];

	if (helper_path("pyleakd", path, sizeof(path)))
		return ctl_fail(c, EXIT_BROKEN,
			"support: there is no pyleakd beside pyleakctl or in ../sbin: run pyleakd --support");
	fflush(c->out);
	execv(path, (char *const *)argv);
	return ctl_fail(c, EXIT_BROKEN, "support: %s: %m", path);
}

static int run_dump(struct ctl *c, const struct options *o)
{
	json_t *args, *types;
	int r;

	args = pid_args(c, o, &r);
	if (r)
		return r;
	types = json_array();
	for (unsigned i = 0; types && i < o->n_types; i++) {
		if (json_array_append_new(types, json_string(o->types[i])) < 0) {
			json_decref(types);
			types = NULL;
		}
	}
	if (!types) {
		json_decref(args);
		return ctl_fail(c, EXIT_USAGE, "--type: not UTF-8 text");
	}
	args = with(args, "types", types);
	args = with(args, "wait", json_boolean(!(o->given & OPTION_BIT(OPTION_NO_WAIT))));
	args = with(args, "force", json_boolean(o->given & OPTION_BIT(OPTION_FORCE)));
	return ask_and_show(c, "dump", args, true, show_dump);
}

/* ---- dumps list, show, path, rm ------------------------------------------------------------- */

static int dumps_list(struct ctl *c, const struct options *o)
{
	return ask_and_show(c, "dumps.list", json_object(), false, show_dumps);
}

/* Which file of a dump a name asks for, by its ending. */
static const char *file_kind(const char *name)
{
	static const char *const kinds[] = {"svg", "dot", "json", "html"};
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; dot && i < ARRAY_SIZE(kinds); i++)
		if (!strcasecmp(dot + 1, kinds[i]))
			return kinds[i];
	return "snapshot";
}

static void show_saved(struct ctl *c, const json_t *result)
{
	const char *name = json_string_value(json_object_get(result, "name"));

	if (name)
		fprintf(c->out, "%s, ", ctl_clean(c, name));
}

static int dumps_show(struct ctl *c, const struct options *o)
{
	const char *id = o->words[1];
	_cleanup_(json_decrefp) json_t *result = NULL;
	json_t *args;
	_cleanup_close_ int fd = -1;
	struct err err = {0};
	char size[TEXT_MAX];
	uint64_t bytes;
	bool made;
	int r;

	if (!o->output)
		return ask_and_show(c, "dumps.show", with_text(json_object(), "id", id), false, show_dump);
	r = ask_dump_file(c, o, id, &made, &result);
	if (r || made) {
		if (!r && c->json)
			print_json(c, result);
		return r;
	}
	args = json_pack("{s:s, s:s}", "id", id, "file", file_kind(o->output));
	r = daemon_ask(c, "dumps.show", args, false, &result, &fd);
	if (r)
		return r;
	if (fd < 0)
		return ctl_fail(c, EXIT_BROKEN, "dump %s: pyleakd sent no file", id);
	if (save_file(fd, o->output, &bytes, &err) < 0)
		return ctl_fail(c, EXIT_BROKEN, "%s", err.msg);
	if (c->json) {
		print_json(c, result);
	} else {
		show_saved(c, result);
		fprintf(c->out, "%s, is in %s\n", format_size(size, sizeof(size), bytes),
			ctl_clean(c, o->output));
	}
	return 0;
}

static void show_path(struct ctl *c, const json_t *result)
{
	const char *path = json_string_value(json_object_get(result, "path"));

	/* For scripts: only a path that can be shown as it is may be printed as one. */
	if (path)
		fprintf(c->out, "%s\n", ctl_clean(c, path));
	else
		show_object(c, result);
}

static int dumps_path(struct ctl *c, const struct options *o)
{
	return ask_and_show(
		c, "dumps.path", with_text(json_object(), "id", o->words[1]), false, show_path);
}

static void show_removed(struct ctl *c, const json_t *result)
{
	const char *id = json_string_value(json_object_get(result, "id"));

	if (id)
		fprintf(c->out, "removed %s\n", ctl_clean(c, id));
	else
		fputs("removed\n", c->out);
}

static int dumps_rm(struct ctl *c, const struct options *o)
{
	return ask_and_show(
		c, "dumps.rm", with_text(json_object(), "id", o->words[1]), false, show_removed);
}

static int run_dumps(struct ctl *c, const struct options *o)
{
	static const struct {
		const char *name;
		unsigned words;
		int (*run)(struct ctl *c, const struct options *o);
	} actions[] = {
		{"list", 1, dumps_list},
		{"show", 2, dumps_show},
		{"path", 2, dumps_path},
		{"rm", 2, dumps_rm},
	};
	const char *name = o->n_words ? o->words[0] : "list";

	for (size_t i = 0; i < ARRAY_SIZE(actions); i++) {
		if (strcmp(actions[i].name, name))
			continue;
		if (MAX(o->n_words, 1) != actions[i].words)
			return ctl_fail(c, EXIT_USAGE,
				"dumps %s: %s: dumps [list|show ID|path ID|rm ID]", name,
				actions[i].words == 2 ? "the id is missing" : "takes no id");
		if (o->output && actions[i].run != dumps_show)
			return ctl_fail(c, EXIT_USAGE, "dumps %s does not take -o", name);
		return actions[i].run(c, o);
	}
	return ctl_fail(
		c, EXIT_USAGE, "dumps %s: not known: dumps [list|show ID|path ID|rm ID]", name);
}

#define QUESTION_OPTIONS                                                                           \
	(OPTION_BIT(OPTION_N) | OPTION_BIT(OPTION_OUTPUT) | OPTION_BIT(OPTION_DEADLINE))
#define PICTURE_OPTIONS                                                                            \
	(OPTION_BIT(OPTION_TYPE) | OPTION_BIT(OPTION_ADDR) | OPTION_BIT(OPTION_MAX_DEPTH) |        \
		OPTION_BIT(OPTION_TOO_MANY))

#define DUMP_HELP                                                                                  \
	"DUMP is the id of a dump, or a file: a snapshot, or the folder of a dump. A file needs\n" \
	"no daemon, and can be read on any machine.\n"

static const char dump_help[] = DUMP_HELP;
static const char ask_help[] = DUMP_HELP
	"The ending of FILE says what is written: .dot .svg .png .pdf (the picture), .json,\n"
	".heapsnapshot (the whole heap, for Chrome's developer tools), and a chain's .html\n"
	"(report). Without -o the picture opens in xdot on a display; elsewhere it is text.\n"
	"An answer that takes too long (--deadline) is not whole and says so.\n";

const struct verb verbs[] = {
	{"status", "", "Shows the daemon and the processes it watches",
		"EXACT, ESTIMATE and BLIND are numbers of types. OBJECTS, PAUSE and CENSUS speak\n"
		"of the last count of all objects: how many, how long the process stood still\n"
		"for it at most, how long ago.\n",
		0, 0, 0, run_status},
	{"top", "PID [-n N] [--fresh]", "Shows live objects per type, most common first",
		"LIVE is all objects of the type, TRACKED those the garbage collector knows,\n"
		"BORN and DIED what was counted since attaching. \"~\" marks an estimate, \"±\"\n"
		"the largest error there can be, \"?\" what cannot be known with this "
		"interpreter,\n"
		"\"-\" what is not known yet.\n",
		OPTION_BIT(OPTION_N) | OPTION_BIT(OPTION_FRESH), 1, 1, run_top},
	{"growth", "PID [--since T] [-n N]",
		"Shows types above their highest level up to T, by growth",
		"Without --since: one growth.window back, or the start of watching if that is\n"
		"later. Asking changes nothing.\n",
		OPTION_BIT(OPTION_N) | OPTION_BIT(OPTION_SINCE), 1, 1, run_growth},
	{"history", "PID --type T [--since T] [--step D]",
		"Shows the numbers of one type over time",
		"On a terminal with a plot above the table.\n",
		OPTION_BIT(OPTION_TYPE) | OPTION_BIT(OPTION_SINCE) | OPTION_BIT(OPTION_STEP), 1, 1,
		run_history},
	{"suspects", "[PID]", "Shows which types leak, since when, how sure that is, and why", NULL,
		0, 0, 1, run_suspects},
	{"dump", "PID [--type T]... [--no-wait] [--force]",
		"Looks into a process now and shows what holds its objects",
		"The process stands still for a few milliseconds while a frozen copy of it is\n"
		"made; the copy is looked at. Without --type: the suspects; if there are none,\n"
		"the three types that grew most.\n",
		OPTION_BIT(OPTION_TYPE) | OPTION_BIT(OPTION_NO_WAIT) | OPTION_BIT(OPTION_FORCE), 1,
		1, run_dump},
	{"dumps", "[list|show ID [-o FILE]|path ID|rm ID]", "Shows or removes the dumps on disk",
		"\"show\" without -o explains the dump. With -o it writes one of its files to\n"
		"FILE, by the ending of that name: .svg .png .pdf (picture), .dot, .json, .html\n"
		"(report), .heapsnapshot, else the snapshot. \"path\" prints the folder.\n",
		OPTION_BIT(OPTION_OUTPUT), 0, 2, run_dumps},
	{"chain", "DUMP (--type T | --addr A) [--max-depth N] [--too-many N] [--deadline D] [-o FILE]",
		"Shows what holds the objects of a type, by path", ask_help,
		QUESTION_OPTIONS | PICTURE_OPTIONS, 1, 1, ask_chain},
	{"backrefs", "DUMP (--type T | --addr A) [--max-depth N] [--too-many N] [--deadline D] [-o FILE]",
		"Shows what refers to objects, and to that, and so on", ask_help,
		QUESTION_OPTIONS | PICTURE_OPTIONS, 1, 1, ask_backrefs},
	{"refs", "DUMP (--type T | --addr A) [--max-depth N] [--too-many N] [--deadline D] [-o FILE]",
		"Shows what objects refer to, and that, and so on", ask_help,
		QUESTION_OPTIONS | PICTURE_OPTIONS, 1, 1, ask_refs},
	{"types", "DUMP [--type T]... [-n N] [--deadline D] [-o FILE]",
		"Shows how many objects of each type there are, and their bytes", dump_help,
		QUESTION_OPTIONS | OPTION_BIT(OPTION_TYPE), 1, 1, ask_types},
	{"instances", "DUMP (--type T | --addr A) [-n N] [--deadline D] [-o FILE]",
		"Lists the objects of a type with address, bytes and reference count", dump_help,
		QUESTION_OPTIONS | OPTION_BIT(OPTION_TYPE) | OPTION_BIT(OPTION_ADDR), 1, 1,
		ask_instances},
	{"diff", "DUMP DUMP [-n N] [--deadline D] [-o FILE]",
		"Shows what changed between two dumps: types, new objects, grown containers",
		"The older dump comes first. NEW is the number of objects at addresses where\n"
		"there was none of that type before.\n",
		QUESTION_OPTIONS, 2, 2, ask_diff},
	{"dominators", "DUMP [-n N] [--deadline D] [-o FILE]",
		"Shows which objects keep most memory alive, and which types",
		"An object retains itself and all that would be freed with it.\n",
		QUESTION_OPTIONS, 1, 1, ask_dominators},
	{"leaking", "DUMP [-n N] [--deadline D] [-o FILE]",
		"Lists objects that have more references than anything explains: C code holds them",
		dump_help, QUESTION_OPTIONS, 1, 1, ask_leaking},
	{"cycles", "DUMP [--type T]... [-n N] [--deadline D] [-o FILE]",
		"Lists reference cycles that only the garbage collector can free", dump_help,
		QUESTION_OPTIONS | OPTION_BIT(OPTION_TYPE), 1, 1, ask_cycles},
	{"replay", "FILE [--config FILE] [--window D] ... [-o FILE.svg]",
		"Shows which verdicts a recording gives, also with other settings",
		"FILE is what pyleakd --record has written; no daemon is asked. Settings that are not\n"
		"given are those of the recording. -o draws the types with a verdict as SVG.\n",
		OPTION_BIT(OPTION_CONFIG) | OPTION_BIT(OPTION_INTERVAL) | OPTION_BIT(OPTION_WARMUP) |
			OPTION_BIT(OPTION_WINDOW) | OPTION_BIT(OPTION_MIN_OBJECTS) |
			OPTION_BIT(OPTION_OUTPUT),
		1, 1, run_replay},
	{"why", "PID", "Tells why a process is or is not watched", NULL, 0, 1, 1, run_why},
	{"watch", "[PID] [-n N] [--interval D]", "Shows status and suspects, or the types of a process, again and again",
		"On the whole screen, until q is pressed. Default interval: 2s.\n",
		OPTION_BIT(OPTION_N) | OPTION_BIT(OPTION_INTERVAL), 0, 1, run_watch},
	{"attach", "PID", "Watches a process whatever the rules say",
		"Until the process or pyleakd ends, or it is detached.\n", 0, 1, 1, run_attach},
	{"detach", "PID", "Lets go of a process and keeps away from it",
		"Until pyleakd ends, or it is attached again.\n", 0, 1, 1, run_detach},
	{"pause", "", "Lets go of every process and looks at none",
		"Until it is resumed, or pyleakd ends. What was known of them is kept.\n", 0, 0, 0,
		run_pause},
	{"resume", "", "Goes on watching after a pause", NULL, 0, 0, 0, run_resume},
	{"support", "", "Shows what this host and each running Python allow",
		"As pyleakd --support; no daemon is asked.\n", 0, 0, 0, run_support},
	{NULL},
};

/* ---- the program ---------------------------------------------------------------------------- */

void ctl_release(struct ctl *c)
{
	while (c->scratch) {
		struct scratch *k = c->scratch;

		c->scratch = k->next;
		free(k->text);
		free(k);
	}
}

static int run(struct ctl *c, int argc, char **argv)
{
	const struct verb *verb;
	struct options o;
	struct err err;

	if (options_parse(argc, argv, &verb, &o, &err) < 0)
		return ctl_fail(c, EXIT_USAGE, "%s", err.msg);
	if (o.given & OPTION_BIT(OPTION_VERSION)) {
		fputs("pyleakctl " PYLEAK_VERSION "\n", c->out);
		return EXIT_FINE;
	}
	if (o.given & OPTION_BIT(OPTION_HELP)) {
		if (verb)
			options_verb_help(c->out, verb);
		else
			options_help(c->out);
		return EXIT_FINE;
	}
	c->socket = o.socket;
	c->json = o.given & OPTION_BIT(OPTION_JSON);
	return verb->run(c, &o);
}

int ctl_main(struct ctl *c, int argc, char **argv)
{
	int r;

	text_init();
	r = run(c, argc, argv);
	/* A full disk shows only now. */
	if ((fflush(c->out) || ferror(c->out)) && r == EXIT_FINE)
		r = ctl_fail(c, EXIT_BROKEN, "cannot write the answer: %s", strerror(errno));
	ctl_release(c);
	return r;
}
