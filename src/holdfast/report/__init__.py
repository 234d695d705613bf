"""Index → facts: what a checkpoint holds, whether its bytes are whole."""
