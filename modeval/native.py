"""Compiles C++ kernels with the compiler of the system, once, and loads them.

A kernel is compiled for the processor at hand and kept in the user's cache under a name that says
source, compiler and processor; that takes some seconds. Where there is no compiler,
:func:`compiled` says so and the caller takes another way.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
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
SECONDS_TO_COMPILE = 300


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
    compiler = find_compiler()
    key = "\n".join((source, *FLAGS, compiler.path, compiler.version, _processor()))
    file = f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    return _cached(cache or user_cache(), file, source, compiler)


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
            answer = subprocess.run(  # noqa: S603 - a compiler found on the user's own path
                [path, "--version"], capture_output=True, text=True, timeout=60, check=False
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.returncode == 0:
            return Compiler(path, answer.stdout)
    raise KernelError(f"no C++ compiler found (looked for {', '.join(COMPILERS)})")


def _cached(folder: Path, name: str, source: str, compiler: Compiler) -> ctypes.CDLL:
    """Load from the cache; else compile next to it and rename, so that no one sees half a file."""
    try:
        return ctypes.CDLL(str(folder / name))
    except OSError:
        pass  # not there yet, or not usable: made anew below
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as private:
            made = Path(private, name)
            _compile(source, made, compiler)
            made.replace(folder / name)
        return ctypes.CDLL(str(folder / name))
    except OSError as error:
        raise KernelError(f"the compiled kernel cannot be kept in {folder} ({error})") from None


def _compile(source: str, target: Path, compiler: Compiler) -> None:
    written = target.with_suffix(".cpp")
    written.write_text(source, encoding="utf-8")
    answer = None
    for processor in FOR_THIS_PROCESSOR:
        command = [compiler.path, *FLAGS, *processor, str(written), "-o", str(target)]
        try:
            answer = subprocess.run(  # noqa: S603 - as above
                command, capture_output=True, text=True, timeout=SECONDS_TO_COMPILE, check=False
            )
        except subprocess.SubprocessError as error:
            raise KernelError(f"{compiler.path} did not finish: {error}") from None
        if answer.returncode == 0:
            return
    lines = answer.stderr.strip().splitlines() if answer is not None else []
    reason = next((line for line in lines if "error" in line), "it gave no reason")
    raise KernelError(f"{compiler.path} failed: {reason}")


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
    """Return the folder that compiled kernels are kept in.

    Raises:
        KernelError: the user has no home folder.
    """
    try:
        home = Path.home()
    except RuntimeError as error:
        raise KernelError(
            f"there is no home folder to keep a compiled kernel in ({error})"
        ) from None
    return home / ".cache" / "modeval" / str(os.getuid() if hasattr(os, "getuid") else 0)
