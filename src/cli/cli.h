/* The subcommands of the program, and what they share.
 *
 * argv[0] is the subcommand's name, its arguments follow.  Answers go to standard output,
 * complaints to standard error, beginning with "derpmesh COMMAND: ". */
#ifndef DERPMESH_CLI_CLI_H
#define DERPMESH_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>

enum cli_exit {
    CLI_OK = 0,
    CLI_NO = 1,     /* the answer is no */
    CLI_USAGE = 2,  /* wrong use */
    CLI_FAILED = 3, /* could not run */
};

int cli_serve(int argc, char **argv);
int cli_check(int argc, char **argv);
int cli_drain(int argc, char **argv);
int cli_follow(int argc, char **argv);
int cli_handover(int argc, char **argv);
int cli_health(int argc, char **argv);
int cli_keygen(int argc, char **argv);
int cli_kick(int argc, char **argv);
int cli_map(int argc, char **argv);
int cli_probe(int argc, char **argv);
int cli_reload(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_where(int argc, char **argv);
int cli_undrain(int argc, char **argv);
int cli_version(int argc, char **argv);

/* Started under the name derper: its flags, its defaults (derper.c). */
bool cli_is_derper(const char *argv0);
int cli_derper(int argc, char **argv);
/* Whether the environment is that of one of derper's images and no node of ours is set up; derper with what it says
 * (derper_env.c). */
enum { CLI_DERPER_ARGS = 16 };
bool cli_derper_env(void);
int cli_derper_env_run(void);

struct cli_command {
    const char *name;
    const char *help; /* one line */
    int (*run)(int argc, char **argv);
};

/* Runs the command that argv[1] names; the program's exit code. */
int cli_dispatch(const struct cli_command *commands, size_t n, int argc, char **argv);

/* -h or --help is among the arguments. */
bool cli_help_asked(int argc, char **argv);

/* A flag of a small command: on is set if it is there, or value to what follows it (--name VALUE, --name=VALUE). */
struct cli_flag {
    const char *name; /* without dashes */
    bool *on;
    const char **value;
};
/* Sorts the arguments (argv[1] and on) into flags and at most max operands; a lone "-" is an operand.  How many operands there are;
 * -1 after a complaint (CLI_USAGE). */
int cli_flags(const struct cli_flag *flags, size_t n, int argc, char **argv, const char **operands, int max);

/* A map or what goes with one, malloc'd, *n bytes: at most one more than a map may have, so that the parser sees that it is too
 * long.  path - is standard input.  NULL after a complaint. */
char *cli_read_file(const char *command, const char *path, size_t *n);

/* The table of settings that serve and check take, for --help. */
void cli_settings_help(void);
/* The default of a setting as its table says, or what DERPMESH_<KEY> says instead.  Never NULL. */
const char *cli_setting(const char *key);

#endif
