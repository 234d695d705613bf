"""Plain values that every layer shares: dtypes, trees, the index, the record."""
