"""Training cohorts: the stream of batches, the step, the loop, run folders."""
