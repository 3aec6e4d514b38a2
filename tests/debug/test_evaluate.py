"""debug.evaluate: the five steps on small repositories that behave well, badly, and not at all."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from debug import check_submission, environment, evaluate
from debug.check_submission import check_result
from debug.environment import BuildError, get_interpreter, get_pyseccomp
from model.modality import MODALITIES

SOLUTION = "id,pred,source,split\na,generated,g1,public\nb,generated,g2,private\nc,real,r1,public\nd,real,r2,private\n"
HEADER = "id,pred,score\n"
GOOD = HEADER + "a,generated,2.5\nb,generated,0.5\nc,real,-1.0\nd,real,0.0\n"


def write_file(text: str) -> str:
    """The source of a script.py that writes `text` as its result."""
    return f"open('submission.csv', 'w').write({text!r})\n"


@pytest.fixture()
def small_repository(tmp_path: Path) -> Path:
    """Under git: requirements.txt and a script.py that writes a good file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "requirements.txt").write_text("# nothing\n")
    (folder / "script.py").write_text(write_file(GOOD))
    _git(folder, "init", "--quiet")
    commit(folder)
    return folder


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def commit(folder: Path, script: str | None = None) -> None:
    if script is not None:
        (folder / "script.py").write_text(script)
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "change")


@pytest.fixture()
def run(small_repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Evaluate the small repository in the running interpreter; returns (exit code, standard output and error)."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "solution.csv").write_text(SOLUTION)

    def run_evaluation(*arguments: str, script: str | None = None, with_solution: bool = True) -> tuple[int, str]:
        if script is not None:
            commit(small_repository, script)
        options = ["--environment", "current", "--repository", str(small_repository), "--place", "variable"]
        options += ["--data-dir", str(data), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
        if with_solution:
            options += ["--solution", str(tmp_path / "solution.csv")]
        code = evaluate.main([*options, *arguments])
        output = capfd.readouterr()
        return code, output.out + output.err

    return run_evaluation


def test_a_good_run_passes_and_shows_the_table(run, tmp_path: Path) -> None:
    code, output = run()
    assert code == 0, output
    for number in range(1, 6):
        assert f"[{number}/5]" in output
    table = (tmp_path / "out" / "metrics.txt").read_text()
    assert table in output
    assert "balanced accuracy" in table and "1.0000" in table
    for source in ("generated/g1", "generated/g2", "real/r1", "real/r2"):
        assert source in table
    assert "ok    4 ids of the solution, all in the file and no other" in output
    assert "ok    4 rows have a score" in output
    assert "passed:" in output


def test_the_metric_is_computed_against_the_solution(run, tmp_path: Path) -> None:
    """b is called real and d generated: one of two sources right in each class."""
    code, output = run(script=write_file(HEADER + "a,generated,2\nb,real,-1\nc,real,-1\nd,generated,1\n"))
    assert code == 0, "a wrong answer is no failure of the run"
    (line,) = [line for line in output.splitlines() if line.startswith("balanced accuracy")]
    assert "0.5000" in line and "1.0000" in line  # private (all rows) 0.5, public 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("d,real,0.0\n", ""), "4 ids of the solution, all in the file and no other; not so: 1 (d)"),
        (GOOD + "e,real,-1\n", "not so: 1 (e)"),
        (GOOD + "a,generated,2.5\n", "ids, each once; not so: 1 (a)"),
        (GOOD.replace("c,real,-1.0", "c,fake,-1.0"), "a score whose sign agrees or none; not so: 1 (c)"),
        (GOOD.replace("c,real,-1.0", "c,real,1.0"), "a score whose sign agrees or none; not so: 1 (c)"),
        (GOOD.replace("c,real,-1.0", "c,real,nan"), "a score whose sign agrees or none; not so: 1 (c)"),
        (GOOD.replace("c,real,-1.0", "c,real,high"), "a score whose sign agrees or none; not so: 1 (c)"),
        (GOOD.replace("c,real,-1.0", "c,real,"), "3 rows have a score; not so: 1 (c)"),
        (GOOD.replace("score", "logit"), "columns: id,pred,logit"),
    ],
)
def test_a_faulty_file_fails(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "submission.csv").write_text(text)
    (tmp_path / "solution.csv").write_text(SOLUTION)
    checks = check_result(tmp_path / "submission.csv", evaluate.read_rows(tmp_path / "solution.csv"))
    failed = [check.text for check in checks if not check.passed]
    assert len(failed) == 1
    assert message in failed[0]


def test_broken_clips_must_fall_back(tmp_path: Path) -> None:
    (tmp_path / "solution.csv").write_text(SOLUTION + "x,real,broken,public\ny,real,broken,public\n")
    solution = evaluate.read_rows(tmp_path / "solution.csv")
    (tmp_path / "submission.csv").write_text(GOOD + "x,real,\ny,generated,\n")
    checks = check_result(tmp_path / "submission.csv", solution)
    assert all(check.passed for check in checks)
    assert any("broken clips fell back (x, y)" in check.text for check in checks)
    (tmp_path / "submission.csv").write_text(GOOD + "x,real,\ny,generated,3\n")
    (failed,) = [check for check in check_result(tmp_path / "submission.csv", solution) if not check.passed]
    assert failed.text.endswith("not so: 1 (y)")


def test_a_failing_script_is_scored_and_fails(run) -> None:
    code, output = run(script=write_file(GOOD) + "raise SystemExit(7)\n")
    assert code == 1
    assert "FAIL  script.py: exit code 7" in output
    assert "balanced accuracy" in output


def test_the_time_limit_kills_and_the_partial_file_counts(run) -> None:
    script = write_file(GOOD.replace("d,real,0.0", "d,real,")) + (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"
    )
    limit = 2
    code, output = run("--time-limit", str(limit), script=script)
    while "left no submission.csv" in output:  # the time limit is to come after the file
        limit *= 2
        code, output = run("--time-limit", str(limit))
    assert code == 1
    assert "FAIL  script.py: killed at the time limit" in output
    assert "FAIL  3 rows have a score; not so: 1 (d)" in output


def test_no_file_means_no_submission(run) -> None:
    code, output = run(script="raise SystemExit(2)\n")
    assert code == 2
    assert "left no submission.csv (exit code 2): the submission fails" in output


def test_script_runs_under_the_filter_without_what_this_shell_has(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "a secret")
    script = (
        "import os, socket, sys\n"
        "try:\n    socket.socket().connect(('127.0.0.1', 9))\n"
        "except OSError as error:\n    print('connect:', error.errno)\n"
        "print('inherited:', sorted({'PYTHONPATH', 'HF_TOKEN'} & set(os.environ)))\n"
        "print('data:', os.environ['DATASET_PATH'], 'arguments:', sys.argv[1:])\n"
    )
    code, output = run("--", "--device", "cpu", script=script + write_file(GOOD))
    assert code == 0, output
    assert "connect: 1\n" in output
    assert "inherited: []\n" in output
    assert f"data: {tmp_path / 'data'} arguments: ['--device', 'cpu']\n" in output


def test_only_what_git_tracks_is_there(run, small_repository: Path) -> None:
    (small_repository / ".gitignore").write_text("ignored.txt\n")
    list_files = "import os\nprint('files:', sorted(os.listdir('.')))\n" + write_file(GOOD)
    commit(small_repository, list_files)
    (small_repository / "ignored.txt").write_text("no")
    (small_repository / "new.txt").write_text("not yet")
    _, output = run()
    assert "files: ['.gitignore', 'requirements.txt', 'script.py']" in output
    assert "1 uncommitted changes are not part of it" in output
    _, output = run("--working-tree")
    assert "files: ['.gitignore', 'new.txt', 'requirements.txt', 'script.py']" in output


def test_without_git_the_visible_files_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "snapshot"
    (source / ".cache").mkdir(parents=True)
    (source / "model").mkdir()
    (source / "model" / "a.py").write_text("")
    said = evaluate.export_repository(source, tmp_path / "copy", working_tree=False)
    assert "no git repository" in said
    assert [path.name for path in sorted((tmp_path / "copy").rglob("*"))] == ["model", "a.py"]


def test_data_is_placed_by_link_only_where_nothing_is(tmp_path: Path, monkeypatch) -> None:
    place = tmp_path / "evaluation-data"
    monkeypatch.setattr(evaluate, "EVALUATION_DATA", place)
    data = tmp_path / "data"
    data.mkdir()
    with evaluate.place_dataset(data, "auto") as variables:
        assert (variables, place.resolve()) == ({}, data)
    assert not place.is_symlink()
    place.mkdir()
    with evaluate.place_dataset(data, "auto") as variables:
        assert variables == {"DATASET_PATH": str(data)}
    with pytest.raises(evaluate.StepError, match="move it away"), evaluate.place_dataset(data, "tmp-data"):
        pass
    with evaluate.place_dataset(place, "auto") as variables:
        assert variables == {}
    assert place.is_dir()


def test_a_dataset_that_is_not_there_is_told(run, tmp_path: Path) -> None:
    (tmp_path / "data").rmdir()
    code, output = run()
    assert code == 2
    assert f"FAILED: no dataset at {tmp_path / 'data'}" in output


@pytest.mark.long
def test_an_environment_is_built_once_and_again_for_other_requirements(tmp_path: Path) -> None:
    lines: list[str] = []
    wheel = _tiny_wheel(tmp_path)
    requirements = f"# a comment\n-r is-dropped.txt\ntiny @ {wheel.as_uri()}\n"
    first = get_interpreter("requirements", requirements, sys.executable, tmp_path / "cache", lines.append)
    found = subprocess.run([first, "-c", "import tiny; print(tiny.ANSWER)"], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "42"
    assert subprocess.run([first, "-c", "import numpy"], capture_output=True, check=False).returncode == 1
    assert any("installing 1 packages" in line for line in lines)
    assert get_interpreter("requirements", requirements, sys.executable, tmp_path / "cache", lines.append) == first
    assert "from the cache" in lines[-1]
    # Other requirements, which cannot be installed: told, and neither the old nor the unfinished one is kept for use.
    missing = f"tiny @ file://{tmp_path}/no-such-1.0-py3-none-any.whl\n"
    with pytest.raises(BuildError, match="pip failed: ERROR.*go on without the packages"):
        get_interpreter("requirements", missing, sys.executable, tmp_path / "cache", lines.append)
    assert not first.exists()
    assert not list((tmp_path / "cache").rglob("complete"))


def test_a_killed_pip_is_told_and_a_slow_one_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(environment, "_REMIND_SECONDS", 0.05)
    code = "import os, time; time.sleep(1); os.kill(os.getpid(), 9)"
    with pytest.raises(BuildError, match="pip was ended by SIGKILL .*memory"):
        environment.pip_install([sys.executable, "-c", code], Path("."), lines.append)
    assert re.fullmatch(r"pip is still at work after \d+ s", lines[0])


def test_a_stopped_run_says_so_and_takes_its_script_along(small_repository: Path, tmp_path: Path) -> None:
    commit(small_repository, "import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(600)\n")
    (tmp_path / "data").mkdir()
    options = ["--environment", "current", "--repository", str(small_repository), "--place", "variable"]
    options += ["--data-dir", str(tmp_path / "data"), "--cache", str(tmp_path), "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, "-m", "debug.evaluate", *options], cwd=evaluate.ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pid = next(int(line.split()[1]) for line in process.stdout if line.startswith("pid "))
        process.terminate()
        output = process.stdout.read()
    assert process.returncode == 2
    assert "FAILED: stopped from outside by SIGTERM" in output
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def _tiny_wheel(folder: Path) -> Path:
    import zipfile

    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "ANSWER = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def test_environments_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="--environment default"):
        get_interpreter("requirements", None, sys.executable, tmp_path, print)
    with pytest.raises(BuildError, match="cannot run .*no-python: No such file"):
        get_interpreter("requirements", "", str(tmp_path / "no-python"), tmp_path, print)
    assert get_interpreter("current", None, sys.executable, tmp_path, print) == Path(sys.executable)


@pytest.mark.parametrize("modality", environment.DEFAULT_PACKAGES)
def test_default_list_is_the_organisers(modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(environment, "_run", lambda _command, _what: "3.11\n")
    monkeypatch.setattr(
        environment,
        "pip_install",
        lambda _command, folder, _say: asked.append((folder / "requirements.txt").read_text()),
    )
    get_interpreter("default", "ignored==1\n", sys.executable, tmp_path / "cache", print, modality)
    assert asked[0].split() == [*environment.DEFAULT_PACKAGES[modality]]
    assert {"decord", "timm", "safetensors", "ignored"}.isdisjoint(asked[0].split())


def test_names_of_the_challenges_are_the_models() -> None:
    """debug.evaluate starts without NumPy, so it cannot ask model.modality."""
    assert {name: modality.genuine for name, modality in MODALITIES.items()} == check_submission.GENUINE
    for name, modality in MODALITIES.items():
        assert all(("time" in columns) or not modality.with_time for columns in check_submission.COLUMNS[name])
    spoken = [{"id": "a", "pred": "pristine", "source": "x", "split": "public"}]
    assert check_submission.find_modality(spoken) == "audio"


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("id,pred,score,time\na,pristine,-1.5,0.1\n", True),
        ("id,pred,score\na,pristine,-1.5\n", False),  # the challenge asks for the time
        ("id,pred,score,time\na,real,-1.5,0.1\n", False),
        ("id,pred,score,time\na,pristine,1.5,0.1\n", False),
    ],
)
def test_a_submission_for_speech_is_checked_by_its_own_rules(text: str, passed: bool, tmp_path: Path) -> None:
    (tmp_path / "submission.csv").write_text(text)
    solution = [{"id": "a", "pred": "pristine", "source": "x", "split": "public"}]
    checks = check_submission.check_result(tmp_path / "submission.csv", solution, "audio")
    assert all(check.passed for check in checks) == passed


def test_pyseccomp_is_not_fetched_where_it_is(tmp_path: Path) -> None:
    assert get_pyseccomp(Path(sys.executable), tmp_path, print) is None
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.parse_arguments(["--solution", "x.csv"])
    assert "--solution belongs to --data-dir" in capsys.readouterr().err


def test_the_dockerfile_says_the_same(repository: Path) -> None:
    """It cannot run here; its options and its package list are at least those of this module."""
    text = (repository / "debug" / "Dockerfile").read_text()
    assert "FROM nvidia/cuda:12.6.2-cudnn-runtime-ubuntu24.04\n" in text
    assert " ".join(environment.DEFAULT_PACKAGES["video"]) in text
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", text.replace("\\\n", ""), flags=re.MULTILINE)
    _python, _m, module, *arguments = json.loads(entry)
    assert module == "debug.evaluate"
    options = evaluate.parse_arguments(arguments)
    assert (options.environment, options.data_dir) == ("current", Path("/tmp/data"))
    for source in re.findall(r"^COPY (\S+)", text, flags=re.MULTILINE):
        assert (repository / source).exists(), source


@pytest.mark.long
@pytest.mark.parametrize("modality", MODALITIES)
def test_this_repository_on_the_debug_dataset(modality: str, tmp_path: Path, repository: Path) -> None:
    """Everything as in the README, but in the running interpreter: all ids, the two broken clips fall back."""
    if not (repository / "weights" / modality / "manifest.json").is_file():
        pytest.skip(f"no weights for {modality}")
    command = [sys.executable, "-m", "debug.evaluate", "--environment", "current", "--working-tree"]
    command += ["--modality", modality]
    command += ["--out", str(tmp_path / "out"), "--place", "variable", "--time-limit", "500", "--", "--time"]
    environment_variables = {name: value for name, value in os.environ.items() if name != "DATASET_PATH"}
    done = subprocess.run(
        command, cwd=repository, env=environment_variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "broken clips fell back (broken-garbage, broken-truncated)" in done.stdout
    with (tmp_path / "out" / "repository" / "submission.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "pred", "score", "time"]
    assert {row["id"] for row in rows if not row["score"]} == {"broken-garbage", "broken-truncated"}
    assert len(rows) >= 20
