#!/usr/bin/env bash
# deploy/ansible against two machines with systemd, in two regions: lint, a choice that is missing, check mode, install, a second
# run that changes nothing, a gate that stops the rollout, an upgrade under connection attempts, a new mesh key, a node removed,
# uninstall.
#
# usage: ansible_test.sh [--keep]      (--keep leaves the machines, to be looked at)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"
# shellcheck source=tests/deb/machine.sh
. "$(dirname "$0")/../deb/machine.sh"
cd "$ROOT"

ID=derpmesh-ansible-$$
HOSTS=(fra hkg)
NET=198.18.93
WORK=$(mktemp -d)
export ANSIBLE_CONFIG=$ROOT/deploy/ansible/ansible.cfg ANSIBLE_NOCOLOR=1 ANSIBLE_HOME=$WORK/home
export ANSIBLE_LOCALHOST_WARNING=false

ok() { echo "ok: $*"; }
inside() {
    local host=$1
    shift
    docker exec "$ID-$host" "$@"
}
fail() {
    echo "FAILED: $*"
    tail -n 60 "$WORK/out" 2>/dev/null || true
    for host in "${HOSTS[@]}"; do inside "$host" journalctl --no-pager -u derpmesh -n 15 2>/dev/null || true; done
    exit 1
}
clean_up() {
    for host in "${HOSTS[@]}"; do docker rm -f -v "$ID-$host" >/dev/null 2>&1 || true; done
    docker network rm "$ID" >/dev/null 2>&1 || true
    rm -rf "$WORK"
}

# play PLAYBOOK ARGS...: its output in $WORK/out.
play() {
    local book=$1
    shift
    ansible-playbook -i "$WORK/inventory.yml" "deploy/ansible/playbooks/$book.yml" "$@" >"$WORK/out" 2>&1
}
changed() { grep -Eo 'changed=[0-9]+' "$WORK/out" | cut -d= -f2 | paste -sd+ | bc_sum; }
bc_sum() { python3 -c 'import sys; print(sum(int(x) for x in sys.stdin.read().split("+") if x.strip()))'; }

write_inventory() {
    local package
    package=$(cd "$DEBS" && ls derpmesh_0*.deb)
    cat >"$WORK/inventory.yml" <<INV
---
derpmesh:
  vars:
    ansible_connection: community.docker.docker
    ansible_become: false # it is root already
    ansible_python_interpreter: /usr/bin/python3
    derpmesh_deb: $DEBS/$package
    derpmesh_gate_seconds: 40
    derpmesh_node_extra: {InsecureForTests: true}
    derpmesh_settings: {log_level: info}
$1
  children:
    frankfurt:
      vars:
        derpmesh_region: {id: 900, code: fra, name: Frankfurt, latitude: 50.1, longitude: 8.7}
      hosts:
        fra: {ansible_host: $ID-fra, derpmesh_node: fra-1, derpmesh_host_name: $NET.2, derpmesh_ipv4: $NET.2}
    hongkong:
      vars:
        derpmesh_region: {id: 901, code: hkg, name: Hong Kong, latitude: 22.3, longitude: 114.2}
      hosts:
        hkg: {ansible_host: $ID-hkg, derpmesh_node: hkg-1, derpmesh_host_name: $NET.3, derpmesh_ipv4: $NET.3}
INV
}

start_machines() {
    local i=2 host
    machine_image
    docker network create --subnet "$NET.0/24" "$ID" >/dev/null
    for host in "${HOSTS[@]}"; do
        machine_run "$ID-$host" --network "$ID" --ip "$NET.$i" --hostname "$host"
        i=$((i + 1))
    done
    for host in "${HOSTS[@]}"; do
        for _ in $(seq 100); do ! inside "$host" systemctl list-units >/dev/null 2>&1 || break; sleep 0.3; done
        inside "$host" timeout 60 systemctl is-system-running --wait >/dev/null || true
        inside "$host" mkdir -p /etc/systemd/system/derpmesh.service.d
        inside "$host" sh -c 'printf "[Service]\nLimitNOFILE=4096\n" >/etc/systemd/system/derpmesh.service.d/test.conf'
    done
}

links() {
    inside "$1" derpmesh status --json | python3 -c 'import json, sys; print(sum(p["state"] == "up" for p in json.load(sys.stdin)["mesh"]["peers"]))'
}

# Connection attempts from one machine to the other while a file is there; prints tried and refused.
knock() {
    docker exec -i "$ID-fra" python3 - <<PY
import os, socket, time
tried = refused = 0
while os.path.exists("/run/knock"):
    tried += 1
    try:
        socket.create_connection(("$NET.3", 443), 20).close()
    except OSError:
        refused += 1
    time.sleep(0.01)
print(tried, refused)
PY
}

docker_use
trap clean_up EXIT
[ "${1:-}" != --keep ] || trap - EXIT

(cd deploy/ansible && ansible-lint --offline --nocolor --profile production) >"$WORK/out" 2>&1 || fail "ansible-lint"
ok "ansible-lint, production profile"
build_packages >"$ROOT/build/deb-build.log" 2>&1 || { tail -n 20 "$ROOT/build/deb-build.log"; fail "the package cannot be built"; }
start_machines

write_inventory ''
! play site || fail "a rollout although nobody has chosen who may use it"
grep -Eq 'derpmesh_admission' "$WORK/out" || fail "it does not say what is missing"
! inside fra test -e /usr/bin/derpmesh || fail "installed although nobody has chosen"
ok "no rollout before somebody has chosen who may use it"

write_inventory '    derpmesh_admission: open
    derpmesh_into: [{host: fra, file: /root/derp.yaml}]'
inside fra sh -c 'printf "# kept by hand\nregions:\n  901:\n    regionid: 901\n    regioncode: old\n    nodes: []\n" >/root/derp.yaml'
play site --check --diff || fail "check mode on bare machines"
! inside fra test -e /usr/bin/derpmesh || fail "check mode has installed something"
[ ! -e "$WORK/derpmesh-mesh.key" ] || fail "check mode has made a key"
ok "check mode changes nothing"

play site || fail "the first run"
for host in "${HOSTS[@]}"; do [ "$(links "$host")" = 1 ] || fail "$host has no link"; done
inside fra cat /root/derp.yaml >"$WORK/derp.yaml"
if ! grep -q "^# kept by hand" "$WORK/derp.yaml" || ! grep -q hkg-1 "$WORK/derp.yaml" || grep -q old "$WORK/derp.yaml"; then
    cat "$WORK/derp.yaml"
    fail "the map is not in Headscale's file, or more than the map was changed"
fi
! grep -q "$(cat "$WORK/derpmesh-mesh.key")" "$WORK/out" || fail "the mesh key is in the output"
ok "two nodes in two regions, linked"
play site || fail "the second run"
[ "$(changed)" = 0 ] || fail "the second run changes something"
ok "a second run changes nothing"

before=$(inside hkg sha256sum /etc/derpmesh/derpmesh.yaml)
! play site -e '{"derpmesh_settings": {"log_level": "debug", "tls": "manual", "cert_dir": "/nowhere"}, "derpmesh_gate_seconds": 5}' || fail "a rollout of settings that do not work goes through"
[ "$(inside hkg sha256sum /etc/derpmesh/derpmesh.yaml)" = "$before" ] || fail "the second host was changed although the first came up broken"
inside fra derpmesh health >/dev/null || fail "the node with bad settings does not go on"
play site || fail "back to good settings"
ok "a host that does not take its settings stops the rollout, and serves on"

inside fra touch /run/knock
knock >"$WORK/knocked" &
next=$(cd "$DEBS" && ls derpmesh_99*.deb)
play upgrade -e "derpmesh_deb=$DEBS/$next" || fail "the upgrade"
inside fra rm /run/knock
wait $!
read -r tried refused <"$WORK/knocked"
[ "$refused" = 0 ] || fail "$refused of $tried connection attempts were refused during the upgrade"
inside hkg dpkg-query -W derpmesh | grep -q 99 || fail "not the new version"
[ "$(links fra)" = 1 ] || fail "no link after the upgrade"
ok "upgraded one after the other: 0 of $tried connection attempts refused"

key=$(cat "$WORK/derpmesh-mesh.key")
play rotate_mesh_key || fail "a new mesh key"
[ "$(cat "$WORK/derpmesh-mesh.key")" != "$key" ] || fail "still the old key"
for host in "${HOSTS[@]}"; do
    [ "$(inside "$host" cat /etc/derpmesh/mesh.key)" = "$(cat "$WORK/derpmesh-mesh.key")" ] || fail "$host has another key"
    [ "$(links "$host")" = 1 ] || fail "$host has no link with the new key"
done
ok "a new mesh key, links up"

play remove_node -e derpmesh_remove=hkg -e "derpmesh_deb=$DEBS/$next" || fail "a node is removed"
! inside fra grep -q hkg-1 /etc/derpmesh/derpmap.json || fail "the other node still lists it"
! inside hkg test -e /usr/bin/derpmesh || fail "the removed node is still installed"
inside fra derpmesh health >/dev/null || fail "the other node does not serve"
ok "a node removed"

play uninstall --limit fra || fail "uninstall"
for host in "${HOSTS[@]}"; do
    left=$(inside "$host" sh -c 'ls -d /etc/derpmesh /var/lib/derpmesh /run/derpmesh /usr/bin/derpmesh /var/cache/derpmesh_* 2>/dev/null; getent passwd derpmesh' || true)
    [ -z "$left" ] || fail "left behind on $host: $left"
done
ok "uninstalled, nothing left"
