"""Written files: what is replaced, what is written in place, and what is said before the work."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fxteleport.atomic_files import require_writable, write_bytes, write_file, write_text
from fxteleport.passes.errors import CheckpointError

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs and devices")


def test_a_regular_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o640)
    before = path.stat().st_ino
    write_text(path, "new")
    assert path.read_text() == "new" and path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "")
    (tmp_path / "theirs").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def save(temporary: str) -> None:
        Path(temporary).write_text("half")
        raise ValueError("no luck")

    with pytest.raises(CheckpointError, match="no luck"):
        write_file(path, save)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(Path("folder") / "target")  # of a file that is not there yet
    for text in ("first", "second"):
        write_text(link, text)
        assert link.is_symlink() and (tmp_path / "folder" / "target").read_text() == text
    assert len(list((tmp_path / "folder").iterdir())) == 1


@posix
def test_a_fifo_stays_and_gets_the_bytes(tmp_path: Path) -> None:
    fifo, got = tmp_path / "fifo", list[bytes]()
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(fifo)
    for path in (fifo, tmp_path / "link"):
        reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
        reader.start()
        write_bytes(path, b"all of it")
        reader.join(timeout=60)
    assert got == [b"all of it"] * 2 and stat.S_ISFIFO(fifo.stat().st_mode)


@posix
def test_a_device_stays_a_device() -> None:
    write_text("/dev/null", "nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(CheckpointError, match="cannot write '/dev/full': No space left"):
        write_text("/dev/full", "too much")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@posix
def test_a_pipe_by_its_number_is_written() -> None:
    """What a shell passes for `>(...)`."""
    end, start = os.pipe()
    with os.fdopen(end) as reader, os.fdopen(start, "w"):
        write_text(f"/dev/fd/{start}", "through a pipe")
        os.set_blocking(end, False)
        assert reader.read() == "through a pipe"


@posix
def test_a_file_that_is_standard_output_is_not_replaced(tmp_path: Path) -> None:
    """`--json /dev/stdout > out`: what was printed before stays, and what is printed after follows."""
    code = "import sys; from fxteleport.atomic_files import write_text\n"
    code += "print('before'); write_text('/dev/stdout', 'file\\n'); print('after')"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True, timeout=120)
    assert (tmp_path / "out").read_text() == "before\nfile\nafter\n"


@pytest.mark.parametrize(("path", "why"), [("", "it is a folder"), ("no/a", "its folder does not exist")])
def test_what_cannot_be_written_is_said_before_the_work(path: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=why):
        require_writable(tmp_path / path)
    (tmp_path / "file").write_text("")
    for below in ("file/a", "a\0b"):
        with pytest.raises(CheckpointError, match="cannot write"):
            require_writable(tmp_path / below)
    assert require_writable(tmp_path / "new") == (tmp_path / "new").resolve()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]  # looking writes nothing


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everything")
def test_what_may_not_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(0o400)
    with pytest.raises(CheckpointError, match="permission denied"):
        require_writable(tmp_path / "file")
    (tmp_path / "folder").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="its folder may not be written"):
        require_writable(tmp_path / "folder" / "new")
