/* SPDX-License-Identifier: MIT */
#include "daemon/watch/reader.h"

#include <pthread.h>
#include <sys/eventfd.h>

#include "daemon/util/macros.h"

struct job {
	struct job *next;
	struct blocks_reading *reading;
	void (*done)(void *userdata, const struct blocks_reading *b, int result); /* or NULL */
	void *userdata;
	int result; /* valid once the thread has woken the loop */
	int wake;
};

struct reader {
	int wake;
	sd_event_source *source;
	struct job *jobs; /* the first one is under way, if one is */
	bool running;
	pthread_t thread;
};

static void *work(void *userdata)
{
	struct job *j = userdata;

	j->result = blocks_run(j->reading);
	eventfd_write(j->wake, 1);
	return NULL;
}

static void job_free(struct job *j)
{
	blocks_free(j->reading);
	free(j);
}

/* Tells the one who asked and forgets the first job. */
static void finish_first(struct reader *r)
{
	struct job *j = r->jobs;

	r->jobs = j->next;
	if (j->done)
		j->done(j->userdata, j->reading, j->result);
	job_free(j);
}

/* done() may ask for another one meanwhile. */
static void start_first(struct reader *r)
{
	int k;

	while (r->jobs && !r->running) {
		k = pthread_create(&r->thread, NULL, work, r->jobs);
		r->running = k == 0;
		if (r->running)
			return;
		r->jobs->result = -k;
		finish_first(r);
	}
}

static int on_wake(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct reader *r = userdata;
	eventfd_t n;

	if (eventfd_read(fd, &n) < 0 || !r->running)
		return 0;
	pthread_join(r->thread, NULL);
	r->running = false;
	finish_first(r);
	start_first(r);
	return 0;
}

int reader_new(sd_event *e, struct reader **ret)
{
	struct reader *r = calloc(1, sizeof(*r));
	int k;

	if (!r)
		return -ENOMEM;
	r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	k = r->wake < 0 ? -errno : sd_event_add_io(e, &r->source, r->wake, EPOLLIN, on_wake, r);
	if (k < 0) {
		reader_free(r);
		return k;
	}
	*ret = r;
	return 0;
}

void reader_free(struct reader *r)
{
	if (!r)
		return;
	if (r->running) {
		blocks_cancel(r->jobs->reading);
		pthread_join(r->thread, NULL);
	}
	while (r->jobs) {
		struct job *j = r->jobs;

		r->jobs = j->next;
		job_free(j);
	}
	sd_event_source_disable_unref(r->source);
	closep(&r->wake);
	free(r);
}

int reader_ask(struct reader *r, struct blocks_reading *b,
	void (*done)(void *userdata, const struct blocks_reading *b, int result), void *userdata)
{
	struct job *j = calloc(1, sizeof(*j)), **last = &r->jobs;

	if (!j)
		return -ENOMEM;
	*j = (struct job){.reading = b, .done = done, .userdata = userdata, .wake = r->wake};
	while (*last)
		last = &(*last)->next;
	*last = j;
	start_first(r);
	return 0;
}

void reader_forget(struct reader *r, const void *userdata)
{
	for (struct job *j = r->jobs; j; j = j->next)
		if (j->userdata == userdata && j->done) {
			j->done = NULL;
			blocks_cancel(j->reading);
		}
}
