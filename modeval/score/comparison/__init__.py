"""What changed between scorecards, and whether two builds route alike."""
