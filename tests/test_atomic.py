"""Files and folders appear whole or not at all; what dead writers leave is swept."""

import contextlib
import errno
import io
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from modeval import atomic
from modeval.atomic import Fault
from modeval.errors import RunError

FAULT = Fault(RunError, "Give another name.")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stopped(drafting: AbstractContextManager[Path], error: BaseException) -> None:
    with drafting as draft:
        (draft / "a" if draft.is_dir() else draft).write_text("half of the new")
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), KeyboardInterrupt(), ValueError()])
def test_a_file_that_was_not_finished_leaves_the_old_one(tmp_path: Path, error: BaseException):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises((RunError, KeyboardInterrupt, ValueError)):
        stopped(atomic.whole_file(path, FAULT), error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path):
    with (
        pytest.raises(RunError, match=r"Cannot write .*a: the disk is full\. Give another name\."),
        atomic.whole_file(tmp_path / "a", FAULT),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(RunError, match="no such file or directory"):
        atomic.check_writable(tmp_path / "none" / "a", FAULT)
    with pytest.raises(RunError, match="no such file or directory"):
        atomic.append(tmp_path / "none" / "a", b"x", FAULT)


def test_a_folder_that_was_not_finished_leaves_nothing_and_no_new_parents(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        stopped(atomic.whole_folder(tmp_path / "new" / "deep", FAULT), KeyboardInterrupt())
    assert names(tmp_path) == []


def test_new_folders_stay_when_all_went_well_and_what_somebody_put_there_stays(tmp_path: Path):
    with atomic.new_folders(tmp_path / "a" / "b"):
        pass
    assert (tmp_path / "a" / "b").is_dir()

    def fail() -> None:
        (tmp_path / "a" / "c" / "other").touch()
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), atomic.new_folders(tmp_path / "a" / "c" / "d"):
        fail()
    assert names(tmp_path / "a") == ["b", "c"]
    assert names(tmp_path / "a" / "c") == ["other"]


@pytest.mark.parametrize("there", [True, False])
def test_a_new_file_goes_again_when_the_rest_fails_and_an_old_one_stays(
    tmp_path: Path, *, there: bool
):
    if there:
        (tmp_path / "a").write_text("old")
    path = tmp_path / "a" if there else tmp_path / "deep" / "a"
    with pytest.raises(ValueError, match="x"), atomic.new_file(path, b"new", FAULT):
        raise ValueError("x")
    assert names(tmp_path) == ["a"] * there


@pytest.mark.parametrize("swap", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, swap: bool
):
    if not swap:
        monkeypatch.setattr(atomic, "_exchange", lambda _one, _other: False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").write_text("x")
    with atomic.whole_folder(tmp_path / "data", FAULT, replace=True) as draft:
        (draft / "new").write_text("y")
    assert names(tmp_path) == ["data"]
    assert names(tmp_path / "data") == ["new"]


def test_a_folder_that_is_there_is_not_replaced_unasked(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("x")
    with pytest.raises(RunError), atomic.whole_folder(tmp_path / "data", FAULT):
        pass
    assert names(tmp_path / "data") == ["precious"]


def test_what_dead_writers_left_is_swept_and_the_work_of_living_ones_stays(tmp_path: Path):
    for name in (".a.dead.partial", ".a.living.partial", ".b.dead.partial", ".a.x.txt"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))
    with atomic.locked(tmp_path / ".a.living.partial"):
        atomic.write_text(tmp_path / "a", "y", FAULT)
    assert names(tmp_path) == [".a.living.partial", ".a.x.txt", ".b.dead.partial", "a"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and links are made otherwise there")
def test_a_pipe_and_a_link_stay_what_they_are_and_are_written_through(tmp_path: Path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    with pytest.raises(RunError, match="Cannot write"):
        atomic.write_text(pipe, "nobody reads it", FAULT)
    with subprocess.Popen([sys.executable, "-c", f"print(open({str(pipe)!r}).read())"],
                          stdout=subprocess.PIPE, text=True) as reader:  # fmt: skip
        while True:
            with contextlib.suppress(RunError):  # it has not begun to read
                atomic.write_text(pipe, "words", FAULT)
                break
        assert reader.communicate(timeout=20)[0].strip() == "words"
    assert pipe.is_fifo()
    (tmp_path / "folder").mkdir()
    link.symlink_to("folder/a.txt")
    for text in ("one", "two"):
        atomic.write_text(link, text, FAULT)
        assert (tmp_path / "folder" / "a.txt").read_text() == text
    assert link.is_symlink()
    assert names(tmp_path) == ["folder", "link", "pipe"]
    atomic.check_writable(Path(os.devnull), FAULT)


def test_a_name_that_no_file_may_have_is_refused_in_one_sentence(tmp_path: Path):
    for name in ("\udcff" if os.name == "nt" else "x" * 5_000, "a/" * 3_000):
        with pytest.raises(RunError, match="Cannot write"):
            atomic.write_text(tmp_path / name, "words", FAULT)


def test_a_lock_dies_with_its_process(tmp_path: Path):
    hold = (
        "import sys, pathlib; from modeval import atomic\n"
        "with atomic.locked(pathlib.Path(sys.argv[1])) as mine:\n"
        "    print(mine, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        with atomic.locked(tmp_path) as mine:
            assert not mine
        other.kill()
        other.wait()
        with atomic.locked(tmp_path) as mine:
            assert mine


def test_what_a_full_disk_took_of_a_line_is_cut_off_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Filling(io.FileIO):
        def write(self, content):
            if len(content) < 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(bytes(content[:3]))

    atomic.append(tmp_path / "a", b"one\n", FAULT)
    monkeypatch.setattr(Path, "open", lambda self, *_args, **_named: Filling(str(self), "a"))
    for name in ("a", "new"):
        with pytest.raises(RunError, match="the disk is full"):
            atomic.append(tmp_path / name, b"two, long\n", FAULT)
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"one\n"
    assert names(tmp_path) == ["a"]


def test_half_of_a_surrogate_pair_is_written_as_its_escape(tmp_path: Path):
    atomic.write_text(tmp_path / "a", "x\udc80y", FAULT)
    assert (tmp_path / "a").read_bytes() == rb"x\udc80y"
