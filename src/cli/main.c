/* The program: one table of subcommands, one file each. */
#include "cli/cli.h"

#include <string.h>

static const struct cli_command commands[] = {
    {"serve", "run a node, in the foreground", cli_serve},
    {"check", "check what serve would use: settings, map, keys, certificate, ports", cli_check},
    {"map", "check a derpMap, show it, compare two, export it for Tailscale or Headscale", cli_map},
    {"keygen", "make a node key or a mesh key", cli_keygen},
    {"follow", "keep a control server's map in step with which nodes live", cli_follow},
    {"probe", "real clients through every pair of regions: latencies, losses", cli_probe},
    {"status", "how the node on this machine is: what is wrong, clients, mesh", cli_status},
    {"health", "whether the node on this machine serves clients: logins, a packet, STUN", cli_health},
    {"drain", "take no new connections and send all clients to other nodes", cli_drain},
    {"undrain", "take connections again", cli_undrain},
    {"reload", "read settings, map, keys, certificate and allow list again", cli_reload},
    {"handover", "give the node's place to a new process: a new version, say", cli_handover},
    {"where", "where a client is, and by which path", cli_where},
    {"kick", "close a client's connections to the node on this machine", cli_kick},
    {"version", "this version, and those of the libraries", cli_version},
};

int main(int argc, char **argv)
{
    if (cli_is_derper(argv[0]))
        return cli_derper(argc, argv);
    if (argc > 1 && strcmp(argv[1], "derper") == 0) /* the same without a link: for tests */
        return cli_derper(argc - 1, argv + 1);
    if (argc == 2 && strcmp(argv[1], "serve") == 0 && cli_derper_env())
        return cli_derper_env_run();
    return cli_dispatch(commands, sizeof(commands) / sizeof(commands[0]), argc, argv);
}
