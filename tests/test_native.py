"""Kernels are compiled once; whole files replace whole files; failures have a reason."""

import subprocess
import sys
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
    (kept,) = tmp_path.iterdir()
    made = kept.stat().st_mtime_ns
    monkeypatch.setattr(native, "_compile", None)  # not asked again
    assert compiled("answer", SOURCE, tmp_path).modeval_answer() == 42
    assert kept.stat().st_mtime_ns == made
    assert files(tmp_path) == [kept.name]


def test_another_source_is_another_kernel(tmp_path: Path) -> None:
    compiled("answer", SOURCE, tmp_path)
    other = SOURCE.replace("42", "43")
    assert compiled("answer", other, tmp_path).modeval_answer() == 43
    assert len(files(tmp_path)) == 2


def test_a_damaged_kernel_is_compiled_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    compiled("answer", SOURCE, first)
    (name,) = files(first)
    second.mkdir()
    (second / name).write_bytes(b"no library")
    assert compiled("answer", SOURCE, second).modeval_answer() == 42
    assert files(second) == [name]


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
    assert len(files(tmp_path)) == 1


def test_a_compiler_that_fails_gives_its_reason_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"failed: .*error"):
        compiled("answer", "no C++\n", tmp_path)
    assert files(tmp_path) == []


def test_no_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler", "nor-this"))
    with pytest.raises(KernelError, match=r"looked for no-such-compiler, nor-this"):
        compiled("answer", SOURCE, tmp_path)


def test_a_compiler_that_cannot_be_started_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="cannot be kept"):
        native._cached(tmp_path, "x.so", SOURCE, Compiler(str(tmp_path / "gone"), "1"))


def test_a_folder_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KernelError, match="cannot be kept"):
        compiled("answer", SOURCE, tmp_path / "file" / "cache")
