"""Tables as people's programs write them: CSV of any dialect and encoding, JSON lines, JSON arrays.

What is meant is read: semicolons, tabs, Excel's `sep=` line, UTF-8 with or without mark, UTF-16, Windows-1252, lines of
megabytes. A line that is no row costs itself.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..text import one_line

log = logging.getLogger(__name__)

_MAX_LINE = 64 << 20  # characters
_MAX_DOCUMENT = 256 << 20  # bytes of a JSON array, which is read whole
_DELIMITERS = ",;\t|"
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
BROKEN_TABLE = (OSError, ValueError, csv.Error, RecursionError, MemoryError)


def table_rows(path: Path, is_header: Callable[[Sequence[str]], bool]) -> Iterator[Mapping[str, Any]]:
    """The rows of a table by column; column names without spaces around them, as written otherwise.

    is_header: whether these are the columns that are looked for; it decides between delimiters.
    Raises: one of BROKEN_TABLE: the file cannot be opened, or is text in no known encoding.
    """
    encoding = _encoding(path)
    with open(path, newline="", encoding=encoding, errors="replace") as file:
        if path.suffix.lower() in {".json", ".jsonl", ".ndjson"}:
            yield from _json_rows(file, path)
        else:
            yield from _csv_rows(file, path, is_header)


def raw_name(name: str) -> str:
    """The file name whose bytes were read as Windows-1252. Linux names are bytes, and need not be text."""
    try:
        return os.fsdecode(name.encode("cp1252"))
    except UnicodeEncodeError:
        return name


def _encoding(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(4096)
        for mark, encoding in _MARKS.items():
            if head.startswith(mark):
                return encoding
        if len(head) >= 4 and head[1:2] == b"\0" == head[3:4]:
            return "utf-16-le"
        if len(head) >= 4 and head[0:1] == b"\0" == head[2:3]:
            return "utf-16-be"
    try:
        with open(path, encoding="utf-8") as text:
            while text.read(1 << 20):
                pass
    except UnicodeDecodeError:
        log.warning("%s is not UTF-8: read as Windows-1252", path)
        return "cp1252"
    return "utf-8"


def _lines(file: io.TextIOBase, path: Path) -> Iterator[str]:
    """Lines without NULs, which `csv` refuses; one that is too long to hold is passed over."""
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE and not line.endswith("\n"):
            while (rest := file.readline(_MAX_LINE)) and not rest.endswith("\n"):
                pass
            log.error("a line of %s is longer than %d characters: passed over", path, _MAX_LINE)
            continue
        yield line.replace("\0", "")


def _csv_rows(
    file: io.TextIOBase, path: Path, is_header: Callable[[Sequence[str]], bool]
) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_MAX_LINE)
    lines = _lines(file, path)
    first = next((line for line in lines if line.strip().strip(_DELIMITERS)), "")
    told = ""
    if first.strip().strip('"').lower().startswith("sep=") and len(first.strip().strip('"')) <= 5:
        told = first.strip().strip('"')[4:] or "\t"  # Excel's; a tab may have been stripped
        first = next((line for line in lines if line.strip()), "")
    if not first:
        return
    header, delimiter = _header(first, told or _DELIMITERS, is_header)
    taken: list[str] = []
    rows = csv.reader(_noting(lines, taken), delimiter=delimiter)
    while True:
        taken.clear()
        try:
            cells = next(rows, None)
        except csv.Error as error:
            log.error("a row of %s is passed over: %s", path, error)
            rows = csv.reader(_noting(lines, taken), delimiter=delimiter)
            continue
        if cells is None:
            return
        broken = len(taken) > 1 and len(cells) < len(header)  # a quote that is never closed took these lines
        split = csv.reader(taken, delimiter=delimiter, quoting=csv.QUOTE_NONE) if broken else [cells]
        for one in list(split):
            if any(cell.strip() for cell in one):
                yield dict(zip(header, one, strict=False))


def _noting(lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _header(line: str, delimiters: str, is_header: Callable[[Sequence[str]], bool]) -> tuple[list[str], str]:
    """(column names, delimiter): the delimiter that gives the columns looked for, else the one that gives most."""
    found = []
    for delimiter in delimiters:
        names = [name.strip().strip("\ufeff") for name in next(csv.reader([line], delimiter=delimiter), [])]
        found.append((is_header(names), len(names), -delimiters.index(delimiter), names, delimiter))
    *_, names, delimiter = max(found)
    return names, delimiter


def _json_rows(file: io.TextIOBase, path: Path) -> Iterator[Mapping[str, Any]]:
    """Of a JSON document the objects of its list; else of every line its object. Numbers stay as they were written."""
    start = file.read(1)
    while start and (start.isspace() or start == "\ufeff"):
        start = file.read(1)
    file.seek(0)
    if start == "[" or path.suffix.lower() == ".json":
        values = _document(file, path)
        if values is not None:
            yield from values
            return
        file.seek(0)
    passed_over = 0
    for line in _lines(file, path):
        line = line.strip().strip("\ufeff").rstrip(",")
        if line in ("", "[", "]"):
            continue
        try:
            value = json.loads(line.removeprefix("[") if line.startswith("[{") else line, **_AS_WRITTEN)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            yield {str(name).strip(): one for name, one in value.items()}
        else:
            passed_over += 1
    if passed_over:
        log.error("%d lines of %s are no JSON objects: passed over", passed_over, path)


_AS_WRITTEN: dict[str, Any] = {"parse_float": str, "parse_int": str}  # ids are text: 1e5 is not 100000.0


def _document(file: io.TextIOBase, path: Path) -> list[Mapping[str, Any]] | None:
    """The objects of one JSON document: of its list, or of the first list in it; None if it is no such document."""
    if os.path.getsize(path) > _MAX_DOCUMENT:
        log.error("%s has over %d bytes: read line by line", path, _MAX_DOCUMENT)
        return None
    try:
        value = json.load(file, **_AS_WRITTEN)
    except (ValueError, RecursionError) as error:
        log.warning("%s is no JSON document (%s): read line by line", path, one_line(error))
        return None
    if isinstance(value, dict):
        value = next((one for one in value.values() if isinstance(one, list)), [value])
    rows: list[Mapping[str, Any]] = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    return rows or None
