"""Compiles C++ kernels with the compiler of the system, once, and loads them.

A kernel is compiled for the processor at hand and kept in the user's cache under a name that says
source, compiler and processor; that takes some seconds. Where there is no compiler,
:func:`compiled` says so and the caller takes another way.

A library that is loaded runs, so nothing is loaded but what this user put into a folder that nobody
else can write to, with its SHA-256 beside it; all else is compiled again and replaced.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-O3",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-pthread",
    "-fno-math-errno",
    "-fno-trapping-math",
)
FOR_THIS_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())
SECONDS_TO_COMPILE = 120.0
SECONDS_TO_ANSWER = 20.0
OWN_FOLDER, OWN_FILE = 0o700, 0o600
NO_COMPILING = "MODEVAL_NO_COMPILE"
"""Variable of the environment that has everything go on without kernels."""
INSTRUCTIONS = "MODEVAL_MARCH"
"""Variable of the environment that names the instructions to compile for, as ``x86-64-v3``.

For folders of kernels that machines of several kinds share, and to try what others would run; all
that this machine has unless given.
"""


class KernelError(Exception):
    """The kernel cannot be had here; the message says why, for a note to the user."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler of this machine, and what its ``--version`` says."""

    path: str
    version: str


def compiled(name: str, source: str, cache: Path | None = None) -> ctypes.CDLL:
    """Return a compiled kernel, compiling it when the cache does not hold it yet.

    Several processes may ask at once: each compiles for itself, and whole files take the place of
    whole files.

    Args:
        name: what its file in the cache begins with.
        source: C++, whole: it includes nothing but the headers of the system.
        cache: folder for compiled kernels; the user's cache folder unless given.

    Raises:
        KernelError: when there is no compiler, or what it made cannot be loaded.
    """
    if os.environ.get(NO_COMPILING, "") not in ("", "0"):
        raise KernelError(f"{NO_COMPILING} is set, so nothing is compiled")
    compiler = find_compiler()
    march = os.environ.get(INSTRUCTIONS, "")
    about = (compiler.path, compiler.version, march or _processor())
    key = "\n".join((source, *FLAGS, *about))
    file = f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    return _cached(cache or user_cache(), file, source, compiler, march)


def find_compiler() -> Compiler:
    """Return the C++ compiler of this machine.

    Raises:
        KernelError: when there is none.
    """
    for name in COMPILERS:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            answer = _run([path, "--version"], SECONDS_TO_ANSWER)
        except KernelError:
            continue
        if answer.returncode == 0:
            return Compiler(path, answer.stdout)
    raise KernelError(f"no C++ compiler found (looked for {', '.join(COMPILERS)})")


def _cached(
    folder: Path, name: str, source: str, compiler: Compiler, march: str = ""
) -> ctypes.CDLL:
    """Load from the cache what this user put there, whole; else compile it anew."""
    try:
        _make_private(folder)
        library = _load_verified(folder / name)
        if library is not None:
            return library
        with tempfile.TemporaryDirectory(dir=folder) as private:
            made = Path(private, name)
            _compile(source, made, compiler, march)
            digest = hashlib.sha256(made.read_bytes()).hexdigest()
            made.chmod(OWN_FILE)
            _sidecar(made).write_text(digest, encoding="ascii")
            for each in (made, _sidecar(made)):
                _to_disk(each)
            # the digest goes first: a library beside another one's digest is compiled again
            _sidecar(made).replace(_sidecar(folder / name))
            made.replace(folder / name)
        library = _load_verified(folder / name)
    except OSError as error:
        raise KernelError(f"the compiled kernel cannot be kept in {folder} ({error})") from None
    if library is None:
        raise KernelError(f"what was compiled cannot be loaded from {folder}")
    return library


def _make_private(folder: Path) -> None:
    """Make the cache folder, and see that nobody else can put anything into it.

    Raises:
        KernelError: it is another user's, or others may write there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=OWN_FOLDER)
    if sys.platform == "win32":
        return
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise KernelError(f"the cache folder {folder} is not this user's own")
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        folder.chmod(OWN_FOLDER)  # whatever was put there is verified below, as anything is
        for left in folder.iterdir():
            if left.is_file() or left.is_symlink():
                left.unlink()


def _load_verified(path: Path) -> ctypes.CDLL | None:
    """Load a library that is this user's, that nobody else may write, and whose digest is right.

    It lies in a folder that nobody else can write to, so it is not exchanged in between.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None  # not there yet, or a link
    with os.fdopen(handle, "rb") as file:
        if not _is_own(os.fstat(file.fileno())):
            return None
        try:
            expected = _sidecar(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return None
        if hashlib.sha256(file.read()).hexdigest() != expected:
            return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _is_own(about: os.stat_result) -> bool:
    if sys.platform == "win32":
        return True
    own = stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid()
    return own and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _compile(source: str, target: Path, compiler: Compiler, march: str = "") -> None:
    written = target.with_suffix(".cpp")
    written.write_text(source, encoding="utf-8")
    answer = None
    for processor in ((f"-march={march}",),) if march else FOR_THIS_PROCESSOR:
        command = [compiler.path, *FLAGS, *processor, str(written), "-o", str(target)]
        answer = _run(command, SECONDS_TO_COMPILE)
        if answer.returncode == 0:
            return
    lines = answer.stderr.strip().splitlines() if answer is not None else []
    reason = next((line for line in lines if "error" in line), "it gave no reason")
    raise KernelError(f"{compiler.path} failed: {reason}")


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a compiler and all that it starts, and end all of it when it takes too long.

    Raises:
        KernelError: it cannot be started, or did not finish.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - a compiler found on the user's own path
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise KernelError(f"{command[0]} cannot be started: {error}") from None
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException as error:
        _end(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise KernelError(
                f"{command[0]} did not finish within {seconds:g} s and was ended"
            ) from None
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _end(process: "subprocess.Popen[str]") -> None:
    """End a process and those that it started, whose pipes would be waited for else."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.SubprocessError, OSError, ValueError):
        process.communicate(timeout=5)


def _processor() -> str:
    """Return what tells processors apart for which code may differ."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    flags = sorted({line for line in text.splitlines() if line.startswith(("flags", "Features"))})
    model = sorted({line for line in text.splitlines() if line.startswith("model")})
    return "\n".join((platform.machine(), *model, *flags))


def user_cache() -> Path:
    """Return the folder that compiled kernels are kept in: below XDG_CACHE_HOME, else ~/.cache.

    Raises:
        KernelError: the user has no home folder.
    """
    user = str(os.getuid()) if sys.platform != "win32" else "0"
    said = os.environ.get("XDG_CACHE_HOME", "")
    if Path(said).is_absolute():  # others are to be passed over, says the specification
        return Path(said, "modeval", user)
    try:
        home = Path.home()
    except RuntimeError as error:
        raise KernelError(
            f"there is no home folder to keep a compiled kernel in ({error})"
        ) from None
    return home / ".cache" / "modeval" / user
