"""What `registration mpi link` does: read on all cores, gather blocks, compare on all cores.

The first process holds every record in its compact form, with its keys, and who has which key:
some 600 bytes a patient. The resources are gone once they are read.
"""

import time
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import combinations, islice
from multiprocessing import get_context
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import orjson

from registration.commands.mpi_data import Unreadable, lines_of, read
from registration.mpi.blocking import block_keys
from registration.mpi.model import Model
from registration.mpi.record import MatchRecord

LARGEST_BLOCK = 1000
"""A larger block is no block: what its members share says nothing."""

_LINES_A_TASK = 1000
_PAIRS_A_TASK = 20_000
_PARTITIONS = 64
_IN_FLIGHT = 2
"""Tasks a worker: one that it works at, one that waits."""

Task = TypeVar("Task")
Done = TypeVar("Done")
Told = Callable[[str, int, int], None]
Block = tuple[int, list[int]]
"""A key, and the numbers of the records that have it."""
Work = tuple[list[Block], dict[int, bytes]]
"""Blocks, and the records in them."""


class Summary(NamedTuple):
    """What a run did."""

    records: int
    left_out: int
    compared: int
    written: int
    too_large: int
    seconds: float

    def __str__(self) -> str:
        rate = self.records / self.seconds * 3600
        said = (
            f"{self.records} patients, {self.compared} pairs compared, {self.written} written, "
            f"{self.seconds:.1f} s ({rate:,.0f} patients an hour)"
        )
        if self.too_large:
            said += f"\n{self.too_large} blocks of more than {LARGEST_BLOCK} passed over"
        if self.left_out:
            said += f"\n{self.left_out} lines left out: no patient that could be registered"
        return said


def link(file: Path, model: Model, output: IO[bytes], workers: int, told: Told) -> Summary:
    """Write the candidate pairs that have a grade; the shape is in the command's help.

    The same file and model give the same output, whatever the number of workers.
    """
    began = time.monotonic()
    held = _Held()
    left_out = compared = written = 0
    lines = sum(1 for _ in lines_of(file))
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_start, initargs=(model.dump(),)
    ) as pool:
        ahead = workers * _IN_FLIGHT
        for prepared, unreadable in _in_order(pool, _prepare, _chunks(lines_of(file)), ahead):
            left_out += unreadable
            for data, keys in prepared:
                held.add(data, keys)
            told("reading", len(held.records) + left_out, lines)
        for done, blocks in enumerate(held.blocks(), start=1):
            for pairs, found in _in_order(pool, _compare, _work(blocks, held.records), ahead):
                output.write(b"".join(found))
                compared, written = compared + pairs, written + len(found)
            told("comparing", done, _PARTITIONS)
    seconds = time.monotonic() - began
    return Summary(len(held.records), left_out, compared, written, held.too_large, seconds)


class _Held:
    """The records, and their keys in partitions, of which one at a time becomes blocks."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.too_large = 0
        self._keys = [array("q") for _ in range(_PARTITIONS)]
        self._owners = [array("L") for _ in range(_PARTITIONS)]

    def add(self, data: bytes, keys: Iterable[int]) -> None:
        for key in keys:
            self._keys[key % _PARTITIONS].append(key)
            self._owners[key % _PARTITIONS].append(len(self.records))
        self.records.append(data)

    def blocks(self) -> Iterator[list[Block]]:
        """Yield, for each partition, its blocks of more than one record."""
        for keys, owners in zip(self._keys, self._owners, strict=True):
            members: dict[int, list[int]] = defaultdict(list)
            for key, owner in zip(keys, owners, strict=True):
                members[key].append(owner)
            self.too_large += sum(len(block) > LARGEST_BLOCK for block in members.values())
            yield [item for item in members.items() if 1 < len(item[1]) <= LARGEST_BLOCK]


def _chunks(lines: Iterator[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield lines by the thousand, with the number of the first."""
    number = 1
    while chunk := list(islice(lines, _LINES_A_TASK)):
        yield number, chunk
        number += len(chunk)


def _work(blocks: list[Block], records: list[bytes]) -> Iterator[Work]:
    """Yield the blocks in parts of about as many pairs, each with the records it takes."""
    part: list[Block] = []
    pairs = 0
    for block in blocks:
        part.append(block)
        pairs += len(block[1]) * (len(block[1]) - 1) // 2
        if pairs >= _PAIRS_A_TASK:
            yield part, _in_blocks(part, records)
            part, pairs = [], 0
    if part:
        yield part, _in_blocks(part, records)


def _in_blocks(blocks: list[Block], records: list[bytes]) -> dict[int, bytes]:
    return {number: records[number] for _, members in blocks for number in members}


def _in_order(
    pool: ProcessPoolExecutor, function: Callable[[Task], Done], tasks: Iterable[Task], ahead: int
) -> Iterator[Done]:
    """Yield what a function makes of each task, in their order, with a few in flight at once."""
    flying: deque[Future[Done]] = deque()
    for task in tasks:
        flying.append(pool.submit(function, task))
        if len(flying) > ahead:
            yield flying.popleft().result()
    while flying:
        yield flying.popleft().result()


# In a worker.

_model: Model


def _start(model: bytes) -> None:
    global _model  # noqa: PLW0603  (a worker has one model for its life)
    _model = Model.model_validate_json(model)


def _prepare(chunk: tuple[int, list[bytes]]) -> tuple[list[tuple[bytes, list[int]]], int]:
    """Return each readable line's record, as it is held, with its keys; and how many are not."""
    first, lines = chunk
    prepared = []
    for number, line in enumerate(lines, start=first):
        try:
            resource, record = read(line)
        except Unreadable:
            continue
        keys = block_keys(record)
        data = orjson.dumps((number, resource.get("id"), keys, tuple(record)))
        prepared.append((data, keys))
    return prepared, len(lines) - len(prepared)


def _compare(work: Work) -> tuple[int, list[bytes]]:
    """Return how many pairs were compared, and those with a grade as lines of NDJSON.

    A pair that shares several keys is compared for the lowest of them alone.
    """
    blocks, held = work
    read_out = {number: _Candidate(data) for number, data in held.items()}
    compared, found = 0, []
    for key, members in blocks:
        for one, other in combinations([read_out[number] for number in members], 2):
            if min(one.keys & other.keys) != key:
                continue
            compared += 1
            if _model.weight(one.record, other.record) >= _model.thresholds.possible:
                found.append(_line(one, other))
    return compared, found


class _Candidate:
    __slots__ = ("id", "keys", "line", "record")

    def __init__(self, data: bytes) -> None:
        self.line, self.id, keys, parts = orjson.loads(data)
        self.keys = frozenset(keys)
        self.record = MatchRecord(*parts)


def _line(one: _Candidate, other: _Candidate) -> bytes:
    compared = _model.score(one.record, other.record)
    return orjson.dumps(
        {
            "lines": [one.line, other.line],
            "ids": [one.id, other.id],
            "score": compared.score,
            "weight": compared.weight,
            "grade": compared.grade,
            "agreement": compared.agreement,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )
