"""The plain way to train the same models, to measure ours against: ``modeval bench train``.

Written as a careful researcher writes it with PyTorch alone: one model at a time from the equations
of the paper, modules as batched products, the optimiser of PyTorch in its fused form, fresh data
drawn with NumPy for every step, float32. :mod:`modeval.cli.bench.crew` runs it in one process for
each core, one thread each. Nothing here is used by anything else.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeval.nn.build import head_width, hidden_width
from modeval.spec import DataSpec, ModelSpec, attention_heads, module_count

Draw = Callable[[int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


class Group(nn.Module):
    """A linear map for each module: ``(M, N, in)`` or a shared ``(N, in)`` to ``(M, N, out)``."""

    def __init__(self, modules: int, features: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        bound = features**-0.5
        self.weight = nn.Parameter(torch.empty(modules, features, outputs).uniform_(-bound, bound))
        self.bias = (
            nn.Parameter(torch.empty(modules, 1, outputs).uniform_(-bound, bound)) if bias else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply each module's map."""
        if x.dim() == 2:  # noqa: PLR2004
            x = x.expand(self.weight.shape[0], *x.shape)
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight)


def two_layers(features: int, hidden: int, outputs: int, *, bias: bool = True) -> nn.Sequential:
    """Return linear, rectifier, linear."""
    return nn.Sequential(
        nn.Linear(features, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, outputs, bias=bias)
    )


class PlainMLP(nn.Module):
    """The MLP family: two numbers and a one-hot rule in, one number out."""

    def __init__(self, data: DataSpec, model: ModelSpec) -> None:
        super().__init__()
        modules, encoder, width = module_count(data, model), model.encoder, model.width
        hidden, self.routing = hidden_width(data, model), model.scorer
        self.number, self.rule = (
            two_layers(1, encoder, encoder),
            two_layers(data.rules, encoder, encoder),
        )
        self.decoder = two_layers(width, encoder, 1)
        if model.scorer == "none":
            self.only = two_layers(3 * encoder, hidden, width)
            return
        own_logit = int(model.scorer == "module")
        self.first = Group(modules, 3 * encoder, hidden)
        self.second = Group(modules, hidden, width + own_logit)
        if model.scorer == "rule":
            self.router = nn.Linear(encoder, modules)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 2 + R)`` to ``(N, 1)``."""
        numbers, one_hot = x[:, :2], x[:, 2:]
        code = self.rule(one_hot)
        seen = torch.cat((self.number(numbers[:, :1]), self.number(numbers[:, 1:]), code), -1)
        if self.routing == "none":
            return self.decoder(self.only(seen))  # type: ignore[no-any-return]
        outputs = self.second(F.relu(self.first(seen)))
        if self.routing == "module":
            outputs, weight = outputs[..., :-1], outputs[..., -1:].softmax(0)
        elif self.routing == "rule":
            weight = self.router(code).softmax(-1).mT.unsqueeze(-1)
        else:
            weight = one_hot.mT.unsqueeze(-1)
        return self.decoder((outputs * weight).sum(0))  # type: ignore[no-any-return]


class PlainAttention(nn.Module):
    """The attention family: at each position features and a one-hot rule in, one number out."""

    def __init__(self, data: DataSpec, model: ModelSpec) -> None:
        super().__init__()
        modules, encoder = module_count(data, model), model.encoder
        self.modules_, self.heads = modules, attention_heads(data, model)
        self.head, self.routing = head_width(data, model), model.scorer
        self.rules, hidden = data.rules, hidden_width(data, model)
        stream = modules * self.heads * self.head
        self.encoder = two_layers(data.features + data.rules, encoder, encoder)
        self.query, self.key, self.value = (nn.Linear(encoder, stream) for _ in range(3))
        self.position = nn.Linear(encoder, modules * self.head)
        self.first = Group(modules, self.head * (self.heads + 1), hidden)
        self.second = Group(modules, hidden, encoder)
        self.decoder = two_layers(encoder, encoder, 1)
        if model.scorer == "module":
            self.logit = Group(modules, hidden, 1)
        if model.scorer == "rule":
            self.router = two_layers(data.rules, self.head, modules)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, T, F + R)`` to ``(N, T, 1)``."""
        samples, positions, _ = x.shape
        one_hot = x[..., -self.rules :]
        code = self.encoder(x)
        query, key, value = (
            layer(code).view(samples, positions, -1, self.head).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        itself = torch.eye(positions, dtype=torch.bool, device=x.device)
        logits = (query @ key.mT) * self.head**-0.5
        found = logits.masked_fill(itself, float("-inf")).softmax(-1) @ value
        found = found.transpose(1, 2).reshape(samples * positions, self.modules_, -1)
        position = self.position(code).view(samples * positions, self.modules_, -1)
        seen = torch.cat((found, position), -1).transpose(0, 1)
        units = F.relu(self.first(seen))
        outputs = self.second(units)
        if self.routing == "none":
            mixed = outputs[0]
        else:
            mixed = (outputs * self._weight(units, one_hot.flatten(0, 1))).sum(0)
        return self.decoder(mixed).view(samples, positions, 1)  # type: ignore[no-any-return]

    def _weight(self, units: Tensor, one_hot: Tensor) -> Tensor:
        if self.routing == "module":
            return self.logit(units).softmax(0)  # type: ignore[no-any-return]
        if self.routing == "rule":
            return self.router(one_hot).softmax(-1).mT.unsqueeze(-1)  # type: ignore[no-any-return]
        return one_hot.mT.unsqueeze(-1)


class PlainRecurrent(nn.Module):
    """The recurrent family: a series of inputs, each with a one-hot rule."""

    def __init__(self, data: DataSpec, model: ModelSpec) -> None:
        super().__init__()
        modules, encoder = module_count(data, model), model.encoder
        state, self.routing = hidden_width(data, model), model.scorer
        self.rules, self.state = data.rules, state
        self.encoder = two_layers(data.features + data.rules, encoder, encoder)
        self.decoder = two_layers(state, state, data.outputs)
        if model.scorer == "none":
            self.only = nn.LSTM(encoder, state, batch_first=True)
            return
        self.from_input = Group(modules, encoder, 4 * state, bias=False)
        self.from_state = Group(modules, state, 4 * state, bias=False)
        if model.scorer == "module":
            self.logit = Group(modules, 8 * state, 1, bias=False)
        if model.scorer == "rule":
            self.router = two_layers(data.rules, state, modules, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, T, F + R)`` to ``(N, T, D)``."""
        code = self.encoder(x)
        if self.routing == "none":
            return self.decoder(self.only(code)[0])  # type: ignore[no-any-return]
        one_hot = x[..., -self.rules :]
        hidden = cell = x.new_zeros(x.shape[0], self.state)
        states = []
        for step in range(x.shape[1]):
            from_input, from_state = self.from_input(code[:, step]), self.from_state(hidden)
            gates = from_input + from_state
            keep_in, forget, out = gates[..., : 3 * self.state].sigmoid().chunk(3, -1)
            cells = forget * cell + keep_in * gates[..., 3 * self.state :].tanh()
            hiddens = out * cells.tanh()
            weight = self._weight(from_input, from_state, one_hot[:, step])
            hidden, cell = (hiddens * weight).sum(0), (cells * weight).sum(0)
            states.append(hidden)
        return self.decoder(torch.stack(states, 1))  # type: ignore[no-any-return]

    def _weight(self, from_input: Tensor, from_state: Tensor, one_hot: Tensor) -> Tensor:
        if self.routing == "module":
            seen = F.relu(torch.cat((from_input, from_state), -1))
            return self.logit(seen).softmax(0)  # type: ignore[no-any-return]
        if self.routing == "rule":
            return self.router(one_hot).softmax(-1).mT.unsqueeze(-1)  # type: ignore[no-any-return]
        return one_hot.mT.unsqueeze(-1)


FAMILIES: dict[str, Callable[[DataSpec, ModelSpec], nn.Module]] = {
    "binary": PlainMLP,
    "sets": PlainAttention,
    "series": PlainRecurrent,
}


# --- data ----------------------------------------------------------------------------------------


def draw_binary(data: DataSpec, task_seed: int) -> Draw:
    """Return what draws a batch of the linear operations."""
    rules = np.random.RandomState(task_seed)
    alpha, beta = rules.randn(data.rules), rules.randn(data.rules)
    source, one_hot = np.random.default_rng(task_seed), np.eye(data.rules, dtype=np.float32)

    def draw(samples: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        x = source.standard_normal((samples, 2), dtype=np.float32)
        rule = source.integers(data.rules, size=samples)
        target = alpha[rule] * x[:, 0] + beta[rule] * x[:, 1]
        return np.concatenate((x, one_hot[rule]), 1), target[:, None]

    return draw


def draw_sets(data: DataSpec, task_seed: int) -> Draw:
    """Return what draws a batch of search and retrieve, nearest scalar."""
    rules = np.random.RandomState(task_seed)
    alpha, beta = rules.randn(data.rules), rules.randn(data.rules)
    source, one_hot = np.random.default_rng(task_seed), np.eye(data.rules, dtype=np.float32)
    far = np.where(np.eye(data.length, dtype=bool), np.float32(np.inf), np.float32(0))

    def draw(samples: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        shape = (samples, data.length)
        x = source.standard_normal((*shape, data.rules, 4), dtype=np.float32)
        rule = source.integers(data.rules, size=shape)
        # (N, T, T, 4): what position i holds under the rule of position n
        seen = x[np.arange(samples)[:, None, None], np.arange(data.length), rule[..., None]]
        own = np.einsum("nttk->ntk", seen)[:, :, None]
        found = [
            np.take_along_axis(
                seen[..., 2 + key],
                (np.abs(seen[..., key] - own[..., key]) + far).argmin(-1)[..., None],
                -1,
            )[..., 0]
            for key in (0, 1)
        ]
        target = alpha[rule] * found[0] + beta[rule] * found[1]
        flat = x.reshape(*shape, -1)
        return np.concatenate((flat, one_hot[rule]), -1), target[..., None]

    return draw


def draw_series(data: DataSpec, task_seed: int) -> Draw:
    """Return what draws a batch of switching linear dynamics of order one."""
    rules, size = np.random.RandomState(task_seed), data.dimension
    transition = (rules.randn(data.rules, size, size) / np.sqrt(size)).astype(np.float32)
    drive = (rules.randn(data.rules, size, size) / np.sqrt(size)).astype(np.float32)
    source, one_hot = np.random.default_rng(task_seed), np.eye(data.rules, dtype=np.float32)

    def draw(samples: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        x = source.standard_normal((samples, data.length, size), dtype=np.float32)
        rule = source.integers(data.rules, size=(samples, data.length))
        states = np.zeros_like(x)
        state = np.zeros((samples, size), np.float32)
        for step in range(data.length):
            moved = np.empty_like(state)
            for own in range(data.rules):
                rows = np.flatnonzero(rule[:, step] == own)
                moved[rows] = state[rows] @ transition[own] + x[rows, step] @ drive[own]
            states[:, step] = state = moved
        return np.concatenate((x, one_hot[rule]), -1), states

    return draw


DRAWS: dict[str, Callable[[DataSpec, int], Draw]] = {
    "binary": draw_binary,
    "sets": draw_sets,
    "series": draw_series,
}


# --- a step -----------------------------------------------------------------------------------


def train_step(
    data: DataSpec,
    model: ModelSpec,
    batch: int,
    seed: int,
    *,
    clip: float = 0.0,
    device: str = "cpu",
) -> Callable[[], None]:
    """Return what does one step of one model, drawing included."""
    torch.manual_seed(seed)
    network = FAMILIES[data.task](data, model).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    loss_of = nn.L1Loss() if data.objective == "regression" else nn.BCEWithLogitsLoss()
    draw = DRAWS[data.task](data, seed)

    def step() -> None:
        drawn, answer = draw(batch)
        inputs = torch.as_tensor(drawn, dtype=torch.float32, device=device)
        target = torch.as_tensor(answer, dtype=torch.float32, device=device)
        if data.objective == "classification":
            target = (target >= 0).float()
        optimiser.zero_grad()
        loss_of(network(inputs), target).backward()
        if clip:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimiser.step()

    return step
