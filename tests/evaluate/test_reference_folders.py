"""Checkpoints of the reference implementation: recognised, translated exactly, refused clearly."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import plain_reference as plain
import pytest
import torch
from torch import Tensor, nn

from modeval.errors import CheckpointError, SpecError
from modeval.evaluate import reference_folders
from modeval.evaluate.cohort import evaluate, reference_batches
from modeval.evaluate.subject import Subject
from modeval.metrics import adaptation_from_marginals
from modeval.metrics.table import METRICS
from modeval.nn import create
from modeval.pipeline.sources import ScoreOptions, find_jobs
from modeval.score.cohorts import score
from modeval.spec import DataSpec, check_pair

MLP_KINDS = ("Monolithic", "Modular", "Modular_joint", "Modular_operation-only", "GT_Modular")
SEQUENCE_KINDS = ("Monolithic", "Modular", "Modular_operation-only", "GT_Modular")
SIZES = ((2, 2), (4, 4), (8, 8), (2, 4), (4, 2), (8, 4))
ENCODER, WIDTH, HEADS, DIMENSION = 8, 64, 2, 6


def sizes(kind: str) -> list[tuple[int, int]]:
    return [(r, m) for r, m in SIZES if r == m or kind not in ("Monolithic", "GT_Modular")]


def save(model: nn.Module, folder: Path, name: str = "model_last.pt") -> Path:
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / name)
    return folder


def mlp_folder(root: Path, kind: str, rules: int, modules: int, seed: int = 0) -> Path:
    name = f"{kind}_{ENCODER}_{WIDTH}_{modules}_{seed}"
    return root / "Regression" / "Logs" / "Data-Seed_1" / f"GT_Rules_{rules}" / name


def groups_below(folder: Path) -> list[list[reference_folders.ModelFolder]]:
    paths = list(reference_folders.find_models(folder))
    return reference_folders.cohorts([reference_folders.parse(path) for path in paths])


def load_one(folder: Path, **options: object) -> Subject:
    [group] = groups_below(folder)
    [subject] = reference_folders.load(group, selection="last", **options)  # type: ignore[arg-type]
    return subject


def assert_same(model: nn.Module, subject: Subject, inputs: Tensor, rule: Tensor) -> None:
    assert subject.network is not None
    with torch.no_grad():
        prediction, weight = model(inputs, rule)
        output = subject.network(inputs.unsqueeze(0), rule.unsqueeze(0))
    torch.testing.assert_close(output.prediction[0], prediction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.routed[0].weight[0], weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", MLP_KINDS)
def test_mlp_checkpoints_compute_the_same_here(kind: str, tmp_path: Path) -> None:
    for rules, modules in sizes(kind):
        torch.manual_seed(rules)
        model = plain.PlainMLP(kind, rules, modules, ENCODER, WIDTH)
        subject = load_one(save(model, mlp_folder(tmp_path, kind, rules, modules)))
        inputs, rule = torch.randn(40, 2), torch.arange(40) % rules
        assert_same(model, subject, inputs, rule)
        assert (subject.data.rules, subject.seeds) == (rules, ((1, 0),))


@pytest.mark.parametrize("search", [1, 2])
@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
def test_attention_checkpoints_compute_the_same_here(
    kind: str, search: int, tmp_path: Path
) -> None:
    for rules, modules in sizes(kind):
        torch.manual_seed(rules)
        single = kind == "Monolithic"
        heads = HEADS * rules if single else HEADS
        model = plain.PlainAttention(
            kind, rules, 1 if single else modules, ENCODER, WIDTH, heads, 2 + 2 * search
        )
        folder = tmp_path / "Classification" / "Sequence_10" / f"Search-Version_{search}"
        name = f"{kind}_{ENCODER}_{WIDTH}_{heads}_{modules}_0"
        subject = load_one(save(model, folder / "Data-Seed_0" / f"GT_Rules_{rules}" / name))
        inputs = torch.randn(6, 5, (2 + 2 * search) * rules)
        assert_same(model, subject, inputs, torch.randint(rules, (6, 5)))


def test_monolithic_attention_may_have_any_number_of_heads(tmp_path: Path) -> None:
    model = plain.PlainAttention("Monolithic", 4, 1, ENCODER, WIDTH, 2)
    folder = tmp_path / "Regression" / "Sequence_10" / "Search-Version_1" / "Data-Seed_0"
    folder = save(model, folder / "GT_Rules_4" / f"Monolithic_{ENCODER}_{WIDTH}_2_4_0")
    assert_same(model, load_one(folder), torch.randn(3, 5, 16), torch.randint(4, (3, 5)))


@pytest.mark.parametrize("outputs", [1, DIMENSION])
@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
def test_recurrent_checkpoints_compute_the_same_and_tell_their_objective(
    kind: str, outputs: int, tmp_path: Path
) -> None:
    for rules, modules in sizes(kind):
        torch.manual_seed(rules)
        model = plain.PlainRecurrent(kind, rules, modules, ENCODER, WIDTH, DIMENSION, outputs)
        folder = tmp_path / f"Sequence_10_Order_2_Dim_{DIMENSION}_scheduler" / "Data-Seed_3"
        name = f"{kind}_{ENCODER}_{WIDTH}_{modules}_2"
        subject = load_one(save(model, folder / f"GT_Rules_{rules}" / name))
        assert subject.data.objective == ("classification" if outputs == 1 else "regression")
        assert (subject.data.order, subject.seeds) == (2, ((3, 2),))
        assert_same(model, subject, torch.randn(6, 5, DIMENSION), torch.randint(rules, (6, 5)))


def test_models_that_differ_in_seeds_only_become_one_cohort(tmp_path: Path) -> None:
    folders = []
    for task in (0, 1):
        for seed in (0, 1):
            model = plain.PlainMLP("Modular_joint", 2, 2, ENCODER, WIDTH)
            folder = tmp_path / "Regression" / "Logs" / f"Data-Seed_{task}" / "GT_Rules_2"
            folders.append(save(model, folder / f"Modular_joint_{ENCODER}_{WIDTH}_2_{seed}"))
    [group] = groups_below(tmp_path)
    [subject] = reference_folders.load(group, selection="last")
    assert subject.seeds == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert subject.network is not None
    assert subject.network.seeds == 4


def test_a_scorer_of_another_width_is_taken_as_it_is(tmp_path: Path) -> None:
    model = plain.PlainMLP("Modular", 4, 4, ENCODER, WIDTH)
    model.scorer = plain.two(WIDTH + 2 + 4, 5, 1)
    subject = load_one(save(model, mlp_folder(tmp_path, "Modular", 4, 4)))
    assert_same(model, subject, torch.randn(9, 2), torch.arange(9) % 4)


def test_gt_modular_has_as_many_modules_as_rules_whatever_its_name_says(tmp_path: Path) -> None:
    """``main.py --gt-rules 4 --model GT_Modular`` leaves ``--num-rules`` at 2, and names that."""
    model = plain.PlainMLP("GT_Modular", 4, 4, ENCODER, WIDTH)
    subject = load_one(save(model, mlp_folder(tmp_path, "GT_Modular", 4, 2)))
    assert (subject.data.rules, subject.model.modules) == (4, 0)
    assert_same(model, subject, torch.randn(40, 2), torch.arange(40) % 4)


def test_a_folder_that_cannot_be_read_is_marked_and_stops_nothing_else(tmp_path: Path) -> None:
    good = save(
        plain.PlainMLP("Modular_joint", 4, 4, ENCODER, WIDTH),
        mlp_folder(tmp_path, "Modular_joint", 4, 4),
    )
    for stray in ("Modular_joint_32_128_4", "GT_Modular_joint_8_64_4_0", "Modular_joint_0_64_4_0"):
        (good.parent / stray).mkdir()
    (tmp_path / "GT_Rules_4" / good.name).mkdir(parents=True)
    jobs, left_out, _ = find_jobs([str(tmp_path)], ScoreOptions())
    assert [job.kind for job in jobs] == ["modarch"]
    assert len(left_out) == 4
    for stray, reason in (
        ("Modular_joint_32_128_4", "has 3 numbers in its name"),
        ("GT_Modular_joint_8_64_4_0", "no GT_Modular_joint for an MLP"),
        ("Modular_joint_0_64_4_0", "encoder = 0"),
        (f"GT_Rules_4/{good.name}", "not in the reference's layout"),
    ):
        assert any(stray in text and reason in text for text in left_out)
    [card] = jobs[0].run()
    assert [member.status for member in card.models[0].members] == ["ok"]


@pytest.mark.parametrize("rules", [3, 5, 6])
def test_rules_that_do_not_divide_the_width_are_cut_as_the_reference_cuts(
    rules: int, tmp_path: Path
) -> None:
    model = plain.PlainMLP("Modular_joint", rules, rules, ENCODER, WIDTH)
    subject = load_one(save(model, mlp_folder(tmp_path, "Modular_joint", rules, rules)))
    check_pair(subject.data, subject.model)
    assert_same(model, subject, torch.randn(40, 2), torch.arange(40) % rules)
    made = create(subject.data, subject.model, [0])
    assert subject.network is not None
    assert [p.shape for p in made.parameters()] == [p.shape for p in subject.network.parameters()]


@pytest.mark.parametrize(
    ("trained", "tested"),
    [(10, (3, 5, 10, 20, 30)), (20, (10, 20, 30, 40, 50)), (40, (10, 20, 30, 40, 50))],
)
def test_sequences_are_tested_at_the_lengths_of_the_reference(
    trained: int, tested: tuple[int, ...], tmp_path: Path
) -> None:
    model = plain.PlainRecurrent("GT_Modular", 2, 2, ENCODER, WIDTH, DIMENSION, 1)
    folder = tmp_path / f"Sequence_{trained}_Order_1_Dim_{DIMENSION}" / "Data-Seed_0"
    subject = load_one(save(model, folder / "GT_Rules_2" / f"GT_Modular_{ENCODER}_{WIDTH}_2_0"))
    assert subject.data.tested_lengths == tested
    card = score(subject, evaluate(subject, precision=0.2))
    names = {entry.metric: entry for entry in card.scores if entry.seed is None}
    shifted = {f"loss_at_length_{length}_x2" for length in tested}
    assert shifted == {name for name in names if name.endswith("_x2") and name.startswith("loss")}
    assert names["in_distribution_loss"].length == trained
    assert names["out_of_distribution_loss"].length == tested[-1]


# --- objective -----------------------------------------------------------------------------------


def test_an_unknown_objective_is_asked_for(tmp_path: Path) -> None:
    model = plain.PlainMLP("GT_Modular", 2, 2, ENCODER, WIDTH)
    folder = tmp_path / "Logs" / "Data-Seed_0" / "GT_Rules_2" / f"GT_Modular_{ENCODER}_{WIDTH}_2_0"
    save(model, folder)
    with pytest.raises(SpecError, match="--objective regression"):
        load_one(folder)
    assert load_one(folder, objective="classification").data.objective == "classification"


# --- refusals ------------------------------------------------------------------------------------


def folder_with(tmp_path: Path, content: bytes, name: str = "model_last.pt") -> Path:
    folder = mlp_folder(tmp_path, "Modular_joint", 2, 2)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    return folder


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"encoder_digit.0.weight": Evil()}, tmp_path / "evil.pt")
    for content in ((tmp_path / "evil.pt").read_bytes(), pickle.dumps(Evil())):
        folder = folder_with(tmp_path / str(len(content)), content)
        with pytest.raises(CheckpointError, match=r"never runs code|not a checkpoint"):
            load_one(folder)
    assert not (tmp_path / "hacked").exists()


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save(plain.PlainMLP("Modular_joint", 2, 2, ENCODER, WIDTH).state_dict(), tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        with pytest.raises(CheckpointError, match="cut short"):
            load_one(folder_with(tmp_path / str(size), whole[:size]))


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a checkpoint"):
        load_one(folder_with(tmp_path, b"hello, I am a poem"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "expected tensors by name"),
        ({"step": 3}, "expected tensors by name"),
        ({"conv.weight": torch.zeros(2, 2)}, "holds the weights of no model of its"),
    ],
)
def test_weights_of_another_program_are_refused(
    content: object, message: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "m")
    with pytest.raises(CheckpointError, match=message):
        load_one(folder_with(tmp_path, (tmp_path / "m").read_bytes()))


def test_another_family_than_the_path_names_is_refused(tmp_path: Path) -> None:
    model = plain.PlainAttention("Modular", 2, 2, ENCODER, WIDTH, HEADS)
    with pytest.raises(CheckpointError, match=r"an MLP .* holds the weights of an attention model"):
        load_one(save(model, mlp_folder(tmp_path, "Modular_joint", 2, 2)))


def test_sizes_that_the_path_denies_are_refused_with_both(tmp_path: Path) -> None:
    model = plain.PlainMLP("Modular_joint", 2, 2, ENCODER, 2 * WIDTH)
    with pytest.raises(CheckpointError, match=r"width 64.*\(2, 24, 64\), expected \(2, 24, 32\)"):
        load_one(save(model, mlp_folder(tmp_path, "Modular_joint", 2, 2)))


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    state = plain.PlainMLP("GT_Modular", 2, 2, ENCODER, WIDTH).state_dict()
    state["surplus"] = state.pop("decoder.0.bias")
    torch.save(state, tmp_path / "m")
    folder = mlp_folder(tmp_path, "GT_Modular", 2, 2)
    folder.mkdir(parents=True)
    (tmp_path / "m").rename(folder / "model_last.pt")
    with pytest.raises(CheckpointError, match=r"lacks decoder\.0\.bias and it holds surplus"):
        load_one(folder)


def test_a_seed_with_weights_that_are_not_finite_is_marked(tmp_path: Path) -> None:
    for seed in (0, 1):
        model = plain.PlainMLP("Modular_joint", 2, 2, ENCODER, WIDTH)
        if seed == 1:
            model.decoder[0].bias.data.fill_(torch.nan)
        save(model, mlp_folder(tmp_path, "Modular_joint", 2, 2, seed))
    assert load_one(tmp_path).faults == ("", "its weights are not finite")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Logs/GT_Rules_2/Modular_joint_8_64_2_0", "layout"),
        ("Other/Data-Seed_0/GT_Rules_2/Modular_joint_8_64_2_0", "does not tell the family"),
        ("Logs/Data-Seed_0/GT_Rules_2/Modular_joint_8_64_2", "3 numbers"),
        ("Logs/Data-Seed_0/GT_Rules_2/Monolithic_joint_8_64_2_0", "no Monolithic_joint"),
    ],
)
def test_paths_outside_the_layout_are_refused(path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        reference_folders.parse(tmp_path / path)


# --- recorded matrices ---------------------------------------------------------------------------


def matrix_folder(tmp_path: Path, matrix: object, *, allow_pickle: bool = False) -> Path:
    folder = mlp_folder(tmp_path, "Modular_joint", 2, 3)
    folder.mkdir(parents=True)
    np.save(folder / "prob_last.npy", matrix, allow_pickle=allow_pickle)  # type: ignore[arg-type]
    return folder


MATRIX = np.array([[0.4, 0.1, 0.0], [0.0, 0.2, 0.3]])


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_folder_with_only_a_matrix_is_read_as_joint(factor: float, tmp_path: Path) -> None:
    subject = load_one(matrix_folder(tmp_path, MATRIX * factor))
    assert subject.network is None
    assert subject.joint is not None
    torch.testing.assert_close(subject.joint[0], torch.from_numpy(MATRIX))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (MATRIX.T.copy(), r"shape \(3, 2\)"),
        (MATRIX - 0.1, "no distribution"),
        (MATRIX * np.nan, "no distribution"),
        (MATRIX * 0.7, "no distribution"),
        (np.ones((2, 3), dtype=np.int64), "no array of real numbers"),
    ],
)
def test_matrices_that_are_no_distribution_are_refused(
    matrix: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_one(matrix_folder(tmp_path, matrix))


def test_a_matrix_with_objects_or_cut_short_is_refused(tmp_path: Path) -> None:
    objects = np.array([[Evil(), 1], [2, 3]], dtype=object)
    with pytest.raises(CheckpointError, match="never unpickles"):
        load_one(matrix_folder(tmp_path / "a", objects, allow_pickle=True))
    folder = matrix_folder(tmp_path / "b", MATRIX)
    path = folder / "prob_last.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_one(folder)


# --- the recorded checkpoints --------------------------------------------------------------------

CASES = Path(os.environ.get("MODEVAL_CASES", Path(__file__).parents[2] / "../shared/cases"))
FOLDERS = sorted(path.parent for path in CASES.glob("modarch/**/expected.json"))
NAMES = {
    "collapse_avg": "collapse",
    "collapse_worst": "collapse_worst",
    "alignment_distance": "hungarian",
    "inverse_mutual_information": "inverse_mi",
}


def test_recorded_checkpoints_are_there_or_the_reason_is_given() -> None:
    if not FOLDERS:
        pytest.skip("no recorded checkpoints: set MODEVAL_CASES to the folder that holds modarch/")
    assert all((folder / "model_last.pt").is_file() for folder in FOLDERS)


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: "-".join(folder.parts[-7:]))
def test_a_recorded_checkpoint_scores_as_the_reference_said(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["metrics"]
    subject = load_one(folder)
    evaluation = evaluate(subject)
    if evaluation.counts is not None:
        joint = evaluation.counts.joint()[0, 0]
        recorded = reference_folders.read_joint(folder / "prob_last.npy", *joint.shape)
        activation = (joint - recorded).abs().max() * len(joint)
        assert activation < 0.01
        for name, theirs in NAMES.items():
            assert METRICS[name].function(joint).item() == pytest.approx(expected[theirs], abs=0.01)
        shifted = evaluation.shifted
        adaptation = (
            METRICS["adaptation_distance"].function(joint)
            if shifted is None
            else adaptation_from_marginals(shifted.rules, shifted.modules)[0]
        )
        assert adaptation.item() == pytest.approx(expected["specialization"], abs=0.02)
    for loss in evaluation.losses:
        kind = "eval" if loss.factor == 1 else "ood"
        theirs = (
            expected[f"{kind}_loss"]
            if loss.length is None
            else expected[f"{kind}_loss_by_len"][str(loss.length)]
        )
        # MLPs are evaluated on the reference's own samples: a classifier's loss is made by a few
        # in a thousand, and 100,000 others give it to some 10 % only.
        margin = 1e-3 if subject.data.task == "binary" else 0.05
        assert loss.mean().item() == pytest.approx(theirs, rel=margin)


def test_mlps_are_evaluated_on_the_samples_of_the_reference():
    data = DataSpec(rules=3, objective="classification")
    parts = reference_batches(data, 5, np.random.RandomState(7))
    numbers, rules = np.random.RandomState(7), np.random.RandomState(5)
    alpha, beta = rules.randn(3), rules.randn(3)
    for factor, (inputs, rule, target) in zip((1, 2), parts, strict=True):
        assert inputs.shape == (1, 100_000, 2)
        for batch in range(100):
            one, two = factor * numbers.randn(1_000, 1), factor * numbers.randn(1_000, 1)
            chosen = numbers.choice(3, size=1_000)
            at = slice(1_000 * batch, 1_000 * (batch + 1))
            np.testing.assert_array_equal(rule[0, at], chosen)
            np.testing.assert_allclose(inputs[0, at], np.hstack((one, two)), rtol=1e-6)
            answer = alpha[chosen] * one[:, 0] + beta[chosen] * two[:, 0] >= 0
            np.testing.assert_array_equal(target[0, at, 0], answer)
