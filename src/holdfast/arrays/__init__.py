"""References ↔ NumPy arrays, without torch."""
