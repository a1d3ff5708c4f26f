"""The model that judges: verified, and open on an engine that reproduces its golden scans."""

from __future__ import annotations

import logging
import re
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from edge.contract.messages import Kind, ModelCard, ModelInfo, Topics
from edge.engines import Engine, PlanSettings
from edge.engines.choose import open_engine
from edge.engines.golden import check_golden
from edge.evidence.piece import Selection
from edge.model.signed_model import SignedModel, read_model
from edge.pipeline.verdicts import VerdictFactory
from edge.settings import ModelSettings, Settings, service_environment
from edge.system.logs import event

log = logging.getLogger(__name__)

DEMO_KEY = Path(__file__).with_name("demo-key.pub.pem")
"""Trusted only where no key is configured. Its private half was thrown away: it vouches for the demo model alone."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to judge; its holder closes the engine."""

    signed: SignedModel
    engine: Engine
    loaded_at: datetime

    @property
    def info(self) -> ModelInfo:
        bounds = self.signed.bounds
        return ModelInfo(
            id=self.signed.model_id,
            sha256=self.signed.digest,
            conversion=self.signed.method,
            bounds_counts=(bounds.lo_counts, bounds.hi_counts) if bounds else None,
            engine=self.engine.spec.name,
            precision=self.engine.spec.precision,
            degraded=self.engine.spec.degraded,
        )

    def card(self, station: str, boot_id: UUID) -> ModelCard:
        """The retained message that tells the MES what judges now."""
        return ModelCard(
            station=station,
            boot_id=boot_id,
            created_at=self.signed.manifest.created_at,
            loaded_at=self.loaded_at,
            channels=self.signed.channels,
            **self.signed.size._asdict(),
            **asdict(self.signed.policy()),
            **dict(self.info),
        )

    def verdict_factory(
        self, settings: Settings, boot_id: UUID, *, selection: Selection | None = None, is_simulated: bool
    ) -> VerdictFactory:
        """What the verdicts of one run share. `selection`: which of them keep evidence; None: none does."""
        return VerdictFactory(
            station=settings.station,
            topic=Topics.of_station(settings).of(Kind.VERDICT),
            boot_id=boot_id,
            model=self.info,
            policy=self.signed.policy(),
            input_size=self.signed.size,
            map_geometry=self.signed.map_geometry(),
            naming=re.compile(settings.naming.pattern),
            selection=selection,
            is_simulated=is_simulated,
        )


def read_trusted_model(settings: ModelSettings) -> SignedModel:
    """The model of the settings, signed by a key they trust. Raises ModelError."""
    return read_model(settings.dir, settings.trusted_key or DEMO_KEY)


def plan_settings(settings: Settings, *, may_build: bool = True) -> PlanSettings:
    """Where engines built for this machine are kept, and whether new ones may be."""
    tensorrt, state = settings.tensorrt, settings.state.dir
    return PlanSettings(
        folder=tensorrt.plans or state / "plans",
        key_file=tensorrt.key_file or state / "device.key",
        workspace_bytes=tensorrt.workspace_bytes,
        build_timeout_s=tensorrt.build_timeout_s,
        credentials=service_environment().credentials,
        may_build=may_build,
    )


def load_model(settings: Settings) -> LoadedModel:
    """Verify, open, reproduce. Raises ModelError, EngineError."""
    return open_model(settings, read_trusted_model(settings.model))


def open_model(settings: Settings, signed: SignedModel, *, may_build: bool = True) -> LoadedModel:
    """Open a verified model, reproduce its golden scans. Raises ModelError, EngineError.

    `may_build`: whether an engine that this machine has not may be built and kept.
    """
    model = settings.model
    engine = open_engine(
        signed,
        model.engine,
        threads=model.threads,
        max_batch=model.max_batch,
        plans=plan_settings(settings, may_build=may_build),
    )
    with ExitStack() as unproven:
        unproven.callback(engine.close)
        check_golden(signed, engine)
        unproven.pop_all()
    event(log.info, "model loaded", model=signed.model_id, engine=engine.spec.name)
    return LoadedModel(signed, engine, datetime.now(UTC))
