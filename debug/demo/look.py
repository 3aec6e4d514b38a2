"""One file -> what the page shows of it: the verdict as script.py gives it, and the page of `script.py --html`."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from debug import markup
from debug.inspect_files import inspect
from debug.words import explain_score
from model.modality import Modality
from model.run.files import FileDetector
from model.run.isolated import TOO_LONG
from model.run.words import looked_at, sound_line, verdict_json
from model.verdict import INCONCLUSIVE, Verdict

_REACH = 6.0  # of the scale that is drawn: one side 400 times as likely


class Looker:
    """Both detectors, each loaded at its first file. Any thread may call."""

    def __init__(self, *, device: str | None = None, max_seconds: float) -> None:
        """max_seconds: on the clock, for a file's verdict and page. Raises: DeviceError: there is no such device."""
        self._files = FileDetector(device=device, sound=True)
        self._max_seconds = max_seconds

    def load(self, modality: Modality) -> None:
        """Now, not at its first file. Raises: WeightsError."""
        self._files.detector_of(f"a{min(modality.suffixes)}")

    def deadline(self) -> float:
        """Of a file that is looked at from now on; on time.monotonic()."""
        return time.monotonic() + self._max_seconds

    def score(self, file: Path, deadline: float) -> Verdict:
        """A file that cannot be used gets a verdict without a score."""
        verdict = self._files.score(file, deadline=deadline)
        return replace(verdict, note=self.too_long) if verdict.note == TOO_LONG else verdict

    @property
    def too_long(self) -> str:
        """What to say of a file for which the time was too short."""
        return (
            f"looking at it took more than {self._max_seconds:g} s, the limit for one file; try a shorter or smaller"
            " one, or start the page with a larger --max-seconds"
        )

    def modality_of(self, file: Path) -> Modality:
        return self._files.modality_of(file)

    def write_json(self, file: Path, verdict: Verdict, folder: Path) -> Path:
        """As `script.py FILE --json` prints it."""
        path = folder / f"{file.name}.json"
        told = verdict_json(file.name, verdict, self.modality_of(file))
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        return path

    def write_page(self, file: Path, folder: Path, deadline: float) -> Path | None:
        """As `script.py FILE --html` writes it; None: time was too short."""
        path = folder / f"{file.name}.html"
        (seen,) = inspect([file], self._files.detector_of(file), page=path, sound=True, deadline=deadline)
        return path if seen.note != TOO_LONG else None

    def close(self) -> None:
        self._files.close()


def verdict_part(name: str, verdict: Verdict, modality: Modality) -> str:
    """HTML: the verdict in words, and where the score lies on a scale with its inconclusive band."""
    if verdict.score is None:
        title = f'<p class="verdict none">no score</p><p>{markup.escape(name)}: {markup.escape(verdict.note)}</p>'
        return f'<section aria-label="Verdict" class="looked">{title}</section>'
    chance = f"{100 * (verdict.probability() or 0):.0f}%"
    kind = "band" if verdict.in_words.startswith("inconclusive") else verdict.label
    lines = [
        f'<p class="verdict {kind}">{markup.escape(verdict.in_words)}</p>',
        f"<p><b>{markup.escape(name)}</b>: score {verdict.score:+.2f}, {chance} generated if half of all files are."
        f" {markup.escape(explain_score(verdict.score, modality.genuine))}</p>",
        _scale(verdict.score, modality.genuine),
        f"<p>{markup.escape(looked_at(verdict, modality))}; {verdict.seconds:.1f} s of work."
        f" {markup.escape(verdict.note)}</p>",
    ]
    if verdict.sound is not None:
        lines.append(f"<p>{markup.escape(sound_line(verdict, verdict.sound).strip())}</p>")
    return f'<section aria-label="Verdict" class="looked">{"".join(lines)}</section>'


def _scale(score: float, genuine: str) -> str:
    """A line from one label to the other, the band in which neither is three times as likely, and the score."""

    def place(value: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, value / _REACH))

    low, high = place(-INCONCLUSIVE), place(INCONCLUSIVE)
    words = (
        f"Scale: {genuine} on the left, generated on the right, inconclusive between -1.1 and 1.1; score {score:+.2f}"
    )
    return (
        f'<div class="scale" role="img" aria-label="{markup.escape(words)}"><div class="line">'
        f'<i class="middle" style="left: {low:.1f}%; width: {high - low:.1f}%"></i>'
        f'<i class="mark" style="left: {place(score):.1f}%"></i></div>'
        f"<div class=ends><span>{genuine}</span><span>inconclusive</span><span>generated</span></div></div>"
    )


def framed(page: Path) -> str:
    """The page in a frame that runs no script and grows to its height."""
    grow = "this.style.height = this.contentDocument.documentElement.scrollHeight + 40 + 'px'"
    content = markup.escape(page.read_text(encoding="utf-8"))
    return (
        f'<iframe title="The evidence" class="evidence" sandbox="allow-same-origin" onload="{grow}"'
        f' srcdoc="{content}"></iframe>'
    )
