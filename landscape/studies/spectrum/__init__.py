"""Eigenpairs, trace and density of the Hessian."""
