"""What training on later tasks costs of earlier ones, against the curvature at the weights that these left."""
