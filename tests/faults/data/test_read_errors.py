"""File systems that fail, stutter or dawdle under the reader: the same batches, or an error; never other data."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from data_factory import make_catalog
from fault_record import Injector
from stream_factory import STEPS, frames_of, make_loader, stream

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading import reader
from trocar.data.loading.dali_pipeline import is_available
from trocar.errors import TrocarError

SAME = "read again; the batches of an undisturbed run"
dali = pytest.param("dali", marks=pytest.mark.skipif(not is_available(), reason="DALI is not installed"))
backends = pytest.mark.parametrize("backend", ["torch", dali])
Read = Callable[[int, int, int], bytes]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return make_catalog(tmp_path_factory.mktemp("shards"), 5, 13)


@pytest.fixture
def wrap(monkeypatch: pytest.MonkeyPatch) -> Callable[[Read], None]:
    """Puts a function between the reader and the file system; its waits cost nothing then."""

    def put(read: Read) -> None:
        names = {
            name: getattr(os, name) for name in ("open", "close", "posix_fadvise", "O_RDONLY", "POSIX_FADV_WILLNEED")
        }

        def preadv(handle: int, buffers: list[memoryview], offset: int) -> int:
            part = read(handle, len(buffers[0]), offset)
            buffers[0][: len(part)] = part
            return len(part)

        monkeypatch.setattr(reader, "os", SimpleNamespace(**names, pread=read, preadv=preadv))
        monkeypatch.setattr(reader, "time", SimpleNamespace(sleep=lambda seconds: None))

    return put


class Failing:
    """Reads that fail from the n-th on, `times` of them in a row."""

    def __init__(self, nth: int, times: float, number: int) -> None:
        self.nth, self.times, self.number, self.count = nth, times, number, 0
        self.lock = threading.Lock()  # DALI's path reads in several threads

    def __call__(self, handle: int, size: int, offset: int) -> bytes:
        with self.lock:
            self.count += 1
            count = self.count
        if self.nth <= count < self.nth + self.times:
            raise OSError(self.number, os.strerror(self.number))
        return os.pread(handle, size, offset)


@backends
@pytest.mark.parametrize("seed", range(4))
def test_a_read_that_fails_for_a_while_changes_nothing(
    inject: Injector, catalog: Catalog, wrap: Callable[[Read], None], backend: str, seed: int
) -> None:
    rng = random.Random(seed)
    nth, times, number = (
        rng.randrange(1, 8 * STEPS),
        rng.randrange(1, reader.RETRIES),
        rng.choice([errno.EIO, errno.ESTALE]),
    )
    undisturbed = stream(make_loader(catalog, backend=backend))
    at = f"read {nth}, {times} times {errno.errorcode[number]}, {backend}"
    with inject("read error that passes", "loader", SAME, seed=seed, at=at) as injection:
        failing = Failing(nth, times, number)
        wrap(failing)
        batches = list(make_loader(catalog, backend=backend).iterate(0, STEPS))
        assert failing.count >= 8 * STEPS + times
        assert not any(batch.bad for batch in batches)
        injection.compare(undisturbed, frames_of(batches))


@backends
@pytest.mark.parametrize("seed", range(2))
def test_a_read_that_goes_on_failing_stops_the_run_behind_the_steps_before(
    inject: Injector, catalog: Catalog, wrap: Callable[[Read], None], backend: str, seed: int
) -> None:
    nth = random.Random(seed).randrange(1, 8 * STEPS)
    undisturbed = stream(make_loader(catalog, backend=backend))
    promise = "an error names the shard, nothing is replaced; the steps before are the undisturbed run's"
    with inject("read error that stays", "loader", promise, seed=seed, at=f"read {nth}, {backend}") as injection:
        wrap(Failing(nth, float("inf"), errno.EIO))
        batches = []
        with pytest.raises(TrocarError, match=r"cannot read .*\.tar after 4 attempts: .*Input/output error"):
            batches.extend(make_loader(catalog, backend=backend).iterate(0, STEPS))
        before = {place: frame for place, frame in undisturbed.items() if place[0] < (nth - 1) // 8}
        assert frames_of(batches) == before
        wrap(os.pread)
        injection.compare(undisturbed, stream(make_loader(catalog, backend=backend)))


@backends
@pytest.mark.parametrize("seed", range(2))
def test_reads_that_return_parts_are_put_together(
    inject: Injector, catalog: Catalog, wrap: Callable[[Read], None], backend: str, seed: int
) -> None:
    undisturbed, rng = stream(make_loader(catalog, backend=backend)), random.Random(seed)
    with inject("reads return parts", "loader", SAME, seed=seed, at=backend) as injection:
        wrap(lambda handle, size, offset: os.pread(handle, rng.randint(1, size), offset))
        injection.compare(undisturbed, stream(make_loader(catalog, backend=backend)))


@pytest.mark.parametrize(("backend", "workers"), [("torch", 2), pytest.param("dali", 1, marks=dali.marks)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_slow_storage_delays_and_changes_nothing(
    inject: Injector, catalog: Catalog, wrap: Callable[[Read], None], backend: str, workers: int
) -> None:
    undisturbed, rng = stream(make_loader(catalog, backend=backend)), random.Random(3)

    def late(handle: int, size: int, offset: int) -> bytes:
        time.sleep(rng.uniform(0, 0.1))
        return os.pread(handle, size, offset)

    at = f"up to 0.1 s each read, {backend}, {workers} workers"
    with inject("slow storage", "loader", "the batches of an undisturbed run", seed=3, at=at) as injection:
        wrap(late)
        injection.compare(undisturbed, stream(make_loader(catalog, backend=backend, workers=workers)))
