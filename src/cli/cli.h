/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to cli/: the subcommands. Each takes its own arguments and returns the exit status. */
#ifndef USERKVM_CLI_CLI_H
#define USERKVM_CLI_CLI_H

#define EXIT_USAGE     2
#define EXIT_NOT_EXEC  126 /* found, but cannot be run this way */
#define EXIT_NOT_FOUND 127

int cmd_run(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
/* "userkvm: ..." on standard error; returns status. */
int cli_fail(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
