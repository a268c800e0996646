#!/usr/bin/env python3
"""A small DERP client for the demonstration: logs in to a region's node and speaks with another client.

    demo_client.py listen MAP REGION             prints "key nodekey:...", answers whoever sends to it
    demo_client.py send MAP REGION KEY TEXT      sends, waits for the answer, prints it with its time

The derpMap is read as JSON; its pin (CertName "sha256-raw:...") is checked.  The login is NaCl's box, from
libsodium, which derpmesh needs anyway.
"""
import ctypes
import hashlib
import json
import socket
import ssl
import statistics
import struct
import sys
import time

SERVER_KEY, CLIENT_INFO, SERVER_INFO, SEND, RECV, NOTE_PREFERRED, PING, PONG = 1, 2, 3, 4, 5, 7, 0x12, 0x13
MAGIC = b"DERP\xf0\x9f\x94\x91"
NONCE, MAC = 24, 16

sodium = ctypes.CDLL("libsodium.so.23")
sodium.sodium_init()


def new_pair():
    pub, secret = ctypes.create_string_buffer(32), ctypes.create_string_buffer(32)
    sodium.crypto_box_keypair(pub, secret)
    return pub.raw, secret.raw


def seal(text, to, secret):
    nonce = ctypes.create_string_buffer(NONCE)
    sodium.randombytes_buf(nonce, ctypes.c_size_t(NONCE))
    out = ctypes.create_string_buffer(len(text) + MAC)
    if sodium.crypto_box_easy(out, text, ctypes.c_ulonglong(len(text)), nonce, to, secret) != 0:
        raise SystemExit("the login cannot be sealed")
    return nonce.raw + out.raw


def opens(sealed, sender, secret):
    out = ctypes.create_string_buffer(len(sealed))
    size = ctypes.c_ulonglong(len(sealed) - NONCE)
    return sodium.crypto_box_open_easy(out, sealed[NONCE:], size, sealed[:NONCE], sender, secret) == 0


class Client:
    """Logged in to the first node of a region."""

    def __init__(self, map_file, region):
        with open(map_file, encoding="utf-8") as f:
            node = json.load(f)["Regions"][region]["Nodes"][0]
        self.node = node["Name"]
        self.pub, secret = new_pair()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the pin is checked instead
        raw = socket.create_connection((node["IPv4"], node.get("DERPPort", 443)), timeout=10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.conn = context.wrap_socket(raw, server_hostname=node["HostName"])
        pin = "sha256-raw:" + hashlib.sha256(self.conn.getpeercert(binary_form=True)).hexdigest()
        if pin != node["CertName"]:
            raise SystemExit("%s shows another certificate than the map has" % self.node)
        self.conn.sendall(b"GET /derp HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n"
                          % node["HostName"].encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise SystemExit("%s does not upgrade: %s" % (self.node, head.split(b"\r\n")[0].decode()))
        kind, body = self.frame()
        if kind != SERVER_KEY or not body.startswith(MAGIC):
            raise SystemExit("%s does not speak DERP" % self.node)
        server = body[len(MAGIC):len(MAGIC) + 32]
        self.write(CLIENT_INFO, self.pub + seal(b'{"version":2,"CanAckPings":true}', server, secret))
        kind, body = self.frame()
        if kind != SERVER_INFO or not opens(body, server, secret):
            raise SystemExit("%s has not proven its key" % self.node)
        self.write(NOTE_PREFERRED, b"\1")

    def _more(self):
        data = self.conn.recv(65536)
        if not data:
            raise SystemExit("%s closed the connection" % self.node)
        self.buffer += data

    def write(self, kind, body):
        self.conn.sendall(struct.pack(">BI", kind, len(body)) + body)

    def frame(self):
        while len(self.buffer) < 5 or len(self.buffer) < 5 + struct.unpack(">I", self.buffer[1:5])[0]:
            self._more()
        size = struct.unpack(">I", self.buffer[1:5])[0]
        kind, body, self.buffer = self.buffer[0], self.buffer[5:5 + size], self.buffer[5 + size:]
        if kind == PING:
            self.write(PONG, body)
        return kind, body

    def packet(self):
        """The next packet: who sent it, and what."""
        while True:
            kind, body = self.frame()
            if kind == RECV:
                return body[:32], body[32:]


def listen(map_file, region):
    client = Client(map_file, region)
    print("key nodekey:" + client.pub.hex(), flush=True)
    client.conn.settimeout(None)
    while True:
        sender, text = client.packet()
        client.write(SEND, sender + text + (" … and good evening from " + client.node).encode())


def send(map_file, region, key, text):
    client = Client(map_file, region)
    peer, times, answer = bytes.fromhex(key.split(":", 1)[1]), [], b""
    time.sleep(0.3)  # all nodes know of this client now; packets are never sent again here
    for _ in range(10):
        start = time.perf_counter()
        client.write(SEND, peer + text.encode())
        sender, answer = client.packet()
        times.append((time.perf_counter() - start) * 1000)
        if sender != peer or not answer.startswith(text.encode()):
            raise SystemExit("a strange answer: %r" % answer)
    print("%s\t%s\t%.2f" % (text, answer.decode(), statistics.median(times)))


def main(argv):
    if len(argv) == 3 and argv[0] == "listen":
        listen(*argv[1:])
    elif len(argv) == 5 and argv[0] == "send":
        send(*argv[1:])
    else:
        raise SystemExit(__doc__.strip())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, KeyboardInterrupt) as e:
        raise SystemExit("demo_client: %s" % e)
