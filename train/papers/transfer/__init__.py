"""The network-based transfer detector (Minhas, Zelek 2019), with one-class baselines beside it.

`detector` is the protocol, `image_sets` what it reads, `fine_tune` trains a whole network, `one_class` the baselines.
"""
