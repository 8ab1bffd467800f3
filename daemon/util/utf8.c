/* SPDX-License-Identifier: MIT */
#include "daemon/util/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "daemon/util/macros.h"

size_t utf8_length(const char *text)
{
	const uint8_t *s = (const uint8_t *)text;
	size_t n = s[0] < 0x80                   ? 1
		   : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
		   : (s[0] & 0xf0) == 0xe0       ? 3
		   : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
						 : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
		(s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
		return 0;
	return n;
}

void utf8_clean(char *text)
{
	uint8_t *from = (uint8_t *)text, *to = from;

	while (*from) {
		size_t n = utf8_length((const char *)from);
		bool control = n == 0 || (n == 1 && (*from < 0x20 || *from == 0x7f)) ||
			       (n == 2 && from[0] == 0xc2 && from[1] < 0xa0);

		if (control) {
			*to++ = '?';
			from += MAX(n, (size_t)1);
			continue;
		}
		memmove(to, from, n);
		to += n;
		from += n;
	}
	*to = '\0';
}
