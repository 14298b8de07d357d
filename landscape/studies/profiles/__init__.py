"""Loss along many random directions."""
