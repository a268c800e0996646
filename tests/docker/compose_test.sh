#!/usr/bin/env bash
# The image and deploy/docker/compose.demo.yaml on the real engine: three regions come up healthy, every link
# and every pair of regions works, a container made anew keeps its keys and finds its way back, a stop is orderly.
#
# usage: compose_test.sh [--keep]      (--keep leaves the containers, to be looked at)
#
# Has a project name of its own; containers, network and volumes are removed in the end, whatever happens, and
# at the start, should an earlier run have been killed.  The network's addresses are fixed (198.18.90.0/24),
# so two of these cannot run at once: a second one waits its turn.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"
cd "$ROOT"

PROJECT=derpmesh-test
SERVICES=(fra hkg sfo)
BASE=${BASE:-debian:bookworm-slim}
export BASE

demo() { compose -p "$PROJECT" -f deploy/docker/compose.demo.yaml "$@"; }
# Inside the container of a service.
inside() {
    local service=$1
    shift
    demo exec -T "$service" "$@"
}
status() { inside "$1" derpmesh status --json; }
ok() { echo "ok: $*"; }

fail() {
    echo "FAILED: $*"
    demo ps || true
    demo logs --no-color --tail=40 || true
    exit 1
}

clean_up() { demo --profile tailnet down -v --remove-orphans -t 5 >/dev/null 2>&1 || true; }

# field SERVICE EXPRESSION: a Python expression on the status `j` of the node.
field() {
    status "$1" | python3 -c 'import json, sys; j = json.load(sys.stdin); print(eval(sys.argv[1]))' "$2"
}

healthy() {
    local service id
    for service in "${SERVICES[@]}"; do
        id=$(demo ps -q "$service")
        [ "$(docker inspect -f '{{.State.Health.Status}}' "${id:-none}")" = healthy ] || return 1
    done
}

# Every node has a synchronised link to both others.
linked() {
    local service
    for service in "${SERVICES[@]}"; do
        [ "$(field "$service" 'sum(p["state"] == "up" and p["synced"] for p in j["mesh"]["peers"])')" = 2 ] || return 1
    done 2>/dev/null
}

probed() { inside fra derpmesh probe --map /etc/derpmesh/derpmap.json; }

build_and_start() {
    local size
    bash scripts/docker-base.sh "$BASE" || fail "there is no base image"
    demo build keys || fail "the image does not build"
    size=$(($(docker image inspect -f '{{.Size}}' derpmesh) / 1000000))
    echo "image: $size MB"
    [ "$size" -lt 40 ] || fail "the image has grown from 24 MB to $size MB: what has come in?"
    [ "$(docker image inspect -f '{{.Config.User}}' derpmesh)" = 65532:65532 ] || fail "the image does not run as 65532"
    demo up -d || fail "the demo does not start"
    wait_for 90 healthy || fail "not all healthy after 90 s"
    ok "all healthy"
}

# Stripped, and what was stripped is to be had: of just this program.
check_symbols() {
    local dir container
    dir=$(mktemp -d)
    compose_build_debug >"$dir/log" 2>&1 || fail "no debug symbols: $(tail -n 3 "$dir/log")"
    container=$(docker create "$PROJECT-debug" none)
    docker cp "$container:/derpmesh.debug" "$dir/derpmesh.debug"
    docker rm "$container" >/dev/null
    docker rmi "$PROJECT-debug" >/dev/null
    docker cp "$(demo ps -q fra):/usr/local/bin/derpmesh" "$dir/derpmesh"
    [ "$(build_id "$dir/derpmesh")" = "$(build_id "$dir/derpmesh.debug")" ] || fail "the debug symbols are of another program"
    readelf -S "$dir/derpmesh" | grep -q '\.debug_info' && fail "the program in the image is not stripped"
    readelf -S "$dir/derpmesh.debug" | grep -q '\.debug_info' || fail "the debug symbols are none"
    rm -rf "$dir"
    ok "stripped, debug symbols apart"
}
compose_build_debug() {
    docker build -q -f deploy/docker/Dockerfile --target debug --build-arg "BASE=$BASE" \
        --build-arg "DEBIAN_MIRROR=${DEBIAN_MIRROR:-}" -t "$PROJECT-debug" .
}
build_id() { readelf -n "$1" | sed -n 's/.*Build ID: //p'; }

# What the image is for is in it: uacme starts, the scanners' list names the libraries, a look around is possible.
check_image() {
    [[ $(inside fra uacme -V 2>&1 || true) == "uacme: version"* ]] || fail "uacme does not start"
    inside fra sh -c 'grep -q "^Package: libssl3" /var/lib/dpkg/status && tail -n 1 /etc/passwd && tar --help' >/dev/null 2>&1 ||
        fail "the image lacks what should be in it"
    ok "uacme, a shell, the list of packages"
}

check_hardening() {
    local id
    id=$(demo ps -q fra)
    [ "$(inside fra id -u)" = 65532 ] || fail "the node runs as another user"
    [ "$(docker inspect -f '{{.HostConfig.ReadonlyRootfs}}' "$id")" = true ] || fail "the root file system can be written"
    inside fra sh -c 'echo x >/usr/local/bin/x' 2>/dev/null && fail "a file could be written beside the program"
    inside fra cat /proc/1/status | grep -q '^NoNewPrivs:[[:space:]]*1$' || fail "privileges can be gained"
    [ "$(inside fra stat -c %a /var/lib/derpmesh/node.key)" = 600 ] || fail "the node key can be read by others"
    ok "read-only, as uid 65532, without privileges"
}

check_mesh() {
    wait_for 60 linked || fail "not all links are up after 60 s"
    ok "every node has a link to both others"
    probed || fail "probe: not every pair of regions works"
    ok "probe: every pair of regions, and STUN"
}

check_recreate() {
    local before after pin
    before=$(field fra 'j["public_key"]')
    pin=$(field fra 'j["certificate"]["pin"]')
    demo up -d --force-recreate --no-deps fra || fail "fra cannot be made anew"
    wait_for 60 healthy || fail "fra is not healthy after it was made anew"
    after=$(field fra 'j["public_key"]')
    [[ -n $before && $before = "$after" ]] || fail "node key $before became $after"
    [ "$pin" = "$(field fra 'j["certificate"]["pin"]')" ] || fail "the certificate changed"
    ok "key and certificate survive"
    wait_for 60 linked || fail "the links do not come back"
    probed || fail "probe fails after fra was made anew"
    ok "links and routes came back"
}

check_health_turns() {
    local id
    id=$(demo ps -q hkg)
    docker exec "$id" derpmesh health || fail "health fails on a good node"
    if docker exec "$id" derpmesh health --admin /run/derpmesh/none.sock >/dev/null 2>&1; then
        fail "the health check cannot fail"
    fi
    ok "the health check can fail"
}

check_stop() {
    local id code
    id=$(demo ps -q sfo)
    demo stop sfo || fail "sfo does not stop"
    code=$(docker inspect -f '{{.State.ExitCode}}' "$id")
    [ "$code" = 0 ] || fail "sfo ended with exit code $code"
    ok "TERM ends a node in order"
}

# refused FILE MISSING SETTING...: the file is not accepted with these settings alone, and the answer names what is missing.
refused() {
    local said
    if said=$(env -u DERPMESH_NODE -u DERPMESH_ADMISSION "${@:3}" bash "$0" --config "$1" 2>&1); then fail "$1 is accepted without $2"; fi
    grep -q "$2=" <<<"$said" || fail "$1 without $2 does not name it: $said"
}

# The files for a VPS: accepted, and not without a node's name, and without a choice of who may use it.
check_vps_files() {
    local file
    for file in compose.yaml compose.behind-nginx.yaml; do
        DERPMESH_NODE=fra-1 DERPMESH_ADMISSION=open DERPMESH_DOMAIN=relay.test compose -f "deploy/docker/$file" config >/dev/null ||
            fail "$file is not accepted"
        refused "$file" DERPMESH_NODE DERPMESH_ADMISSION=open DERPMESH_DOMAIN=relay.test
        refused "$file" DERPMESH_ADMISSION DERPMESH_NODE=fra-1 DERPMESH_DOMAIN=relay.test
        ok "$file wants a name and an admission"
    done
}

# Two machines of a tailnet talk over the regions' relays, whatever stands beside the file in the demonstration.
check_tailnet() {
    docker image inspect derpmesh-demo-tailnet >/dev/null 2>&1 || bash deploy/docker/demo/tailnet.sh >/dev/null || fail "no tailnet's image"
    demo --profile tailnet up -d || fail "the tailnet does not start"
    wait_for 90 pinged || fail "alice does not reach bob: $(inside alice tailscale status 2>&1)"
    ok "alice reaches bob over a relay"
}
pinged() { inside alice tailscale ping --until-direct=false -c 1 --timeout 3s bob 2>&1 | grep -q 'via DERP'; }

# What Headscale gets in the demonstration is what the map says.
check_demo_map() {
    inside fra derpmesh map export --to headscale /etc/derpmesh/derpmap.json | diff - deploy/docker/demo/derp.yaml ||
        fail "demo/derp.yaml is another map than demo/derpmap.json"
    ok "the demonstration's two maps are one"
}

if [ "${1:-}" = --config ]; then # for refused
    compose -f "deploy/docker/$2" config
    exit
fi
docker_use
need python3 flock
exec 9>"${TMPDIR:-/tmp}/derpmesh-compose-test.lock"
flock -w 600 9 || die "another compose test holds the network for more than 10 minutes"
[ "${1:-}" = --keep ] || trap clean_up EXIT
clean_up
check_vps_files
build_and_start
check_symbols
check_image
check_hardening
check_mesh
check_demo_map
check_tailnet
check_health_turns
check_recreate
check_stop
