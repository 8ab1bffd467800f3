/* SPDX-License-Identifier: MIT */
/* Any bytes as a configuration: no crash, no endless work, and what is taken prints to itself. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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
