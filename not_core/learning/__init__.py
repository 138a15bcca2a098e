"""Private records, the training of organs on them, and honest measurement."""
