#!/bin/sh
# Headscale with one user; a key that lets machines in goes to /shared/authkey.
set -eu
headscale -c /demo/headscale.yaml serve &
until headscale -c /demo/headscale.yaml health >/dev/null 2>&1; do sleep 0.5; done
headscale -c /demo/headscale.yaml users create demo >/dev/null 2>&1 || true # it is there after a restart
headscale -c /demo/headscale.yaml preauthkeys create --user 1 --reusable --expiration 24h -o json |
    sed -n 's/.*"key": *"\([^"]*\)".*/\1/p' >/shared/authkey.new
mv /shared/authkey.new /shared/authkey
wait
