"""Parts of gpu-check that run the networks in torch: the ceiling where TensorRT is missing, the pipeline, training."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge.engines.tensorrt.kernel_args import RawScan, raw_scan
from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Size
from edge.scans.scan import Limits, read_scan
from train.losses import classifier_loss, gate_loss
from train.networks import ElectrodeClassifier, GateAutoencoder, centre_crop, residual_statistics

SIZE = Size(2000, 1000)
BOUNDS = Bounds(1600, 2800)
Figures = dict[str, Any]


class Networks:
    """Classifier and gate with random weights, float16, channels last: time does not depend on the weights."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._classifier = ElectrodeClassifier(1).eval().cuda().half().to(memory_format=torch.channels_last)
        self._gate = GateAutoencoder().eval().cuda().half().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def classify(self, images: Tensor) -> Tensor:
        """p(abnormal) (n,) of images uint8 (n, 1, height, width)."""
        x = self._classifier.normalise(images).half().contiguous(memory_format=torch.channels_last)
        return torch.softmax(self._classifier(x).float(), dim=1)[:, 1]

    @torch.inference_mode()
    def residual(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Greatest |mean| and greatest deviation (n,) of the residual over its windows."""
        grey = (images.half() / 255.0).contiguous(memory_format=torch.channels_last)
        mean, std = residual_statistics((centre_crop(grey) - self._gate(grey)).float())
        return mean.abs().amax(dim=(1, 2, 3)), std.amax(dim=(1, 2, 3))

    def __call__(self, images: Tensor) -> None:
        self.residual(images)
        self.classify(images)


def networks(_: Path) -> Figures:
    """Milliseconds per scan of 2000 x 1000 by batch: what a plan should at least reach."""
    torch.backends.cudnn.benchmark = True
    run, figures = Networks(), {}
    for batch in (1, 2, 4, 8):
        images = torch.randint(0, 256, (batch, 1, *SIZE), dtype=torch.uint8, device="cuda")
        for _round in range(3):
            run(images)
        times = sorted(_device_ms(partial(run, images)) / batch for _round in range(15))
        figures[f"float16 channels last, batch {batch}, ms per scan (median, least, most)"] = [
            round(times[index], 3) for index in (7, 0, -1)
        ]
    return figures


def pipeline(scratch: Path) -> Figures:
    """File to score: decode threads, then the line's own engine and kernels; torch's networks stand where plans would.

    Each thread reads, checks and prepares a scan as the line's do; one thread infers.
    """
    from tests.gpu.torch_engine import open_engine

    torch.backends.cudnn.benchmark = True
    files = sorted((scratch / "scans").glob("*.tif"))
    figures: Figures = {"files": len(files)}
    engine = open_engine(Networks(), SIZE, max_batch=8)
    first = [_prepared(path) for path in files[:8]]
    for _ in range(3):
        engine.infer_raw(first)
    ms = sorted(_wall_ms(lambda: engine.infer_raw(first)) / len(first) for _ in range(15))
    figures["engine alone, 8 scans in memory, ms per scan (median, least, most)"] = [
        round(ms[index], 3) for index in (7, 0, -1)
    ]
    for threads in (1, 2, 4, 8, 16):
        rates = []
        for _ in range(2):
            started_s = time.perf_counter()
            judged = _judge(files, threads, engine)
            rates.append(judged / (time.perf_counter() - started_s))
            assert judged == len(files)
        figures[f"{threads} decode threads, scans/s (two rounds)"] = [round(rate, 1) for rate in rates]
    engine.close()
    return figures


def _judge(files: list[Path], threads: int, engine: Any) -> int:
    """How many files got finite scores."""
    judged = 0
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(files)
        ahead = deque(pool.submit(_prepared, waiting.popleft()) for _ in range(2 * 8 + threads))
        while ahead:
            taken: list[RawScan] = []
            while ahead and len(taken) < 8:
                taken.append(ahead.popleft().result())
                if waiting:
                    ahead.append(pool.submit(_prepared, waiting.popleft()))
            judged += int(np.isfinite(engine.infer_raw(taken).p_abnormal).sum())
    return judged


def _prepared(path: Path) -> RawScan:
    counts = read_scan(path, file=path.name, limits=Limits()).counts
    return raw_scan(counts, Method.GLOBAL, BOUNDS, SIZE)


def training(_: Path) -> Figures:
    """Some steps of both networks in bfloat16 on one batch: does it learn it, and how fast."""
    torch.manual_seed(0)
    figures: Figures = {}
    classifier = ElectrodeClassifier(1).cuda().to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (8, 1, 1000, 500), dtype=torch.uint8, device="cuda")
    labels = torch.tensor([0, 1] * 4, device="cuda")
    images[labels == 1, :, 200:500, 100:300] //= 2

    def classify() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            logits = classifier(classifier.normalise(images).contiguous(memory_format=torch.channels_last))
        return classifier_loss(logits.float(), labels, 0.05)

    figures |= _trained("classifier, 8 scans of 1000 x 500", classifier, classify, 2e-4)
    gate = GateAutoencoder().cuda()
    patches = torch.rand((64, 1, 192, 192), device="cuda") * 0.2 + 0.4
    perturbed = patches.clone()
    perturbed[:, :, 60:120, 60:120] += 0.3

    def reconstruct() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            z = gate.encode(torch.cat([patches, perturbed]))
            made = gate.decoder(z).float()
        target = centre_crop(patches)
        return gate_loss(target - made[:64], target - made[64:], z.float()[:64]).total()

    figures |= _trained("gate, 64 pairs of 192 x 192", gate, reconstruct, 1e-3)
    return figures | {"is_wrong": not all(value for name, value in figures.items() if name.endswith("learns"))}


def _trained(
    name: str, network: torch.nn.Module, loss_of: Callable[[], Tensor], rate: float, steps: int = 30
) -> Figures:
    optimiser = torch.optim.AdamW(network.parameters(), rate)
    losses, times = [], []
    for _ in range(steps):
        torch.cuda.synchronize()
        started_s = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
        times.append(time.perf_counter() - started_s)
    return {
        f"{name}, ms per step (median)": round(sorted(times)[steps // 2] * 1e3, 1),
        f"{name}, loss first and last": [round(losses[0], 4), round(losses[-1], 4)],
        f"{name}, learns": bool(np.isfinite(losses).all() and losses[-1] < losses[0]),
    }


def _device_ms(work: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    elapsed_ms: float = begin.elapsed_time(end)
    return elapsed_ms


def _wall_ms(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return (time.perf_counter() - started_s) * 1e3
