"""Files that are whole or absent: written beside their name, made durable, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Give `path` this content: temporary name, fsync, rename, fsync of the folder.

    Whoever looks sees the old content or the new one, also after a power cut. Raises OSError, and then leaves the old
    file as it was and no temporary one.
    """
    if not path.name:  # the folder one is in, or the root
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
        sync_replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a disk may refuse this, too; the first error is the one to tell
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename, error.filename2 = str(path), None  # the name that was asked for
        raise


def sync_replace(temporary: Path, path: Path) -> None:
    """Make `temporary` durable and give it its final name: fsync of the file, rename, fsync of the folder."""
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def create_durably(path: Path, content: bytes) -> bool:
    """Like `write_durably`, but only where nothing has that name yet; False, and nothing changed, where something has.

    Of two processes that try at once, one gets True.
    """
    prepared = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.new")
    write_durably(prepared, content)
    try:
        os.link(prepared, path)  # fails where the name is taken, unlike rename
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: the name may be taken between these two lines
        if path.exists():
            return False
        prepared.replace(path)
    finally:
        prepared.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems refuse it; the file itself is durable and has its name
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
