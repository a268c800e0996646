#!/usr/bin/env bash
# The image where derper's image was: both `docker run` lines of tests/seed/docker-run.sh, with nothing changed but the
# image's name, what is published where, and what every such line needs to be of use (a volume, certificates).
#
# usage: derper_image_test.sh [IMAGE]      (without: it is built)
#
# Containers have names of their own and are removed in the end, whatever happens.  The host name of the second line
# is one that a certificate can be made for: the tutorial's is a placeholder that none can.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"
cd "$ROOT"

BASE=${BASE:-debian:bookworm-slim}
IMAGE=${1:-}
NAME=derpmesh-derper-test
WORK=$(mktemp -d)
LINES=tests/seed/docker-run.sh

ok() { echo "ok: $*"; }
fail() {
    echo "FAILED: $*"
    docker logs "$NAME" 2>&1 | tail -n 30 || true
    exit 1
}
clean_up() {
    docker rm -f -v "$NAME" >/dev/null 2>&1 || true
    docker volume rm -f "$NAME" >/dev/null 2>&1 || true
    rm -rf "$WORK"
}

# seed_line NUMBER: that `docker run` of the tutorial, on one line, with our image and name, and published on
# loopback at ports that the engine picks.
seed_line() {
    awk -v want="$1" '/^docker run/ {n++} n == want && !/^#/' "$LINES" | tr -d '\\\n' |
        sed -E -e "s#ghcr\.io/[^ ]*#$IMAGE#" -e "s#--name derper#--name $NAME#" \
            -e 's#-p [0-9]+:([0-9]+)( |$)#-p 127.0.0.1::\1 #' -e 's#-p [0-9]+:([0-9]+)/udp#-p 127.0.0.1::\1/udp#'
}

# run_line NUMBER SED ARGUMENTS...: runs it; arguments go in front of the others.
run_line() {
    local line
    line=$(seed_line "$1" | sed -E "$2")
    shift 2
    case $line in *"$IMAGE"*12345* | *12345*"$IMAGE"*) ;; *) fail "$LINES has another form: $line" ;; esac
    line="docker run $* ${line#docker run}"
    echo "+ $line"
    docker rm -f -v "$NAME" >/dev/null 2>&1 || true
    bash -c "$line" >/dev/null || fail "it does not start"
}

published() { docker port "$NAME" 12345/tcp | head -n 1; }
healthy() { docker exec "$NAME" derpmesh status --json >/dev/null 2>&1; }

# The 101's key: who the relay is.
relay_key() {
    curl -s -m 2 -i -H 'Upgrade: DERP' -H 'Connection: Upgrade' "http://$(published)/derp" -o - 2>/dev/null |
        tr -d '\0\r' | sed -n 's/^Derp-Public-Key: \([0-9a-f]*\)$/\1/p' || true
}

behind_proxy() {
    local key again
    run_line 1 '' -v "$NAME:/var/lib/derpmesh"
    wait_for 30 healthy || fail "line 1: not healthy"
    [ "$(curl -s -m 5 -o /dev/null -w '%{http_code}' "http://$(published)/derp/probe")" = 200 ] || fail "line 1: no /derp/probe"
    key=$(relay_key)
    [ ${#key} = 64 ] || fail "line 1: no DERP upgrade in plain HTTP"
    docker exec "$NAME" derpmesh health || fail "line 1: the health check says no"
    ok "line 1: plain HTTP behind a proxy"
    run_line 1 '' -v "$NAME:/var/lib/derpmesh"
    wait_for 30 healthy || fail "line 1: not healthy when made anew"
    again=$(relay_key)
    [ "$key" = "$again" ] || fail "line 1: the key changed with the container: $key, $again"
    ok "line 1: the key outlives the container"
}

with_certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=relay.test \
        -addext subjectAltName=DNS:relay.test -keyout "$WORK/relay.test.key" -out "$WORK/relay.test.crt" 2>/dev/null
    chmod 755 "$WORK"
    chmod 644 "$WORK/relay.test.key"
    cat >"$WORK/map.json" <<'MAP'
{"Regions": {"900": {"RegionID": 900, "RegionCode": "t", "RegionName": "t", "Nodes": [{"Name": "t", "RegionID": 900,
 "HostName": "relay.test", "IPv4": "127.0.0.1", "IPv6": "none", "DERPPort": 12345}]}}}
MAP
    run_line 2 's/域名/relay.test/' -v "$WORK:/app/certs:ro"
    wait_for 30 healthy || fail "line 2: not healthy"
    docker run --rm --network "container:$NAME" -v "$WORK:/app/certs:ro" -e SSL_CERT_FILE=/app/certs/relay.test.crt "$IMAGE" \
        probe --map /app/certs/map.json || fail "line 2: no client gets through"
    docker exec "$NAME" derpmesh status --json >/dev/null || fail "line 2: no status"
    docker exec -e SSL_CERT_FILE=/app/certs/relay.test.crt "$NAME" derpmesh health || fail "line 2: the health check says no"
    ok "line 2: TLS with the mounted certificate, clients and STUN"
}

# What line 2 lacks: the log has to say so.
without_certificate() {
    run_line 2 's/--restart always//; s/域名/relay.test/'
    wait_for 20 sh -c "docker logs $NAME 2>&1 | grep -q 'relay.test.crt'" || fail "the log does not name the missing certificate"
    ok "line 2 without a certificate: the log names the file"
}

docker_use
need curl openssl
trap clean_up EXIT
if [ -z "$IMAGE" ]; then
    IMAGE=$NAME
    bash scripts/docker-base.sh "$BASE"
    docker build -q -f deploy/docker/Dockerfile --build-arg "BASE=$BASE" --build-arg "DEBIAN_MIRROR=${DEBIAN_MIRROR:-}" \
        -t "$IMAGE" . >/dev/null || fail "the image does not build"
fi
behind_proxy
with_certificate
without_certificate
