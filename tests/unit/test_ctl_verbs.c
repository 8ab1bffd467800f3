/* SPDX-License-Identifier: MIT */
/*
 * Every verb from the command line to what is printed: the whole program but main(), talking over
 * a real socket to a real serve instance in a child process. That one answers with documents as
 * the daemon makes them, and only if it is asked exactly what the contract says.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ctl/ctl.h"
#include "daemon/serve/serve.h"
#include "daemon/util/macros.h"
#include "pyleak/control.h"

#define NOW_MS 1795422358123LL /* 2026-11-23T08:25:58.123Z */

/* What the daemon expects and answers. */
struct canned {
	const char *verb, *args;
	const char *result; /* JSON; NULL: the error */
	int exit_code;
	const char *error;
	const char *progress;
	const char *file; /* contents of a file that is handed over */
	bool hang_up;
};

struct fixture {
	char dir[80], path[128];
	bool terminal;
	pid_t daemon;
	char *out, *err;
};

static void handler(struct serve_request *q, const char *verb, json_t *args,
	const struct serve_peer *peer, void *userdata)
{
	const struct canned *k = userdata;
	json_t *expect = json_loads(k->args, 0, NULL);
	bool right = !strcmp(verb, k->verb) && json_equal(args, expect);
	int fd = -1;

	json_decref(expect);
	if (!right) {
		char *text = json_dumps(args, JSON_COMPACT | JSON_SORT_KEYS);

		serve_reply_error(q, 99, "asked for %s %s", verb, text);
		free(text);
		return;
	}
	if (k->hang_up)
		_exit(0);
	if (k->progress)
		serve_progress(q, "%s", k->progress);
	if (!k->result) {
		serve_reply_error(q, k->exit_code, "%s", k->error);
		return;
	}
	if (k->file) {
		fd = memfd_create("file", MFD_CLOEXEC);
		/* the offset is left at the end: the reader has to start at the beginning */
		if (write(fd, k->file, strlen(k->file)) < 0)
			_exit(1);
	}
	serve_reply(q, json_loads(k->result, JSON_DECODE_ANY, NULL), fd);
	if (fd >= 0)
		close(fd);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "%s/pyleak-ctl-XXXXXX", getenv("TMPDIR") ?: "/tmp");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/control.sock", f->dir);
	*state = f;
	return 0;
}

static void stop_daemon(struct fixture *f)
{
	if (f->daemon <= 0)
		return;
	kill(f->daemon, SIGKILL);
	waitpid(f->daemon, NULL, 0);
	f->daemon = 0;
	unlink(f->path);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	stop_daemon(f);
	assert_int_equal(rmdir(f->dir), 0);
	free(f->out);
	free(f->err);
	free(f);
	return 0;
}

static void start_daemon(struct fixture *f, const struct canned *k)
{
	struct serve *s;
	int ready[2];
	char c;

	stop_daemon(f);
	assert_int_equal(pipe(ready), 0);
	f->daemon = fork();
	if (!f->daemon) {
		sd_event *event;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (sd_event_new(&event) < 0 ||
			serve_open(event, f->path, handler, (void *)k, &s, NULL))
			_exit(1);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		sd_event_loop(event);
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
}

/* Runs "pyleakctl LINE"; what it writes is in f->out and f->err. */
static int run(struct fixture *f, const char *line)
{
	char copy[512], socket[160], *argv[32] = {(char *)"pyleakctl", socket};
	size_t n_out, n_err;
	struct ctl c = {.now_ms = NOW_MS, .columns = 60};
	int argc = 2, r;

	snprintf(socket, sizeof(socket), "--socket=%s", f->path);
	snprintf(copy, sizeof(copy), "%s", line);
	for (char *w = strtok(copy, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	free(TAKE_PTR(f->out));
	free(TAKE_PTR(f->err));
	c.out = open_memstream(&f->out, &n_out);
	c.err = open_memstream(&f->err, &n_err);
	c.out_terminal = c.err_terminal = c.colour = f->terminal;
	r = ctl_main(&c, argc, argv);
	fclose(c.out);
	fclose(c.err);
	return r;
}

static void check(struct fixture *f, const char *line, const struct canned *k, const char *expect)
{
	int r;

	start_daemon(f, k);
	r = run(f, line);
	if (r || *f->err)
		fail_msg("%s: exit %d: %s", line, r, f->err);
	if (strcmp(f->out, expect))
		fail_msg("%s:\n%s<<< but should be:\n%s<<<", line, f->out, expect);
}

static void check_error(
	struct fixture *f, const char *line, const struct canned *k, int code, const char *expect)
{
	if (k)
		start_daemon(f, k);
	assert_int_equal(run(f, line), code);
	assert_string_equal(f->out, "");
	assert_string_equal(f->err, expect);
}

/* ---- the verbs ------------------------------------------------------------------------------ */

static void test_status(void **state)
{
	const struct canned k = {.verb = "status",
		.args = "{}",
		.result =
			"{\"at\":\"2026-11-23T08:25:58.000Z\",\"version\":\"0.1.0\",\"targets\":["
			"{\"pid\":4711,\"comm\":\"gunicorn\",\"python\":\"3.11.2\",\"build\":{"
			"\"path\":"
			"\"/usr/bin/"
			"python3.11\",\"kind\":\"static\",\"build_id\":\"abc\"},\"state\":"
			"\"watching\",\"reason\":\"\",\"overhead_percent\":0.4321,\"coverage\":{"
			"\"exact\":"
			"112,\"estimate\":3,\"blind\":1},\"census\":{\"objects\":120345,\"pause_us_"
			"max\":"
			"3200,\"at\":\"2026-11-23T08:25:53.000Z\",\"width\":0}},"
			"{\"pid\":5,\"comm\":\"a\\u001b[2Jb\",\"python\":\"3.13.5\",\"build\":null,"
			"\"state\":\"starting\",\"reason\":\"no census: the heap is too large\","
			"\"overhead_percent\":null,\"coverage\":null,\"census\":null}]}"};
	const struct canned none = {.verb = "status",
		.args = "{}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"version\":\"0.1.0\",\"targets\":["
			  "]}"};

	check(*state, "status", &k,
		"pyleakd 0.1.0 watches 2 processes\n"
		" PID  NAME      PYTHON  STATE     EXACT  ESTIMATE  BLIND  OBJECTS   PAUSE   "
		"CENSUS  "
		"OVERHEAD  BUILD\n"
		"4711  gunicorn  3.11.2  watching    112         3      1  120 345  3.2 ms  5 s "
		"ago  "
		"  0.43 %  /usr/bin/python3.11 (static)\n"
		"   5  a?[2Jb    3.13.5  starting      -         -      -        -       -        "
		"-  "
		"       -  -\n"
		"\n"
		"pid 5: no census: the heap is too large\n");
	check(*state, "status", &none, "pyleakd 0.1.0 watches 0 processes\n");
}

static void test_top(void **state)
{
	const struct canned k = {.verb = "top",
		.args = "{\"pid\":4711,\"n\":3,\"fresh\":true}",
		.result =
			"{\"at\":\"2026-11-23T08:25:58.000Z\",\"pid\":4711,\"types\":["
			"{\"type\":\"dict\",\"count\":120345,\"count_bound\":20,\"tracked\":98000,"
			"\"tracked_bound\":0,\"quality\":\"estimate\",\"allocs\":1000000,\"frees\":"
			"900000,"
			"\"alloc_rate\":123.4,\"free_rate\":0.25,\"rates_quality\":\"exact\","
			"\"observed_share\":1.0,\"types\":1},"
			"{\"type\":\"app.Session\",\"count\":12400,\"count_bound\":0,\"tracked\":"
			"12400,"
			"\"tracked_bound\":0,\"quality\":\"exact\",\"allocs\":12400,\"frees\":0,"
			"\"alloc_rate\":41.5,\"free_rate\":0.0,\"rates_quality\":\"estimate\","
			"\"observed_share\":1.0,\"types\":2},"
			"{\"type\":\"function\",\"count\":null,\"count_bound\":null,\"tracked\":"
			"null,"
			"\"tracked_bound\":null,\"quality\":\"blind\",\"allocs\":null,\"frees\":7,"
			"\"alloc_rate\":null,\"free_rate\":0.001,\"rates_quality\":\"blind\","
			"\"observed_share\":1.0,\"types\":1}]}"};
	const struct canned partly = {.verb = "top",
		.args = "{\"pid\":1,\"n\":10,\"fresh\":false}",
		.result = "{\"at\":null,\"pid\":1,\"types\":["
			  "{\"type\":\"dict\",\"count\":null,\"tracked\":5,\"quality\":\"exact\","
			  "\"allocs\":"
			  "1,\"frees\":2,\"alloc_rate\":1,\"free_rate\":2,\"observed_share\":0.37}]"
			  "}"};
	const struct canned none = {.verb = "top",
		.args = "{\"pid\":1,\"n\":10,\"fresh\":false}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"pid\":1,\"types\":[]}"};

	check(*state, "top 4711 -n 3 --fresh", &k,
		"pid 4711 at 2026-11-23 08:25:58\n"
		"TYPE                           LIVE  TRACKED       BORN     DIED  BORN/s  DIED/s\n"
		"dict                   ~120 345 ±20   98 000  1 000 000  900 000     123    0.25\n"
		"app.Session (2 types)        12 400   12 400    ~12 400       ~0   ~41.5      ~0\n"
		"function                          ?        -          ?        7       ?   "
		"0.001\n");
	check(*state, "top 1", &partly,
		"pid 1 at -\n"
		"TYPE  LIVE  TRACKED  BORN  DIED  BORN/s  DIED/s  SEEN\n"
		"dict     -        5     1     2     1.0     2.0  37 %\n");
	check(*state, "top 1", &none, "pid 1 at 2026-11-23 08:25:58: no types counted yet\n");
}

static void test_growth(void **state)
{
	const struct canned k = {.verb = "growth",
		.args = "{\"pid\":4711,\"n\":10,\"since\":\"10m\"}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"pid\":4711,\"since\":"
			  "\"2026-11-23T08:15:58.000Z\",\"types\":["
			  "{\"type\":\"app.Session\",\"count\":12400,\"delta\":8000,\"rate_per_"
			  "hour\":48000."
			  "4,"
			  "\"quality\":\"exact\"},"
			  "{\"type\":\"list\",\"count\":null,\"delta\":12,\"rate_per_hour\":72,"
			  "\"quality\":"
			  "\"estimate\"}]}"};
	const struct canned none = {.verb = "growth",
		.args = "{\"pid\":1,\"n\":0}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"pid\":1,\"since\":null,\"types\":"
			  "[]}"};

	check(*state, "growth 4711 --since 10m", &k,
		"pid 4711 at 2026-11-23 08:25:58, above the highest level up to 2026-11-23 "
		"08:15:58 (10 min ago)\n"
		"TYPE           LIVE  GROWTH  PER HOUR\n"
		"app.Session  12 400  +8 000   +48 000\n"
		"list              -    ~+12      ~+72\n");
	check(*state, "growth 1 -n 0", &none, "pid 1 at 2026-11-23 08:25:58: no type\n");
}

static const struct canned history = {.verb = "history",
	.args = "{\"pid\":4711,\"type\":\"app.Session\",\"since\":\"1h\",\"step\":\"1m\"}",
	.result =
		"{\"at\":\"2026-11-23T08:25:58.000Z\",\"pid\":4711,\"type\":\"app.Session\","
		"\"points\":["
		"{\"at\":\"2026-11-23T08:23:58.000Z\",\"count\":1000,\"allocs\":1000,\"frees\":0},"
		"{\"at\":\"2026-11-23T08:24:58.000Z\",\"count\":null,\"allocs\":2000,\"frees\":10},"
		"{\"at\":\"2026-11-23T08:25:58.000Z\",\"count\":3000,\"allocs\":3000,\"frees\":20}]"
		"}"};

static void test_history(void **state)
{
	struct fixture *f = *state;
	const char *line = "history 4711 --type app.Session --since 1h --step 1m";
	const struct canned none = {.verb = "history",
		.args = "{\"pid\":1,\"type\":\"x\"}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"pid\":1,\"type\":\"x\","
			  "\"points\":[]}"};

	check(f, line, &history,
		"app.Session, pid 4711 at 2026-11-23 08:25:58\n"
		"AT                    LIVE   BORN  DIED\n"
		"2026-11-23 08:23:58  1 000  1 000     0\n"
		"2026-11-23 08:24:58      -  2 000    10\n"
		"2026-11-23 08:25:58  3 000  3 000    20\n");
	check(f, "history 1 --type x", &none,
		"x, pid 1 at 2026-11-23 08:25:58: no points in that time\n");
	/* a plot is for terminals; there is no line where nothing is known */
	f->terminal = true;
	start_daemon(f, &history);
	assert_int_equal(run(f, line), 0);
	assert_non_null(
		strstr(f->out, "live:\n"
			       "3 000                                                     █\n"
			       "                                                          █\n"
			       "                                                          █\n"
			       "                                                          █\n"
			       "                                                          █\n"
			       "1 000 ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁                          █\n"
			       "      2026-11-23 08:23:58               2026-11-23 08:25:58\n"
			       "\n"
			       "\033[1mAT"));
	f->terminal = false;
}

static void test_suspects(void **state)
{
	const struct canned k = {.verb = "suspects",
		.args = "{\"pid\":4711}",
		.result =
			"{\"at\":\"2026-11-23T08:25:58.000Z\",\"suspects\":["
			"{\"pid\":4711,\"type\":\"app.Session\",\"verdict\":\"leak\",\"count\":"
			"12400,"
			"\"delta\":8000,\"rate_per_hour\":48000,\"confidence\":0.97,\"first_seen\":"
			"\"2026-11-23T08:20:58.000Z\",\"reason\":\"grows by 800 a minute without a "
			"break\","
			"\"companions\":[\"app.User\",{\"type\":\"dict\"}],\"sites\":null,\"dump\":"
			"\"20261123T082501-4711-1\"},"
			"{\"pid\":4711,\"type\":\"list\",\"verdict\":\"watch\",\"count\":null,"
			"\"delta\":"
			"900,\"rate_per_hour\":5400,\"confidence\":0.4,\"first_seen\":null,"
			"\"reason\":null,"
			"\"companions\":[],\"sites\":null,\"dump\":null}]}"};
	const struct canned none = {.verb = "suspects",
		.args = "{}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"suspects\":[]}"};

	check(*state, "suspects 4711", &k,
		" PID  TYPE         VERDICT    LIVE  GROWTH  PER HOUR  SURE      SINCE  DUMP\n"
		"4711  app.Session  leak     12 400  +8 000   +48 000  97 %  5 min ago  "
		"20261123T082501-4711-1\n"
		"4711  list         watch         -    +900    +5 400  40 %          -  -\n"
		"\n"
		"app.Session in pid 4711\n"
		"  grows by 800 a minute without a break\n"
		"  grows together with app.User, dict\n");
	check(*state, "suspects", &none, "no suspects\n");
}

static void test_pause(void **state)
{
	const struct canned paused = {.verb = "pause",
		.args = "{}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"paused\":true,\"targets\":0}"};
	const struct canned resumed = {.verb = "resume",
		.args = "{}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"paused\":false,\"targets\":1}"};
	const struct canned status = {.verb = "status",
		.args = "{}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"version\":\"1\",\"paused\":true,"
			  "\"targets\":[]}"};

	check(*state, "pause", &paused, "paused: nothing is watched until pyleakctl resume\n");
	check(*state, "resume", &resumed, "1 process is watched so far\n");
	check(*state, "status", &status,
		"pyleakd 1 is paused: nothing is watched until pyleakctl resume\n");
}

static void test_why(void **state)
{
	const struct canned k = {.verb = "why",
		.args = "{\"pid\":4711}",
		.result = "{\"at\":\"2026-11-23T08:25:58.000Z\",\"pid\":4711,\"comm\":\"app\","
			  "\"watched\":"
			  "true,"
			  "\"rule\":\"--pid\",\"reason\":\"asked "
			  "for\",\"python\":\"3.11.2\",\"build\":{"
			  "\"path\":\"/usr/bin/"
			  "python3.11\",\"kind\":\"static\",\"stripped\":true},\"sites\":["
			  "\"PyObject_GC_Del+0\",\"_PyObject_GC_New+4\"],\"census\":null,\"empty\":"
			  "[]}"};
	const struct canned no = {.verb = "why",
		.args = "{\"pid\":1}",
		.result =
			"{\"at\":\"2026-11-23T08:25:58.000Z\",\"pid\":1,\"watched\":false,\"rule\":"
			"null,"
			"\"reason\":\"not a Python\",\"python\":null,\"build\":null,\"sites\":null,"
			"\"census\":null}"};

	check(*state, "why 4711", &k,
		"pid 4711 is watched (--pid): asked for\n"
		"comm: app\n"
		"python: 3.11.2\n"
		"build:\n"
		"  path: /usr/bin/python3.11\n"
		"  kind: static\n"
		"  stripped: yes\n"
		"sites:\n"
		"  PyObject_GC_Del+0\n"
		"  _PyObject_GC_New+4\n"
		"empty: none\n");
	check(*state, "why 1", &no, "pid 1 is not watched: not a Python\n");
}

#define DUMP                                                                                       \
	"{\"at\":\"2026-11-23T08:25:58.000Z\",\"id\":\"20261123T082558-4711-1\",\"pid\":4711,"     \
	"\"trigger\":\"manual\",\"pause_us\":3200,\"predicted_pause_us\":4100,\"duration_ms\":"    \
	"1340,\"objects\":1234567,\"edges\":4000000,\"skipped\":12,\"truncated\":{\"level\":1,"    \
	"\"reason\":\"the deadline came\"},\"files\":{\"snapshot\":\"/d/snapshot\",\"dot\":"       \
	"\"/d/chain.dot\",\"svg\":\"/d/chain.svg\",\"json\":\"/d/dump.json\",\"html\":null},"      \
	"\"suspects\":[{\"type\":\"app.Session\",\"instances\":12400,\"other_instances\":68,"      \
	"\"paths\":[{\"share\":0.93,\"instances\":11532,\"root\":{\"kind\":\"module\",\"name\":"   \
	"\"app.cache\"},\"sentence\":\"93 % of 12 400 app.Session are held by app.cache.CACHE, a " \
	"dict in module app.cache\",\"steps\":[{\"type\":\"dict\",\"label\":\"CACHE\",\"edge\":"   \
	"\".CACHE\",\"objects\":1},{\"type\":\"app.Entry\",\"label\":\"Entry\",\"edge\":"          \
	"\"['…']\",\"objects\":11532,\"repeats\":true},{\"type\":\"app.Session\",\"label\":"     \
	"\"Session\",\"edge\":\".session\",\"objects\":11532}]},"                                  \
	"{\"share\":0.0645,\"instances\":800,\"root\":{\"kind\":\"frame\",\"name\":"               \
	"\"Thread-1 (worker) in handle at app.py:42\"},\"steps\":[{\"type\":\"app.Session\","      \
	"\"label\":\"s\",\"edge\":\"local s\"}]}]},"                                               \
	"{\"type\":\"app.Gone\",\"instances\":0,\"paths\":[]},"                                    \
	"{\"type\":\"app.Odd\",\"instances\":3,\"paths\":[{\"share\":1,\"instances\":3,\"root\":"  \
	"{\"kind\":\"c-reference\",\"name\":\"C code\"},\"steps\":[{\"type\":\"app.Odd\","         \
	"\"label\":\"app.odd\",\"edge\":\"\"}]}]}]}"

static const char dump_text[] =
	"dump 20261123T082558-4711-1 of pid 4711 at 2026-11-23 08:25:58 (manual)\n"
	"1 234 567 objects, 4 000 000 references; the process stood still for 3.2 ms (4.1 ms "
	"predicted), the dump took 1.3 s\n"
	"12 objects could not be looked into and have no references here\n"
	"not whole: the deadline came\n"
	"\n"
	"app.Session: 12 400 in the heap\n"
	"  93 % of 12 400 app.Session are held by app.cache.CACHE, a dict in module app.cache\n"
	"    module app.cache\n"
	"    └─ .CACHE  dict\n"
	"       └─ ['…']  app.Entry  × 11 532  (again and again)\n"
	"          └─ .session  app.Session  × 11 532\n"
	"  6 % (800) held by frame Thread-1 (worker) in handle at app.py:42\n"
	"    frame Thread-1 (worker) in handle at app.py:42\n"
	"    └─ local s  app.Session\n"
	"  68 more in other ways\n"
	"\n"
	"app.Gone: 0 in the heap\n"
	"\n"
	"app.Odd: 3 in the heap\n"
	"  100 % (3) held by C code: references that no object explains\n"
	"    C code: references that no object explains\n"
	"    └─ app.Odd app.odd\n"
	"\n"
	"picture   /d/chain.svg\n"
	"JSON      /d/dump.json\n"
	"snapshot  /d/snapshot\n";

static void test_dump(void **state)
{
	struct fixture *f = *state;
	const struct canned k = {.verb = "dump",
		.args = "{\"pid\":4711,\"types\":[\"app.Session\",\"app.*\"],\"wait\":true,"
			"\"force\":true}",
		.result = DUMP,
		.progress = "walking the frozen copy, 120 000 objects"};
	const struct canned no_wait = {.verb = "dump",
		.args = "{\"pid\":4711,\"types\":[],\"wait\":false,\"force\":false}",
		.result = "{\"id\":\"20261123T082558-4711-1\",\"pid\":4711,\"state\":\"running\"}"};
	const struct canned refused = {.verb = "dump",
		.args = "{\"pid\":4711,\"types\":[],\"wait\":true,\"force\":false}",
		.exit_code = EXIT_REFUSED,
		.error = "pid 4711: would stand still for 80 ms: use --force"};

	check(f, "dump 4711 --type app.Session --type app.* --force", &k, dump_text);
	check(f, "dump 4711 --no-wait", &no_wait,
		"dump 20261123T082558-4711-1 of pid 4711 has begun: pyleakctl dumps show "
		"20261123T082558-4711-1 tells when it is done\n");
	check_error(f, "dump 4711", &refused, EXIT_REFUSED,
		"pyleakctl: pid 4711: would stand still for 80 ms: use --force\n");

	/* On a terminal: a line of progress, wiped at the end, and colours. */
	f->terminal = true;
	start_daemon(f, &k);
	assert_int_equal(run(f, "dump 4711 --type app.Session --type app.* --force"), 0);
	assert_string_equal(
		f->err, "\r\033[K0:00  walking the frozen copy, 120 000 objects\r\033[K");
	assert_non_null(strstr(f->out, "\033[32mmodule app.cache\033[0m\n"));
	assert_non_null(strstr(f->out, ".session  \033[31mapp.Session\033[0m  × 11 532\n"));
	f->terminal = false;
}

static void test_dumps(void **state)
{
	struct fixture *f = *state;
	const struct canned list = {.verb = "dumps.list",
		.args = "{}",
		.result =
			"{\"dumps\":[{\"id\":\"20261123T082558-4711-2\",\"at\":\"2026-11-23T08:25:"
			"58."
			"000Z\","
			"\"pid\":4711,\"comm\":\"app\",\"trigger\":\"verdict\",\"bytes\":13002342,"
			"\"state\":\"done\",\"error\":null},"
			"{\"id\":\"20261123T082501-4711-1\",\"at\":\"2026-11-23T08:25:01.000Z\","
			"\"pid\":"
			"4711,\"comm\":\"app\",\"trigger\":\"manual\",\"bytes\":0,\"state\":"
			"\"failed\","
			"\"error\":\"the daemon was stopped\"}]}"};
	const struct canned none = {.verb = "dumps.list", .args = "{}", .result = "{\"dumps\":[]}"};
	const struct canned path = {.verb = "dumps.path",
		.args = "{\"id\":\"x-1\"}",
		.result = "{\"id\":\"x-1\",\"path\":\"/var/lib/pyleak/dumps/x-1\"}"};
	const struct canned rm = {.verb = "dumps.rm",
		.args = "{\"id\":\"x-1\"}",
		.result = "{\"id\":\"x-1\",\"removed\":true}"};
	const struct canned show = {
		.verb = "dumps.show", .args = "{\"id\":\"x-1\"}", .result = DUMP};
	const struct canned missing = {.verb = "dumps.show",
		.args = "{\"id\":\"x-1\"}",
		.exit_code = EXIT_NO,
		.error = "no dump x-1: pyleakctl dumps lists those there are"};
	static const char text[] =
		"ID                      MADE                  PID  NAME  TRIGGER      SIZE  "
		"STATE\n"
		"20261123T082558-4711-2  2026-11-23 08:25:58  4711  app   verdict  12.4 MiB  done\n"
		"20261123T082501-4711-1  2026-11-23 08:25:01  4711  app   manual          -  "
		"failed: the daemon was stopped\n";

	check(f, "dumps", &list, text);
	check(f, "dumps list", &list, text);
	check(f, "dumps", &none, "no dumps\n");
	check(f, "dumps path x-1", &path, "/var/lib/pyleak/dumps/x-1\n");
	check(f, "dumps rm x-1", &rm, "removed x-1\n");
	check(f, "dumps show x-1", &show, dump_text);
	check_error(f, "dumps show x-1", &missing, EXIT_NO,
		"pyleakctl: no dump x-1: pyleakctl dumps lists those there are\n");
	check_error(f, "dumps show", NULL, EXIT_USAGE,
		"pyleakctl: dumps show: the id is missing: dumps [list|show ID|path ID|rm ID]\n");
	check_error(f, "dumps list x", NULL, EXIT_USAGE,
		"pyleakctl: dumps list: takes no id: dumps [list|show ID|path ID|rm ID]\n");
	check_error(f, "dumps burn x", NULL, EXIT_USAGE,
		"pyleakctl: dumps burn: not known: dumps [list|show ID|path ID|rm ID]\n");
	check_error(
		f, "dumps rm x -o y", NULL, EXIT_USAGE, "pyleakctl: dumps rm does not take -o\n");
}

static void assert_file(const char *path, const char *expect)
{
	char text[64] = "";
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	assert_true(fd >= 0);
	assert_true(read(fd, text, sizeof(text) - 1) >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	close(fd);
	assert_string_equal(text, expect);
}

static void test_dumps_show_to_file(void **state)
{
	struct fixture *f = *state;
	struct canned k = {.verb = "dumps.show",
		.args = "{\"id\":\"x-1\",\"file\":\"svg\"}",
		.result = "{\"id\":\"x-1\",\"name\":\"chain.svg\"}",
		.file = "<svg/>"};
	struct canned snapshot = {.verb = "dumps.show",
		.args = "{\"id\":\"x-1\",\"file\":\"snapshot\"}",
		.result = "{\"id\":\"x-1\",\"name\":\"snapshot\"}",
		.file = "PYLEAKS1"};
	char file[160], link[160], line[400], expect[400];

	snprintf(file, sizeof(file), "%s/x.SVG", f->dir);
	snprintf(line, sizeof(line), "dumps show x-1 -o %s", file);
	snprintf(expect, sizeof(expect), "chain.svg, 6 B, is in %s\n", file);
	check(f, line, &k, expect);
	assert_file(file, "<svg/>");
	/* once more, over what is there, and through a link */
	snprintf(link, sizeof(link), "%s/link", f->dir);
	assert_int_equal(symlink("x.SVG", link), 0);
	snprintf(line, sizeof(line), "dumps show x-1 -o %s", link);
	snprintf(expect, sizeof(expect), "snapshot, 8 B, is in %s\n", link);
	check(f, line, &snapshot, expect);
	assert_file(file, "PYLEAKS1");
	/* --json: the document and nothing else */
	snprintf(line, sizeof(line), "--json dumps show x-1 -o %s", file);
	check(f, line, &k, "{\n  \"id\": \"x-1\",\n  \"name\": \"chain.svg\"\n}\n");
	assert_file(file, "<svg/>");
	unlink(link);
	unlink(file);
	/* what cannot be written: one line, nothing left behind (teardown removes the folder) */
	snprintf(line, sizeof(line), "dumps show x-1 -o %s/no/x.svg", f->dir);
	snprintf(expect, sizeof(expect),
		"pyleakctl: cannot write %s/no/x.svg: No such file or directory\n", f->dir);
	check_error(f, line, &k, EXIT_BROKEN, expect);
	snprintf(line, sizeof(line), "dumps show x-1 -o %s", f->dir);
	snprintf(expect, sizeof(expect), "pyleakctl: cannot write %s: Is a directory\n", f->dir);
	check_error(f, line, &snapshot, EXIT_BROKEN, expect);
	k.file = NULL;
	check_error(f, "dumps show x-1 -o x.svg", &k, EXIT_BROKEN,
		"pyleakctl: dump x-1: pyleakd sent no file\n");
}

/* --json prints the result, whatever is in it. */
static void test_json(void **state)
{
	struct fixture *f = *state;
	json_t *printed, *expect = json_loads(history.result, 0, NULL);

	start_daemon(f, &history);
	assert_int_equal(run(f, "history 4711 --type app.Session --since 1h --step 1m --json"), 0);
	printed = json_loads(f->out, 0, NULL);
	assert_true(json_equal(printed, expect));
	assert_string_equal(f->err, "");
	json_decref(printed);
	json_decref(expect);
}

/* Documents with everything missing or of the wrong kind: never a guess, never a crash. */
static void test_odd_documents(void **state)
{
	static const char *const documents[] = {"{}", "[]", "7", "null", "\"x\"",
		"{\"targets\":[7],\"types\":[7],\"points\":[7,{}],\"suspects\":[7,{\"paths\":[7,"
		"{\"root\":7,\"steps\":[7]}]}],\"dumps\":[7],\"files\":7,\"truncated\":7}",
		"{\"targets\":{},\"types\":{},\"points\":{},\"suspects\":{},\"dumps\":{},\"pid\":"
		"\"x\",\"at\":7,\"since\":[]}",
		"{\"types\":[{\"type\":null,\"count\":-1,\"delta\":1e300,\"rate_per_hour\":-1e300,"
		"\"observed_share\":-5}],\"points\":[{\"at\":\"2026-11-23T08:25:58Z\",\"count\":"
		"1e300},{\"at\":\"2026-11-23T08:25:58Z\",\"count\":-1e300}]}"};
	static const struct {
		const char *line, *verb, *args;
	} verbs_[] = {
		{"status", "status", "{}"},
		{"top 1", "top", "{\"pid\":1,\"n\":10,\"fresh\":false}"},
		{"growth 1", "growth", "{\"pid\":1,\"n\":10}"},
		{"history 1 --type x", "history", "{\"pid\":1,\"type\":\"x\"}"},
		{"suspects", "suspects", "{}"},
		{"why 1", "why", "{\"pid\":1}"},
		{"attach 1", "attach", "{\"pid\":1}"},
		{"detach 1", "detach", "{\"pid\":1}"},
		{"pause", "pause", "{}"},
		{"resume", "resume", "{}"},
		{"dump 1", "dump", "{\"pid\":1,\"types\":[],\"wait\":true,\"force\":false}"},
		{"dumps", "dumps.list", "{}"},
		{"dumps show x", "dumps.show", "{\"id\":\"x\"}"},
		{"dumps path x", "dumps.path", "{\"id\":\"x\"}"},
		{"dumps rm x", "dumps.rm", "{\"id\":\"x\"}"},
	};
	struct fixture *f = *state;

	f->terminal = true;
	for (size_t i = 0; i < ARRAY_SIZE(verbs_); i++)
		for (size_t k = 0; k < ARRAY_SIZE(documents); k++) {
			const struct canned c = {.verb = verbs_[i].verb,
				.args = verbs_[i].args,
				.result = documents[k]};

			start_daemon(f, &c);
			if (run(f, verbs_[i].line))
				fail_msg("%s, %s: %s", verbs_[i].line, documents[k], f->err);
		}
	f->terminal = false;
}

/* ---- when it does not work ------------------------------------------------------------------ */

static void test_no_daemon(void **state)
{
	struct fixture *f = *state;
	const struct canned hangs_up = {.verb = "status", .args = "{}", .hang_up = true};
	char expect[400];

	snprintf(expect, sizeof(expect),
		"pyleakctl: pyleakd does not run (nobody listens at %s): start it, for example "
		"with systemctl start pyleakd, or name its socket with --socket\n",
		f->path);
	check_error(f, "status", NULL, EXIT_UNREACHABLE, expect);
	snprintf(expect, sizeof(expect),
		"pyleakctl: pyleakd at %s hung up before it answered: was it stopped? See "
		"journalctl -u pyleakd\n",
		f->path);
	check_error(f, "status", &hangs_up, EXIT_UNREACHABLE, expect);
}

static void test_not_pyleakd(void **state)
{
	struct fixture *f = *state;
	/* A message that would set the terminal on fire is cleaned. */
	const struct canned k = {.verb = "status",
		.args = "{}",
		.exit_code = EXIT_BROKEN,
		.error = "bad \033[31mnews\nand more"};

	check_error(f, "status", &k, EXIT_BROKEN, "pyleakctl: bad ?[31mnews?and more\n");
}

static void test_usage(void **state)
{
	struct fixture *f = *state;

	check_error(f, "top x", NULL, EXIT_USAGE,
		"pyleakctl: x is not a pid: give the number of a process\n");
	check_error(f, "top 0", NULL, EXIT_USAGE,
		"pyleakctl: 0 is not a pid: give the number of a process\n");
	check_error(f, "top 99999999999", NULL, EXIT_USAGE,
		"pyleakctl: 99999999999 is not a pid: give the number of a process\n");
	check_error(f, "history 1", NULL, EXIT_USAGE,
		"pyleakctl: history: give one type: history PID --type T\n");
	check_error(f, "fly", NULL, EXIT_USAGE,
		"pyleakctl: no verb \"fly\" in this version: there are status, top, growth, "
		"history, suspects, dump, dumps, chain, backrefs, refs, types, instances, diff, "
		"dominators, leaking, cycles, replay, why, watch, attach, detach, pause, resume, "
		"support\n");
	check_error(
		f, "dump 1 --type \xff", NULL, EXIT_USAGE, "pyleakctl: --type: not UTF-8 text\n");
	check_error(
		f, "dumps rm \xff", NULL, EXIT_USAGE, "pyleakctl: an argument is not UTF-8 text\n");
	assert_int_equal(run(f, "--version"), 0);
	assert_string_equal(f->out, "pyleakctl " PYLEAK_VERSION "\n");
}

static void test_full_disk(void **state)
{
	struct fixture *f = *state;
	const struct canned k = {.verb = "dumps.list", .args = "{}", .result = "{\"dumps\":[]}"};
	char socket[160], *argv[] = {(char *)"pyleakctl", socket, (char *)"dumps", NULL};
	struct ctl c = {.now_ms = NOW_MS, .columns = 80};
	char *err = NULL;
	size_t n;

	start_daemon(f, &k);
	snprintf(socket, sizeof(socket), "--socket=%s", f->path);
	c.out = fopen("/dev/full", "w");
	c.err = open_memstream(&err, &n);
	assert_non_null(c.out);
	assert_int_equal(ctl_main(&c, 3, argv), EXIT_BROKEN);
	fclose(c.out);
	fclose(c.err);
	assert_string_equal(err, "pyleakctl: cannot write the answer: No space left on device\n");
	free(err);
}

static int group_setup(void **state)
{
	setenv("TZ", "UTC", 1);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_status),
		T(test_top),
		T(test_growth),
		T(test_history),
		T(test_suspects),
		T(test_why),
		T(test_pause),
		T(test_dump),
		T(test_dumps),
		T(test_dumps_show_to_file),
		T(test_json),
		T(test_odd_documents),
		T(test_no_daemon),
		T(test_not_pyleakd),
		T(test_usage),
		T(test_full_disk),
	};

	return cmocka_run_group_tests(tests, group_setup, NULL);
}
