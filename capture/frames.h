/* SPDX-License-Identifier: MIT */
/*
 * The Python frames of a thread, as they lie in the frozen copy: function, file, line, and what
 * they hold. From 3.11 on the collector does not see them, so they are roots of their own.
 */
#ifndef PYLEAK_CAPTURE_FRAMES_H
#define PYLEAK_CAPTURE_FRAMES_H

#include "capture/view.h"

#define FRAMES_MAX (1u << 17)

struct frame_info {
	uint64_t at;   /* PyFrameObject up to 3.10, else _PyInterpreterFrame */
	uint64_t code; /* code object */
	uint64_t globals, locals, function, object;
	uint64_t slots; /* locals, cells, free variables; then the value stack */
	int64_t n_slots;
	int64_t n_stack; /* -1: not known (a frame that is running) */
	int64_t lasti;   /* bytes into the code */
};

/* Newest first, at most max; how many there are. ts: PyThreadState. */
size_t frames_read(struct view *v, uint64_t ts, struct frame_info *ret, size_t max);

/* Line being executed; 0: not known. */
int frames_line(struct view *v, const struct frame_info *f);

/* What slot i of a frame (or i - n_slots of its value stack) holds: address of an object, 0 if
 * nothing or a borrowed reference that counts for nobody. */
uint64_t frames_slot(struct view *v, const struct frame_info *f, int64_t i);

/* str object with the name of slot i < n_slots, or 0. */
uint64_t frames_slot_name(struct view *v, const struct frame_info *f, int64_t i);

#endif
