"""What a module is made of, and what it shares with the others."""
