"""A load client: one connection, one request at a time, in a process of its own so that its work is not the server's.

Run by plain Python with nothing but the stdlib. Commands come as lines on stdin, each is answered by "ok":

    connect KIND ADDRESS    KIND tcp, unix, udp, tls or http; ADDRESS a path or HOST:PORT
    run COUNT SIZE          COUNT requests of SIZE bytes, every answer checked
    close
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(kind: str, address: str) -> socket.socket:
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(address)
        return sock
    host, _, port = address.rpartition(":")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    sock.connect((host, int(port)))
    if kind != "udp":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if kind == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(sock)
    return sock


def echo(sock: socket.socket, count: int, size: int) -> None:
    message = b"x" * size
    for _ in range(count):
        sock.sendall(message)
        answer = sock.recv(size)
        while len(answer) < size:
            more = sock.recv(size - len(answer))
            if not more:
                raise EOFError("the server closed the connection")
            answer += more
        if answer != message:
            raise ValueError("the answer is not the question")


def datagrams(sock: socket.socket, count: int, size: int) -> None:
    message = b"x" * size
    sock.settimeout(1)
    for _ in range(count):
        sock.send(message)
        try:
            answer = sock.recv(size + 1)
        except TimeoutError:
            sock.send(message)
            answer = sock.recv(size + 1)
        if answer != message:
            raise ValueError("the answer is not the question")


def http(sock: socket.socket, count: int, size: int) -> None:
    for _ in range(count):
        sock.sendall(REQUEST)
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = sock.recv(65536)
            if not more:
                raise EOFError("the server closed the connection")
            answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        while len(body) < size:
            body += sock.recv(65536)
        if not head.startswith(b"HTTP/1.1 200") or len(body) != size:
            raise ValueError(head.decode())


def main() -> None:
    sock: socket.socket | None = None
    run: Callable[[socket.socket, int, int], None] = echo
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "connect":
            kind, address = rest
            sock = connect(kind, address)
            run = {"http": http, "udp": datagrams}.get(kind, echo)
        elif sock is not None and command == "run":
            run(sock, int(rest[0]), int(rest[1]))
        elif sock is not None:
            sock.close()
        print("ok", flush=True)


if __name__ == "__main__":
    main()
