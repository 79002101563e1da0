"""From choices or weights to counts."""
