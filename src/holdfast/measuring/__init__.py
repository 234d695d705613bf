"""The numbers in tensors, piece by piece and without torch: statistics, and what changed."""
