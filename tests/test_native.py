"""Kernels are compiled once; whole files replace whole files; failures have a reason."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeval import native
from modeval.native import Compiler, KernelError, compiled

SOURCE = 'extern "C" int modeval_answer() { return 42; }\n'
ASK = f"""
import sys
from pathlib import Path
from modeval.native import compiled
sys.stdin.read()  # until all are there
print(compiled("answer", {SOURCE!r}, Path(sys.argv[1])).modeval_answer())
"""


pytestmark = pytest.mark.usefixtures("compiler")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled("answer", SOURCE, tmp_path).modeval_answer() == 42
    (kept,) = tmp_path.glob("*.so")
    made = kept.stat().st_mtime_ns
    monkeypatch.setattr(native, "_compile", None)  # not asked again
    assert compiled("answer", SOURCE, tmp_path).modeval_answer() == 42
    assert kept.stat().st_mtime_ns == made
    assert files(tmp_path) == [kept.with_suffix(".sha256").name, kept.name]


def test_another_source_is_another_kernel(tmp_path: Path) -> None:
    compiled("answer", SOURCE, tmp_path)
    other = SOURCE.replace("42", "43")
    assert compiled("answer", other, tmp_path).modeval_answer() == 43
    assert len(files(tmp_path)) == 4


def test_a_damaged_kernel_is_compiled_again(tmp_path: Path) -> None:
    compiled("answer", SOURCE, tmp_path)
    (kept,) = tmp_path.glob("*.so")
    whole = kept.read_bytes()
    for content in (b"no library", whole[:5000], whole[:9000] + bytes(4000) + whole[13_000:]):
        kept.unlink()  # a library that is loaded must not change
        kept.write_bytes(content)
        assert compiled("answer", SOURCE, tmp_path).modeval_answer() == 42
        assert kept.read_bytes() != content


def test_processes_that_compile_at_once_all_get_the_kernel(tmp_path: Path) -> None:
    askers = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for asker in askers:
        assert asker.stdin is not None
        asker.stdin.close()
        asker.stdin = None
    for asker in askers:
        answer, trouble = asker.communicate(timeout=120)
        assert (answer.strip(), trouble) == ("42", "")
    assert len(files(tmp_path)) == 2


def test_a_compiler_that_fails_gives_its_reason_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"failed: .*error"):
        compiled("answer", "no C++\n", tmp_path)
    assert files(tmp_path) == []


def test_no_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler", "nor-this"))
    with pytest.raises(KernelError, match=r"looked for no-such-compiler, nor-this"):
        compiled("answer", SOURCE, tmp_path)


def test_a_compiler_that_cannot_be_started_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="cannot be started"):
        native._cached(tmp_path, "x.so", SOURCE, Compiler(str(tmp_path / "gone"), "1"))


PLANT = """
#include <cstdio>
__attribute__((constructor)) static void plant() { if (FILE* f = fopen("PLACE", "w")) fclose(f); }
extern "C" int modeval_answer() { return 13; }
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such users there")
@pytest.mark.parametrize("how", ["open folder", "writable file", "no digest", "link"])
def test_a_planted_library_does_not_run(tmp_path: Path, how: str) -> None:
    cache, mark = tmp_path / "cache", tmp_path / "ran"
    compiled("answer", SOURCE, cache)
    (kept,) = cache.glob("*.so")
    plant = tmp_path / "plant.so"
    native._compile(PLANT.replace("PLACE", str(mark)), plant, native.find_compiler())
    kept.unlink()
    shutil.copy(plant, kept)
    digest = hashlib.sha256(plant.read_bytes()).hexdigest()
    kept.with_suffix(".sha256").write_text(digest)
    if how == "open folder":
        cache.chmod(0o777)
    elif how == "writable file":
        kept.chmod(0o666)
    elif how == "no digest":
        kept.with_suffix(".sha256").unlink()
    else:
        kept.unlink()
        kept.symlink_to(plant)
    assert compiled("answer", SOURCE, cache).modeval_answer() == 42
    assert not mark.exists()
    assert cache.stat().st_mode & 0o777 == 0o700
    assert compiled("answer", SOURCE, cache).modeval_answer() == 42


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="only root gives away")
def test_the_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 65_534, 65_534)
    with pytest.raises(KernelError, match="not this user's own"):
        compiled("answer", SOURCE, tmp_path / "cache")


def test_a_compiler_that_hangs_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/child\nwait\n")
    slow.chmod(0o755)
    monkeypatch.setattr(native, "SECONDS_TO_COMPILE", 0.5)
    started = time.perf_counter()
    with pytest.raises(KernelError, match=r"did not finish within 0\.5 s and was ended"):
        native._compile(SOURCE, tmp_path / "x.so", Compiler(str(slow), "1"))
    assert time.perf_counter() - started < 30
    child = int((tmp_path / "child").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_the_cache_lies_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.user_cache().is_relative_to(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert native.user_cache().is_relative_to(Path.home() / ".cache")


def test_compiling_can_be_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEVAL_NO_COMPILE", "1")
    with pytest.raises(KernelError, match="MODEVAL_NO_COMPILE is set"):
        compiled("answer", SOURCE, tmp_path)


def test_a_folder_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KernelError, match="cannot be kept"):
        compiled("answer", SOURCE, tmp_path / "file" / "cache")
