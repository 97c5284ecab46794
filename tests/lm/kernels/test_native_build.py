"""How the native kernels are built: once, whole or not at all, with a plain answer where not."""

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from twin.lm import processor
from twin.lm.errors import KernelUnavailable
from twin.lm.kernels import native, registry
from twin.lm.kernels.native import build, ops

SOURCE = '#include "answer.h"\nextern "C" __attribute__((visibility("default")))\nint answer() { return ANSWER; }\n'  # noqa: E501


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small library to build, and an empty cache."""
    monkeypatch.setenv("TWIN_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    (folder / "answer.cpp").write_text(SOURCE)
    try:
        build.compiler()
    except KernelUnavailable as reason:
        pytest.skip(str(reason))
    return folder / "answer.cpp"


def kept(tmp_path: Path) -> list[Path]:
    """The libraries; beside each lies its hash, and nothing else."""
    there = sorted((tmp_path / "cache" / "native").iterdir())
    libraries = [path for path in there if path.suffix == ".so"]
    assert len(there) == 2 * len(libraries)
    return libraries


def fake_compiler(folder: Path, body: str) -> str:
    """A program that says it is a compiler."""
    path = folder / "c++fake"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo fake 1 && exit 0\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_library_is_built_once_and_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.load(source).answer() == 42
    (made,) = kept(tmp_path)
    before = made.stat().st_mtime_ns
    assert build.load(source).answer() == 42
    assert made.stat().st_mtime_ns == before


def test_a_change_in_a_header_builds_anew(source: Path, tmp_path: Path) -> None:
    build.load(source)
    source.with_name("answer.h").write_text("#define ANSWER 43\n")
    assert build.load(source).answer() == 43
    assert len(kept(tmp_path)) == 2


def test_every_level_gets_its_own_library(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = build.levels()
    for level in levels:
        monkeypatch.setenv("TWIN_LM_ISA", level)
        assert build.load(source).answer() == 42
    assert [path.name.split("-")[1] for path in kept(tmp_path)] == sorted(levels)


def test_a_file_cut_short_is_built_again(source: Path, tmp_path: Path) -> None:
    build.load(source)
    (made,) = kept(tmp_path)
    made.unlink()  # the loaded one stays as it is
    made.write_bytes(b"\x7fELF cut short")
    assert build.load(source).answer() == 42


@pytest.mark.parametrize("damage", ["cut", "changed", "no hash", "writable"])
def test_a_library_that_is_not_as_it_was_built_is_never_loaded(
    source: Path, tmp_path: Path, damage: str
) -> None:
    build.load(source)
    (made,) = kept(tmp_path)
    good = made.read_bytes()
    hashed = made.with_name(made.name + ".sha256")
    made.unlink()  # the loaded one stays as it is
    made.write_bytes({"cut": good[: len(good) // 2], "changed": good[:-1] + b"?"}.get(damage, good))
    made.chmod(0o777 if damage == "writable" else 0o700)
    if damage == "no hash":
        hashed.unlink()
    before = made.stat().st_ino, made.stat().st_mtime_ns
    assert build.load(source).answer() == 42
    assert made.read_bytes() == good
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert (made.stat().st_ino, made.stat().st_mtime_ns) != before
    assert hashed.exists()


def test_a_cache_that_others_can_write_is_not_used(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    build._own_folder.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert build.load(source).answer() == 42
    assert "others can write there" in caplog.text
    assert kept(tmp_path) == []
    assert stat.S_IMODE(build._own_folder().stat().st_mode) == 0o700
    monkeypatch.setattr("os.geteuid", lambda: 123_456)
    folder.chmod(0o700)
    assert build._writable(folder) == build._own_folder()
    build._own_folder.cache_clear()


@pytest.mark.slow
def test_two_processes_may_build_at_once(source: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from twin.lm.kernels.native import build; import sys;"
        "sys.exit(build.load(Path(sys.argv[1])).answer() - 42)"
    )
    there = str(Path(native.__file__).parents[4])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(source)], env=os.environ | {"PYTHONPATH": there}
        )
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(kept(tmp_path)) == 1


def test_without_a_compiler_the_answer_is_a_sentence_and_auto_takes_chunked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("TWIN_CACHE_DIR", str(tmp_path / "cache"))
    ops._library_at.cache_clear()
    try:
        reason = native.available()
        assert reason is not None
        assert "there is no C++ compiler" in reason
        assert "Install g++ or clang++" in reason
        assert registry.choose("auto").name == "chunked"
        with pytest.raises(KernelUnavailable, match="no C\\+\\+ compiler"):
            registry.choose("native")
    finally:
        ops._library_at.cache_clear()


def test_a_named_compiler_that_is_not_there_is_named(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "g++-of-tomorrow")
    with pytest.raises(KernelUnavailable, match="`g\\+\\+-of-tomorrow`, which is not there"):
        build.load(source)


def test_a_broken_compiler_says_what_it_said(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "echo 'fatal error: no heart' >&2; exit 1"))
    with pytest.raises(KernelUnavailable, match="fatal error: no heart"):
        build.load(source)
    assert kept(tmp_path) == []  # nothing half made is left


def test_a_compiler_that_makes_nonsense_is_found_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'for last; do :; done; echo nonsense > "$last"'
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, body))
    with pytest.raises(KernelUnavailable, match="do not load"):
        build.load(source)


def test_code_that_does_not_compile_is_told_by_its_first_error(source: Path) -> None:
    source.write_text("int answer() { return; }")
    with pytest.raises(KernelUnavailable, match="error"):
        build.load(source)


def test_where_openmp_is_missing_a_single_thread_is_built(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build.compiler()[0]
    body = f'case " $* " in *" -fopenmp "*) exit 1;; esac; exec {real} "$@"'
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, body))
    assert build.load(source, tmp_path / "libgomp.so.1").answer() == 42


def test_threads_of_a_runtime_that_is_not_there_are_done_without(source: Path) -> None:
    """As clang's beside GCC's runtime: what it calls must be missed before it is loaded."""
    missing = '#ifdef _OPENMP\nextern "C" void nowhere();\nvoid use() { nowhere(); }\n#endif\n'
    source.write_text(missing + SOURCE)
    assert build.load(source, ops.torch_openmp()).answer() == 42


def test_threads_that_are_there_for_the_compiler_alone_are_done_without(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It links with them, and no loader finds them."""
    real, hidden = build.compiler()[0], tmp_path / "hidden"
    hidden.mkdir()
    (tmp_path / "threads.c").write_text("int nowhere() { return 1; }")
    made = [real, "-shared", "-fPIC", "-x", "c++", str(tmp_path / "threads.c")]
    subprocess.run([*made, "-o", str(hidden / "libhidden.so")], check=True)
    uses = "#ifdef _OPENMP\nint nowhere();\nint use() { return nowhere(); }\n#endif\n"
    source.write_text(uses + SOURCE)
    body = (
        f'case " $* " in *" -fopenmp "*) more="-L{hidden} -lhidden";; esac; exec {real} "$@" $more'
    )
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, body))
    assert build.load(source).answer() == 42


def test_an_instruction_is_used_where_the_assembler_knows_it() -> None:
    assert build.assembles("nop")
    assert not build.assembles("vpdpbusq %zmm0, %zmm1, %zmm2")


def test_an_emulated_arm_is_not_built_for_the_x86_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"flags": " ".join(build.NEEDS["avx512"])}
    monkeypatch.setattr(processor, "told", lambda: shown)
    monkeypatch.setattr(processor, "flags", processor.flags.__wrapped__)
    for machine, level in (("x86_64", "avx512"), ("aarch64", "plain")):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert build.machine_level.__wrapped__() == level


def test_a_cache_that_cannot_be_written_is_replaced_for_this_process(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TWIN_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    build._own_folder.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert build.load(source).answer() == 42
    assert "Set TWIN_CACHE_DIR" in caplog.text
    build._own_folder.cache_clear()


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_LM_ISA", "mmx")
    with pytest.raises(KernelUnavailable, match="avx512, avx2, plain"):
        build.level()


def test_an_instruction_set_that_the_processor_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "machine_level", lambda: "plain")
    monkeypatch.setenv("TWIN_LM_ISA", "avx512")
    with pytest.raises(KernelUnavailable, match="has plain at most"):
        build.level()
