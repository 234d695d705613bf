"""References ↔ torch tensors."""
