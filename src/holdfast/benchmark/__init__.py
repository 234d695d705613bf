"""How fast saving and loading are on this machine, beside what people use today."""
