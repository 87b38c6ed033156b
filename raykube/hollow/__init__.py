"""Simulated machines: many kubelets in one process, against real apiservers."""
