"""Curves of low loss between models."""
