/* SPDX-License-Identifier: MIT */
/*
 * pyleak-explain ask VERB [OPTION]... NAME...: pyleakctl's questions to snapshots. With the verb
 * "picture" what is open is a graph (DOT), and --format says how it is drawn.
 *
 * The descriptors say what goes where: the answer as JSON to 3, what --format asks for to 4 (a
 * file), the snapshots that NAMEs name from 5 on. Progress goes to standard output, one line each.
 */
#ifndef PYLEAK_GRAPH_ASK_MAIN_H
#define PYLEAK_GRAPH_ASK_MAIN_H

#define ASK_ANSWER_FD   3
#define ASK_OUTPUT_FD   4
#define ASK_SNAPSHOT_FD 5

/* argv begins with "ask". An exit code of control.h. */
int ask_main(int argc, char **argv);

#endif
