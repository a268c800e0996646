#!/usr/bin/env bash
# Makes sure that the base image of deploy/docker/Dockerfile is there.
#
# Where an image can be pulled, the engine does so by itself.  Where none can (no way to a registry of
# images), a minimal Debian 12 is made with debootstrap and imported under the same tag.  An
# image that is there is left alone.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

TAG=${1:-debian:bookworm-slim}
MIRROR=${DEBIAN_MIRROR:-} # empty: debootstrap's own choice

docker_use
if docker image inspect "$TAG" >/dev/null 2>&1; then
    echo "$TAG is here"
    exit 0
fi
if timeout 60 docker pull -q "$TAG" 2>/dev/null; then
    exit 0
fi

echo "$TAG cannot be pulled: making a minimal Debian 12"
need debootstrap
[ "$(id -u)" = 0 ] || die "debootstrap must run as root"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
log=$dir.log
if ! debootstrap --variant=minbase bookworm "$dir" ${MIRROR:+"$MIRROR"} >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "debootstrap failed"
fi
rm -f "$log"
rm -rf "$dir"/var/cache/apt/archives/*.deb "$dir"/var/lib/apt/lists/* "$dir"/var/log/* \
    "$dir"/usr/share/doc/* "$dir"/usr/share/man/* "$dir"/usr/share/locale/*
# debootstrap names the release only; its updates come from the same place.
sed -i 's/^\(deb [^ ]* bookworm\) main$/&\n\1-updates main/' "$dir/etc/apt/sources.list"
tar -C "$dir" -c . | docker import - "$TAG" >/dev/null
echo "$TAG made"
