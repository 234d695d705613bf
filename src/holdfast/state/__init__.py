"""Live objects ↔ trees: capture them, match them with a checkpoint, restore them."""
