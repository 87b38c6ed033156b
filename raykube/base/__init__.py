"""What every part may use: clocks, identifiers, back-off.

Pure: nothing here reads a clock or draws a random number."""
