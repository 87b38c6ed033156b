"""Measurements of the real control plane. Run alone on the machine: timings taken beside other work mean nothing."""
