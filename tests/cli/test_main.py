"""The one door: help without weight, one sentence per failure, the right exit code, or JSON."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest

from twin.cli import main as door
from twin.cli.main import COMMANDS, cli, run
from twin.errors import IllegalMove, MissingRequirement, RepositoryError, StoreLocked

TWIN = [sys.executable, "-W", "error", "-c", "from twin.cli.main import main; main()"]
HEAVY = {
    "numpy", "scipy", "lightgbm", "sqlalchemy", "alembic", "tree_sitter", "matplotlib", "jinja2",
    "rich", "torch", "transformers", "tokenizers", "safetensors",
}  # fmt: skip


def twin(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TWIN, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command `fail` that raises what the test puts into the list."""
    raised: list[BaseException] = []

    @click.command(name="fail")
    @click.option("--json", "as_json", is_flag=True)
    def command(as_json: bool) -> None:
        raise raised[0]

    module = type(sys)("twin_test_fail")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "twin_test_fail", module)
    monkeypatch.setitem(COMMANDS, "fail", ("twin_test_fail", "Fails."))
    return raised


def test_help_imports_nothing_heavy() -> None:
    script = """
        import sys
        from twin.cli.main import run
        code = run(sys.argv[1:])
        print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
        sys.exit(code)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    help_text, _, loaded = done.stdout.partition("LOADED")
    assert set(COMMANDS) <= set(help_text.split())
    assert not HEAVY & set(loaded.split())


def test_the_short_help_in_the_table_is_the_first_sentence_of_the_command() -> None:
    ctx = click.Context(cli)
    for name, (_, short) in COMMANDS.items():
        command = cli.get_command(ctx, name)
        assert command is not None
        assert command.name == name
        assert len(short) < 70
        assert short.endswith(".")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_json_and_an_example(name: str) -> None:
    def check(ctx: click.Context) -> None:
        assert "Example:" in ctx.get_help(), ctx.command_path
        assert "--json" in ctx.get_help(), ctx.command_path
        if isinstance(ctx.command, click.Group):
            for below in ctx.command.list_commands(ctx):
                command = ctx.command.get_command(ctx, below)
                assert command is not None
                check(click.Context(command, info_name=below, parent=ctx))

    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    check(click.Context(command, info_name=name))


def test_the_version_is_said() -> None:
    done = twin("--version")
    assert done.returncode == 0
    assert done.stdout == "twin, version 0.1.0\n"


def test_without_a_command_the_help_is_shown_as_wrong_use() -> None:
    done = twin()
    assert done.returncode == 2
    assert "Usage: twin" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "No such command 'nonsense'. See `twin --help`."),
        (["doctor", "--nonsense"], "No such option '--nonsense'. See `twin doctor --help`."),
        (["runs", "--limit", "0"], "Invalid value for '--limit': 0 is not in the range x>=1."),
        (["models", "show"], "Missing argument 'VERSION_ID'. See `twin models show --help`."),
        (["--repo"], "Option '--repo' requires an argument. See `twin --help`."),
        (["--repo", "/nowhere", "runs"], "/nowhere is not a folder. Give `--repo`"),
        (["runs", "--limit", "\udcff"], "is not a valid integer"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("twin: ")
    assert sentence in shown.err
    assert shown.err.count("\n") == 1

    assert run([*arguments[:1], "--json"] if len(arguments) == 1 else [*arguments, "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.err == ""
    assert set(json.loads(shown.out)["error"]) == {"kind", "message"}


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (RepositoryError("No commits; make one."), "RepositoryError", 2),
        (MissingRequirement("No git; install it."), "MissingRequirement", 3),
        (StoreLocked("Held by 7; wait."), "StoreLocked", 3),
        (IllegalMove("It has not passed; judge it."), "IllegalMove", 1),
        (OSError(errno.ENOSPC, "x", "/full"), "StoreFull", 3),
        (PermissionError(errno.EACCES, "x", "/shut"), "MissingRequirement", 3),
        (KeyboardInterrupt(), "Interrupted", 130),
    ],
)
def test_a_failure_is_one_sentence_with_the_exit_code_of_its_kind(
    failing: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    kind: str,
    code: int,
) -> None:
    failing.append(error)
    assert run(["fail"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.strip().count("\n") == 0  # click puts a line break after the terminal's ^C
    assert shown.err.endswith(".\n")

    assert run(["fail", "--json"]) == code
    shown = capsys.readouterr()
    assert shown.err.strip() == ""
    assert json.loads(shown.out)["error"]["kind"] == kind


def test_a_fault_of_ours_is_not_hidden_behind_a_sentence(failing: list[BaseException]) -> None:
    failing.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        run(["fail"])


def test_json_after_a_lone_double_dash_is_no_option(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(RepositoryError("No."))
    assert run(["fail", "--", "--json"]) == 2
    assert capsys.readouterr().err.startswith("twin: Got unexpected extra argument")


@pytest.mark.slow
def test_a_reader_that_closes_early_ends_the_command_quietly(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [*TWIN, "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    errors = program.stderr.read()
    program.stderr.close()
    assert program.wait() == 0
    assert errors == b""


def test_ctrl_c_is_one_sentence_and_exit_code_130(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(
        textwrap.dedent("""
            import signal, sys, time, click
            from twin.cli.main import COMMANDS, main

            # A shell that starts the tests in the background has them ignore it.
            signal.signal(signal.SIGINT, signal.default_int_handler)

            @click.command()
            def command():
                print("ready", flush=True)
                time.sleep(60)

            COMMANDS["wait"] = ("__main__", "Waits.")
            main(["wait"])
        """)
    )
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "wait.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    os.kill(program.pid, signal.SIGINT)
    _, errors = program.communicate()
    assert program.returncode == door.INTERRUPTED
    assert errors.strip() == (
        "twin: Interrupted; what was finished is kept, and the same command goes on from there."
    )


def test_a_folder_that_is_no_repository_is_told_so(tmp_path: Path) -> None:
    done = twin("runs", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"twin: {tmp_path} is not inside a git repository.")
    assert list(tmp_path.iterdir()) == [], "nothing is written there"


def test_a_folder_whose_name_is_not_utf_8_can_be_named(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(odd)
    done = subprocess.run([*map(os.fsencode, TWIN), b"--repo", odd, b"runs"], capture_output=True)
    assert done.returncode == 2
    assert b"caf\\udce9 is not inside a git repository" in done.stderr


def test_a_mistake_in_the_configuration_is_told_by_every_command(repository: Path) -> None:
    (repository / "twin.toml").write_text("[fit]\nholdot = 0.1\n", encoding="utf-8")
    done = twin("models", cwd=repository)
    assert done.returncode == 2
    assert "Did you mean `holdout`?" in done.stderr
    assert not (repository / ".twin").exists()
