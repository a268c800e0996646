/* The program: one table of subcommands, one file each. */
#include "cli/cli.h"

static const struct cli_command commands[] = {
    {"serve", "run a node, in the foreground", cli_serve},
    {"check", "check what serve would use: settings, map, keys, certificate, ports", cli_check},
    {"map", "check a derpMap, show it, export it for Tailscale or Headscale", cli_map},
    {"keygen", "make a node key or a mesh key", cli_keygen},
    {"probe", "real clients through every pair of regions: latencies, losses", cli_probe},
    {"status", "how the node on this machine is: what is wrong, clients, mesh", cli_status},
    {"where", "where a client is, and by which path", cli_where},
    {"version", "this version, and those of the libraries", cli_version},
};

int main(int argc, char **argv)
{
    return cli_dispatch(commands, sizeof(commands) / sizeof(commands[0]), argc, argv);
}
