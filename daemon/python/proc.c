/* SPDX-License-Identifier: MIT */
#include "daemon/python/proc.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "daemon/util/units.h"

#define MAPS_MAX    65536
#define ENVIRON_MAX (4u << 20)

static char root_path[4096] = "/proc";

void proc_set_root(const char *path)
{
	snprintf(root_path, sizeof(root_path), "%s", path);
}

const char *proc_root(void)
{
	return root_path;
}

static int open_at(pid_t pid, const char *name, int flags)
{
	char path[sizeof(root_path) + 64];
	int fd;

	snprintf(path, sizeof(path), "%s/%d/%s", root_path, (int)pid, name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? -ESRCH : -errno;
	return fd;
}

/* At most n - 1 bytes of /proc/PID/name, terminated; number of bytes. A process that exits while
 * it is read gives ESRCH from read(). */
static ssize_t read_at(pid_t pid, const char *name, char *buf, size_t n)
{
	_cleanup_close_ int fd = open_at(pid, name, O_RDONLY);
	size_t done = 0;

	if (fd < 0)
		return fd;
	while (done < n - 1) {
		ssize_t r = read(fd, buf + done, n - 1 - done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		done += (size_t)r;
	}
	buf[done] = '\0';
	return (ssize_t)done;
}

static void read_link(pid_t pid, const char *name, char *buf, size_t n)
{
	char path[sizeof(root_path) + 64];
	ssize_t r;

	snprintf(path, sizeof(path), "%s/%d/%s", root_path, (int)pid, name);
	r = readlink(path, buf, n - 1);
	buf[r > 0 ? r : 0] = '\0';
}

struct stat_line {
	char comm[16];
	char state;
	uint64_t utime, stime, start;
	int64_t threads;
};

static int read_stat(pid_t pid, struct stat_line *ret)
{
	char buf[1024], *open_paren, *close_paren;
	ssize_t n;
	int got;

	if (pid <= 0)
		return -ESRCH;
	n = read_at(pid, "stat", buf, sizeof(buf));
	if (n < 0)
		return (int)n;
	/* comm may hold anything, ')' and newlines included: the last ')' ends it */
	open_paren = strchr(buf, '(');
	close_paren = strrchr(buf, ')');
	if (!open_paren || !close_paren || close_paren < open_paren)
		return n == 0 ? -ESRCH : -EPROTO;
	*close_paren = '\0';
	snprintf(ret->comm, sizeof(ret->comm), "%s", open_paren + 1);
	got = sscanf(close_paren + 1,
		" %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64
		" %*d %*d %*d %*d %" SCNd64 " %*d %" SCNu64,
		&ret->state, &ret->utime, &ret->stime, &ret->threads, &ret->start);
	return got == 5 ? 0 : -EPROTO;
}

int proc_id_get(pid_t pid, struct proc_id *ret)
{
	struct stat_line s;
	int r = read_stat(pid, &s);

	if (r < 0)
		return r;
	*ret = (struct proc_id){.pid = pid, .start_ticks = s.start};
	return 0;
}

bool proc_id_alive(const struct proc_id *id)
{
	struct stat_line s;

	return read_stat(id->pid, &s) == 0 && s.start == id->start_ticks && s.state != 'Z' &&
	       s.state != 'X';
}

static bool status_field(const char *text, const char *key, long *ret)
{
	size_t n = strlen(key);

	for (const char *p = text; p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
		if (strncmp(p, key, n) == 0 && p[n] == ':') {
			char *end;

			*ret = strtol(p + n + 1, &end, 10);
			return end != p + n + 1;
		}
	return false;
}

/* "Uid:\treal\teffective\tsaved\tfs" */
static bool status_effective(const char *text, const char *key, unsigned *ret)
{
	const char *p = strstr(text, key);

	return p && (p == text || p[-1] == '\n') && sscanf(p + strlen(key), " %*u %u", ret) == 1;
}

static void read_status(struct proc_info *i)
{
	char buf[8192];
	unsigned v;
	long n;

	if (read_at(i->id.pid, "status", buf, sizeof(buf)) < 0)
		return;
	if (status_effective(buf, "Uid:", &v))
		i->uid = v;
	if (status_effective(buf, "Gid:", &v))
		i->gid = v;
	if (status_field(buf, "TracerPid", &n))
		i->tracer = (pid_t)n;
	if (status_field(buf, "Seccomp", &n))
		i->seccomp_mode = (int)n;
}

static void read_cmdline(struct proc_info *i)
{
	ssize_t n = read_at(i->id.pid, "cmdline", i->cmdline, sizeof(i->cmdline));

	if (n < 0)
		n = 0;
	while (n > 0 && i->cmdline[n - 1] == '\0')
		n--;
	for (ssize_t k = 0; k < n; k++)
		if (i->cmdline[k] == '\0')
			i->cmdline[k] = ' ';
	i->cmdline[n] = '\0';
}

static bool ends_with(const char *s, size_t n, const char *suffix)
{
	size_t m = strlen(suffix);

	return n > m && memcmp(s + n - m, suffix, m) == 0;
}

/* The innermost service of the systemd hierarchy (or of the only one, cgroup v2), else scope. */
static void read_unit(struct proc_info *i)
{
	char buf[8192];
	bool service = false;

	if (read_at(i->id.pid, "cgroup", buf, sizeof(buf)) < 0)
		return;
	for (char *save = NULL, *line = strtok_r(buf, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "0::", 3) != 0 && !strstr(line, ":name=systemd:"))
			continue;
		for (char *c = strchr(line, '/'); c; c = strchr(c, '/')) {
			size_t n = strcspn(++c, "/");

			if (!ends_with(c, n, ".service") && (service || !ends_with(c, n, ".scope")))
				continue;
			service = ends_with(c, n, ".service");
			snprintf(i->unit, sizeof(i->unit), "%.*s", (int)MIN(n, (size_t)4096), c);
		}
	}
}

static void read_user(struct proc_info *i)
{
	struct passwd pw, *found = NULL;
	char buf[4096];

	snprintf(i->user, sizeof(i->user), "%u", (unsigned)i->uid);
	if (getpwuid_r(i->uid, &pw, buf, sizeof(buf), &found) == 0 && found)
		snprintf(i->user, sizeof(i->user), "%s", found->pw_name);
}

static bool environ_opts_out(pid_t pid)
{
	static const char want[] = "PYLEAK=off";
	_cleanup_close_ int fd = open_at(pid, "environ", O_RDONLY);
	char var[sizeof(want) + 1];
	size_t n = 0, total = 0;

	if (fd < 0)
		return false;
	for (;;) {
		char buf[4096];
		ssize_t r = read(fd, buf, sizeof(buf));

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0 || (total += (size_t)r) > ENVIRON_MAX)
			break;
		for (ssize_t k = 0; k < r; k++) {
			if (buf[k] != '\0') {
				if (n < sizeof(var))
					var[n++] = buf[k];
				continue;
			}
			if (n == sizeof(want) - 1 && memcmp(var, want, n) == 0)
				return true;
			n = 0;
		}
	}
	return n == sizeof(want) - 1 && memcmp(var, want, n) == 0;
}

static uint64_t start_realtime_ms(uint64_t start_ticks, uint64_t hz)
{
	struct timespec boot;
	int64_t up_ms, age_ms;

	clock_gettime(CLOCK_BOOTTIME, &boot);
	up_ms = (int64_t)boot.tv_sec * 1000 + boot.tv_nsec / 1000000;
	age_ms = up_ms - (int64_t)(start_ticks / hz * 1000 + start_ticks % hz * 1000 / hz);
	return (uint64_t)(now_realtime_ms() - age_ms);
}

static uint64_t cpu_ns(const struct stat_line *s)
{
	return (s->utime + s->stime) * (1000000000 / (uint64_t)sysconf(_SC_CLK_TCK));
}

static void read_rss(struct proc_info *i)
{
	uint64_t rss;
	char buf[256];

	if (read_at(i->id.pid, "statm", buf, sizeof(buf)) > 0 &&
		sscanf(buf, "%*u %" SCNu64, &rss) == 1)
		i->rss_bytes = rss * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Since Linux 6.2 the size of the folder: counting its entries would cost as much as there are. */
static void read_files(struct proc_info *i)
{
	char path[sizeof(root_path) + 64];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%d/fd", root_path, (int)i->id.pid);
	i->files = stat(path, &st) == 0 && st.st_size > 0 ? (int64_t)st.st_size : -1;
}

int proc_info_get(pid_t pid, struct proc_info *ret, struct err *err)
{
	uint64_t hz = (uint64_t)sysconf(_SC_CLK_TCK);
	struct proc_info i = {.seccomp_mode = -1};
	struct stat_line s;
	int r;

	r = read_stat(pid, &s);
	if (r == -ESRCH)
		return err_set(err, r, "pid %d: no such process", (int)pid);
	if (r < 0)
		return err_set(err, r, "pid %d: cannot read its /proc/PID/stat: %s", (int)pid,
			strerror(-r));
	i.id = (struct proc_id){.pid = pid, .start_ticks = s.start};
	snprintf(i.comm, sizeof(i.comm), "%s", s.comm);
	i.state = s.state;
	i.cpu_ns = cpu_ns(&s);
	i.threads = s.threads;
	i.start_realtime_ms = start_realtime_ms(s.start, hz);
	read_status(&i);
	read_link(pid, "exe", i.exe, sizeof(i.exe));
	read_cmdline(&i);
	read_user(&i);
	read_unit(&i);
	read_rss(&i);
	read_files(&i);
	i.opted_out = environ_opts_out(pid);
	*ret = i;
	return 0;
}

int64_t proc_swapped(pid_t pid)
{
	const char *line;
	char buf[8192];
	int64_t kib;

	if (read_at(pid, "status", buf, sizeof(buf)) < 0)
		return -1;
	line = strstr(buf, "\nVmSwap:");
	return line && sscanf(line, "\nVmSwap: %" SCNd64, &kib) == 1 ? kib * 1024 : -1;
}

int proc_info_update(struct proc_info *i)
{
	struct proc_info now = *i;
	struct stat_line s;
	int r = read_stat(i->id.pid, &s);

	if (r == 0 && s.start != i->id.start_ticks)
		r = -ESRCH;
	if (r < 0)
		return r;
	now.state = s.state;
	now.cpu_ns = cpu_ns(&s);
	now.threads = s.threads;
	read_status(&now);
	read_rss(&now);
	read_files(&now);
	*i = now;
	return 0;
}

/* The kernel writes a newline in a path as \012 and nothing else specially. */
static void copy_path(char *to, size_t n, const char *from)
{
	size_t k = 0;

	while (*from && *from != '\n' && k < n - 1) {
		if (strncmp(from, "\\012", 4) == 0) {
			to[k++] = '\n';
			from += 4;
		} else {
			to[k++] = *from++;
		}
	}
	to[k] = '\0';
}

static bool parse_map(const char *line, struct proc_map *m)
{
	int at = 0;

	memset(m, 0, sizeof(*m));
	if (sscanf(line,
		    "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %" SCNx32 ":%" SCNx32 " %" SCNu64 "%n",
		    &m->start, &m->end, m->perm, &m->offset, &m->dev_major, &m->dev_minor,
		    &m->inode, &at) != 7 ||
		at == 0 || m->end <= m->start)
		return false;
	while (line[at] == ' ')
		at++;
	copy_path(m->path, sizeof(m->path), line + at);
	return true;
}

/* Calls f for each mapping until it returns false. */
static int each_map(pid_t pid, bool (*f)(const struct proc_map *m, void *arg), void *arg)
{
	_cleanup_fclose_ FILE *in = NULL;
	_cleanup_free_ char *line = NULL;
	size_t cap = 0;
	int fd = open_at(pid, "maps", O_RDONLY);

	if (fd < 0)
		return fd;
	in = fdopen(fd, "r");
	if (!in) {
		close(fd);
		return -ENOMEM;
	}
	for (;;) {
		struct proc_map m;

		errno = 0;
		if (getline(&line, &cap, in) < 0)
			return -errno;
		if (parse_map(line, &m) && !f(&m, arg))
			return 0;
	}
}

struct maps_list {
	struct proc_maps m;
	size_t cap;
	bool nomem;
};

static bool keep_map(const struct proc_map *m, void *arg)
{
	struct maps_list *l = arg;

	if (l->m.n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct proc_map *v = realloc(l->m.v, cap * sizeof(*v));

		l->nomem = !v;
		if (!v)
			return false;
		l->m.v = v;
		l->cap = cap;
	}
	l->m.v[l->m.n++] = *m;
	return l->m.n < MAPS_MAX;
}

int proc_maps_read(pid_t pid, struct proc_maps *ret, struct err *err)
{
	struct maps_list l = {0};
	int r = pid > 0 ? each_map(pid, keep_map, &l) : -ESRCH;

	if (r == 0 && l.nomem)
		r = -ENOMEM;
	if (r < 0) {
		free(l.m.v);
		if (r == -ESRCH)
			return err_set(err, r, "pid %d: no such process", (int)pid);
		if (r == -EACCES || r == -EPERM)
			return err_set(err, r,
				"pid %d: not allowed to read its memory map; CAP_SYS_PTRACE is "
				"needed",
				(int)pid);
		return err_set(
			err, r, "pid %d: cannot read its memory map: %s", (int)pid, strerror(-r));
	}
	*ret = l.m;
	return 0;
}

void proc_maps_release(struct proc_maps *m)
{
	free(m->v);
	*m = (struct proc_maps){0};
}

const struct proc_map *proc_maps_find(const struct proc_maps *m, uint64_t addr)
{
	size_t lo = 0, hi = m->n;

	/* the kernel lists them in the order of their addresses */
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (addr >= m->v[mid].end)
			lo = mid + 1;
		else if (addr < m->v[mid].start)
			hi = mid;
		else
			return &m->v[mid];
	}
	return NULL;
}

/* From an O_PATH descriptor to one that reads, once it is known to be a plain file: opening a
 * device because somebody maps it would have side effects. */
static int reopen_file(int path_fd)
{
	char path[64];
	struct stat st;
	int fd;

	if (fstat(path_fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static bool same_file(int fd, const struct proc_map *m)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (uint64_t)st.st_ino == m->inode &&
	       (uint64_t)st.st_size > m->offset;
}

static int open_in_root(pid_t pid, const char *path)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	_cleanup_close_ int root = open_at(pid, "root", O_PATH | O_DIRECTORY);
	long fd;

	if (root < 0)
		return root;
	/* the target's own links must not lead into our root */
	fd = syscall(SYS_openat2, root, path, &how, sizeof(how));
	return fd < 0 ? -errno : (int)fd;
}

int proc_map_open(pid_t pid, const struct proc_map *m, struct err *err)
{
	_cleanup_close_ int by_map = -1, by_exe = -1, by_path = -1;
	char name[64];
	int r;

	if (m->inode == 0 || m->path[0] != '/')
		return err_set(err, -EINVAL, "pid %d: mapping at %" PRIx64 " has no file", (int)pid,
			m->start);
	snprintf(name, sizeof(name), "map_files/%" PRIx64 "-%" PRIx64, m->start, m->end);
	by_map = open_at(pid, name, O_PATH);
	r = by_map < 0 ? by_map : reopen_file(by_map);
	if (r >= 0)
		return r;

	/* without CAP_CHECKPOINT_RESTORE; exe still works for a deleted program */
	by_exe = open_at(pid, "exe", O_PATH);
	if (by_exe >= 0 && same_file(by_exe, m)) {
		r = reopen_file(by_exe);
		if (r >= 0)
			return r;
	}
	by_path = open_in_root(pid, m->path);
	if (by_path < 0)
		return err_set(err, by_path == -ENOENT ? -ESTALE : by_path,
			"pid %d: cannot open %s: %s; CAP_CHECKPOINT_RESTORE and "
			"CAP_DAC_READ_SEARCH open what is deleted or private",
			(int)pid, m->path, strerror(-by_path));
	if (!same_file(by_path, m))
		return err_set(err, -ESTALE,
			"pid %d: %s was replaced since it was loaded; CAP_CHECKPOINT_RESTORE opens "
			"the old file",
			(int)pid, m->path);
	r = reopen_file(by_path);
	if (r < 0)
		return err_set(
			err, r, "pid %d: cannot open %s: %s", (int)pid, m->path, strerror(-r));
	return r;
}

int proc_list(size_t max, pid_t **ret, size_t *ret_n)
{
	_cleanup_free_ pid_t *v = NULL;
	size_t n = 0, cap = 0;
	struct dirent *d;
	DIR *dir;

	dir = opendir(root_path);
	if (!dir)
		return -errno;
	while (n < max && (d = readdir(dir))) {
		char *end;
		long pid;

		if (!isdigit((unsigned char)d->d_name[0]))
			continue;
		errno = 0;
		pid = strtol(d->d_name, &end, 10);
		if (*end || errno || pid <= 0 || pid > INT32_MAX)
			continue;
		if (n == cap) {
			pid_t *bigger = realloc(v, (cap ? cap * 2 : 256) * sizeof(*v));

			if (!bigger) {
				closedir(dir);
				return -ENOMEM;
			}
			v = bigger;
			cap = cap ? cap * 2 : 256;
		}
		v[n++] = (pid_t)pid;
	}
	closedir(dir);
	*ret = TAKE_PTR(v);
	*ret_n = n;
	return 0;
}
