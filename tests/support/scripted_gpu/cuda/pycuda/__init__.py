"""A scripted pycuda: see tests/support/scripted_gpu/pycuda/driver.py."""
