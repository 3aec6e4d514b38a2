"""The filter denies what the evaluation's sandbox denies, lets the rest through, and a time limit kills the group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from debug import sandbox
from debug.sandbox import SandboxError, run_sandboxed


def run_python(code: str, **options) -> sandbox.SandboxedProcess:
    return run_sandboxed([sys.executable, "-c", code], timeout=options.pop("timeout", 3600.0), **options)


@pytest.mark.parametrize(
    "call",
    [
        "a.connect(('127.0.0.1', 9))",
        "pair[0].send(b'x')",
        "pair[0].sendto(b'x', '/nowhere')",
        "pair[0].sendmsg([b'x'])",
        "pair[0].recv(1)",
        "pair[0].recvfrom(1)",
        "pair[0].recvmsg(1)",
        "a.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)",
        "a.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)",
        "libc_accept(a.fileno())",  # Python's own accept() makes the call accept4, which is not denied
    ],
)
def test_denied_calls_return_eperm(call: str) -> None:
    code = f"""
import ctypes, errno, socket
a, pair = socket.socket(), socket.socketpair()
def libc_accept(descriptor):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.accept(descriptor, None, None) < 0:
        raise OSError(ctypes.get_errno(), "accept")
try:
    {call}
    print("allowed")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    result = run_python(code)
    assert (result.stdout.strip(), result.returncode) == ("EPERM", 0), result.stderr


def test_the_rest_is_let_through() -> None:
    """socket, bind, listen, socketpair, plain reads and writes on a socket, threads and spawned processes."""
    code = """
import multiprocessing, os, socket, threading
one, two = socket.socketpair()
os.write(one.fileno(), b"over a socket pair")
print(os.read(two.fileno(), 100).decode())
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
print(multiprocessing.get_context("spawn").Pool(1).apply(abs, (-7,)))
"""
    result = run_python(f"if __name__ == '__main__':\n    exec({code!r})")
    assert result.stdout.split("\n")[:3] == ["over a socket pair", "thread", "7"], result.stderr


def test_child_processes_inherit_the_filter() -> None:
    child = "import socket; socket.socket().connect(('127.0.0.1', 9))"
    result = run_python(
        f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {child!r}]).returncode)"
    )
    assert result.returncode == 1
    assert "PermissionError" in result.stderr


def test_exit_code_arguments_folder_and_environment_pass_through(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), os.environ['COLOUR'], sys.argv[1:]); sys.exit(5)"
    result = run_sandboxed(
        [sys.executable, "-c", code, "--time-limit", "x y"], cwd=tmp_path, env={**os.environ, "COLOUR": "red"}
    )
    assert result.stdout.strip() == f"{tmp_path} red ['--time-limit', 'x y']"
    assert (result.returncode, result.timed_out) == (5, False)


def test_time_limit_kills_the_whole_group(tmp_path: Path) -> None:
    marker = tmp_path / "child.pid"
    child = f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", {child!r}])
print("started", flush=True)
time.sleep(600)
"""
    limit = 1.0
    while not (marker.exists() and marker.read_text()):  # the time limit comes after both have started
        limit *= 2
        result = run_python(parent, timeout=limit)
    assert result.timed_out
    assert result.returncode == -signal.SIGKILL
    assert result.stdout.strip() == "started"
    while not _is_gone(int(marker.read_text())):
        time.sleep(0.05)


def _is_gone(pid: int) -> bool:
    """Or a zombie, as a killed orphan may stay where nothing reaps it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_command_line(repository: Path) -> None:
    module = [sys.executable, "-m", "debug.sandbox"]
    done = subprocess.run([*module, "sh", "-c", "exit 3"], cwd=repository, check=False)
    assert done.returncode == 3
    late = subprocess.run([*module, "--time-limit", "1", "--", "sleep", "60"], cwd=repository, check=False)
    assert late.returncode == sandbox.EXIT_TIMED_OUT
    absent = subprocess.run([*module, "no-such-program"], cwd=repository, capture_output=True, text=True, check=False)
    assert absent.returncode == sandbox.EXIT_NO_COMMAND
    assert "cannot run no-such-program" in absent.stderr
    empty = subprocess.run(module, cwd=repository, capture_output=True, text=True, check=False)
    assert empty.returncode == sandbox.EXIT_NO_COMMAND


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raise ImportError('no module named pyseccomp')", "pip install -r tests/requirements.txt"),
        ("raise RuntimeError('Unable to find libseccomp')", "apt-get install libseccomp2"),
    ],
)
def test_refuses_clearly_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    (tmp_path / "pyseccomp.py").write_text(line)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pyseccomp", raising=False)
    with pytest.raises(SandboxError, match=message):
        run_sandboxed(["true"])


def test_refuses_clearly_on_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="debug/Dockerfile"):
        run_sandboxed(["true"])


def test_a_folder_with_pyseccomp_serves_an_interpreter_without_it(tmp_path: Path) -> None:
    """As debug.evaluate does it: the evaluation's environment has no pyseccomp, the launcher gets it by a folder."""
    source = Path(sandbox.load_pyseccomp().__file__ or "")
    (tmp_path / "pyseccomp.py").write_bytes(source.read_bytes())
    code = "import socket; socket.socket().connect(('127.0.0.1', 9))"
    bare = subprocess.run(
        [sys.executable, "-S", sandbox.__file__, "--pyseccomp", str(tmp_path), sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "PermissionError" in bare.stderr
    none = subprocess.run([sys.executable, "-S", sandbox.__file__, "true"], capture_output=True, text=True, check=False)
    assert none.returncode == sandbox.EXIT_NO_FILTER
    assert "pip install" in none.stderr
