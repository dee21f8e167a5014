"""What every method needs of a network: its layers, its scores, and clips of its own pipeline."""
