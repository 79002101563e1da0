"""Recording: from networks, run folders and foreign checkpoints to routing counts and losses."""
