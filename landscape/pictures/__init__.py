"""What all pictures share: their look, scales, and the numbers and words on them."""
