# ruff: noqa: PLR0917 - sizes in the order of the folder names
"""The paper's models in plain PyTorch, one model at a time, with the reference's parameter names.

Written from the equations of the paper and from the shapes of published checkpoints; a second
opinion on what our stacked networks compute from the same weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bank(nn.Module):
    """One linear map for each module."""

    def __init__(self, modules: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(modules, inputs, outputs) / math.sqrt(inputs))
        self.b = nn.Parameter(torch.randn(1, modules, outputs) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...mi,mio->...mo", x, self.w) + self.b


def two(first: int, hidden: int, last: int, *, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(first, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, last, bias=bias)
    )


def banks(modules: int, first: int, hidden: int, last: int) -> nn.Sequential:
    return nn.Sequential(Bank(modules, first, hidden), nn.ReLU(), Bank(modules, hidden, last))


class PlainMLP(nn.Module):
    def __init__(self, kind: str, rules: int, modules: int, encoder: int, width: int) -> None:
        super().__init__()
        self.kind, self.rules, self.modules_ = kind, rules, modules
        self.encoder_digit = two(1, encoder, encoder)
        self.encoder_operation = two(rules, encoder, encoder)
        hidden = width // modules
        if kind == "Monolithic":
            self.MLP = two(3 * encoder, width, width)
        else:
            self.MLP = banks(modules, 3 * encoder, hidden, width + (kind == "Modular_joint"))
        if kind == "Modular_operation-only":
            self.scorer: nn.Module = nn.Linear(encoder, modules)
        if kind == "Modular":
            self.scorer = two(width + 2 + rules, encoder, 1)
        self.decoder = two(width, encoder, 1)

    def forward(self, inputs: Tensor, rule: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = F.one_hot(rule, self.rules).float()
        code = self.encoder_operation(one_hot)
        z = torch.cat(
            [self.encoder_digit(inputs[:, :1]), self.encoder_digit(inputs[:, 1:]), code], -1
        )
        if self.kind == "Monolithic":
            return self.decoder(self.MLP(z)), torch.ones(len(z), 1)
        out = self.MLP(z.unsqueeze(1).expand(-1, self.modules_, -1))
        if self.kind == "GT_Modular":
            weight = one_hot
        elif self.kind == "Modular_joint":
            out, logit = out[..., :-1], out[..., -1]
            weight = logit.softmax(-1)
        elif self.kind == "Modular_operation-only":
            weight = self.scorer(code).softmax(-1)
        else:
            seen = torch.cat([inputs, one_hot], -1).unsqueeze(1).expand(-1, self.modules_, -1)
            weight = self.scorer(torch.cat([out, seen], -1)).squeeze(-1).softmax(-1)
        return self.decoder((out * weight.unsqueeze(-1)).sum(1)), weight


class _Attention(nn.Module):
    def __init__(
        self, kind: str, rules: int, modules: int, encoder: int, width: int, heads: int
    ) -> None:
        super().__init__()
        self.kind, self.rules, self.modules_, self.heads = kind, rules, modules, heads
        self.head = width // (heads * modules)
        stream = modules * heads * self.head
        self.query_net = nn.Linear(encoder, stream)
        self.key_net = nn.Linear(encoder, stream)
        self.value_net = nn.Linear(encoder, stream)
        self.in_ = nn.Linear(encoder, modules * self.head)
        found = self.head * (heads + 1)
        if kind == "Monolithic":
            self.out_proj = two(found, 2 * encoder, encoder)
        else:
            budget = 2 * encoder * (modules * heads * (width + encoder) + width)
            cost = modules * (width * (heads + 1) + modules * heads * encoder)
            self.out_proj = banks(modules, found, budget // cost, encoder + (kind == "Modular"))
        if kind == "Modular_operation-only":
            self.scorer = two(rules, self.head, modules)

    def forward(self, code: Tensor, one_hot: Tensor) -> tuple[Tensor, Tensor]:
        length, head = code.shape[1], self.head

        def split(stream: Tensor) -> Tensor:
            split_up: Tensor = stream.unflatten(-1, (self.modules_, self.heads, head))
            return split_up

        query, key = split(self.query_net(code)), split(self.key_net(code))
        value = split(self.value_net(code))
        logits = torch.einsum("ntmhd,numhd->nmhtu", query, key) / math.sqrt(head)
        logits = logits.masked_fill(torch.eye(length, dtype=torch.bool), -torch.inf)
        found = torch.einsum("nmhtu,numhd->ntmhd", logits.softmax(-1), value).flatten(3)
        position = self.in_(code).unflatten(-1, (self.modules_, head))
        seen = torch.cat([found, position], -1)
        if self.kind == "Monolithic":
            return self.out_proj(seen.squeeze(2)), torch.ones(*code.shape[:2], 1)
        out = self.out_proj(seen)
        if self.kind == "GT_Modular":
            weight = one_hot
        elif self.kind == "Modular":
            out, logit = out[..., :-1], out[..., -1]
            weight = logit.softmax(-1)
        else:
            weight = self.scorer(one_hot).softmax(-1)
        return (out * weight.unsqueeze(-1)).sum(2), weight


class PlainAttention(nn.Module):
    def __init__(
        self,
        kind: str,
        rules: int,
        modules: int,
        encoder: int,
        width: int,
        heads: int,
        per_rule: int = 4,
    ) -> None:
        super().__init__()
        self.rules = rules
        self.encoder = two((per_rule + 1) * rules, encoder, encoder)
        self.decoder = two(encoder, encoder, 1)
        self.model = _Attention(kind, rules, modules, encoder, width, heads)

    def forward(self, inputs: Tensor, rule: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = F.one_hot(rule, self.rules).float()
        mixed, weight = self.model(self.encoder(torch.cat([inputs, one_hot], -1)), one_hot)
        return self.decoder(mixed), weight


class _ModularCell(nn.Module):
    def __init__(self, kind: str, rules: int, modules: int, encoder: int, state: int) -> None:
        super().__init__()
        self.kind, self.modules_, self.state = kind, modules, state
        self.i2h = nn.Linear(encoder, 4 * modules * state, bias=False)
        self.h2h = nn.Linear(state, 4 * modules * state, bias=False)
        if kind == "Modular":
            self.scorer = nn.Sequential(nn.ReLU(), Bank(modules, 8 * state, 1))
            nn.init.constant_(self.scorer[1].b, math.nan)  # type: ignore[arg-type]
        if kind == "Modular_operation-only":
            self.scorer = two(rules, state, modules, bias=False)

    def forward(
        self, code: Tensor, one_hot: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        from_input = self.i2h(code).unflatten(-1, (self.modules_, -1))
        from_state = self.h2h(hidden).unflatten(-1, (self.modules_, -1))
        keep_in, forget, out, proposal = (from_input + from_state).chunk(4, -1)
        cells = forget.sigmoid() * cell.unsqueeze(1) + keep_in.sigmoid() * proposal.tanh()
        hiddens = out.sigmoid() * cells.tanh()
        if self.kind == "GT_Modular":
            weight = one_hot
        elif self.kind == "Modular":
            seen = F.relu(torch.cat([from_input, from_state], -1))
            weight = torch.einsum("nmi,mio->nm", seen, self.scorer[1].w).softmax(-1)
        else:
            weight = self.scorer(one_hot).softmax(-1)
        mix = weight.unsqueeze(-1)
        return (hiddens * mix).sum(1), (cells * mix).sum(1), weight


class PlainRecurrent(nn.Module):
    def __init__(
        self,
        kind: str,
        rules: int,
        modules: int,
        encoder: int,
        width: int,
        dimension: int,
        outputs: int,
    ) -> None:
        super().__init__()
        self.kind, self.rules = kind, rules
        self.state = width if kind == "Monolithic" else narrowed(modules, encoder, width)
        self.encoder = two(dimension + rules, encoder, encoder)
        self.decoder = two(self.state, self.state, outputs)
        if kind == "Monolithic":
            self.rnn: nn.Module = nn.LSTMCell(encoder, width)
        else:
            self.rnn = _ModularCell(kind, rules, modules, encoder, self.state)

    def forward(self, inputs: Tensor, rule: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = F.one_hot(rule, self.rules).float()
        code = self.encoder(torch.cat([inputs, one_hot], -1))
        hidden = cell = torch.zeros(len(inputs), self.state)
        states, weights = [], []
        for step in range(inputs.shape[1]):
            if self.kind == "Monolithic":
                hidden, cell = self.rnn(code[:, step], (hidden, cell))
                weight = torch.ones(len(inputs), 1)
            else:
                hidden, cell, weight = self.rnn(code[:, step], one_hot[:, step], hidden, cell)
            states.append(hidden)
            weights.append(weight)
        return self.decoder(torch.stack(states, 1)), torch.stack(weights, 1)


def narrowed(modules: int, encoder: int, width: int) -> int:
    """Return the state at which modules have the parameters of one LSTM cell of that width."""
    total = 5 * width**2 + width * (4 * encoder + 1)
    a, b = 4 * modules + 1, 4 * modules * encoder + 1
    return int((-b + math.sqrt(b * b + 4 * a * total)) / (2 * a))
