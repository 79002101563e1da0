"""``modeval bench``: measurements as ratios in one run, never as timed tests."""

import typer

from modeval.cli.bench.matching import bench_matching_command
from modeval.cli.bench.metrics import bench_metrics_command
from modeval.cli.bench.record import bench_record_command
from modeval.cli.bench.trace import bench_trace_command
from modeval.cli.bench.train import bench_train_command

bench = typer.Typer(
    no_args_is_help=True,
    help="Measure speed on this machine, always as ratios within one run.",
)
bench.command("train")(bench_train_command)
bench.command("metrics")(bench_metrics_command)
bench.command("matching")(bench_matching_command)
bench.command("record")(bench_record_command)
bench.command("trace")(bench_trace_command)
