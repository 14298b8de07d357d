"""Generalisation measures of one network: norms, margins, path norms, PAC-Bayes, sharpness, and any of the user's."""
