"""One HTML page about a submission: where it fails, and whether the test set can be trusted.

python -m debug.report solution.csv submission.csv --key key.csv --dataset DATASET --weights weights
python -m debug.report --scores weights/video/cross_validation.csv --clips CLIPS
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from debug.metric import MetricError, class_labels, load_csv
from debug.report.build import ReportParts, build_page
from debug.report.rows import build_rows, submission_from_scores
from debug.report.scores import choose_columns, tables_from_scores
from model.atomic import replace_file
from model.modality import MODALITIES
from model.rows.dataset import DatasetError
from model.weights import WeightsError


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m debug.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("solution", type=Path, nargs="?", help="solution.csv (debug.labelled makes it)")
    parser.add_argument("submission", type=Path, nargs="?", help="submission.csv, or with --key a CSV of file,score")
    parser.add_argument("--scores", type=Path, metavar="CSV", help="instead of both: file, scores, and label, source")
    parser.add_argument("--columns", nargs="+", default=[], metavar="COLUMN[=OPERATION]",
                        help="of --scores; default: score, else score_clean=found score_post=chain")  # fmt: skip
    parser.add_argument(
        "--clips", type=Path, help="for --scores: the labelled clips; gives container numbers and frames"
    )
    parser.add_argument("--key", type=Path, help="key.csv: real names, families, operations, container numbers")
    parser.add_argument("--dataset", type=Path, help="the dataset: shows frames of the worst mistakes")
    parser.add_argument("--weights", type=Path, help="weights folder: shows the evidence of each frame")
    parser.add_argument("--device", default="cpu", help="for --weights (default: cpu)")
    parser.add_argument("--stats", type=Path, help="what script.py --stats wrote: reasons of fallbacks")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="default: report.html")
    parser.add_argument("--title", default="VideoDetector report")
    parser.add_argument("--anonymous", action="store_true", help="keep the solution's anonymised source names")
    parser.add_argument("--mistakes", type=int, default=6, help="strips per class (default: 6)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if (options.scores is None) == (options.submission is None):
        parser.error("give a solution and a submission, or --scores")
    return options


def load_rows(options: argparse.Namespace) -> pd.DataFrame:
    """Join what the options name. Raises: MetricError."""
    if options.scores:
        scores = load_csv(options.scores)
        columns = choose_columns(scores, options.columns)
        tables = tables_from_scores(scores, columns, clips=options.clips, seed=options.seed)
        for column in columns:
            if absent := int(pd.to_numeric(scores[column], errors="coerce").isna().sum()):
                print(f"{absent} of {len(scores)} files have no {column}: left out")
        return build_rows(*tables, anonymous=options.anonymous)
    key = load_csv(options.key) if options.key else None
    submission = load_csv(options.submission)
    if "id" not in submission and "file" in submission:
        if key is None:
            raise MetricError("scores by file need --key")
        submission = submission_from_scores(submission, key)
    return build_rows(load_csv(options.solution), submission, key, anonymous=options.anonymous)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        rows = load_rows(options)
        parts = collect_parts(rows, options)
    except (MetricError, DatasetError, WeightsError, OSError) as error:
        print(f"error: {error}")
        return 2
    replace_file(options.output, build_page(parts).encode())
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.1f} MB)")
    return 0


def collect_parts(rows: pd.DataFrame, options: argparse.Namespace) -> ReportParts:
    """Fetch what needs the clips themselves. Raises: MetricError, DatasetError, WeightsError."""
    mistakes, fallbacks = {}, {}
    dataset, candidates = options.dataset, rows
    if options.scores and options.clips:
        # the clips' ids there are their paths; what was done for the other columns of scores is not at hand
        dataset, candidates = options.clips, rows[rows["id"] == rows["file"]]
    if dataset:
        # torch and the decoders are needed for the frames only
        from debug.report import shows

        labels = class_labels(rows["label"])
        worst = {label: shows.worst_mistakes(candidates, label, count=options.mistakes) for label in labels}
        lost = rows[rows["score"].isna()]
        modality = next(modality for modality in MODALITIES.values() if modality.genuine == labels[1])
        show = shows.build_show(modality, options.weights, options.device)
        wanted = {*lost["id"], *pd.concat(worst.values())["id"]}
        if options.scores:
            media = {clip_id: str(dataset / clip_id) for clip_id in wanted if (dataset / clip_id).is_file()}
        else:
            media = shows.load_media(dataset, wanted, modality)
        mistakes = {label: shows.mistake_section(worst[label], media, show) for label in labels}
        fallbacks = shows.fallback_reasons(lost, media, show)
    reasons = load_reasons(options.stats) if options.stats else {}
    told = f"Scores {options.scores}" if options.scores else f"Solution {options.solution}, {options.submission}"
    footer = f"{told}; seed {options.seed}."
    known = count_known(rows, options.weights) if options.weights and not options.scores else 0
    return ReportParts(rows, options.title, mistakes, fallbacks, reasons, footer, known, options.seed)


def load_reasons(path: Path) -> dict[str, int]:
    """Reason -> rows that got no score for it. Raises: MetricError: not a file of `script.py --stats`."""
    try:
        reasons = json.loads(path.read_text(encoding="utf-8"))["fallbacks"]
        return {str(reason): int(rows) for reason, rows in reasons.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MetricError(f"{path} is not what script.py --stats writes: {error!r}") from error


def count_known(rows: pd.DataFrame, weights: Path) -> int:
    """How many clips bear the file name and the source of one that the weights learnt from."""
    table = weights / "cross_validation.csv"
    if not table.is_file():
        return 0
    learnt = load_csv(table)
    pairs = {(Path(file).name, source) for file, source in zip(learnt["file"], learnt["source"], strict=True)}
    clips = rows.drop_duplicates("original")
    return sum((Path(row.original).name, row.source) in pairs for row in clips.itertuples())


if __name__ == "__main__":
    raise SystemExit(main())
