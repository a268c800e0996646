#!/usr/bin/env bash
# Shows what derpmesh does: three regions on this machine, joined to one mesh, used and looked at.
#
# usage: demo.sh [--once] [--no-install]
#
#   --once        ends by itself; exit code 0 only if all that is shown was really so
#   --no-install  nothing is installed
#
# Without --once the mesh stays until Ctrl-C, to play with.  Everything is on loopback addresses of its own, on
# unprivileged ports, with its files in a directory that goes with it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
unset DERPMESH_TOOLS DERPMESH_LONG # the scripts' own; a node would take them for misspelt settings

NODES=(fra-1 hkg-1 sfo-1)
REGIONS=(900 901 902)
CODES=(fra hkg sfo)
PLACES=(Frankfurt 'Hong Kong' 'San Francisco')
PORT=4443 STUN_PORT=3478
BLOCK=127.$((64 + RANDOM % 64)).$((RANDOM % 250)) # so that two demonstrations do not meet
DERPMESH=$ROOT/build/release/derpmesh
DIR=
PIDS=()
LISTENER=

tick() { printf '  %s✓%s %s\n' "$C_GREEN" "$C_OFF" "$*"; }
command_line() { printf '  %s$ %s%s\n' "$C_DIM" "$*" "$C_OFF"; }
title() { printf '\n%s%s%s\n' "$C_BOLD" "$*" "$C_OFF"; }
indent() { sed 's/^/  /'; }
now_ms() { printf '%d\n' $((${EPOCHREALTIME/[.,]/} / 1000)); }

# fail WHAT: with the last lines of every node's log.
fail() {
    local node
    for node in "${NODES[@]}"; do
        [ -f "$DIR/$node.log" ] || continue
        echo "--- $node.log" >&2
        tail -n 15 "$DIR/$node.log" >&2
    done
    die "the demonstration failed: $*"
}

# logged NAME COMMAND...: its output is shown only if it fails.
logged() {
    local log=$ROOT/build/logs/$1.log
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "failed: $*"
    fi
}

# On the way out, whatever the reason: end what was started, by process id.
clean_up() {
    local pid
    [ -z "$LISTENER" ] || kill "$LISTENER" 2>/dev/null || true
    for pid in "${PIDS[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    [ -z "$DIR" ] || rm -rf "$DIR"
}

# json FILE EXPRESSION: a Python expression on the JSON value `j` of the file.
json() {
    python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); v = eval(sys.argv[2])
print("\n".join(map(str, v)) if isinstance(v, list) else v)' "$@"
}

ask() { "$DERPMESH" status --json --admin "$DIR/${NODES[$1]}.sock" >"$DIR/${NODES[$1]}.json" 2>/dev/null; }

# write_map PIN...: the derpMap, with the pins that are known.
write_map() {
    local i pin comma
    {
        printf '{\n  "Regions": {\n'
        for i in 0 1 2; do
            pin=${1:+", \"CertName\": \"$1\""}
            comma=$([ "$i" = 2 ] || echo ,)
            printf '    "%s": {"RegionID": %s, "RegionCode": "%s", "RegionName": "%s", "Nodes": [\n' \
                "${REGIONS[$i]}" "${REGIONS[$i]}" "${CODES[$i]}" "${PLACES[$i]}"
            printf '      {"Name": "%s", "RegionID": %s, "HostName": "%s", "IPv4": "%s",\n' \
                "${NODES[$i]}" "${REGIONS[$i]}" "$BLOCK.1$i" "$BLOCK.1$i"
            printf '       "DERPPort": %s, "STUNPort": %s%s}]}%s\n' "$PORT" "$STUN_PORT" "$pin" "$comma"
            [ $# = 0 ] || shift
        done
        printf '  }\n}\n'
    } >"$DIR/derpmap.json.new"
    mv "$DIR/derpmap.json.new" "$DIR/derpmap.json"
}

start_regions() {
    local i start pins=()
    title "Three regions come up, each from the same derpMap"
    write_map
    "$DERPMESH" keygen mesh "$DIR/mesh.key" >/dev/null 2>&1 || fail "no mesh key could be made"
    for i in 0 1 2; do
        start=$(now_ms)
        "$DERPMESH" serve --map "$DIR/derpmap.json" --node "${NODES[$i]}" --state "$DIR/${NODES[$i]}" \
            --mesh-key-file "$DIR/mesh.key" --admin "$DIR/${NODES[$i]}.sock" --metrics off --listen-http off \
            >"$DIR/${NODES[$i]}.log" 2>&1 &
        PIDS+=($!)
        wait_for 15 ask "$i" || fail "${NODES[$i]} does not come up"
        pins+=("$(json "$DIR/${NODES[$i]}.json" 'j["certificate"]["pin"]')")
        tick "$(printf '%-6s region %s, %-13s %s:%s   %s up in %d ms%s' "${NODES[$i]}" "${REGIONS[$i]}" \
            "${PLACES[$i]}" "$BLOCK.1$i" "$PORT" "$C_DIM" $(($(now_ms) - start)) "$C_OFF")"
    done
    note "  Each has made a certificate for its address.  Their pins go into the map, and all reload it:"
    write_map "${pins[@]}"
    kill -HUP "${PIDS[@]}"
    for i in 0 1 2; do printf '    %s%s  %.50s…%s\n' "$C_DIM" "${NODES[$i]}" "${pins[$i]}" "$C_OFF"; done
}

# The links of node $1 that are up and synchronised: "NAME RTT" a line.
links_of() {
    json "$DIR/${NODES[$1]}.json" \
        '["%s %s" % (p["name"], "%.2f" % p["rtt_ms"] if p["rtt_ms"] else "< 1") for p in j["mesh"]["peers"]
          if p["state"] == "up" and p["synced"] and p["rtt_ms"] >= 0]'
}

show_links() {
    local i until=$((SECONDS + 30)) start peer rtt
    local -A shown=()
    title "They find each other: one link a pair, with its round-trip time"
    start=$(now_ms)
    while [ ${#shown[@]} -lt 6 ]; do
        [ "$SECONDS" -lt "$until" ] || fail "only ${#shown[@]} of 6 ends of links are up"
        for i in 0 1 2; do
            ask "$i" || fail "${NODES[$i]} does not answer any more"
            while read -r peer rtt; do
                if [ -z "$peer" ] || [ -n "${shown[${NODES[$i]} $peer]:-}" ]; then continue; fi
                shown["${NODES[$i]} $peer"]=1
                # A line a pair, when its second end is up too.
                [ -n "${shown[$peer ${NODES[$i]}]:-}" ] || continue
                tick "$(printf '%s %s━━ %6s ms ━━%s %s   %safter %d ms%s' "${NODES[$i]}" "$C_BLUE" "$rtt" "$C_OFF" \
                    "$peer" "$C_DIM" $(($(now_ms) - start)) "$C_OFF")"
            done < <(links_of "$i")
        done
        sleep 0.1
    done
}

show_matrix() {
    local i j median
    title "Real clients send packets through every pair of regions (round trip in ms)"
    command_line derpmesh probe --map derpmap.json
    printf '  %-14s' 'from \ to'
    for i in 0 1 2; do printf '%9s' "${CODES[$i]}"; done
    printf '%12s\n' STUN
    for i in 0 1 2; do
        printf '  %-14s' "${PLACES[$i]}"
        for j in 0 1 2; do
            "$DERPMESH" probe --map "$DIR/derpmap.json" --from "${REGIONS[$i]}" --to "${REGIONS[$j]}" \
                --count 10 --interval 5 --json >"$DIR/probe.json" 2>"$DIR/probe.err" ||
                fail "probe ${NODES[$i]} to ${NODES[$j]}: $(cat "$DIR/probe.err" "$DIR/probe.json")"
            median=$(json "$DIR/probe.json" '"%.2f" % j["pairs"][0]["rtt_median_ms"]')
            printf '%s%9s%s' "$C_GREEN" "$median" "$C_OFF"
        done
        printf '%12s\n' "$(json "$DIR/probe.json" \
            '"%.2f" % [n for n in j["nodes"] if n["name"] == "'"${NODES[$i]}"'"][0]["stun_ms"]')"
    done
}

show_path() {
    local key answer question='good morning from Frankfurt' took
    title "A client in region 900 sends to one that is connected in region 902"
    python3 "$ROOT/scripts/demo_client.py" listen "$DIR/derpmap.json" 902 >"$DIR/listener.out" 2>"$DIR/listener.err" &
    LISTENER=$!
    wait_for 10 grep -q '^key ' "$DIR/listener.out" || fail "no client in 902: $(cat "$DIR/listener.err")"
    key=$(sed -n 's/^key //p' "$DIR/listener.out")
    wait_for 10 "$DERPMESH" where "$key" --admin "$DIR/fra-1.sock" >/dev/null 2>&1 ||
        fail "Frankfurt does not learn where the client in San Francisco is"
    note "  Frankfurt, asked where that client is:"
    command_line "derpmesh where ${key:0:20}…"
    "$DERPMESH" where "$key" --admin "$DIR/fra-1.sock" | indent
    "$DERPMESH" where "$key" --admin "$DIR/fra-1.sock" --json >"$DIR/where.json"
    [ "$(json "$DIR/where.json" 'j["locations"][0]["node"]')" = sfo-1 ] || fail "it is not said to be at sfo-1"
    [ "$(json "$DIR/where.json" 'j["locations"][0]["local"]')" = False ] || fail "it is said to be local"
    answer=$(python3 "$ROOT/scripts/demo_client.py" send "$DIR/derpmap.json" 900 "$key" "$question" \
        2>"$DIR/sender.err") || fail "no answer from region 902: $(cat "$DIR/sender.err")"
    IFS=$'\t' read -r _ answer took <<<"$answer"
    printf '  client ──▶ %sfra-1%s ━━▶ %ssfo-1%s ──▶ client   “%s”\n' "$C_BLUE" "$C_OFF" "$C_BLUE" "$C_OFF" "$question"
    printf '  client ◀── %sfra-1%s ◀━━ %ssfo-1%s ◀── client   “%s”\n' "$C_BLUE" "$C_OFF" "$C_BLUE" "$C_OFF" "$answer"
    tick "there and back in $took ms"
    kill "$LISTENER"
    wait "$LISTENER" 2>/dev/null || true
    LISTENER=
}

show_map() {
    title "What goes into the tailnet policy, as the value of \"derpMap\""
    command_line derpmesh map export --to tailscale derpmap.json
    "$DERPMESH" map export --to tailscale "$DIR/derpmap.json" >"$DIR/export.hujson" || fail "the map is not exported"
    indent <"$DIR/export.hujson"
    "$DERPMESH" map check "$DIR/export.hujson" >"$DIR/check.out" 2>&1 ||
        fail "the exported map is not accepted: $(cat "$DIR/check.out")"
    grep -q sha256-raw: "$DIR/export.hujson" || fail "the exported map has no pins"
}

# stop_regions KNOWN: everything ends in order, or it was not all fine.  KNOWN: after Ctrl-C, which the nodes
# have got from the terminal themselves; a second signal would end them at once.
stop_regions() {
    local i
    $1 || kill -INT "${PIDS[@]}"
    for i in 0 1 2; do wait "${PIDS[$i]}" || fail "${NODES[$i]} ended with exit code $?"; done
    PIDS=()
}

stay() {
    title "The mesh runs until Ctrl-C.  In another terminal:"
    note "  cd $DIR"
    note "  $DERPMESH status --admin fra-1.sock --watch"
    note "  $DERPMESH probe --map derpmap.json --watch"
    trap 'echo; stop_regions true; exit 0' INT
    trap 'stop_regions false; exit 0' TERM
    wait -n "${PIDS[@]}" || true
    fail "a region has ended by itself"
}

main() {
    local once=false install=true
    while [ $# -gt 0 ]; do
        case $1 in
        --once) once=true ;;
        --no-install) install=false ;;
        -h | --help)
            sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        *) die "unknown: $1 (--help says what there is)" ;;
        esac
        shift
    done
    mkdir -p "$ROOT/build/logs"
    if $install && [ -n "$(bash "$ROOT/scripts/install-deps.sh" --list build)" ]; then
        title "Installing what the build needs"
        logged demo-install bash "$ROOT/scripts/install-deps.sh" build
    fi
    need cmake ninja gcc python3
    title "Building"
    logged demo-build cmake_build release derpmesh
    tick "$("$DERPMESH" version | head -n 1)"
    DIR=$(mktemp -d "${TMPDIR:-/tmp}/derpmesh-demo.XXXXXX")
    trap clean_up EXIT
    start_regions
    show_links
    show_matrix
    show_path
    show_map
    $once || stay
    stop_regions false
    printf '\n%sAll of it was so.%s\n' "$C_GREEN" "$C_OFF"
}

main "$@"
