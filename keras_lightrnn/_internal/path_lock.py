"""Lock that reserves a path for one running job."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import threading
import warnings
import weakref
from typing import Any

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

# Far beyond the text of the file: on Windows a locked byte cannot be read.
_LOCKED_BYTE = 2**30

# Locks that this process holds, by real path. A process never conflicts with its own record locks.
_held: dict[str, PathLock] = {}
_registry = threading.Lock()


class PathLock:
    """Exclusive lock on `path`, held through the file `path + ".lock"`.

    The operating system releases the lock when its process dies, however it dies, so the file that
    a dead process left is taken over. The file names the holder for the error message. Within one
    process a lock belongs to a thread: another lock on the path is refused while that thread is
    alive, and replaces it in the same thread, where the earlier job must have ended by an
    exception.

    The lock works between hosts if the file system supports record locks (NFS does). If it
    supports none, a warning is shown and the path is not locked.

    Args:
        path: Path to reserve. Its folder is made if it is missing.

    Raises:
        RuntimeError: if another job holds the lock.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = PathLock(os.path.join(folder, "run.npz"))
    ...     print(os.listdir(folder))
    ...     lock.release()
    ...     print(os.listdir(folder))
    ['run.npz.lock']
    []
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.realpath(path)
        self._thread = weakref.ref(threading.current_thread())
        self._process = os.getpid()
        with _registry:
            held = _held.get(self.path)
            if held is not None:
                thread = held._thread()
                if thread not in (None, threading.current_thread()) and thread.is_alive():
                    raise self._make_error(f"thread {thread.name!r} of this process")
                held._close()
            self._descriptor = self._open()
            _held[self.path] = self

    def release(self) -> None:
        """Release the lock and remove its file. Calling it again does nothing."""
        with _registry:
            # A forked child has a copy of this object, but not the lock.
            if _held.get(self.path) is self and self._process == os.getpid():
                # Removed while it is locked, so that nobody locks a file about to go.
                with contextlib.suppress(OSError):
                    os.remove(self._lock_path)
                self._close()

    @property
    def _lock_path(self) -> str:
        return f"{self.path}.lock"

    def _open(self) -> int:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        while True:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                is_locked = _lock(descriptor)
            except OSError as error:
                warnings.warn(
                    f"{self._lock_path!r} cannot be locked ({error}): nothing keeps a second run "
                    "from using the same path.",
                    stacklevel=4,
                )
                return descriptor
            if not is_locked:
                holder = _read_identity(descriptor)
                os.close(descriptor)
                raise self._make_error(holder)
            # The holder before may have removed the file between the two calls.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._lock_path)):
                    _write_identity(descriptor)
                    return descriptor
            os.close(descriptor)

    def _close(self) -> None:
        del _held[self.path]
        os.close(self._descriptor)

    def _make_error(self, holder: str) -> RuntimeError:
        return RuntimeError(
            f"Only one run may use a path at a time. Received: path={self.path!r}, which is in use "
            f"by {holder}. Give each run another path, or wait until that run has ended. (A lock "
            "ends with its process.)"
        )


def _lock(descriptor: int) -> bool:
    """Lock an open file, and return whether nobody else has."""
    try:
        if fcntl is not None:
            # Not `flock`, whose locks live on in forked workers after their parent has died.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKED_BYTE)
        else:
            import msvcrt

            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except (BlockingIOError, PermissionError):
        return False
    return True


def _write_identity(descriptor: int) -> None:
    identity = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    with contextlib.suppress(OSError):  # of a full disk: the lock holds all the same
        os.write(descriptor, json.dumps(identity).encode())


def _read_identity(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        identity: Any = json.loads(os.read(descriptor, 4096))
        return "process {process} on {host}, since {since}".format(**identity)
    except (ValueError, TypeError, KeyError, AttributeError):
        return "another process"
