"""How ranks on several machines find each other: a port that the kernel chose, published in a file all of them see.

A port worked out from the job id can be taken by another job of the same machine. And torch's own file store needs
`flock` between machines, which some network file systems refuse and others only pretend to have.
"""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from trocar.errors import TrocarError
from trocar.files import write_json_atomic

SCHEME = "port://"
TIMEOUT_S = 900.0
"""For all ranks to arrive: a machine may still be copying shards, or loading Python from a busy file system."""


def port_store(file: Path, rank: int, size: int, timeout_s: float = TIMEOUT_S) -> TCPStore:
    """The store of `size` ranks, kept by rank 0 and published in `file`, which must be new for each start of a job.

    A file that an earlier life left is no harm: nobody answers at its port, and it is read again until it is replaced.
    Raises TrocarError if rank 0 can't be reached within `timeout_s` seconds.
    """
    limit = timedelta(seconds=timeout_s)
    if rank == 0:
        store = TCPStore("0.0.0.0", 0, size, is_master=True, timeout=limit, wait_for_workers=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(file, {"hosts": _own_names(), "port": store.port}, sync=False)
        return store
    host, port = _wait_for(file, time.monotonic() + timeout_s)
    return TCPStore(host, port, size, is_master=False, timeout=limit, wait_for_workers=False)


def _own_names() -> list[str]:
    """Names that this machine may be known by elsewhere; SLURM's first, which its other machines must resolve."""
    names = [os.environ.get("SLURMD_NODENAME"), socket.gethostname(), socket.getfqdn()]
    return list(dict.fromkeys(name for name in names if name))


def _wait_for(file: Path, deadline: float) -> tuple[str, int]:
    tried = f"{file} did not appear"
    while time.monotonic() < deadline:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {"hosts": [], "port": 0}
        for host in found["hosts"]:
            try:
                socket.create_connection((host, found["port"]), timeout=5).close()
            except OSError as error:
                tried = f"{host} port {found['port']}: {error}"
            else:
                return host, int(found["port"])
        time.sleep(0.2)
    raise TrocarError(
        f"rank 0 could not be reached ({tried}); do the job's machines reach each other by name, and share this folder?"
    )
