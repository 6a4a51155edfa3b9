"""What `equalize` does and prints: a network folded, planned, equalised and measured."""
