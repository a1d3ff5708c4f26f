"""Pictures of judged scans: each is read and judged once more, and is shown only if it is still the judged file."""

from __future__ import annotations

from pathlib import Path

from edge.contract.messages import Verdict
from edge.engines.preprocessor import Preprocessor
from edge.engines.tensorrt.kernel_args import RawScan
from edge.errors import ScanError
from edge.images.conversion import histogram
from edge.pipeline.loaded_model import LoadedModel
from edge.records import Size
from edge.scans.decoder import Decoder
from edge.scans.scan import Limits, read_scan
from edge.validation.judging import PATIENCE_S
from edge.validation.pictures import Picture, plain_picture, scan_picture
from edge.validation.sources import Source


class Photographer:
    """Pictures the scans of a source as a model sees them; close it at the end."""

    def __init__(self, source: Source, model: LoadedModel, limits: Limits) -> None:
        self._source = source
        self._signed = model.signed
        self._preprocessor = Preprocessor(model.engine, model.signed.input_spec())
        self._limits = limits
        self._decoder = Decoder(limits, wall_s=PATIENCE_S)

    def picture_of(self, file: str, verdict: Verdict) -> Picture | None:
        """The scan under the gate's residual; where the networks were not asked, between its own bounds.

        None where the file is no longer the judged one. Raises EngineError, SourceError.
        """
        with self._source.served([(0, file)]) as served:
            next(served.files)
            return self._picture(served.folder / file, file, verdict)

    def close(self) -> None:
        """Release the decoder; the model stays open."""
        self._decoder.close()

    def _picture(self, path: Path, file: str, verdict: Verdict) -> Picture | None:
        try:
            frame = read_scan(path, file=file, limits=self._limits, decode=self._decoder.decode)
        except ScanError:
            return None
        if frame.scan.sha256 != verdict.scan.sha256:
            return None
        if verdict.durations_ms.infer is None:
            return plain_picture(frame.counts)
        pixels = self._preprocessor.prepare(frame.counts, histogram(frame.counts))
        output = self._preprocessor.infer([pixels])
        return scan_picture(
            pixels.image() if isinstance(pixels, RawScan) else pixels,
            self._signed.method,
            output.residual_map[0],
            self._signed.map_geometry(),
            self._signed.policy().gate_mean_threshold,
            verdict.gate.boxes_px,
            Size(*frame.counts.shape),
        )
