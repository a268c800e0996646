#!/bin/sh
# The file system of the image: a program, what it needs to run, and nothing else.
#
# usage: rootfs.sh DIR PROGRAM      (in the build stage, on Debian, where busybox, uacme and ca-certificates are installed)
#
# Happy path: the programs, each with the libraries that ldd names, where Debian has them; /etc with the user 65532; the
# packages that all this came from, as dpkg's own list and with their copyright files.
# Fails: at the first thing that is missing.
set -eu

DIR=$1
PROGRAM=$2
USER_ID=65532
APPLETS='sh cat cp date df dirname env grep gzip head id ls printf ps rm sed sleep sort stat tail tar test true wc'

# put FILE [PLACE]: the file itself, where a link points to it too.
put() {
    place=$DIR${2:-$1}
    mkdir -p "$(dirname "$place")"
    [ -e "$place" ] || cp -L -p "$1" "$place"
}

# put_program FILE PLACE
put_program() {
    put "$1" "$2"
    ldd "$1" | grep -q 'not found' && { ldd "$1" >&2 && exit 1; }
    for library in $(ldd "$1" | grep -o '/[^ ]*'); do
        put "$library"
        echo "$library" >>"$DIR.files"
    done
    echo "$1" >>"$DIR.files"
}

rm -rf "$DIR" "$DIR.files"
mkdir -p "$DIR/usr/bin" "$DIR/usr/lib" "$DIR/usr/lib64" "$DIR/usr/local/bin" "$DIR/etc/ssl/certs" "$DIR/usr/lib/ssl" \
    "$DIR/var/lib/dpkg" "$DIR/proc" "$DIR/sys" "$DIR/dev" "$DIR/run"
for old in bin lib lib64; do ln -s "usr/$old" "$DIR/$old"; done
ln -s /run "$DIR/var/run"
install -d -m 1777 "$DIR/tmp"
install -d -o $USER_ID -g $USER_ID -m 0700 "$DIR/var/lib/derpmesh"
install -d -o $USER_ID -g $USER_ID -m 0750 "$DIR/run/derpmesh"
install -d -o root -g $USER_ID -m 0750 "$DIR/etc/derpmesh"

put_program "$PROGRAM" /usr/local/bin/derpmesh
put_program "$(command -v uacme)" /usr/bin/uacme
put_program "$(command -v busybox)" /usr/bin/busybox
for applet in $APPLETS; do ln -s busybox "$DIR/usr/bin/$applet"; done

printf 'root:x:0:0:root:/:/bin/sh\nderpmesh:x:%s:%s:derpmesh:/var/lib/derpmesh:/bin/sh\n' $USER_ID $USER_ID >"$DIR/etc/passwd"
printf 'root:x:0:\nderpmesh:x:%s:\n' $USER_ID >"$DIR/etc/group"
echo 'hosts: files dns' >"$DIR/etc/nsswitch.conf"
put /etc/os-release
put /etc/ssl/openssl.cnf
put /etc/ssl/certs/ca-certificates.crt
ln -s /etc/ssl/openssl.cnf "$DIR/usr/lib/ssl/openssl.cnf"
ln -s /etc/ssl/certs "$DIR/usr/lib/ssl/certs"
ln -s /etc/ssl/certs/ca-certificates.crt "$DIR/usr/lib/ssl/cert.pem"

# Whose files these are.  ldd may name a library by a path that Debian's merged /usr does not list.
while read -r file; do
    dpkg -S "$file" 2>/dev/null || dpkg -S "$(readlink -f "$file")" 2>/dev/null || dpkg -S "/usr$file" 2>/dev/null ||
        dpkg -S "${file#/usr}" 2>/dev/null || true
done <"$DIR.files" | sed 's/: .*//' | { cat && echo ca-certificates; } | sort -u |
    while read -r package; do
        dpkg-query -s "$package" >>"$DIR/var/lib/dpkg/status"
        echo >>"$DIR/var/lib/dpkg/status"
        copyright=/usr/share/doc/${package%%:*}/copyright
        [ ! -e "$copyright" ] || put "$copyright"
    done
rm "$DIR.files"
