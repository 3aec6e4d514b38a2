"""The report from scores by file name, and from awkward inputs: it holds, and says what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from debug.metric import MetricError, evaluate
from debug.report.__main__ import main
from debug.report.build import ReportParts, build_page
from debug.report.figures import roc_curve
from debug.report.rows import build_rows, order_operations
from debug.report.scores import choose_columns, tables_from_scores
from model.training.clips import load_records
from tests.clip_folder import make_clip_folder
from tests.debug.test_report import Outline, make_case

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip_folder(tmp_path_factory.mktemp("clips"), clips_per_source=2)


def out_of_fold(clips: Path) -> pd.DataFrame:
    """As the training writes them: right as found but for one clip, wrong after processing; one never scored."""
    records = load_records(clips)
    sign = np.array([1.0 if record.generated else -1.0 for record in records])
    table = pd.DataFrame(
        {
            "file": [record.file for record in records],
            "label": [record.label for record in records],
            "source": [record.source for record in records],
            "fold": 0,
            "score_clean": 2.0 * sign,
            "score_post": -1.0 * sign,
        }
    )
    table.loc[0, "score_clean"] *= -1
    table.loc[1, ["score_clean", "score_post"]] = np.nan
    return table


def test_scores_by_file_become_the_metrics_tables(clips: Path) -> None:
    table = out_of_fold(clips)
    solution, submission, key = tables_from_scores(table, choose_columns(table, []), seed=3)
    assert len(solution) == 2 * (len(table) - 1)  # what was not scored was not measured
    assert not any(source in set(solution["source"]) for source in table["source"])  # anonymous
    rows = build_rows(solution, submission, key)
    accuracy = rows.groupby("operation")["correct"].mean()
    assert accuracy["found"] == pytest.approx(1 - 1 / (len(table) - 1))
    assert accuracy["chain"] == 0
    only = tables_from_scores(table, choose_columns(table, ["score_clean"]))
    assert evaluate(only[0], only[1]).splits["private"].num_rows == len(table) - 1
    assert "operation" not in build_rows(*only)


def test_the_command_takes_scores_and_shows_the_clips(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_of_fold(clips).to_csv(tmp_path / "scores.csv", index=False)
    arguments = ["--scores", str(tmp_path / "scores.csv"), "--clips", str(clips), "--output", str(tmp_path / "r.html")]
    assert main(arguments) == 0
    assert "1 of 10 files have no score_post: left out" in capsys.readouterr().out
    outline = Outline((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "By operation: found " in outline.text
    assert "With --weights each shows its evidence." in outline.text
    # one clip as found is wrong, and only those are at hand: the two frames of its key frame
    assert sum(address.startswith("data:image/jpeg") for address in outline.addresses) == 2


def test_scores_that_do_not_fit_are_refused(clips: Path, tmp_path: Path) -> None:
    table = out_of_fold(clips)
    with pytest.raises(MetricError, match="column 'other' is absent; the scores have file, label"):
        choose_columns(table, ["other=found"])
    with pytest.raises(MetricError, match="name the columns of scores with --columns"):
        choose_columns(table[["file", "score_post"]], [])
    columns = {"score_clean": "found"}
    with pytest.raises(MetricError, match="appears more than once"):
        tables_from_scores(pd.concat([table, table.head(1)]), columns)
    with pytest.raises(MetricError, match="the scores lack the column 'label'"):
        tables_from_scores(table.drop(columns="label"), columns)
    with pytest.raises(MetricError, match="label 'fake'; expected generated and real or"):
        tables_from_scores(table.assign(label="fake"), columns)
    with pytest.raises(MetricError, match=r"1 files of the scores are not in .*, such as 'x\.mp4'"):
        tables_from_scores(table.head(1).assign(file="x.mp4"), columns, clips=clips)
    with pytest.raises(MetricError, match="no score in score_clean"):
        tables_from_scores(table.assign(score_clean=np.nan), columns)
    with pytest.raises(SystemExit):
        main(["solution.csv", "submission.csv", "--scores", "scores.csv"])


def only_real(solution: pd.DataFrame, submission: pd.DataFrame, key: pd.DataFrame) -> Tables:
    return solution[solution["pred"] == "real"], submission, key


def infinite(solution: pd.DataFrame, submission: pd.DataFrame, key: pd.DataFrame) -> Tables:
    submission = submission.copy()
    submission.loc[[3, 130, 4], "score"] = np.inf
    submission.loc[[5, 140, 141], "score"] = -np.inf
    return solution, submission, key


def no_answer(solution: pd.DataFrame, submission: pd.DataFrame, key: pd.DataFrame) -> Tables:
    return solution, submission.iloc[:0], key


def single_clips(solution: pd.DataFrame, submission: pd.DataFrame, key: pd.DataFrame) -> Tables:
    return solution.iloc[[1, 13, 130, 150]], submission.iloc[[1, 13, 130]], key


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (only_real, "Balanced accuracy needs both classes; there are no generated clips."),
        (infinite, "6 scores are infinite."),
        (no_answer, "240 clips are missing from the submission."),
        (single_clips, "1 of 4 clips have no score."),
    ],
)
def test_awkward_inputs_still_give_a_page(spoil: Callable[..., Tables], told: str) -> None:
    page = Outline(build_page(ReportParts(build_rows(*spoil(*make_case(confounded=True))), "awkward")))
    assert told in page.text
    assert "nan" not in page.text.lower().split()
    assert "Sources" in page.headings


def test_infinite_ties_move_together_on_the_curve() -> None:
    # all equal: the curve is the diagonal, whatever the order of the clips
    orders = ([1, 1, 0, 0], [0, 1, 0, 1])
    drawn = {roc_curve(np.full(4, np.inf), np.array(order, bool), 0.5, "real") for order in orders}
    finite = roc_curve(np.full(4, 1.0), np.array([1, 1, 0, 0], bool), 0.5, "real")
    assert drawn == {finite}


def test_what_is_compared_with_comes_first() -> None:
    assert order_operations(["vp9", "none", "blur", "found", "vp9"]) == ["found", "none", "blur", "vp9"]
