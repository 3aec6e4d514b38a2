"""model.fleet on a cluster of several nodes on this machine: every row once, whatever dies."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install -r model/fleet/requirements.txt")

from model.config import PipelineConfig
from model.fleet.drive import FleetConfig, build_record, run_fleet
from model.fleet.pieces import cut_dataset
from model.fleet.store import Store
from model.rows.dataset import open_dataset
from model.rows.submission import Result, ResultFile
from model.run.pipeline import RunStats, run
from tests.conftest import ROOT
from tests.fleet.conftest import KEYS, start_patiently
from tests.fleet.stand_in import BuildStandIn

pytestmark = pytest.mark.long
ROWS = 59


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the dataset."""
    output = tmp_path_factory.mktemp("alone") / "submission.csv"
    rows = open_dataset(dataset)
    result = ResultFile(output, rows.ids, rows.modality)
    preparation, scorer = BuildStandIn()()
    run(rows, result, preparation, lambda: scorer, config=PipelineConfig(workers=1), show_progress=False)
    result.write()
    return output


def _score(dataset: Path | str, output: Path | str, build: BuildStandIn, rows_per_piece: int = 7) -> tuple[int, Store]:
    cut, store = cut_dataset(str(dataset), None, rows_per_piece), Store(str(output))
    return run_fleet(cut, store, "weights", build, FleetConfig(cores=1)), store


def _reasons(dataset: Path, store: Store) -> dict[str, Result]:
    record = store.record()
    return {name: row for piece in range(record.pieces) for name, row in store.read_shard(record, piece).items()}


def test_same_rows_scores_and_reasons_as_one_process(cluster: Any, dataset: Path, alone: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    rows, store = _score(dataset, tmp_path / "out", BuildStandIn(touched=str(touched)))
    assert rows == ROWS
    assert (tmp_path / "out/submission.csv").read_bytes() == alone.read_bytes()
    found = _reasons(dataset, store)
    stats = RunStats()
    preparation, scorer = BuildStandIn()()
    data = open_dataset(dataset)
    run(data, ResultFile(tmp_path / "x.csv", data.ids), preparation, lambda: scorer,
        config=PipelineConfig(workers=1), show_progress=False, stats=stats)  # fmt: skip
    assert {name: row.reason for name, row in found.items() if row.score is None} == stats.reasons
    processes = {line.split()[0] for line in touched.read_text().splitlines()}
    assert len(processes) == 2, "one detector a node"


def test_a_second_run_does_only_what_is_missing(cluster: Any, dataset: Path, alone: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    build = BuildStandIn(touched=str(touched))
    _, store = _score(dataset, tmp_path / "out", build)
    lost = sorted((tmp_path / "out/shards").iterdir())[3]
    expected = set(store.read_shard(store.record(), 3))
    lost.unlink()
    touched.unlink()
    rows, _ = _score(dataset, tmp_path / "out", build)
    again = {line.split()[1] for line in touched.read_text().splitlines()}
    assert rows == ROWS
    assert again and again <= expected
    assert (tmp_path / "out/submission.csv").read_bytes() == alone.read_bytes()


def test_a_node_killed_mid_run(cluster: Any, dataset: Path, alone: Path, tmp_path: Path) -> None:
    """Killed when every node's actor has begun; none goes on before that. The other nodes do its pieces."""
    import threading

    doomed = start_patiently(lambda: cluster.add_node(num_cpus=1))
    touched, gate = tmp_path / "touched", tmp_path / "gate"

    def kill() -> None:
        while not touched.exists() or len({line.split()[0] for line in touched.read_text().splitlines()}) < 3:
            time.sleep(0.05)
        cluster.remove_node(doomed, allow_graceful=False)
        gate.touch()

    threading.Thread(target=kill, daemon=True).start()
    build = BuildStandIn(touched=str(touched), gate=str(gate))
    rows, store = _score(dataset, tmp_path / "out", build, rows_per_piece=4)
    assert gate.exists()
    assert rows == ROWS
    assert (tmp_path / "out/submission.csv").read_bytes() == alone.read_bytes()
    assert store.finished(store.record()) == set(range(store.record().pieces))


def test_a_file_that_kills_its_actor_costs_its_own_row(
    cluster: Any, dataset: Path, alone: Path, tmp_path: Path
) -> None:
    rows, store = _score(dataset, tmp_path / "out", BuildStandIn(deadly="clip-10"), rows_per_piece=20)
    assert rows == ROWS
    expected, found = (_read(path) for path in (alone, tmp_path / "out/submission.csv"))
    assert found.pop("clip-10") == ("real", "")
    del expected["clip-10"]
    assert found == expected
    assert _reasons(dataset, store)["clip-10"].reason == "the process that scored it died 2 times"


def test_the_driver_killed_and_started_again(cluster: Any, dataset: Path, alone: Path, tmp_path: Path) -> None:
    touched, output = tmp_path / "touched", tmp_path / "out"
    code = (
        "import ray; from tests.fleet.stand_in import BuildStandIn; from tests.fleet.test_fleet import _score\n"
        f"ray.init(address={cluster.address!r}, runtime_env={{'env_vars': {{'PYTHONPATH': {str(ROOT)!r}}}}})\n"
        f"_score({str(dataset)!r}, {str(output)!r}, BuildStandIn(touched={str(touched)!r}, seconds=0.2), 4)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    shards = output / "shards"
    while not shards.is_dir() or len(list(shards.glob("[!.]*.parquet"))) < 2:
        assert driver.poll() is None, "the driver ended before it could be killed"
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = {name for path in shards.glob("[!.]*.parquet") for name in _ids(path)}
    before = Counter(line.split()[1] for line in touched.read_text().splitlines())
    rows, _ = _score(dataset, output, BuildStandIn(touched=str(touched)), rows_per_piece=4)
    after = Counter(line.split()[1] for line in touched.read_text().splitlines())
    assert rows == ROWS
    assert (output / "submission.csv").read_bytes() == alone.read_bytes()
    assert all(after[name] == before[name] for name in done), "what was finished is not done again"


def test_shards_on_an_s3_store(
    cluster: Any, dataset: Path, alone: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the dataset and the output. Rows of a repeated id: the first counts, as on one machine."""
    from pyarrow import fs

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    store, _ = fs.FileSystem.from_uri(f"s3://bucket{s3}")
    store.create_dir("bucket/data")
    for path in sorted(dataset.rglob("*.parquet")):
        with store.open_output_stream(f"bucket/data/{path.name}") as file:
            file.write(path.read_bytes())
    rows, _ = _score(f"s3://bucket/data{s3}", f"s3://bucket/out{s3}", BuildStandIn())
    assert rows == ROWS
    with store.open_input_stream("bucket/out/submission.csv") as file:
        assert file.read() == alone.read_bytes()


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    """The query of a URI of an S3 server with an empty store. moto's botocore wants an older python-dateutil than the
    project pins, so it lives in an environment of its own: SAFE_MOTO_SERVER, or moto_server on the PATH.
    """
    server = os.environ.get("SAFE_MOTO_SERVER") or shutil.which("moto_server")
    if server is None:
        pytest.skip("no moto_server: pip install 'moto[server,s3]==5.2.5' in an environment of its own")
    log = tmp_path / "moto.log"
    with open(log, "wb") as file:
        process = subprocess.Popen([server, "-H", "127.0.0.1", "-p", "0"], stderr=file, stdout=file)
    try:
        while "Running on http://127.0.0.1:" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        port = log.read_text().split("Running on http://127.0.0.1:")[1].split()[0]
        yield f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    finally:
        process.kill()
        process.wait()


def test_the_run_of_other_weights_is_another_run(dataset: Path) -> None:
    cut = cut_dataset(str(dataset), None, 7)
    assert build_record(cut, "a").run_id != build_record(cut, "b").run_id
    assert build_record(cut, "a") == build_record(cut_dataset(str(dataset), None, 7), "a")


def _read(path: Path) -> dict[str, tuple[str, str]]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows) == ROWS
    return {row["id"]: (row["pred"], row["score"]) for row in rows}


def _ids(shard: Path) -> list[str]:
    import pyarrow.parquet as pq

    return pq.read_table(shard, columns=["id"]).column("id").to_pylist()
