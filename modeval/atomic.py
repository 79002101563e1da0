"""Files and folders that appear whole or not at all, and one sentence for a disk that is full.

Everything is written under a hidden name beside its own, brought to the disk, and renamed. Readers
see what was there before or what is there now, whatever stops the writer. What a killed writer
leaves behind has no name that anything reads, and the next writer of the same name removes it: it
is told from the work of a living one by a lock, which dies with its process.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modeval.errors import ModevalError

if sys.platform != "win32":
    import fcntl

PARTIAL = ".partial"
FULL = (errno.ENOSPC, errno.EDQUOT)
NEWBORN_SECONDS = 60  # a file this young may not have been locked yet
EXCHANGE = 2  # RENAME_EXCHANGE of Linux
MOUNTS = Path("/proc/self/mounts")
LOCAL_LOCKS = {"nolock", "local_lock=all", "local_lock=flock", "localflock"}
"""How NFS and Lustre are mounted where their locks hold on one machine alone."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is raised when something cannot be written.

    Attributes:
        error: its class.
        advice: how its message ends: what is left on the disk, and what to type next.
    """

    error: type[ModevalError]
    advice: str


@contextlib.contextmanager
def whole_file(
    path: Path,
    fault: Fault,
    *,
    also: tuple[type[Exception], ...] = (),
) -> Iterator[Path]:
    """Give the name of a file to write, which takes the place of ``path`` when all went well.

    A link stays, and what it leads to is replaced. Into a device or a pipe the content is written
    when all went well: nothing but files may be replaced.

    Args:
        path: the file.
        fault: what is raised when it cannot be written.
        also: what a serialiser raises beside OSError.

    Raises:
        ModevalError: of the class that ``fault`` names.
    """
    with reported(path, fault, also=also):
        if path.exists() and not path.is_file() and not path.is_dir():
            with _for_device(path) as temporary:
                yield temporary
            return
        path = path.resolve(strict=path.exists()) if path.is_symlink() else path
        sweep(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
        temporary = Path(name)
        try:
            _lock(handle)
            yield temporary
            temporary.chmod(0o644)  # mkstemp, and some serialisers, let nobody else read it
            _to_disk(temporary)
            temporary.replace(path)
            _to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


@contextlib.contextmanager
def _for_device(path: Path) -> Iterator[Path]:
    """Give the name of a file whose content goes into a device, or a pipe that somebody reads."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / path.name
        yield temporary
        handle = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
        os.set_blocking(handle, True)  # it was opened so as not to wait for a reader
        with temporary.open("rb") as source, os.fdopen(handle, "wb") as target:
            shutil.copyfileobj(source, target)


def write_bytes(path: Path, content: bytes, fault: Fault) -> None:
    """Write a file whole or not at all.

    Raises:
        ModevalError: of the class that ``fault`` names.
    """
    with whole_file(path, fault) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str, fault: Fault) -> None:
    """Write a text file in UTF-8, likewise; half of a surrogate pair becomes its escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), fault)


@contextlib.contextmanager
def whole_folder(folder: Path, fault: Fault, *, replace: bool = False) -> Iterator[Path]:
    """Give a hidden folder beside ``folder`` that takes its name when all went well.

    Parents that are missing are made, and removed again when it fails.

    Args:
        folder: does not exist, or is empty, unless ``replace``.
        fault: what is raised when it cannot be written.
        replace: take the place of a folder that is there.

    Raises:
        ModevalError: of the class that ``fault`` names.
    """
    folder = folder.resolve()
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{PARTIAL}")
    with reported(folder, fault):
        if folder.parent.exists():
            sweep(folder)
        with new_folders(folder.parent):
            try:
                draft.mkdir()
                with _held(draft):
                    yield draft
                    for path in draft.rglob("*"):
                        _to_disk(path)
                    _take_place(draft, folder, replace=replace)
                    _to_disk(folder.parent)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise


@contextlib.contextmanager
def new_folders(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; what is new of them and empty goes when the rest fails.

    Raises:
        OSError: it cannot be made.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with contextlib.suppress(OSError):  # somebody else's by now
                place.rmdir()
        raise


@contextlib.contextmanager
def new_file(path: Path, content: bytes, fault: Fault) -> Iterator[None]:
    """Write a file into a folder of its own making; both go again when the rest fails.

    Raises:
        ModevalError: of the class that ``fault`` names.
    """
    there = path.exists()
    with contextlib.ExitStack() as made:
        with reported(path, fault):
            made.enter_context(new_folders(path.parent))
        write_bytes(path, content, fault)
        try:
            yield
        except BaseException:
            if not there:
                path.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def reported(
    path: Path,
    fault: Fault,
    *,
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn what the file system or a serialiser says while ``path`` is written into one error.

    Raises:
        ModevalError: of the class that ``fault`` names.
    """
    caught: tuple[type[Exception], ...] = (OSError, UnicodeEncodeError, *also)
    try:
        yield
    except caught as error:
        raise fault.error(f"Cannot write {path}: {reason(error)}. {fault.advice}") from None


def reason(error: BaseException) -> str:
    """Return in a few words why something could not be written.

    >>> reason(OSError(errno.ENOSPC, "No space left on device"))
    'the disk is full'
    """
    if getattr(error, "errno", None) in FULL or "No space left" in str(error):
        return "the disk is full"
    if isinstance(error, UnicodeEncodeError):
        return "its name is no text"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(said).splitlines()[0].rstrip(".").lower()


def check_writable(path: Path, fault: Fault) -> None:
    """Refuse a file that could not be written, before anything is computed for it.

    Raises:
        ModevalError: of the class that ``fault`` names.
    """
    with reported(path, fault):
        if path.exists() and not path.is_file() and not path.is_dir():
            return
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass


@contextlib.contextmanager
def locked(place: Path) -> Iterator[bool]:
    """Hold a folder, or a file that is made for it, for this process alone; give whether it is.

    The lock dies with its process, so nothing is ever left locked. File systems that have no locks
    grant it to everybody: see :func:`why_unlocked`. Some that machines share lock files only, and
    only those that may be written.
    """
    if sys.platform == "win32":
        yield True
        return
    folder = place.is_dir()
    handle = os.open(place, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _lock(handle)
    finally:
        os.close(handle)


def why_unlocked(folder: Path) -> str:
    """Say why a lock in a folder keeps nobody out; nothing where it does.

    A lock is tried twice, as two workers would: where both get it, there are none. Locks that hold
    between the processes of one machine alone are told by how the file system is mounted.
    """
    if sys.platform == "win32":
        return "this system has none that die with their process"
    with (
        tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=PARTIAL) as file,
        locked(Path(file.name)) as one,
        locked(Path(file.name)) as other,
    ):
        if one and other:
            return "its file system grants a lock to everybody who asks"
        if not one:
            return "its file system refuses locks"
    local = sorted(LOCAL_LOCKS & set(_mounted_with(folder.resolve())))
    return f"it is mounted with {local[0]}, so that other machines do not see them" if local else ""


def _mounted_with(folder: Path) -> list[str]:
    """Return how the file system of a folder is mounted; nothing where the system does not say."""
    with contextlib.suppress(OSError):
        lines = [line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
        found = [
            (len(place), options)
            for _, place, _, options, *_ in lines
            if folder.is_relative_to(place.replace("\\040", " "))
        ]
        return max(found, default=(0, ""))[1].split(",")
    return []


def sweep(path: Path) -> None:
    """Remove what killed writers of ``path`` left beside it; the work of living ones stays."""
    if sys.platform == "win32":
        return  # no locks that die with their process: nothing is swept
    for left in path.parent.glob(f".{_literally(path.name)}.*{PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime < NEWBORN_SECONDS:
                continue
            with locked(left) as dead:
                if dead and left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                elif dead:
                    left.unlink()


def _literally(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    with locked(folder):
        yield


def _lock(handle: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _to_disk(path: Path) -> None:
    """Have the content of a file, or the names in a folder, outlast a loss of power."""
    if path.is_dir() and sys.platform == "win32":
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in FULL:
            raise
    finally:
        os.close(handle)


def _take_place(draft: Path, folder: Path, *, replace: bool) -> None:
    """Rename a draft; a folder that it replaces is there until the moment that it is replaced."""
    if not folder.exists() or not replace:
        for left in folder.glob(f".*{PARTIAL}"):
            left.unlink()  # of a writer that died before its first file
        draft.rename(folder)  # an empty folder may be there
        return
    if _exchange(draft, folder):
        shutil.rmtree(draft, ignore_errors=True)
        return
    old = draft.with_suffix(".old" + PARTIAL)
    folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step, where the system can; tell whether it did."""
    try:
        swap = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here = -100  # AT_FDCWD
    return bool(swap(here, os.fsencode(one), here, os.fsencode(other), EXCHANGE) == 0)


def append(path: Path, content: bytes, fault: Fault) -> None:
    """Add to the end of a file in one write, so that lines of two writers do not mix.

    What a disk that fills up took of it is cut off again, unless another writer came after it.

    Raises:
        ModevalError: of the class that ``fault`` names.
    """
    with reported(path, fault):
        new = not path.exists()
        try:
            with path.open("ab", buffering=0) as file:
                _write_all(file, content)
        except OSError:
            if new:
                _remove_empty(path)
            raise


def _write_all(file: IO[bytes], content: bytes) -> None:
    """Write all of it: a disk that fills up takes a part, and says so at the next call only."""
    view = memoryview(content)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        with contextlib.suppress(OSError):  # pipes have no end
            end, taken = file.tell(), len(content) - len(view)
            if taken and end == os.fstat(file.fileno()).st_size:
                file.truncate(end - taken)
        raise


def _remove_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_file() and not path.stat().st_size:
            path.unlink()
