"""``modeval structure``: do networks fall into parts, are modules copies, are seeds connected?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeval.cli import complete
from modeval.cli.options import with_examples
from modeval.cli.output import check_target, deliver, progress_bar, stdout, tell_written
from modeval.errors import SpecError

if TYPE_CHECKING:
    from modeval.pipeline.structure import RunStructure

EXAMPLES = """
[bold]Examples[/]

  A dense network: do its weights cluster, and do clusters do anything of their own?
  [cyan]modeval structure runs/four/monolithic --json structure.json[/]

  Which weights each rule needs, too (seconds for each rule and seed):
  [cyan]modeval structure runs/four/monolithic --masks[/]

  A modular network: are modules copies of each other, more than untrained ones?
  [cyan]modeval structure runs/four/modular[/]

  Two starts of each task: are they connected by a line of low loss, once units are matched?
  [cyan]modeval train --out runs/pairs --model monolithic --task-seeds 3 --model-seeds 2[/]
  [cyan]modeval structure runs/pairs[/]
"""
LIKENESS = {
    "distance": "functional distance (0 copies, 1 unrelated)",
    "cka": "linear CKA of outputs (1 alike up to a rotation)",
    "cosine": "cosine of matched weights (1 copies)",
}


def structure_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of modeval train.", show_default=False)
    ],
    *,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers to this file.")
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(min=2, help="Parts of a dense network; as many as rules.")
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Learn which weights each rule needs.")
    ] = False,
    permutations: Annotated[
        int,
        typer.Option(min=19, help="Shuffled networks and random parts that it is held against."),
    ] = 99,
    selection: Annotated[
        str,
        typer.Option(
            help="Checkpoint: last or best.", autocompletion=complete.one_of("last", "best")
        ),
    ] = "last",
    seed: Annotated[int, typer.Option(min=0, help="Of samples and permutations.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Tell structure without routing: clusters of dense networks, redundancy of modules.

    Dense (Monolithic): spectral clusters of the weights against weights that are shuffled within
    each layer; lesions of the clusters against random parts with as many units. Units are hidden
    units, channels of attention's queries, keys and values, and cells of recurrent networks.
    Modular: outputs and weights of modules against untrained networks. Seeds of one task, in
    pairs: how far the loss rises on the line between them, before and after units are matched.
    """
    from modeval.pipeline.structure import structure_of_run

    if selection not in ("last", "best"):
        raise SpecError(f"--selection {selection}: expected one of last, best.")
    if json_file is not None:
        check_target(json_file, flag="--json", example="structure.json")
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("Looking at seeds", total=None, note="")
        found = structure_of_run(
            run,
            selection=selection,
            clusters=clusters,
            masks=masks,
            permutations=permutations,
            seed=seed,
            watch=lambda done, every: bar.update(task, completed=done, total=every),
        )
    if json_file is not None and not deliver(
        json_file, json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n", flag="--json"
    ):
        return
    if not quiet:
        from modeval.report.terminal.grid import Prose

        for line in lines(found):
            stdout().print(Prose(line, indent="      "), highlight=False)
        if json_file is not None:
            tell_written(json_file)


structure_command.__doc__ = with_examples(structure_command, EXAMPLES)


SURE = 0.05
"""p up to which a seed is counted."""


def _findings(found: "RunStructure") -> Iterator[str]:
    """Say in how many seeds there is structure, of what was looked at."""
    from modeval.pipeline.connections import CONNECTED
    from modeval.report.words import count

    of = f"of {count(len(found.seeds), 'seed')} (p <= {SURE:g})"
    for name, held in found.modules.items():
        sure = int((held.p_value <= SURE).sum())
        what = LIKENESS[name].partition(" (")[0]
        yield f"Modules are less alike than untrained ones, by {what}, in {sure} {of}."
    if found.dense:
        parts = sum(each.clusters.p_value <= SURE for each in found.dense)
        yield f"Weights fall into parts, more than shuffled weights would, in {parts} {of}."
    cut = [each.lesions for each in found.dense if each.lesions is not None]
    if cut:
        ruled = sum(each.coherence_p <= SURE for each in cut)
        yield (
            f"A part works for one rule, more than random parts of its size would, in {ruled} {of}."
        )
    if found.connections:
        pairs = count(len(found.connections), "pair")
        rises = ((each.barrier, each.matched, each.limit) for each in found.connections)
        as_is, matched = (
            sum(side) for side in zip(*((b <= at, m <= at) for b, m, at in rises), strict=True)
        )
        yield (
            f"A line of low loss connects seeds of one task in {as_is} of {pairs} as they are, in "
            f"{matched} once units are matched (the loss rises by up to {CONNECTED:.0%} of it)."
        )


def lines(found: "RunStructure") -> list[str]:
    """Return what is printed: a line for each seed and question."""
    from modeval.report.words import count

    told = [f"{found.title}: {count(len(found.seeds), 'seed')}", *_findings(found)]
    told += [
        f"  seeds {each.one[0]}/{each.one[1]} and {each.two[0]}/{each.two[1]}: on the line between "
        f"them the loss rises by {each.barrier:.3g}, by {each.matched:.3g} once units are matched "
        f"(connected: up to {each.limit:.2g}; loss {each.loss:.3g})"
        for each in found.connections
    ]
    for name, held in found.modules.items():
        untrained = f"untrained {float(held.untrained.mean()):.3f}"
        for (task, model), value, p_value in zip(
            found.seeds, held.value.tolist(), held.p_value.tolist(), strict=True
        ):
            told.append(
                f"  seed {task}/{model}: {LIKENESS[name]} {value:.3f} ({untrained}, "
                f"p {p_value:.3g} that those are as much alike)"
            )
    for (task, model), each in zip(found.seeds, found.dense, strict=False):
        parts = each.clusters
        z = "all shuffles alike" if parts.z is None else f"{parts.z:.2f} deviations below shuffled"
        told.append(
            f"  seed {task}/{model}: normalised cut into {parts.count} parts {parts.cut:.3f}, {z} "
            f"weights (p {parts.p_value:.3g})"
        )
        if all(len({*layer}) == 1 for layer in parts.labels[1:-1]):
            told.append(
                "    parts are whole layers, so lesions of them cannot differ from random ones"
            )
        if each.lesions is not None:
            most = float(each.lesions.coherence.mean())
            chance = float(each.lesions.coherence_chance.mean())
            told.append(
                f"    lesions: {most:.2f} of the damage of a part is one rule's (random parts "
                f"{chance:.2f}, p {each.lesions.coherence_p:.3g}); importance p "
                f"{each.lesions.importance_p:.3g}"
            )
        if each.masks is not None:
            off = [
                (overlap, chance)
                for row, levels in enumerate(each.masks.chance.tolist())
                for column, chance in enumerate(levels)
                if column < row
                for overlap in (float(each.masks.overlap[row, column]),)
            ]
            overlap, chance = (sum(part) / max(len(off), 1) for part in zip(*off, strict=True))
            told.append(
                f"    masks: {float(each.masks.density.mean()):.2f} of the weights kept; overlap "
                f"of rules {overlap:.2f} (independent masks {chance:.2f}, p "
                f"{each.masks.p_shared:.3g} that they share as much, {each.masks.p_apart:.3g} as "
                "little)"
            )
    return told
