"""Labelled clips -> a dataset in the challenge's shape: `python -m debug.labelled CLIPS OUT`.

CLIPS holds manifest.csv (file, label, source, and if known family, operation, severity, original) or the folders
real/<source>/… and generated/<source>/… (of speech: pristine/<source>/…). OUT gets

    dataset/data/test-00000-of-00002.parquet   id, video or audio: what script.py reads (--dataset OUT/dataset)
    solution.csv                               id,pred,source,split: anonymised sources, public/private by source
    key.csv                                    private: which clip and source an id is, and the container's numbers
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import math
import random
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import av
from tqdm import tqdm

from debug.layouts import MediaFile, write_parquet
from model.atomic import replace_file
from model.modality import AUDIO, Modality
from model.training.clips import LabelledDataError, Record, find_modality, labels_of, load_records

SOLUTION_COLUMNS = ("id", "pred", "source", "split")
KEY_COLUMNS = (
    "id", "file", "label", "source", "family", "anonymous", "split", "operation", "severity", "original",
    "width", "height", "fps", "sampling_rate", "channels", "codec", "duration_seconds", "num_bytes",
)  # fmt: skip
_VARIANT_COLUMNS = ("operation", "severity", "original")  # debug.postprocess writes them into its manifest


@dataclass(frozen=True)
class LabelledRow:
    """One row of the dataset to be, with what the solution and the key say of it."""

    record: Record
    id: str
    anonymous: str
    split: str


def build_ids(records: Sequence[Record], *, seed: int) -> list[str]:
    """A version-4 shaped UUID per clip from seed and file name: the same clip keeps its id in any selection."""
    digests = (hashlib.sha256(f"{seed}:{record.file}".encode()).digest() for record in records)
    return [str(uuid.UUID(bytes=digest[:16], version=4)) for digest in digests]


def anonymise_sources(records: Sequence[Record], *, seed: int) -> dict[tuple[str, str], str]:
    """(label, source) -> `generated-07`, numbered in a seeded order that tells nothing of the name."""
    names: dict[tuple[str, str], str] = {}
    for label in labels_of(records):
        sources = sorted({record.source for record in records if record.label == label})
        random.Random(f"{seed}:{label}").shuffle(sources)
        digits = max(2, len(str(len(sources))))
        names |= {(label, source): f"{label}-{k:0{digits}d}" for k, source in enumerate(sources, start=1)}
    return names


def assign_splits(records: Sequence[Record], *, public_share: float, seed: int) -> dict[tuple[str, str], str]:
    """(label, source) -> `public` or `private`; a class with two or more sources has some in each."""
    splits = {}
    for label in labels_of(records):
        sources = sorted({record.source for record in records if record.label == label})
        random.Random(f"{seed}:split:{label}").shuffle(sources)
        num_public = round(public_share * len(sources))
        if len(sources) >= 2 and 0 < public_share < 1:
            num_public = min(max(num_public, 1), len(sources) - 1)
        for position, source in enumerate(sources):
            splits[label, source] = "public" if position < num_public else "private"
    return splits


def select_records(records: Sequence[Record], *, limit: int | None, sources: Sequence[str], seed: int) -> list[Record]:
    """At most `limit` clips of the sources named (all if none is), taken in turn from every source of each class.

    Example: limit 3 of generated a a b, real c -> a c b.
    Raises: LabelledDataError: a source that does not exist.
    """
    unknown = sorted(set(sources) - {record.source for record in records})
    if unknown:
        raise LabelledDataError(f"no clip has the source {unknown[0]!r}")
    wanted = [record for record in records if not sources or record.source in sources]
    if limit is None or limit >= len(wanted):
        return wanted
    if limit < 1:
        raise LabelledDataError(f"limit is {limit}; it must be at least 1")
    queues: list[list[Record]] = []
    for label in labels_of(records):
        groups: dict[str, list[Record]] = {}
        for record in wanted:
            if record.label == label:
                groups.setdefault(record.source, []).append(record)
        rng = random.Random(f"{seed}:limit:{label}")
        for group in groups.values():
            rng.shuffle(group)
        order = sorted(groups)
        rng.shuffle(order)
        queues.append(list(_in_turn([groups[source] for source in order])))
    return list(_in_turn(queues))[:limit]


def _in_turn(queues: Iterable[Sequence[Record]]) -> Iterator[Record]:
    """First of each queue, second of each, ...; shorter queues drop out."""
    for layer in zip_longest(*queues):
        yield from (record for record in layer if record is not None)


def build_rows(records: Sequence[Record], *, public_share: float, seed: int) -> list[LabelledRow]:
    """Rows in a seeded order in which neither label nor source can be read off the position."""
    names = anonymise_sources(records, seed=seed)
    splits = assign_splits(records, public_share=public_share, seed=seed)
    rows = []
    for record, clip_id in zip(records, build_ids(records, seed=seed), strict=True):
        group = (record.label, record.source)
        rows.append(LabelledRow(record, clip_id, names[group], splits[group]))
    return sorted(rows, key=lambda row: row.id)


def probe(path: Path, modality: Modality) -> dict[str, object]:
    """What the container says; empty if it cannot be opened.

    Of both modalities codec, duration_seconds; of video width, height, fps; of sound sampling_rate, channels.
    For reports on confounding only. The detector never sees these numbers.
    """
    try:
        with av.open(str(path), mode="r", metadata_errors="ignore") as container:
            streams = container.streams.audio if modality == AUDIO else container.streams.video
            if not streams:
                return {}
            stream = streams[0]
            seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else math.nan
            if not stream.duration and container.duration:
                seconds = container.duration / av.time_base
            context = stream.codec_context
            told: dict[str, object] = {
                "codec": context.name,
                "duration_seconds": round(seconds, 3) if math.isfinite(seconds) else "",
            }
            if modality == AUDIO:
                return told | {"sampling_rate": context.sample_rate, "channels": context.channels}
            rate = float(stream.average_rate or 0)
            return told | {"width": context.width, "height": context.height, "fps": round(rate, 3) if rate else ""}
    except (av.FFmpegError, OSError, ValueError):
        return {}


def media_files(rows: Sequence[LabelledRow]) -> Iterator[MediaFile]:
    """What the dataset holds, read file by file: the clip's own name is not told."""
    for row in tqdm(rows, desc="dataset", unit="clip"):
        path = row.record.path
        yield MediaFile(row.id, f"{row.id}{path.suffix.lower()}", path.read_bytes())


def write_tables(rows: Sequence[LabelledRow], out: Path, modality: Modality) -> None:
    """solution.csv for the metric, key.csv for the owner."""
    solution, key = [], []
    for row in rows:
        record = row.record
        solution.append({"id": row.id, "pred": record.label, "source": row.anonymous, "split": row.split})
        named = {"id": row.id, "file": record.file, "label": record.label, "source": record.source}
        placed = {"family": record.family, "anonymous": row.anonymous, "split": row.split}
        variant = {column: record.details.get(column) for column in _VARIANT_COLUMNS}
        key.append({**named, **placed, **variant, **probe(record.path, modality), "num_bytes": record.num_bytes})
    write_csv(out / "solution.csv", SOLUTION_COLUMNS, solution)
    write_csv(out / "key.csv", KEY_COLUMNS, key)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """These columns of the rows, others left out; the file appears whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue().encode())


def build_dataset(
    clips: Path,
    out: Path,
    *,
    limit: int | None = None,
    sources: Sequence[str] = (),
    public_share: float = 0.5,
    seed: int = 0,
    shard_bytes: int = 256 << 20,
    force: bool = False,
) -> list[LabelledRow]:
    """Everything the command does. The tables are written last: a folder with solution.csv is complete.

    Raises: LabelledDataError: unusable clips, options out of range, or OUT is taken.
    """
    if not 0 <= public_share <= 1:
        raise LabelledDataError(f"public share is {public_share}; it must be between 0 and 1")
    modality = find_modality(clips)
    records = select_records(load_records(clips, modality), limit=limit, sources=sources, seed=seed)
    rows = build_rows(records, public_share=public_share, seed=seed)
    if (out / "dataset").exists():
        if not force:
            raise LabelledDataError(f"{out / 'dataset'} exists; pass --force to replace it, or name another folder")
        (out / "solution.csv").unlink(missing_ok=True)
        shutil.rmtree(out / "dataset")
    write_parquet(media_files(rows), out / "dataset" / "data", modality, shard_bytes=shard_bytes)
    write_tables(rows, out, modality)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m debug.labelled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", type=Path, help="folder with manifest.csv, or real/<source>/, generated/<source>/")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--limit", type=int, help="at most this many clips, spread over sources and classes")
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME", help="only these sources")
    parser.add_argument("--public", type=float, default=0.5, metavar="SHARE", help="public sources (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="of ids, names, splits and choice (default: 0)")
    parser.add_argument("--shard-mb", type=int, default=256, help="size of a parquet file (default: 256)")
    parser.add_argument("--force", action="store_true", help="replace the dataset in OUT")
    options = parser.parse_args(arguments)
    try:
        rows = build_dataset(
            options.clips,
            options.out,
            limit=options.limit,
            sources=options.sources,
            public_share=options.public,
            seed=options.seed,
            shard_bytes=options.shard_mb << 20,
            force=options.force,
        )
    except LabelledDataError as error:
        parser.exit(2, f"error: {error}\n")
    num_sources = len({row.anonymous for row in rows})
    num_public = sum(row.split == "public" for row in rows)
    print(f"{len(rows)} clips of {num_sources} sources, {num_public} of them public, in {options.out}")
    print(f"next: python script.py --dataset {options.out / 'dataset'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
