"""Parts of gpu-check that run the networks in torch: the ceiling where TensorRT is missing, the pipeline, training."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge.conversion import Bounds, Method
from edge.raw import RawScan, raw_scan
from edge.records import Counts, Size
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
    def __call__(self, images: Tensor) -> Tensor:
        """Scores (n, 3) of images uint8 (n, 1, height, width): probability, greatest residual mean and deviation."""
        x = self._classifier.normalise(images).half().contiguous(memory_format=torch.channels_last)
        p_abnormal = torch.softmax(self._classifier(x).float(), dim=1)[:, 1]
        grey = (images.half() / 255.0).contiguous(memory_format=torch.channels_last)
        mean, std = residual_statistics((centre_crop(grey) - self._gate(grey)).float())
        return torch.stack([p_abnormal, mean.abs().amax(dim=(1, 2, 3)), std.amax(dim=(1, 2, 3))], dim=1)


def networks(_: Path) -> Figures:
    """Milliseconds per scan of 2000 x 1000 by batch: what a plan should at least reach."""
    torch.backends.cudnn.benchmark = True
    run, figures = Networks(), {}
    for batch in (1, 2, 4, 8):
        images = torch.randint(0, 256, (batch, 1, *SIZE), dtype=torch.uint8, device="cuda")
        for _ in range(3):
            run(images)
        times = sorted(_device_ms(lambda images=images: run(images)) / batch for _ in range(15))
        figures[f"float16 channels last, batch {batch}, ms per scan (median, least, most)"] = [
            round(times[index], 3) for index in (7, 0, -1)
        ]
    return figures


def pipeline(scratch: Path) -> Figures:
    """File to score: read and decode in threads, upload counts, fused kernel, both networks; scans per second."""
    from tests.gpu.driver_api import Kernels

    torch.backends.cudnn.benchmark = True
    read, how = _reader()
    files = sorted((scratch / "scans").glob("*.tif"))
    kernels, run = Kernels(), Networks()
    figures: Figures = {"reader": how, "files": len(files)}
    run(torch.zeros((4, 1, *SIZE), dtype=torch.uint8, device="cuda"))
    for threads in (1, 2, 4, 8, 16):
        rates = []
        for _ in range(2):
            torch.cuda.synchronize()
            started_s = time.perf_counter()
            scores = _judge(files, read, threads, kernels, run)
            rates.append(len(files) / (time.perf_counter() - started_s))
        assert scores.shape == (len(files), 3)
        figures[f"{threads} decode threads, scans/s (two rounds)"] = [round(rate, 1) for rate in rates]
    return figures


def _judge(
    files: list[Path], read: Callable[[Path], Counts], threads: int, kernels: Any, run: Networks, batch: int = 4
) -> np.ndarray:
    """Scores of all files. Two slots: while one computes, the next is filled and uploaded."""
    uploads, results = torch.cuda.Stream(), []
    slots = [_Slot(batch) for _ in range(2)]
    with ThreadPoolExecutor(threads) as pool:
        ahead = deque(pool.submit(_prepared, read, path) for path in files[: 2 * batch + threads])
        waiting = deque(files[len(ahead) :])
        for number in range(-(-len(files) // batch)):
            slot = slots[number % 2]
            slot.done.synchronize()
            taken: list[RawScan] = []
            while ahead and len(taken) < batch:
                taken.append(ahead.popleft().result())
                if waiting:
                    ahead.append(pool.submit(_prepared, read, waiting.popleft()))
            with torch.cuda.stream(uploads):
                for place, scan in enumerate(taken):
                    np.copyto(slot.pinned[place, : scan.counts.size].numpy(), scan.counts.view(np.int16).ravel())
                    slot.raw[place, : scan.counts.size].copy_(slot.pinned[place, : scan.counts.size], non_blocking=True)
            torch.cuda.current_stream().wait_stream(uploads)
            for place, scan in enumerate(taken):
                kernels.run(scan, slot.raw[place], slot.images[place])
            results.append(run(slot.images[: len(taken)]))
            slot.done.record()
    return torch.cat(results).cpu().numpy()


class _Slot:
    """Room for one batch of scans of up to 4 million px."""

    def __init__(self, batch: int, max_px: int = 1 << 22) -> None:
        self.pinned = torch.empty((batch, max_px), dtype=torch.int16, pin_memory=True)
        self.raw = torch.empty((batch, max_px), dtype=torch.int16, device="cuda")
        self.images = torch.empty((batch, 1, *SIZE), dtype=torch.uint8, device="cuda")
        self.done = torch.cuda.Event()


def _prepared(read: Callable[[Path], Counts], path: Path) -> RawScan:
    return raw_scan(read(path), Method.GLOBAL, BOUNDS, SIZE)


def _reader() -> tuple[Callable[[Path], Counts], str]:
    """The line's own strict reader, or tifffile where imagecodecs is missing."""
    try:
        from edge.scan import Limits, read_scan
    except ImportError as error:
        import tifffile

        return tifffile.imread, f"tifffile, because {error.name} is missing"
    return lambda path: read_scan(path, file=path.name, limits=Limits()).counts, "edge.scan, hashed twice"


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

    return figures | _trained("gate, 64 pairs of 192 x 192", gate, reconstruct, 1e-3)


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
    return begin.elapsed_time(end)
