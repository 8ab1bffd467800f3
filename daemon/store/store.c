/* SPDX-License-Identifier: MIT */
#include "daemon/store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define BUSY_TIMEOUT_MS  2000
#define FIRING_KEEP_MS   (30LL * 86400 * 1000)
#define UNFINISHED_MAX   1000 /* rows of failed and refused dumps that are kept */
#define REMOVE_DEPTH_MAX 8
#define ID_TRIES         1000

struct store {
	char *dir; /* absolute, without links */
	int dir_fd, dumps_fd, lock_fd;
	sqlite3 *db;
	unsigned serial;
};

/* Schema n is made from schema n - 1 by the nth of these; PRAGMA user_version says where we are.
 * Append only. */
static const char *const migrations[] = {
	"CREATE TABLE dumps ("
	"  id TEXT PRIMARY KEY NOT NULL,"
	"  at_ms INTEGER NOT NULL,"
	"  pid INTEGER NOT NULL,"
	"  uid INTEGER NOT NULL,"
	"  comm TEXT NOT NULL,"
	"  trigger TEXT NOT NULL,"
	"  state TEXT NOT NULL,"
	"  error TEXT NOT NULL,"
	"  bytes INTEGER NOT NULL);"
	"CREATE INDEX dumps_at ON dumps (at_ms);"
	"CREATE TABLE firings ("
	"  service TEXT NOT NULL,"
	"  trigger TEXT NOT NULL,"
	"  type TEXT NOT NULL,"
	"  at_ms INTEGER NOT NULL);"
	"CREATE INDEX firings_at ON firings (at_ms);",
	"CREATE TABLE series ("
	"  pid INTEGER NOT NULL,"
	"  start_ticks INTEGER NOT NULL,"
	"  addr INTEGER NOT NULL,"
	"  type TEXT NOT NULL,"
	"  at_ms INTEGER NOT NULL,"
	"  bytes BLOB NOT NULL,"
	"  PRIMARY KEY (pid, start_ticks, addr)) WITHOUT ROWID;"
	"CREATE TABLE services ("
	"  service TEXT NOT NULL,"
	"  type TEXT NOT NULL,"
	"  at_ms INTEGER NOT NULL,"
	"  plateau INTEGER NOT NULL,"
	"  leaked INTEGER NOT NULL,"
	"  PRIMARY KEY (service, type)) WITHOUT ROWID;",
};

/* ---- SQLite --------------------------------------------------------------------------------- */

/* SQLite's word for what went wrong as ours: object, cause, remedy. */
static int db_error(struct store *s, const char *what, struct err *err)
{
	int rc = s->db ? sqlite3_extended_errcode(s->db) : SQLITE_NOMEM;
	const char *msg = s->db ? sqlite3_errmsg(s->db) : "out of memory";

	switch (rc & 0xff) {
	case SQLITE_FULL:
		return err_set(err, -ENOSPC,
			"%s/pyleak.db: cannot %s: the disk is full: free some space there", s->dir,
			what);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return err_set(err, -EUCLEAN,
			"%s/pyleak.db: cannot %s: %s: restart pyleakd, it moves the file aside and "
			"makes a new one",
			s->dir, what, msg);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return err_set(err, -EBUSY,
			"%s/pyleak.db: cannot %s: another program has it locked", s->dir, what);
	case SQLITE_READONLY:
		return err_set(err, -EROFS, "%s/pyleak.db: cannot %s: not writable", s->dir, what);
	case SQLITE_NOMEM:
		return err_set(
			err, -ENOMEM, "%s/pyleak.db: cannot %s: out of memory", s->dir, what);
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN: {
		int e = s->db ? sqlite3_system_errno(s->db) : 0;

		return err_set(err, e > 0 ? -e : -EIO, "%s/pyleak.db: cannot %s: %s%s%s", s->dir,
			what, msg, e > 0 ? ": " : "", e > 0 ? strerror(e) : "");
	}
	default:
		return err_set(err, -EIO, "%s/pyleak.db: cannot %s: %s", s->dir, what, msg);
	}
}

static void finalizep(sqlite3_stmt **st)
{
	sqlite3_finalize(*st);
}
#define _cleanup_stmt_ _cleanup_(finalizep)

/* The rows of these tables are few and asked for rarely: statements are prepared for each use. */
static sqlite3_stmt *prepare(struct store *s, const char *sql)
{
	sqlite3_stmt *st = NULL;

	return sqlite3_prepare_v2(s->db, sql, -1, &st, NULL) == SQLITE_OK ? st : NULL;
}

static void bind_text(sqlite3_stmt *st, int i, const char *text)
{
	sqlite3_bind_text(st, i, text, -1, SQLITE_TRANSIENT);
}

static void column_text(sqlite3_stmt *st, int i, char *buf, size_t n)
{
	const unsigned char *t = sqlite3_column_text(st, i);

	snprintf(buf, n, "%s", t ? (const char *)t : "");
}

/* Runs a statement that gives no rows. */
static int run(struct store *s, sqlite3_stmt *st, const char *what, struct err *err)
{
	if (!st || sqlite3_step(st) != SQLITE_DONE)
		return db_error(s, what, err);
	return 0;
}

static int migrate(struct store *s, struct err *err)
{
	const int newest = ARRAY_SIZE(migrations);
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s, "PRAGMA user_version");
	int version;

	if (!st || sqlite3_step(st) != SQLITE_ROW)
		return db_error(s, "read its version", err);
	version = sqlite3_column_int(st, 0);
	sqlite3_reset(st);
	if (version < 0 || version > newest)
		return err_set(err, -EPROTONOSUPPORT,
			"%s/pyleak.db: has schema %d, this pyleakd knows up to %d: use the newer "
			"pyleakd, or another --state-dir",
			s->dir, version, newest);
	for (; version < newest; version++) {
		char pragma[64];

		snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %d; COMMIT", version + 1);
		if (sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK ||
			sqlite3_exec(s->db, migrations[version], NULL, NULL, NULL) != SQLITE_OK ||
			sqlite3_exec(s->db, pragma, NULL, NULL, NULL) != SQLITE_OK) {
			int r = db_error(s, "bring its schema up to date", err);

			sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
			return r;
		}
	}
	return 0;
}

/* -EUCLEAN if the file is no database or a damaged one. */
static int db_open(struct store *s, struct err *err)
{
	char path[PATH_MAX];
	int fd, rc;

	/* SQLite would make it with the umask's mode; -wal and -shm follow the file's. */
	fd = openat(s->dir_fd, "pyleak.db", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set(err, -errno, "%s/pyleak.db: %s", s->dir, strerror(errno));
	rc = fchmod(fd, 0600) < 0 ? -errno : 0;
	close(fd);
	if (rc < 0)
		return err_set(err, rc, "%s/pyleak.db: %s", s->dir, strerror(-rc));

	snprintf(path, sizeof(path), "%s/pyleak.db", s->dir);
	rc = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW, NULL);
	if (rc != SQLITE_OK)
		return db_error(s, "open it", err);
	sqlite3_busy_timeout(s->db, BUSY_TIMEOUT_MS);
	/* The schema in a file is code: don't let it call functions. */
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	if (sqlite3_exec(s->db,
		    "PRAGMA cell_size_check = ON; PRAGMA journal_mode = WAL; PRAGMA synchronous = "
		    "NORMAL",
		    NULL, NULL, NULL) != SQLITE_OK)
		return db_error(s, "open it", err);
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s, "PRAGMA quick_check(1)");

	if (!st || sqlite3_step(st) != SQLITE_ROW)
		return db_error(s, "check it", err);
	if (strcmp((const char *)sqlite3_column_text(st, 0) ?: "", "ok"))
		return err_set(err, -EUCLEAN, "%s/pyleak.db: damaged: %s", s->dir,
			sqlite3_column_text(st, 0));
	sqlite3_reset(st);
	return migrate(s, err);
}

/* Moves the database aside with what belongs to it, so that somebody can look at it. */
static int db_set_aside(struct store *s, char *ret_name, size_t n, struct err *err)
{
	char at[32];
	time_t t = time(NULL);
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(at, sizeof(at), "%Y%m%dT%H%M%S", &tm);
	snprintf(ret_name, n, "pyleak.db.damaged-%s", at);
	for (int i = 2; faccessat(s->dir_fd, ret_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0 && i < 100;
		i++)
		snprintf(ret_name, n, "pyleak.db.damaged-%s-%d", at, i);
	if (renameat(s->dir_fd, "pyleak.db", s->dir_fd, ret_name) < 0)
		return err_set(err, -errno, "%s/pyleak.db: damaged, and cannot be moved aside: %s",
			s->dir, strerror(errno));
	/* A log of the old file must not be played into the new one. */
	for (int i = 0; i < 2; i++) {
		const char *suffix = i ? "-shm" : "-wal";
		char from[32], to[128];

		snprintf(from, sizeof(from), "pyleak.db%s", suffix);
		snprintf(to, sizeof(to), "%s%s", ret_name, suffix);
		if (renameat(s->dir_fd, from, s->dir_fd, to) < 0 && errno != ENOENT)
			return err_set(err, -errno, "%s/%s: cannot be moved aside: %s", s->dir,
				from, strerror(errno));
	}
	return 0;
}

static int db_open_or_renew(struct store *s, struct err *err)
{
	struct err why = {0};
	char aside[64];
	int r = db_open(s, &why);

	if (r != -EUCLEAN) {
		if (r)
			err_set(err, r, "%s", why.msg);
		return r;
	}
	sqlite3_close(s->db);
	s->db = NULL;
	r = db_set_aside(s, aside, sizeof(aside), err);
	if (r)
		return r;
	r = db_open(s, err);
	if (!r)
		err_set(err, 0,
			"%s/pyleak.db was damaged: it is now %s, the index of dumps starts anew",
			s->dir, aside);
	return r;
}

/* ---- folders -------------------------------------------------------------------------------- */

static bool id_is_valid(const char *id)
{
	size_t n = strspn(id, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-");

	return n && n < DUMP_ID_MAX && !id[n];
}

/* ".ID.tmp" */
static bool is_half_made(const char *name)
{
	char id[DUMP_ID_MAX];
	size_t n = strlen(name);

	if (n < 6 || n - 5 >= sizeof(id) || name[0] != '.' || strcmp(name + n - 4, ".tmp"))
		return false;
	memcpy(id, name + 1, n - 5);
	id[n - 5] = 0;
	return id_is_valid(id);
}

static void half_made_name(char *buf, size_t n, const char *id)
{
	snprintf(buf, n, ".%s.tmp", id);
}

#define HALF_MADE_MAX (DUMP_ID_MAX + 6)

/* Removes what name is, a folder with everything in it; never follows a link: those are removed
 * themselves. */
static int remove_tree(int parent_fd, const char *name, int depth)
{
	DIR *dir;
	int fd, r = 0;

	if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return -errno;
	if (depth > REMOVE_DEPTH_MAX)
		return -ELOOP;
	fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	for (struct dirent *e; (e = readdir(dir));) {
		int q;

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		q = remove_tree(dirfd(dir), e->d_name, depth + 1);
		r = r ?: q;
	}
	closedir(dir);
	if (!r && unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

/* Makes the files of a finished dump last, and adds up their bytes. */
static int settle_folder(int dumps_fd, const char *name, bool sync, uint64_t *ret_bytes)
{
	int fd = openat(dumps_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
	uint64_t bytes = 0;
	DIR *dir;

	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	for (struct dirent *e; !r && (e = readdir(dir));) {
		struct stat st;

		if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			!S_ISREG(st.st_mode))
			continue;
		bytes += st.st_size;
		if (sync) {
			_cleanup_close_ int f = openat(dirfd(dir), e->d_name,
				O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

			if (f < 0 || fchmod(f, 0600) < 0 || fsync(f) < 0)
				r = -errno;
		}
	}
	if (!r && sync && fsync(dirfd(dir)) < 0)
		r = -errno;
	closedir(dir);
	if (!r)
		*ret_bytes = bytes;
	return r;
}

static bool is_folder(int dumps_fd, const char *name)
{
	struct stat st;

	return fstatat(dumps_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* ---- opening -------------------------------------------------------------------------------- */

/* Is there nothing in it but what we put there? Then its mode is ours to set; --state-dir may
 * name a folder that others use. */
static bool folder_is_ours(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	bool ours = true;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	for (struct dirent *e; ours && (e = readdir(dir));)
		ours = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
		       !strcmp(e->d_name, "lock") || !strcmp(e->d_name, "dumps") ||
		       !strncmp(e->d_name, "pyleak.db", strlen("pyleak.db"));
	closedir(dir);
	return ours;
}

static int open_state_dir(struct store *s, const char *path, struct err *err)
{
	struct stat st;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_set(
			err, -errno, "cannot make state folder %s: %s", path, strerror(errno));
	s->dir = realpath(path, NULL);
	if (!s->dir)
		return err_set(err, -errno, "state folder %s: %s", path, strerror(errno));
	if (strlen(s->dir) + strlen("/dumps/") + HALF_MADE_MAX >
		sizeof(((struct store_dump *)0)->path))
		return err_set(err, -ENAMETOOLONG, "state folder %s: its path is too long", s->dir);
	s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->dir_fd < 0 || fstat(s->dir_fd, &st) < 0)
		return err_set(err, -errno, "state folder %s: %s", s->dir, strerror(errno));
	if (st.st_uid != geteuid())
		return err_set(err, -EPERM,
			"state folder %s: belongs to uid %u, not to the daemon's %u: chown it, or "
			"use another --state-dir",
			s->dir, st.st_uid, geteuid());
	if ((st.st_mode & 077) && folder_is_ours(s->dir_fd)) {
		if (fchmod(s->dir_fd, 0700) < 0)
			return err_set(err, -errno, "state folder %s: %s", s->dir, strerror(errno));
	} else if (st.st_mode & 022) {
		return err_set(err, -EPERM,
			"state folder %s: others can write there: use a folder of its own as "
			"--state-dir",
			s->dir);
	}
	return 0;
}

static int lock_state_dir(struct store *s, struct err *err)
{
	char text[16] = "";
	ssize_t n;

	s->lock_fd = openat(s->dir_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		return err_set(err, -errno, "%s/lock: %s", s->dir, strerror(errno));
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		int pid;

		if (errno != EWOULDBLOCK)
			return err_set(err, -errno, "%s/lock: %s", s->dir, strerror(errno));
		n = pread(s->lock_fd, text, sizeof(text) - 1, 0);
		pid = n > 0 ? atoi(text) : 0;
		if (pid > 0)
			return err_set(err, -EBUSY,
				"state folder %s is used by pid %d: stop that daemon, or use "
				"another --state-dir",
				s->dir, pid);
		return err_set(err, -EBUSY,
			"state folder %s is used by another daemon: stop it, or use another "
			"--state-dir",
			s->dir);
	}
	n = snprintf(text, sizeof(text), "%d\n", getpid());
	if (ftruncate(s->lock_fd, 0) < 0 || pwrite(s->lock_fd, text, n, 0) != n)
		return err_set(err, -EIO, "%s/lock: cannot be written: is the disk full?", s->dir);
	return 0;
}

static int open_dumps_dir(struct store *s, struct err *err)
{
	if (mkdirat(s->dir_fd, "dumps", 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "cannot make %s/dumps: %s", s->dir, strerror(errno));
	s->dumps_fd = openat(s->dir_fd, "dumps", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->dumps_fd < 0 || fchmod(s->dumps_fd, 0700) < 0)
		return err_set(err, -errno, "%s/dumps: %s", s->dir, strerror(errno));
	return 0;
}

static int set_state(struct store *s, const char *id, const char *state, const char *error,
	uint64_t bytes, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st =
		prepare(s, "UPDATE dumps SET state = ?2, error = ?3, bytes = ?4 WHERE id = ?1");

	if (st) {
		bind_text(st, 1, id);
		bind_text(st, 2, state);
		bind_text(st, 3, error);
		sqlite3_bind_int64(st, 4, (int64_t)bytes);
	}
	return run(s, st, "note the end of a dump", err);
}

/*
 * What an earlier daemon left in the middle. A row that is still "running" has ended: with a
 * folder of its final name only the note of its end is missing, else the dump failed. A row that
 * says "done" without a folder (an administrator removed it) says so from now on. Folders that
 * have no row stay as they are: somebody may have put them there, and a forged dump must not get
 * into the index by lying in the right place.
 */
static int sweep(struct store *s, struct err *err)
{
	_cleanup_free_ struct store_dump *list = NULL;
	size_t n;
	DIR *dir;
	int fd, r;

	r = store_dump_list(s, &list, &n, err);
	for (size_t i = 0; !r && i < n; i++) {
		uint64_t bytes;

		if (!id_is_valid(list[i].id))
			continue;
		if (!strcmp(list[i].state, "running")) {
			if (settle_folder(s->dumps_fd, list[i].id, false, &bytes) == 0)
				r = set_state(s, list[i].id, "done", "", bytes, err);
			else
				r = set_state(
					s, list[i].id, "failed", "the daemon was stopped", 0, err);
		} else if (!strcmp(list[i].state, "done") && !is_folder(s->dumps_fd, list[i].id)) {
			r = set_state(s, list[i].id, "failed", "its folder is gone", 0, err);
		}
	}
	if (r)
		return r;

	fd = openat(s->dumps_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return err_set(err, r, "%s/dumps: %s", s->dir, strerror(-r));
	}
	for (struct dirent *e; (e = readdir(dir));) {
		int q;

		if (!is_half_made(e->d_name))
			continue;
		q = remove_tree(s->dumps_fd, e->d_name, 0);
		if (q && !r)
			r = err_set(err, q,
				"%s/dumps/%s: cannot remove what a stopped dump left: %s", s->dir,
				e->d_name, strerror(-q));
	}
	closedir(dir);
	return r;
}

int store_open(const char *state_dir, struct store **ret, struct err *err)
{
	struct store *s = calloc(1, sizeof(*s));
	int r;

	if (err)
		err->msg[0] = 0;
	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->dir_fd = s->dumps_fd = s->lock_fd = -1;
	r = open_state_dir(s, state_dir, err);
	if (!r)
		r = lock_state_dir(s, err);
	if (!r)
		r = open_dumps_dir(s, err);
	if (!r)
		r = db_open_or_renew(s, err);
	if (!r)
		r = sweep(s, err);
	if (r) {
		store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	sqlite3_close(s->db);
	if (s->dumps_fd >= 0)
		close(s->dumps_fd);
	if (s->lock_fd >= 0)
		close(s->lock_fd); /* the file stays: removing it would race with a daemon that waits */
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	free(s->dir);
	free(s);
}

/* ---- dumps ---------------------------------------------------------------------------------- */

#define DUMP_COLUMNS "id, at_ms, pid, uid, comm, trigger, state, error, bytes"

static void set_path(struct store *s, struct store_dump *d)
{
	char name[HALF_MADE_MAX];

	d->path[0] = 0;
	if (!strcmp(d->state, "running"))
		half_made_name(name, sizeof(name), d->id);
	else if (!strcmp(d->state, "done"))
		snprintf(name, sizeof(name), "%s", d->id);
	else
		return;
	snprintf(d->path, sizeof(d->path), "%s/dumps/%s", s->dir, name);
}

static void read_row(struct store *s, sqlite3_stmt *st, struct store_dump *d)
{
	*d = (struct store_dump){
		.at_ms = sqlite3_column_int64(st, 1),
		.pid = sqlite3_column_int(st, 2),
		.uid = (uid_t)sqlite3_column_int64(st, 3),
		.bytes = (uint64_t)sqlite3_column_int64(st, 8),
	};
	column_text(st, 0, d->id, sizeof(d->id));
	column_text(st, 4, d->comm, sizeof(d->comm));
	column_text(st, 5, d->trigger, sizeof(d->trigger));
	column_text(st, 6, d->state, sizeof(d->state));
	column_text(st, 7, d->error, sizeof(d->error));
	set_path(s, d);
}

/* Dumps that failed at once could fill the table: only the newest of their rows are kept. */
static int forget_unfinished(struct store *s, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st =
		prepare(s, "DELETE FROM dumps WHERE id IN (SELECT id FROM dumps WHERE state IN "
			   "('failed', 'refused')"
			   " ORDER BY at_ms DESC, id DESC LIMIT -1 OFFSET ?1)");

	if (st)
		sqlite3_bind_int(st, 1, UNFINISHED_MAX);
	return run(s, st, "forget old failures", err);
}

static int insert_row(struct store *s, const struct store_dump *d)
{
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s,
		"INSERT INTO dumps (" DUMP_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");

	if (!st)
		return sqlite3_errcode(s->db);
	bind_text(st, 1, d->id);
	sqlite3_bind_int64(st, 2, d->at_ms);
	sqlite3_bind_int(st, 3, d->pid);
	sqlite3_bind_int64(st, 4, d->uid);
	bind_text(st, 5, d->comm);
	bind_text(st, 6, d->trigger);
	bind_text(st, 7, d->state);
	bind_text(st, 8, d->error);
	sqlite3_bind_int64(st, 9, (int64_t)d->bytes);
	return sqlite3_step(st);
}

int store_dump_begin(struct store *s, struct store_dump *d, struct err *err)
{
	char name[HALF_MADE_MAX], at[32];
	int rc = SQLITE_ERROR, r;
	struct tm tm;
	time_t t;

	if (!d->at_ms)
		d->at_ms = now_realtime_ms();
	t = d->at_ms / 1000;
	gmtime_r(&t, &tm);
	strftime(at, sizeof(at), "%Y%m%dT%H%M%S", &tm);
	snprintf(d->state, sizeof(d->state), "running");
	d->error[0] = 0;
	d->bytes = 0;
	r = forget_unfinished(s, err);
	if (r)
		return r;
	/* Serials start anew with the daemon: one that is taken is passed over. */
	for (int tries = 0; tries < ID_TRIES; tries++) {
		snprintf(d->id, sizeof(d->id), "%s-%d-%u", at, d->pid, ++s->serial);
		if (is_folder(s->dumps_fd, d->id))
			continue;
		rc = insert_row(s, d);
		if ((rc & 0xff) != SQLITE_CONSTRAINT)
			break;
	}
	if (rc != SQLITE_DONE)
		return db_error(s, "note a new dump", err);
	half_made_name(name, sizeof(name), d->id);
	if (mkdirat(s->dumps_fd, name, 0700) < 0) {
		r = err_set(
			err, -errno, "cannot make %s/dumps/%s: %s", s->dir, name, strerror(errno));
		set_state(s, d->id, "failed", err ? err->msg : "no folder", 0, NULL);
		return r;
	}
	set_path(s, d);
	return 0;
}

static int finish_folder(struct store *s, struct store_dump *d, struct err *err)
{
	char name[HALF_MADE_MAX];
	uint64_t bytes = 0;
	int r;

	half_made_name(name, sizeof(name), d->id);
	if (!strcmp(d->state, "done")) {
		r = settle_folder(s->dumps_fd, name, true, &bytes);
		if (!r && renameat(s->dumps_fd, name, s->dumps_fd, d->id) < 0)
			r = -errno;
		if (!r && fsync(s->dumps_fd) < 0)
			r = -errno;
		if (!r) {
			d->bytes = bytes;
			return 0;
		}
		err_set(err, r, "%s/dumps/%s: cannot be kept: %s%s", s->dir, d->id, strerror(-r),
			r == -ENOSPC ? ": free some space there" : "");
		snprintf(d->state, sizeof(d->state), "failed");
		snprintf(d->error, sizeof(d->error), "its folder cannot be kept: %s", strerror(-r));
		d->bytes = 0;
		remove_tree(s->dumps_fd, name, 0);
		return r;
	}
	d->bytes = 0;
	r = remove_tree(s->dumps_fd, name, 0);
	if (r)
		return err_set(
			err, r, "%s/dumps/%s: cannot be removed: %s", s->dir, name, strerror(-r));
	return 0;
}

int store_dump_end(struct store *s, struct store_dump *d, struct err *err)
{
	int r, q;

	if (!id_is_valid(d->id))
		return err_set(err, -EINVAL, "not the id of a dump");
	if (!strcmp(d->state, "running"))
		return err_set(err, -EINVAL, "dump %s: still running", d->id);
	r = finish_folder(s, d, err);
	set_path(s, d);
	/* The row is written even if the folder made trouble: then it says that it failed. */
	q = set_state(s, d->id, d->state, d->error, d->bytes, r ? NULL : err);
	return r ?: q;
}

int store_dump_get(struct store *s, const char *id, struct store_dump *ret, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = NULL;
	int rc;

	if (!id_is_valid(id))
		return err_set(err, -EINVAL,
			"not the id of a dump (letters, digits and dashes): pyleakctl dumps lists "
			"them");
	st = prepare(s, "SELECT " DUMP_COLUMNS " FROM dumps WHERE id = ?1");
	if (!st)
		return db_error(s, "look up a dump", err);
	bind_text(st, 1, id);
	rc = sqlite3_step(st);
	if (rc == SQLITE_DONE)
		return err_set(
			err, -ENOENT, "no dump %s: pyleakctl dumps lists those there are", id);
	if (rc != SQLITE_ROW)
		return db_error(s, "look up a dump", err);
	read_row(s, st, ret);
	return 0;
}

/* Adds room for one more to a growing array. */
static void *grow(void *array, size_t n, size_t *cap, size_t size)
{
	if (n < *cap)
		return array;
	*cap = *cap ? *cap * 2 : 16;
	return reallocarray(array, *cap, size);
}

int store_dump_list(struct store *s, struct store_dump **ret, size_t *ret_n, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st =
		prepare(s, "SELECT " DUMP_COLUMNS " FROM dumps ORDER BY at_ms DESC, id DESC");
	_cleanup_free_ struct store_dump *list = NULL;
	size_t n = 0, cap = 0;
	int rc = SQLITE_ERROR;

	while (st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		void *bigger = grow(list, n, &cap, sizeof(*list));

		if (!bigger)
			return err_set(err, -ENOMEM, "out of memory");
		list = bigger;
		read_row(s, st, &list[n++]);
	}
	if (rc != SQLITE_DONE)
		return db_error(s, "list the dumps", err);
	*ret = TAKE_PTR(list);
	*ret_n = n;
	return 0;
}

int store_dump_remove(struct store *s, const char *id, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = NULL;
	char name[HALF_MADE_MAX];
	struct store_dump d;
	int r;

	r = store_dump_get(s, id, &d, err);
	if (r)
		return r;
	if (!strcmp(d.state, "running"))
		return err_set(
			err, -EBUSY, "dump %s is still being made: remove it when it is done", id);
	/* Renamed first: if we die half-way, the next start clears the rest away. */
	half_made_name(name, sizeof(name), id);
	if (renameat(s->dumps_fd, id, s->dumps_fd, name) == 0) {
		r = remove_tree(s->dumps_fd, name, 0);
		if (r)
			return err_set(err, r, "%s/dumps/%s: cannot be removed: %s", s->dir, name,
				strerror(-r));
	} else if (errno != ENOENT) {
		return err_set(err, -errno, "%s/dumps/%s: cannot be removed: %s", s->dir, id,
			strerror(errno));
	}
	st = prepare(s, "DELETE FROM dumps WHERE id = ?1");
	if (st)
		bind_text(st, 1, id);
	return run(s, st, "remove a dump", err);
}

int store_dump_trim(struct store *s, uint64_t max_bytes, struct err *err)
{
	_cleanup_free_ struct store_dump *list = NULL;
	uint64_t sum = 0;
	int removed = 0, r;
	size_t n, newest;

	r = store_dump_list(s, &list, &n, err);
	if (r)
		return r;
	newest = n;
	for (size_t i = n; i-- > 0;)
		if (!strcmp(list[i].state, "done")) {
			sum += list[i].bytes;
			newest = i;
		}
	for (size_t i = n; i-- > newest + 1 && sum > max_bytes;) {
		if (strcmp(list[i].state, "done"))
			continue;
		r = store_dump_remove(s, list[i].id, err);
		if (r)
			return r;
		sum -= list[i].bytes;
		removed++;
	}
	return removed;
}

/* ---- firings of triggers -------------------------------------------------------------------- */

int store_firing_add(struct store *s, const struct trigger_record *rec, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = prepare(
		s, "INSERT INTO firings (service, trigger, type, at_ms) VALUES (?1, ?2, ?3, ?4)");

	if (st) {
		bind_text(st, 1, rec->service);
		bind_text(st, 2, rec->trigger);
		bind_text(st, 3, rec->type);
		sqlite3_bind_int64(st, 4, rec->at_ms);
	}
	return run(s, st, "note that a trigger fired", err);
}

int store_firing_remove(struct store *s, const struct trigger_record *rec, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s,
		"DELETE FROM firings WHERE service = ?1 AND trigger = ?2 AND type = ?3 AND at_ms = ?4");

	if (st) {
		bind_text(st, 1, rec->service);
		bind_text(st, 2, rec->trigger);
		bind_text(st, 3, rec->type);
		sqlite3_bind_int64(st, 4, rec->at_ms);
	}
	return run(s, st, "note that nothing came of a trigger", err);
}

static int forget_firings(struct store *s, int64_t before_ms, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s, "DELETE FROM firings WHERE at_ms < ?1");

	if (st)
		sqlite3_bind_int64(st, 1, before_ms);
	return run(s, st, "forget old firings", err);
}

int store_firing_list(struct store *s, int64_t since_ms, struct trigger_record **ret, size_t *ret_n,
	struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = NULL;
	_cleanup_free_ struct trigger_record *list = NULL;
	size_t n = 0, cap = 0;
	int rc = SQLITE_ERROR, r;

	r = forget_firings(s, MIN(since_ms, now_realtime_ms() - FIRING_KEEP_MS), err);
	if (r)
		return r;
	st = prepare(s, "SELECT service, trigger, type, at_ms FROM firings WHERE at_ms >= ?1"
			" ORDER BY at_ms, rowid");
	if (st)
		sqlite3_bind_int64(st, 1, since_ms);
	while (st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		void *bigger = grow(list, n, &cap, sizeof(*list));

		if (!bigger)
			return err_set(err, -ENOMEM, "out of memory");
		list = bigger;
		column_text(st, 0, list[n].service, sizeof(list[n].service));
		column_text(st, 1, list[n].trigger, sizeof(list[n].trigger));
		column_text(st, 2, list[n].type, sizeof(list[n].type));
		list[n++].at_ms = sqlite3_column_int64(st, 3);
	}
	if (rc != SQLITE_DONE)
		return db_error(s, "list the firings", err);
	*ret = TAKE_PTR(list);
	*ret_n = n;
	return 0;
}

/* ---- series and what is known of services --------------------------------------------------- */

static int simple(struct store *s, const char *sql, const char *what, struct err *err)
{
	return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(s, what, err);
}

int store_begin(struct store *s, struct err *err)
{
	return simple(s, "BEGIN IMMEDIATE", "begin to keep series", err);
}

int store_end(struct store *s, int r, struct err *err)
{
	if (!r)
		r = simple(s, "COMMIT", "keep series", err);
	if (r)
		simple(s, "ROLLBACK", "let go of series", NULL); /* also where there is nothing to let go of */
	return r;
}

int store_series_put(struct store *s, const struct store_series *x, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s,
		"INSERT OR REPLACE INTO series (pid, start_ticks, addr, type, at_ms, bytes)"
		" VALUES (?1, ?2, ?3, ?4, ?5, ?6)");

	if (st) {
		sqlite3_bind_int64(st, 1, x->pid);
		sqlite3_bind_int64(st, 2, (sqlite3_int64)x->start_ticks);
		sqlite3_bind_int64(st, 3, (sqlite3_int64)x->addr);
		bind_text(st, 4, x->type);
		sqlite3_bind_int64(st, 5, x->at_ms);
		sqlite3_bind_blob(st, 6, x->bytes, (int)x->n_bytes, SQLITE_TRANSIENT);
	}
	return run(s, st, "keep a series", err);
}

int store_series_list(struct store *s, int32_t pid, uint64_t start_ticks, struct store_series **ret, size_t *ret_n,
	struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s, "SELECT addr, type, at_ms, bytes FROM series"
						     " WHERE pid = ?1 AND start_ticks = ?2 LIMIT 65536");
	struct store_series *list = NULL;
	size_t n = 0, cap = 0;
	int rc = SQLITE_ERROR;

	if (st) {
		sqlite3_bind_int64(st, 1, pid);
		sqlite3_bind_int64(st, 2, (sqlite3_int64)start_ticks);
	}
	while (st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		const void *bytes = sqlite3_column_blob(st, 3);
		int n_bytes = sqlite3_column_bytes(st, 3);
		void *bigger = grow(list, n, &cap, sizeof(*list));

		if (bigger)
			list = bigger;
		if (!bigger || !bytes || n_bytes <= 0 || n_bytes > STORE_SERIES_MAX)
			continue; /* what cannot be taken begins anew */
		list[n] = (struct store_series){.pid = pid, .start_ticks = start_ticks,
			.addr = (uint64_t)sqlite3_column_int64(st, 0),
			.at_ms = sqlite3_column_int64(st, 2), .n_bytes = (size_t)n_bytes};
		column_text(st, 1, list[n].type, sizeof(list[n].type));
		list[n].bytes = malloc((size_t)n_bytes);
		if (!list[n].bytes)
			continue;
		memcpy(list[n++].bytes, bytes, (size_t)n_bytes);
	}
	if (rc != SQLITE_DONE) {
		store_series_free(list, n);
		return db_error(s, "list the series", err);
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

void store_series_free(struct store_series *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i].bytes);
	free(list);
}

int store_series_forget(struct store *s, int32_t pid, uint64_t start_ticks, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s, "DELETE FROM series WHERE pid = ?1 AND start_ticks = ?2");

	if (st) {
		sqlite3_bind_int64(st, 1, pid);
		sqlite3_bind_int64(st, 2, (sqlite3_int64)start_ticks);
	}
	return run(s, st, "forget series", err);
}

int store_series_expire(struct store *s, int64_t before_ms, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s, "DELETE FROM series WHERE at_ms < ?1");

	if (st)
		sqlite3_bind_int64(st, 1, before_ms);
	return run(s, st, "forget old series", err);
}

int store_service_put(struct store *s, const char *service, const struct store_service *x, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = prepare(s,
		"INSERT OR REPLACE INTO services (service, type, at_ms, plateau, leaked)"
		" VALUES (?1, ?2, ?3, ?4, ?5)");

	if (st) {
		bind_text(st, 1, service);
		bind_text(st, 2, x->type);
		sqlite3_bind_int64(st, 3, x->at_ms);
		sqlite3_bind_int64(st, 4, x->expectation.plateau);
		sqlite3_bind_int(st, 5, x->expectation.leaked);
	}
	return run(s, st, "keep what is known of a service", err);
}

int store_service_list(struct store *s, const char *service, int64_t since_ms, struct store_service **ret,
	size_t *ret_n, struct err *err)
{
	_cleanup_stmt_ sqlite3_stmt *st = NULL, *old = NULL;
	_cleanup_free_ struct store_service *list = NULL;
	size_t n = 0, cap = 0;
	int rc = SQLITE_ERROR, r;

	old = prepare(s, "DELETE FROM services WHERE at_ms < ?1");
	if (old)
		sqlite3_bind_int64(old, 1, since_ms);
	r = run(s, old, "forget services", err);
	if (r)
		return r;
	st = prepare(s, "SELECT type, at_ms, plateau, leaked FROM services WHERE service = ?1 ORDER BY type LIMIT 65536");
	if (st)
		bind_text(st, 1, service);
	while (st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		void *bigger = grow(list, n, &cap, sizeof(*list));

		if (!bigger)
			return err_set(err, -ENOMEM, "out of memory");
		list = bigger;
		list[n] = (struct store_service){.at_ms = sqlite3_column_int64(st, 1),
			.expectation = {.plateau = sqlite3_column_int64(st, 2),
				.leaked = sqlite3_column_int(st, 3) != 0}};
		column_text(st, 0, list[n].type, sizeof(list[n].type));
		n++;
	}
	if (rc != SQLITE_DONE)
		return db_error(s, "list what is known of a service", err);
	*ret = TAKE_PTR(list);
	*ret_n = n;
	return 0;
}
