"""Parameters of the reference implementation, under our names and in our order.

Its linear layers are ``(out, in)``, ours ``(in, out)``; its banks of modules are ``(M, in, out)``
with biases ``(1, M, out)``. Three things are arranged differently there: the routing logit of a
module is the last output column of its last layer, the rows of the recurrent gates are grouped by
module, and the gates of the plain LSTM cell stand in the order i, f, g, o (ours: i, f, o, g).
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modeval.errors import CheckpointError
from modeval.nn.attention import AttentionNetwork
from modeval.nn.build import FAMILIES, head_width, hidden_width
from modeval.nn.layer import Choices
from modeval.nn.linear import StackedMLP
from modeval.nn.network import Network
from modeval.nn.scorers import FixedScorer, single_table
from modeval.spec import DataSpec, ModelSpec, module_count
from modeval.spec.gatings import Fixed

State = dict[str, Tensor]
Shape = tuple[int, ...]

UNUSED = frozenset({"rnn.scorer.1.b"})
"""Parameters that the reference creates, never initialises and never reads."""

FAMILY_KEYS = {
    "encoder_digit.0.weight": "binary",
    "model.query_net.weight": "sets",
    "rnn.i2h.weight": "series",
    "rnn.weight_ih": "series",
}
"""Names that only the weights of one family have."""


def read_weights(path: Path) -> State:
    """Read a checkpoint as named tensors; code in it is never run.

    Raises:
        CheckpointError: the file is missing, cut short, holds code, or holds no named tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles; what cannot be read is refused
            state = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise CheckpointError(
            f"No checkpoint at {path}. Give a folder that holds {path.name}."
        ) from None
    except Exception as error:  # noqa: BLE001 - damaged files fail in many ways inside torch
        raise CheckpointError(_refusal(path, str(error) or type(error).__name__)) from None
    if not isinstance(state, Mapping) or not state or not _holds_tensors(state):
        raise CheckpointError(
            f"{path} is not a checkpoint of the reference implementation: expected tensors by "
            f"name (a state_dict), found {type(state).__name__}. Save model.state_dict()."
        )
    return {name: tensor.detach() for name, tensor in state.items()}


def _holds_tensors(state: Mapping[object, object]) -> bool:
    return all(
        isinstance(name, str) and isinstance(value, Tensor) and value.is_floating_point()
        for name, value in state.items()
    )


def _refusal(path: Path, message: str) -> str:
    """Say whether a file holds code, is damaged, or was never a checkpoint."""
    code = next((line.strip() for line in message.splitlines() if "GLOBAL" in line), None)
    if code is not None:
        return (
            f"{path} holds code beside its tensors, and modeval never runs code from a "
            f"checkpoint ({code[:120]}). Save model.state_dict() and score that."
        )
    if _zip_begins(path):
        return f"{path} is damaged or cut short: {first_line(message)}. Copy it again."
    return (
        f"{path} is not a checkpoint that torch.save wrote, or is cut short. Copy it again, or "
        "give another folder."
    )


def _zip_begins(path: Path) -> bool:
    """Tell whether a file begins as torch.save begins it."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def first_line(error: object) -> str:
    """Return the first line of what an error says."""
    text = str(error).strip()
    return text.splitlines()[0][:200].rstrip(".") if text else type(error).__name__


def family(names: Iterable[str]) -> str | None:
    """Return the task family whose weights have these names, if they tell it."""
    known = set(names)
    return next((task for key, task in FAMILY_KEYS.items() if key in known), None)


# --- what a checkpoint holds ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a reference model that its specification does not hold.

    Attributes:
        heads: attention heads of a module; of the whole model for Monolithic.
        scorer: hidden units of a scorer that is an MLP. The folder's name does not tell it, so it
            is the one size that is read from the weights.
    """

    heads: int = 1
    scorer: int = 0


def scorer_width(state: State) -> int:
    """Return the hidden units of the scorer, 0 where it is no MLP."""
    for name in ("scorer.0.weight", "model.scorer.0.weight", "rnn.scorer.0.weight"):
        if name in state:
            return len(state[name])
    return 0


def layout(data: DataSpec, model: ModelSpec, sizes: Sizes) -> dict[str, Shape]:
    """Return name and shape of every tensor that the reference keeps for such a model.

    Args:
        data: task it was trained on.
        model: the model, modules narrowed as the reference does.
        sizes: what the specification does not hold.
    """
    return {"binary": _mlp, "sets": _attention, "series": _recurrent}[data.task](data, model, sizes)


def _linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.weight": (outputs, inputs)}
    return shapes | ({f"{name}.bias": (outputs,)} if bias else {})


def _two(name: str, widths: tuple[int, int, int], *, bias: bool = True) -> dict[str, Shape]:
    first, hidden, last = widths
    return _linear(f"{name}.0", first, hidden, bias=bias) | _linear(
        f"{name}.2", hidden, last, bias=bias
    )


def _bank(
    name: str, model: ModelSpec, modules: int, widths: tuple[int, int, int]
) -> dict[str, Shape]:
    if model.scorer == "none":
        return _two(name, widths)
    first, hidden, last = widths
    last += model.scorer == "module"
    return {
        f"{name}.0.w": (modules, first, hidden),
        f"{name}.0.b": (1, modules, hidden),
        f"{name}.2.w": (modules, hidden, last),
        f"{name}.2.b": (1, modules, last),
    }


def _mlp(data: DataSpec, model: ModelSpec, sizes: Sizes) -> dict[str, Shape]:
    encoder, width, modules = model.encoder, model.width, module_count(data, model)
    shapes = _two("encoder_digit", (1, encoder, encoder))
    shapes |= _two("encoder_operation", (data.rules, encoder, encoder))
    shapes |= _bank("MLP", model, modules, (3 * encoder, hidden_width(data, model), width))
    shapes |= _two("decoder", (width, encoder, 1))
    if model.scorer == "rule":
        shapes |= _linear("scorer", encoder, modules)
    if model.scorer == "shared":
        shapes |= _two("scorer", (width + 2 + data.rules, sizes.scorer, 1))
    return shapes


def _attention(data: DataSpec, model: ModelSpec, sizes: Sizes) -> dict[str, Shape]:
    encoder, modules, heads = model.encoder, module_count(data, model), sizes.heads
    head = _head(data, model, heads)
    stream = modules * heads * head
    shapes = _two("encoder", (data.features + data.rules, encoder, encoder))
    for name in ("query_net", "key_net", "value_net"):
        shapes |= _linear(f"model.{name}", encoder, stream)
    shapes |= _linear("model.in_", encoder, modules * head)
    hidden = _attention_hidden(data, model)
    shapes |= _bank("model.out_proj", model, modules, (head * (heads + 1), hidden, encoder))
    shapes |= _two("decoder", (encoder, encoder, 1))
    if model.scorer == "rule":
        shapes |= _two("model.scorer", (data.rules, sizes.scorer, modules))
    return shapes


def _recurrent(data: DataSpec, model: ModelSpec, sizes: Sizes) -> dict[str, Shape]:
    encoder, modules, state = model.encoder, module_count(data, model), hidden_width(data, model)
    shapes = _two("encoder", (data.features + data.rules, encoder, encoder))
    shapes |= _two("decoder", (state, state, data.outputs))
    if model.scorer == "none":
        return shapes | {
            "rnn.weight_ih": (4 * state, encoder),
            "rnn.weight_hh": (4 * state, state),
            "rnn.bias_ih": (4 * state,),
            "rnn.bias_hh": (4 * state,),
        }
    shapes |= _linear("rnn.i2h", encoder, 4 * modules * state, bias=False)
    shapes |= _linear("rnn.h2h", state, 4 * modules * state, bias=False)
    if model.scorer == "module":
        shapes["rnn.scorer.1.w"] = (modules, 8 * state, 1)
    if model.scorer == "rule":
        shapes |= _two("rnn.scorer", (data.rules, sizes.scorer, modules), bias=False)
    return shapes


def _head(data: DataSpec, model: ModelSpec, heads: int) -> int:
    # The reference narrows to the next whole number; Monolithic may have any number of heads.
    return model.width // heads if model.scorer == "none" else head_width(data, model)


def _attention_hidden(data: DataSpec, model: ModelSpec) -> int:
    return 2 * model.encoder if model.scorer == "none" else hidden_width(data, model)


def check(path: Path, state: State, expected: Mapping[str, Shape], sizes: str) -> None:
    """Refuse weights that are not those of the model which the path names.

    Args:
        path: the checkpoint.
        state: what it holds.
        expected: see :func:`layout`.
        sizes: what the path says, in words.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape.
    """
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected and name not in UNUSED]
    if missing or extra:
        found = f"it lacks {', '.join(missing[:3])}" if missing else ""
        found += " and " if missing and extra else ""
        found += f"it holds {', '.join(extra[:3])} beside them" if extra else ""
        raise CheckpointError(
            f"{path} does not hold the weights of the model that its folder names ({sizes}): "
            f"{found}. Put the checkpoint into the folder of its own model."
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(
                f"{path} does not have the sizes that its folder names ({sizes}): {name} is "
                f"{tuple(state[name].shape)}, expected {shape}. Put the checkpoint into the "
                "folder of its own model."
            )


def is_finite(state: State) -> bool:
    """Tell whether all weights that are used are finite."""
    return all(
        bool(tensor.isfinite().all()) for name, tensor in state.items() if name not in UNUSED
    )


# --- into our networks ---------------------------------------------------------------------------


def network_of(data: DataSpec, model: ModelSpec, states: Iterable[State], sizes: Sizes) -> Network:
    """Return a cohort whose members have these weights, which :func:`check` has passed."""
    members = [translate(data, model, state) for state in states]
    if data.task == "sets" and model.scorer == "none":
        network: Network = _single_attention(data, model, sizes.heads, len(members))
    else:
        network = FAMILIES[data.task](data, model, len(members))
        _widen_scorer(network, sizes.scorer)
    network.load_state_dict(
        {name: torch.stack([member[name] for member in members]) for name in members[0]}
    )
    return network


def _single_attention(data: DataSpec, model: ModelSpec, heads: int, seeds: int) -> Network:
    # A specification counts the heads of Monolithic in multiples of R; checkpoints have any number.
    return AttentionNetwork(
        seeds,
        rules=data.rules,
        features=data.features,
        modules=1,
        encoder=model.encoder,
        heads=heads,
        head=(head := _head(data, model, heads)),
        experts=StackedMLP(
            (seeds, 1), (head * (heads + 1), _attention_hidden(data, model), model.encoder)
        ),
        choices=Choices(FixedScorer(single_table(data.rules), seeds), Fixed()),
    )


def _widen_scorer(network: Network, width: int) -> None:
    mlp = getattr(network.scorer, "mlp", None)
    if isinstance(mlp, StackedMLP) and width:
        seeds, first, _ = mlp.hidden.weight.shape
        last, bias = mlp.readout.weight.shape[-1], mlp.hidden.bias is not None
        network.scorer.mlp = StackedMLP((seeds,), (first, width, last), bias=bias)  # type: ignore[union-attr]


def translate(data: DataSpec, model: ModelSpec, state: State) -> State:
    """Return one model's weights under our names, without the axis of seeds."""
    state = {name: tensor.float() for name, tensor in state.items()}
    ours = _from_two(state, "decoder", "decoder")
    if data.task == "binary":
        ours |= _from_two(state, "encoder_digit", "encoder_number")
        ours |= _from_two(state, "encoder_operation", "encoder_rule")
        ours |= _from_bank(state, "MLP", model)
    else:
        ours |= _from_two(state, "encoder", "encoder")
    if data.task == "sets":
        for theirs, name in _PROJECTIONS.items():
            ours |= _from_linear(state, f"model.{theirs}", f"projections.{name}")
        ours |= _from_bank(state, "model.out_proj", model)
    if data.task == "series":
        ours |= _from_gates(state, model, module_count(data, model))
    return ours | _from_scorer(state, data, model)


_PROJECTIONS = {"query_net": "query", "key_net": "key", "value_net": "value", "in_": "position"}


def _from_linear(state: State, theirs: str, ours: str) -> State:
    found = {f"{ours}.weight": state[f"{theirs}.weight"].T}
    if f"{theirs}.bias" in state:
        found[f"{ours}.bias"] = state[f"{theirs}.bias"]
    return found


def _from_two(state: State, theirs: str, ours: str) -> State:
    return _from_linear(state, f"{theirs}.0", f"{ours}.hidden") | _from_linear(
        state, f"{theirs}.2", f"{ours}.readout"
    )


def _from_bank(state: State, theirs: str, model: ModelSpec) -> State:
    """Return the modules; the last output of each is its logit where modules score themselves."""
    if model.scorer == "none":
        single = _from_two(state, theirs, "experts")
        return {name: tensor.unsqueeze(0) for name, tensor in single.items()}
    weight, bias = state[f"{theirs}.2.w"], state[f"{theirs}.2.b"][0]
    ours = {
        "experts.hidden.weight": state[f"{theirs}.0.w"],
        "experts.hidden.bias": state[f"{theirs}.0.b"][0],
    }
    if model.scorer == "module":
        ours |= {"scorer.logit.weight": weight[..., -1:], "scorer.logit.bias": bias[..., -1:]}
        weight, bias = weight[..., :-1], bias[..., :-1]
    return ours | {"experts.readout.weight": weight, "experts.readout.bias": bias}


def _from_gates(state: State, model: ModelSpec, modules: int) -> State:
    if model.scorer == "none":
        return {
            "input_gates.weight": _gate_order(state["rnn.weight_ih"]).T.unsqueeze(0),
            "input_gates.bias": _gate_order(state["rnn.bias_ih"]).unsqueeze(0),
            "state_gates.weight": _gate_order(state["rnn.weight_hh"]).T.unsqueeze(0),
            "state_gates.bias": _gate_order(state["rnn.bias_hh"]).unsqueeze(0),
        }
    return {
        f"{ours}.weight": state[f"rnn.{theirs}.weight"].unflatten(0, (modules, -1)).mT
        for theirs, ours in (("i2h", "input_gates"), ("h2h", "state_gates"))
    }


def _gate_order(rows: Tensor) -> Tensor:
    """Bring the rows of the gates i, f, g, o into the order i, f, o, g."""
    keep_in, forget, proposal, out = rows.chunk(4)
    return torch.cat((keep_in, forget, out, proposal))


def _from_scorer(state: State, data: DataSpec, model: ModelSpec) -> State:
    if data.task == "series" and model.scorer == "module":
        return {"scorer.logit.weight": state["rnn.scorer.1.w"]}
    prefix = {"binary": "", "sets": "model.", "series": "rnn."}[data.task]
    if model.scorer == "rule" and data.task == "binary":
        return _from_linear(state, "scorer", "scorer.projection")
    if model.scorer in ("rule", "shared"):
        return _from_two(state, f"{prefix}scorer", "scorer.mlp")
    return {}
