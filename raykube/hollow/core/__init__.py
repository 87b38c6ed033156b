"""What simulated machines decide: stages of pods, statuses, Nodes. No event loop, clock, randomness, I/O or log."""
