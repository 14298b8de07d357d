"""What the Hessian blocks of layers are made of: the curvature at their outputs and the moments of their inputs."""
