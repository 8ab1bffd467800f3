/* SPDX-License-Identifier: MIT */
/*
 * pyleakd: reads the options and the configuration, wires the modules together, runs the event
 * loop. No logic of its own.
 */
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "daemon/config/config.h"
#include "daemon/dump/dump.h"
#include "daemon/probe/probe.h"
#include "daemon/serve/http.h"
#include "daemon/record/record.h"
#include "daemon/serve/serve.h"
#include "daemon/store/store.h"
#include "daemon/util/log.h"
#include "daemon/watch/answers.h"
#include "daemon/watch/support.h"
#include "daemon/watch/metrics.h"
#include "daemon/watch/watch.h"
#include "pyleak/control.h"

#define STATE_DIR "/var/lib/pyleak"
#define PIDS_MAX  256

struct options {
	const char *config, *socket, *state_dir, *record;
	pid_t pids[PIDS_MAX];
	size_t n_pids;
	bool check_config, print_config, support, json, verbose;
};

struct daemon {
	struct options o;
	struct config *config;
	sd_event *event;
	struct probe *probe;
	struct store *store;
	struct dump_manager *dumps;
	struct watch *watch;
	struct serve *serve;
	struct http *http; /* metrics, or NULL */
	struct record_writer *record;
};

enum {
	OPT_CONFIG = 256,
	OPT_SOCKET,
	OPT_STATE_DIR,
	OPT_PID,
	OPT_RECORD,
	OPT_CHECK_CONFIG,
	OPT_PRINT_CONFIG,
	OPT_SUPPORT,
	OPT_JSON,
	OPT_VERBOSE,
	OPT_HELP,
	OPT_VERSION,
};

static const struct {
	const char *name, *arg, *help;
	int value;
} option_table[] = {
	{"config", "FILE", "read FILE instead of " CONFIG_DEFAULT_PATH, OPT_CONFIG},
	{"socket", "PATH", "control socket, default " CONTROL_SOCKET_PATH, OPT_SOCKET},
	{"state-dir", "DIR", "dumps and what triggers did, default " STATE_DIR, OPT_STATE_DIR},
	{"pid", "PID", "watch this process, too (may be given again)", OPT_PID},
	{"record", "FILE", "keep what verdicts are made from in FILE, for pyleakctl replay", OPT_RECORD},
	{"check-config", NULL, "read the configuration, say what is wrong with it, exit",
		OPT_CHECK_CONFIG},
	{"print-config", NULL, "print the configuration in force as YAML, exit", OPT_PRINT_CONFIG},
	{"support", NULL, "print what this host and each running Python allow, exit", OPT_SUPPORT},
	{"json", NULL, "with --support: as JSON", OPT_JSON},
	{"verbose", NULL, "log more", OPT_VERBOSE},
	{"help", NULL, "print this", OPT_HELP},
	{"version", NULL, "print the version", OPT_VERSION},
};

static void print_help(void)
{
	printf("pyleakd: watches running Python processes for leaks.\n\nUsage: pyleakd "
	       "[OPTION]...\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(option_table); i++) {
		char left[40];

		snprintf(left, sizeof(left), "--%s%s%s", option_table[i].name,
			option_table[i].arg ? " " : "",
			option_table[i].arg ? option_table[i].arg : "");
		printf("  %-20s %s\n", left, option_table[i].help);
	}
	printf("\nWithout rules in the configuration every Python is watched; with --pid and no\n"
	       "configuration file only those processes are. See pyleakd(8), pyleakd.yaml(5).\n");
}

static void add_pid(struct options *o, pid_t pid)
{
	for (size_t i = 0; i < o->n_pids; i++)
		if (o->pids[i] == pid)
			return;
	o->pids[o->n_pids++] = pid;
}

/* What is printed instead of watching is one thing, and --json is of one of them. */
static int check_options(const struct options *o)
{
	if (o->check_config + o->print_config + o->support > 1) {
		log_error("--check-config, --print-config and --support: only one of them");
		return EXIT_USAGE;
	}
	if (o->json && !o->support) {
		log_error("--json: only with --support; a running daemon answers pyleakctl --json");
		return EXIT_USAGE;
	}
	return -1;
}

/* Returns -1 to go on, else the exit code. */
static int parse_options(int argc, char **argv, struct options *o)
{
	struct option longs[ARRAY_SIZE(option_table) + 1] = {{0}};
	int c;

	for (size_t i = 0; i < ARRAY_SIZE(option_table); i++)
		longs[i] = (struct option){option_table[i].name,
			option_table[i].arg ? required_argument : no_argument, NULL,
			option_table[i].value};
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		char *end;
		long pid;

		switch (c) {
		case OPT_CONFIG:
			o->config = optarg;
			break;
		case OPT_SOCKET:
			o->socket = optarg;
			break;
		case OPT_STATE_DIR:
			o->state_dir = optarg;
			break;
		case OPT_PID:
			errno = 0;
			pid = strtol(optarg, &end, 10);
			if (errno || *end || pid <= 0 || pid > INT32_MAX) {
				log_error("--pid %s: a process id is a positive number", optarg);
				return EXIT_USAGE;
			}
			if (o->n_pids == PIDS_MAX) {
				log_error("--pid: at most %d; use rules in the configuration for "
					  "more",
					PIDS_MAX);
				return EXIT_USAGE;
			}
			add_pid(o, (pid_t)pid);
			break;
		case OPT_RECORD:
			o->record = optarg;
			break;
		case OPT_CHECK_CONFIG:
			o->check_config = true;
			break;
		case OPT_PRINT_CONFIG:
			o->print_config = true;
			break;
		case OPT_SUPPORT:
			o->support = true;
			break;
		case OPT_JSON:
			o->json = true;
			break;
		case OPT_VERBOSE:
			o->verbose = true;
			break;
		case OPT_HELP:
			print_help();
			return EXIT_FINE;
		case OPT_VERSION:
			printf("pyleakd %s\n", PYLEAK_VERSION);
			return EXIT_FINE;
		case ':':
			log_error("%s needs a value: see pyleakd --help", argv[optind - 1]);
			return EXIT_USAGE;
		default:
			log_error("%s: no such option: see pyleakd --help", argv[optind - 1]);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		log_error("%s: pyleakd takes options only: see pyleakd --help", argv[optind]);
		return EXIT_USAGE;
	}
	return check_options(o);
}

/* The file in force: --config, else the default place if there is one, else NULL. */
static const char *config_path(const struct options *o)
{
	if (o->config)
		return o->config;
	return access(CONFIG_DEFAULT_PATH, F_OK) == 0 ? CONFIG_DEFAULT_PATH : NULL;
}

static int load_config(const struct options *o, struct config **ret)
{
	const char *path = config_path(o);
	struct err err = {{0}};
	int r;

	r = path ? config_load(path, stderr, ret, &err) : config_new(ret);
	if (r == -ENOMEM)
		log_error("out of memory");
	else if (r && r != -EINVAL && err.msg[0]) /* mistakes are on stderr, with their places */
		log_error("%s", err.msg);
	return r ? EXIT_USAGE : 0;
}

static int on_stop(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
	log_info("stopping on signal %s", strsignal((int)si->ssi_signo));
	return sd_event_exit(sd_event_source_get_event(s), 0);
}

static void write_metrics(FILE *f, void *userdata)
{
	struct daemon *d = userdata;

	metrics_write(d->watch, f);
}

/* Metrics at another address, or none. False: it cannot be, and they are where they were. */
static bool move_metrics(struct daemon *d, const struct config *c, struct err *err)
{
	const char *from = d->config->metrics_listen, *to = c->metrics_listen;
	struct http *h = NULL;

	if (from && to && !strcmp(from, to))
		return true;
	if (to && http_open(d->event, to, write_metrics, d, &h, err))
		return false;
	http_free(d->http);
	d->http = h;
	return true;
}

static int on_reload(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
	struct daemon *d = userdata;
	struct config *c = NULL;
	struct err err = {{0}};

	sd_notify(0, "RELOADING=1");
	if (load_config(&d->o, &c)) {
		log_error("the configuration was not reloaded, the old one stays in force");
	} else if (!move_metrics(d, c, &err) || watch_configure(d->watch, c, &err)) {
		log_error("the configuration was not reloaded: %s", err.msg);
		config_free(c);
	} else {
		config_free(d->config);
		d->config = c;
		log_info("configuration reloaded");
	}
	sd_notify(0, "READY=1");
	return 0;
}

static int setup_event(struct daemon *d)
{
	sigset_t block;
	int r;

	/* SIGCHLD for the helpers of a dump; all as signalfd, so that nothing is interrupted. */
	sigemptyset(&block);
	sigaddset(&block, SIGTERM);
	sigaddset(&block, SIGINT);
	sigaddset(&block, SIGHUP);
	sigaddset(&block, SIGCHLD);
	sigprocmask(SIG_BLOCK, &block, NULL);
	signal(SIGPIPE, SIG_IGN);
	r = sd_event_new(&d->event);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGTERM, on_stop, d);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGINT, on_stop, d);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGHUP, on_reload, d);
	if (r >= 0)
		r = sd_event_set_watchdog(d->event, 1);
	if (r < 0)
		log_error("event loop: %s", strerror(-r));
	return r < 0 ? EXIT_BROKEN : 0;
}

/* prepare -> load -> attach -> serve; returns 0 or an exit code. */
static int start(struct daemon *d)
{
	struct probe_options po = {0};
	struct watch_options wo = {0};
	struct err err = {{0}};
	int r;

	r = setup_event(d);
	if (r)
		return r;
	/* --pid targets first: a typo there is told at once and leaves nothing behind. */
	for (size_t i = 0; i < d->o.n_pids; i++) {
		struct python *py = NULL;

		r = python_open(d->o.pids[i], &py, &err);
		python_free(py);
		if (r) {
			log_error("%s", err.msg);
			return watch_exit_code(r);
		}
	}
	r = probe_open(&po, &d->probe, &err);
	if (r) {
		log_error("%s", err.msg);
		return r == -EOPNOTSUPP || r == -EPERM || r == -EACCES ? EXIT_REFUSED : EXIT_BROKEN;
	}
	err.msg[0] = 0;
	r = store_open(d->o.state_dir ? d->o.state_dir : STATE_DIR, &d->store, &err);
	if (r) {
		log_error("%s", err.msg);
		return r == -EBUSY                   ? EXIT_USAGE
		       : r == -EACCES || r == -EPERM ? EXIT_REFUSED
						     : EXIT_BROKEN;
	}
	if (err.msg[0])
		log_warning("%s", err.msg); /* a damaged database was moved aside */
	r = dump_manager_new(d->event, d->store, &d->dumps);
	if (r) {
		log_error("dumps: %s", strerror(-r));
		return EXIT_BROKEN;
	}
	if (d->o.record && record_create(d->o.record, &d->record, &err)) {
		log_error("%s", err.msg);
		return EXIT_USAGE;
	}
	wo.record = d->record;
	wo.event = d->event;
	wo.config = d->config;
	wo.probe = d->probe;
	wo.store = d->store;
	wo.dumps = d->dumps;
	wo.pids = d->o.pids;
	wo.n_pids = d->o.n_pids;
	/* --pid without any configuration: those only (INTERFACE.md). */
	wo.use_rules = !d->o.n_pids || d->config->rules_given;
	r = watch_new(&wo, &d->watch, &err);
	if (r) {
		log_error("%s", err.msg);
		return watch_exit_code(r);
	}
	r = serve_open(d->event, d->o.socket ? d->o.socket : CONTROL_SOCKET_PATH, answer_request,
		d->watch, &d->serve, &err);
	if (r) {
		log_error("%s", err.msg);
		return r == -EADDRINUSE              ? EXIT_USAGE
		       : r == -EACCES || r == -EPERM ? EXIT_REFUSED
						     : EXIT_BROKEN;
	}
	if (d->config->metrics_listen &&
		http_open(d->event, d->config->metrics_listen, write_metrics, d, &d->http, &err)) {
		log_error("%s", err.msg);
		return EXIT_USAGE;
	}
	return 0;
}

static void stop(struct daemon *d)
{
	/* Requests first (they point to targets), dumps, then targets and their links. */
	serve_free(d->serve);
	http_free(d->http);
	dump_manager_free(d->dumps);
	watch_free(d->watch);
	record_close(d->record);
	probe_free(d->probe);
	store_close(d->store);
	sd_event_unref(d->event);
	config_free(d->config);
}

/* A dozen descriptors a target: as many as may be had. */
static void raise_limits(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &l);
	}
}

int main(int argc, char **argv)
{
	struct daemon d = {0};
	int r;

	raise_limits();
	mallopt(M_ARENA_MAX, 1);             /* threads wait more than they work */
	mallopt(M_MMAP_THRESHOLD, 64 << 10); /* what is large is for a moment: give it back */
	log_open("pyleakd", LOG_INFO);
	r = parse_options(argc, argv, &d.o);
	if (r >= 0)
		return r;
	if (d.o.verbose)
		log_open("pyleakd", LOG_DEBUG);
	if (d.o.support)
		return support_print(stdout, d.o.json);
	r = load_config(&d.o, &d.config);
	if (r)
		return r;
	if (d.o.print_config) {
		config_print(d.config, stdout);
	} else if (d.o.check_config) {
		printf("%s: fine\n", config_path(&d.o) ? config_path(&d.o) : "built-in defaults");
	} else {
		r = start(&d);
		if (!r) {
			size_t n = watch_target_count(d.watch);

			sd_notifyf(0, "READY=1\nSTATUS=watching %zu process%s", n, n == 1 ? "" : "es");
			log_info("pyleakd %s is ready, %zu target%s, control socket %s", PYLEAK_VERSION,
				n, n == 1 ? "" : "s", d.o.socket ? d.o.socket : CONTROL_SOCKET_PATH);
			r = sd_event_loop(d.event);
			sd_notify(0, "STOPPING=1");
			r = r < 0 ? EXIT_BROKEN : r;
		}
	}
	stop(&d);
	return r;
}
