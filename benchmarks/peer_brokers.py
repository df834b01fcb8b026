"""The peers `mosquitto`, `nats` and `redis`: servers in C and Go that do such work for a living.

Each is started with a configuration that keeps all in memory and logs nothing. They promise
different things with the reply to a send, and so the table says what.
"""

import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

from peer_contract import Server, TranslatingSocket, ask, broker, free_port

from twinline.cli.bench.load import Caller, LoadError, Pair
from twinline.cli.bench.watchers import AskingWatcher
from twinline.cli.bench.wire import BODY


def not_found(program: str) -> Callable[[], str | None]:
    """Return what says whether a program is installed."""
    return lambda: None if _which(program) else f"{program} is not installed"


def _which(program: str) -> str | None:
    # Distributions put servers where only root's PATH looks.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


# --- MQTT 3.1.1, quality of service 1


def mqtt_packet(kind: int, *fields: bytes) -> bytes:
    """Return a control packet: its first byte, its length, its fields."""
    rest = b"".join(fields)
    left, length = len(rest), b""
    while True:
        left, digit = divmod(left, 128)
        length += bytes([digit | (0x80 if left else 0)])
        if not left:
            return bytes([kind]) + length + rest


def mqtt_text(text: str) -> bytes:
    """Return a string with its length before it."""
    return struct.pack(">H", len(text.encode())) + text.encode()


def mqtt_publish(topic: str, payload: str, identifier: int) -> bytes:
    """Return a message that is to be acknowledged."""
    number = struct.pack(">H", identifier)
    return mqtt_packet(0x32, mqtt_text(topic), number, payload.encode())


class AcknowledgingSocket(socket.socket):
    """A subscriber, which answers each message with the PUBACK that quality of service 1 asks."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return one message, and acknowledge it."""
        data = super().recv(size, flags)
        if data[:1] == b"\x32":  # shorter than 128 bytes, so that its length is one byte
            identifier = 4 + int.from_bytes(data[2:4], "big")
            self.send(b"\x40\x02" + data[identifier : identifier + 2])
        return data


class MosquittoServer(Server):
    """mosquitto, and raw connections to it."""

    def sender(self, name: str) -> Caller:
        """Return a connection that publishes to a topic, one message at a time."""
        acknowledged = b"\x40\x02\x00\x01"
        publish = mqtt_publish(name, BODY, 1)
        return Caller(self._open(socket.socket, f"to-{name}"), repeat(publish), 4, acknowledged)

    def watcher(self, name: str) -> socket.socket:
        """Return a subscriber."""
        watcher = self._open(AcknowledgingSocket, f"of-{name}")
        subscribe = mqtt_packet(0x82, b"\x00\x01", mqtt_text(name), b"\x01")
        ask(watcher, subscribe, b"\x90\x03\x00\x01\x01")
        return watcher

    def _open(self, kind: type[socket.socket], client: str) -> socket.socket:
        connected = self.connect(kind)
        level, clean, keep_alive = b"\x04", b"\x02", b"\x00\x00"
        connect = mqtt_packet(0x10, mqtt_text("MQTT"), level, clean, keep_alive, mqtt_text(client))
        ask(connected, connect, b"\x20\x02\x00\x00")
        return connected


@contextmanager
def serve_mosquitto() -> Iterator[Server]:
    """Run mosquitto."""
    port = free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "set_tcp_nodelay true",
        "persistence false",
        "log_dest none",
    ]
    with tempfile.TemporaryDirectory(prefix="twinline-peers-") as folder:
        Path(folder).chmod(0o755)  # it gives up root's rights before it reads the file again
        path = Path(folder, "mosquitto.conf")
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
        with broker([str(_which("mosquitto")), "-c", str(path)], port) as target:
            yield MosquittoServer(target)


# --- NATS


class NatsServer(Server):
    """nats-server, and raw connections to it."""

    def sender(self, name: str) -> Caller:
        """Return a connection that publishes and flushes: the reply is the flush's."""
        publish = f"PUB {name} {len(BODY)}\r\n{BODY}\r\nPING\r\n".encode()
        return Caller(self._open(), repeat(publish), len(b"PONG\r\n"), b"PONG\r\n")

    def watcher(self, name: str) -> socket.socket:
        """Return a subscriber."""
        watcher = self._open()
        ask(watcher, f"SUB {name} 1\r\nPING\r\n".encode(), b"PONG\r\n")
        return watcher

    def _open(self) -> socket.socket:
        connected = self.connect(socket.socket)
        # After the first PONG the server sends a PING of its own, to measure the way.
        options = b'CONNECT {"verbose":false,"pedantic":false,"lang":"raw","version":"0"}\r\n'
        ask(connected, options + b"PING\r\n", b"PONG\r\n")
        return connected


@contextmanager
def serve_nats() -> Iterator[Server]:
    """Run nats-server."""
    port = free_port()
    command = [str(_which("nats-server")), "-a", "127.0.0.1", "-p", str(port), "-l", "/dev/null"]
    with broker(command, port) as target:
        yield NatsServer(target)


# --- Redis


def resp(*words: str) -> bytes:
    """Return a command in the serialization protocol of Redis."""
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


class NumberSocket(TranslatingSocket):
    """A connection whose replies are numbers of any length, of which the mark is returned."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return the first byte of a reply when all of it has come."""
        data = super().recv(size, flags)
        while data and not data.endswith(b"\r\n"):
            more = super().recv(size, flags)
            if not more:
                return b""
            data += more
        return data if data.startswith(b"-") else data[:1]


class RedisServer(Server):
    """redis-server, and raw connections to it."""

    def sender(self, name: str) -> Caller:
        """Return a connection that appends to a list."""
        push = resp("RPUSH", name, BODY)
        return Caller(self.connect(NumberSocket), repeat(push), 1, b":")

    def pair(self, name: str) -> Pair:
        """Return one that appends to a list and one that waits for its first."""
        wait = resp("BLPOP", name, "0")
        return Pair(self.sender(name), AskingWatcher(self.connect(socket.socket), wait))

    def disconnect(self) -> None:
        """Close every connection, and empty the server."""
        if ask(self.connect(socket.socket), resp("FLUSHALL"), b"\r\n") != b"+OK\r\n":
            raise LoadError("redis-server could not be emptied")
        super().disconnect()


@contextmanager
def serve_redis() -> Iterator[Server]:
    """Run redis-server."""
    port = free_port()
    command = [str(_which("redis-server")), "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--save", "", "--appendonly", "no", "--logfile", "/dev/null"]
    with broker(command, port) as target:
        yield RedisServer(target)
