"""Ties between the processes of one run: each learns at once that another one has ended, whoever launched it."""

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

ADDRESS = "MEDROBUST_FIRST_PROCESS"  # environment variable by which processes that we launch find the first one
# an end that the operating system cannot report, such as that of a whole machine, is noticed after half a minute
KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))

Message = dict[str, Any]
Heard = Callable[[int, Message | None], None]  # rank, and what it has sent; None if it has ended without a word


class FirstProcess:
    """The end of the ties at rank 0: it hears all others, and all others hear it.

    Args:
        heard: Called in a thread of its own with what a process sends, and with None when it ends without a word.
        everywhere: Accept processes of other machines as well.
    """

    def __init__(self, heard: Heard, everywhere: bool = False) -> None:
        """Listen on a free port."""
        self._heard = heard
        self._token = secrets.token_hex(8)
        self._server = socket.create_server(("" if everywhere else "127.0.0.1", 0))
        self._ties: dict[int, socket.socket] = {}
        self._last: Message | None = None  # what was told; a process that comes later hears it, too
        threading.Thread(target=self._accept, daemon=True).start()

    def address(self, host: str = "127.0.0.1") -> str:
        """What another process needs to find this one."""
        return f"{host}/{self._server.getsockname()[1]}/{self._token}"

    def tell(self, message: Message) -> None:
        """Send a last message to all others, also to those that come later; those that have ended do not hear it."""
        self._last = message
        for tie in list(self._ties.values()):
            _send(tie, message)

    def _accept(self) -> None:
        while True:
            try:
                tie, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._hear, args=(tie,), daemon=True).start()

    def _hear(self, tie: socket.socket) -> None:
        messages = _messages(tie)
        hello = next(messages, None)
        if not hello or not secrets.compare_digest(str(hello.get("token")), self._token):
            tie.close()
            return
        rank = int(hello["rank"])
        self._ties[rank] = tie
        if self._last is not None:
            _send(tie, self._last)
        for message in messages:
            if message.get("done"):
                return
            self._heard(rank, message)
        if self._last is None:
            self._heard(rank, None)


class OtherProcess:
    """The end of the ties at any other rank.

    Args:
        address: As the first process gives it.
        rank: Number of this process.
        heard: Called in a thread of its own with what the first process sends, and with None when it ends without a
            word.

    Raises:
        OSError: The first process cannot be reached, or has ended.
    """

    def __init__(self, address: str, rank: int, heard: Heard) -> None:
        """Connect, and introduce oneself."""
        host, port, token = address.split("/")
        self._heard = heard
        self._tie = socket.create_connection((host, int(port)), timeout=30)
        self._tie.settimeout(None)
        _keep_alive(self._tie)
        _send(self._tie, {"token": token, "rank": rank})
        threading.Thread(target=self._hear, daemon=True).start()

    def tell(self, message: Message) -> bool:
        """Send a message to the first process; whether it could be sent."""
        return _send(self._tie, message)

    def _hear(self) -> None:
        for message in _messages(self._tie):
            if message.get("done"):
                return
            self._heard(0, message)
        self._heard(0, None)


def address_given() -> str | None:
    """Address of the first process, if that has launched this one."""
    return os.environ.get(ADDRESS) if os.environ.get("LOCAL_RANK", "0") != "0" else None


def _send(tie: socket.socket, message: Message) -> bool:
    try:
        tie.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True


def _messages(tie: socket.socket) -> Any:
    """What arrives, line by line, until the other side ends."""
    _keep_alive(tie)
    with suppress(OSError, ValueError), tie.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line)


def _keep_alive(tie: socket.socket) -> None:
    tie.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in KEEPALIVE:
        if hasattr(socket, name):
            tie.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
