"""``modeval bench record``: what recording costs on a forward pass, as ratios of one run."""

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from modeval.cli import complete
from modeval.cli.output import stdout
from modeval.spec.checks import check

WAYS = ("plain", "recorded", "router_logits")


def bench_record_command(
    *,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model.")] = 8,
    hidden: Annotated[int, typer.Option(min=1, help="Hidden size.")] = 512,
    modules: Annotated[int, typer.Option(min=1, help="Experts in each layer.")] = 16,
    choices: Annotated[int, typer.Option(min=1, help="Experts chosen for each token.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Sequences in a batch.")] = 4,
    length: Annotated[int, typer.Option(min=1, help="Tokens in a sequence.")] = 128,
    passes: Annotated[int, typer.Option(min=1, help="Forward passes of a recording.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way takes its turn.")] = 9,
    labels: Annotated[int, typer.Option(min=1, help="Labels that tokens are counted by.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete.devices)
    ] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time forward passes of a Mixtral: plain, recorded, and with output_router_logits=True.

    The recorder's time includes its hooks, its sums and its checks at the end. The three take
    turns, so that whatever else the machine does falls on all of them; ratios are medians over
    the rounds. Beside the time on the clock stands that of the processor, which other programs
    disturb less.
    """
    check(
        choices <= modules,
        f"--choices {choices}: there are {modules} modules. Type --choices {modules} or fewer.",
    )
    check(
        hidden % (2 * max(hidden // 64, 1)) == 0,
        f"--hidden {hidden}: heads are of 64. Type a multiple of 64, or an even number below.",
    )
    result = bench_record(
        layers=layers,
        hidden=hidden,
        modules=modules,
        choices=choices,
        batch=batch,
        length=length,
        passes=passes,
        rounds=rounds,
        labels=labels,
        threads=threads,
        device=device,
    )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    _print(result)


def bench_record(
    *,
    layers: int,
    hidden: int,
    modules: int,
    choices: int,
    batch: int,
    length: int,
    passes: int,
    rounds: int,
    labels: int,
    threads: int | None,
    device: str,
) -> dict[str, Any]:
    """Return seconds and ratios of the three ways."""
    import torch

    from modeval.cli.output import choose_device
    from modeval.record.recording import record

    place = choose_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = _model(layers, hidden, modules, choices).to(place).eval()
    ids = torch.randint(3, 512, (batch, length), device=place)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}

    def run(way: str) -> None:
        asked = {"output_router_logits": True} if way == "router_logits" else {}
        with record(model, labels) if way == "recorded" else contextlib.nullcontext() as recording:
            for _ in range(passes):
                if recording is not None:
                    recording.label(torch.arange(batch) % labels)
                model(**inputs, **asked)
        if place.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        clock, processor = _take_turns(run, rounds)
    return {
        "parameters": sum(part.numel() for part in model.parameters()),
        "tokens_per_pass": batch * length,
        "passes": passes,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": str(place),
        "seconds": {way: statistics.median(clock[way]) / passes for way in WAYS},
        "ratio": {way: _ratio(clock, way) for way in WAYS[1:]},
        "fastest_ratio": {way: min(clock[way]) / min(clock["plain"]) for way in WAYS[1:]},
        "processor_ratio": {way: _ratio(processor, way) for way in WAYS[1:]},
    }


def _take_turns(
    run: Callable[[str], None], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Time each way in each round, in another order each time; on the clock, on the processor."""
    clock: dict[str, list[float]] = {way: [] for way in WAYS}
    processor: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS:
        run(way)
    for turn in range(rounds):
        for way in (*WAYS[turn % 3 :], *WAYS[: turn % 3]):
            start, used = time.perf_counter(), time.process_time()
            run(way)
            clock[way].append(time.perf_counter() - start)
            processor[way].append(time.process_time() - used)
    return clock, processor


def _model(layers: int, hidden: int, modules: int, choices: int) -> Any:
    from modeval.errors import DependencyError

    try:
        import transformers
    except ImportError:
        raise DependencyError(
            'This measurement needs transformers: pip install "modeval-cli[hf]"'
        ) from None
    config = transformers.MixtralConfig(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(hidden // 64, 1),
        num_key_value_heads=max(hidden // 64, 1),
        num_local_experts=modules,
        num_experts_per_tok=choices,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.MixtralForCausalLM(config)


def _ratio(seconds: dict[str, list[float]], way: str) -> float:
    """Return the median over the rounds of the ratio to the plain way within each."""
    pairs = zip(seconds[way], seconds["plain"], strict=True)
    return statistics.median(mine / plain for mine, plain in pairs)


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        title=f"{result['parameters'] / 1e6:.0f} M parameters, {result['tokens_per_pass']} tokens "
        f"a pass, {result['device']}, {result['threads']} threads"
    )
    for name in ("way", "seconds a pass", "ratio to plain", "of the fastest", "of processor"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way in WAYS:
        names = ("ratio", "fastest_ratio", "processor_ratio")
        ratios = (f"{result[name].get(way, 1.0):.3f}" for name in names)
        table.add_row(way, f"{result['seconds'][way]:.4f}", *ratios)
    stdout().print(table)
