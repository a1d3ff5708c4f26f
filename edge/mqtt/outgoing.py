"""What goes out as one PUBLISH, whichever library sends it."""

from __future__ import annotations

from dataclasses import dataclass

from edge.contract.messages import Message, Topics, canonical_json


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One PUBLISH."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    schema: str
    verdict_id: str | None = None

    @classmethod
    def of(cls, message: Message, topics: Topics) -> Outgoing:
        """A message as it is delivered; stored verdicts go out as their bytes instead."""
        return cls(topics.of(message.KIND), canonical_json(message), message.QOS, message.RETAINED, message.SCHEMA)
