"""Files: whole or absent, as trees of named arrays, with their origin."""
