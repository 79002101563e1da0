"""``modeval bench record``: what recording costs on a forward pass, as ratios of one run."""

import json
import time
from typing import Annotated, Any

import typer

from modeval.cli.output import stdout

WAYS = ("plain", "recorded", "router_logits")


def bench_record_command(
    *,
    layers: Annotated[int, typer.Option(help="Layers of the model.")] = 8,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = 512,
    modules: Annotated[int, typer.Option(help="Experts in each layer.")] = 16,
    choices: Annotated[int, typer.Option(help="Experts chosen for each token.")] = 2,
    batch: Annotated[int, typer.Option(help="Sequences in a batch.")] = 4,
    length: Annotated[int, typer.Option(help="Tokens in a sequence.")] = 128,
    passes: Annotated[int, typer.Option(help="Forward passes measured together.")] = 4,
    rounds: Annotated[int, typer.Option(help="How often each way is measured, in turn.")] = 9,
    labels: Annotated[int, typer.Option(help="Labels that tokens are counted by.")] = 4,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time forward passes of a Mixtral: plain, recorded, and with output_router_logits=True.

    The recorder's time includes its hooks, its sums and its checks at the end. The three take
    turns, so that whatever else the machine does falls on all of them; ratios are medians over
    the rounds. Beside the time on the clock stands that of the processor, which other programs
    disturb less.
    """
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
    from modeval.trace.record import record

    place = choose_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = _model(layers, hidden, modules, choices).to(place).eval()
    ids = torch.randint(3, 512, (batch, length), device=place)
    mask = torch.ones_like(ids)
    rule = torch.arange(batch) % labels

    def plain(**options: Any) -> None:
        for _ in range(passes):
            model(input_ids=ids, attention_mask=mask, use_cache=False, **options)

    def recorded() -> None:
        with record(model, labels) as recording:
            for _ in range(passes):
                recording.label(rule)
                model(input_ids=ids, attention_mask=mask, use_cache=False)

    def timed(way: str) -> tuple[float, float]:
        clock, processor = time.perf_counter(), time.process_time()
        if way == "recorded":
            recorded()
        else:
            plain(**({"output_router_logits": True} if way == "router_logits" else {}))
        if place.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - clock, time.process_time() - processor

    clock: dict[str, list[float]] = {way: [] for way in WAYS}
    processor: dict[str, list[float]] = {way: [] for way in WAYS}
    with torch.inference_mode():
        for way in WAYS:
            timed(way)
        for turn in range(rounds):
            for way in (*WAYS[turn % 3 :], *WAYS[: turn % 3]):
                on_clock, on_processor = timed(way)
                clock[way].append(on_clock)
                processor[way].append(on_processor)
    return {
        "parameters": sum(part.numel() for part in model.parameters()),
        "tokens_per_pass": batch * length,
        "passes": passes,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": str(place),
        "seconds": {way: _median(values) / passes for way, values in clock.items()},
        "ratio": {way: _ratio(clock[way], clock["plain"]) for way in WAYS[1:]},
        "processor_seconds": {way: _median(values) / passes for way, values in processor.items()},
        "processor_ratio": {way: _ratio(processor[way], processor["plain"]) for way in WAYS[1:]},
    }


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


def _median(values: list[float]) -> float:
    import statistics

    return statistics.median(values)


def _ratio(some: list[float], others: list[float]) -> float:
    """Return the median over the rounds of the ratio within each."""
    return _median([mine / other for mine, other in zip(some, others, strict=True)])


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        title=f"{result['parameters'] / 1e6:.0f} M parameters, {result['tokens_per_pass']} tokens "
        f"a pass, {result['device']}, {result['threads']} threads"
    )
    for name in ("way", "seconds a pass", "ratio to plain", "ratio of processor time"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way in WAYS:
        ratio = result["ratio"].get(way, 1.0)
        processor = result["processor_ratio"].get(way, 1.0)
        seconds = result["seconds"][way]
        table.add_row(way, f"{seconds:.4f}", f"{ratio:.3f}", f"{processor:.3f}")
    stdout().print(table)
