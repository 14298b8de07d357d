"""Squares and sums of per-sample gradients by the rule of each kind of layer."""
