"""The router's decisions: which apiserver gets the next connection."""
