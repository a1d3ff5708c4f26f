"""One file to its counts: what a readable scan is, and how its bytes are read without trusting them."""
