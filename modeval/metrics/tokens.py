"""Metrics of real traces that need single tokens: their choices, identity, document, layer.

Choices are module numbers ``(..., N, K)``, best first, -1 where fewer than K were chosen.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from modeval.errors import TraceError
from modeval.metrics.information import v_measure

Chosen = Int[Tensor, "*batch tokens choices"]
Labels = Int[Tensor, "tokens"]
Scalar = Float64[Tensor, "*batch"]


def saturation(early: Chosen, late: Chosen) -> Scalar:
    """How much of its final routing does a token have already at an earlier checkpoint?

    ``mean over tokens of |chosen_t and chosen_T| / K``

    Args:
        early: ``(..., N, K)`` choices at the earlier checkpoint.
        late: ``(..., N, K)`` choices on the same tokens at the last one.

    Returns:
        ``(...)``, no unit, from 0 to 1. The same routing 1; independent uniform routing K/M;
        collapsed onto the same modules 1.

    Raises:
        TraceError: there are no tokens.

    Source: Muennighoff et al. 2024, OLMoE (arXiv 2409.02060), equation 8.

    >>> saturation(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 0], [2, 0]])).item()
    0.75
    """
    _check_some(early.shape[-2], "tokens")
    return _shared(early, late).double().mean(-1) / early.shape[-1]


def temporal_persistence(chosen: Chosen, document: Labels, *, ranks: int = 1) -> Scalar:
    """How often does the next token of a document choose the same module again?

    ``#{n: chosen_n and chosen_n+1 share one of their first `ranks` choices} / #{n}`` over
    neighbouring tokens of one document.

    Args:
        chosen: ``(..., N, K)`` choices in reading order.
        document: ``(N,)`` document of each token.
        ranks: 1 for the first choice; 2 for first or second.

    Returns:
        ``(...)``, no unit, from 0 to 1. Uniform 1/M for one rank and 1 - (M-2)(M-3)/(M(M-1)) for
        two; collapsed 1.

    Raises:
        TraceError: no document has two tokens.

    Source: Jiang et al. 2024, Mixtral of Experts (arXiv 2401.04088), table 5.

    >>> chosen = torch.tensor([[0, 1], [0, 2], [2, 0], [2, 1]])
    >>> document = torch.tensor([7, 7, 7, 8])
    >>> temporal_persistence(chosen, document).item()
    0.5
    >>> temporal_persistence(chosen, document, ranks=2).item()
    1.0
    """
    same = document[1:] == document[:-1]
    _check_some(int(same.sum()), "neighbouring tokens of one document")
    first, second = chosen[..., :-1, :ranks], chosen[..., 1:, :ranks]
    repeated = _shared(first, second) > 0
    return repeated[..., same].double().mean(-1)


def vocabulary_specialization(
    token: Labels, chosen: Chosen, *, modules: int, least: int = 10
) -> Scalar:
    """Does a word of the vocabulary keep to one module?

    ``mean over token types x with N_x >= 10 of max_m N_{m,x} / N_x``

    Args:
        token: ``(N,)`` number of each token in the vocabulary.
        chosen: ``(..., N, K)`` choices.
        modules: number of modules M.
        least: occurrences below which a token type is left out.

    Returns:
        ``(...)``, no unit, from about K/M to 1. Collapsed 1. Its chance level lies above K/M, as
        the largest of M shares: take it from shuffled tokens.

    Raises:
        TraceError: no token type occurs ``least`` times.

    Source: Muennighoff et al. 2024, OLMoE (arXiv 2409.02060), section 5.4.

    >>> token = torch.tensor([5, 5, 6, 6])
    >>> chosen = torch.tensor([[0], [0], [0], [1]])
    >>> vocabulary_specialization(token, chosen, modules=2, least=2).item()
    0.75
    """
    kinds, kind = torch.unique(token, return_inverse=True)
    occurrences = torch.bincount(kind, minlength=len(kinds))
    common = occurrences >= least
    _check_some(int(common.sum()), f"token types with {least} occurrences")
    largest = torch.stack(
        [
            _table(kind, layer, len(kinds), modules).amax(-1)[common] / occurrences[common]
            for layer in chosen.reshape(-1, *chosen.shape[-2:])
        ]
    )
    return largest.mean(-1).reshape(chosen.shape[:-2])


def lexical_information(token: Labels, chosen: Chosen) -> Scalar:
    """How much does the identity of a token tell of its module?

    ``I(x; m)``, x the token's number in the vocabulary; each of K choices counts 1/K.

    Args:
        token: ``(N,)`` number of each token in the vocabulary.
        chosen: ``(..., N, K)`` choices.

    Returns:
        ``(...)`` in nats, from 0 to log M. Collapsed 0. Uniform 0 in the limit; with few
        occurrences of a type it is overestimated: compare with shuffled tokens.

    Raises:
        TraceError: there are no tokens.

    Source: plug-in mutual information; for routing, Xue et al. 2024, OpenMoE (arXiv 2402.01739),
    section 4.

    >>> round(lexical_information(torch.tensor([4, 4, 9, 9]), torch.tensor([[0], [0], [1], [1]]))
    ...       .item(), 4)
    0.6931
    """
    _check_some(len(token), "tokens")
    nothing = torch.zeros_like(token)
    return _over_layers(chosen, lambda layer: _conditional_information(token, layer, nothing))


def semantic_information(
    rule: Labels,
    token: Labels,
    chosen: Chosen,
    *,
    generator: torch.Generator,
    shuffles: int = 20,
) -> Scalar:
    """How much does a module tell of the rule (domain, language) beyond the token's identity?

    ``I(r; m | x) - mean over shuffles of I(r'; m | x)``, r' the rules shuffled among the
    occurrences of the same token x.

    Args:
        rule: ``(N,)`` rule of each token.
        token: ``(N,)`` number of each token in the vocabulary.
        chosen: ``(..., N, K)`` choices.
        generator: draws the shuffles, on the CPU.
        shuffles: number of shuffles.

    Returns:
        ``(...)`` in nats, at most log min(R, M); about 0, on either side, when routing depends on
        the token alone, is uniform, or collapsed. Tokens of one document are dependent, so a
        value above 0 is a claim only with an interval over documents.

    Raises:
        TraceError: there are no tokens.

    Source: this project; the null removes the bias that rare tokens give the plug-in value.

    >>> rule, token = torch.tensor([0, 1] * 50), torch.zeros(100, dtype=torch.int64)
    >>> generator = torch.Generator().manual_seed(0)
    >>> by_rule = semantic_information(rule, token, rule[:, None], generator=generator)
    >>> round(by_rule.item(), 1)
    0.7
    """
    _check_some(len(token), "tokens")
    null = semantic_information_null(rule, token, chosen, generator=generator, shuffles=shuffles)
    return conditional_rule_information(rule, token, chosen) - null.mean(0)


def conditional_rule_information(rule: Labels, token: Labels, chosen: Chosen) -> Scalar:
    """Return the plug-in I(r; m | x) in nats; rare tokens bias it upwards."""
    return _over_layers(chosen, lambda layer: _conditional_information(rule, layer, token))


def semantic_information_null(
    rule: Labels, token: Labels, chosen: Chosen, *, generator: torch.Generator, shuffles: int
) -> Float64[Tensor, "shuffles *batch"]:
    """Return I(r'; m | x) for rules shuffled among the occurrences of each token."""
    order = token.argsort(stable=True)
    draws = []
    for _ in range(shuffles):
        mixed = torch.randperm(len(token), generator=generator).to(token.device)
        source = mixed[token[mixed].argsort(stable=True)]
        shuffled = torch.empty_like(rule).index_copy_(0, order, rule[source])
        draws.append(conditional_rule_information(shuffled, token, chosen))
    return torch.stack(draws)


def cross_layer_nmi(
    first: Int[Tensor, "*batch layers tokens"], *, modules: int
) -> Float64[Tensor, "*batch pairs"]:
    """Does the module of one layer tell that of the next?

    ``2 I(m_l; m_l+1) / (H(m_l) + H(m_l+1))`` of first choices in successive layers.

    Args:
        first: ``(..., L, N)`` first choice of each token in each layer.
        modules: number of modules M, the same in all layers.

    Returns:
        ``(..., L-1)``, no unit, from 0 to 1. Independent layers about (M-1)^2/(2N) over log M:
        take the chance level from shuffled tokens. Collapsed 1 (sklearn's convention: nothing is
        left to tell; read it with load).

    Raises:
        TraceError: there are no tokens, or a single layer.

    Source: normalised mutual information with the arithmetic mean, Strehl & Ghosh 2002.

    >>> cross_layer_nmi(torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]]), modules=2).tolist()
    [1.0]
    """
    _check_some(first.shape[-1], "tokens")
    _check_some(first.shape[-2] - 1, "pairs of layers")
    pairs = (first[..., :-1, :].long() * modules + first[..., 1:, :]).flatten(0, -2)
    tables = torch.stack([torch.bincount(pair, minlength=modules**2) for pair in pairs])
    joint = tables.view(-1, modules, modules).double() / first.shape[-1]
    return v_measure(joint).reshape(*first.shape[:-2], -1)


def router_margin(logits: Float[Tensor, "*batch tokens modules"], *, choices: int) -> Scalar:
    """How clear is the cut between modules that are chosen and those that are not?

    ``mean over tokens of (K-th largest logit - (K+1)-th largest logit)``

    Args:
        logits: ``(..., N, M)`` router logits before gating.
        choices: number of chosen modules K, less than M.

    Returns:
        ``(...)`` in units of the logits, from 0. Uniform 0. There is no chance level.

    Raises:
        TraceError: K is not from 1 to M - 1, or there are no tokens.

    Source: this project.

    >>> router_margin(torch.tensor([[3.0, 1.0, 0.0]]), choices=1).item()
    2.0
    """
    modules = logits.shape[-1]
    _check_some(logits.shape[-2], "tokens")
    if not 1 <= choices < modules:
        raise TraceError(
            f"choices = {choices} of {modules} modules leaves no cut to measure. Give the K of "
            f"top-K routing, from 1 to {modules - 1}."
        )
    top = logits.double().topk(choices + 1, dim=-1).values
    return (top[..., choices - 1] - top[..., choices]).mean(-1)


def weight_entropy(weight: Float[Tensor, "*batch tokens modules"]) -> Scalar:
    """How undecided is the routing of a token, whatever its rule?

    ``mean over tokens of -sum_m w_m log w_m``

    Args:
        weight: ``(..., N, M)`` routing weights, for each token a row that sums to 1.

    Returns:
        ``(...)`` in nats, from 0 to log M. Hard routing 0, uniform log M, collapsed 0.

    Raises:
        TraceError: there are no tokens.

    Source: Shannon 1948.

    >>> round(weight_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).item(), 4)
    0.3466
    """
    _check_some(weight.shape[-2], "tokens")
    terms: Tensor = torch.special.entr(weight.double())
    return terms.sum(-1).mean(-1)


def _shared(first: Tensor, second: Tensor) -> Tensor:
    """Count the modules that are among both choices of a token."""
    found = torch.zeros(first.shape[:-1], dtype=torch.int64, device=first.device)
    for rank in range(first.shape[-1]):
        one = first[..., rank : rank + 1]
        found += ((one == second) & (one >= 0)).any(-1)
    return found


def _table(kind: Tensor, chosen: Tensor, kinds: int, modules: int) -> Tensor:
    """Count choices ``(N, K)`` by kind of token and module."""
    width = modules + 1
    index = (kind[:, None] * width + 1 + chosen).view(-1)
    return torch.bincount(index, minlength=kinds * width).view(kinds, width)[:, 1:].double()


def _over_layers(chosen: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to the choices ``(N, K)`` of each batch member."""
    parts = [function(layer) for layer in chosen.reshape(-1, *chosen.shape[-2:])]
    return torch.stack(parts).reshape(chosen.shape[:-2])


def _conditional_information(label: Tensor, chosen: Tensor, given: Tensor) -> Tensor:
    """Return I(label; module | given) in nats, each of K choices counting the same."""
    taken = chosen >= 0
    module = chosen[taken].long()
    given, label = (kind[:, None].expand(chosen.shape)[taken] for kind in (given, label))
    context, both = _codes(given), _codes(given, label)
    return (
        _entropy_of(_codes(context, module))
        + _entropy_of(both)
        - _entropy_of(context)
        - _entropy_of(_codes(both, module))
    ).clamp(min=0)


def _codes(*labels: Tensor) -> Tensor:
    """Number the combinations of labels that occur from 0."""
    code = torch.zeros_like(labels[0], dtype=torch.int64)
    for label in labels:
        low = label.min()
        code = code * (int(label.max() - low) + 1) + (label - low)
    numbered: Tensor = torch.unique(code, return_inverse=True)[1]
    return numbered


def _entropy_of(code: Tensor) -> Tensor:
    """Return the plug-in entropy of codes in nats."""
    share = torch.bincount(code).double() / len(code)
    terms: Tensor = torch.special.entr(share)
    return terms.sum()


def _check_some(count: int, what: str) -> None:
    if count < 1:
        raise TraceError(f"There are no {what}, so there is nothing to measure. Record more.")
