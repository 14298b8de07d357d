"""How well metrics of a corpus of models follow a target, overall and inside groups."""
