"""The training step: optimiser, schedule, engine, FLOP counts and meters."""
