"""Phases of load and temperature: where the loss of trained networks is sharp or flat, and their modes connected."""
