"""Tables of numbers with errors over named rows, and arrays beside them."""
