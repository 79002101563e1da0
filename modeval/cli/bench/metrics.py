"""``modeval bench metrics``: scoring a trace that is folded, and the folding of a stream."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import typer

from modeval.cli.output import let_threads_sleep, stdout
from modeval.spec.checks import check


def bench_metrics_command(
    *,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 48,
    rules: Annotated[int, typer.Option(min=2, help="Rules.")] = 16,
    modules: Annotated[int, typer.Option(min=2, help="Modules.")] = 128,
    documents: Annotated[int, typer.Option(min=1, help="Documents.")] = 512,
    permutations: Annotated[
        int | None,
        typer.Option(min=1, help="Permutations of labels; as many as score takes."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens that are folded.")] = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time all static metrics with intervals and tests, and folding against a memory copy."""
    check(
        documents >= 2 * rules,
        f"--documents {documents}: {rules} rules need two each. Type --documents {2 * rules}.",
    )
    let_threads_sleep()
    result = {
        "static_metrics": bench_static(layers, rules, modules, documents, permutations),
        "folding": bench_folding(tokens),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    _print(result)


def bench_static(
    layers: int, rules: int, modules: int, documents: int, permutations: int | None = None
) -> dict[str, Any]:
    """Time all static metrics of random documents: once, and as they are scored.

    Scoring leaves each document out for the intervals and permutes labels for the tests.
    """
    import torch

    from modeval.metrics import STATIC_METRICS, measure
    from modeval.score.inference.permutation import permutations_for
    from modeval.score.measure import measure_routing

    generator = torch.Generator().manual_seed(0)
    permutations = permutations or permutations_for(layers)
    routing = random_routing(layers, rules, modules, documents, generator)
    once = _seconds(lambda: measure(routing.groups[0].counts))
    scored = _seconds(
        lambda: measure_routing(routing, generator=generator, permutations=permutations), repeats=1
    )
    return {
        "metrics": len(STATIC_METRICS),
        "layers": layers,
        "rules": rules,
        "modules": modules,
        "documents": documents,
        "permutations": permutations,
        "threads": torch.get_num_threads(),
        "seconds_once": once,
        "seconds_with_inference": scored,
    }


def bench_folding(
    tokens: int, modules: int = 64, choices: int = 8, rules: int = 16
) -> dict[str, Any]:
    """Time the folding of top-K choices against a copy of the same bytes."""
    import torch

    from modeval.counting.count import count_choices
    from modeval.counting.kernel import kernel

    way = "PyTorch" if kernel(tokens) is None else "the kernel"  # compiled here, if it is yet to be
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(1000, modules, generator=generator).topk(choices).indices
    chosen = chosen[torch.randint(1000, (tokens,), generator=generator)].contiguous()
    rule = torch.randint(rules, (tokens,), generator=generator)
    room, room_rule = torch.empty_like(chosen), torch.empty_like(rule)
    copy, fold = _in_turns(
        lambda: (room.copy_(chosen), room_rule.copy_(rule)),
        lambda: count_choices(rule, chosen, rules=rules, modules=modules),
    )
    return {
        "way": way,
        "tokens": tokens,
        "modules": modules,
        "choices": choices,
        "bytes": chosen.nbytes + rule.nbytes,
        "seconds_copy": copy,
        "seconds_fold": fold,
        "ratio": fold / copy,
    }


def random_routing(layers: int, rules: int, modules: int, documents: int, generator: Any) -> Any:
    """Return documents of 1000 tokens each, every one with a taste of its own."""
    import torch

    from modeval.counting.units import document_units
    from modeval.metrics import STATIC_METRICS
    from modeval.score.routing import LayerStack, Routing

    shape = (1, layers, documents, modules)
    taste = torch.rand(shape, generator=generator, dtype=torch.float64).pow(8)
    mass = 1000 * taste / taste.sum(-1, keepdim=True)
    label = torch.arange(documents) % rules
    plain = document_units(mass, label, selections=mass.round())
    units = replace(
        plain, entropy=plain.samples / 2, selection_entropy=torch.zeros_like(plain.samples)
    )
    stack = LayerStack(
        layers=tuple(range(layers)), counts=units.counts(), choices=(0,) * layers, units=units
    )
    return Routing(
        groups=(stack,), rules=rules, evidence="documents", metrics=tuple(STATIC_METRICS)
    )


def _seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    """Return the least seconds of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _in_turns(
    first: Callable[[], Any], second: Callable[[], Any], turns: int = 7
) -> tuple[float, float]:
    """Return the least seconds of each; in turns, so that both meet the same machine."""
    pairs = [(_seconds(first, 1), _seconds(second, 1)) for _ in range(turns)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    static, folding = result["static_metrics"], result["folding"]
    table = Table("what", "measured")
    table.add_row(
        f"{static['metrics']} static metrics, {static['layers']} layers x {static['rules']} rules "
        f"x {static['modules']} modules, once",
        f"{static['seconds_once']:.3f} s",
    )
    table.add_row(
        f"the same as scored: each of {static['documents']} documents left out, "
        f"{static['permutations']:,} permutations, {static['threads']} threads",
        f"{static['seconds_with_inference']:.2f} s",
    )
    table.add_row(
        f"folding top-{folding['choices']} of {folding['modules']}, {folding['tokens']:,} tokens, "
        f"by {folding['way']}",
        f"{folding['seconds_fold'] * 1000:.1f} ms",
    )
    table.add_row(
        f"copying the same {folding['bytes'] / 1e6:.0f} MB",
        f"{folding['seconds_copy'] * 1000:.1f} ms (folding is {folding['ratio']:.1f} x)",
    )
    stdout().print(table)
