"""THE SCALES: what a model would take, exactly and beforehand, and whether this machine has it."""
