/* SPDX-License-Identifier: MIT */
/*
 * Real interpreters, looked at from outside; what they say of themselves is the truth. None of this
 * needs root: a process may look into its own children (unless the kernel forbids that, too).
 *
 * Interpreters: /usr/bin/python3, those of pyenv, and the paths in PYLEAK_TEST_PYTHONS (by colons).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/python/mem.h"
#include "daemon/python/python.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"

/* argv[1]: still, frozen or busy. Prints lines "key text", the last is "ready". Counts in a
 * function, for in 3.15 a global name that is given a lazy_import imports it. */
static const char script[] =
	"import sys, gc, collections\n"
	"class Session: pass\n"
	"class Slots:\n"
	"    __slots__ = ('a', '__weakref__')\n"
	"class Outer:\n"
	"    class Inner: pass\n"
	"def local():\n"
	"    class Local: pass\n"
	"    return Local\n"
	"class Meta(type): pass\n"
	"class WithMeta(metaclass=Meta): pass\n"
	"class Box(collections.deque): pass\n"
	"class Many: pass\n"
	"for i in range(300): setattr(Many, 'attribute%d' % i, i)\n"
	"late = dict(('attribute%d' % i, i) for i in range(100))\n"
	"late['__module__'] = 'far.behind'\n"
	"Late = type('Late', (), late)\n"
	"class Odd:\n"
	"    __module__ = property(lambda s: 'x')\n"
	"Evil = type('Ev\\x1bil\\n', (), {})\n"
	"Cyrillic = type('\\u0421\\u0435\\u0441\\u0441\\u0438\\u044f', (), {})\n"
	"Builtin = type('Builtin', (), {'__module__': 'builtins'})\n"
	"class Text(str): pass\n"
	"keep = [(Session, 5000), (Slots, 40), (Outer.Inner, 77), (local(), 3), (local(), 4),\n"
	"        (WithMeta, 9), (Box, 33), (Many, 2), (Late, 6), (Odd, 7), (Evil, 8),\n"
	"        (Cyrillic, 11), (Builtin, 12), (collections.OrderedDict, 13), (set, 100)]\n"
	"keep = [[t() for i in range(n)] for t, n in keep]\n"
	"texts = ['', 'plain', 'na\\u00efve', '\\u65e5\\u672c', 'a\\U0001f600b', 'x\\udc80y',\n"
	"         Text('sub'), Text('s\\u00fcb'), 'nul\\0nul', 'w' * 300]\n"
	"def name(t):\n"
	"    m = type.__dict__['__module__'].__get__(t)\n"
	"    m = '' if not isinstance(m, str) or m == 'builtins' else m + '.'\n"
	"    return ''.join(c if c.isprintable() else '?' for c in m + t.__qualname__)\n"
	"def say(key, text):\n"
	"    sys.stdout.buffer.write(('%s %s\\n' % (key, text)).encode())\n"
	"say('version', '%d.%d.%d' % sys.version_info[:3])\n"
	"say('type', id(type)); say('Session', id(Session)); say('Meta', id(Meta))\n"
	"say('WithMeta', id(WithMeta)); say('instance', id(keep[0][0])); say('list', id(keep))\n"
	"for i, t in enumerate(texts): say('text%d' % i, id(t))\n"
	"gc.collect()\n"
	"gc.disable()\n"
	"def count():\n"
	"    counts = {None: 0}\n"
	"    for o in gc.get_objects(): counts[type(o)] = counts.get(type(o), 0) + 1\n"
	"    del counts[None]\n"
	"    for t in list(counts): say('count', '%d %s' % (counts[t], name(t)))\n"
	"count()\n"
	"if sys.argv[1] == 'frozen': gc.freeze()\n"
	"say('ready', ''); sys.stdout.flush()\n"
	"if sys.argv[1] == 'busy':\n"
	"    gc.enable(); gc.set_threshold(100, 5, 5)\n"
	"    ring = collections.deque(maxlen=3000)\n"
	"    while True:\n"
	"        s = Session(); s.me = s; s.list = [s]; ring.append(s)\n"
	"        type('Temporary', (), {})\n"
	"sys.stdin.read()\n";

static char *pythons[32], *old_pythons[8];
static size_t n_pythons, n_old;

struct target {
	pid_t pid;
	int to, from;
	char *said;
};

/* ---- running interpreters ---- */

static void end(struct target *t)
{
	if (t->pid > 0) {
		kill(t->pid, SIGKILL);
		waitpid(t->pid, NULL, 0);
	}
	if (t->pid) {
		close(t->to);
		close(t->from);
	}
	free(t->said);
	*t = (struct target){.pid = 0};
}

static void start(struct target *t, const char *program, const char *const argv[])
{
	int in[2], out[2];

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	t->said = NULL;
	t->pid = fork();
	assert_true(t->pid >= 0);
	if (t->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(in[0], 0);
		dup2(out[1], 1);
		unsetenv("LD_PRELOAD");
		execv(program, (char *const *)argv);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	t->to = in[1];
	t->from = out[0];
}

/* Until "ready", at most 30 seconds. */
static void listen_to(struct target *t)
{
	uint64_t until = now_monotonic_ns() + 30000000000u;
	size_t n = 0, cap = 1 << 20;

	t->said = calloc(1, cap);
	assert_non_null(t->said);
	while (!strstr(t->said, "\nready ")) {
		struct pollfd p = {.fd = t->from, .events = POLLIN};
		ssize_t r;

		assert_true(now_monotonic_ns() < until);
		if (poll(&p, 1, 1000) <= 0)
			continue;
		r = read(t->from, t->said + n, cap - 1 - n);
		assert_true(r > 0);
		n += (size_t)r;
	}
}

static void start_python(struct target *t, const char *program, const char *mode)
{
	const char *const argv[] = {program, "-c", script, mode, NULL};

	start(t, program, argv);
	listen_to(t);
}

/* The text of the first line that begins with key. */
static const char *said(const struct target *t, const char *key, char *buf, size_t n)
{
	size_t k = strlen(key);

	for (const char *l = t->said; l; l = strchr(l, '\n'), l = l ? l + 1 : NULL)
		if (strncmp(l, key, k) == 0 && l[k] == ' ') {
			snprintf(buf, n, "%.*s", (int)strcspn(l + k + 1, "\n"), l + k + 1);
			return buf;
		}
	fail_msg("the target did not say %s", key);
	return NULL;
}

static uint64_t id_of(const struct target *t, const char *key)
{
	char buf[64];

	return strtoull(said(t, key, buf, sizeof(buf)), NULL, 10);
}

/* How many objects of types of that name there are, as the target counted them. */
static uint64_t truth(const struct target *t, const char *name)
{
	uint64_t sum = 0;

	for (const char *l = t->said; l; l = strchr(l, '\n'), l = l ? l + 1 : NULL) {
		uint64_t count;
		int at = 0;

		if (sscanf(l, "count %" SCNu64 " %n", &count, &at) == 1 && at > 0 &&
			strncmp(l + at, name, strlen(name)) == 0 &&
			l[at + (int)strlen(name)] == '\n')
			sum += count;
	}
	return sum;
}

static struct python *open_target(const struct target *t)
{
	struct python *p = NULL;
	struct err err = {""};
	int r = python_open(t->pid, &p, &err);

	if (r < 0)
		fail_msg("python_open: %d, %s", r, err.msg);
	return p;
}

/* ---- levels and names ---- */

static bool same_as_truth(const struct target *t, const struct python *p, bool verbose)
{
	/* what the script itself makes and drops while it counts, prints and waits */
	static const char *const moving[] = {"list", "dict", "tuple", "frame", "list_iterator",
		"builtin_function_or_method", "builtin_method"};
	_cleanup_free_ struct python_level *l = NULL;
	_cleanup_free_ struct python_type *types = NULL;
	struct python_rings rings;
	struct err err = {""};
	uint64_t objects, sum = 0;
	unsigned wrong = 0, compared = 0;
	size_t n;
	int r;

	r = python_find_rings(p, &rings, &err);
	if (r < 0)
		fail_msg("python_find_rings: %d, %s", r, err.msg);
	assert_int_equal(rings.head[1] - rings.head[0], 24);
	assert_int_equal(rings.head[2] - rings.head[0], 48);
	assert_true(rings.head[3] > rings.head[2] && rings.head[3] < rings.head[0] + 100);
	r = python_read_levels(p, &rings, 1000, 10000000, &l, &n, &objects);
	assert_int_equal(r, 0);
	types = calloc(n, sizeof(*types));
	assert_non_null(types);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(python_type_read(p, l[i].type, &types[i]), 0);
		sum += l[i].count;
	}
	assert_int_equal(sum, objects);
	for (size_t i = 0; i < n; i++) {
		uint64_t count = 0;
		bool skip = false;

		for (size_t k = 0; k < n; k++)
			if (strcmp(types[k].name, types[i].name) == 0)
				count += l[k].count;
		for (size_t k = 0; k < ARRAY_SIZE(moving); k++)
			skip |= strcmp(moving[k], types[i].name) == 0;
		compared += !skip;
		if (skip || count == truth(t, types[i].name))
			continue;
		wrong++;
		if (verbose)
			print_error("%s: %s counted %" PRIu64 ", really %" PRIu64 "\n", p->version,
				types[i].name, count, truth(t, types[i].name));
	}
	assert_true(compared > 20);
	return wrong == 0;
}

static void levels_are_exact(void **state)
{
	static const char *const names[] = {"__main__.Session", "__main__.Slots",
		"__main__.Outer.Inner", "__main__.local.<locals>.Local", "__main__.WithMeta",
		"__main__.Box", "__main__.Many", "far.behind.Late", "Odd", "__main__.Ev?il?",
		"__main__.Сессия", "Builtin", "collections.OrderedDict"};

	for (size_t i = 0; i < n_pythons; i++)
		for (int frozen = 0; frozen < 2; frozen++) {
			_cleanup_(python_freep) struct python *p = NULL;
			_cleanup_(end) struct target t = {.pid = 0};

			start_python(&t, pythons[i], frozen ? "frozen" : "still");
			p = open_target(&t);
			for (size_t k = 0; k < ARRAY_SIZE(names); k++)
				assert_true(truth(&t, names[k]) > 0);
			assert_int_equal(truth(&t, "__main__.Session"), 5000);
			assert_int_equal(truth(&t, "__main__.local.<locals>.Local"), 7);
			assert_true(same_as_truth(&t, p, true));
		}
}

static void what_it_is(void **state)
{
	for (size_t i = 0; i < n_pythons; i++) {
		_cleanup_(python_freep) struct python *p = NULL;
		_cleanup_(end) struct target t = {.pid = 0};
		char version[32], text[512];
		uint64_t addr, size;

		start_python(&t, pythons[i], "still");
		p = open_target(&t);
		assert_string_equal(p->version, said(&t, "version", version, sizeof(version)));
		assert_int_equal(p->major, 3);
		assert_int_equal(p->minor, atoi(version + 2));
		assert_int_equal(p->layout.minor, p->minor);
		assert_int_equal(p->interpreters, 1);
		assert_int_equal(p->type_type, id_of(&t, "type"));
		assert_int_equal(python_symbol(p, "PyType_Type", &addr, &size), 0);
		assert_int_equal(addr, p->type_type);
		assert_int_equal(python_symbol(p, "PyNothing_Type", &addr, &size), -ENOENT);
		assert_true(python_looks_like(t.pid));
		assert_true(p->fd >= 0);
		if (p->kind == PYTHON_SHARED)
			assert_non_null(strstr(p->path, "libpython"));
		python_describe(p, text, sizeof(text));
		assert_non_null(strstr(text, p->version));
		assert_non_null(strstr(text, p->path));
		assert_non_null(strstr(text, p->kind == PYTHON_STATIC ? "static" : "shared"));
		print_message("%s\n", text);

		assert_true(python_is_type(p, id_of(&t, "type")));
		assert_true(python_is_type(p, id_of(&t, "Session")));
		assert_true(python_is_type(p, id_of(&t, "Meta")));
		assert_true(python_is_type(p, id_of(&t, "WithMeta")));
		assert_false(python_is_type(p, id_of(&t, "instance")));
		assert_false(python_is_type(p, id_of(&t, "list")));
		assert_false(python_is_type(p, id_of(&t, "text1")));
		assert_false(python_is_type(p, 0));
		assert_false(python_is_type(p, 8));
		assert_false(python_is_type(p, id_of(&t, "type") + 4));
		assert_false(python_is_type(p, UINT64_MAX - 7));
	}
}

static void types_and_texts(void **state)
{
	static const char *const texts[] = {
		"", "plain", "naïve", "日本", "a😀b", "x?y", "sub", "süb"};

	for (size_t i = 0; i < n_pythons; i++) {
		_cleanup_(python_freep) struct python *p = NULL;
		_cleanup_(end) struct target t = {.pid = 0};
		struct python_type type;
		char buf[512], small[4], key[16];

		start_python(&t, pythons[i], "still");
		p = open_target(&t);
		for (size_t k = 0; k < ARRAY_SIZE(texts); k++) {
			snprintf(key, sizeof(key), "text%zu", k);
			assert_int_equal(python_str_read(p, id_of(&t, key), buf, sizeof(buf)), 0);
			assert_string_equal(buf, texts[k]);
		}
		assert_int_equal(python_str_read(p, id_of(&t, "text8"), buf, sizeof(buf)), 0);
		assert_memory_equal(buf, "nul\0nul", 8);
		assert_int_equal(python_str_read(p, id_of(&t, "text9"), buf, 301), 0);
		assert_int_equal(python_str_read(p, id_of(&t, "text9"), buf, 300), -ENAMETOOLONG);
		assert_int_equal(strlen(buf), 299);
		/* never half a character */
		assert_int_equal(python_str_read(p, id_of(&t, "text3"), small, 4), -ENAMETOOLONG);
		assert_string_equal(small, "日");
		assert_int_equal(python_str_read(p, id_of(&t, "text3"), small, 3), -ENAMETOOLONG);
		assert_string_equal(small, "");
		assert_int_equal(python_str_read(p, id_of(&t, "list"), buf, sizeof(buf)), -EINVAL);
		assert_int_equal(python_str_read(p, 0, buf, sizeof(buf)), -EINVAL);
		assert_true(python_str_read(p, 4096, buf, sizeof(buf)) < 0);

		assert_int_equal(python_type_read(p, id_of(&t, "Session"), &type), 0);
		assert_string_equal(type.name, "__main__.Session");
		assert_true(type.heap);
		assert_true(type.flags & TPFLAGS_HAVE_GC);
		assert_true(type.basicsize >= 16 && type.basicsize <= 48);
		assert_int_equal(type.itemsize, 0);
		assert_int_equal(python_type_read(p, id_of(&t, "type"), &type), 0);
		assert_string_equal(type.name, "type");
		assert_false(type.heap);
		assert_true(type.itemsize > 0);
		assert_int_equal(python_type_read(p, id_of(&t, "instance"), &type), -ESTALE);
		assert_int_equal(python_type_read(p, 0x10000, &type), -ESTALE);
	}
}

/* A busy target is never still: what is read is right or refused, and nothing here crashes. */
static void busy(void **state)
{
	for (size_t i = 0; i < n_pythons; i++) {
		_cleanup_(python_freep) struct python *p = NULL;
		_cleanup_(end) struct target t = {.pid = 0};
		struct python_rings first, rings;
		struct err err = {""};
		unsigned refused = 0;

		start_python(&t, pythons[i], "busy");
		p = open_target(&t);
		assert_int_equal(python_find_rings(p, &first, &err), 0);
		for (int k = 0; k < 50; k++) {
			_cleanup_free_ struct python_level *l = NULL;
			struct python_type type;
			uint64_t objects;
			size_t n;
			int r;

			r = python_find_rings(p, &rings, &err);
			if (r < 0)
				fail_msg("%s: %s", p->version, err.msg);
			assert_memory_equal(&rings, &first, sizeof(rings));
			assert_int_equal(python_type_read(p, id_of(&t, "Session"), &type), 0);
			assert_string_equal(type.name, "__main__.Session");
			r = python_read_levels(p, &rings, 2, 1000000, &l, &n, &objects);
			assert_true(r == 0 || r == -EAGAIN);
			refused += r == -EAGAIN;
		}
		assert_true(refused > 0);
	}
}

/* What is swapped out is left there. The machine may have no swap: a /proc of our own says that it has. */
static void swapped(void **state)
{
	_cleanup_(python_freep) struct python *p = NULL;
	_cleanup_(end) struct target t = {.pid = 0};
	_cleanup_free_ struct python_level *l = NULL;
	uint64_t objects, flags = UINT64_C(1) << 62;
	char root[] = "/tmp/pyleak-swapped-XXXXXX", path[128];
	struct python_rings rings;
	struct err err;
	FILE *f;
	size_t n;
	int r[2];

	start_python(&t, pythons[0], "still");
	p = open_target(&t);
	assert_int_equal(python_find_rings(p, &rings, &err), 0);
	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof(path), "%s/%d", root, t.pid);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/%d/pagemap", root, t.pid);
	f = fopen(path, "w");
	assert_int_equal(fseeko(f, (off_t)(rings.head[2] / 4096 * 8), SEEK_SET), 0);
	assert_int_equal(fwrite(&flags, sizeof(flags), 1, f), 1);
	fclose(f);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%d/status", root, t.pid);
		f = fopen(path, "w");
		fprintf(f, "Name:\tpython3\nVmSwap:\t%8d kB\nThreads:\t1\n", i ? 0 : 4);
		fclose(f);
		proc_set_root(root);
		r[i] = python_read_levels(p, &rings, 10, 1000000, &l, &n, &objects);
		proc_set_root("/proc");
	}
	unlink(path);
	snprintf(path, sizeof(path), "%s/%d/pagemap", root, t.pid);
	unlink(path);
	snprintf(path, sizeof(path), "%s/%d", root, t.pid);
	rmdir(path);
	rmdir(root);
	assert_int_equal(r[0], -ENODATA);
	assert_int_equal(r[1], 0); /* nothing is: nobody looks */
}

static void bounded(void **state)
{
	_cleanup_(python_freep) struct python *p = NULL;
	_cleanup_(end) struct target t = {.pid = 0};
	_cleanup_free_ struct python_level *l = NULL;
	struct python_rings rings;
	uint64_t objects;
	struct err err;
	size_t n;

	start_python(&t, pythons[0], "still");
	p = open_target(&t);
	assert_int_equal(python_find_rings(p, &rings, &err), 0);
	assert_int_equal(python_read_levels(p, &rings, 10, 5000, &l, &n, &objects), -E2BIG);
	assert_int_equal(python_read_levels(p, &rings, 0, 1000000, &l, &n, &objects), -EAGAIN);
	assert_int_equal(python_read_levels(p, &rings, 10, 1000000, &l, &n, &objects), 0);
}

/* Without the version's table: the heads are found by their shape alone. */
static void rings_by_shape(void **state)
{
	for (size_t i = 0; i < n_pythons; i++) {
		_cleanup_(python_freep) struct python *p = NULL;
		_cleanup_(end) struct target t = {.pid = 0};
		struct python_rings table, shape;
		struct err err = {""};

		start_python(&t, pythons[i], "still");
		p = open_target(&t);
		assert_int_equal(python_find_rings(p, &table, &err), 0);
		p->layout.gc_generations = -1;
		assert_int_equal(python_find_rings(p, &shape, &err), 0);
		assert_memory_equal(&table, &shape, sizeof(table));
		/* nor does it find any where there are none */
		p->runtime = (p->runtime + p->runtime_size + 4095) & ~4095ull;
		p->interp = p->runtime;
		assert_int_equal(python_find_rings(p, &shape, &err), -EPROTO);
	}
}

/* ---- other programs, other files ---- */

static void not_a_python(void **state)
{
	_cleanup_(end) struct target t = {.pid = 0};
	const char *const argv[] = {"/bin/cat", NULL};
	struct python *p = NULL;
	struct err err = {""};
	char buf[8];

	start(&t, "/bin/cat", argv);
	assert_int_equal(write(t.to, "x\n", 2), 2); /* once it answers, it is cat and not us */
	assert_int_equal(read(t.from, buf, sizeof(buf)), 2);
	assert_int_equal(python_open(t.pid, &p, &err), -ENOEXEC);
	assert_non_null(strstr(err.msg, "not a Python"));
	assert_false(python_looks_like(t.pid));
	kill(t.pid, SIGKILL);
	assert_int_equal(waitid(P_PID, (id_t)t.pid, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
	assert_int_equal(python_open(t.pid, &p, &err), -ESRCH); /* a zombie */
	assert_int_equal(python_open(0x3fffff, &p, &err), -ESRCH);
	assert_int_equal(python_open(0, &p, &err), -ESRCH);
	assert_null(p);
}

static void too_old(void **state)
{
	if (n_old == 0) {
		print_message("cannot run here: no Python 2.7, 3.6 or 3.7 among pyenv's\n");
		skip();
	}
	for (size_t i = 0; i < n_old; i++) {
		_cleanup_(end) struct target t = {.pid = 0};
		const char *const argv[] = {old_pythons[i], "-c",
			"import sys\n"
			"sys.stdout.write('\\nversion %d.%d.%d\\nready \\n' % "
			"sys.version_info[:3])\n"
			"sys.stdout.flush()\n"
			"sys.stdin.read()\n",
			NULL};
		char version[32], want[64];
		struct python *p = NULL;
		struct err err = {""};

		start(&t, old_pythons[i], argv);
		listen_to(&t);
		assert_int_equal(python_open(t.pid, &p, &err), -EOPNOTSUPP);
		snprintf(want, sizeof(want), "CPython %s is too old: 3.8 to 3.15 are supported",
			said(&t, "version", version, sizeof(version)));
		assert_non_null(strstr(err.msg, want));
		assert_true(python_looks_like(t.pid));
	}
}

static void copy_file(const char *from, const char *to)
{
	_cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	char buf[65536];
	ssize_t n;

	assert_true(in >= 0 && out >= 0);
	while ((n = read(in, buf, sizeof(buf))) > 0)
		assert_int_equal(write(out, buf, (size_t)n), n);
	assert_int_equal(n, 0);
}

/* A program of any name may hold an interpreter; its file may be gone, or be another by now. */
static void any_name_and_deleted(void **state)
{
	_cleanup_(python_freep) struct python *p = NULL;
	_cleanup_(end) struct target t = {.pid = 0};
	const char *tmp = getenv("TMPDIR");
	char dir[256], path[300], other[300], build_id[BUILD_ID_HEX_MAX];
	enum python_kind kind;
	struct stat a, b;

	start_python(&t, pythons[0], "still");
	p = open_target(&t);
	kind = p->kind;
	snprintf(build_id, sizeof(build_id), "%s", p->build_id);
	end(&t);
	if (kind != PYTHON_STATIC) {
		print_message("cannot run here: %s is not a static build\n", pythons[0]);
		skip();
	}
	snprintf(dir, sizeof(dir), "%s/pyleak-python.XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/server", dir);
	snprintf(other, sizeof(other), "%s/other", dir);
	copy_file(pythons[0], path);
	copy_file("/bin/true", other);
	start_python(&t, path, "still");

	python_free(TAKE_PTR(p));
	p = open_target(&t);
	assert_int_equal(p->kind, PYTHON_STATIC);
	assert_string_equal(p->path, path);
	assert_string_equal(p->build_id, build_id);
	assert_int_equal(stat(path, &a), 0);

	assert_int_equal(rename(other, path), 0); /* an upgrade */
	python_free(TAKE_PTR(p));
	p = open_target(&t);
	assert_string_equal(p->build_id, build_id);
	assert_int_equal(fstat(p->fd, &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);

	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0);
	python_free(TAKE_PTR(p));
	p = open_target(&t);
	assert_non_null(strstr(p->path, "server (deleted)"));
	assert_string_equal(p->build_id, build_id);
	assert_true(same_as_truth(&t, p, true));
}

/* Stopped at its first instruction: nothing has been initialised. */
static void too_early(void **state)
{
	for (size_t i = 0; i < n_pythons; i++) {
		struct python *p = NULL;
		struct err err = {""};
		int status, r;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			ptrace(PTRACE_TRACEME, 0, NULL, NULL);
			execl(pythons[i], pythons[i], "-c", "pass", NULL);
			_exit(127);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSTOPPED(status));
		r = python_open(pid, &p, &err);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		/* a libpython is not even loaded yet */
		assert_true(r == -EAGAIN || r == -ENOEXEC);
		assert_null(p);
	}
}

static void ended_meanwhile(void **state)
{
	_cleanup_(python_freep) struct python *p = NULL;
	_cleanup_(end) struct target t = {.pid = 0};
	struct python_level *l = NULL;
	struct python_rings rings;
	struct python_type type;
	uint64_t objects, id;
	struct err err;
	char buf[32];
	size_t n;

	start_python(&t, pythons[0], "still");
	p = open_target(&t);
	assert_int_equal(python_find_rings(p, &rings, &err), 0);
	id = id_of(&t, "Session");
	end(&t);
	assert_int_equal(python_read_levels(p, &rings, 5, 1000000, &l, &n, &objects), -ESRCH);
	assert_int_equal(python_type_read(p, id, &type), -ESTALE);
	assert_true(python_str_read(p, id, buf, sizeof(buf)) < 0);
	assert_int_equal(python_find_rings(p, &rings, &err), -EPROTO);
	assert_false(proc_id_alive(&p->id));
	/* what the file says can still be asked */
	assert_int_equal(python_symbol(p, "PyType_Type", &id, NULL), 0);
}

static void not_allowed(void **state)
{
	_cleanup_(end) struct target t = {.pid = 0};
	int status;
	pid_t pid;

	if (geteuid() != 0) {
		print_message("cannot run here: only root can become somebody else\n");
		skip();
	}
	start_python(&t, pythons[0], "still");
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct python *p = NULL;
		struct err err = {""};
		int r;

		if (setgid(65534) || setuid(65534))
			_exit(2);
		r = python_open(t.pid, &p, &err);
		_exit((r == -EACCES || r == -EPERM) && strstr(err.msg, "CAP_SYS_PTRACE") ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- */

static void add(char **list, size_t *n, size_t max, const char *path)
{
	if (*n < max && access(path, X_OK) == 0)
		list[(*n)++] = strdup(path);
}

static void add_pyenv(const char *pattern, bool old)
{
	const char *home = getenv("HOME");
	char full[512];
	glob_t g;

	snprintf(full, sizeof(full), "%s/.pyenv/versions/%s", home ? home : "", pattern);
	if (glob(full, 0, NULL, &g) != 0)
		return;
	for (size_t i = 0; i < g.gl_pathc; i++)
		add(old ? old_pythons : pythons, old ? &n_old : &n_pythons,
			old ? ARRAY_SIZE(old_pythons) : ARRAY_SIZE(pythons), g.gl_pathv[i]);
	globfree(&g);
}

/* Whether a process may read its child's memory here (containers and Yama may forbid it). */
static bool may_read_children(void)
{
	static uint64_t word = 42;
	uint64_t got = 0;
	pid_t pid = fork();
	int r;

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
		_exit(0);
	}
	r = pid > 0 ? mem_read_u64(pid, (uintptr_t)&word, &got) : -1;
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return r == 0 && got == 42;
}

static int setup(void **state)
{
	const char *more = getenv("PYLEAK_TEST_PYTHONS");
	_cleanup_free_ char *list = more ? strdup(more) : NULL;
	char *s;

	signal(SIGPIPE, SIG_IGN);
	add(pythons, &n_pythons, ARRAY_SIZE(pythons), "/usr/bin/python3");
	add_pyenv("3.[89].*/bin/python3", false);
	add_pyenv("3.1[0-9].*/bin/python3", false);
	add_pyenv("3.[67].*/bin/python3", true);
	add_pyenv("2.7.*/bin/python2", true);
	for (char *p = list ? strtok_r(list, ":", &s) : NULL; p; p = strtok_r(NULL, ":", &s))
		add(pythons, &n_pythons, ARRAY_SIZE(pythons), p);
	return 0;
}

static int teardown(void **state)
{
	while (n_pythons)
		free(pythons[--n_pythons]);
	while (n_old)
		free(old_pythons[--n_old]);
	return 0;
}

/* Each test of a machine without a python3, or without the right to look, is skipped by name. */
static void nothing_to_test(void **state)
{
	print_message("cannot run here: %s\n",
		access("/usr/bin/python3", X_OK) ? "there is no /usr/bin/python3"
						 : "a process may not read its child's memory");
	skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_it_is),
		cmocka_unit_test(levels_are_exact),
		cmocka_unit_test(types_and_texts),
		cmocka_unit_test(busy),
		cmocka_unit_test(bounded),
		cmocka_unit_test(swapped),
		cmocka_unit_test(rings_by_shape),
		cmocka_unit_test(not_a_python),
		cmocka_unit_test(too_old),
		cmocka_unit_test(any_name_and_deleted),
		cmocka_unit_test(too_early),
		cmocka_unit_test(ended_meanwhile),
		cmocka_unit_test(not_allowed),
	};
	const struct CMUnitTest none[] = {cmocka_unit_test(nothing_to_test)};

	if (access("/usr/bin/python3", X_OK) || !may_read_children())
		return cmocka_run_group_tests(none, NULL, NULL);
	return cmocka_run_group_tests(tests, setup, teardown);
}
