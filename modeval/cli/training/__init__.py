"""Commands that make data, models and sweeps."""
