"""Sweeps: many cohorts from one grid, on one machine or on many."""
