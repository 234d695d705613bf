"""From any readable checkpoint to files of weights, tensor after tensor, without torch."""
