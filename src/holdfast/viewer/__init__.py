"""A page in the browser for a run, a checkpoint, or two: a shell, without logic of its own."""
