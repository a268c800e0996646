/* What the subcommands share: choosing one, reading flags, help.
 *
 * How it fails: one line on standard error, with the nearest known name where something is unknown. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/config.h"
#include "node/suggest.h"

enum { FILE_MAX = (4 << 20) + 1, NAMES_MAX = 32 };

/* ---- commands ---- */

static void commands_help(FILE *to, const struct cli_command *commands, size_t n)
{
    fprintf(to, "derpmesh: a mesh of DERP relays for Tailscale's and Headscale's clients\n\n"
                "usage: derpmesh COMMAND [ARGUMENTS]\n\n");
    for (size_t i = 0; i < n; i++)
        fprintf(to, "  %-9s %s\n", commands[i].name, commands[i].help);
    fprintf(to, "\nderpmesh COMMAND --help says more.\n"
                "Exit codes: 0 fine, 1 the answer is no, 2 wrong use, 3 could not run.\n");
}

static const struct cli_command *command_find(const struct cli_command *commands, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static int command_unknown(const struct cli_command *commands, size_t n, const char *name)
{
    const char *names[NAMES_MAX];

    for (size_t i = 0; i < n && i < NAMES_MAX; i++)
        names[i] = commands[i].name;
    const char *near = suggest_nearest(name, names, n < NAMES_MAX ? n : NAMES_MAX);
    fprintf(stderr, "derpmesh: unknown command \"%s\"%s%s%s\n", name, near ? ", did you mean " : "",
            near ? near : "; derpmesh --help lists them", near ? "?" : "");
    return CLI_USAGE;
}

/* An answer that did not reach its file is no answer. */
static int flush_stdout(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    perror("derpmesh: standard output");
    return code ? code : CLI_FAILED;
}

int cli_dispatch(const struct cli_command *commands, size_t n, int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    char help[] = "--help";

    if (argc < 2) {
        commands_help(stderr, commands, n);
        return CLI_USAGE;
    }
    if (strcmp(name, "--version") == 0)
        name = "version";
    bool help_command = strcmp(name, "help") == 0;
    if (strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0 || (help_command && argc == 2)) {
        commands_help(stdout, commands, n);
        return flush_stdout(CLI_OK);
    }
    if (help_command)
        name = argv[2];
    const struct cli_command *c = command_find(commands, n, name);
    if (!c)
        return command_unknown(commands, n, name);
    char *help_argv[] = {argv[help_command ? 2 : 1], help, NULL}; /* "help serve" is "serve --help" */
    return flush_stdout(help_command ? c->run(2, help_argv) : c->run(argc - 1, argv + 1));
}

/* ---- flags ---- */

bool cli_help_asked(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0)
            return true;
    return false;
}

static int flag_unknown(const char *command, const struct cli_flag *flags, size_t n, const char *name)
{
    const char *names[NAMES_MAX];

    for (size_t i = 0; i < n && i < NAMES_MAX; i++)
        names[i] = flags[i].name;
    const char *near = suggest_nearest(name, names, n < NAMES_MAX ? n : NAMES_MAX);
    fprintf(stderr, "derpmesh %s: unknown flag --%s%s%s%s\n", command, name, near ? ", did you mean --" : "",
            near ? near : "", near ? "?" : "");
    return -1;
}

/* The flag at argv[*at], which starts with a dash; *at moves past its value.  0 or -1. */
static int flag_read(const char *command, const struct cli_flag *flags, size_t n, int argc, char **argv,
                     int *at)
{
    const char *name = argv[*at] + 1 + (argv[*at][1] == '-'), *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);

    for (size_t i = 0; i < n; i++) {
        if (argv[*at][1] != '-' || strlen(flags[i].name) != len || memcmp(flags[i].name, name, len) != 0)
            continue;
        if (flags[i].on && !equals) {
            *flags[i].on = true;
            return 0;
        }
        if (flags[i].on)
            fprintf(stderr, "derpmesh %s: --%s takes no value\n", command, flags[i].name);
        else if (equals && equals[1])
            *flags[i].value = equals + 1;
        else if (!equals && *at + 1 < argc && strncmp(argv[*at + 1], "--", 2) != 0)
            *flags[i].value = argv[++*at];
        else
            fprintf(stderr, "derpmesh %s: --%s needs a value\n", command, flags[i].name);
        return flags[i].value && *flags[i].value ? 0 : -1;
    }
    return flag_unknown(command, flags, n, name);
}

int cli_flags(const struct cli_flag *flags, size_t n, int argc, char **argv, const char **operands, int max)
{
    const char *command = argv[0];
    int count = 0;

    for (size_t i = 0; i < n; i++)
        if (flags[i].value)
            *flags[i].value = NULL;
    for (int at = 1; at < argc; at++) {
        if (argv[at][0] == '-' && argv[at][1]) {
            if (flag_read(command, flags, n, argc, argv, &at))
                return -1;
        } else if (count == max) {
            fprintf(stderr, "derpmesh %s: unexpected argument \"%s\"\n", command, argv[at]);
            return -1;
        } else {
            operands[count++] = argv[at];
        }
    }
    return count;
}

/* ---- files ---- */

char *cli_read_file(const char *command, const char *path, size_t *n)
{
    bool in = strcmp(path, "-") == 0;
    FILE *fp = in ? stdin : fopen(path, "rb");
    char *text = fp ? malloc(FILE_MAX) : NULL;
    int err = !fp ? errno : !text ? ENOMEM : 0;

    if (!err) {
        *n = fread(text, 1, FILE_MAX, fp);
        err = ferror(fp) ? errno : 0;
    }
    if (fp && !in)
        fclose(fp);
    if (!err)
        return text;
    fprintf(stderr, "derpmesh %s: cannot read %s: %s\n", command, in ? "standard input" : path,
            strerror(err));
    free(text);
    return NULL;
}

/* ---- settings ---- */

static void on_key_help(void *ctx, const char *key, const char *def, const char *meaning)
{
    char flag[64];

    (void)ctx;
    snprintf(flag, sizeof(flag), "--%s", key);
    for (char *s = flag; *s; s++)
        *s = *s == '_' ? '-' : *s;
    printf("  %-18s %s [%s]\n", flag, meaning, def);
}

void cli_settings_help(void)
{
    printf("  %-18s %s\n", "--config", "YAML file of these settings [/etc/derpmesh/derpmesh.yaml if there]");
    config_keys(on_key_help, NULL);
    printf("\nEach is also a key of the YAML file (key_file for --key-file) and a variable\n"
           "(DERPMESH_KEY_FILE).  A flag wins over a variable, a variable over the file.\n");
}

struct setting {
    const char *key, *def;
};

static void on_key_default(void *ctx, const char *key, const char *def, const char *meaning)
{
    struct setting *s = ctx;

    (void)meaning;
    if (strcmp(key, s->key) == 0)
        s->def = def;
}

const char *cli_setting(const char *key)
{
    struct setting s = {.key = key, .def = ""};
    char variable[64];

    snprintf(variable, sizeof(variable), "DERPMESH_%s", key);
    for (char *c = variable; *c; c++)
        *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c;
    const char *set = getenv(variable);
    if (set && *set)
        return set;
    config_keys(on_key_default, &s);
    return s.def;
}
