"""The station's folder on a real Samba share and a real NFS export, each served from a network of its own: R36.

The servers are smbd and NFS-Ganesha, in a network namespace. The share is mounted by the kernel where it has the
client, else through FUSE: smbnetfs, or gvfs with libnfs. Scans are written on the server, one over SMB under a lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.torture.rig import Rig, TimedOut, wait_until
from tests.torture.stub import expected_p_abnormal
from tests.torture.trial import Skipped, Trial

HERE, THERE = "10.77.36.1", "10.77.36.2"
MAX_SILENT_S = 15.0
LOCKED_S = 3.0
MOUNTED_S = 30.0

SMB = """[global]
private dir = {home}
lock directory = {home}
state directory = {home}
cache directory = {home}
pid directory = {home}
ncalrpc dir = {home}/rpc
log file = {home}/smbd.log
map to guest = Bad User
disable netbios = yes
disable spoolss = yes
[scans]
path = {export}
guest ok = yes
read only = no
force user = root
"""
NFS = """NFS_CORE_PARAM {{ Bind_addr = {there}; }}
NFSv4 {{ Graceless = true; RecoveryBackend = fs_ng; RecoveryRoot = {home}; }}
EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /scans; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  Attr_Expiration_Time = 0; FSAL {{ Name = VFS; }} }}
"""
EXCLUSIVE = """
import sys, time
from samba.credentials import Credentials
from samba.param import LoadParm
from samba.samba3 import libsmb_samba_internal as libsmb, param
host, name, source, settings, wait_s = sys.argv[1:]
param.get_context().load(settings)
credentials, data = Credentials(), open(source, "rb").read()
credentials.set_anonymous()
share = libsmb.Conn(host, "scans", lp=LoadParm(), creds=credentials)
file = share.create(name, DesiredAccess=0x12019F, ShareAccess=0, CreateDisposition=2)
share.write(file, data[:1000], 0)
print("locked", flush=True)
time.sleep(float(wait_s))
share.write(file, data[1000:], 1000)
share.close(file)
"""
"""Writes a scan in two parts and lets nobody else open it meanwhile; for the system's Python, which has Samba's."""


def on_a_share(trial: Trial) -> None:
    """R36: write, lock, cut, remount: as on a local folder, nothing is lost, and what hangs or is gone is an alarm."""
    ran = 0
    for kind in ("smb", "nfs"):
        try:
            _on(trial, kind)
            ran += 1
        except Skipped as reason:
            trial.notes.append(f"{kind}: {reason}")
    if not ran:
        raise Skipped("; ".join(trial.notes))


def _on(trial: Trial, kind: str) -> None:
    home = trial.root / kind
    export = home / "export"
    export.mkdir(parents=True)
    with (
        trial.rig() as rig,
        _network() as network,
        _server(kind, network, home, export),
        contextlib.ExitStack() as mounting,
    ):
        client = mounting.enter_context(_mounted(kind, home, export, rig.scans))
        rig.generator.folder = export
        rig.worker.start()
        rig.generator.arrive(5)
        trial.recovered(rig.await_all())
        if kind == "smb":
            _write_locked(trial, rig, home)
        _cut(trial, rig, network)
        mounting.close()
        wait_until(lambda: _stands(rig), "the alarm of an unmounted share")
        rig.generator.arrive(2)
        with _mounted(kind, home, export, rig.scans):
            trial.recovered(rig.await_all())
            wait_until(lambda: not _stands(rig), "its end")
            trial.require_clean_stop(rig.worker)
        trial.take(rig.findings(), kind)
        trial.figures[f"{kind} client"] = client


def _write_locked(trial: Trial, rig: Rig, home: Path) -> None:
    """As Windows programs do: no reader may open the file until it is whole."""
    counts, data = rig.generator.scan()
    source = home / "locked.tif"
    source.write_bytes(data)
    command = [
        "/usr/bin/python3",
        "-c",
        EXCLUSIVE,
        THERE,
        "B01_locked.tif",
        str(source),
        str(home / "server.conf"),
        str(LOCKED_S),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as writer:
        assert writer.stdout is not None
        said = writer.stdout.readline()
        if said.strip() != "locked":
            trial.notes.append(f"no lock was tried, python3-samba says: {said.strip()}")
            return
        time.sleep(LOCKED_S / 2)
        early = [m for m in rig.subscriber.of("verdict") if m.content["scan"]["file"] == "B01_locked.tif"]
        trial.require(not early, "a locked file got a verdict")
        trial.require(writer.wait() == 0, f"the writer failed: {writer.stdout.read()}")
    rig.generator.note("B01_locked.tif", data, expected_p_abnormal(counts))
    trial.recovered(rig.await_all())


def _cut(trial: Trial, rig: Rig, network: str) -> None:
    """No packet passes: calls hang, or fail after the client's patience."""
    _run("ip", "-n", network, "link", "set", "there", "down")
    try:
        took_s = wait_until(lambda: _stands(rig), "the alarm of a share that is cut off")
        trial.require_in_time(took_s <= MAX_SILENT_S, f"a share that was cut off was an alarm after {took_s:.1f} s")
        rig.generator.arrive(3)
    finally:
        _run("ip", "-n", network, "link", "set", "there", "up")
    trial.recovered(rig.await_all())
    wait_until(lambda: not _stands(rig), "its end")


def _stands(rig: Rig) -> bool:
    said = rig.subscriber.alarms("folder-away")
    return bool(said) and bool(said[-1].content["active"])


@contextlib.contextmanager
def _network() -> Iterator[str]:
    """A network namespace with one wire to this one; its end there is called `there`."""
    name = f"torture-{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skipped(f"no network namespace here: {error}") from error
    try:
        _run("ip", "link", "add", "torture-here", "type", "veth", "peer", "name", "there", "netns", name)
        _run("ip", "addr", "add", f"{HERE}/30", "dev", "torture-here")
        _run("ip", "link", "set", "torture-here", "up")
        _run("ip", "-n", name, "addr", "add", f"{THERE}/30", "dev", "there")
        for device in ("lo", "there"):
            _run("ip", "-n", name, "link", "set", device, "up")
        yield name
    finally:
        _run("ip", "netns", "del", name)


@contextlib.contextmanager
def _server(kind: str, network: str, home: Path, export: Path) -> Iterator[None]:
    _need("smbd" if kind == "smb" else "ganesha.nfsd")
    config = home / "server.conf"
    config.write_text((SMB if kind == "smb" else NFS).format(home=home, export=export, there=THERE))
    serve = f"exec smbd --foreground --no-process-group --configfile={config}"
    if kind == "nfs":
        _need("rpcbind")
        serve = (
            f"mount -t tmpfs none /run && rpcbind && exec ganesha.nfsd -F -f {config} -L {home}/nfsd.log -p {home}/pid"
        )
    with _processes(["ip", "netns", "exec", network], serve, home / "server.out"):
        yield


@contextlib.contextmanager
def _mounted(kind: str, home: Path, export: Path, target: Path) -> Iterator[str]:
    """The share at `target`; yields whose client it is."""
    kernels = {
        "smb": ["-t", "cifs", "-o", "guest,vers=3.1.1", f"//{THERE}/scans"],
        "nfs": ["-t", "nfs", "-o", "vers=4.2", f"{THERE}:/scans"],
    }
    if subprocess.run(["mount", *kernels[kind], str(target)], capture_output=True).returncode == 0:
        try:
            yield "kernel"
        finally:
            _run("umount", "--lazy", str(target))
        return
    at = home / "fuse"
    at.mkdir(exist_ok=True)
    if kind == "smb":
        _need("smbnetfs")
        share, mount = at / THERE / "scans", f"exec smbnetfs -f {at}"
    else:
        _need("gio")
        share = at / f"nfs:host={THERE},prefix={str(export).replace('/', '%2F')}"
        mount = (
            f"/usr/libexec/gvfsd --no-fuse & sleep 1; /usr/libexec/gvfsd-fuse -f {at} & sleep 1; "
            f"for i in 1 2 3 4 5 6 7 8 9; do gio mount nfs://{THERE}{export} && break; sleep 1; done; wait"
        )
        mount = f"exec dbus-run-session -- sh -c '{mount}'"
    with _processes(["env", f"HOME={home}", f"XDG_RUNTIME_DIR={home}"], mount, home / "client.out"):
        try:
            wait_until(share.is_dir, f"{share} is there", MOUNTED_S)
            _run("mount", "--bind", str(share), str(target))
        except (TimedOut, subprocess.CalledProcessError) as error:
            said = (home / "client.out").read_text(errors="replace")[-300:]
            raise Skipped(f"neither the kernel nor FUSE mounts it: {error}; {said}") from error
        try:
            yield "smbnetfs" if kind == "smb" else "gvfs"
        finally:
            _run("umount", "--lazy", str(target))
            subprocess.run(["umount", "--lazy", str(at)], capture_output=True)


@contextlib.contextmanager
def _processes(prefix: list[str], command: str, out: Path) -> Iterator[None]:
    """A shell's command and all it starts: they end with the context."""
    below = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", command]
    with out.open("ab") as log, subprocess.Popen([*prefix, *below], stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.kill()


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise Skipped(f"{program} is not installed")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
