"""Many trained models through chosen measurements: the table that a corpus is analysed by."""
