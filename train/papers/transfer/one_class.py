"""Semi-supervised baselines: detectors that learn from normal images alone, on the features the transfer detector sees.

scikit-learn's. Features are standardised by the normal training images and turned onto their principal axes, which
keeps the kernel and the covariance of 1,792 numbers from a few hundred images in hand.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

Matrix = npt.NDArray[np.float32]

NAMES: Final = ("one-class SVM", "Mahalanobis", "nearest neighbour")
MAX_NORMAL: Final = 2000
"""Normal images learnt from, drawn by the seed: the SVM's time grows with their square."""
AXES: Final = 256
NU: Final = 0.1
"""Share of normal images that the SVM may leave outside."""
NEIGHBOURS: Final = 2


def one_class_scores(normal: Matrix, test: Matrix, seed: int) -> dict[str, npt.NDArray[np.float64]]:
    """Anomaly scores float64 (m,), by name in `NAMES`, of features (m, d) where features (n, d) are normal; n >= 1."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(normal))[:MAX_NORMAL])
    scale = StandardScaler().fit(normal[drawn])
    x, y = scale.transform(normal[drawn]), scale.transform(test)
    axes = PCA(min(AXES, *x.shape), svd_solver="full").fit(x)
    x, y = axes.transform(x), axes.transform(y)
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(x)), algorithm="brute").fit(x)
    scores = (
        -OneClassSVM(kernel="rbf", gamma="scale", nu=NU).fit(x).score_samples(y),
        LedoitWolf().fit(x).mahalanobis(y),
        near.kneighbors(y)[0].mean(axis=1),
    )
    return {name: np.asarray(values, np.float64) for name, values in zip(NAMES, scores, strict=True)}
