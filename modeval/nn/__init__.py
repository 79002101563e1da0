"""Networks made of modules: computation, scorer, gating and aggregation are separate choices."""

from modeval.nn.build import build, create
from modeval.nn.network import Network, Output, count_parameters

__all__ = ["Network", "Output", "build", "count_parameters", "create"]
