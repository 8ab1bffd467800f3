/* SPDX-License-Identifier: MIT */
#include <bpf/libbpf.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "daemon/probe/probe_private.h"

#define CLOSERS_MAX   128
#define CLOSERS_STACK (128 * 1024)

static int links_add(struct links *l, struct bpf_link *link)
{
	struct bpf_link **bigger = reallocarray(l->v, l->n + 1, sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	l->v = bigger;
	l->v[l->n++] = link;
	return 0;
}

/* Attaches one, and keeps it. */
static int links_take(struct links *l, struct bpf_link *link)
{
	int r = link ? links_add(l, link) : -errno;

	if (r)
		bpf_link__destroy(link);
	return r;
}

int links_attach(struct probe *p, struct bpf_program *prog, pid_t pid, const char *path,
	const unsigned long *offsets, const __u64 *cookies, size_t n, struct links *l)
{
	LIBBPF_OPTS(bpf_uprobe_multi_opts, multi, .offsets = offsets, .cookies = cookies, .cnt = n);
	LIBBPF_OPTS(bpf_uprobe_opts, single, .attach_mode = PROBE_ATTACH_MODE_LINK);
	int r = 0;

	if (!n)
		return 0;
	if (!p->perf)
		return links_take(
			l, bpf_program__attach_uprobe_multi(prog, pid, path, NULL, &multi));
	for (size_t i = 0; i < n && !r; i++) {
		single.bpf_cookie = cookies[i];
		r = links_take(
			l, bpf_program__attach_uprobe_opts(prog, pid, path, offsets[i], &single));
	}
	return r;
}

/* ---- detaching ---- */

struct closing {
	struct bpf_link **v;
	size_t n, next;
};

static void *close_some(void *userdata)
{
	struct closing *c = userdata;
	size_t i;

	while ((i = __atomic_fetch_add(&c->next, 1, __ATOMIC_RELAXED)) < c->n)
		bpf_link__destroy(c->v[i]);
	return NULL;
}

void links_release(struct links *l)
{
	struct closing c = {.v = l->v, .n = l->n};
	pthread_t threads[CLOSERS_MAX];
	pthread_attr_t attr;
	size_t n = 0;

	/*
	 * With threads, because to close a link is to wait for the kernel (a grace period of some
	 * 20 to 40 ms, kernel/events/uprobes.c uprobe_unregister_sync()), and those who wait at the
	 * same time wait for the same one.
	 */
	if (l->n > 1 && pthread_attr_init(&attr) == 0) {
		pthread_attr_setstacksize(&attr, CLOSERS_STACK);
		while (n < CLOSERS_MAX && n + 1 < l->n &&
			pthread_create(&threads[n], &attr, close_some, &c) == 0)
			n++;
		pthread_attr_destroy(&attr);
	}
	close_some(&c);
	while (n)
		pthread_join(threads[--n], NULL);
	free(l->v);
	*l = (struct links){0};
}

/* ---- in the background ---- */

struct closers {
	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned n;
	uint64_t took_ns; /* CPU time of those who closed last, about; 0: none has */
};

struct closer {
	struct closers *all;
	struct links links;
	bool *busy;
};

int closers_new(struct closers **ret)
{
	struct closers *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->idle, NULL);
	*ret = c;
	return 0;
}

void closers_free(struct closers *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	while (c->n)
		pthread_cond_wait(&c->idle, &c->lock);
	pthread_mutex_unlock(&c->lock);
	pthread_cond_destroy(&c->idle);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static void *close_later(void *userdata)
{
	struct closer *c = userdata;
	struct closers *all = c->all;
	struct timespec took = {0};
	size_t n = c->links.n; /* about as many threads: this one, and some that do the same */

	links_release(&c->links);
	if (c->busy)
		__atomic_store_n(c->busy, false, __ATOMIC_SEQ_CST);
	free(c);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &took);
	pthread_mutex_lock(&all->lock);
	all->took_ns = ((uint64_t)took.tv_sec * 1000000000 + (uint64_t)took.tv_nsec) * n;
	if (--all->n == 0)
		pthread_cond_signal(&all->idle);
	pthread_mutex_unlock(&all->lock);
	return NULL;
}

uint64_t closers_took_ns(struct closers *c)
{
	uint64_t took_ns;

	pthread_mutex_lock(&c->lock);
	took_ns = c->took_ns;
	pthread_mutex_unlock(&c->lock);
	return took_ns;
}

void links_release_later(struct probe *p, struct links *l, bool *busy)
{
	struct closers *all = p->closers;
	struct closer *c = malloc(sizeof(*c));
	pthread_attr_t attr;
	pthread_t thread;
	int r = -1;

	if (c && l->n && pthread_attr_init(&attr) == 0) {
		*c = (struct closer){all, *l, busy};
		if (busy)
			*busy = true;
		pthread_attr_setstacksize(&attr, CLOSERS_STACK);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		pthread_mutex_lock(&all->lock);
		all->n++;
		pthread_mutex_unlock(&all->lock);
		r = pthread_create(&thread, &attr, close_later, c);
		pthread_attr_destroy(&attr);
		if (r) {
			pthread_mutex_lock(&all->lock);
			all->n--;
			pthread_mutex_unlock(&all->lock);
		}
	}
	if (r) {
		free(c);
		links_release(l);
		if (busy)
			*busy = false;
	}
	*l = (struct links){0};
}

int links_move(struct links *to, struct links *from)
{
	struct bpf_link **bigger;

	if (!from->n)
		return 0;
	bigger = reallocarray(to->v, to->n + from->n, sizeof(*bigger));
	if (!bigger)
		return -ENOMEM;
	memcpy(bigger + to->n, from->v, from->n * sizeof(*bigger));
	to->v = bigger;
	to->n += from->n;
	free(from->v);
	*from = (struct links){0};
	return 0;
}
