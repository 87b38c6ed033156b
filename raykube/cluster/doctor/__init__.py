"""`raykube doctor`: what is wrong with machines before or while a cluster is on them, and what to do about it.

`probe.py` runs on each machine, over ssh, in whatever Python it has; `checks.py` judges what it says, and what machines
say beside each other; `ask.py` does the asking.
"""
