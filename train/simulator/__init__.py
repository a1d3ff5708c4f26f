"""Simulated electrodes, and images that are none: numpy and OpenCV alone.

`simulate` writes lots; `electrode` is a good sheet and the detector that sees it, `defects` the 11 anomaly kinds,
`foreign` what a gate must refuse.
"""
