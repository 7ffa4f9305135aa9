"""Files: whose they are, where one ends and the next begins, and what a full disk leaves."""

import gzip
import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.recording.cassette import load
from lifecycle_proxy.recording.cassette_file import records
from lifecycle_proxy.recording.json_lines import line
from lifecycle_proxy.recording.writer import File, Files

pytestmark = pytest.mark.skipif(not hasattr(os, "O_CLOEXEC"), reason="POSIX")


def record(number: int, size: int = 0) -> bytes:
    """A line of an exchange."""
    return line({"kind": "other", "id": number, "data": os.urandom(size // 2).hex()})


def ids(file: Path) -> list[int]:
    return [one["id"] for _, one in records(file)]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def limit(size: int) -> Iterator[None]:
    """Files can grow no larger: what a full disk does, in the middle of a write too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class Losses:
    """Whose lines were lost."""

    def __init__(self) -> None:
        self.owners: list[object] = []

    def __call__(self, owner: object, error: OSError) -> None:
        self.owners.append(owner)


def opened(place: Path, losses: Losses | None = None, size: int = 0, *, gz: bool = False) -> Files:
    return Files(place, losses or Losses(), max_file_bytes=size, compress=gz)


# --- whose they are -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o277, 0o777])
def test_files_are_their_owners_only(tmp_path: Path, mask: int) -> None:
    place = tmp_path / "a" / "b"
    with umask(mask):
        files = opened(place)
        files.write(files.file(), record(1), "x")
        files.close()
    assert [mode(folder) for folder in (tmp_path / "a", place)] == [0o700, 0o700]
    (file,) = place.iterdir()
    assert mode(file) == 0o600


def test_what_is_there_keeps_its_mode(tmp_path: Path) -> None:
    place = tmp_path / "a.jsonl"
    place.write_bytes(b"")
    place.chmod(0o644)
    File(place, compress=False).close()
    assert mode(place) == 0o644


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OSError, match="exists"):
        opened(tmp_path / "a")
    with pytest.raises(OSError, match="exists"):
        opened(tmp_path / "a" / "b")


# --- one after the other --------------------------------------------------------------------------


@pytest.mark.parametrize("gz", [False, True])
def test_an_exchange_stays_in_one_file(tmp_path: Path, gz: bool) -> None:
    files = opened(tmp_path, size=2000, gz=gz)
    long = files.file()
    files.write(long, record(0, 3000), 0)
    for number in range(1, 6):
        file = files.file()
        files.write(file, record(number, 1500), number)
        files.write(long, record(0), 0)
        files.done(file)
    files.write(long, record(0), 0)
    files.done(long)
    files.flush()
    files.close()
    found = [ids(file) for file in sorted(tmp_path.iterdir())]
    assert found == [[0] * 7, [1, 2], [3, 4], [5]]
    assert all(file.name.endswith(".gz") == gz for file in tmp_path.iterdir())


def test_files_that_are_done_with_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    files = opened(tmp_path, size=100)
    for number in range(20):
        file = files.file()
        files.write(file, record(number, 200), number)
        files.done(file)
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208
    files.close()
    assert len(load_ids(tmp_path)) == 20


def load_ids(folder: Path) -> list[int]:
    return [number for file in sorted(folder.iterdir()) for number in ids(file)]


def test_two_recorders_of_a_process_have_files_of_their_own(tmp_path: Path) -> None:
    both = [opened(tmp_path, gz=True) for _ in range(2)]
    for number, files in enumerate(both):
        files.write(files.file(), record(number), number)
    for files in both:
        files.close()
    assert sorted(load_ids(tmp_path)) == [0, 1]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_one_cassette_by_name_grows(tmp_path: Path, suffix: str) -> None:
    place = tmp_path / "new" / f"a{suffix}"
    for number in range(3):
        files = opened(place, size=1, gz=suffix == ".jsonl")  # its name says what it is
        for _ in range(2):
            file = files.file()
            files.write(file, record(number), number)
            files.done(file)
        files.close()
    assert ids(place) == [0, 0, 1, 1, 2, 2]
    raw = place.read_bytes()
    text = gzip.decompress(raw) if suffix.endswith("gz") else raw
    kinds = [json.loads(one)["kind"] for one in text.splitlines()]
    assert kinds == ["cassette", "other", "other"] * 3
    assert mode(place) == 0o600


def test_nothing_is_written_before_there_is_something(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz"):
        file = File(tmp_path / name, compress=name.endswith("gz"))
        file.flush()
        file.close()
        assert (tmp_path / name).read_bytes() == b""


def test_a_file_can_be_read_while_it_grows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz"):
        file = File(tmp_path / name, compress=name.endswith("gz"))
        for number in range(3):
            file.write(record(number))
            file.flush()
            assert ids(tmp_path / name) == list(range(number + 1))
        file.close()


def test_much_is_written_in_between(tmp_path: Path) -> None:
    file = File(tmp_path / "a.jsonl", compress=False)
    for number in range(30):
        file.write(record(number, 100_000))
    assert (tmp_path / "a.jsonl").stat().st_size > 2_000_000
    file.close()
    assert ids(tmp_path / "a.jsonl") == list(range(30))


# --- what is torn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"", b'{"kind": "oth'])
def test_behind_a_torn_line_a_new_one_begins(tmp_path: Path, tail: bytes) -> None:
    place = tmp_path / "a.jsonl"
    first = File(place, compress=False)
    first.write(record(1))
    first.close()
    with place.open("ab") as stream:
        stream.write(tail)
    second = File(place, compress=False)
    second.write(record(2))
    second.close()
    assert ids(place) == [1, 2]
    assert b"\n\n" not in place.read_bytes()


def test_a_torn_compressed_file_is_mended_first(tmp_path: Path) -> None:
    place, link = tmp_path / "a.jsonl.gz", tmp_path / "link.jsonl.gz"
    first = File(place, compress=True)
    first.write(record(1))
    first.flush()
    first.write(record(2, 500))
    first.close()
    whole = place.read_bytes()
    place.write_bytes(whole[:-30])
    link.symlink_to(place)
    second = File(link, compress=True)
    second.write(record(3))
    second.close()
    assert ids(place)[0] == 1
    assert ids(link)[-1] == 3
    assert gzip.decompress(place.read_bytes())  # no tear is left
    assert sorted(tmp_path.iterdir()) == [place, link]
    assert link.is_symlink()


def test_what_is_not_compressed_at_all_is_left(tmp_path: Path) -> None:
    place = tmp_path / "a.jsonl.gz"
    place.write_bytes(b"not mine")
    file = File(place, compress=True)
    file.write(record(1))
    file.close()
    assert place.read_bytes().startswith(b"not mine\x1f\x8b")


@pytest.mark.parametrize("gz", [False, True])
def test_a_full_disk_and_room_again(tmp_path: Path, gz: bool) -> None:
    losses = Losses()
    files = opened(tmp_path, losses, gz=gz)
    file = files.file()
    with limit(10):
        files.write(file, record(0), "first")
        files.flush()
    assert losses.owners == ["first"]
    files.write(file, record(1, 1000), "well")
    files.flush()
    size = file.path.stat().st_size
    with limit(size + 1000):
        for number in range(2, 5):
            files.write(file, record(number, 5000), f"owner {number}")
            files.flush()
            files.flush()
        assert file.path.stat().st_size == size  # taken back
    files.write(file, record(5, 1000), "again")
    files.close()
    assert losses.owners == ["first", "owner 2", "owner 3", "owner 4"]
    assert ids(file.path) == [1, 5]
    assert (gzip.decompress if gz else bytes)(file.path.read_bytes()).count(b'"cassette"') == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_device_that_is_always_full(tmp_path: Path, suffix: str) -> None:
    place = tmp_path / f"a{suffix}"
    place.symlink_to("/dev/full")
    before = mode(Path("/dev/full"))
    losses = Losses()
    files = opened(place, losses)
    for number in range(3):
        file = files.file()
        files.write(file, record(number), number)
        files.flush()
        files.done(file)
    files.write(file, record(3), 3)
    files.close()
    assert losses.owners == [0, 1, 2, 3]
    assert mode(Path("/dev/full")) == before


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    files = opened(tmp_path / "a.jsonl")
    with pytest.raises(IsADirectoryError):
        files.file()
    (tmp_path / "a.jsonl").rmdir()
    files.write(files.file(), record(1), 1)
    files.close()
    assert ids(tmp_path / "a.jsonl") == [1]
    assert load(tmp_path / "a.jsonl") == []


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda place: place.chmod(0o640), "can be read by other users (chmod 600)"),
        (lambda place: place.chmod(0o600), ""),
        (lambda place: place.rename(place.parent / "x") and place.symlink_to("x"), "symbolic link"),
        (lambda place: place.unlink() or (place.mkdir(), place.chmod(0o777)), "can write into"),
        (lambda place: place.unlink() or place.mkdir(0o755), ""),
        (lambda place: place.unlink(), ""),
    ],
)
def test_a_place_that_others_reach_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, problem: str
) -> None:
    place = tmp_path / "a.jsonl"
    place.touch(0o600)
    make(place)
    place = place if place.suffix else tmp_path
    Files(place, Losses(), max_file_bytes=0, compress=False).close()
    assert (problem in caplog.text) if problem else not caplog.messages
