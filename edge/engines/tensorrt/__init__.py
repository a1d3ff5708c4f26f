"""TensorRT on an NVIDIA GPU: all that needs one lies here; `open.py` is the door."""
