"""What a result is, before there is any: its kind, tables, pages and frames, and how it is measured."""
