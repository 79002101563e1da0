"""Routers: which parts of a model they are, and how their choices are read."""
