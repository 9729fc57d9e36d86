"""From a checkpoint to its forward pass."""
