"""Scores by file name, such as those in weights/video/cross_validation.csv, as the report's three tables.

No dataset has to be built first: the id of a clip is its file name, and each column of scores becomes one operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from debug.labelled import KEY_COLUMNS, anonymise_sources, assign_splits, probe
from debug.ladders import CHAIN, FOUND
from debug.metric import SOLUTION_COLUMNS, MetricError, class_labels
from model.modality import GENERATED, MODALITIES
from model.training.clips import LabelledDataError, Record, load_records

# column -> operation: the plain name, or the two that the training writes
DEFAULT_COLUMNS = ({"score": FOUND}, {"score_clean": FOUND, "score_post": CHAIN})


def choose_columns(scores: pd.DataFrame, named: Sequence[str]) -> dict[str, str]:
    """column -> operation. named: `column=operation`, or `column` alone; the first set of defaults there if empty.

    Raises: MetricError: a column that the table lacks, or none of the defaults.
    """
    if named:
        columns = {column: operation or column for column, _, operation in (text.partition("=") for text in named)}
        absent = [column for column in columns if column not in scores]
        if absent:
            raise MetricError(f"column {absent[0]!r} is absent; the scores have {', '.join(scores.columns)}")
        return columns
    for default in DEFAULT_COLUMNS:
        if set(default) <= set(scores.columns):
            return default
    raise MetricError(f"name the columns of scores with --columns; there are {', '.join(scores.columns)}")


def load_clip_records(scores: pd.DataFrame, clips: Path | None) -> list[Record]:
    """What is known of each file: from the folder of labelled clips if one is given, else from the table itself.

    Raises: MetricError: no usable label or source, or files that the folder lacks.
    """
    if clips is not None:
        try:
            known = {record.file: record for record in load_records(clips)}
        except LabelledDataError as error:
            raise MetricError(str(error)) from error
        unknown = [file for file in scores["file"] if file not in known]
        if unknown:
            raise MetricError(f"{len(unknown)} files of the scores are not in {clips}, such as {unknown[0]!r}")
        return [known[file] for file in scores["file"]]
    absent = {"label", "source"} - set(scores.columns)
    if absent:
        raise MetricError(f"the scores lack the column {sorted(absent)[0]!r}; add it, or name the clips with --clips")
    class_labels(scores["label"])
    families = scores["family"] if "family" in scores else scores["source"]
    named = zip(scores["file"], scores["label"], scores["source"].astype(str), families.astype(str), strict=True)
    return [Record(Path(file), file, label, source, family) for file, label, source, family in named]


def tables_from_scores(
    scores: pd.DataFrame,
    columns: Mapping[str, str],
    *,
    clips: Path | None = None,
    public_share: float = 0.5,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Solution, submission and key; rows without a score were not measured and are left out.

    The ids of the first column's rows are the file names, as in a plain folder of clips; container numbers belong to
    these rows alone. With one column there is no operation.
    Raises: MetricError: columns or clips that do not fit, a file named twice, or no score at all.
    """
    if "file" not in scores:
        raise MetricError(f"column 'file' is absent; the scores have {', '.join(scores.columns)}")
    scores = scores.assign(file=scores["file"].astype(str))
    if scores["file"].duplicated().any():
        raise MetricError(f"file {scores['file'][scores['file'].duplicated()].iloc[0]!r} appears more than once")
    records = load_clip_records(scores, clips)
    genuine = class_labels(record.label for record in records)[1]
    modality = next(modality for modality in MODALITIES.values() if modality.genuine == genuine)
    names = anonymise_sources(records, seed=seed)
    splits = assign_splits(records, public_share=public_share, seed=seed)
    parts = []
    for number, (column, operation) in enumerate(columns.items()):
        part = pd.DataFrame(
            {
                "id": scores["file"] if number == 0 else scores["file"] + f"|{operation}",
                "file": scores["file"],
                "original": scores["file"],
                "label": [record.label for record in records],
                "source": [record.source for record in records],
                "family": [record.family for record in records],
                "anonymous": [names[record.label, record.source] for record in records],
                "split": [splits[record.label, record.source] for record in records],
                "score": pd.to_numeric(scores[column], errors="coerce").to_numpy(float),
            }
        )
        if len(columns) > 1:
            part = part.assign(operation=operation, severity=0)
        if number == 0 and clips is not None:
            probed = [{**probe(record.path, modality), "num_bytes": record.num_bytes} for record in records]
            part = part.join(pd.DataFrame(probed, index=part.index))
        parts.append(part[part["score"].notna()])
    rows = pd.concat(parts, ignore_index=True)
    if rows.empty:
        raise MetricError(f"no score in {', '.join(columns)}")
    solution = rows.assign(pred=rows["label"], source=rows["anonymous"])[list(SOLUTION_COLUMNS)]
    decided = np.where(rows["score"] > 0, GENERATED, genuine)
    submission = pd.DataFrame({"id": rows["id"], "pred": decided, "score": rows["score"]})
    return solution, submission, rows.reindex(columns=list(KEY_COLUMNS))
