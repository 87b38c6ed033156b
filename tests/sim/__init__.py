"""The store under a simulated clock, network and disks: one seed decides everything, and replays to the bit."""
