"""What switching modules off tells: from losses to scores, matrices and curves."""
