"""The electrode classifier (Jensen, Moeslund, Andreasen 2022) and what goes beyond it.

`training` trains the paper's on images. `crossval` and `ablation` compare recipes (`experiment`) fold by fold
(`folds`), on features computed once (`features`, `feature_cache`). `learner` turns features into something that judges,
`final` makes the checkpoint for the line, `calibrate` sets its threshold and review band.
"""
