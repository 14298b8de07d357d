"""Values at many points to a stated error: which points are measured on which samples, round by round."""
