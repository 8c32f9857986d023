"""A system bus with nothing on it but systemd-logind, for tests: takes inhibitor locks and tells of shutdowns.

Usage: logind.py SOCKET

Each line read from standard input is `shutdown` or `cancel`: PrepareForShutdown is sent. `locked` and `released` are
printed as the lock is taken and closed; a shutdown would go on at `released`.
"""

import array
import os
import socket
import struct
import sys
import threading

LOGIND = ":1.7"
path = sys.argv[1]
os.makedirs(os.path.dirname(path), exist_ok=True)
clients = []


def say(text):
    print(text, flush=True)


def pad(data, to):
    return data + bytes(-len(data) % to)


def string(text):
    return struct.pack("<I", len(text)) + text.encode() + b"\0"


def message(kind, serial, fields, signature="", body=b""):
    """`fields` are (code, type, value); the specification's header in little endian."""
    if signature:
        fields = fields + [(8, "g", signature)]
    packed = b""
    for code, kind_of, value in fields:
        packed = pad(packed, 8) + bytes([code, 1]) + kind_of.encode() + b"\0"
        if kind_of == "u":
            packed = pad(packed, 4) + struct.pack("<I", value)
        elif kind_of == "g":
            packed += bytes([len(value)]) + value.encode() + b"\0"
        else:
            packed = pad(packed, 4) + string(value)
    head = struct.pack("<cBBBIII", b"l", kind, 0, 1, len(body), serial, len(packed))
    return pad(head + packed, 8) + body


def parse(data):
    """Fields of a message by code."""
    length = struct.unpack_from("<I", data, 12)[0]
    at, fields = 16, {}
    while at < 16 + length:
        at += -at % 8
        code, kind_of = data[at], chr(data[at + 2])
        at += 4
        if kind_of == "g":
            fields[code] = data[at + 1 : at + 1 + data[at]].decode()
            at += data[at] + 2
        elif kind_of == "u":
            fields[code] = struct.unpack_from("<I", data, at)[0]
            at += 4
        else:
            size = struct.unpack_from("<I", data, at)[0]
            fields[code] = data[at + 4 : at + 4 + size].decode()
            at += size + 5
    return fields


def watch(lock):
    os.read(lock, 1)
    os.close(lock)
    say("released")


def serve(client):
    stream = client.makefile("rb")
    stream.read(1)
    for answer in (b"OK 0123\r\n", b"AGREE_UNIX_FD\r\n", b""):
        stream.readline()
        client.sendall(answer)
    clients.append(client)
    while head := stream.read(16):
        body, serial, fields = struct.unpack_from("<III", head, 4)
        fields = parse(head + stream.read((16 + fields + 7) // 8 * 8 - 16))
        stream.read(body)
        reply = [(5, "u", serial), (7, "s", LOGIND)]
        member = fields[3]
        if member == "Inhibit":
            ours, theirs = os.pipe()
            rights = array.array("i", [theirs])
            data = message(2, 1, reply + [(9, "u", 1)], "h", struct.pack("<I", 0))
            say("locked")
            client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            os.close(theirs)
            threading.Thread(target=watch, args=(ours,), daemon=True).start()
        elif member == "Get":
            # InhibitDelayMaxUSec: an hour, so that nobody has to change it.
            client.sendall(message(2, 1, reply, "v", b"\1t\0" + bytes(5) + struct.pack("<Q", 3600 * 10**6)))
        elif member in ("Hello", "GetNameOwner"):
            client.sendall(message(2, 1, reply, "s", string(LOGIND)))
        else:
            client.sendall(message(2, 1, reply))
    clients.remove(client)


def listen():
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    say("ready")
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


threading.Thread(target=listen, daemon=True).start()
for line in sys.stdin:
    fields = [
        (1, "o", "/org/freedesktop/login1"),
        (2, "s", "org.freedesktop.login1.Manager"),
        (3, "s", "PrepareForShutdown"),
        (7, "s", LOGIND),
    ]
    for client in list(clients):
        client.sendall(message(4, 1, fields, "b", struct.pack("<I", line.strip() == "shutdown")))
