"""Counts to the 8-bit image that the networks see, and whether the model was made for such a scan."""
