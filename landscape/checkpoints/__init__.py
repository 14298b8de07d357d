"""Trained models in the forms that users have them, and trajectories of training."""
