#!/usr/bin/env python3
"""Reads every #include of src/ and fails on an arrow that the rooms do not have (docs/architecture.md).

Rooms: cli -> node -> mesh -> proto, downwards only.  proto and mesh are pure: of the system they may
include what stands in PURE_SYSTEM, and they call no clock, socket, file or stream.  Inside node the arrows
are those of NODE: a file that is not in the table is a fault, so that a new one gets its place on
purpose.  Private headers stay in the group of files that owns them, headers include each other without a circle.

usage: check_includes.py [--self-test] [ROOT]
exit: 0 clean, 1 faults (one line each: file:line: what is wrong), 2 wrong use
"""
import os
import re
import shutil
import sys
import tempfile

ROOMS = {  # room: the rooms that it may include
    "proto": {"proto"},
    "mesh": {"mesh", "proto"},
    "node": {"node", "mesh", "proto"},
    "cli": {"cli", "node", "mesh", "proto"},
}

# System headers of the pure rooms: the language, byte order, and libraries that only compute.
STANDARD = {
    "ctype.h", "errno.h", "float.h", "inttypes.h", "limits.h", "math.h", "stdarg.h", "stdbool.h", "stddef.h",
    "stdint.h", "stdio.h", "stdlib.h", "string.h", "strings.h", "sodium.h", "assert.h",
}
PURE_SYSTEM = {
    "proto": STANDARD | {"arpa/inet.h", "endian.h", "jansson.h", "msgpack.h", "wslay/wslay.h", "yaml.h"},
    "mesh": STANDARD | {"arpa/inet.h", "endian.h", "msgpack.h"},
}
# What the pure rooms must not call, whichever header brings it.
IMPURE_CALLS = re.compile(
    r"(?<![\w.>])(time|clock|clock_gettime|gettimeofday|localtime\w*|gmtime\w*|sleep|usleep|nanosleep"
    r"|socket|connect|bind|listen|accept4?|recv|recvfrom|send|sendto|getaddrinfo"
    r"|open|openat|fopen|read|write|printf|vprintf|puts|putchar|perror|getenv|exit|abort|uv_\w+)\s*\("
)
# A declaration or an own function of that name is no call of the system's.
OWN_FUNCTION = re.compile(r"^\s*(static|struct|int|void|bool|size_t|ssize_t|uint\d+_t|const)\b[^;=]*$")

# Groups of files in node that count as one.
GROUPS = {
    "config": {"config", "config_admission", "config_keys", "config_parts", "config_values", "config_yaml"},
    "keystore": {"keystore", "keystore_file"},
    "tls": {"tls_ctx", "tls_client", "tls_common", "tls_cert", "tls_make", "tls_dir", "tls_sni"},
    "control": {"control", "mesh_io", "admit_io"},
    "allow": {"allow", "allow_watch"},
    "relay": {"relay", "relay_busy", "relay_derper", "relay_node", "relay_parts"},
    "server": {"server", "server_check", "server_log", "server_parts"},
    "stream": {"stream", "stream_io", "stream_out", "stream_parts", "stream_path", "stream_turn", "stream_ws"},
}
# Open to all of node but the leaves.
OPEN = {"config", "log"}
# Leaves include nothing of node but what the table grants them, not even OPEN.
LEAVES = {"log", "suggest", "buf", "refuse", "reserve", "sendq", "wheel", "heard", "pause", "rate", "resume", "stats", "http", "systemd", "inherited", "handover", "oneshot", "clients", "tcp_info"}
# The arrows inside node, upwards from the bottom.  "X.h" grants to the header alone, "X.c" to the
# source alone, "X" to both.
NODE = {
    # leaves
    "log": set(),
    "suggest": set(),
    "buf": {"reserve"},
    "reserve": set(),
    "refuse": set(),
    "stats": set(),
    "rate": set(),
    "http": set(),
    "systemd": set(),
    "inherited": set(),
    "handover": {"inherited"},
    "oneshot": set(),
    "clients": set(),
    "tcp_info": set(),
    "sendq": {"buf", "reserve"},
    "heard": {"conn"},
    "pause": {"conn"},
    "wheel": {"conn"},
    "resume": {"conn"},
    "proxied": {"conn"},
    # settings, keys, names, certificates
    "config": {"rate", "suggest"},
    "keystore": set(),
    "listen": {"inherited"},
    "resolve": set(),
    "tls": set(),
    "site": {"allow", "keystore", "listen", "tls"},
    # a connection and the hot path
    "stream": {"buf", "reserve", "sendq", "stats", "tcp_info", "tls"},
    "conn": {"pause", "rate", "resume", "stream"},
    "inbox": {"conn", "reserve", "site"},
    "limits": {"conn"},
    # who may use the node
    "allow": set(),
    "admission": {"conn"},
    "verify_url": {"admission", "conn"},
    "verify_socket": {"verify_url"},
    "relay": {"conn", "heard", "inbox", "stats", "tcp_info"},
    "stun_udp": {"stats"},
    # a worker: the header is what its connections stand on, the source is above them
    "worker.h": {"conn", "inbox", "link_watch", "pause", "refuse", "relay", "site", "stats", "stun_udp", "wheel"},
    # pages made at the moment, under the name derper
    "bootstrap": set(),
    "varz": {"bootstrap", "stats", "worker"},
    "pages": {"bootstrap", "http", "stream", "varz", "worker"},
    "worker.c": {"derper_watch", "gate", "http", "limits", "link_io", "session", "stream"},
    "session": {"derper_watch", "gate", "http", "limits", "link_io", "login", "pages", "proxied", "refuse", "reserve", "stream", "worker"},
    "login.h": set(),
    "login.c": {"limits", "session", "stream", "worker"},
    "derper_peer": {"inbox", "relay", "site", "stats", "stream", "worker"},
    "gate": {"http", "limits", "session", "stream", "stun_udp", "worker"},
    "derper_watch": {"inbox", "relay", "session", "site", "stats", "stream", "worker"},
    "link_watch.h": set(),
    "link_watch.c": {"conn", "tcp_info"},
    "link_io": {"derper_peer", "tcp_info", "link_watch", "login", "resolve", "session", "stream", "tls", "worker"},
    # the control thread: reaches workers by their inboxes only
    "control": {"admission", "allow", "bootstrap", "clients", "varz", "inbox", "keystore", "limits", "listen", "site", "stats", "tcp_info", "verify_socket",
                "verify_url", "worker"},
    "status": {"control", "limits", "site", "stats", "worker"},
    "reload": {"control", "limits", "site", "systemd", "worker"},
    "cert_watch": {"control", "site", "status", "tls"},
    "acme": {"control", "listen", "site", "tls"},
    "health": {"control", "listen", "site", "status"},
    "admin": {"control", "health", "oneshot", "reload", "status"},
    "metrics": {"control", "oneshot", "stats", "status", "varz", "worker"},
    "server": {"acme", "admin", "allow", "bootstrap", "cert_watch", "control", "varz", "handover", "inbox", "inherited", "keystore", "limits", "listen",
               "metrics", "reload", "reserve", "site", "stats", "status", "systemd", "tcp_info", "tls", "verify_url", "worker"},
    # a client of our own, for probe
    "derp_client": {"http", "resolve", "stream", "tls"},
}
# What stands between mesh and node: the mesh itself, and the tables that workers read.
MESH_DOORS = {"mesh", "routes", "keymap"}
# The three tables know nothing of the rest of the mesh.
MESH = {"routes": {"keymap", "nodemap"}, "keymap": set(), "nodemap": set()}
# Subcommands see a node from outside, not its threads; probe is a client on a stream of its own.
CLI_CLOSED = {"acme", "admin", "derper_peer", "derper_watch", "gate", "buf", "cert_watch", "clients", "conn", "control", "health", "heard", "inbox", "limits", "link_io", "login", "metrics",
              "oneshot", "relay", "reload", "sendq", "session", "status", "wheel", "worker"}
# Headers for the files of one room (_internal) or of one group (the others) alone.
PRIVATE = re.compile(r"^(\w+?)_(internal|parts|common)\.h$")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def group_of(stem):
    for name, members in GROUPS.items():
        if stem in members:
            return name
    return stem


def strip(text):
    """The text without comments and the insides of strings, line for line."""
    def blank(match):
        found = match.group(0)
        return '""' if found[0] == '"' else "' '" if found[0] == "'" else re.sub(r"[^\n]", " ", found)
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def node_fault(name, target):
    """Why file `name` of node must not include header `target` of node; None if it may."""
    stem, ext = os.path.splitext(name)
    own, other = group_of(stem), group_of(os.path.splitext(target)[0])
    if own == other:
        return None
    if own not in NODE and own + ext not in NODE:
        return "node/%s has no place in the table NODE of tests/check_includes.py" % own
    granted = NODE.get(own, set()) | NODE.get(own + ext, set())
    if ext == ".c":  # a source may use whatever its header may
        granted |= NODE.get(own + ".h", set())
    if own not in LEAVES:
        granted |= OPEN
    if other in granted:
        return None
    return "no arrow node/%s -> node/%s (it has: %s)" % (own, other, ", ".join(sorted(granted)) or "none")


def include_fault(room, name, quote, target, root):
    """Why src/ROOM/NAME must not include `target`; None if it may."""
    if quote == "<":
        if room in PURE_SYSTEM and target not in PURE_SYSTEM[room]:
            return "%s is pure: <%s> is not among what it may include" % (room, target)
        return None
    parts = target.split("/")
    if len(parts) != 2 or parts[0] not in ROOMS:
        return '"%s": an include names its room, as in "proto/key.h"' % target
    other, header = parts
    if not os.path.isfile(os.path.join(root, "src", other, header)):
        return '"%s" does not exist' % target
    if other not in ROOMS[room]:
        return "no arrow %s -> %s (calls go down only: cli, node, mesh, proto)" % (room, other)
    stem, to = os.path.splitext(name)[0], os.path.splitext(header)[0]
    private = PRIVATE.match(header)
    if private and (room != other or private.group(2) != "internal" and not stem.startswith(private.group(1))):
        return '"%s" is private to src/%s' % (target, other)
    if room == other == "node":
        return node_fault(name, header)
    if room == other == "mesh" and stem in MESH and to != stem and to not in MESH[stem]:
        return "no arrow mesh/%s -> mesh/%s" % (stem, to)
    if other == "mesh" and room != "mesh" and to not in MESH_DOORS:
        return "mesh/%s is inside the mesh: %s sees only %s" % (to, room, ", ".join(sorted(MESH_DOORS)))
    if room == "cli" and other == "node" and to in CLI_CLOSED:
        return "node/%s is inside a node's threads: cli starts a node or asks its admin socket" % to
    return None


def circle(edges):
    """One circle among the headers as a list, or None."""
    state, path = {}, []

    def visit(at):
        state[at] = 1
        path.append(at)
        for to in sorted(edges.get(at, ())):
            if state.get(to) == 1:
                return path[path.index(to):] + [to]
            if to not in state:
                found = visit(to)
                if found:
                    return found
        state[at] = 2
        path.pop()
        return None

    for at in sorted(edges):
        if at not in state:
            found = visit(at)
            if found:
                return found
    return None


def check(root):
    """Returns (faults, number of includes read)."""
    faults, count, edges = [], 0, {}
    for room in sorted(ROOMS):
        folder = os.path.join(root, "src", room)
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        names = [n for n in names if n.endswith((".c", ".h"))]
        if not names:
            faults.append("src/%s: no sources found" % room)
        for name in names:
            where = "src/%s/%s" % (room, name)
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                text = f.read()
            if room == "node" and name.endswith(".c"):
                own = group_of(name[:-2])
                if not {own, own + ".c"} & set(NODE):
                    faults.append("%s: has no place in the table NODE of tests/check_includes.py" % where)
            stripped = strip(text).split("\n")
            for i, line in enumerate(text.split("\n")):
                match = INCLUDE.match(line) if stripped[i].lstrip().startswith("#") else None
                if match:
                    count += 1
                    quote, target = match.groups()
                    why = include_fault(room, name, quote, target, root)
                    if why:
                        faults.append("%s:%d: %s" % (where, i + 1, why))
                    if quote == '"' and name.endswith(".h"):
                        edges.setdefault("%s/%s" % (room, name), set()).add(target)
                    continue
                call = IMPURE_CALLS.search(stripped[i]) if room in PURE_SYSTEM else None
                if call and not OWN_FUNCTION.match(stripped[i]):
                    faults.append("%s:%d: %s is pure: it must not call %s()" % (where, i + 1, room, call.group(1)))
    found = circle(edges)
    if found:
        faults.append("headers in a circle: " + " -> ".join(found))
    if count == 0:
        faults.append("no include was read")
    return faults, count


# Each: file, line appended, what the fault must say.
WRONG = [
    ("proto/key.c", '#include <uv.h>', "proto is pure: <uv.h>"),
    ("proto/key.c", '#include <sys/socket.h>', "proto is pure"),
    ("proto/key.c", '#include <openssl/ssl.h>', "proto is pure"),
    ("proto/key.c", '#include "mesh/mesh.h"', "no arrow proto -> mesh"),
    ("proto/key.c", '#include "node/log.h"', "no arrow proto -> node"),
    ("proto/key.c", 'static long later(void) {\n    return time(0);\n}', "must not call time()"),
    ("proto/key.c", 'static void say(void) {\n    printf("x");\n}', "must not call printf()"),
    ("mesh/routes.c", '#include <time.h>', "mesh is pure: <time.h>"),
    ("mesh/routes.c", '#include "node/log.h"', "no arrow mesh -> node"),
    ("mesh/routes.c", '#include "mesh/mesh.h"', "no arrow mesh/routes -> mesh/mesh"),
    ("node/relay.c", '#include "node/session.h"', "no arrow node/relay -> node/session"),
    ("node/relay.c", '#include "node/worker.h"', "no arrow node/relay -> node/worker"),
    ("node/relay.c", '#  include "cli/cli.h"', "no arrow node -> cli"),
    ("node/stream.c", '#include "node/relay.h"', "no arrow node/stream -> node/relay"),
    ("node/sendq.c", '#include "node/log.h"', "no arrow node/sendq -> node/log"),
    ("node/link_io.c", '#include "node/relay_x.h"', "does not exist"),
    ("node/conn.h", '#include "node/worker.h"', "headers in a circle"),
    ("node/stranger.c", '#include "node/log.h"', "has no place in the table"),
    ("node/relay.c", '#include "relay.h"', "an include names its room"),
    ("node/relay.c", '#include "proto/hujson_internal.h"', "is private to"),
    ("cli/main.c", '#include "node/relay.h"', "inside a node's threads"),
]
RIGHT = [
    ("node/relay.c", '/* #include "node/session.h" */'),
    ("node/relay.c", '/*\n#include "node/session.h"\n*/'),
    ("node/session.c", '#include "node/log.h"'),
    ("proto/key.c", '/* time() is not called */'),
    ("cli/main.c", '#include "proto/key.h"'),
]


def self_test(root):
    """Puts wrong lines into a copy of the tree: each must be found, and none that is right."""
    failed = 0
    with tempfile.TemporaryDirectory() as temp:
        copy = os.path.join(temp, "src")
        shutil.copytree(os.path.join(root, "src"), copy)
        clean = set(check(temp)[0])
        for file, line, says in WRONG + [(file, line, None) for file, line in RIGHT]:
            path = os.path.join(copy, file)
            before = None
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f:
                    before = f.read()
            with open(path, "w", encoding="utf-8") as f:
                f.write((before or "") + "\n" + line + "\n")
            new = [fault for fault in check(temp)[0] if fault not in clean]
            if before is None:
                os.remove(path)
            else:
                with open(path, "w", encoding="utf-8") as f:
                    f.write(before)
            ok = any(says in fault for fault in new) if says else not new
            if not ok:
                failed += 1
                print("self-test: %s with %r: expected %s, found %s" % (file, line, says or "no fault", new or "nothing"))
    print("self-test: %d of %d" % (len(WRONG) + len(RIGHT) - failed, len(WRONG) + len(RIGHT)))
    return failed


def main(argv):
    args = [a for a in argv if a != "--self-test"]
    if len(args) > 1 or any(a.startswith("-") for a in args):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    root = args[0] if args else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    if "--self-test" in argv:
        return 1 if self_test(root) else 0
    faults, count = check(root)
    for fault in faults:
        print(fault)
    print("%d includes, %d faults" % (count, len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
