"""How a command ends: by itself, by a mistake or by a signal, with a true exit status and at most one sentence."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import NoReturn, Self, TypeAlias

from cli.ranks import FirstProcess, Message, OtherProcess, address_given

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 10.0  # seconds in which what runs may close its files; then the process ends wherever it is
LAST = 20.0  # seconds in which the other processes of the run end
Children: TypeAlias = Callable[[], Sequence[subprocess.Popen[bytes]]]


class Stopped(BaseException):
    """The command ends here; raised in the main thread wherever that is."""


class UnfinishedError(Exception):
    """The command came to its end without what was asked of it; the message is a sentence."""


@dataclass(frozen=True)
class Cause:
    """Why a command ends.

    Args:
        status: Its exit status.
        reason: What the user is told; empty if it has been told already.
        kept: Whether the sentence goes on with what is kept.
    """

    status: int
    reason: str = ""
    kept: bool = False


class Ending:
    """Watches over a command, in one process or several, and ends it.

    A signal, the end of another process or a failure is noted as the cause, and the main thread is interrupted. If it
    does not come out in time, because it waits for another process or computes in one long call, the process is ended
    from a thread. Only the first process speaks, or the second if the first one was killed.

    Attributes:
        kept: Says what of the work is kept, to complete a sentence.
        release: Leaves what only one process may have, such as a folder, to others.
        rank: Number of this process.
        ranks: Number of processes.
    """

    def __init__(self) -> None:
        """Nothing is watched yet."""
        self.kept: Callable[[], str] = lambda: "nothing was begun; run the same command again"
        self.release: Callable[[], None] = lambda: None
        self.rank, self.ranks = rank_given(), 1
        self.cause: Cause | None = None
        self._first: FirstProcess | None = None
        self._other: OtherProcess | None = None
        self._children: Children = list
        self._lock, self._finishing = threading.RLock(), threading.Lock()  # a signal may come while it is held
        self._noted, self._told = threading.Event(), threading.Event()
        self._raised = self._asked = self._speaks = self._closed = False
        self._handlers: dict[signal.Signals, object] = {}
        self._timer: threading.Timer | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._woken_before = -1

    def __enter__(self) -> Self:
        """Take over the signals, and tie this process to the one that has launched it."""
        if threading.current_thread() is threading.main_thread():
            self._take_signals()
        if address := address_given():
            self.ranks = int(os.environ.get("WORLD_SIZE", "2"))
            try:
                self._other = OtherProcess(address, self.rank, self._heard)
            except OSError:
                sys.exit(1)  # the first process has ended, and has said why
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the command as the cause says; an error without a cause keeps its traceback."""
        tied = self._first is not None or self._other is not None
        if kind is KeyboardInterrupt:  # from a library that takes the signal while it computes, as polars does
            self._note(signal.SIGINT)
        if kind is not None and self.cause is None and tied and issubclass(kind, RuntimeError):
            self._noted.wait(5)  # it may only be what the end of another process looks like from here
        if kind is None and self.cause is None:
            self._finish_well()
            self._give_back()
            return
        if self.cause is None:
            status = error.code if isinstance(error, SystemExit) else 1
            if not status:
                self._give_back()
                return
            if tied and not isinstance(error, SystemExit):
                traceback.print_exception(error)
            self.cause = Cause(status if isinstance(status, int) else 1)
            if not tied:
                self._give_back()
                return
        self._closed = True
        self._finish()
        if tied:
            sys.stdout.flush()
            os._exit(self.cause.status)  # what is left of the ties between processes may wait for those that have ended
        self._give_back()
        raise SystemExit(self.cause.status) from None

    def fail(self, status: int, reason: str, kept: bool = False) -> NoReturn:
        """End the command with a sentence, unless it is ending already."""
        with self._lock:
            if self.cause is None:
                self.cause = Cause(status, reason, kept)
        self._raised = True
        raise Stopped

    def launch(self, ranks: int, children: Children) -> str:
        """Become the first of several processes on this machine, of which this one is about to launch the others.

        Args:
            ranks: Number of processes.
            children: Gives those that have been launched, in the order of their ranks.

        Returns:
            The address that the others need.
        """
        self.ranks, self._children = ranks, children
        if self._first is None:
            self._first = FirstProcess(self._heard)
            threading.Thread(target=self._watch_children, daemon=True).start()
        return self._first.address()

    def meet(self, rank: int, ranks: int, host: str, broadcast: Callable[[str], str]) -> None:
        """Tie the processes of a run that something else has launched; all of them call this.

        Args:
            rank: Number of this process.
            ranks: Number of processes.
            host: The first process's machine.
            broadcast: Gives every process the first one's text.
        """
        self.rank, self.ranks = rank, ranks
        if rank == 0 and self._first is None:
            self._first = FirstProcess(self._heard, everywhere=True)
        address = broadcast(self._first.address(host) if self._first else "")
        if rank and self._other is None:
            with suppress(OSError):
                self._other = OtherProcess(address, rank, self._heard)

    def stop(self, cause: Cause) -> None:
        """End the command from a thread: interrupt the main thread, and do without it if it does not answer."""
        with self._lock:
            if self.cause is not None or self._closed:
                return
            self.cause = cause
        self._noted.set()
        self._start_timer()
        if signal.SIGTERM in self._handlers:
            os.kill(os.getpid(), signal.SIGTERM)

    def _take_signals(self) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
                self._handlers[number] = signal.signal(number, self._on_signal)
        near, far = socket.socketpair()
        far.setblocking(False)
        self._wake = (near, far)
        self._woken_before = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._forget_signals)
        threading.Thread(target=self._hear_signals, args=(near,), daemon=True).start()

    def _forget_signals(self) -> None:
        """Leave the signals of a forked process, such as a loader's, alone."""
        if self._handlers and not self._closed:
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            self._handlers = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the main thread, once."""
        self._note(number)
        if not self._raised and not self._closed:
            self._raised = True
            raise Stopped

    def _hear_signals(self, near: socket.socket) -> None:
        """Note signals even while the main thread is in a long call, where no handler runs."""
        while numbers := _received(near):
            for number in numbers:
                if number in SIGNALS and not self._closed:
                    if number == signal.SIGINT and self._asked:
                        self._exit_now()
                    self._asked |= number == signal.SIGINT
                    self._note(number)

    def _note(self, number: int) -> None:
        with self._lock:
            if self.cause is not None:
                return
            name = signal.Signals(number).name
            stopped = f"rank {self.rank} of {self.ranks} was stopped by {name}" if self.rank else f"stopped by {name}"
            self.cause = Cause(128 + number, stopped, kept=True)
        self._noted.set()
        self._start_timer()

    def _heard(self, rank: int, message: Message | None) -> None:
        """Another process ends: it says why, or was killed."""
        if message is not None:
            self.stop(Cause(message["status"], message.get("reason", ""), message.get("kept", False)))
        elif self.rank == 0:
            self.stop(self._killed(rank))
        else:
            self._speaks = self.rank == 1
            self.stop(Cause(1, f"rank 0 of {self.ranks} was killed", kept=True))

    def _killed(self, rank: int) -> Cause:
        """The cause when a process has ended without a word."""
        status = self._status_of(rank)
        if status is not None and status - 128 in SIGNALS:  # before it could say so
            name = signal.Signals(status - 128).name
            return Cause(status, f"rank {rank} of {self.ranks} was stopped by {name}", kept=True)
        if status is not None and status > 0:
            return Cause(status, f"rank {rank} of {self.ranks} ended with status {status}", kept=True)
        if status:
            name = signal.Signals(-status).name
            return Cause(128 - status, f"rank {rank} of {self.ranks} was killed by {name}", kept=True)
        return Cause(1, f"rank {rank} of {self.ranks} was killed", kept=True)

    def _status_of(self, rank: int) -> int | None:
        """Exit status of a process that this one has launched; None if it has launched none of that number."""
        children = self._children()
        if not 0 < rank <= len(children):
            return None
        with suppress(subprocess.TimeoutExpired):
            return children[rank - 1].wait(5)
        return None

    def _watch_children(self) -> None:
        """Notice that a process ends before it is tied to this one."""
        while not self._closed and self.cause is None:
            for rank, child in enumerate(self._children(), 1):
                if child.poll():
                    time.sleep(1)  # a process that says why is heard first
                    self.stop(self._killed(rank))
            time.sleep(1)

    def _start_timer(self) -> None:
        self._timer = threading.Timer(GRACE, self._exit_now)
        self._timer.daemon = True
        self._timer.start()

    def _exit_now(self) -> None:
        """End the process from a thread."""
        assert self.cause is not None
        self._finish()
        os._exit(self.cause.status)

    def _finish(self) -> None:
        """Say the sentence, tell the other processes, and wait for those that this one has launched; once."""
        if not self._finishing.acquire(blocking=False):
            self._told.wait(LAST + GRACE)
            return
        assert self.cause is not None
        cause = self.cause
        if self._other is not None and not self._speaks:
            self._other.tell({"status": cause.status, "reason": cause.reason, "kept": cause.kept})
        elif cause.reason and not (self.rank and cause.kept and not self._speaks):
            joint = "; " if cause.reason.startswith("error: ") else ": "
            say(f"{cause.reason}{joint}{self._what_is_kept()}" if cause.kept else cause.reason)
        if self._first is not None:
            self._first.tell({"status": cause.status})
        self._reap()
        self.release()
        self._told.set()

    def _what_is_kept(self) -> str:
        try:
            return self.kept()
        except (Exception, KeyboardInterrupt):  # whatever is wrong there, the sentence has to be said
            return "run the same command again"

    def _reap(self) -> None:
        """Wait until the launched processes have ended, and kill those that do not."""
        deadline = time.monotonic() + LAST
        for child in self._children():
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))
            if child.poll() is None:
                child.kill()
                child.wait()

    def _finish_well(self) -> None:
        """Let the other processes end by themselves."""
        self._closed = True
        if self._other is not None:
            self._other.tell({"done": True})
        if self._first is not None:
            self._first.tell({"done": True})
            self._reap()

    def _give_back(self) -> None:
        """Leave folder and signals to others."""
        self._closed = True
        self.release()
        if self._timer is not None:
            self._timer.cancel()
        if self._wake is not None:
            signal.set_wakeup_fd(self._woken_before)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            self._handlers = {}
            for end in self._wake:
                end.close()


def rank_given() -> int:
    """Number of this process as whatever has launched it says, before the processes know each other."""
    given = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next((number for number in given if number and number.isdigit()), 0))


def _received(near: socket.socket) -> bytes:
    try:
        return near.recv(64)
    except OSError:
        return b""


def say(sentence: str) -> None:
    """Write a sentence to standard error, on a line of its own, with control characters written out."""
    sentence = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in sentence)
    with suppress(OSError, ValueError):
        sys.stderr.write(f"\n{sentence}\n" if sys.stderr.isatty() else f"{sentence}\n")
        sys.stderr.flush()


@contextmanager
def while_importing() -> Iterator[None]:
    """End at once, with a sentence, on a signal that comes while modules are imported: nothing has been begun."""

    def end(number: int, frame: FrameType | None) -> None:
        if address_given() is None:
            say(f"stopped by {signal.Signals(number).name}: nothing was begun; run the same command again")
        os._exit(128 + number)

    main_thread = threading.current_thread() is threading.main_thread()
    taken = {number: signal.getsignal(number) for number in SIGNALS if main_thread}
    # a program that imports this one may have handlers of its own
    taken = {number: old for number, old in taken.items() if old in (signal.SIG_DFL, signal.default_int_handler)}
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)
