"""The gate's five terms against plain numpy."""

import numpy as np
import torch

from train.losses import gate_loss, kernel_error, latent_error, squared_error


def _residual(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 1, 20, 17)).astype(np.float32)


def test_the_squared_error_is_the_mean_per_pixel() -> None:
    residual = _residual(1)
    np.testing.assert_allclose(float(squared_error(torch.from_numpy(residual))), (residual**2).mean(), rtol=1e-5)


def test_the_window_error_is_the_batch_mean_of_the_worst_squared_box_mean() -> None:
    residual = _residual(2)
    windows = np.lib.stride_tricks.sliding_window_view(residual[:, 0], (9, 9), axis=(1, 2))
    expected = (windows.mean(axis=(3, 4)) ** 2).max(axis=(1, 2)).mean()
    np.testing.assert_allclose(float(kernel_error(torch.from_numpy(residual))), expected, rtol=1e-4)


def test_the_latent_error_is_a_hundredth_of_the_mean_size() -> None:
    z = np.random.default_rng(3).random((2, 1, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(float(latent_error(torch.from_numpy(z))), 0.01 * np.abs(z).mean(), rtol=1e-5)


def test_the_total_is_the_sum_of_all_five_terms() -> None:
    ok, per = torch.from_numpy(_residual(4)), torch.from_numpy(_residual(5))
    z = torch.rand(3, 1, 4, 4)
    loss = gate_loss(ok, per, z)
    parts = [squared_error(ok), squared_error(per), kernel_error(ok), kernel_error(per), latent_error(z)]
    np.testing.assert_allclose(float(loss.total()), sum(float(part) for part in parts), rtol=1e-5)
    without_per = sum(float(part) for part in (parts[0], parts[2], parts[4]))
    np.testing.assert_allclose(float(loss.total(per_weight=0.0)), without_per, rtol=1e-5)


def test_a_small_dense_error_weighs_more_in_the_windows_than_the_same_error_spread_thin() -> None:
    dense, thin = torch.zeros(1, 1, 40, 40), torch.zeros(1, 1, 40, 40)
    dense[..., 10:19, 10:19] = 1.0
    thin.view(-1)[:: 40 * 40 // 81][:81] = 1.0
    assert float(squared_error(dense)) == float(squared_error(thin))
    assert float(kernel_error(dense)) > 10 * float(kernel_error(thin))
