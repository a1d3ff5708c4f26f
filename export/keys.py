"""Ed25519 keys that sign models. The private half stays where models are released, never on the line."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edge.errors import SettingsError
from edge.model import private_key as edge_private_key
from edge.system.files import write_whole
from export.errors import ExportError

DEFAULT_NAME = "signing-key"


def create_keys(out: Path, name: str = DEFAULT_NAME) -> tuple[Path, Path]:
    """Write `NAME.pem` (private, mode 0600) and `NAME.pub.pem` into `out`; their paths.

    Raises ExportError where either exists: models signed with a lost key can never be renewed under its name.
    """
    private_path, public_path = out / f"{name}.pem", out / f"{name}.pub.pem"
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if public_path.exists():
            raise FileExistsError(public_path)
        _create(private_path, private, 0o600)
        _create(public_path, public, 0o644)
    except FileExistsError:
        raise ExportError(
            f"{out} holds a key named {name} already; keys are never overwritten",
            hint="choose another --out or --name",
        ) from None
    except OSError as error:
        raise ExportError(f"no key can be written to {out}: {error.strerror}", hint="check the folder") from None
    return private_path, public_path


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The key of a PEM file that only its owner may read. Raises ExportError."""
    try:
        return edge_private_key.load_private_key(path)
    except SettingsError as error:
        raise ExportError(error.message, hint=error.hint) from None


def _create(path: Path, data: bytes, mode: int) -> None:
    with write_whole(path, durable=True, mode=mode, replace=False) as stream:
        stream.write(data)
