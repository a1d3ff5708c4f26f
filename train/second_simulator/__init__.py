"""Second simulator of X-ray scans of electrodes, written from the paper's text alone (Jensen 2022, 2.2 and 2.3).

It shares no code and no assumption with `train.simulator`: a network that learns on one and is tested on the other
shows what it learnt about electrodes and what about its simulator. Not evidence about real electrodes.
"""
