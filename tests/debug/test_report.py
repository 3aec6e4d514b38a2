"""The report: its numbers against plain ones, and the page opened in a real browser."""

from __future__ import annotations

import argparse
import base64
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from debug import labelled, metric
from debug.report import confounds
from debug.report.__main__ import count_known, main
from debug.report.build import ReportParts, build_page
from debug.report.rows import build_rows, derive_shortcuts, mean_over_sources, mean_table, submission_from_scores
from tests.clip_folder import make_clip_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip
OPERATIONS = ("blur", "h264", "noise")


def make_case(*, confounded: bool, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Solution, submission and key of 240 post-processed clips; real ones at 30 frames/s if confounded."""
    rng = np.random.default_rng(seed)
    solution, submission, key = [], [], []
    for label in ("generated", "real"):
        sign = 1 if label == "generated" else -1
        for source in range(10):
            shift = rng.normal(0, 1)
            for clip in range(12):
                clip_id, operation, severity = f"{label}{source}-{clip}", OPERATIONS[clip % 3], 1 + clip // 3 % 3
                score = sign * 1.5 + shift + rng.normal() - 0.3 * severity
                fps = (30.0 if label == "real" else 16.0) if confounded else float(rng.choice([16.0, 30.0]))
                split = "public" if source % 2 else "private"
                solution.append((clip_id, label, f"{label}-{source:02d}", split))
                submission.append((clip_id, "generated" if score > 0 else "real", score, 0.1 + 0.01 * clip))
                names = (f"clips/{clip_id}.mp4", label, f"camera <{source}>" if sign < 0 else f"gen{source}")
                numbers = (640, 360, fps, "", "", "h264", 20 / fps, int(rng.integers(100_000, 300_000)))
                key.append((clip_id, *names, f"f{source}", "", split, operation, severity, f"{clip_id}.mp4", *numbers))
    submission[0] = (submission[0][0], "real", math.nan, 0.2)  # one that fell back
    return (
        pd.DataFrame(solution, columns=["id", "pred", "source", "split"]),
        pd.DataFrame(submission, columns=["id", "pred", "score", "time"]),
        pd.DataFrame(key, columns=list(labelled.KEY_COLUMNS)),
    )


class Outline(HTMLParser):
    """What a browser or a screen reader would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.alternatives: list[str] = []
        self.addresses: list[str] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self._stack: list[str] = []
        self.feed(text)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "img":
            self.alternatives.append(named.get("alt") or "")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "meta", "link"):
            self._stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._stack.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self._stack and self._stack[-1] == "h2":
            self.headings.append(data)
        if "style" not in self._stack:
            self.words.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section but the strips."""
    folder = tmp_path_factory.mktemp("report")
    for name, frame in zip(("solution", "submission", "key"), make_case(confounded=True), strict=True):
        frame.to_csv(folder / f"{name}.csv", index=False)
    (folder / "run.json").write_text('{"rows": 5, "fallbacks": {"pyav: no frame can be decoded": 1}}')
    arguments = [str(folder / "solution.csv"), str(folder / "submission.csv"), "--key", str(folder / "key.csv")]
    assert main([*arguments, "--stats", str(folder / "run.json"), "--output", str(folder / "report.html")]) == 0
    return folder / "report.html"


def test_the_page_is_whole_and_asks_for_nothing(report: Path) -> None:
    outline = Outline(report.read_text(encoding="utf-8"))
    assert outline.headings == [
        "Summary", "Sources", "Post-processing", "Ranking, threshold, calibration", "Shortcuts",
        "Clips without a score, and time", "Terms",
    ]  # fmt: skip
    assert all(address.startswith(("data:", "#")) for address in outline.addresses)
    drawings = [address for address in outline.addresses if address.startswith("data:image/svg")]
    assert len(drawings) >= 12
    for drawing in drawings:
        source = base64.b64decode(drawing.split(",", 1)[1]).decode()
        assert not re.findall(r'(?:href|src)="(?!#|data:)[^"]+"|@import|url\((?!#)', source)
    assert all(len(text) > 30 for text in outline.alternatives)
    assert report.stat().st_size < 3_000_000


def test_the_page_says_what_the_metric_says(report: Path) -> None:
    text = Outline(report.read_text(encoding="utf-8")).text
    solution, submission, _ = make_case(confounded=True)
    measured = metric.evaluate(solution, submission)
    overall = measured.splits["private"]
    for value in (overall.balanced_accuracy, overall.roc_auc, overall.generated_accuracy, overall.genuine_accuracy):
        assert f"{value:.3f}" in text
    assert str(overall.intervals["balanced_accuracy"]) in text
    assert "This test set gives the label away." in text
    assert "pyav: no frame can be decoded" in text
    assert "camera <0>" in text  # names are escaped, not lost


def as_speech(tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> tuple[pd.DataFrame, ...]:
    """The same clips as sounds: another label, another rate instead of another frame rate."""
    solution, submission, key = (frame.replace({"real": "pristine"}) for frame in tables)
    rates = (key["fps"] * 1000).to_numpy()
    key = key.assign(width="", height="", fps="", sampling_rate=rates, channels=1)
    return solution, submission, key


def test_a_report_on_speech_has_its_own_words() -> None:
    rows = build_rows(*as_speech(make_case(confounded=True)))
    text = Outline(build_page(ReportParts(rows, "speech"))).text
    assert "Pristine kept" in text and "sampling rate (Hz)" in text
    assert "This test set gives the label away." in text
    assert not re.search(r"\breal\b", text)


def test_copies_of_a_clip_count_as_one() -> None:
    solution, submission, key = make_case(confounded=False)
    key["original"] = [clip_id.split("-")[0] + ".mp4" for clip_id in key["id"]]
    text = Outline(build_page(ReportParts(build_rows(solution, submission, key), "copies"))).text
    assert "240 copies of 20 clips of 20 sources." in text
    assert "below one half, by more than chance" not in text, "a source of one clip proves nothing"


def test_no_warning_rests_on_a_few_clips() -> None:
    """Before, one clip of each class, one of them wrong, gave headlines; five sources gave "1.000 to 1.000"."""
    whole = make_case(confounded=False)
    kept = [clip_id for clip_id in whole[0]["id"] if clip_id in ("generated0-1", "real0-1")]
    solution, submission, key = (frame[frame["id"].isin(kept)] for frame in whole)
    submission = submission.assign(pred="generated", score=1.0)
    text = Outline(build_page(ReportParts(build_rows(solution, submission, key), "few"))).text
    assert "Too few sources." in text and "too few sources for an interval" in text
    for headline in ("favours one class", "is lost at the threshold", "below one half", "1.000 to 1.000"):
        assert headline not in text


def test_clips_of_the_training_are_told(tmp_path: Path) -> None:
    rows = build_rows(*make_case(confounded=False))
    (tmp_path / "cross_validation.csv").write_text(
        "file,label,source\nclips/generated0-0.mp4,generated,gen0\nother/generated0-1.mp4,generated,else\n"
    )
    assert count_known(rows, tmp_path) == 1
    page = build_page(ReportParts(rows, "known", known_clips=1))
    assert "1 of these clips were in the training." in Outline(page).text


@pytest.mark.parametrize(
    ("value", "text"), [(1916.0, "1900"), (0.09224, "0.092"), (29.97, "30"), (0.0, "0"), (1.0, "1"), (2.5, "2.5")]
)
def test_edges_of_bands_are_rounded(value: float, text: str) -> None:
    assert confounds.Band(value, value, {}, {}).name == text


def test_operations_are_averaged_over_sources() -> None:
    rows = build_rows(*make_case(confounded=False))
    table = mean_table(rows, "operation", "severity")
    assert list(table.index) == list(OPERATIONS)
    part = rows[(rows["operation"] == "noise") & (rows["severity"] == 3)]
    by_hand = []
    for label in ("generated", "real"):
        sources = [part[(part["label"] == label) & (part["source"] == s)]["correct"] for s in part["source"].unique()]
        means = [values.mean() for values in sources if len(values)]
        by_hand.append(sum(means) / len(means))
    assert table.loc["noise", 3] == pytest.approx(sum(by_hand) / 2)
    assert math.isnan(mean_over_sources(rows[:0]))
    assert mean_table(rows, "operation", "severity", min_clips=1000).isna().all(axis=None)
    one_class = rows[(rows["label"] == "real") | (rows["severity"] > 1)]
    assert mean_table(one_class, "operation", "severity", both_classes=True)[1].isna().all()


def test_a_set_that_gives_the_label_away_is_told_from_one_that_does_not() -> None:
    (logistic, trees) = confounds.metadata_classifiers(build_rows(*make_case(confounded=True)))
    assert min(logistic.balanced_accuracy, trees.balanced_accuracy) > 0.99
    (logistic, trees) = confounds.metadata_classifiers(build_rows(*make_case(confounded=False)))
    assert max(logistic.balanced_accuracy, trees.balanced_accuracy) < 0.65
    few = build_rows(*make_case(confounded=True))
    assert confounds.metadata_classifiers(few[few["family"].isin(["f0", "f1"])]) == []


def test_bands_and_correlations() -> None:
    rows = build_rows(*make_case(confounded=False))
    bands = confounds.accuracy_bands(rows, "bitrate")
    assert sum(sum(band.num_clips.values()) for band in bands) == len(rows)
    assert [band.low for band in bands] == sorted(band.low for band in bands)
    assert 0.5 < confounds.matched_balanced_accuracy(bands) < 1
    followed = rows.assign(score=rows["bitrate"])
    correlations = confounds.score_correlations(followed)
    assert correlations["bitrate"].tolist() == pytest.approx([1.0, 1.0])
    assert abs(confounds.score_correlations(rows).loc["real", "bitrate"]) < 0.3


def test_shortcuts_from_container_numbers() -> None:
    told = {"width": [640.0, 640.0], "height": [360.0, 360.0], "fps": [25.0, np.nan], "duration_seconds": [2.0, 0.0]}
    told["num_bytes"] = [250_000.0, 1.0]
    columns = derive_shortcuts({name: np.array(values) for name, values in told.items()})
    assert columns["bitrate"][0] == pytest.approx(1.0)
    assert columns["bits_per_pixel"][0] == pytest.approx(2e6 / (640 * 360 * 50))
    assert math.isnan(columns["bitrate"][1])
    assert math.isnan(columns["bits_per_pixel"][1])


def test_out_of_fold_scores_by_file_name() -> None:
    solution, submission, key = make_case(confounded=False)
    scored = submission.merge(key, on="id")
    by_file = submission_from_scores(scored[["file", "score"]].iloc[5:], key).set_index("id")
    assert len(by_file) == len(solution) - 5
    pd.testing.assert_series_equal(by_file["score"], submission.set_index("id")["score"].iloc[5:], check_names=False)
    # or by the original clip and what was done to it
    steps = scored[["original", "operation", "severity", "score"]].rename(columns={"original": "file"})
    assert submission_from_scores(steps, key)["id"].tolist() == submission["id"].tolist()
    with pytest.raises(metric.MetricError, match=r"none of the 1 files with scores, such as 'x\.mp4'"):
        submission_from_scores(pd.DataFrame({"file": ["x.mp4"], "score": [1.0]}), key)


def test_anonymous_names_and_wrong_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solution, submission, key = make_case(confounded=False)
    assert set(build_rows(solution, submission, key, anonymous=True)["source"]) == set(solution["source"])
    assert set(build_rows(solution, submission, key)["source"]) == set(key["source"])
    with pytest.raises(metric.MetricError, match="belongs to another dataset"):
        build_rows(solution, submission, key.assign(id="other " + key["id"]))
    with pytest.raises(metric.MetricError, match="key: 239 ids appear more than once"):
        build_rows(solution, submission, key.assign(id="same"))
    assert main([str(tmp_path / "absent.csv"), str(tmp_path / "absent.csv")]) == 2
    assert "cannot be read as CSV" in capsys.readouterr().out


def test_strips_and_reasons_come_from_the_clips(tmp_path: Path) -> None:
    clips = make_clip_folder(tmp_path / "clips", clips_per_source=1)
    (clips / "real" / "phone" / "broken.mp4").write_bytes(b"not a video")
    rows = labelled.build_dataset(clips, tmp_path / "out")
    submission = pd.DataFrame(  # everything wrong
        {
            "id": [row.id for row in rows],
            "pred": ["real" if row.record.generated else "generated" for row in rows],
            "score": [-2.0 if row.record.generated else 2.0 for row in rows],
        }
    )
    submission.loc[[row.record.path.name == "broken.mp4" for row in rows], "score"] = math.nan
    submission.to_csv(tmp_path / "submission.csv", index=False)
    paths = argparse.Namespace(out=tmp_path / "out", page=tmp_path / "r.html")
    arguments = [str(paths.out / "solution.csv"), str(tmp_path / "submission.csv"), "--key", str(paths.out / "key.csv")]
    assert main([*arguments, "--dataset", str(paths.out / "dataset"), "--output", str(paths.page)]) == 0
    outline = Outline(paths.page.read_text(encoding="utf-8"))
    assert outline.headings[-3:-1] == [
        "Worst mistakes: generated clips taken for real", "Worst mistakes: real clips taken for generated",
    ]  # fmt: skip
    frames = [address for address in outline.addresses if address.startswith("data:image/jpeg")]
    assert len(frames) == 5 * 2  # five clips with one key frame each
    assert "not a readable video" in outline.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
@pytest.mark.parametrize(("width", "height"), [(1280, 1600), (390, 1600)])
def test_a_real_browser_shows_it_without_complaint(report: Path, tmp_path: Path, width: int, height: int) -> None:
    shot = tmp_path / "shot.png"
    command = [str(CHROMIUM), *CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
    result = subprocess.run(
        [*command, f"--window-size={width},{height}", f"--screenshot={shot}", report.as_uri()],
        capture_output=True,
        text=True,
    )
    assert "CONSOLE" not in result.stderr
    image = np.asarray(Image.open(shot).convert("RGB"))
    assert image.shape == (height, width, 3)
    # headline, boxes and bars are drawn: ink on every fifth of the page, and the classes' colours
    ink = (image.min(axis=2) < 128).reshape(5, -1).sum(axis=1)
    assert (ink > 100).all()
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (np.abs(image.astype(int) - colour).max(axis=2) < 12).sum() > 200
