"""What a measurement decides: its scenario, its pods, its figures. No event loop, clock, randomness, I/O or log."""
