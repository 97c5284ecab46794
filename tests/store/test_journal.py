"""The journal: what was appended is read back, whatever happens to the writer or the file."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.errors import MissingRequirement, StoreError, StoreFull
from twin.store import segments
from twin.store.journal import Journal
from twin.store.segments import FRAME, HEADER_BYTES, Segment, read_frames

SMALL = 4_096


def only_segment(folder: Path) -> Path:
    (path,) = segments.in_folder(folder)
    return path


def frames_in(folder: Path) -> list[bytes]:
    return list(read_frames(folder))


def overwrite(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def test_payloads_come_back_in_order_while_the_writer_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([b"one", b"two" * 1000])
    assert frames_in(tmp_path) == [b"one", b"two" * 1000]
    journal.append([])
    journal.append([b"three"])
    assert frames_in(tmp_path) == [b"one", b"two" * 1000, b"three"]
    journal.close()
    journal.close()
    assert frames_in(tmp_path) == [b"one", b"two" * 1000, b"three"]


def test_nobody_else_may_read_what_people_asked(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    Journal(folder).close()
    assert folder.stat().st_mode & 0o077 == 0
    assert only_segment(folder).stat().st_mode & 0o077 == 0


def test_a_full_segment_is_followed_by_another(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=SMALL)
    payloads = [bytes([number]) * 1_000 for number in range(1, 20)]
    for payload in payloads:
        journal.append([payload])
    journal.close()
    assert len(segments.in_folder(tmp_path)) == 7
    assert frames_in(tmp_path) == payloads


def test_a_batch_larger_than_a_segment_gets_one_of_its_size(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=SMALL)
    batch = [b"x" * 3_000 + bytes([number]) for number in range(1, 6)]
    journal.append([b"before"])
    journal.append(batch)
    journal.append([b"after"])
    journal.close()
    assert frames_in(tmp_path) == [b"before", *batch, b"after"]


def test_a_batch_of_more_frames_than_one_system_call_takes_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    batch = [str(number).encode() for number in range(3_000)]
    journal.append(batch)
    journal.close()
    assert frames_in(tmp_path) == batch


def test_a_recycled_segment_shows_nothing_of_its_earlier_use(tmp_path: Path) -> None:
    first = Journal(tmp_path, segment_bytes=SMALL)
    first.append([b"old" * 100] * 5)
    first.close()
    used = only_segment(tmp_path)
    used.rename(used.with_suffix(".free"))
    second = Journal(tmp_path, segment_bytes=SMALL)
    assert not list(tmp_path.glob("*.free"))
    assert frames_in(tmp_path) == []
    # Of the same length, so that the old frames behind it begin exactly where it ends.
    second.append([b"new" * 100])
    assert frames_in(tmp_path) == [b"new" * 100]
    second.close()
    assert frames_in(tmp_path) == [b"new" * 100]
    with Segment(only_segment(tmp_path)) as segment:
        closed_at = HEADER_BYTES + FRAME.size + 300
        assert segment.is_closed_at(closed_at)
        assert segment.next_frame(closed_at + FRAME.size) is None


def test_a_segment_too_small_for_a_batch_is_not_recycled_for_it(tmp_path: Path) -> None:
    Journal(tmp_path, segment_bytes=SMALL).close()
    used = only_segment(tmp_path)
    used.rename(used.with_suffix(".free"))
    journal = Journal(tmp_path, segment_bytes=2 * SMALL)
    journal.append([b"x" * SMALL])
    assert frames_in(tmp_path) == [b"x" * SMALL]
    assert list(tmp_path.glob("*.free"))
    journal.close()


def test_two_writers_in_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    one, two = (Journal(tmp_path, segment_bytes=SMALL) for _ in range(2))
    for number in range(1, 50):
        one.append([b"one" + bytes([number]) * 200])
        two.append([b"two" + bytes([number]) * 200])
    one.close()
    two.close()
    found = frames_in(tmp_path)
    for name in (b"one", b"two"):
        own = [frame[3] for frame in found if frame.startswith(name)]
        assert own == list(range(1, 50))
    assert len(found) == 98


def test_a_live_writer_is_told_from_one_that_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with Segment(only_segment(tmp_path)) as segment:
        assert not segment.writer_is_gone()
    journal.close()
    with Segment(only_segment(tmp_path)) as segment:
        assert segment.writer_is_gone()


# ------------------------------------------------------------------------- torn and damaged


@pytest.fixture(scope="module")
def three_frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """A segment as a killed writer leaves it: no closing mark."""
    folder = tmp_path_factory.mktemp("journal")
    written = [b"a" * 5, b"bb" * 20, b"ccc" * 30]
    journal = Journal(folder, segment_bytes=SMALL)
    journal.append(written)
    return only_segment(folder), written


def positions(written: list[bytes]) -> list[int]:
    ends = [HEADER_BYTES]
    for payload in written:
        ends.append(ends[-1] + FRAME.size + len(payload))
    return ends


def test_whatever_part_of_the_last_write_is_missing_the_frames_before_it_are_read(
    tmp_path: Path, three_frames: tuple[Path, list[bytes]]
) -> None:
    original, written = three_frames
    whole = original.read_bytes()
    ends = positions(written)
    for cut in range(HEADER_BYTES, ends[-1]):
        num_whole = sum(1 for end in ends[1:] if end <= cut)
        for rest in (b"", bytes(SMALL - cut)):  # Cut off; and never written.
            (tmp_path / original.name).write_bytes(whole[:cut] + rest)
            assert frames_in(tmp_path) == written[:num_whole]


def test_a_flipped_bit_costs_the_frame_it_is_in_and_no_other(
    tmp_path: Path, three_frames: tuple[Path, list[bytes]]
) -> None:
    original, written = three_frames
    whole = original.read_bytes()
    ends = positions(written)
    for position in range(ends[-1]):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        (tmp_path / original.name).write_bytes(flipped)
        left = [
            payload
            for payload, start, end in zip(written, ends, ends[1:], strict=False)
            if not start <= position < end
        ]
        assert frames_in(tmp_path) == left, f"byte {position}"


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=600), at=st.integers(0, 300))
def test_no_bytes_at_all_make_reading_fail_or_find_what_nobody_wrote(
    three_frames: tuple[Path, list[bytes]], data: bytes, at: int
) -> None:
    original, written = three_frames
    whole = bytearray(original.read_bytes())
    whole[at : at + len(data)] = data
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / original.name).write_bytes(whole)
        assert set(frames_in(Path(folder))) <= set(written)


def test_a_frame_whose_payload_holds_frames_is_read_as_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=SMALL)
    journal.append([b"inner"])
    inside = only_segment(tmp_path).read_bytes()[HEADER_BYTES : HEADER_BYTES + 100]
    journal.append([inside, b"last"])
    assert frames_in(tmp_path) == [b"inner", inside, b"last"]


def test_the_extent_is_known_without_a_look_at_payloads(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([b"x" * 100, b"y" * 50])
    with Segment(only_segment(tmp_path)) as segment:
        assert segment.extent(HEADER_BYTES) == HEADER_BYTES + 150 + 2 * FRAME.size
        assert segment.cursor() == HEADER_BYTES
        segment.move_cursor(200)
        assert segment.cursor() == 200
    with Segment(only_segment(tmp_path)) as segment:
        assert segment.cursor() == 200
    journal.close()


# ------------------------------------------------------------------------- kill -9, power, disk

WRITES = """
import sys
from pathlib import Path
from twin.store.journal import Journal

folder, name = sys.argv[1:]
journal = Journal(Path(folder), segment_bytes=300_000)
number = 0
while True:
    batch = [b"%s %d " % (name.encode(), n) + b"x" * (n * 37 % 9_000) for n in
             range(number, number + 1 + number % 4)]
    journal.append(batch)
    number += len(batch)
    print(number, flush=True)
"""


def acknowledged(process: "subprocess.Popen[str]", num_lines: int) -> int:
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(num_lines)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.stdout.close()
    process.wait()
    return int([line for line in lines if line.endswith("\n")][-1])


@pytest.mark.parametrize("seed", range(4))
def test_every_append_that_returned_before_a_kill_is_read_back(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    writers = {
        name: subprocess.Popen(
            [sys.executable, "-c", WRITES, tmp_path, name], stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    }
    promised = {
        name: acknowledged(process, chance.randint(1, 400)) for name, process in writers.items()
    }
    found = [frame.split(b" ") for frame in read_frames(tmp_path)]
    for name, number in promised.items():
        own = [int(frame[1]) for frame in found if frame[0] == name.encode()]
        assert own[:number] == list(range(number))
        assert own == list(range(len(own)))


def test_sync_may_be_called_before_during_and_after_a_change_of_segment(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=SMALL)
    for number in range(1, 30):
        journal.append([bytes([number]) * 1_000])
        if number % 5 == 0:
            journal.sync()
    handles = len(os.listdir("/proc/self/fd"))
    journal.sync()
    assert len(os.listdir("/proc/self/fd")) <= handles
    journal.close()
    assert len(frames_in(tmp_path)) == 29


def test_a_file_that_may_not_grow_refuses_a_segment_and_keeps_the_one_it_has(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, segment_bytes=SMALL)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(StoreFull, match=r"no space left.*Free some space"):
            journal.append([b"x" * SMALL])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.suffix for path in tmp_path.iterdir()] == [".journal"]
    journal.append([b"small"])
    journal.append([b"x" * SMALL])
    assert frames_in(tmp_path) == [b"small", b"x" * SMALL]
    journal.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("NOT TESTED: only root can mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_the_segment_at_hand_is_filled_and_then_it_says_so(tiny_disk: Path) -> None:
    journal = Journal(tiny_disk / "journal", segment_bytes=100_000)
    filler = tiny_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1_000))
    written = [bytes([number]) * 1_000 for number in range(1, 99)]
    for payload in written:
        journal.append([payload])
    with pytest.raises(StoreFull):
        journal.append([b"x" * 1_000])
    with pytest.raises(StoreFull):
        journal.append([b"again" * 200])
    assert frames_in(tiny_disk / "journal") == written
    filler.unlink()
    journal.append([b"room again" * 100])
    journal.close()
    assert frames_in(tiny_disk / "journal") == [*written, b"room again" * 100]


def test_what_could_not_be_written_whole_is_not_read_at_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=100_000)
    journal.append([b"kept"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The segment is there already; writing stops in the middle of the second frame.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        with pytest.raises(StoreFull):
            journal.append([b"x" * 1_000, b"y" * 1_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert frames_in(tmp_path) == [b"kept"]
    journal.append([b"next"])
    assert frames_in(tmp_path) == [b"kept", b"next"]
    journal.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StoreError, MissingRequirement), match="file"):
        Journal(tmp_path / "file" / "journal")


def test_an_unfinished_segment_of_a_killed_writer_does_not_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    unfinished = only_segment(tmp_path).with_suffix(".new")
    shutil.copy(only_segment(tmp_path), unfinished)
    journal.append([b"one"])
    assert frames_in(tmp_path) == [b"one"]
    journal.close()
