"""A scripted pycuda: see tests/scripted_gpu/pycuda/driver.py."""
