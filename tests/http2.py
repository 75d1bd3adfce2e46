"""HTTP/2 frames by hand, for what no client library would send."""

from __future__ import annotations

import re
import socket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW_MAX = (1 << 31) - 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def block(path: str, **more: str) -> bytes:
    """The headers of a gRPC call, each written out."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers",
    }
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in pair)
        for pair in headers.items()
    )


def message(body: bytes, flag: int = 0) -> bytes:
    """A gRPC message."""
    return bytes([flag]) + len(body).to_bytes(4, "big") + body


def begin(stream: int, path: str, flags: int = END_HEADERS, **more: str) -> bytes:
    """The headers of a call."""
    return frame(HEADERS, flags, stream, block(path, **more))


def call(stream: int, path: str, body: bytes, **more: str) -> bytes:
    """A whole call of a small message."""
    return begin(stream, path, **more) + frame(DATA, END_STREAM, stream, message(body))


def connect(address: str, source: str = "127.0.0.1") -> socket.socket:
    """A connection that has greeted and lets the server send without end."""
    host, port = address.rsplit(":", 1)
    found = socket.create_connection((host, int(port)), 10, (source, 0))
    window = frame(SETTINGS, 0, 0, b"\0\4" + WINDOW_MAX.to_bytes(4, "big"))
    more = (WINDOW_MAX - 65_535).to_bytes(4, "big")
    taken = frame(SETTINGS, ACK, 0)  # of the server's, which widen what may be sent
    found.sendall(PREFACE + window + taken + frame(WINDOW_UPDATE, 0, 0, more))
    settle(found)
    return found


def push(connection: socket.socket, data: bytes) -> bool:
    """Sends as long as the server takes it; False when it has closed, or takes no more."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def given(answer: bytes, stream: int) -> int:
    """How much more may be sent on a stream, by what came."""
    update = re.escape(frame(WINDOW_UPDATE, 0, stream, bytes(4))[:-4])
    return sum(int.from_bytes(n, "big") for n in re.findall(update + b"(....)", answer, re.DOTALL))


def settle(connection: socket.socket, data: bytes = b"") -> bytes:
    """Sends, and reads until the server has seen it; what was read, b"" when it has closed."""
    found = bytearray()
    try:
        connection.sendall(data + frame(PING, 0, 0, b"settled?"))
        while frame(PING, ACK, 0, b"settled?") not in found:
            part = connection.recv(1 << 16)
            if not part:
                return b""
            found += part
    except ConnectionError:
        return b""
    return bytes(found)
