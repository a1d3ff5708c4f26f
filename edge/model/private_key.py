"""Private keys that sign: models by `edge-export`, records of qualification by `edge-worker qualify`."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge.errors import SettingsError


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The key of a PEM file that only its owner may read. Raises SettingsError."""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read()
    except OSError as error:
        raise SettingsError(
            f"the private key {path} cannot be read: {error.strerror}", hint="make one with `edge-export keygen`"
        ) from None
    if mode & 0o077:
        raise SettingsError(
            f"the private key {path} may be read by others (mode {mode & 0o777:o})",
            hint=f"if no other user can have read it: chmod 600 {path}; else make a new one",
        )
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsError(
            f"{path} is not an unencrypted private key in PEM form", hint="give the .pem of `edge-export keygen`"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path} is not an Ed25519 key", hint="make one with `edge-export keygen`")
    return key
