"""The commands of `landscape`."""
