"""Files that are packed, or in UTF-16: opened as what they hold, whatever they are called.

gzip, bzip2 and xz are Python's own; Zstandard comes with pyarrow. What is read from its end, such
as NPZ, Parquet and files of PyTorch, must be unpacked first, and so must archives of files.
"""

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import cast

from modeval.errors import TraceError
from modeval.text import brief
from modeval.trace.files import import_arrow

ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What a damaged file raises while it is read."""
ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zstd")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
UTF_32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
LETTERS = re.compile(rb"[\t\r\n -~]{2,}")
UNMARKED = {"utf-16-le": (1, 0), "utf-16-be": (0, 1)}
LARGEST_UTF_16 = 1 << 28
MOST_SHOWN = 3


def _zstandard(path: Path) -> BufferedIOBase:
    stream = import_arrow().input_stream(str(path), compression="zstd")
    return io.BufferedReader(cast("io.RawIOBase", stream))


PACKERS: dict[bytes, tuple[str, str, Callable[[Path], BufferedIOBase]]] = {
    b"\x1f\x8b": ("gzip", "gunzip", gzip.GzipFile),
    b"BZh": ("bzip2", "bunzip2", bz2.BZ2File),
    b"\xfd7zXZ": ("xz", "unxz", lzma.LZMAFile),
    b"(\xb5/\xfd": ("Zstandard", "unzstd", _zstandard),
}
"""By the first bytes of a file: what packed it, what unpacks it, and how it is opened."""

STRANGERS = {
    b"\x89HDF": ("HDF5", "save the columns as CSV or Parquet"),
    b"ARROW1": ("Arrow's own form (Feather)", "save it as Parquet"),
    b"SQLite format 3": ("a database of SQLite", "write the table as CSV"),
    b"MATLAB 5.0": ("a file of MATLAB", "save the arrays as NPY"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"Rar!": ("a RAR archive", "unpack it"),
    b"\xd0\xcf\x11\xe0": ("a workbook of an old Excel", "save the sheet as CSV"),
    b"%PDF": ("a PDF", "give the table that it was made of"),
    b"<!DOCTYPE": ("a page of HTML", "download the file itself"),
    b"<html": ("a page of HTML", "download the file itself"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself: git lfs pull"),
}
"""By the first bytes: what a file is that is none of a log, and what to do with it."""


def plain_name(path: Path) -> str:
    """Return the name of a file without the ending of what packed it.

    >>> plain_name(Path("a/log.csv.gz"))
    'log.csv'
    """
    return path.name.removesuffix(path.suffix) if path.suffix in ENDINGS else path.name


def open_plain(path: Path) -> BufferedIOBase:
    """Open a file; what is packed is unpacked, whatever its name, and UTF-16 is read as UTF-8."""
    file = path.open("rb")
    start = file.peek(16)[:16]
    for mark, (_, _, unpack) in PACKERS.items():
        if start.startswith(mark):
            file.close()
            return unpack(path)
    if encoding := _two_bytes_each(start):
        return _from_utf_16(path, file, encoding)
    if path.suffix == ".gz" and start:
        file.close()
        return gzip.GzipFile(path)  # damaged: reading it says so
    return file


def _two_bytes_each(start: bytes) -> str | None:
    """Return the encoding of text of two bytes for each letter, by its mark or by its zeros."""
    if start.startswith(UTF_32):
        return "utf-32"
    if start.startswith(UTF_16):
        return "utf-16"
    for encoding, (zeros, letters) in UNMARKED.items():
        if not any(start[zeros::2]) and LETTERS.fullmatch(start[letters::2]):
            return encoding
    return None


def _from_utf_16(path: Path, file: BufferedIOBase, encoding: str) -> BufferedIOBase:
    """Return the text of a file of UTF-16, as spreadsheets and shells of Windows save it."""
    with file:
        data = file.read(LARGEST_UTF_16 + 1)
    if len(data) > LARGEST_UTF_16:
        raise TraceError(f"{path}: is UTF-16 and larger than 256 MiB. Save it as UTF-8.")
    try:
        return io.BytesIO(data.decode(encoding).encode())
    except UnicodeError as error:
        raise TraceError(
            f"{path}: is no whole text of UTF-16 ({error}). Save it as UTF-8."
        ) from None


def packer_of(path: Path) -> tuple[str, str] | None:
    """Return what packed a file and what unpacks it; None for a plain one."""
    with path.open("rb") as file:
        start = file.read(8)
    for mark, (packer, unpacker, _) in PACKERS.items():
        if start.startswith(mark):
            return packer, unpacker
    return None


def stranger(path: Path, start: bytes) -> str:
    """Return what to say of a file that is an archive or of another program; else nothing.

    Args:
        path: the file.
        start: its beginning, unpacked.
    """
    packed = packer_of(path)
    if packed and start.startswith((b"PK", b"PAR1", b"GGUF", b"\x80")):
        return f"It is packed by {packed[0]} and cannot be read so: {packed[1]} {path}"
    if start[257:262] == b"ustar":
        return f"It is an archive of files: tar xf {path}, and import what is in it"
    if start.startswith(b"PK"):
        return _in_zip(path)
    for mark, (what, advice) in STRANGERS.items():
        if start.startswith(mark):
            return f"It is {what}: {advice}"
    return ""


def _in_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except (OSError, zipfile.BadZipFile):
        return ""
    if "xl/workbook.xml" in names:
        return "It is a workbook of Excel: save its sheet as CSV"
    if any(name.endswith("/data.pkl") for name in names):
        return "It seems to be a file of PyTorch: name it .pt, or say --from torch"
    if names and all(name.endswith(".npy") for name in names):
        return "It seems to be a file of NumPy: name it .npz, or say --from npz"
    shown = brief(", ".join(names[:MOST_SHOWN]), 200)
    return (
        f"It is a zip archive of {len(names)} files ({shown}): unzip it, and import what is in it"
    )
