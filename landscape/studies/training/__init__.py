"""Training of many models: every combination of keys, several seeds of each."""
