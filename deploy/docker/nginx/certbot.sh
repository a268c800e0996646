#!/bin/sh
# Gets the certificate for DOMAIN through the webroot that nginx serves, and renews it, asking twice a day.
set -u
: "${DOMAIN:?the HostName of this node in the derpMap}" "${EMAIL:?an address for the certificate authority}"
trap 'exit 0' TERM INT
until certbot certonly --non-interactive --agree-tos --email "$EMAIL" --webroot -w /var/www/certbot -d "$DOMAIN" \
    --keep-until-expiring; do
    echo "no certificate: again in an hour; does $DOMAIN lead here, and is port 80 open?" >&2
    sleep 3600 &
    wait $!
done
while :; do
    sleep 43200 &
    wait $!
    certbot renew --quiet
done
