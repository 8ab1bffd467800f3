/* SPDX-License-Identifier: MIT */
/*
 * The index of dumps on a real SQLite file in a folder of its own: life and end of a dump, what a
 * stopped daemon leaves behind, damage, a full disk, links that lead out of the folder.
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
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "daemon/store/store.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define AT_MS 1795422358123LL /* 2026-11-23T08:25:58.123Z */

struct fixture {
	char top[80], dir[128];
	struct store *s;
	struct err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->top, sizeof(f->top), "%s/pyleak-store-XXXXXX", getenv("TMPDIR") ?: "/tmp");
	assert_non_null(mkdtemp(f->top));
	snprintf(f->dir, sizeof(f->dir), "%s/state", f->top);
	strcpy(f->err.msg, "old");
	assert_int_equal(store_open(f->dir, &f->s, &f->err), 0);
	assert_string_equal(f->err.msg, "");
	*state = f;
	return 0;
}

static void run_rm(const char *path)
{
	pid_t child = fork();
	int status;

	if (!child) {
		execl("/bin/rm", "rm", "-rf", path, (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	store_close(f->s);
	run_rm(f->top);
	free(f);
	return 0;
}

static void reopen(struct fixture *f)
{
	store_close(f->s);
	f->s = NULL;
	if (store_open(f->dir, &f->s, &f->err) != 0)
		fail_msg("%s", f->err.msg);
}

static struct store_dump begin(struct fixture *f, int pid, int64_t at_ms)
{
	struct store_dump d = {.at_ms = at_ms, .pid = pid, .uid = 1000};

	strcpy(d.comm, "app");
	strcpy(d.trigger, "manual");
	if (store_dump_begin(f->s, &d, &f->err) != 0)
		fail_msg("%s", f->err.msg);
	return d;
}

static void put(const char *folder, const char *name, size_t bytes)
{
	char path[PATH_MAX], *text = calloc(1, bytes + 1);
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, bytes), bytes);
	close(fd);
	free(text);
}

static struct store_dump make(struct fixture *f, int pid, int64_t at_ms, size_t bytes)
{
	struct store_dump d = begin(f, pid, at_ms);

	put(d.path, "snapshot", bytes);
	strcpy(d.state, "done");
	if (store_dump_end(f->s, &d, &f->err) != 0)
		fail_msg("%s", f->err.msg);
	return d;
}

static mode_t mode_of(const char *fmt, ...)
{
	char path[PATH_MAX];
	struct stat st;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	return lstat(path, &st) < 0 ? 0 : st.st_mode & 07777;
}

static size_t count(struct fixture *f)
{
	_cleanup_free_ struct store_dump *list = NULL;
	size_t n;

	assert_int_equal(store_dump_list(f->s, &list, &n, &f->err), 0);
	return n;
}

static void assert_same(const struct store_dump *a, const struct store_dump *b)
{
	assert_string_equal(a->id, b->id);
	assert_int_equal(a->at_ms, b->at_ms);
	assert_int_equal(a->pid, b->pid);
	assert_int_equal(a->uid, b->uid);
	assert_string_equal(a->comm, b->comm);
	assert_string_equal(a->trigger, b->trigger);
	assert_string_equal(a->state, b->state);
	assert_string_equal(a->error, b->error);
	assert_int_equal(a->bytes, b->bytes);
	assert_string_equal(a->path, b->path);
}

/* ---- dumps ---------------------------------------------------------------------------------- */

static void test_life_of_a_dump(void **state)
{
	struct fixture *f = *state;
	struct store_dump d = begin(f, 4711, AT_MS), got;
	char expect[PATH_MAX];

	assert_string_equal(d.id, "20261123T082558-4711-1");
	assert_string_equal(d.state, "running");
	snprintf(expect, sizeof(expect), "%s/dumps/.%s.tmp", f->dir, d.id);
	assert_string_equal(d.path, expect);
	assert_int_equal(mode_of("%s", d.path), 0700);
	assert_int_equal(store_dump_get(f->s, d.id, &got, &f->err), 0);
	assert_same(&got, &d);

	put(d.path, "snapshot", 1000);
	put(d.path, "dump.json", 234);
	strcpy(d.state, "done");
	assert_int_equal(store_dump_end(f->s, &d, &f->err), 0);
	snprintf(expect, sizeof(expect), "%s/dumps/%s", f->dir, d.id);
	assert_string_equal(d.path, expect);
	assert_int_equal(d.bytes, 1234);
	assert_int_equal(mode_of("%s", d.path), 0700);
	assert_int_equal(mode_of("%s/snapshot", d.path), 0600);
	assert_int_equal(mode_of("%s/dumps/.%s.tmp", f->dir, d.id), 0);

	reopen(f);
	assert_int_equal(store_dump_get(f->s, d.id, &got, &f->err), 0);
	assert_same(&got, &d);
	assert_int_equal(store_dump_remove(f->s, d.id, &f->err), 0);
	assert_int_equal(mode_of("%s", d.path), 0);
	assert_int_equal(store_dump_get(f->s, d.id, &got, &f->err), -ENOENT);
	assert_int_equal(store_dump_remove(f->s, d.id, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.msg, d.id));
}

static void test_failed_dump(void **state)
{
	struct fixture *f = *state;
	struct store_dump d = begin(f, 1, AT_MS), got;

	put(d.path, "snapshot", 1000);
	strcpy(d.state, "refused");
	strcpy(d.error, "pid 1: would stand still for 80 ms");
	assert_int_equal(store_dump_end(f->s, &d, &f->err), 0);
	assert_int_equal(mode_of("%s/dumps/.%s.tmp", f->dir, d.id), 0);
	assert_int_equal(mode_of("%s/dumps/%s", f->dir, d.id), 0);
	assert_int_equal(store_dump_get(f->s, d.id, &got, &f->err), 0);
	assert_string_equal(got.state, "refused");
	assert_string_equal(got.error, d.error);
	assert_string_equal(got.path, "");
	assert_int_equal(got.bytes, 0);
	assert_int_equal(store_dump_remove(f->s, d.id, &f->err), 0);
	assert_int_equal(count(f), 0);
}

static void test_end_without_folder(void **state)
{
	struct fixture *f = *state;
	struct store_dump d = begin(f, 1, AT_MS), got;

	assert_int_equal(rmdir(d.path), 0);
	strcpy(d.state, "done");
	assert_int_equal(store_dump_end(f->s, &d, &f->err), -ENOENT);
	assert_string_equal(d.state, "failed");
	assert_int_equal(store_dump_get(f->s, d.id, &got, &f->err), 0);
	assert_string_equal(got.state, "failed");
	assert_true(strlen(got.error) > 0);
}

static void test_list_newest_first(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ struct store_dump *list = NULL;
	size_t n;

	make(f, 1, AT_MS, 1);
	make(f, 3, AT_MS + 5000, 1);
	make(f, 2, AT_MS + 2000, 1);
	assert_int_equal(store_dump_list(f->s, &list, &n, &f->err), 0);
	assert_int_equal(n, 3);
	assert_int_equal(list[0].pid, 3);
	assert_int_equal(list[1].pid, 2);
	assert_int_equal(list[2].pid, 1);
}

static void test_same_second_after_restart(void **state)
{
	struct fixture *f = *state;
	struct store_dump a = make(f, 7, AT_MS, 1), b, c;
	char path[PATH_MAX];

	/* The serial starts anew: ids must not. Nor may a folder without a row be run over. */
	reopen(f);
	b = make(f, 7, AT_MS, 1);
	assert_string_not_equal(a.id, b.id);
	snprintf(path, sizeof(path), "%s/dumps/20261123T082558-7-3", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	c = make(f, 7, AT_MS, 1);
	assert_string_equal(c.id, "20261123T082558-7-4");
	assert_int_equal(count(f), 3);
}

static void test_hostile_ids(void **state)
{
	static const char *const ids[] = {"", ".", "..", "../lock", "a/b", "a.b", "%s", "a b", "é",
		"0123456789012345678901234567890123456789012345678901234567890123"};
	struct fixture *f = *state;
	struct store_dump d;

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		assert_int_equal(store_dump_get(f->s, ids[i], &d, &f->err), -EINVAL);
		assert_int_equal(store_dump_remove(f->s, ids[i], &f->err), -EINVAL);
		memset(&d, 0, sizeof(d));
		snprintf(d.id, sizeof(d.id), "%s", ids[i]);
		strcpy(d.state, "failed");
		if (strlen(ids[i]) < DUMP_ID_MAX)
			assert_int_equal(store_dump_end(f->s, &d, &f->err), -EINVAL);
	}
	assert_int_equal(mode_of("%s/lock", f->dir), 0600);
}

static void test_trim(void **state)
{
	struct fixture *f = *state;
	struct store_dump old = make(f, 1, AT_MS, 1000), mid = make(f, 2, AT_MS + 1000, 1000),
			  new = make(f, 3, AT_MS + 2000, 1000), running = begin(f, 4, AT_MS - 1000),
			  failed = begin(f, 5, AT_MS - 2000), d;

	strcpy(failed.state, "failed");
	assert_int_equal(store_dump_end(f->s, &failed, &f->err), 0);
	assert_int_equal(store_dump_trim(f->s, 3000, &f->err), 0);
	assert_int_equal(store_dump_trim(f->s, 2999, &f->err), 1);
	assert_int_equal(store_dump_get(f->s, old.id, &d, &f->err), -ENOENT);
	assert_int_equal(mode_of("%s", old.path), 0);
	assert_int_equal(mode_of("%s", mid.path), 0700);
	assert_int_equal(store_dump_trim(f->s, 0, &f->err), 1);
	assert_int_equal(mode_of("%s", mid.path), 0);
	/* the last one has just been told of */
	assert_int_equal(mode_of("%s", new.path), 0700);
	/* what is being made and what failed are not in its way */
	assert_int_equal(store_dump_get(f->s, running.id, &d, &f->err), 0);
	assert_int_equal(mode_of("%s", running.path), 0700);
	assert_int_equal(store_dump_get(f->s, failed.id, &d, &f->err), 0);
}

static void test_running_is_not_removed(void **state)
{
	struct fixture *f = *state;
	struct store_dump d = begin(f, 1, AT_MS);

	assert_int_equal(store_dump_remove(f->s, d.id, &f->err), -EBUSY);
	assert_int_equal(mode_of("%s", d.path), 0700);
}

static void test_failures_do_not_pile_up(void **state)
{
	struct fixture *f = *state;
	struct store_dump keep = make(f, 1, AT_MS - 1000, 10), d;

	for (int i = 0; i < 1100; i++) {
		d = begin(f, 2, AT_MS + i * 1000);
		strcpy(d.state, "failed");
		assert_int_equal(store_dump_end(f->s, &d, &f->err), 0);
	}
	assert_in_range(count(f), 1001, 1003);
	assert_int_equal(store_dump_get(f->s, keep.id, &d, &f->err), 0);
}

/* ---- removing must stay inside -------------------------------------------------------------- */

static void test_links_are_not_followed(void **state)
{
	struct fixture *f = *state;
	struct store_dump d = make(f, 1, AT_MS, 10), e = make(f, 2, AT_MS, 10);
	char outside[PATH_MAX], path[PATH_MAX + 16];

	snprintf(outside, sizeof(outside), "%s/outside", f->top);
	assert_int_equal(mkdir(outside, 0700), 0);
	put(outside, "precious", 3);
	/* inside of a dump */
	snprintf(path, sizeof(path), "%s/link", d.path);
	assert_int_equal(symlink(outside, path), 0);
	snprintf(path, sizeof(path), "%s/deeper", d.path);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/deeper/link", d.path);
	assert_int_equal(symlink(outside, path), 0);
	assert_int_equal(store_dump_remove(f->s, d.id, &f->err), 0);
	assert_int_equal(mode_of("%s", d.path), 0);
	/* in place of a dump */
	run_rm(e.path);
	assert_int_equal(symlink(outside, e.path), 0);
	assert_int_equal(store_dump_remove(f->s, e.id, &f->err), 0);
	assert_int_equal(mode_of("%s", e.path), 0);
	/* in place of a half-made one, at the sweep */
	e = begin(f, 3, AT_MS);
	assert_int_equal(rmdir(e.path), 0);
	assert_int_equal(symlink(outside, e.path), 0);
	reopen(f);
	assert_int_equal(mode_of("%s", e.path), 0);
	assert_int_equal(mode_of("%s/precious", outside), 0644 & ~0022);
}

static void test_linked_dumps_folder(void **state)
{
	struct fixture *f = *state;
	char dumps[PATH_MAX], outside[PATH_MAX];

	snprintf(dumps, sizeof(dumps), "%s/dumps", f->dir);
	snprintf(outside, sizeof(outside), "%s/outside", f->top);
	store_close(f->s);
	f->s = NULL;
	assert_int_equal(mkdir(outside, 0700), 0);
	assert_int_equal(rmdir(dumps), 0);
	assert_int_equal(symlink(outside, dumps), 0);
	assert_true(store_open(f->dir, &f->s, &f->err) < 0);
	assert_null(f->s);
	assert_non_null(strstr(f->err.msg, dumps));
}

/* ---- after a crash -------------------------------------------------------------------------- */

static void test_sweep(void **state)
{
	struct fixture *f = *state;
	struct store_dump half = begin(f, 1, AT_MS), renamed = begin(f, 2, AT_MS),
			  gone = make(f, 3, AT_MS, 5), whole = make(f, 4, AT_MS, 6), d;
	char path[PATH_MAX];

	put(half.path, "snapshot", 100);
	/* stopped between the renaming and the note of it */
	put(renamed.path, "snapshot", 77);
	snprintf(path, sizeof(path), "%s/dumps/%s", f->dir, renamed.id);
	assert_int_equal(rename(renamed.path, path), 0);
	run_rm(gone.path);
	/* folders that nobody told us about */
	snprintf(path, sizeof(path), "%s/dumps/.20200101T000000-1-1.tmp", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/dumps/20200101T000000-1-1", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/dumps/.other", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);

	reopen(f);
	assert_int_equal(store_dump_get(f->s, half.id, &d, &f->err), 0);
	assert_string_equal(d.state, "failed");
	assert_string_equal(d.error, "the daemon was stopped");
	assert_int_equal(mode_of("%s", half.path), 0);
	assert_int_equal(store_dump_get(f->s, renamed.id, &d, &f->err), 0);
	assert_string_equal(d.state, "done");
	assert_int_equal(d.bytes, 77);
	assert_int_equal(store_dump_get(f->s, gone.id, &d, &f->err), 0);
	assert_string_equal(d.state, "failed");
	assert_int_equal(d.bytes, 0);
	assert_int_equal(store_dump_get(f->s, whole.id, &d, &f->err), 0);
	assert_string_equal(d.state, "done");
	assert_int_equal(mode_of("%s/dumps/.20200101T000000-1-1.tmp", f->dir), 0);
	assert_int_equal(mode_of("%s/dumps/20200101T000000-1-1", f->dir), 0700);
	assert_int_equal(mode_of("%s/dumps/.other", f->dir), 0700);
	assert_int_equal(count(f), 4);
}

/* Killed at any moment while it makes and removes dumps: the next one opens and is consistent. */
static void test_killed(void **state)
{
	struct fixture *f = *state;

	store_close(f->s);
	f->s = NULL;
	for (int round = 0; round < 15; round++) {
		_cleanup_free_ struct store_dump *list = NULL;
		pid_t child = fork();
		int status;
		size_t n;

		if (!child) {
			struct store *s;

			if (store_open(f->dir, &s, NULL))
				_exit(1);
			for (int i = 1;; i++) {
				struct store_dump d = {.pid = i, .at_ms = AT_MS + round};

				if (store_dump_begin(s, &d, NULL))
					_exit(2);
				put(d.path, "snapshot", 1000);
				strcpy(d.state, i % 3 ? "done" : "failed");
				if (store_dump_end(s, &d, NULL))
					_exit(3);
				if (store_dump_trim(s, 5000, NULL) < 0)
					_exit(4);
			}
		}
		usleep(20000 + round * 7000);
		kill(child, SIGKILL);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status)); /* else it ended by an error of its own */
		if (store_open(f->dir, &f->s, &f->err) != 0)
			fail_msg("%s", f->err.msg);
		assert_string_equal(f->err.msg, "");
		assert_int_equal(store_dump_list(f->s, &list, &n, &f->err), 0);
		for (size_t i = 0; i < n; i++) {
			assert_string_not_equal(list[i].state, "running");
			if (!strcmp(list[i].state, "done")) {
				assert_int_equal(mode_of("%s", list[i].path), 0700);
				assert_int_equal(list[i].bytes, 1000);
			}
		}
		store_close(f->s);
		f->s = NULL;
	}
}

/* ---- the folder ----------------------------------------------------------------------------- */

static void test_modes(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX];
	mode_t old;

	make(f, 1, AT_MS, 1);
	assert_int_equal(mode_of("%s", f->dir), 0700);
	assert_int_equal(mode_of("%s/dumps", f->dir), 0700);
	assert_int_equal(mode_of("%s/pyleak.db", f->dir), 0600);
	assert_int_equal(mode_of("%s/pyleak.db-wal", f->dir), 0600);
	assert_int_equal(mode_of("%s/pyleak.db-shm", f->dir), 0600);
	assert_int_equal(mode_of("%s/lock", f->dir), 0600);
	store_close(f->s);
	f->s = NULL;
	/* ours, and open to others: closed again, whatever the umask */
	assert_int_equal(chmod(f->dir, 0777), 0);
	snprintf(path, sizeof(path), "%s/pyleak.db", f->dir);
	assert_int_equal(chmod(path, 0666), 0);
	old = umask(0);
	assert_int_equal(store_open(f->dir, &f->s, &f->err), 0);
	umask(old);
	assert_int_equal(mode_of("%s", f->dir), 0700);
	assert_int_equal(mode_of("%s", path), 0600);
}

static void test_folder_of_others(void **state)
{
	struct fixture *f = *state;
	char other[PATH_MAX];
	struct store *s = NULL;

	snprintf(other, sizeof(other), "%s/shared", f->top);
	assert_int_equal(mkdir(other, 0700), 0);
	put(other, "letters", 3);
	assert_int_equal(chmod(other, 01777), 0);
	assert_int_equal(store_open(other, &s, &f->err), -EPERM);
	assert_null(s);
	assert_non_null(strstr(f->err.msg, "--state-dir"));
	assert_int_equal(mode_of("%s", other), 01777); /* and it was left alone */
	if (geteuid() == 0) {
		assert_int_equal(chmod(other, 0700), 0);
		assert_int_equal(chown(other, 65534, 65534), 0);
		assert_int_equal(store_open(other, &s, &f->err), -EPERM);
	}
	assert_int_equal(store_open("/nonexistent/a/b", &s, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.msg, "/nonexistent/a/b"));
	memset(other, 'x', 600);
	other[0] = '/';
	other[600] = 0;
	assert_true(store_open(other, &s, &f->err) < 0);
}

static void test_lock(void **state)
{
	struct fixture *f = *state;
	struct store *s = NULL;
	char pid[32];

	snprintf(pid, sizeof(pid), "pid %d:", getpid());
	assert_int_equal(store_open(f->dir, &s, &f->err), -EBUSY);
	assert_null(s);
	assert_non_null(strstr(f->err.msg, pid));
	assert_non_null(strstr(f->err.msg, f->dir));
	store_close(f->s);
	assert_int_equal(store_open(f->dir, &f->s, &f->err), 0);
}

/* ---- damage and full disks ------------------------------------------------------------------ */

static void scribble(struct fixture *f, const char *name, off_t at, size_t n)
{
	char path[PATH_MAX], *junk = malloc(n);
	int fd;

	memset(junk, 0x5a, n);
	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, junk, n, at), n);
	close(fd);
	free(junk);
}

static void damaged_at(struct fixture *f, off_t at, size_t n)
{
	struct store_dump d = make(f, 1, AT_MS, 10);
	char aside[PATH_MAX], *name;
	struct stat st;

	for (int i = 0; i < 100; i++)
		make(f, 2, AT_MS + i, 1);
	store_close(f->s);
	f->s = NULL;
	scribble(f, "pyleak.db", at, n);
	assert_int_equal(store_open(f->dir, &f->s, &f->err), 0);
	/* said, and where it is now */
	name = strstr(f->err.msg, "pyleak.db.damaged-");
	assert_non_null(name);
	snprintf(aside, sizeof(aside), "%s/%.*s", f->dir, (int)strcspn(name, ","), name);
	assert_int_equal(stat(aside, &st), 0);
	assert_true(st.st_size > 0);
	assert_int_equal(count(f), 0);
	/* the dumps themselves are still there, and the new index works */
	assert_int_equal(mode_of("%s", d.path), 0700);
	make(f, 3, AT_MS + 9999, 1);
	reopen(f);
	assert_string_equal(f->err.msg, "");
	assert_int_equal(count(f), 1);
}

static void test_damaged_head(void **state)
{
	damaged_at(*state, 0, 100);
}

static void test_damaged_middle(void **state)
{
	damaged_at(*state, 4096, 12000);
}

static void test_not_a_database(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX];

	store_close(f->s);
	f->s = NULL;
	snprintf(path, sizeof(path), "%s/pyleak.db", f->dir);
	for (int i = 0; i < 3; i++) { /* twice in one second, too */
		unlink(path);
		put(f->dir, "pyleak.db", 0);
		assert_int_equal(truncate(path, 5000), 0);
		scribble(f, "pyleak.db", 0, 5000);
		assert_int_equal(store_open(f->dir, &f->s, &f->err), 0);
		assert_non_null(strstr(f->err.msg, "damaged"));
		store_close(f->s);
		f->s = NULL;
	}
}

static void test_newer_schema(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX], back[64];
	sqlite3_stmt *st;
	sqlite3 *db;

	make(f, 1, AT_MS, 1);
	store_close(f->s);
	f->s = NULL;
	snprintf(path, sizeof(path), "%s/pyleak.db", f->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	snprintf(back, sizeof(back), "PRAGMA user_version = %d", sqlite3_column_int(st, 0));
	sqlite3_finalize(st);
	assert_int_equal(
		sqlite3_exec(db, "PRAGMA user_version = 999", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	assert_int_equal(store_open(f->dir, &f->s, &f->err), -EPROTONOSUPPORT);
	assert_non_null(strstr(f->err.msg, "999"));
	/* nothing of it was lost */
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, back, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	assert_int_equal(store_open(f->dir, &f->s, &f->err), 0);
	assert_int_equal(count(f), 1);
}

static void test_locked_by_another_program(void **state)
{
	struct fixture *f = *state;
	struct store_dump d = {.pid = 1, .at_ms = AT_MS};
	char path[PATH_MAX];
	sqlite3 *db;

	snprintf(path, sizeof(path), "%s/pyleak.db", f->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(store_dump_begin(f->s, &d, &f->err), -EBUSY);
	assert_non_null(strstr(f->err.msg, path));
	sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	sqlite3_close(db);
	assert_int_equal(store_dump_begin(f->s, &d, &f->err), 0);
}

/* A limit on the size of files is as good as a full disk, and needs no root. */
static void test_full_disk(void **state)
{
	struct fixture *f = *state;
	pid_t child;
	int status;

	store_close(f->s);
	f->s = NULL;
	child = fork();
	if (!child) {
		struct rlimit limit = {200000, 200000};
		struct store *s;
		struct err err;
		int r = 0;

		signal(SIGXFSZ, SIG_IGN);
		if (store_open(f->dir, &s, &err) || setrlimit(RLIMIT_FSIZE, &limit))
			_exit(1);
		for (int i = 0; i < 100000 && !r; i++) {
			struct trigger_record rec = {.at_ms = AT_MS};

			memset(rec.service, 's', sizeof(rec.service) - 1);
			r = store_firing_add(s, &rec, &err);
		}
		if (r >= 0 || !strstr(err.msg, "pyleak.db") || strchr(err.msg, '\n'))
			_exit(2);
		/* still usable for reading */
		struct store_dump *list;
		size_t n;

		if (store_dump_list(s, &list, &n, &err))
			_exit(3);
		free(list);
		store_close(s);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(store_open(f->dir, &f->s, &f->err), 0);
	assert_string_equal(f->err.msg, "");
}

/* ---- firings -------------------------------------------------------------------------------- */

static void test_firings(void **state)
{
	struct fixture *f = *state;
	int64_t now = now_realtime_ms(), day = 86400000;
	_cleanup_free_ struct trigger_record *list = NULL, *rest = NULL;
	struct trigger_record r = {
		.service = "app.service", .trigger = "leak'; DROP TABLE firings; --"};
	size_t n;

	strcpy(r.type, "app.Session");
	r.at_ms = now - 40 * day;
	assert_int_equal(store_firing_add(f->s, &r, &f->err), 0);
	r.at_ms = now;
	assert_int_equal(store_firing_add(f->s, &r, &f->err), 0);
	r.at_ms = now - 2 * day;
	assert_int_equal(store_firing_add(f->s, &r, &f->err), 0);
	reopen(f);
	/* asked for: also what is older than 30 days */
	assert_int_equal(store_firing_list(f->s, now - 50 * day, &list, &n, &f->err), 0);
	assert_int_equal(n, 3);
	assert_int_equal(list[0].at_ms, now - 40 * day);
	assert_int_equal(list[2].at_ms, now);
	assert_string_equal(list[2].service, r.service);
	assert_string_equal(list[2].trigger, r.trigger);
	assert_string_equal(list[2].type, r.type);
	/* not asked for: it goes; what is younger than 30 days stays */
	assert_int_equal(store_firing_list(f->s, now - day, &rest, &n, &f->err), 0);
	assert_int_equal(n, 1);
	free(TAKE_PTR(rest));
	assert_int_equal(store_firing_list(f->s, 0, &rest, &n, &f->err), 0);
	assert_int_equal(n, 2);
	free(TAKE_PTR(rest));
	/* nothing came of that one */
	assert_int_equal(store_firing_remove(f->s, &r, &f->err), 0);
	assert_int_equal(store_firing_list(f->s, 0, &rest, &n, &f->err), 0);
	assert_int_equal(n, 1);
	assert_int_equal(rest[0].at_ms, now);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static void test_series(void **state)
{
	struct fixture *f = *state;
	int64_t now = now_realtime_ms(), day = 86400000;
	char bytes[] = "\0bytes of \'a type", other[] = "x";
	struct store_series x = {.pid = 7, .start_ticks = UINT64_MAX, .addr = UINT64_MAX - 8,
		.type = "a.B\'; --", .at_ms = now, .bytes = bytes, .n_bytes = sizeof(bytes)}, *list = NULL;
	size_t n;

	assert_int_equal(store_begin(f->s, &f->err), 0);
	assert_int_equal(store_series_put(f->s, &x, &f->err), 0);
	assert_int_equal(store_series_put(f->s, &x, &f->err), 0); /* takes the place of the first */
	x.start_ticks = 5; /* another process of that pid */
	x.bytes = other;
	x.n_bytes = 1;
	x.at_ms = now - 3 * day;
	assert_int_equal(store_series_put(f->s, &x, &f->err), 0);
	assert_int_equal(store_end(f->s, 0, &f->err), 0);
	reopen(f);
	assert_int_equal(store_series_list(f->s, 7, UINT64_MAX, &list, &n, &f->err), 0);
	assert_int_equal(n, 1);
	assert_true(list[0].addr == UINT64_MAX - 8);
	assert_string_equal(list[0].type, x.type);
	assert_int_equal(list[0].n_bytes, sizeof(bytes));
	assert_memory_equal(list[0].bytes, bytes, sizeof(bytes));
	store_series_free(list, n);
	/* What went wrong leaves everything as it was. */
	assert_int_equal(store_begin(f->s, &f->err), 0);
	assert_int_equal(store_series_forget(f->s, 7, UINT64_MAX, &f->err), 0);
	assert_int_equal(store_end(f->s, -EIO, &f->err), -EIO);
	assert_int_equal(store_series_list(f->s, 7, UINT64_MAX, &list, &n, &f->err), 0);
	assert_int_equal(n, 1);
	store_series_free(list, n);
	/* This one is forgotten; and then what is older than two days. */
	assert_int_equal(store_series_forget(f->s, 7, UINT64_MAX, &f->err), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(store_series_list(f->s, 7, i ? 5 : UINT64_MAX, &list, &n, &f->err), 0);
		assert_int_equal(n, i == 1);
		store_series_free(list, n);
		assert_int_equal(store_series_expire(f->s, now - (i ? 2 : 4) * day, &f->err), 0);
	}
}

static void test_services(void **state)
{
	struct fixture *f = *state;
	int64_t now = now_realtime_ms(), day = 86400000;
	struct store_service x = {.type = "a.B", .at_ms = now, .expectation = {.plateau = 12345}};
	_cleanup_free_ struct store_service *list = NULL, *rest = NULL;
	size_t n;

	assert_int_equal(store_service_put(f->s, "shop", &x, &f->err), 0);
	strcpy(x.type, "a.A");
	x.expectation = (struct track_expectation){.leaked = true};
	x.at_ms = now - 3 * day;
	assert_int_equal(store_service_put(f->s, "shop", &x, &f->err), 0);
	assert_int_equal(store_service_put(f->s, "other", &x, &f->err), 0);
	reopen(f);
	assert_int_equal(store_service_list(f->s, "shop", 0, &list, &n, &f->err), 0);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].type, "a.A");
	assert_true(list[0].expectation.leaked);
	assert_int_equal(list[1].expectation.plateau, 12345);
	assert_false(list[1].expectation.leaked);
	assert_int_equal(store_service_list(f->s, "shop", now - 2 * day, &rest, &n, &f->err), 0);
	assert_int_equal(n, 1);
	assert_string_equal(rest[0].type, "a.B");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_life_of_a_dump),
		T(test_failed_dump),
		T(test_end_without_folder),
		T(test_list_newest_first),
		T(test_same_second_after_restart),
		T(test_hostile_ids),
		T(test_trim),
		T(test_running_is_not_removed),
		T(test_failures_do_not_pile_up),
		T(test_links_are_not_followed),
		T(test_linked_dumps_folder),
		T(test_sweep),
		T(test_killed),
		T(test_modes),
		T(test_folder_of_others),
		T(test_lock),
		T(test_damaged_head),
		T(test_damaged_middle),
		T(test_not_a_database),
		T(test_newer_schema),
		T(test_locked_by_another_program),
		T(test_full_disk),
		T(test_firings),
		T(test_series),
		T(test_services),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
