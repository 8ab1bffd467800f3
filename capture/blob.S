/* SPDX-License-Identifier: MIT */
/* The walker's code (agent/walk.c) inside of the helper. The build's folder is on the include
 * path. */
	.section .rodata
	.globl walk_blob
	.globl walk_blob_end
	.balign 16
walk_blob:
	.incbin "agent/walk.bin"
walk_blob_end:
	.section .note.GNU-stack, "", @progbits
