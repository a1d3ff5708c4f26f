"""The signed model: verified first, and what was verified is what is loaded.

    MODEL/manifest.json     what the model is, and size and SHA-256 of every other file
    MODEL/manifest.sig      Ed25519 signature (64 bytes) over the bytes of manifest.json, RFC 8032
    MODEL/classifier.onnx   MODEL/gate.onnx   MODEL/golden/*.tif

Each file is read once, into memory, through one handle on the directory; hashes and engines see those bytes, so
whatever happens to the directory afterwards has no effect. Nothing is parsed before the signature holds.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

import edge
from edge.errors import ModelError
from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.images.residual_boxes import MapGeometry
from edge.images.spec import InputSpec, ScanSpec
from edge.model.manifest import (
    CLASSIFIER_FILE,
    GATE_FILE,
    GOLDEN_DIR,
    Manifest,
    claimed_key,
    parse_manifest,
)
from edge.records import Policy, Size
from edge.system.files import read_named

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.sig"
SIGNATURE_BYTES = 64
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 512 << 20
MAX_KEY_BYTES = 64 << 10
PROGRAM = Path(edge.__file__).parent
"""Who could exchange the demo model's key there could exchange the program, too."""

_COPY_AGAIN = "copy the whole model again from where it was exported; if that does not help, export it again"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key whose signature makes a model loadable; `name` is its file."""

    name: str
    key: Ed25519PublicKey

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the 32 key bytes, hexadecimal."""
        return hashlib.sha256(self.key.public_bytes_raw()).hexdigest()


@dataclass(frozen=True, slots=True)
class SignedModel:
    """A verified model. `contents` are the bytes the signature vouches for, by the names of the manifest."""

    manifest: Manifest
    digest: str
    """SHA-256 of manifest.json, which holds the digests of everything else."""
    signed_by: str
    contents: Mapping[str, bytes]

    @property
    def model_id(self) -> str:
        return self.manifest.model_id

    @property
    def size(self) -> Size:
        return Size(self.manifest.input.height_px, self.manifest.input.width_px)

    @property
    def channels(self) -> int:
        return self.manifest.input.channels

    @property
    def method(self) -> Method:
        return self.manifest.conversion.method

    @property
    def bounds(self) -> Bounds | None:
        return self.manifest.conversion.bounds

    @property
    def precision(self) -> str:
        return self.manifest.precision

    @property
    def classifier(self) -> bytes:
        return self.contents[CLASSIFIER_FILE]

    @property
    def gate(self) -> bytes:
        return self.contents[GATE_FILE]

    def policy(self) -> Policy:
        return Policy(**dict(self.manifest.policy))

    def input_spec(self) -> InputSpec:
        """How a scan becomes the networks' input, and which scans may."""
        spec = self.manifest.scan_spec
        scan_spec = ScanSpec(
            spec.height_px, spec.width_px, spec.max_clipped_fraction, spec.sharpness.model, spec.exposure.model
        )
        return InputSpec(method=self.method, bounds=self.bounds, size=self.size, scan_spec=scan_spec)

    def map_geometry(self) -> MapGeometry:
        return MapGeometry(cell_px=self.manifest.gate_map.cell_px, offset_px=self.manifest.gate_map.offset_px)

    @property
    def has_reason(self) -> bool:
        """Whether the classifier tells where its answer comes from."""
        return self.manifest.reason_map is not None

    def reason_geometry(self) -> MapGeometry | None:
        """Where the cells of the classifier's map lie; None where it has none."""
        cells = self.manifest.reason_map
        return None if cells is None else MapGeometry(cells.cell_px, cells.offset_px)


def read_model(directory: Path, trusted_key: Path) -> SignedModel:
    """Verify and read a model; `trusted_key` is a public key (PEM) or a folder of them (*.pem).

    Raises ModelError: unsigned, signed by another key, changed, incomplete, with files that do not belong to it,
    or of a schema this program does not read.
    """
    return verify_model(directory, load_trusted_keys(trusted_key))


def load_trusted_keys(path: Path) -> tuple[TrustedKey, ...]:
    """The Ed25519 public keys of a PEM file, or of all *.pem files of a folder. Raises ModelError."""
    try:
        files = sorted(file for file in path.iterdir() if file.match("*.pem")) if path.is_dir() else [path]
        for file in {path, *files}:
            if not file.is_relative_to(PROGRAM):
                _expect_guarded(file)
        keys = tuple(TrustedKey(file.name, _public_key(file)) for file in files)
    except OSError as error:
        raise ModelError(
            f"the trusted key {error.filename} cannot be read: {error.strerror}",
            hint="`trusted_key` names the public key (PEM) of the signer of your models, or a folder of such keys",
        ) from None
    if not keys:
        raise ModelError(
            f"the folder {path} holds no *.pem file: no model can be trusted",
            hint="copy the public key of the signer of your models there",
        )
    return keys


def _expect_guarded(path: Path) -> None:
    """Raises ModelError where every user of the machine could put a key of his own in this place; OSError."""
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ModelError(
            f"any user may write to {path} (mode {stat.S_IMODE(mode):o}), and so decide which models run here",
            hint=f"if no other user has: chmod o-w {path} (on a mount without modes: its options); else copy the "
            "public keys there again",
        )


def verify_model(directory: Path, keys: Sequence[TrustedKey]) -> SignedModel:
    """`read_model` with keys in hand."""
    with _directory(directory) as root_fd:
        manifest_bytes = _read(root_fd, MANIFEST_FILE, directory, MAX_MANIFEST_BYTES)
        if SIGNATURE_FILE not in _names(root_fd):
            raise ModelError(
                f"{directory} is not signed: it has no {SIGNATURE_FILE}",
                hint="only signed models run here: make one with `edge-export model --signing-key`",
            )
        signature = _read(root_fd, SIGNATURE_FILE, directory, MAX_MANIFEST_BYTES)
        signed_by = _check_signature(manifest_bytes, signature, keys, directory)
        manifest = parse_manifest(manifest_bytes, str(directory / MANIFEST_FILE))
        golden = {name.partition("/")[2] for name in manifest.files if "/" in name}
        _check_listing(root_fd, {MANIFEST_FILE, SIGNATURE_FILE, CLASSIFIER_FILE, GATE_FILE, GOLDEN_DIR}, directory)
        contents = {name: _read_listed(root_fd, name, manifest, directory) for name in (CLASSIFIER_FILE, GATE_FILE)}
        with _directory(directory / GOLDEN_DIR, root_fd) as golden_fd:
            _check_listing(golden_fd, golden, directory / GOLDEN_DIR)
            for name in sorted(golden):
                path = f"{GOLDEN_DIR}/{name}"
                contents[path] = _read_listed(golden_fd, path, manifest, directory)
    return SignedModel(
        manifest=manifest,
        digest=hashlib.sha256(manifest_bytes).hexdigest(),
        signed_by=signed_by,
        contents=MappingProxyType(contents),
    )


def signer_of(data: bytes, signature: bytes, keys: Sequence[TrustedKey]) -> str | None:
    """Name of the key that signed `data`; None if none of them did."""
    for trusted in keys:
        try:
            trusted.key.verify(signature, data)
        except InvalidSignature:
            continue
        return trusted.name
    return None


def _public_key(file: Path) -> Ed25519PublicKey:
    data = read_named(file, MAX_KEY_BYTES)
    if b"PRIVATE KEY" in data:
        raise ModelError(
            f"{file} is a private key",
            hint="give the .pub.pem beside it, and keep the private key away from the line: it can sign any model",
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ModelError(f"{file} is not a public key in PEM form", hint="give the .pub.pem of `keygen`") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ModelError(
            f"{file} is a public key of another kind than Ed25519", hint="make one with `edge-export keygen`"
        )
    return key


def _check_signature(manifest: bytes, signature: bytes, keys: Sequence[TrustedKey], directory: Path) -> str:
    """Name of the key that signed `manifest`."""
    if len(signature) != SIGNATURE_BYTES:
        raise ModelError(
            f"{directory / SIGNATURE_FILE} has {len(signature)} bytes, an Ed25519 signature has {SIGNATURE_BYTES}",
            hint=_COPY_AGAIN,
        )
    if (signed_by := signer_of(manifest, signature, keys)) is not None:
        return signed_by
    claim = claimed_key(manifest)
    names = ", ".join(f"{trusted.name} ({trusted.fingerprint[:16]})" for trusted in keys)
    if claim is not None and claim not in {trusted.fingerprint for trusted in keys}:
        raise ModelError(
            f"{directory} is signed with the key {claim[:16]}, trusted here: {names}",
            hint="if you trust the maker of this model, add its public key to `trusted_key`; else do not run it",
        )
    raise ModelError(
        f"{directory}: {MANIFEST_FILE} or {SIGNATURE_FILE} was changed after signing; trusted here: {names}",
        hint=_COPY_AGAIN,
    )


def _read_listed(dir_fd: int, path: str, manifest: Manifest, directory: Path) -> bytes:
    """Bytes of a file of the manifest, equal to what the manifest says of it."""
    expected = manifest.files[path]
    data = _read(dir_fd, path.rpartition("/")[2], (directory / path).parent, MAX_FILE_BYTES)
    if len(data) != expected.size_bytes:
        raise ModelError(
            f"{directory / path} has {len(data)} bytes, the signed manifest says {expected.size_bytes}",
            hint=_COPY_AGAIN,
        )
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected.sha256:
        raise ModelError(
            f"{directory / path} was changed: its SHA-256 is {digest[:16]}…, "
            f"the signed manifest says {expected.sha256[:16]}…",
            hint=_COPY_AGAIN,
        )
    return data


def _check_listing(dir_fd: int, expected: set[str], directory: Path) -> None:
    found = _names(dir_fd)
    if missing := sorted(expected - found):
        raise ModelError(f"{directory} lacks {', '.join(missing)}", hint=_COPY_AGAIN)
    if extra := sorted(found - expected):
        raise ModelError(
            f"{directory} holds {', '.join(repr(name) for name in extra[:5])}, which the signed manifest does not list",
            hint="remove what does not belong to the model; nothing may be stored in its folder",
        )


def _names(dir_fd: int) -> set[str]:
    return set(os.listdir(dir_fd))


@contextmanager
def _directory(path: Path, parent_fd: int | None = None) -> Iterator[int]:
    """A handle on a folder. The model itself may be reached by a symbolic link, what is in it may not be one."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    inner = parent_fd is not None
    try:
        fd = os.open(path.name if inner else path, flags | (os.O_NOFOLLOW if inner else 0), dir_fd=parent_fd)
    except OSError as error:
        _refuse(path, error)
    try:
        yield fd
    finally:
        os.close(fd)


def _read(dir_fd: int, name: str, directory: Path, limit_bytes: int) -> bytes:
    """All bytes of a regular file, at most `limit_bytes`."""
    path = directory / name
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer for ever.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        with os.fdopen(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ModelError(f"{path} is not a regular file", hint=_COPY_AGAIN)
            data = stream.read(limit_bytes + 1)
    except OSError as error:
        _refuse(path, error)
    if len(data) > limit_bytes:
        raise ModelError(f"{path} is larger than {limit_bytes} bytes", hint=_COPY_AGAIN)
    return data


def _refuse(path: Path, error: OSError) -> NoReturn:
    if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and path.is_symlink()):
        raise ModelError(
            f"{path} is a symbolic link", hint="a model holds its own files: copy it with links resolved"
        ) from None
    if error.errno == errno.ENOENT:
        raise ModelError(f"{path} does not exist", hint="give the folder that `edge-export model` wrote") from None
    if error.errno == errno.ENOTDIR:
        raise ModelError(f"{path} is not a folder", hint="give the folder that `edge-export model` wrote") from None
    raise ModelError(
        f"{path} cannot be read: {error.strerror}", hint="check the permissions of the model and the disk"
    ) from None
