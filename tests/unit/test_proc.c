/* SPDX-License-Identifier: MIT */
/* A /proc made of plain files, so that every oddity can be written down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/python/proc.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"

static char root[256];

static int setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(root, sizeof(root), "%s/pyleak-proc.XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(root))
		return -1;
	proc_set_root(root);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	return remove(path);
}

static int teardown(void **state)
{
	proc_set_root("/proc");
	return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Path below the root, in one of four buffers. */
static const char *at(const char *name)
{
	static char path[4][512];
	static unsigned next;
	char *p = path[next++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", root, name);
	return p;
}

static void put_bytes(const char *name, const void *bytes, size_t n)
{
	_cleanup_close_ int fd = -1;
	char dir[512], *slash;

	snprintf(dir, sizeof(dir), "%s", at(name));
	for (slash = dir + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
		*slash = '\0';
		mkdir(dir, 0755);
	}
	fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), (ssize_t)n);
}

static void put(const char *name, const char *text)
{
	put_bytes(name, text, strlen(text));
}

/* fields 3 to 22 with utime 150, stime 50 and the given start */
static void put_stat(int pid, const char *comm, char state, unsigned long start)
{
	char name[64], text[512];

	snprintf(name, sizeof(name), "%d/stat", pid);
	snprintf(text, sizeof(text),
		"%d (%s) %c 1 2 3 4 -1 4194560 7 8 9 10 150 50 13 14 20 0 1 0 %lu 1000 2000\n", pid,
		comm, state, start);
	put(name, text);
}

static void identity(void **state)
{
	struct proc_id id = {.pid = 0};

	put_stat(10, "python3", 'S', 4711);
	assert_int_equal(proc_id_get(10, &id), 0);
	assert_int_equal(id.pid, 10);
	assert_int_equal(id.start_ticks, 4711);
	assert_true(proc_id_alive(&id));
	put_stat(10, "python3", 'S', 4712); /* the pid was used again */
	assert_false(proc_id_alive(&id));
	put_stat(10, "python3", 'Z', 4711);
	assert_false(proc_id_alive(&id));
	assert_int_equal(proc_id_get(11, &id), -ESRCH);
	assert_int_equal(proc_id_get(0, &id), -ESRCH);
	assert_int_equal(proc_id_get(-1, &id), -ESRCH);

	/* comm is the process's own choice */
	put_stat(12, "a) R 1 2 3 (b\n) Z 9", 'S', 99);
	assert_int_equal(proc_id_get(12, &id), 0);
	assert_int_equal(id.start_ticks, 99);
	assert_true(proc_id_alive(&id));
	put("13/stat", "13 (x");
	assert_int_equal(proc_id_get(13, &id), -EPROTO);
	put("13/stat", "13 (x) S 1 2 3\n");
	assert_int_equal(proc_id_get(13, &id), -EPROTO);
	put("13/stat", "");
	assert_int_equal(proc_id_get(13, &id), -ESRCH);
}

static void info(void **state)
{
	static const char env[] = "HOME=/\0XPYLEAK=off\0PYLEAK=off";
	uint64_t hz = (uint64_t)sysconf(_SC_CLK_TCK);
	struct proc_info i;
	struct err err;

	put_stat(20, "guni) corn", 'R', 100);
	put("20/status", "Name:\tx\nTracerPid:\t77\nUid:\t1\t4000000000\t3\t4\nGid:\t5\t6\t7\t8\n"
			 "Seccomp:\t2\nSeccomp_filters:\t1\n");
	put_bytes("20/cmdline", "python3\0-m\0app\0\0", 16);
	put("20/statm", "1000 25 3 4 5 6 7\n");
	put("20/cgroup", "0::/system.slice/app.service/worker\n");
	put_bytes("20/environ", env, sizeof(env) - 1); /* the last without its terminator */
	assert_int_equal(symlink("/usr/bin/python3.11", at("20/exe")), 0);
	assert_int_equal(proc_info_get(20, &i, &err), 0);
	assert_string_equal(i.comm, "guni) corn");
	assert_int_equal(i.state, 'R');
	assert_int_equal(i.uid, 4000000000u);
	assert_int_equal(i.gid, 6);
	assert_string_equal(i.user, "4000000000");
	assert_int_equal(i.tracer, 77);
	assert_int_equal(i.seccomp_mode, 2);
	assert_string_equal(i.cmdline, "python3 -m app");
	assert_string_equal(i.exe, "/usr/bin/python3.11");
	assert_string_equal(i.unit, "app.service");
	assert_int_equal(i.rss_bytes, 25 * sysconf(_SC_PAGESIZE));
	assert_int_equal(i.cpu_ns, 200 * (1000000000 / hz));
	assert_true(i.opted_out);
	assert_true(i.start_realtime_ms < (uint64_t)now_realtime_ms());

	/* nothing but stat: the rest is empty or unknown */
	put_stat(21, "bare", 'S', 100);
	assert_int_equal(proc_info_get(21, &i, &err), 0);
	assert_string_equal(i.comm, "bare");
	assert_string_equal(i.cmdline, "");
	assert_string_equal(i.exe, "");
	assert_string_equal(i.unit, "");
	assert_int_equal(i.seccomp_mode, -1);
	assert_false(i.opted_out);
	assert_int_equal(proc_info_get(22, &i, &err), -ESRCH);
	assert_string_equal(err.msg, "pid 22: no such process");
}

static void units(void **state)
{
	static const struct {
		const char *cgroup, *unit;
	} cases[] = {
		{"0::/system.slice/nginx.service\n", "nginx.service"},
		{"0::/user.slice/user-1.slice/user@1.service/app.slice/my.service/x\n",
			"my.service"},
		{"0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"},
		{"0::/a.service/b.scope\n", "a.service"},
		{"0::/\n", ""},
		{"0::/.service\n", ""},
		{"12:cpu:/no.service\n1:name=systemd:/system.slice/old.service\n0::/\n",
			"old.service"},
		{"12:cpu:/no.service\n", ""},
		{"garbage\n", ""},
		{"", ""},
	};
	struct proc_info i;

	put_stat(30, "x", 'S', 1);
	for (size_t k = 0; k < ARRAY_SIZE(cases); k++) {
		put("30/cgroup", cases[k].cgroup);
		assert_int_equal(proc_info_get(30, &i, NULL), 0);
		assert_string_equal(i.unit, cases[k].unit);
	}
}

static void opting_out(void **state)
{
	static const struct {
		const char *env;
		size_t n;
		bool out;
	} cases[] = {
		{"PYLEAK=off", 11, true},
		{"A=1\0PYLEAK=off\0B=2", 19, true},
		{"PYLEAK=offf", 12, false},
		{"PYLEAK=of", 10, false},
		{"PYLEAK=on", 10, false},
		{"xPYLEAK=off", 12, false},
		{"A=PYLEAK=off", 13, false},
		{"", 0, false},
	};
	struct proc_info i;
	char *big;

	put_stat(40, "x", 'S', 1);
	for (size_t k = 0; k < ARRAY_SIZE(cases); k++) {
		put_bytes("40/environ", cases[k].env, cases[k].n);
		assert_int_equal(proc_info_get(40, &i, NULL), 0);
		assert_int_equal(i.opted_out, cases[k].out);
	}
	/* across the end of any read buffer */
	big = malloc(70000);
	assert_non_null(big);
	memset(big, 'x', 70000);
	for (size_t before = 4080; before < 4100; before++) {
		memcpy(big + before, "\0PYLEAK=off", 12);
		put_bytes("40/environ", big, 70000);
		assert_int_equal(proc_info_get(40, &i, NULL), 0);
		assert_true(i.opted_out);
		memset(big + before, 'x', 12);
	}
	free(big);
}

static void maps(void **state)
{
	_cleanup_(proc_maps_release) struct proc_maps m = {0};
	_cleanup_free_ char *text = malloc(1 << 16);
	struct err err;
	size_t n;

	assert_non_null(text);
	strcpy(text, "00400000-00420000 r--p 00000000 fe:01 1234    /usr/bin/python3.11\n"
		     "00420000-00700000 r-xp 00020000 fe:01 1234    /usr/bin/python3.11\n"
		     "not a mapping\n"
		     "00a00000-00b00000 rw-p 00000000 00:00 0       [heap]\n"
		     "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n"
		     "7f0000002000-7f0000003000 r-xp 00001000 103:05 99 /a dir/x\\012y (deleted)\n"
		     "7f0000005000-7f0000004000 r-xp 00001000 103:05 99 /backwards\n"
		     "7f0000006000-7f0000007000 r-xp 00001000 103:05 98 /");
	n = strlen(text);
	memset(text + n, 'z', 400); /* longer than what is kept of a path */
	put_bytes("50/maps", text, n + 400);
	assert_int_equal(proc_maps_read(50, &m, &err), 0);
	assert_int_equal(m.n, 6);
	assert_int_equal(m.v[1].start, 0x420000);
	assert_int_equal(m.v[1].end, 0x700000);
	assert_int_equal(m.v[1].offset, 0x20000);
	assert_int_equal(m.v[1].inode, 1234);
	assert_int_equal(m.v[1].dev_major, 0xfe);
	assert_int_equal(m.v[1].dev_minor, 1);
	assert_string_equal(m.v[1].perm, "r-xp");
	assert_string_equal(m.v[1].path, "/usr/bin/python3.11");
	assert_string_equal(m.v[2].path, "[heap]");
	assert_string_equal(m.v[3].path, "");
	assert_string_equal(m.v[4].path, "/a dir/x\ny (deleted)");
	assert_int_equal(m.v[4].dev_major, 0x103);
	assert_int_equal(strlen(m.v[5].path), sizeof(m.v[5].path) - 1);

	assert_ptr_equal(proc_maps_find(&m, 0x400000), &m.v[0]);
	assert_ptr_equal(proc_maps_find(&m, 0x41ffff), &m.v[0]);
	assert_ptr_equal(proc_maps_find(&m, 0x420000), &m.v[1]);
	assert_null(proc_maps_find(&m, 0x700000));
	assert_null(proc_maps_find(&m, 0));
	assert_null(proc_maps_find(&m, UINT64_MAX));
	assert_int_equal(proc_maps_read(51, &m, &err), -ESRCH);
	assert_int_equal(proc_maps_read(-1, &m, &err), -ESRCH);
}

static void very_many_maps(void **state)
{
	_cleanup_(proc_maps_release) struct proc_maps m = {0};
	_cleanup_free_ char *text = malloc(70000 * 64);
	size_t n = 0;

	assert_non_null(text);
	for (unsigned i = 1; i <= 70000; i++)
		n += (size_t)sprintf(
			text + n, "%x000-%x000 rw-p 00000000 00:00 0 \n", 2 * i, 2 * i + 1);
	put_bytes("52/maps", text, n);
	assert_int_equal(proc_maps_read(52, &m, NULL), 0);
	assert_int_equal(m.n, 65536);
	assert_ptr_equal(proc_maps_find(&m, 0x20000 * 0x1000ull), &m.v[65535]);
}

static uint64_t inode_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static void expect_text(int fd, const char *want)
{
	char buf[64] = "";

	assert_true(fd >= 0);
	assert_int_equal(read(fd, buf, sizeof(buf) - 1), strlen(want));
	assert_string_equal(buf, want);
	close(fd);
}

static void opening_maps(void **state)
{
	struct proc_map m = {.start = 0x400000,
		.end = 0x420000,
		.inode = 1,
		.perm = "r-xp",
		.path = "/lib/a.so"};
	struct err err = {""};

	put("60/root/lib/a.so", "new");
	put("old", "old");
	put("outside", "outside");
	mkdir(at("60/map_files"), 0755);

	/* the file itself, although its path names another by now */
	assert_int_equal(symlink(at("old"), at("60/map_files/400000-420000")), 0);
	expect_text(proc_map_open(60, &m, &err), "old");

	/* not allowed to, or gone: by path, if it is still the same file */
	assert_int_equal(unlink(at("60/map_files/400000-420000")), 0);
	assert_int_equal(proc_map_open(60, &m, &err), -ESTALE);
	assert_non_null(strstr(err.msg, "replaced"));
	m.inode = inode_of(at("60/root/lib/a.so"));
	expect_text(proc_map_open(60, &m, &err), "new");
	m.offset = 4096; /* shorter than what is mapped */
	assert_int_equal(proc_map_open(60, &m, &err), -ESTALE);
	m.offset = 0;

	/* the program itself, deleted */
	put("program", "program");
	assert_int_equal(symlink(at("program"), at("60/exe")), 0);
	m.inode = inode_of(at("program"));
	snprintf(m.path, sizeof(m.path), "/bin/app (deleted)");
	expect_text(proc_map_open(60, &m, &err), "program");
	m.inode = 3;
	assert_int_equal(proc_map_open(60, &m, &err), -ESTALE);

	/* links of the target lead nowhere but into its own root */
	assert_int_equal(symlink(at("outside"), at("60/root/lib/evil.so")), 0);
	m.inode = inode_of(at("outside"));
	snprintf(m.path, sizeof(m.path), "/lib/evil.so");
	assert_int_equal(proc_map_open(60, &m, &err), -ESTALE);
	assert_int_equal(symlink("/lib/a.so", at("60/root/lib/good.so")), 0);
	m.inode = inode_of(at("60/root/lib/a.so"));
	snprintf(m.path, sizeof(m.path), "/lib/good.so");
	expect_text(proc_map_open(60, &m, &err), "new");

	/* opening a FIFO (or a device) would have side effects, or block for ever */
	assert_int_equal(mkfifo(at("60/root/fifo"), 0644), 0);
	m.inode = inode_of(at("60/root/fifo"));
	snprintf(m.path, sizeof(m.path), "/fifo");
	assert_true(proc_map_open(60, &m, &err) < 0);
	assert_int_equal(symlink(at("60/root/fifo"), at("60/map_files/400000-420000")), 0);
	assert_true(proc_map_open(60, &m, &err) < 0);

	m.inode = 0;
	assert_int_equal(proc_map_open(60, &m, &err), -EINVAL);
	m.inode = 1;
	snprintf(m.path, sizeof(m.path), "[vdso]");
	assert_int_equal(proc_map_open(60, &m, &err), -EINVAL);
}

static void listing(void **state)
{
	_cleanup_free_ pid_t *v = NULL;
	_cleanup_free_ pid_t *some = NULL;
	size_t n, before, k;

	assert_int_equal(proc_list(1000, &v, &before), 0);
	free(TAKE_PTR(v));
	put("7001/stat", "");
	put("7002x/stat", "");
	put("sys/stat", "");
	put("99999999999/stat", "");
	assert_int_equal(proc_list(1000, &v, &n), 0);
	assert_int_equal(n, before + 1);
	for (k = 0; k < n && v[k] != 7001; k++)
		;
	assert_true(k < n);
	assert_int_equal(proc_list(1, &some, &n), 0);
	assert_int_equal(n, 1);
}

static void this_process(void **state)
{
	_cleanup_(proc_maps_release) struct proc_maps m = {0};
	_cleanup_close_ int fd = -1;
	struct proc_info i;
	struct stat a, b;
	const struct proc_map *map;
	struct proc_id id;
	struct err err = {""};
	int64_t n;

	proc_set_root("/proc");
	assert_int_equal(proc_id_get(getpid(), &id), 0);
	assert_true(proc_id_alive(&id));
	assert_int_equal(proc_info_get(getpid(), &i, &err), 0);
	assert_int_equal(i.uid, geteuid());
	assert_int_equal(i.gid, getegid());
	assert_true(i.rss_bytes > 0);
	assert_string_equal(i.comm, "test_proc");
	assert_int_equal(i.threads, 1);
	n = i.files;
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(proc_info_update(&i), 0);
	assert_int_equal(i.files, n < 0 ? n : n + 1); /* < 0: a kernel before 6.2 */
	close(fd);
	assert_true(i.start_realtime_ms <= (uint64_t)now_realtime_ms() + 1000);
	assert_true(i.start_realtime_ms + 600000 > (uint64_t)now_realtime_ms());
	assert_int_equal(proc_maps_read(getpid(), &m, &err), 0);
	map = proc_maps_find(&m, (uintptr_t)this_process);
	assert_non_null(map);
	fd = proc_map_open(getpid(), map, &err);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &a), 0);
	assert_int_equal(stat("/proc/self/exe", &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	proc_set_root(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identity),
		cmocka_unit_test(info),
		cmocka_unit_test(units),
		cmocka_unit_test(opting_out),
		cmocka_unit_test(maps),
		cmocka_unit_test(very_many_maps),
		cmocka_unit_test(opening_maps),
		cmocka_unit_test(listing),
		cmocka_unit_test(this_process),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
