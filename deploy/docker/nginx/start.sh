#!/bin/sh
# nginx in the foreground, with the relay's site as soon as there is a certificate for it, and a reload whenever another one
# lies there: nobody stops anything for a renewal.
#
# DOMAIN: the HostName in the derpMap; NODE: the node's address.
set -eu
: "${DOMAIN:?the HostName of this node in the derpMap}" "${NODE:?the address of the node}"
mkdir -p /run/nginx/sites
certificate=/etc/letsencrypt/live/$DOMAIN/fullchain.pem
known=

# site NAME: from the image, with the names filled in.
site() { sed "s/DOMAIN/$DOMAIN/g; s/NODE/$NODE/g" "/etc/nginx/derpmesh/$1.conf" >"/run/nginx/sites/$1.conf"; }

# Takes over a certificate that is new.  1 if there is none, or the same as before.
look() {
    [ -e "$certificate" ] || return 1
    now=$(cksum <"$certificate")
    [ "$now" != "$known" ] || return 1
    site site
    known=$now
}

site plain
look || echo "no certificate yet at $certificate: only port 80 is served" >&2
nginx -g 'daemon off;' &
nginx=$!
trap 'kill -QUIT $nginx' TERM INT QUIT
while kill -0 $nginx 2>/dev/null; do
    sleep 10 &
    wait $! || true
    if look; then
        if nginx -t -q; then nginx -s reload && echo "serving the certificate of $certificate" >&2; fi
    fi
done
wait $nginx
