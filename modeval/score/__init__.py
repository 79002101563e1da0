"""From counts and losses to scorecards, with intervals and chance levels."""
