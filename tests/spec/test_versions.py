"""Files of version 0.1 are read, resumed and compared; later settings change no digest."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from modeval.errors import RunError
from modeval.evaluate.runs import load_run
from modeval.score.comparison.partners import comparable, partner
from modeval.score.stored.files import read_scorecard
from modeval.spec import (
    MODELS,
    DataSpec,
    ModelSpec,
    RunSpec,
    TrainSpec,
    digest,
    digest_of,
    digests,
    from_dict,
    load_toml,
    read_spec,
    sparse,
    to_dict,
    to_toml,
    without_unread,
)
from modeval.spec.settings import setting
from modeval.train import records
from modeval.train.loop import train

OLD = Path(__file__).parents[2] / "fixtures" / "version-0.1"


@pytest.mark.parametrize(
    ("spec", "pinned"),
    [
        (RunSpec(), "1db4ae7162e6180b"),
        (RunSpec(data=DataSpec(task="series")), "6638f20f1fe3d333"),
        (RunSpec(name="gt-modular", model=ModelSpec(**MODELS["gt-modular"])), "9effdc781c62c19e"),
        (
            RunSpec(train=TrainSpec(seeds=((0, 0), (1, 0)), learning_rate=1e-3)),
            "6caad43fe6edb8fc",
        ),
    ],
)
def test_no_later_setting_may_change_a_digest(spec, pinned):
    """These digests stand in run folders of users: whoever adds a setting leaves them alone."""
    assert spec.digest == pinned


@dataclass(frozen=True, slots=True, kw_only=True)
class Soft:
    """The gating of before there were others."""

    kind: Literal["soft"] = "soft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gumbel:
    """A gating with a setting of its own.

    Attributes:
        temperature: of the draws.
    """

    kind: Literal["gumbel"] = "gumbel"
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """A specification of a later version: two more settings, one with settings of its own."""

    scorer: str = "module"
    width: int = 128
    dropout: float = setting(0.0)
    gating: Soft | Gumbel = Soft()


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The same before they were added."""

    scorer: str = "module"
    width: int = 128


def test_what_is_added_with_its_default_is_no_part_of_the_digest():
    assert sparse(Later(width=8)) == sparse(Earlier(width=8)) == {"width": 8}
    assert sparse(Later(gating=Gumbel())) == {"gating": {"kind": "gumbel"}}
    assert sparse(Later(gating=Gumbel(temperature=2.0)))["gating"]["temperature"] == 2.0


def test_a_choice_with_settings_of_its_own_is_a_table_or_a_name():
    table = {"gating": {"kind": "gumbel", "temperature": 2}}
    assert from_dict(Later, table) == Later(gating=Gumbel(temperature=2.0))
    assert from_dict(Later, {"gating": "gumbel"}) == Later(gating=Gumbel())
    assert from_dict(Later, {"gating": {}}) == Later(gating=Soft())
    later = Later(gating=Gumbel(temperature=0.5))
    assert "[gating]\nkind = " in to_toml(later)
    assert from_dict(Later, to_dict(later)) == later
    for wrong, message in (
        ({"kind": "gumbell"}, 'Did you mean "gumbel"'),
        ({"kind": "gumbel", "temprature": 1.0}, "Did you mean temperature"),
        (3, "must be a name or a table"),
        ({"temperature": 1.0}, "temperature belongs to gumbel, .*--gating gumbel as a flag"),
    ):
        with pytest.raises(Exception, match=message):
            from_dict(Later, {"gating": wrong})


def test_a_digest_covers_everything_that_differs():
    run = RunSpec()
    for changed in (
        dataclasses.replace(run, name="other"),
        dataclasses.replace(run, data=DataSpec(rules=2)),
        dataclasses.replace(run, model=ModelSpec(width=64)),
        dataclasses.replace(run, train=TrainSpec(clip=1.0)),
        RunSpec(data=DataSpec(task="series")),
        RunSpec(data=DataSpec(task="series"), train=TrainSpec(clip=0.0)),
    ):
        assert changed.digest != run.digest
    assert digest_of(DataSpec(), ModelSpec()) != digest_of(DataSpec(scale=2.0), ModelSpec())


def test_a_run_of_version_0_1_is_read_without_what_nothing_reads():
    values = load_toml(OLD / "run" / "spec.toml")
    assert (values["data"]["search"], values["data"]["order"]) == ("product", 3)
    spec = records.read_run(OLD / "run")
    assert spec == read_spec(values)
    assert (spec.data.search, spec.data.order, spec.model.heads) == ("nearest", 1, 2)
    assert records.read_record(OLD / "run").digest in digests(values)
    assert load_run(OLD / "run", "last").network is not None


def test_a_run_of_version_0_1_is_resumed(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(OLD / "run", folder)
    before = records.read_record(folder)
    spec = records.read_run(folder)
    train(spec, folder, device=torch.device("cpu"), engine="eager", resume=True)
    after = records.read_record(folder)
    assert (before.status, after.status, after.step) == ("running", "complete", 60)
    assert after.digest == before.digest
    assert records.read_run(folder) == spec
    whole = tmp_path / "whole"
    train(spec, whole, device=torch.device("cpu"), engine="eager")
    last, again = (load_file(path / "last.safetensors") for path in (whole, folder))
    for name in last:
        torch.testing.assert_close(last[name], again[name], rtol=1e-2, atol=1e-3)


def test_a_spec_that_was_changed_after_the_run_began_is_refused(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(OLD / "run", folder)
    path = folder / "spec.toml"
    path.write_text(path.read_text().replace("batch = 16", "batch = 32"))
    with pytest.raises(RunError, match="changed after the run began"):
        records.read_run(folder)


def test_a_scorecard_of_version_0_1_is_compared_with_one_of_today():
    old = read_scorecard(OLD / "scorecard.json")
    (before,) = old.models
    data = from_dict(DataSpec, without_unread(DataSpec, before.data))
    model = from_dict(ModelSpec, without_unread(ModelSpec, before.model, task=data.task))
    now = dataclasses.replace(
        before, data=to_dict(data), model=to_dict(model), digest=digest_of(data, model)
    )
    new = dataclasses.replace(old, models=(now,))
    assert now.digest != before.digest == digest({"data": before.data, "model": before.model})
    renamed = dataclasses.replace(now, id="renamed")
    other = dataclasses.replace(before, id="another", digest="0")
    both = dataclasses.replace(old, models=(other, before))
    assert partner(renamed, both) == before
    assert comparable(new, now, old, before, metric="alignment_distance") == []
    wider = dataclasses.replace(
        now, model=now.model | {"width": 16}, digest=digest_of(data, ModelSpec(width=16))
    )
    assert comparable(new, wider, old, before, metric="alignment_distance") == [
        "model.width is 16 here and 8 there"
    ]


def test_the_fixture_is_of_the_version_that_it_names():
    assert json.loads((OLD / "scorecard.json").read_text())["modeval"] == "0.1.0"
