"""The statistics that a patch is judged by, against plain numpy; thresholds and rates."""

import math

import numpy as np
import pytest
import torch

from edge.validation.statistics import Rate, auroc
from train.metrics import joint_thresholds
from train.networks import GateAutoencoder, centre_crop
from train.papers.welds.bank import detrended, noise_about
from train.papers.welds.evaluation import (
    Detector,
    auroc_over_welds,
    entry,
    evaluate,
    excesses,
    interval_over_welds,
    thresholds_of,
)
from train.papers.welds.recipes import BEST_VARIANT
from train.papers.welds.scores import (
    STATISTICS,
    WINDOWS_PX,
    as_images,
    autoencoder_scores,
    extremes,
    residual_of,
)
from train.papers.welds.variants import SNI

torch.set_num_threads(1)
CPU = torch.device("cpu")


def test_the_extremes_are_those_of_all_windows_of_every_size() -> None:
    rng = np.random.default_rng(0)
    residual = rng.normal(0, 0.02, (40, 38)).astype(np.float32)
    image = (0.5 + rng.normal(0, 0.01, (40, 38))).astype(np.float32)
    residuals, images = (torch.from_numpy(array)[None, None] for array in (residual, image))
    found = extremes(residuals, images)[0].numpy()
    noise = noise_about(images)[0, 0].numpy()
    flat = residual - surroundings(residual, 65)
    expected = []
    for shown in (residual, residual / noise, flat, flat / noise, image - surroundings(image, 33)):
        for side in WINDOWS_PX:
            windows = np.lib.stride_tricks.sliding_window_view(shown.astype(np.float64), (side, side))
            means = windows.mean(axis=(2, 3))
            expected += [np.abs(means).max(), windows.std(axis=(2, 3)).max(), means.max(), -means.min()]
    assert WINDOWS_PX == (5, 9, 17, 33)
    assert len(expected) == STATISTICS.index("median-bright5")
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=2e-5)


def surroundings(image: np.ndarray, side: int) -> np.ndarray:
    """Mean over the square about each pixel, the image mirrored at its border."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, side // 2, mode="reflect"), (side, side))
    return windows.mean(axis=(2, 3))


def test_a_level_that_is_off_as_a_whole_is_no_defect_once_the_residual_is_detrended() -> None:
    slope = torch.linspace(0.1, 0.2, 80).expand(1, 1, 80, 80).clone()
    assert float(detrended(slope, 65)[..., 36:44].abs().max()) < 1e-5
    slope[..., 38:42, 38:42] -= 0.1
    assert float(detrended(slope, 65).min()) < -0.09


def test_the_scores_of_a_patch_are_the_extremes_of_its_residual() -> None:
    model = GateAutoencoder().eval()
    patches = np.random.default_rng(1).integers(0, 256, (3, 192, 192)).astype(np.uint8)
    scores = autoencoder_scores([model], patches, variant=SNI, device=CPU, batch=2)
    assert scores.shape == (3, len(STATISTICS))
    x = torch.from_numpy(patches[2:, None]).float() / 255
    with torch.inference_mode():
        residual = (centre_crop(x) - model(x))[0, 0].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(residual, (9, 9))
    assert scores[2, STATISTICS.index("mean9")] == pytest.approx(np.abs(windows.mean(axis=(2, 3))).max(), abs=1e-5)
    assert scores[2, STATISTICS.index("std9")] == pytest.approx(windows.std(axis=(2, 3)).max(), abs=1e-4)


def test_a_patch_of_noise_is_quiet_beside_its_short_median_and_a_dark_spot_is_not() -> None:
    rng = np.random.default_rng(6)
    patches = rng.normal(120, 3, (2, 192, 192)).round().astype(np.uint8)
    patches[1, 90:98, 90:98] -= 15
    scores = autoencoder_scores([GateAutoencoder().eval()], patches, variant=BEST_VARIANT, device=CPU)
    dark, bright = (scores[:, STATISTICS.index(f"median-{side}5")] for side in ("dark", "bright"))
    assert dark[0] < 1.5 and bright[0] < 1.5 and bright[1] < 2.5
    assert 3.5 < dark[1] < 5.5


def test_no_patches_have_no_scores() -> None:
    empty = np.zeros((0, 192, 192), np.float16)
    assert autoencoder_scores([GateAutoencoder()], empty, variant=SNI, device=CPU).shape == (0, len(STATISTICS))


@torch.inference_mode()
def test_several_networks_answer_with_the_mean_of_their_residuals() -> None:
    models = [GateAutoencoder().eval() for _ in range(3)]
    images = as_images(np.random.default_rng(2).random((1, 192, 192)).astype(np.float16), CPU)
    alone = torch.stack([residual_of([model], images, SNI) for model in models])
    torch.testing.assert_close(residual_of(models, images, SNI), alone.mean(dim=0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("deviation", [0.01, 0.04])
def test_the_noise_of_a_slope_is_found_and_the_slope_is_not(deviation: float) -> None:
    rng = np.random.default_rng(3)
    image = np.linspace(0.2, 0.8, 120)[None, :] + rng.normal(0, deviation, (100, 120))
    found = noise_about(torch.from_numpy(image.astype(np.float32))[None, None])
    assert found.shape == (1, 1, 100, 120)
    assert float(found.mean()) == pytest.approx(deviation + 0.5 / 255, rel=0.05)


@pytest.mark.parametrize("above", [0, 3, 40])
def test_joint_thresholds_waste_little_of_the_rate(above: int) -> None:
    scores = np.random.default_rng(4).random((400, 3))
    thresholds = joint_thresholds(scores, above)
    flagged = int((scores > thresholds).any(axis=1).sum())
    assert above - 3 <= flagged <= above


AE = Detector("ae", "sni")
CLASSIFIER = Detector("classifier", "classifier-d", columns=(), calibrated_on=("checked",))


def fold(seed: int, defects: int) -> dict[str, np.ndarray]:
    """Scores of one fold: the first column of `raster` is far above all accepted patches."""
    rng = np.random.default_rng(seed)
    sets = {
        "checked": rng.random((600, len(STATISTICS))),
        "learnt": rng.random((400, len(STATISTICS))),
        "accepted": rng.random((500, len(STATISTICS))),
        "raster": 5 + rng.random((defects, len(STATISTICS))),
        "defects-low": rng.random((defects, len(STATISTICS))),
    }
    return {name: scores.astype(np.float32) for name, scores in sets.items()}


def test_thresholds_are_set_on_accepted_patches_of_other_welds_alone() -> None:
    scores = fold(0, 10)
    thresholds = thresholds_of(AE, scores, fpr=0.001)
    columns = np.concatenate([scores["checked"], scores["learnt"]])
    columns = columns[:, [STATISTICS.index("mean9"), STATISTICS.index("std9")]]
    assert np.sum((columns > thresholds).any(axis=1)) <= 1
    changed = {**scores, "accepted": scores["accepted"] * 10, "raster": scores["raster"] * 10}
    assert np.array_equal(thresholds_of(AE, changed, fpr=0.001), thresholds)


def test_one_weld_of_unmarked_indications_does_not_move_the_middle_welds_threshold() -> None:
    """Sets of one weld; the dark column of one and the bright column of another are far above those of the rest."""
    rng = np.random.default_rng(4)
    columns = ("bright9", "dark9")
    bright, dark = (STATISTICS.index(name) for name in columns)
    welds = [rng.random((300, len(STATISTICS))).astype(np.float32) for _ in range(5)]
    welds[0][:3, dark] += 10
    welds[4][:3, bright] += 10
    scores = {f"learnt/{number}": of_weld for number, of_weld in enumerate(welds[:4])}
    scores |= {"checked/4": welds[4], "checked/none": welds[4][:0], "accepted": 11 * welds[1]}
    pooled = thresholds_of(Detector("pooled", "sni", columns), scores)
    assert (pooled > 10).all()
    detector = Detector("middle", "sni", columns, middle_weld=("dark9",))
    thresholds = thresholds_of(detector, scores)
    assert thresholds[0] == pooled[0]
    # 0.1 % of 300 patches: none may exceed the threshold that a weld sets.
    assert thresholds[1] == pytest.approx(np.median([of_weld[:, dark].max() for of_weld in welds]))
    assert excesses(detector, scores)["learnt"].shape == (1200,)
    folds = [scores, {**scores, "learnt/other": welds[2]}]
    above = sum(
        int((detector.read(part) > thresholds_of(detector, of_fold)).any(axis=1).sum())
        for of_fold in folds
        for name, part in of_fold.items()
        if name.startswith("learnt")
    )
    assert evaluate(detector, folds).flagged["learnt"] == Rate(above, 2700)


def test_a_patch_exceeds_its_thresholds_where_any_statistic_does() -> None:
    scores = fold(1, 10)
    thresholds = thresholds_of(AE, scores)
    for name, excess in excesses(AE, scores).items():
        flagged = (AE.read(scores[name]) > thresholds).any(axis=1)
        assert np.array_equal(excess > 0, flagged), name


def test_the_decisions_of_all_folds_are_added_up_each_at_its_own_thresholds() -> None:
    folds = [fold(2, 10), {name: 100 * scores for name, scores in fold(3, 30).items()}]
    outcome = evaluate(AE, folds)
    assert outcome.flagged["raster"] == Rate(40, 40)
    assert outcome.flagged["accepted"].total == 1000
    assert outcome.auroc["raster"] == 1.0
    assert outcome.auroc["defects-low"] == pytest.approx(0.5, abs=0.15)
    assert "checked" not in outcome.auroc


def test_decisions_are_told_weld_by_weld() -> None:
    scores = fold(9, 10)
    scores["raster"][:4] = 0
    told = evaluate(AE, [scores, fold(10, 3)], [{"raster": {"a": 3, "b": 7, "none": 0}}, {"raster": {"c": 3}}])
    assert {name: sorted(of) for name, of in told.own_by_weld.items()} == {"raster": ["a", "b", "c", "none"]}
    assert sum(rate.hits for rate in told.own_by_weld["raster"].values()) == told.flagged_own["raster"].hits
    assert told.by_weld == {"raster": {"a": Rate(0, 3), "b": Rate(6, 7), "none": Rate(0, 0), "c": Rate(3, 3)}}


def test_an_auroc_over_welds_has_an_interval_where_two_welds_have_anomalies() -> None:
    rng = np.random.default_rng(3)
    clear = {weld: rng.normal(0, 1, 40) for weld in "abcd"}
    alike = {weld: rng.normal(1, 1, 30) for weld in "abcd"}
    apart = {weld: rng.normal(3 * (place % 2), 1, 30) for place, weld in enumerate("abcd")}
    area = auroc(
        np.concatenate([*alike.values(), *clear.values()]), np.repeat([1, 0], [120, 160])
    )  # what the intervals are about
    spans = [auroc_over_welds(found, clear) for found in (alike, apart)]
    assert spans[0] is not None and spans[1] is not None
    assert spans[0][0] < area < spans[0][1]
    assert spans[1][1] - spans[1][0] > 1.5 * (spans[0][1] - spans[0][0])
    assert auroc_over_welds({"a": alike["a"], "b": np.zeros(0)}, clear) is None


def test_an_interval_over_welds_is_as_wide_as_they_differ() -> None:
    alike = interval_over_welds([Rate(20, 100)] * 5)
    apart = interval_over_welds([Rate(0, 100)] * 4 + [Rate(100, 100)])
    assert 0.05 < alike[0] < 0.2 < alike[1] < 0.5
    assert apart[0] < 0.05 and apart[1] > 0.6
    assert interval_over_welds([Rate(1, 2), Rate(0, 0)]) == (0.0, 1.0)


def test_with_its_own_accepted_patches_a_set_refuses_no_more_than_the_rate() -> None:
    folds = [{name: 3 * part if name == "accepted" else part for name, part in fold(5, 10).items()}]
    outcome = evaluate(AE, folds, fpr=0.01)
    assert outcome.flagged["accepted"].hits > 100
    assert outcome.flagged_own["accepted"] == Rate(5, 500)
    assert outcome.flagged_own["raster"] == Rate(10, 10)


def test_a_negative_logit_can_be_a_threshold() -> None:
    scores = {name: part[:, :1] - 20 for name, part in fold(6, 10).items()}
    outcome = evaluate(CLASSIFIER, [scores])
    assert outcome.flagged["raster"] == Rate(10, 10)
    assert outcome.flagged["checked"].hits == 0  # 0.1 % of 600


def test_a_fold_without_such_defects_adds_nothing() -> None:
    outcome = evaluate(AE, [fold(7, 10), fold(8, 0)])
    assert outcome.flagged["raster"] == Rate(10, 10)


def test_an_entry_is_the_mean_and_half_the_spread_of_the_runs() -> None:
    found = entry([Rate(90, 100), Rate(94, 100), Rate(98, 100)])
    assert (found.mean, found.half_spread, found.total) == (pytest.approx(0.94), pytest.approx(0.04), 100)
    assert (found.low, found.high) == Rate(94, 100).interval
    assert math.isnan(entry([Rate(0, 0)]).mean)
