#!/usr/bin/env bash
# Measures derpmesh beside Tailscale's derper and the floor (the least that a relay can cost), in one run.
#
#   bench/run.sh [--quick] [--rounds N] [--workers N] [--size BYTES] [--only NAME]     about 3 minutes; --quick 45 seconds
#
# The relay runs on core 0, the load generator on core 1.  Of all rounds the best figure is shown, for each program alike:
# what else the machine does only ever makes them worse.  Only ratios within one run mean anything on another machine.
#   BUILD_DIR   where derpmesh, load and floor were built   [build/release]
#   DERPER_BIN  a derper; else build/tools/derper, built by go install if it is not there
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD_DIR:-$root/build/release}
derper_version=v1.102.5
rounds=2 seconds=6 idle=1000 rates="10000 20000 40000" workers=1 size=1400 only=
while [ $# -gt 0 ]; do
    case $1 in
    --quick) rounds=1 seconds=2 idle=300 ;;
    --rounds) rounds=$2; shift ;;
    --workers) workers=$2; shift ;;
    --size) size=$2; shift ;;
    --only) only=$2; shift ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done

relay_cores=0
[ "$workers" -gt 1 ] && relay_cores=0-$((workers - 1))
dir=$(mktemp -d)
pid=
stop() { [ -z "$pid" ] || { kill -INT "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; pid=; }; }
trap 'stop; rm -rf "$dir"' EXIT

prepare() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=bench.test \
        -addext subjectAltName=DNS:bench.test -keyout "$dir/bench.test.key" -out "$dir/bench.test.crt" 2>/dev/null
    port=$((20000 + RANDOM % 10000))
    cat >"$dir/map.json" <<EOF
{"Regions": {"900": {"RegionID": 900, "RegionCode": "bench", "RegionName": "bench", "Nodes": [
  {"Name": "bench", "RegionID": 900, "HostName": "bench.test", "IPv4": "127.0.0.1", "DERPPort": $port}]}}}
EOF
    if [ -z "${DERPER_BIN:-}" ]; then
        DERPER_BIN=$root/build/tools/derper
        [ -x "$DERPER_BIN" ] || GOBIN=$root/build/tools go install "tailscale.com/cmd/derper@$derper_version"
    fi
}

# Starts the named relay on core 0 and waits until it accepts connections.
start() {
    case $1 in
    derpmesh)
        mkdir -p "$dir/state"
        taskset -c "$relay_cores" "$build/derpmesh" serve --map "$dir/map.json" --node bench --state "$dir/state" \
            --listen "127.0.0.1:$port" --listen-http off --listen-stun off --tls manual --cert-dir "$dir" \
            --metrics off --admin "$dir/admin.sock" --workers "$workers" >"$dir/$1.log" 2>&1 &
        ;;
    derper)
        taskset -c "$relay_cores" "$DERPER_BIN" -a "127.0.0.1:$port" -http-port -1 -stun=false -certmode manual \
            -certdir "$dir" -hostname bench.test -c "$dir/derper.json" >"$dir/$1.log" 2>&1 &
        ;;
    esac
    pid=$!
    for _ in $(seq 100); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return
        sleep 0.05
    done
    cat "$dir/$1.log" >&2
    exit 1
}

# load ARGS: against the relay that runs.
load() { taskset -c 1 "$build/bench/load" --addr "127.0.0.1:$port" --pid "$pid" --size "$size" "$@"; }

declare -A got
# Keeps the fields of a line as got[PREFIX.FIELD], unless an earlier round was better.
keep() {
    local pair key value better
    for pair in $2; do
        key=$1.${pair%%=*} value=${pair#*=}
        case $key in
        *_pps | *.wrong | *.closed) better='>' ;;
        *) better='<' ;;
        esac
        if [ -z "${got[$key]:-}" ] || awk "BEGIN { exit !($value $better ${got[$key]}) }"; then got[$key]=$value; fi
    done
}

# All measurements of one relay; a fresh process for the idle clients.
measure() {
    start "$1"
    keep "$1.full" "$(load --seconds "$seconds")"
    for rate in $rates; do keep "$1.$rate" "$(load --rate "$rate" --seconds "$seconds")"; done
    stop
    start "$1"
    keep "$1.idle" "$(load --idle "$idle")"
    stop
}

# The floor prints CPU seconds per GB and thousands of packets a second.
floor() {
    local line
    line=$("$build/bench/floor" tls 1 "$2" "$size" "$((seconds > 4 ? 4 : seconds))")
    keep "$1" "$(sed -n 's/.* \([0-9.]*\) kpps, cpu \([0-9.]*\) s.*/delivered_pps=\1e3 cpu_s_per_gb=\2/p' <<<"$line")"
}

g() { echo "${got[$1]:--}"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a + 0 > 0 && b + 0 > 0) printf "%.2f", a / b; else printf "-" }'; }
row() { printf '%-34s %12s %12s %12s %12s\n' "$@"; }

# The least CPU per GB that derper reached, flat out or at any rate.
derper_best() {
    local rate
    for rate in full $rates; do g "derper.$rate.cpu_s_per_gb"; done | awk '$1 > 0 && (!n || $1 < n) { n = $1 } END { print n ? n : "-" }'
}

report() {
    local ours best gathered rate
    row "$size-byte packets, TLS, 10 pairs" derpmesh derper floor "floor, ungathered"
    row "flat out: CPU s per GB" "$(g derpmesh.full.cpu_s_per_gb)" "$(g derper.full.cpu_s_per_gb)" \
        "$(g gathered.cpu_s_per_gb)" "$(g each.cpu_s_per_gb)"
    row "flat out: packets/s offered" "$(g derpmesh.full.offered_pps)" "$(g derper.full.offered_pps)" "" ""
    row "flat out: packets/s delivered" "$(g derpmesh.full.delivered_pps)" "$(g derper.full.delivered_pps)" \
        "$(g gathered.delivered_pps | sed s/e3/000/)" "$(g each.delivered_pps | sed s/e3/000/)"
    row "flat out: lost, %" "$(g derpmesh.full.loss_pct)" "$(g derper.full.loss_pct)" "" ""
    row "flat out: p50 / p99, ms" "$(ms derpmesh.full)" "$(ms derper.full)" "" ""
    for rate in $rates; do
        row "$rate/s: CPU us per packet" "$(g "derpmesh.$rate.cpu_us_per_packet")" "$(g "derper.$rate.cpu_us_per_packet")" "" ""
        row "$rate/s: p50 / p99, ms" "$(ms "derpmesh.$rate")" "$(ms "derper.$rate")" "" ""
        row "$rate/s: lost, %" "$(g "derpmesh.$rate.loss_pct")" "$(g "derper.$rate.loss_pct")" "" ""
    done
    row "generator's CPU, % ($rate/s)" "$(g "derpmesh.$rate.own_cpu_pct")" "$(g "derper.$rate.own_cpu_pct")" "" ""
    row "memory per idle client, KiB" "$(g derpmesh.idle.rss_kb_per_client)" "$(g derper.idle.rss_kb_per_client)" "" ""
    row "CPU us per login" "$(g derpmesh.idle.cpu_us_per_login)" "$(g derper.idle.cpu_us_per_login)" "" ""
    ours=$(g derpmesh.full.cpu_s_per_gb) best=$(derper_best) gathered=$(g gathered.cpu_s_per_gb)
    echo
    echo "CPU per GB flat out: $(ratio "$ours" "$best") of derper's best ($best), $(ratio "$ours" "$gathered") of the floor"
    for rate in $rates; do
        echo "CPU per packet at $rate/s: $(ratio "$(g "derpmesh.$rate.cpu_us_per_packet")" \
            "$(g "derper.$rate.cpu_us_per_packet")") of derper's; p99 $(ratio "$(g "derpmesh.$rate.p99_us")" \
            "$(g "derper.$rate.p99_us")")"
    done
    echo "memory per idle client: $(ratio "$(g derpmesh.idle.rss_kb_per_client)" "$(g derper.idle.rss_kb_per_client)") of derper's;" \
        "CPU per login: $(ratio "$(g derpmesh.idle.cpu_us_per_login)" "$(g derper.idle.cpu_us_per_login)")"
    faults=$(faults)
    [ -z "$faults" ] || echo "wrong or closed connections: $faults"
}

ms() { awk -v a="$(g "$1.p50_us")" -v b="$(g "$1.p99_us")" 'BEGIN { if (a == "-") print "-"; else printf "%.2f / %.1f", a / 1000, b / 1000 }'; }

# Packets that should not have come, and connections that ended: there should be none.
faults() {
    local key
    for key in "${!got[@]}"; do
        case $key in
        *.wrong | *.closed) [ "${got[$key]}" = 0 ] || echo -n "$key=${got[$key]} " ;;
        esac
    done
}

wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }

prepare
for _ in $(seq "$rounds"); do
    for relay in derpmesh derper; do
        if wanted $relay; then measure $relay; fi
    done
    if wanted floor; then
        floor gathered 1
        floor each 0
    fi
done
report
