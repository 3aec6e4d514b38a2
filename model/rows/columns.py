"""Which column holds the media and which the ids, and what stands in one cell of them.

The media column, the likeliest first; names count in the order of `Modality.column_names`:
1. of the type that `datasets` gives the modality, one with such a name before the others;
2. bytes with such a name; 3. bytes with such a word in the name (`input_video`, `videos`);
4. bytes with a name that any media could have (`content`, `data`); 5. text with such a name: names of files
(`video`, `video_path`); 6. a struct with bytes, whatever its name; 7. any other bytes.
From 4 on, what the first rows hold decides among several.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from ..modality import MODALITIES, Modality

log = logging.getLogger(__name__)

# Of ids, in this order; compared without capitals, spaces, `_` and `-`.
ID_NAMES = (
    "id", "key", "uuid", "guid", "videoid", "audioid", "clipid", "fileid", "mediaid", "sampleid", "exampleid",
    "itemid", "rowid", "uttid", "utteranceid",
)  # fmt: skip
SURE_IDS = ("id", "__key__", "uuid")  # also where some repeat; a near name that repeats tells of something else
NAME_COLUMNS = ("filename", "file", "name", "path", "filepath")  # of files; ids too
_ANY_MEDIA = ("media", "content", "data", "bytes", "blob", "file")
_OTHER_WORDS = frozenset(
    ("id", "ids", "thumbnail", "thumb", "cover", "preview", "poster", "image", "img", "frame", "frames", "mask",
     "caption", "label", "text", "embedding", "features", "duration", "size", "width", "height", "fps", "codec",
     "hash", "url")
)  # fmt: skip
_PATH_WORDS = frozenset(("path", "file", "name", "filename", "filepath"))
_OTHER_TYPES = frozenset({"Image", "Pdf", "Nifti", "Mesh", "ClassLabel"})
_DEPTH = 3  # of structs in structs that are looked into
_MAGIC = {
    "video": (rb"....ftyp(?!M4A)", rb"\x1aE\xdf\xa3", rb"RIFF....AVI ", rb"FLV", rb"\0\0\x01[\xba\xb3\xb0]", rb"GIF8",
              rb"G.{187}G", rb"....(moov|mdat|wide|free)", rb"0&\xb2u", rb"YUV4MPEG2", rb"OggS.{24}\x80theora"),
    "audio": (rb"RIFF....WAVE", rb"fLaC", rb"OggS", rb"ID3", rb"\xff[\xf1-\xff]", rb"....ftypM4A", rb"FORM....AIF",
              rb"\.snd", rb"caff", rb"#!AMR"),
}  # fmt: skip


@dataclass(frozen=True)
class MediaColumn:
    """path: names from the column down through structs. rank: how sure that is, 1 (surest) to 7, as above."""

    path: tuple[str, ...]
    modality: Modality
    rank: int


def find_media(
    schema: pa.Schema, modality: Modality | None, peek: Callable[[Sequence[str]], Sequence[Any]] = lambda path: ()
) -> MediaColumn | None:
    """The likeliest media column, of `modality` or of any; None: there is none.

    peek: the first values of a column. Example: {thumbnail: struct, video: struct}, no types -> video, rank 2.
    """
    modalities = [modality] if modality else list(MODALITIES.values())
    found: list[tuple[int, tuple[int, ...], MediaColumn]] = []
    for number, kind in enumerate(modalities):
        for position, (path, storage, noted) in enumerate(_fields(schema)):
            rank, order = _rank(path[-1], storage, noted, kind)
            if rank:
                found.append((rank, (number, order, position), MediaColumn(path, kind, rank)))
    if not found:
        return None
    best = min(rank for rank, _, _ in found)
    candidates = [one for one in found if one[0] == best or (best >= 4 and one[0] >= 4)]
    if best >= 4 and len(candidates) > 1:
        looks = {column: _looks(peek(column.path), column.modality) for _, _, column in candidates}
        candidates = [one for one in candidates if looks[one[2]] == max(looks.values())]
    chosen = min(candidates, key=lambda one: one[:2])[2]
    others = [".".join(column.path) for _, _, column in candidates if column.path != chosen.path]
    if others:
        log.info("several columns may hold the media: reading %r, not %s", ".".join(chosen.path), sorted(set(others)))
    return chosen


def _fields(schema: pa.Schema) -> Iterator[tuple[tuple[str, ...], pa.DataType, str]]:
    """(path, type, type that `datasets` noted or "") of every column, and of the fields of structs."""
    noted = _hub_types(schema)

    def walk(path: tuple[str, ...], storage: pa.DataType) -> Iterator[tuple[tuple[str, ...], pa.DataType, str]]:
        yield path, storage, noted.get(path, "")
        if pa.types.is_struct(storage) and len(path) < _DEPTH and not _struct_holds_media(storage):
            for field in storage:
                yield from walk((*path, field.name), field.type)

    for field in schema:
        yield from walk((field.name,), field.type)


def _rank(name: str, storage: pa.DataType, noted: str, kind: Modality) -> tuple[int, int]:
    """(rank, position of the name in the modality's list); rank 0: not of this modality."""
    words = re.findall("[a-z0-9]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower())
    whole = "_".join(words)
    names = kind.column_names
    order = next((names.index(one) for one in (whole, whole.removesuffix("s")) if one in names), len(names))
    named = order < len(names)
    other_type = noted in _OTHER_TYPES or noted in {one.column_type for one in MODALITIES.values()} - {kind.column_type}
    if noted == kind.column_type:
        return 1, order
    holds_bytes = _is_binary(_element(storage)) or _struct_holds_media(storage)
    if not (_is_text(storage) or holds_bytes) or (other_type and not named):
        return 0, 0
    if named and not _is_text(storage):
        return 3 if other_type else 2, order
    others = set(words) & _OTHER_WORDS or any(set(words) & {m.name} for m in MODALITIES.values() if m.name != kind.name)
    near = next((position for position, one in enumerate(names) if one in words or f"{one}s" in words), len(names))
    if _is_text(storage):
        return (5, near) if named or (near < len(names) and not others and set(words) & _PATH_WORDS) else (0, 0)
    if near < len(names) and not others:
        return 3, near
    if whole in _ANY_MEDIA:
        return 4, _ANY_MEDIA.index(whole)
    if _struct_holds_media(storage):
        return 6, 0
    return (0, 0) if others or plain_name(name) in ID_NAMES else (7, 0)


def _element(storage: pa.DataType) -> pa.DataType:
    """The type of what is stored: of a list's element, a dictionary's values, an extension's storage."""
    types = pa.types
    if isinstance(storage, pa.ExtensionType):
        return _element(storage.storage_type)
    if types.is_list(storage) or types.is_large_list(storage) or types.is_fixed_size_list(storage):
        return _element(storage.value_type)
    return _element(storage.value_type) if types.is_dictionary(storage) else storage


def is_text(schema: pa.Schema, path: Sequence[str]) -> bool:
    """Whether the column at `path` holds text: names of files."""
    return next((_is_text(storage) for one, storage, _ in _fields(schema) if one == tuple(path)), False)


def is_as_datasets_stores(schema: pa.Schema, column: str) -> bool:
    """Whether a column holds media as `datasets` does: {bytes, path}, bytes, or paths."""
    storage = schema.field(column).type
    if pa.types.is_struct(storage):
        return {"bytes"} <= {field.name for field in storage} <= {"bytes", "path"}
    return _is_binary(storage) or pa.types.is_string(storage)


def _is_binary(storage: pa.DataType) -> bool:
    types = pa.types
    plain = types.is_binary(storage) or types.is_large_binary(storage) or types.is_fixed_size_binary(storage)
    return plain or types.is_binary_view(storage)


def _is_text(storage: pa.DataType) -> bool:
    storage = _element(storage)
    return pa.types.is_string(storage) or pa.types.is_large_string(storage) or pa.types.is_string_view(storage)


def _struct_holds_media(storage: pa.DataType) -> bool:
    """{bytes, path}, or bytes among plain values under other names."""
    storage = _element(storage)
    if not pa.types.is_struct(storage):
        return False
    plain = not any(pa.types.is_nested(field.type) for field in storage)
    return storage.get_field_index("bytes") >= 0 or (plain and any(_is_binary(field.type) for field in storage))


def _hub_types(schema: pa.Schema) -> dict[tuple[str, ...], str]:
    """Path -> type, as `datasets` notes them in a schema's metadata; of a list, its elements'."""
    types: dict[tuple[str, ...], str] = {}

    def walk(path: tuple[str, ...], feature: Any) -> None:
        if isinstance(feature, list) and feature:
            walk(path, feature[0])
        elif isinstance(feature, dict) and isinstance(feature.get("_type"), str):
            inner = feature.get("feature")
            walk(path, inner) if inner is not None else types.__setitem__(path, feature["_type"])
        elif isinstance(feature, dict) and len(path) < _DEPTH:
            for name, one in feature.items():
                walk((*path, name), one)

    try:
        walk((), json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"])
    except (ValueError, KeyError, TypeError, RecursionError):  # no such note, or one of another shape
        return {}
    return types


def _looks(values: Sequence[Any], kind: Modality) -> int:
    """How many of the values are files of this kind, by their first bytes or by the suffix of their names."""
    seen = 0
    for value in values:
        content, name = content_and_name(value)
        by_name = bool(name) and PurePosixPath(str(name)).suffix.lower() in kind.suffixes
        head = bytes(content[:200]) if content else b""
        seen += by_name or any(re.match(magic, head, re.DOTALL) for magic in _MAGIC.get(kind.name, ()))
    return seen


def plain_name(name: str) -> str:
    """A column's name without capitals, spaces, `_`, `-` and marks around it."""
    return re.sub(r"[\s_\-\ufeff\"']", "", str(name)).lower()


def id_columns(names: Sequence[str]) -> list[str]:
    """The columns that may hold ids, the likeliest first: `ID_NAMES` in their order, then `NAME_COLUMNS`."""
    by_plain: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name not in SURE_IDS):  # as written before near names
        by_plain.setdefault(plain_name(name), name)
    return [by_plain[name] for name in (*ID_NAMES, *NAME_COLUMNS) if name in by_plain]


def id_text(value: Any) -> str | None:
    """An id as text; None if there is none.

    Example: 7 -> "7", b"a" -> "a", sixteen bytes that are no text -> as a UUID, "  " -> None.
    """
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, (bytes, bytearray, memoryview)):
        content = bytes(value)
        try:
            value = content.rstrip(b"\0").decode()  # of a fixed width, filled up
        except UnicodeDecodeError:
            value = str(uuid.UUID(bytes=content)) if len(content) == 16 else content.hex()
    if value is None or value != value:  # NaN, as pandas writes what is missing
        return None
    text = str(value)
    return text if text.strip() else None


def value_at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at the end of a path through nested mappings; None where it breaks off."""
    value: Any = values
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def content_and_name(value: Any) -> tuple[bytes | None, str | None]:
    """(the file's bytes, the file's name) of one cell: bytes, a name, {bytes, path}, or a list of one of these."""
    if isinstance(value, (list, tuple)):
        found = (content_and_name(one) for one in value)
        return next((one for one in found if any(one)), (None, None))
    if isinstance(value, Mapping):
        contents = [value.get("bytes"), *value.values()]
        names = [value.get("path"), *(one for key, one in value.items() if set(key.lower().split("_")) & _PATH_WORDS)]
        content = next((bytes(one) for one in contents if isinstance(one, (bytes, bytearray)) and one), None)
        return content, next((one for one in names if isinstance(one, str) and one), None)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value) or None, None
    return None, value if isinstance(value, str) and value else None
