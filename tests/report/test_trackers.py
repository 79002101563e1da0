"""Scorecards for trackers: every score over seeds arrives, under a name of its own."""

import errno
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_cards import trace as trace_card

from modeval.errors import DependencyError, ScorecardError
from modeval.report.trackers import log, open_metrics, scalars
from modeval.score.scorecard import Scorecard


def test_every_score_over_seeds_that_has_a_value_is_sent_once():
    card = trace_card()
    sent = list(scalars(card))
    names = [scalar.name for scalar in sent]
    assert len(set(names)) == len(names)
    wanted = [score for score in card.scores if score.seed is None and score.value is not None]
    assert sum(not name.endswith(("/low", "/high")) for name in names) == len(wanted)


def test_tensorboard_reads_back_what_was_sent(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    card = trace_card()
    count = log(card, "tensorboard", where=str(tmp_path), step=7)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert len(events.Tags()["scalars"]) == count
    first = next(scalars(card))
    [event] = events.Scalars(first.name)
    assert (event.step, event.value) == (7, pytest.approx(first.value, rel=1e-6))


def test_a_full_disk_leaves_no_half_of_an_event_file(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ScorecardError, match=r"the disk is full\. Nothing was left there"):
        log(trace_card(), "tensorboard", where=str(tmp_path), step=7)
    assert not list(tmp_path.iterdir())


def test_weights_and_biases_gets_all_numbers_in_one_call(monkeypatch):
    logged = []

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def log(self, values, step):
            logged.append((values, step))

    stand_in = SimpleNamespace(init=lambda project: Run(), __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setattr("modeval.report.trackers.find_spec", lambda _: object())
    count = log(trace_card(), "wandb", where="modular", step=3)
    [(values, step)] = logged
    assert (len(values), step) == (count, 3)


def test_a_tracker_that_is_not_installed_is_named_with_what_to_type(monkeypatch):
    monkeypatch.setattr("modeval.report.trackers.find_spec", lambda _: None)
    with pytest.raises(DependencyError, match="pip install mlflow"):
        log(trace_card(), "mlflow", where="x", step=0)


def test_a_scorecard_without_scores_is_refused_before_anything_is_written(tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(ScorecardError, match="no score over seeds"):
        log(Scorecard(), "tensorboard", where=str(tmp_path / "board"), step=0)
    assert not (tmp_path / "board").exists()


def test_open_metrics_text_ends_as_its_form_asks_and_escapes_names():
    lines = open_metrics(trace_card()).splitlines()
    assert lines[-1] == "# EOF"
    assert all(line.startswith(("modeval_score{", "#")) for line in lines)


class RefusedError(Exception):
    """As libraries raise: of their own kind, over several lines."""


class StandIn:
    """What wandb and MLflow have in common with this: runs are entered, numbers logged."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.project = ""
        self.logged: dict[str, float] = {}

    def init(self, *, project):
        self.project = project
        return self

    def set_experiment(self, name):
        if self.refuse:
            raise RefusedError(self.refuse)
        self.project = name

    def start_run(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def log(self, values, *, step):
        assert step == 3
        self.logged |= values

    log_metrics = log


@pytest.fixture
def installed(monkeypatch):
    def install(name, library):
        monkeypatch.setattr("modeval.report.trackers.find_spec", lambda _: object())
        monkeypatch.setitem(sys.modules, name, library)
        return library

    return install


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_every_number_reaches_a_tracker_once(installed, name):
    library = installed(name, StandIn())
    card = trace_card()
    assert log(card, name, where="place", step=3) == len(list(scalars(card)))
    assert library.project == "place"
    assert list(library.logged.values()) == [scalar.value for scalar in scalars(card)]


def test_what_a_tracker_refuses_is_an_error_of_the_user_that_says_what_to_set(installed):
    installed("mlflow", StandIn("The filesystem\nis in maintenance mode. "))
    with pytest.raises(ScorecardError) as refused:
        log(trace_card(), "mlflow", where="x", step=0)
    assert str(refused.value) == (
        "MLflow did not take the numbers: The filesystem is in maintenance mode. It says where it "
        "keeps them and how to sign in: MLFLOW_TRACKING_URI=sqlite:///mlflow.db in the "
        "environment, for one."
    )
