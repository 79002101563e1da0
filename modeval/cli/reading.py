"""Options of commands that run a language model on labelled text, written once."""

from typing import Annotated

import typer

from modeval.cli import complete

Model = Annotated[str, typer.Argument(help="Folder of a Hugging Face model, or its id on the hub.")]
Data = Annotated[
    list[str],
    typer.Option(
        "--data",
        "-d",
        help="JSON lines, Parquet, a text file, a folder (name of the folder = label) or the "
        "name of a data set. May be given several times.",
    ),
]
TextColumn = Annotated[str, typer.Option(help="Column of the text.")]
LabelColumn = Annotated[
    str, typer.Option(help="Column of the label; '' takes the name of each file.")
]
Split = Annotated[str, typer.Option(help="Split of a data set by name.")]
Length = Annotated[int, typer.Option(min=1, help="Tokens kept of each document.")]
BatchTokens = Annotated[
    int, typer.Option(min=1, help="Tokens of a batch, padding included: bounds the memory.")
]
Routers = Annotated[
    list[str] | None,
    typer.Option(help="Names of the routers, as layers.*.gate, when they are not found."),
]
Dtype = Annotated[
    str,
    typer.Option(help="auto, float32, bfloat16 or float16.", autocompletion=complete.types),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete.devices)
]
DeviceMap = Annotated[str | None, typer.Option(help="Spread the model over devices, as auto.")]
Revision = Annotated[str | None, typer.Option(help="Commit or tag on the hub.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]
