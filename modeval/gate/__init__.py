"""The gate: a policy judged on a scorecard, one verdict for each requirement."""
