#!/usr/bin/env bash
# The .deb in a clean Debian 12 that runs systemd: installed, it serves nothing before somebody has chosen who may use it; it
# runs hardened; its watchdog works; an upgrade under connection attempts refuses none; purged, it leaves nothing.
#
# usage: deb_test.sh [--keep]      (--keep leaves the container, to be looked at)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"
# shellcheck source=tests/deb/machine.sh
. "$(dirname "$0")/machine.sh"
cd "$ROOT"

NAME=derpmesh-deb-test-$$
EXPOSURE=1.6 # of systemd-analyze security, at most

ok() { echo "ok: $*"; }
fail() {
    echo "FAILED: $*"
    inside systemctl --no-pager status derpmesh || true
    inside journalctl --no-pager -u derpmesh -n 60 || true
    exit 1
}
inside() { docker exec "$NAME" "$@"; }
clean_up() { docker rm -f -v "$NAME" >/dev/null 2>&1 || true; }
property() { inside systemctl show -P "$1" derpmesh.service; }
active() { [ "$(property ActiveState)" = active ]; }

# until_true SECONDS WHAT COMMAND...
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "$what"
        sleep 0.3
    done
}

booted() { inside systemctl list-units >/dev/null 2>&1; }

start_machine() {
    machine_image
    machine_run "$NAME"
    until_true 60 "systemd does not come up" booted
    inside timeout 60 systemctl is-system-running --wait >/dev/null || true
}

# install_package VERSION
install_package() {
    local file
    file=$(cd "$DEBS" && ls "derpmesh_$1"*.deb)
    inside env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "/debs/$file"
}

# A container has what its kernel gives: no more descriptors than the machine's limit allows.
fit_machine() {
    inside mkdir -p /etc/systemd/system/derpmesh.service.d
    inside sh -c 'printf "[Service]\nLimitNOFILE=4096\nWatchdogSec=2s\n" >/etc/systemd/system/derpmesh.service.d/test.conf'
    inside systemctl daemon-reload
}

write_map() {
    docker exec -i "$NAME" sh -c 'cat >/etc/derpmesh/derpmap.json' <<MAP
{"Regions": {"900": {"RegionID": 900, "RegionCode": "a", "RegionName": "${1:-a}", "Nodes": [{"Name": "one", "RegionID": 900,
 "HostName": "127.0.0.1", "IPv4": "127.0.0.1", "InsecureForTests": true}]}}}
MAP
}

configure() {
    inside sed -i -e 's/^node: CHOOSE/node: one/' -e "s|^admission: CHOOSE|admission: $1|" -e '/^mesh_key_file/d' /etc/derpmesh/derpmesh.yaml
}

# Connection attempts without pause while a file is there; prints tried and refused.
knock() {
    docker exec -i "$NAME" python3 - <<'PY'
import os, socket, time
tried = refused = 0
while os.path.exists("/run/knock"):
    tried += 1
    try:
        socket.create_connection(("127.0.0.1", 443), 20).close()
    except OSError:
        refused += 1
    time.sleep(0.002)
print(tried, refused)
PY
}

test_install() {
    local out
    out=$(install_package 0 2>&1) || { echo "$out"; fail "the package cannot be installed"; }
    grep -q 'serves nothing yet' <<<"$out" || fail "the package does not say what is left to do: $out"
    ! active || fail "it runs although nobody has configured it"
    [ "$(inside systemctl is-enabled derpmesh)" = enabled ] || fail "it is not enabled"
    ok "installed, and serves nothing yet"
    write_map
    ! inside systemctl start derpmesh || fail "it starts although nobody has chosen"
    inside journalctl -u derpmesh --no-pager | grep -q 'derpmesh.yaml:.*admission' || fail "it does not say that admission is to be chosen"
    inside systemctl reset-failed derpmesh
    ok "does not start before somebody has chosen who may use it"
}

test_running() {
    local exposure
    fit_machine
    configure open
    inside systemctl start derpmesh || fail "it does not start"
    until_true 20 "it is not active" active
    inside derpmesh health || fail "it does not serve clients"
    [ "$(inside ps -o user= -p "$(property MainPID)")" = derpmesh ] || fail "it does not run as derpmesh"
    ok "serves clients on port 443 as a user of its own"
    exposure=$(inside systemd-analyze security --no-pager derpmesh.service | sed -n 's/.*exposure level for .*: \([0-9.]*\).*/\1/p')
    python3 -c 'import sys; sys.exit(float(sys.argv[1]) > float(sys.argv[2]))' "$exposure" "$EXPOSURE" || fail "exposure $exposure, at most $EXPOSURE"
    ok "systemd-analyze security: exposure $exposure (at most $EXPOSURE)"
    # shellcheck disable=SC2016  # for the bash inside
    inside bash -c '. /usr/share/bash-completion/completions/derpmesh && COMP_WORDS=(derpmesh dra) COMP_CWORD=1 && _derpmesh && [ "${COMPREPLY[*]}" = drain ]' ||
        fail "bash does not complete"
    dpkg-deb --fsys-tarfile "$DEBS"/derpmesh_0*.deb | tar -xO ./usr/share/man/man1/derpmesh.1.gz | gzip -dc | grep -q '^\.SH HANDOVER' ||
        fail "the manual page does not have the commands"
    ok "manual page and completions"
}

test_reload() {
    write_map b
    inside systemctl reload derpmesh || fail "systemctl reload fails"
    inside sh -c 'cp /etc/derpmesh/derpmap.json /root/good && echo "{" >/etc/derpmesh/derpmap.json'
    ! inside systemctl reload derpmesh || fail "a reload of a broken map is no fault"
    inside sh -c 'cat /root/good >/etc/derpmesh/derpmap.json'
    inside derpmesh health >/dev/null || fail "it does not serve after a bad reload"
    ok "systemctl reload says whether it was taken"
}

test_watchdog() {
    local pid
    pid=$(property MainPID)
    sleep 5 # two of its intervals
    [ "$(property MainPID)" = "$pid" ] || fail "the watchdog ends a node that is well"
    inside kill -STOP "$pid"
    stuck() { [ "$(property MainPID)" != "$pid" ] && active; }
    until_true 40 "a stuck node is not restarted" stuck
    inside derpmesh health >/dev/null || fail "it does not serve after the watchdog"
    ok "a stuck node is restarted by the watchdog"
}

test_upgrade() {
    local pid before key out tried refused
    pid=$(property MainPID) before=$(property NRestarts)
    key=$(inside sha256sum /var/lib/derpmesh/node.key)
    inside touch /run/knock
    knock >"$DEBS/knocked" &
    sleep 1
    out=$(install_package 99 2>&1) || { echo "$out"; fail "the upgrade fails"; }
    grep -q 'a new process takes over' <<<"$out" || fail "the upgrade did not hand over: $out"
    active || fail "not active after the upgrade"
    [ "$(property MainPID)" != "$pid" ] || fail "still the old process"
    [ "$(property NRestarts)" = "$before" ] || fail "systemd had to restart it"
    until_true 10 "it does not serve clients after the upgrade" inside derpmesh health
    sleep 1
    inside rm /run/knock
    wait $!
    read -r tried refused <"$DEBS/knocked"
    if [ "$refused" != 0 ] || [ "$tried" -lt 100 ]; then
        fail "$refused of $tried connection attempts were refused during the upgrade"
    fi
    [ "$(inside sha256sum /var/lib/derpmesh/node.key)" = "$key" ] || fail "another node key"
    inside dpkg-query -W derpmesh | grep -q 99 || fail "not the new version"
    ok "upgraded: 0 of $tried connection attempts refused, same key, no restart"
    sleep 5
    active || fail "the watchdog ends the new process"
    ok "the new process is the service manager's main process"
}

test_purge() {
    local left
    inside env DEBIAN_FRONTEND=noninteractive apt-get purge -y -q derpmesh >/dev/null 2>&1 || fail "purge fails"
    inside rm -rf /etc/systemd/system/derpmesh.service.d # the test's own
    left=$(inside sh -c 'ls -d /etc/derpmesh /var/lib/derpmesh /run/derpmesh /usr/bin/derpmesh /lib/systemd/system/derpmesh.service /etc/systemd/system/*/derpmesh.service 2>/dev/null; getent passwd derpmesh' || true)
    [ -z "$left" ] || fail "left behind: $left"
    ! inside pgrep derpmesh || fail "still running"
    ok "purged, nothing left"
}

docker_use
[ "${1:-}" = --keep ] || trap clean_up EXIT
build_packages >"$ROOT/build/deb-build.log" 2>&1 || { tail -n 20 "$ROOT/build/deb-build.log"; echo "FAILED: the package cannot be built"; exit 1; }
ok "built: $(cd "$DEBS" && du -b derpmesh_0*.deb | cut -f1) bytes"
start_machine
test_install
test_running
test_reload
test_watchdog
test_upgrade
test_purge
