/* SPDX-License-Identifier: MIT */
/* Any bytes as a configuration, or as the benign.yaml beside one: no crash, no endless work, and what is taken
 * prints to itself. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/config/config.h"
#include "daemon/util/macros.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Loads bytes through a file without a name; the folder beside it never exists. */
static struct config *load(const void *data, size_t size, FILE *diag)
{
	_cleanup_close_ int fd = memfd_create("config", MFD_CLOEXEC);
	struct config *c = NULL;
	struct err err;
	char path[64];

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return config_load(path, diag, &c, &err) ? NULL : c;
}

static char dir[64];

static void remove_dir(void)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/benign.yaml", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/main.yaml", dir);
	unlink(path);
	rmdir(dir);
}

static void write_in(const char *name, const void *data, size_t size)
{
	char path[96];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "we");
	if (!f || fwrite(data, 1, size, f) != size || fclose(f))
		abort();
}

/* The same beside an empty configuration. */
static void load_benign(const void *data, size_t size, FILE *diag)
{
	_cleanup_(config_freep) struct config *c = NULL;
	struct err err;
	char path[96];

	if (!dir[0]) {
		strcpy(dir, "/tmp/fuzz_config.XXXXXX");
		if (!mkdtemp(dir))
			abort();
		atexit(remove_dir);
		write_in("main.yaml", "", 0);
	}
	write_in("benign.yaml", data, size);
	snprintf(path, sizeof(path), "%s/main.yaml", dir);
	if (config_load(path, diag, &c, &err))
		return;
	for (size_t i = 0; i < c->n_suppress; i++)
		if (!c->suppress[i].benign || !c->suppress[i].up_to)
			abort(); /* it hides without end */
}

static char *print(const struct config *c, size_t *ret_size)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, ret_size);

	if (!f || config_print(c, f) || fclose(f))
		abort();
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(config_freep) struct config *c = NULL, *again = NULL;
	_cleanup_free_ char *diag = NULL, *once = NULL, *twice = NULL;
	size_t n_diag, n_once, n_twice;
	FILE *f = open_memstream(&diag, &n_diag);

	if (!f)
		abort();
	c = load(data, size, f);
	load_benign(data, size, f);
	fclose(f);
	for (size_t i = 0; i < n_diag; i++)
		if (((unsigned char)diag[i] < 0x20 && diag[i] != '\n') || diag[i] == 0x7f)
			abort(); /* a terminal would act on it */
	if (!c)
		return n_diag ? 0 : -1;
	once = print(c, &n_once);
	again = load(once, n_once, NULL);
	if (!again)
		abort();
	twice = print(again, &n_twice);
	if (n_once != n_twice || memcmp(once, twice, n_once))
		abort();
	return 0;
}
