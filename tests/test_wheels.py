"""Vendored wheels: whole, for every supported Python, used only where the environment lacks one, not if altered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from debug.sandbox import run_sandboxed
from model import wheels as wheels_module
from model.wheels import CHECKSUMS, PACKAGES, WHEELS_DIR, Package, VendoredError

MAX_TOTAL_BYTES = 30 << 20


def make_wheel(folder: Path, name: str, version: str, content: str = "") -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", content or f"__version__ = {version!r}\n")
        archive.writestr(
            f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    return path


def write_checksums(folder: Path) -> None:
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.glob("*.whl"))]
    (folder / CHECKSUMS).write_text("".join(lines))


@pytest.fixture()
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the wheel of a package that is not installed; path and environment are put back afterwards."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "vendorable", "2.5.0")
    write_checksums(folder)
    monkeypatch.setitem(PACKAGES, "vendorable", Package("vendorable", ("vendorable",), (2, 0)))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "/inherited")
    monkeypatch.setattr(wheels_module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delitem(sys.modules, "vendorable", raising=False)
    return folder


def test_the_list_and_the_folder_agree() -> None:
    checksums = wheels_module.load_checksums(WHEELS_DIR)
    assert sorted(checksums) == sorted(path.name for path in WHEELS_DIR.glob("*.whl"))
    assert {name.split("-")[0] for name in checksums} == set(PACKAGES)
    for name in PACKAGES:
        assert wheels_module.verified_wheel(name).is_file()
    total = sum(path.stat().st_size for path in WHEELS_DIR.glob("*.whl"))
    assert total < MAX_TOTAL_BYTES, f"{total} bytes of wheels"


def test_sha256sum_agrees() -> None:
    done = subprocess.run(
        ["sha256sum", "--check", CHECKSUMS], cwd=WHEELS_DIR, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": OK") == len(PACKAGES)


@pytest.mark.parametrize("path", sorted(WHEELS_DIR.glob("*.whl")), ids=lambda path: path.name.split("-")[0])
def test_a_wheel_serves_every_supported_python(path: Path) -> None:
    """By its tag: no ABI, or the stable one from 3.10 on; and by its files: no library for one minor version."""
    python, abi, _platform = path.stem.split("-")[-3:]
    assert (python, abi) in {("py3", "none"), ("cp310", "abi3"), ("cp38", "abi3")}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert not [name for name in archive.namelist() if re.search(r"\.cpython-3\d+", name)]
        assert not [name for name in archive.namelist() if ".data/" in name], "unpacking alone would not install it"
        assert not [name for name in archive.namelist() if name.startswith("/") or ".." in name.split("/")]


def test_readme_names_every_wheel() -> None:
    readme = (WHEELS_DIR / "README.md").read_text()
    for name in wheels_module.load_checksums(WHEELS_DIR):
        package, version = name.split("-")[:2]
        assert f"{package} {version}" in readme
        assert f"https://pypi.org/project/{package}/{version}/" in readme


def test_nothing_happens_where_the_environment_serves(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels_module, "verified_wheel", lambda *_: pytest.fail("a wheel was looked at"))
    before = list(sys.path)
    assert wheels_module.ensure(["timm", "safetensors", "decord"], wheels_dir=wheels) == []
    assert sys.path == before


def test_a_missing_package_comes_from_its_wheel(wheels: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert wheels_module.ensure(["vendorable"], wheels_dir=wheels) == ["vendorable-2.5.0-py3-none-any.whl"]
    assert "vendorable is not installed: using wheels/vendorable-2.5.0-py3-none-any.whl" in caplog.text
    import vendorable  # type: ignore[import-not-found]

    folder = Path(vendorable.__file__).parent.parent
    assert folder.parent.stat().st_mode & 0o077 == 0, "others can write to what is imported"
    found = subprocess.run(
        [sys.executable, "-c", "import vendorable; print(vendorable.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "2.5.0", "worker processes find it by PYTHONPATH"
    assert wheels_module.find_defect(PACKAGES["vendorable"]) is None
    assert wheels_module.ensure(["vendorable"], wheels_dir=wheels) == []


def test_a_release_that_is_too_old_is_shadowed(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(make_wheel(tmp_path, "vendorable", "1.9.9")) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    defect = wheels_module.find_defect(PACKAGES["vendorable"])
    assert defect == "vendorable 1.9.9 is installed, but 2.0 or newer is needed"
    assert wheels_module.ensure(["vendorable"], wheels_dir=wheels) != []
    import vendorable

    assert vendorable.__version__ == "2.5.0"


@pytest.mark.parametrize(
    ("version", "serves"),
    [("2.0", True), ("2.0.1", True), ("10.0", True), ("2.0rc1", True), ("1.99", False), ("1.9.dev0", False)],
)
def test_versions_are_compared_as_numbers(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, serves: bool
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(make_wheel(tmp_path, "vendorable", version)) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    assert (wheels_module.find_defect(PACKAGES["vendorable"]) is None) == serves


def test_decord2_serves_as_decord() -> None:
    """requirements.txt names the fork, which imports as decord; its wheel must then stay unused."""
    import importlib.metadata

    assert importlib.metadata.version("decord2")
    assert wheels_module.find_defect(PACKAGES["decord"]) is None


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _make_pointer(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_byte, r"vendorable-2\.5\.0.* has SHA-256 .* is not used; run `python wheels/refresh\.py`"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is not used; run `python wheels/refresh.py`"),
        (_make_pointer, r"vendorable-2\.5\.0.*is a Git LFS pointer.*run `git lfs pull`"),
        (Path.unlink, r"cannot read .*vendorable-2\.5\.0.*No such file.*refresh\.py"),
        (lambda path: (path.parent / CHECKSUMS).unlink(), "cannot read .*SHA256SUMS.*git checkout wheels"),
        (
            lambda path: (path.parent / CHECKSUMS).write_text("nonsense\n"),
            "SHA256SUMS: not a line of sha256sum: 'nonsense'",
        ),
        (lambda path: (path.parent / CHECKSUMS).write_text(""), "SHA256SUMS lists no wheel of vendorable"),
    ],
)
def test_an_altered_wheel_is_named_and_not_used(
    wheels: Path, caplog: pytest.LogCaptureFixture, damage, message: str
) -> None:
    damage(wheels / "vendorable-2.5.0-py3-none-any.whl")
    with pytest.raises(VendoredError, match=message):
        wheels_module.verified_wheel("vendorable", wheels)
    assert wheels_module.ensure(["vendorable"], wheels_dir=wheels) == []
    assert re.search(message, caplog.text)
    with pytest.raises(ModuleNotFoundError):
        import vendorable  # noqa: F401


def test_one_bad_wheel_does_not_cost_the_others(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(wheels, "another", "1.0")
    write_checksums(wheels)
    _flip_a_byte(wheels / "vendorable-2.5.0-py3-none-any.whl")
    monkeypatch.setitem(PACKAGES, "another", Package("another", ("another",), (1,)))
    assert wheels_module.ensure(["vendorable", "another"], wheels_dir=wheels) == ["another-1.0-py3-none-any.whl"]


def test_a_wheel_for_another_machine_is_not_used(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = wheels / "vendorable-2.5.0-py3-none-any.whl"
    old.rename(wheels / "vendorable-2.5.0-py3-none-manylinux2010_x86_64.whl")
    write_checksums(wheels)
    assert wheels_module.verified_wheel("vendorable", wheels).is_file()
    monkeypatch.setattr(wheels_module.platform, "machine", lambda: "aarch64")
    with pytest.raises(VendoredError, match="for Linux on x86_64 only"):
        wheels_module.verified_wheel("vendorable", wheels)


def test_a_wheel_that_cannot_be_unpacked_leaves_nothing(wheels: Path, tmp_path: Path) -> None:
    (wheels / "vendorable-2.5.0-py3-none-any.whl").write_bytes(b"right hash, not a zip file")
    write_checksums(wheels)
    before = list(sys.path)
    assert wheels_module.ensure(["vendorable"], wheels_dir=wheels) == []
    assert sys.path == before
    assert not list(tmp_path.rglob("vendorable/*"))


def test_no_place_to_unpack_is_told(
    wheels: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_options: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wheels_module.tempfile, "mkdtemp", refuse)
    assert wheels_module.ensure(["vendorable"], wheels_dir=wheels) == []
    assert "no place to unpack wheels to" in caplog.text
    assert "No space left on device" in caplog.text


BARE = """
import json, os, subprocess, sys
sys.path.insert(0, {root!r})
from model.wheels import ensure
print(json.dumps(ensure()))
import {modules}
print(os.path.dirname(os.path.dirname(os.path.dirname(safetensors.__file__))))
print(getattr(sys.modules.get("decord"), "__version__", "not tried"))
child = [sys.executable, "-S", "-c", "import safetensors; print(safetensors.__version__)"]
print(subprocess.run(child, capture_output=True, text=True).stdout.strip())
"""


@pytest.mark.parametrize("minor", [10, 11, 12])
def test_the_wheels_load_on_each_python_under_the_filter(minor: int, repository: Path, tmp_path: Path) -> None:
    """Without site-packages. NumPy, which decord imports, is lent to the Python that runs the tests, as it has it."""
    import numpy

    python = find_python(minor)
    modules = "safetensors"
    if minor == sys.version_info.minor:
        modules += ", decord"
        source = Path(numpy.__file__).parent
        for folder in (source, source.with_name("numpy.libs")):
            (tmp_path / folder.name).symlink_to(folder)
    done = run_sandboxed(
        [python, "-S", "-c", BARE.format(root=str(repository), modules=modules)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": os.defpath},
    )
    assert done.returncode == 0, done.stderr
    used, folder_name, decord_version, in_child = done.stdout.splitlines()
    assert sorted(json.loads(used)) == sorted(wheels_module.load_checksums(WHEELS_DIR))
    assert decord_version == ("0.6.0" if "decord" in modules else "not tried")
    assert in_child == "0.8.0", "a child process finds the package by PYTHONPATH"
    assert Path(folder_name).name.startswith(".wheels-")
    assert not Path(folder_name).exists(), "the private folder outlived the process"


def find_python(minor: int) -> str:
    """On the path, or where pyenv keeps it."""
    if minor == sys.version_info.minor:
        return sys.executable
    candidates = [str(path) for path in Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")]
    for candidate in [shutil.which(f"python3.{minor}"), *candidates]:
        if candidate and subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip(f"no Python 3.{minor} on this machine")


def test_a_forked_child_does_not_take_the_folder_away(wheels: Path, repository: Path, tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(repository)!r})
from pathlib import Path
from model.wheels import PACKAGES, Package, ensure
PACKAGES["vendorable"] = Package("vendorable", ("vendorable",), (2, 0))
ensure(["vendorable"], wheels_dir=Path({str(wheels)!r}))
import vendorable
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(os.path.exists(vendorable.__file__), vendorable.__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    exists, path = done.stdout.split()
    assert exists == "True"
    assert not Path(path).exists()


def test_refresh_refuses_another_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("refresh", repository / "wheels" / "refresh.py")
    assert spec is not None and spec.loader is not None
    refresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(refresh)
    make_wheel(tmp_path, "vendorable", "2.5.0")
    write_checksums(tmp_path)
    kept = (tmp_path / "vendorable-2.5.0-py3-none-any.whl").read_bytes()
    monkeypatch.setattr(refresh, "HERE", tmp_path)
    asked: list[str] = []

    def fetch(requirement: str, folder: Path) -> Path:
        asked.append(requirement)
        return make_wheel(folder, "vendorable", requirement.split("==")[1], "# not what it was\n")

    monkeypatch.setattr(refresh, "fetch", fetch)
    with pytest.raises(VendoredError, match="not the one in SHA256SUMS"):
        refresh.refresh([])
    assert asked == ["vendorable==2.5.0"]
    assert (tmp_path / "vendorable-2.5.0-py3-none-any.whl").read_bytes() == kept
    refresh.refresh(["vendorable==3.0"])
    assert [path.name for path in tmp_path.glob("*.whl")] == ["vendorable-3.0-py3-none-any.whl"]
    assert list(wheels_module.load_checksums(tmp_path)) == ["vendorable-3.0-py3-none-any.whl"]
    assert wheels_module.verified_wheel("vendorable", tmp_path).name == "vendorable-3.0-py3-none-any.whl"
