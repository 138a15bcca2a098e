"""Completion in a real, interactive bash, at the tab key."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

BASH = shutil.which("bash")
SCRIPTS = Path(sys.executable).parent
SECONDS = 60
TYPED = [
    ("organ", "sea\t", "organ seal "),
    ("organ", "train --sh\t", "organ train --ship "),
    ("organ", "train --ship la\t", "organ train --ship layers "),
    ("organ-site", "appr\t", "organ-site approve "),
    ("organ-coordinator", "operator rem\t", "organ-coordinator operator remove "),
    ("organ-simulate", "bench-me\t", "organ-simulate bench-memory "),
]


def read_until(handle: int, word: bytes) -> str:
    """What a terminal shows up to a word."""
    seen, deadline = b"", time.monotonic() + SECONDS
    while word not in seen:
        ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {word!r} in {seen!r}"
        seen += os.read(handle, 4096)
    return seen.decode()


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize("program", sorted({one for one, _, _ in TYPED}))
def test_the_tab_key_completes(program: str, tmp_path: Path) -> None:
    if not (SCRIPTS / program).is_file():
        pytest.skip("the commands are not installed")
    assert BASH is not None
    ours, theirs = pty.openpty()
    bash = subprocess.Popen(  # noqa: S603 - the system's
        [BASH, "--norc", "--noprofile", "-i"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "PS1": "ready> ",
            "TERM": "dumb",
            "HISTFILE": "",
            "INPUTRC": os.devnull,
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        read_until(ours, b"ready> ")
        os.write(ours, f'eval "$({program} --show-completion)"; echo has-""loaded\n'.encode())
        read_until(ours, b"has-loaded")
        for _, typed, shown in (row for row in TYPED if row[0] == program):
            os.write(ours, f"{program} {typed}".encode())
            read_until(ours, shown.encode())
            os.write(ours, b"\x15")  # the line is cleared
    finally:
        bash.kill()
        bash.wait()
        os.close(ours)
