"""What can be checked of a submission.csv without knowing the detector. Standard library only."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

# Modality -> the columns that its challenge allows, and its label that is not "generated". As in model.modality, which
# needs NumPy.
COLUMNS = {
    "video": (["id", "pred", "score"], ["id", "pred", "score", "time"]),
    "audio": (["id", "pred", "score", "time"],),
}
GENUINE = {"video": "real", "audio": "pristine"}
BROKEN = "broken"  # the source of clips in the debug dataset that nothing can read
_MAX_NAMED = 5


@dataclass(frozen=True)
class Check:
    passed: bool
    text: str


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def find_modality(solution: list[dict[str, str]]) -> str:
    """`audio` if a solution has the label of that challenge, else `video`."""
    return "audio" if any(row["pred"] == GENUINE["audio"] for row in solution) else "video"


def check_result(submission: Path, solution: list[dict[str, str]] | None, modality: str = "video") -> list[Check]:
    """Columns, cells, ids against the solution, rows that fell back: broken clips must, and no others may."""
    rows = read_rows(submission)
    columns = list(rows[0]) if rows else []
    checks = [Check(columns in COLUMNS[modality], f"columns: {','.join(columns) or 'no rows'}")]
    if not checks[0].passed:
        return checks
    odd = [row["id"] for row in rows if not is_valid(row, (GENUINE[modality],))]
    checks.append(
        Check(not odd, _list("rows with a valid pred, and a score whose sign agrees or none", len(rows), odd))
    )
    repeated = [clip for clip, count in Counter(row["id"] for row in rows).items() if count > 1]
    checks.append(Check(not repeated, _list("ids, each once", len(rows) - len(repeated), repeated)))
    unscored = sorted(row["id"] for row in rows if not row["score"])
    if solution is None:
        checks.append(Check(True, f"{len(unscored)} of {len(rows)} rows fell back {_named(unscored)}".rstrip()))
        return checks
    given, expected = {row["id"] for row in rows}, {row["id"] for row in solution}
    wrong = sorted(given ^ expected)
    checks.append(Check(not wrong, _list("ids of the solution, all in the file and no other", len(expected), wrong)))
    broken = sorted(row["id"] for row in solution if row["source"] == BROKEN)
    if broken:
        missed = sorted(set(broken) - set(unscored))
        checks.append(Check(not missed, _list(f"broken clips fell back {_named(broken)}", len(broken), missed)))
    others = sorted(set(unscored) - set(broken))
    num_scored = len(rows) - len(unscored)
    checks.append(Check(not others, _list("rows have a score", num_scored, others)))
    return checks


def is_valid(row: dict[str, str], genuine: Collection[str]) -> bool:
    """A label, and a score whose sign agrees or none. genuine: labels that are not "generated"."""
    if row["pred"] not in ("generated", *genuine):
        return False
    if not row["score"]:
        return True
    try:
        score = float(row["score"])
    except ValueError:
        return False
    return math.isfinite(score) and (row["pred"] == "generated") == (score > 0)


def _list(what: str, count: int, exceptions: list[str]) -> str:
    return f"{count} {what}" + (f"; not so: {len(exceptions)} {_named(exceptions)}" if exceptions else "")


def _named(clips: list[str]) -> str:
    more = f", {len(clips) - _MAX_NAMED} more" if len(clips) > _MAX_NAMED else ""
    return f"({', '.join(clips[:_MAX_NAMED])}{more})" if clips else ""
