"""A checkpoint is one generation, whatever stops its writer; damage is found; folders lock."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeval import atomic, tensors
from modeval.errors import RunError
from modeval.native import KernelError
from modeval.spec import DataSpec, ModelSpec, RunSpec, TrainSpec
from modeval.train import files, loop, records, step

CPU = torch.device("cpu")
SPEC = RunSpec(
    data=DataSpec(rules=2),
    model=ModelSpec(encoder=4, width=8),
    train=TrainSpec(seeds=((0, 0), (1, 0)), steps=8, batch=8, validate_every=4),
)


class Death(BaseException):
    """A process that ends: nothing catches it."""


def run(folder: Path, *, engine="eager", **options):
    return loop.train(SPEC, folder, device=CPU, engine=engine, **options)


@pytest.fixture(scope="module", autouse=True)
def few_samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "VALIDATION_SAMPLES", 32)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


def same_weights(one: Path, other: Path) -> bool:
    return all(
        torch.equal(tensor, load_file(other / name)[key])
        for name in files.WEIGHTS
        for key, tensor in load_file(one / name).items()
    )


WRITES = 3 + 2 * 4  # spec, log, record and rewound log; then state, last, best, record twice


@pytest.mark.parametrize("number", range(1, WRITES + 3))
@pytest.mark.parametrize("full", [True, False])
def test_a_death_before_any_write_loses_nothing(tmp_path, monkeypatch, whole, number, *, full):
    """Whatever write is the last, --resume ends with the weights and the log of a whole run."""
    written, replace = [], Path.replace

    def dying(path, target):
        written.append(target)
        if len(written) == number:
            raise OSError(28, "No space left on device") if full else Death
        return replace(path, target)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        try:
            run(folder)
        except (Death, RunError):
            died = True
        else:
            died = False
    assert died is (number <= WRITES + 2), written
    begun = (folder / records.RUN).is_file()
    complete = begun and records.read_record(folder).status == "complete"
    if begun and (folder / files.STATE).is_file():
        files.read_network(folder, "best")  # one generation, or none
    if not complete:
        run(folder, resume=begun)
    assert same_weights(whole, folder)
    assert records.read_log(folder) == records.read_log(whole)


def test_weights_between_two_checkpoints_are_read_out_of_the_state(tmp_path, monkeypatch, whole):
    written = []

    def dying(path, *arguments, **options):
        written.append(path.name)
        if written.count(files.STATE) == 2 and path.name == "best.safetensors":
            raise Death
        write(path, *arguments, **options)

    write = files.write_tensors
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_tensors", dying)
        with pytest.raises(Death):
            run(tmp_path)
    for selection in ("last", "best"):
        found = files.read_network(tmp_path, selection).state_dict()
        expected = load_file(whole / f"{selection}.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", [*files.WEIGHTS, files.STATE])
def test_a_bit_that_flipped_is_found_and_weights_are_made_again(tmp_path, whole, name):
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[-5] ^= 1
    (tmp_path / name).write_bytes(content)
    record = records.read_record(tmp_path)
    with pytest.raises(RunError, match="checksum differs"):
        files._load(tmp_path / name, record)
    if name in files.WEIGHTS:
        run(tmp_path, resume=True)
        assert same_weights(whole, tmp_path)
        assert records.read_record(tmp_path).status == "complete"


def test_weights_of_another_run_are_refused(tmp_path, whole):
    other = dataclasses.replace(SPEC, train=dataclasses.replace(SPEC.train, learning_rate=0.1))
    loop.train(other, tmp_path / "run", device=CPU, engine="eager")
    last = (whole / "last.safetensors").read_bytes()
    (tmp_path / "run" / "last.safetensors").write_bytes(last)
    with pytest.raises(RunError, match="is of another run"):
        files.read_network(tmp_path / "run")


def test_two_trainings_do_not_share_a_folder(tmp_path):
    hold = (
        "import sys, pathlib; from modeval import atomic\n"
        "with atomic.locked(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(RunError, match="Another process trains into"):
            run(tmp_path)
        other.kill()
    assert run(tmp_path).status == "complete"


def stopped(folder: Path, monkeypatch, engine: str) -> None:
    """Stop a run after its first checkpoint."""
    checkpoint = loop._checkpoint

    def then_die(session, **options):
        checkpoint(session, **options)
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_checkpoint", then_die)
        with pytest.raises(Death):
            run(folder, engine=engine)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("asked", ["auto", "eager"])
def test_a_run_goes_on_where_its_engine_cannot_be_had(tmp_path, monkeypatch, asked, whole):
    stopped(tmp_path, monkeypatch, "fused")

    def none(*_: object, **__: object) -> None:
        raise KernelError("no C++ compiler found")

    monkeypatch.setattr(step, "Fused", none)
    done = run(tmp_path, engine=asked, resume=True)
    assert (done.engine, done.engines) == ("eager", ((0, "fused"), (4, "eager")))
    assert records.read_record(tmp_path) == done
    for name, tensor in load_file(whole / "last.safetensors").items():
        torch.testing.assert_close(load_file(tmp_path / "last.safetensors")[name], tensor)


@pytest.mark.parametrize(
    "log", [b"\xff\xfe\n", b"[]\n", b"1\n", b'{"loss": 1}\n', b'{"step": "a"}\n', b"[" * 100_000]
)
def test_a_log_that_is_damaged_stops_no_run(tmp_path, monkeypatch, log, whole):
    stopped(tmp_path, monkeypatch, "eager")
    (tmp_path / records.LOG).write_bytes(log)
    run(tmp_path, resume=True)
    assert same_weights(whole, tmp_path)


@pytest.mark.parametrize("key", ["best.", "memory.loss_sum", "optimiser.count", "last."])
def test_a_state_that_lacks_a_tensor_is_refused_before_a_step(tmp_path, monkeypatch, key):
    stopped(tmp_path, monkeypatch, "eager")
    record = records.read_record(tmp_path)
    state = {
        name: tensor
        for name, tensor in files.read_state(tmp_path, record).items()
        if not name.startswith(key)
    }
    tensors.write_tensors(tmp_path / files.STATE, state, files.UNWRITTEN)
    with pytest.raises(RunError, match="does not fit"):
        run(tmp_path, resume=True)


def test_a_record_that_is_damaged_is_refused(tmp_path, whole):
    values = json.loads((whole / records.RUN).read_text())
    for damage in ({"versions": 3}, {"diverged": 1}, {"engines": [1]}):
        atomic.write_text(tmp_path / records.RUN, json.dumps(values | damage), files.UNWRITTEN)
        with pytest.raises(RunError, match="is damaged"):
            records.read_record(tmp_path)


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="x"), files.alone(tmp_path / "deep" / "run", resume=False):
        raise ValueError("x")
    assert not list(tmp_path.iterdir())


def test_runs_are_found_in_the_order_of_their_numbers(tmp_path):
    for name in ("r16", "r2", "r8", "a", "r2-b"):
        run(tmp_path / name)
    found = [folder.name for folder in records.find_runs(tmp_path)]
    assert found == ["a", "r2", "r2-b", "r8", "r16"]


def test_a_file_where_a_run_belongs_is_named_as_such(tmp_path):
    card = tmp_path / "card.json"
    card.write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match=r"card\.json is a file: expected the folder of a run"):
        records.read_record(card)
