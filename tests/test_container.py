"""The Dockerfile for scoring: it cannot be built here, so what it copies is laid out and what it starts is started."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.clip_folder import make_clip_folder


def test_what_the_container_holds_scores_a_folder(repository: Path, tmp_path: Path) -> None:
    text = (repository / "debug" / "Dockerfile.scoring").read_text(encoding="utf-8")
    image, results = tmp_path / "image", tmp_path / "results"
    for source, target in re.findall(r"^COPY (\S+) (/\S+)$", text, flags=re.MULTILINE):
        place = image / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (repository / source).is_dir() else shutil.copy2
        copy(repository / source, place)
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", text, flags=re.MULTILINE)
    program, script = json.loads(entry)
    assert program == "python"
    assert "pip install --no-cache-dir -r /opt/requirements.txt" in text and (image / "opt/requirements.txt").is_file()
    data = make_clip_folder(tmp_path / "data", clips_per_source=1)
    results.mkdir()
    arguments = ["--dataset", str(data), "--output", str(results / "scores.csv"), "--device", "cpu"]
    command = [sys.executable, str(image / script.lstrip("/")), *arguments]
    done = subprocess.run(command, cwd=results, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (results / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and all(row["score"] for row in rows)


def test_the_context_leaves_out_what_is_not_copied(repository: Path) -> None:
    ignored = (repository / ".dockerignore").read_text().split()
    copied = re.findall(r"^COPY (\S+)", (repository / "debug" / "Dockerfile.scoring").read_text(), flags=re.MULTILINE)
    assert {".git", ".venv*", ".cache"} <= set(ignored)
    assert not set(ignored) & set(copied)
