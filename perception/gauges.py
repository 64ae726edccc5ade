"""What features are worth, told without training a full probe."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def feature_std(features: Tensor) -> float:
    """Mean over channels of the spread across samples, [n, D]: near 0 when the encoder says the same of everything."""
    return float(features.float().std(dim=0).mean())


def effective_rank(features: Tensor) -> float:
    """RankMe: how many directions the features [n, D] use, the exponential of their singular values' entropy.

    Between 1 and min(n, D). Garrido et al. 2023, arXiv 2210.02885, equation 1.
    """
    values = torch.linalg.svdvals(features.float())
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def centred_rank(features: Tensor) -> float:
    """RankMe of the features [n, D] less their mean: a large common offset does not hide what varies."""
    return effective_rank(features.float() - features.float().mean(dim=0))


def spectrum_decay(features: Tensor) -> float:
    """Alpha-ReQ: how fast the covariance spectrum of features [n, D] falls, the exponent of its power law.

    Around 1 in features that transfer well; larger where few directions carry all. Fitted to the upper half of the
    eigenvalues that n samples can show. Agrawal et al. 2022 (NeurIPS), section 3.
    """
    centred = features.double() - features.double().mean(dim=0)
    values = torch.linalg.svdvals(centred).square()
    count = max(2, min(len(features) - 1, features.shape[1]) // 2)
    values = values[:count].clamp_min(torch.finfo(values.dtype).tiny)
    x = torch.arange(1, count + 1, dtype=values.dtype).log()
    x, y = x - x.mean(), values.log() - values.log().mean()
    return float(-(x @ y) / (x @ x))


def lidar(features: Tensor, ridge: float = 1e-4) -> float:
    """How many directions tell clips apart by more than they tell views of one clip apart: [n, views, D], 1 to n - 1.

    The effective rank of linear discriminant analysis with every clip a class (Thilak et al. 2023, arXiv 2312.04000,
    equation 1); `ridge`, times the mean within-class variance, keeps the whitening finite.
    """
    features = features.double()
    means = features.mean(dim=1)  # [n, D]
    within = (features - means[:, None]).flatten(0, 1)
    between = means - means.mean(dim=0)
    scatter = within.T @ within / len(within)
    scale = scatter.diagonal().mean().clamp_min(torch.finfo(scatter.dtype).tiny)
    values, vectors = torch.linalg.eigh(scatter + ridge * scale * torch.eye(len(scatter), dtype=scatter.dtype))
    whitened = between @ vectors * values.rsqrt()  # [n, D]
    eigenvalues = torch.linalg.svdvals(whitened).square()
    shares = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(eigenvalues.dtype).tiny)
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def ridge_probe(features: NDArray[np.float32], labels: NDArray[np.float32], seed: int = 0) -> list[float]:
    """How well a linear map reads each label from features: held-out R2, or balanced accuracy where labels are 0 and 1.

    features: [n, D]; labels: [n, K], NaN where unknown. A random 30% is held out. A label with fewer than ten known
    values, or with one value only, scores NaN.
    """
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} features but {len(labels)} rows of labels: give one row of labels a clip")
    return [_score(features, column, seed) for column in labels.T]


def _score(features: NDArray[np.float32], label: NDArray[np.float32], seed: int) -> float:
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = ~np.isnan(label)
    x, y = features[known], label[known]
    values = np.unique(y)
    binary = np.array_equal(values, [0.0, 1.0])
    if len(y) < 10 or len(values) < 2 or (binary and min(y.sum(), (1 - y).sum()) < 4):
        return float("nan")
    split = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y if binary else None)
    x_train, x_test, y_train, y_test = split
    probe = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 6, 7))).fit(x_train, y_train)
    if binary:
        return float(balanced_accuracy_score(y_test > 0.5, probe.predict(x_test) > y_train.mean()))
    return float(probe.score(x_test, y_test))
