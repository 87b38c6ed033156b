"""What the scheduler's special factors are worth: each one's figure with it and without it.

    make factors              the table
    pytest tests/factors      the same figures, asserted

A factor is a file here with a function that returns a `Figure`, and a line in `table.FACTORS`.
"""
