"""The probability of a labelling under random networks, and the PAC-Bayes bounds that it gives."""
