"""A run folder as values: what lies in it, what its files are called, what stays and what goes."""
