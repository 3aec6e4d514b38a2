"""The tools on sound files: labelled, post-processed, shown. The detector is a stand-in whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Audio, load_dataset

from debug import benchmark_speech, inspect_files, labelled, postprocess
from debug.audio_page import envelope, sound_section, spectrogram, study_sound
from debug.ladders import load_ladder
from debug.report.__main__ import main as report
from debug.whole import WholePreparation, unpack
from model.audio.prepare import AudioPreparation
from model.audio.reading import Sound
from model.audio.views import WINDOWS, ViewConfig, split_windows
from model.modality import AUDIO
from tests.sound_folder import SOURCES, make_sound_folder

RATE = 16_000


class Loudness:
    """Stands in for the detector: loud windows are generated."""

    view_config = ViewConfig(window_samples=RATE)
    views_per_clip, device = 1, torch.device("cpu")

    def split(self, content: np.ndarray) -> dict[str, np.ndarray]:
        return {WINDOWS: split_windows(content, self.view_config)}

    def clip_features(self, content: np.ndarray) -> dict[str, np.ndarray]:
        return {kind: self.features(torch.from_numpy(part), kind).numpy() for kind, part in self.split(content).items()}

    def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        return (views.float() / 32768).square().sqrt().mean(dim=1, keepdim=True)

    def score(self, features: Mapping[str, np.ndarray]) -> float:
        return float(features[WINDOWS].mean() - 0.02)

    def view_scores(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {WINDOWS: features[WINDOWS][:, 0] - 0.02}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sound_folder(tmp_path_factory.mktemp("sounds"))


def test_labelled_sounds_become_a_dataset_in_the_challenges_shape(sounds: Path, tmp_path: Path) -> None:
    labelled.build_dataset(sounds, tmp_path)
    data = load_dataset(str(tmp_path / "dataset"), split="test", streaming=True)
    assert isinstance(data.features["audio"], Audio)
    rows = {row["id"]: row["audio"]["bytes"] for row in data.cast_column("audio", Audio(decode=False))}
    key = pd.read_csv(tmp_path / "key.csv")
    assert rows == {row.id: (sounds / row.file).read_bytes() for row in key.itertuples()}
    assert set(key["label"]) == {"pristine", "generated"}
    assert (key["duration_seconds"] - 1.0).abs().max() < 0.1
    assert key.set_index("source").loc["library", "sampling_rate"] == 16_000


def test_every_operation_makes_a_sound_that_differs(sounds: Path, tmp_path: Path) -> None:
    assert postprocess.main([str(sounds), str(tmp_path), "--limit", "2", "--severities", "2", "--workers", "2"]) == 0
    manifest = pd.read_csv(tmp_path / "manifest.csv")
    assert set(manifest["operation"]) == set(load_ladder(AUDIO).operations)
    assert manifest.groupby("operation")["label"].nunique().eq(2).all(), "both classes alike"
    read = AudioPreparation().read
    for label, rows in manifest.groupby("label"):
        plain = read(str(tmp_path / rows.set_index("operation").loc["none", "file"])).samples
        for row in rows.itertuples():
            samples = read(str(tmp_path / row.file)).samples
            assert len(samples) > RATE // 2 and np.abs(samples).max() > 0.01, (label, row.operation)
            same = len(samples) == len(plain) and np.allclose(samples, plain, atol=1e-3)
            assert same == (row.operation in ("none", "found")) or row.operation == "found", row.operation


def test_the_page_shows_where_in_time_the_score_lies() -> None:
    from debug.voices import VOICES, speak
    from model.audio.reading import Sound

    quiet_then_loud = np.concatenate([0.3 * speak(VOICES[0], 2.0, RATE, 1), speak(VOICES[0], 2.0, RATE, 2)])
    look = study_sound(Sound(quiet_then_loud, RATE, len(quiet_then_loud), 4.0), Loudness())  # type: ignore[arg-type]
    assert look.starts.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert look.scores[:2].max() < look.scores[2:].min()
    section = "".join(sound_section(look, "pristine", "generated"))
    assert "4 windows of 1 s" in section and "blue for pristine" in section and 'alt="Waveform' in section


def test_a_spectrogram_shows_a_tone_where_it_is() -> None:
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    levels = spectrogram(tone)
    assert levels.max() == pytest.approx(0.0)
    assert levels.shape[0] == 257 and (levels.argmax(axis=0) == 32).all(), "1 kHz is bin 32 of 31.25 Hz"
    assert spectrogram(np.zeros(10, np.float32)).shape == (257, 1)
    low, high = envelope(tone, 10)
    assert low == pytest.approx(-1, abs=0.01) and high == pytest.approx(1, abs=0.01)


def test_samples_pass_through_the_worker_unchanged(sounds: Path) -> None:
    preparation = AudioPreparation()
    for file in sorted(sounds.rglob("*.*")):
        packed = WholePreparation(preparation)(str(file))
        assert len(packed.content) <= WholePreparation(preparation).max_bytes
        sound, expected = unpack(packed.content, Sound), preparation.read(str(file))
        np.testing.assert_array_equal(sound.samples, expected.samples)
        assert (sound.rate, sound.num_read, sound.note) == (expected.rate, expected.num_read, expected.note)


def test_a_page_on_sounds(sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Heard(Loudness):
        class manifest:  # what the page tells of the weights
            modality, file, sha256, path = "audio", "detector.bin", "0ef9", tmp_path / "manifest.json"

    (tmp_path / "detector.bin").write_bytes(b"")
    (tmp_path / "broken.mp3").write_bytes(b"no sound")
    files = [*sorted(sounds.rglob("*.*"))[:2], tmp_path / "broken.mp3"]
    verdicts = inspect_files.inspect(files, Heard(), page=tmp_path / "page.html")  # type: ignore[arg-type]
    assert [verdict.label for verdict in verdicts[:2]] == [
        "generated" if (verdict.score or 0) > 0 else "pristine" for verdict in verdicts[:2]
    ]
    assert verdicts[2].score is None
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "A look at 3 sounds" in text and text.count('alt="Waveform') == 2
    assert "SHA-256 0ef9" in text and "real" not in capsys.readouterr().out


def test_the_benchmark_measures_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that takes no time, everything end to end is slower than the network, and no clip is lost."""
    monkeypatch.setattr(benchmark_speech, "_MIN_ROWS", 8)
    clips = benchmark_speech.make_clips(4, seconds=1.0)
    assert len({bytes(clip[:4]) for clip in clips}) == 4, "four formats"
    preparation = AudioPreparation(views=Loudness.view_config)
    loud = Loudness()
    measured = benchmark_speech.measure(
        clips, lambda windows: loud.features(windows, WINDOWS), {"exact": loud}, preparation, 1, tmp_path / "0"
    )
    assert 0 < measured.end_to_end["exact"] < measured.network["exact"]
    assert measured.naive > 0 and measured.decoding > 0
    assert "| end to end over naive (ratio), exact |" in benchmark_speech.describe([measured])
    assert benchmark_speech.main([str(tmp_path / "empty")]) == 1


def test_a_report_shows_spectrograms_of_the_worst(sounds: Path, tmp_path: Path) -> None:
    broken = tmp_path / "clips"
    make_sound_folder(broken)
    (broken / "pristine" / "radio" / "broken.mp3").write_bytes(b"no sound")
    rows = labelled.build_dataset(broken, tmp_path / "set")
    submission = pd.DataFrame({"id": [row.id for row in rows], "time": 0.1})  # everything wrong
    submission["pred"] = ["pristine" if row.record.generated else "generated" for row in rows]
    submission["score"] = [-2.0 if row.record.generated else 2.0 for row in rows]
    submission.loc[[row.record.path.name == "broken.mp3" for row in rows], "score"] = np.nan
    submission.to_csv(tmp_path / "submission.csv", index=False)
    files = [str(tmp_path / "set" / "solution.csv"), str(tmp_path / "submission.csv")]
    options = ["--key", str(tmp_path / "set" / "key.csv"), "--dataset", str(tmp_path / "set" / "dataset")]
    assert report([*files, *options, "--output", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count('alt="Spectrogram of 1.0 s."') == sum(map(len, SOURCES.values()))
    assert "Worst mistakes: pristine clips taken for generated" in text
    assert "InvalidDataError" in text
