"""The one door, `twin COMMAND`: finds the command, runs it, turns every failure into a sentence.

Owns the table of commands, the options that all share, exit codes and the shape of errors. Has no
logic of its own. A command is one module in this folder plus one line in COMMANDS; the module is
imported only when it is asked for, so that `twin --help` answers at once.

Exit codes: 0 done, 1 the answer is no, 2 wrong use, 3 something is missing, 130 interrupted.
"""

import errno
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from twin import __version__
from twin.cli.door import Door
from twin.errors import MissingRequirement, StoreFull, TwinError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

COMMANDS: dict[str, tuple[str, str]] = {
    "calls": ("twin.cli.calls", "What passed the gateway: search, show, comment, export."),
    "context": ("twin.cli.context", "What a task touches, as text for a model."),
    "doctor": ("twin.cli.doctor", "What is installed, what is missing, and how to get it."),
    "harness": ("twin.cli.harness", "Commits proved by their own tests, in a sandbox."),
    "improve": ("twin.cli.improve", "Learns a repository, judges, serves the winner."),
    "index": ("twin.cli.index", "What is in the files: symbols, imports, languages."),
    "keys": ("twin.cli.keys", "Who may ask the gateway: create, list, revoke."),
    "lm": ("twin.cli.lm", "Language models of one's own: continue a text, judge, compare."),
    "locate": ("twin.cli.locate", "Which files and symbols a task touches, and why."),
    "mine": ("twin.cli.mine", "What a history holds, and what each rule removed."),
    "models": ("twin.cli.models", "The versions of each model; promote, roll back, history."),
    "pack": ("twin.cli.pack", "A repository with all that its tests need, in one folder."),
    "packs": ("twin.cli.packs", "The packs in a folder, found by their manifests."),
    "pairs": ("twin.cli.pairs", "What there is to learn from: build, count, export."),
    "pretrain": ("twin.cli.pretrain", "Trains a small language model of one's own from text."),
    "serve": ("twin.cli.serve", "One endpoint over all models; every call recorded."),
    "runs": ("twin.cli.runs", "What was run on this repository, and how it ended."),
    "unpack": ("twin.cli.unpack", "A work tree with a ready environment, from a pack."),
    "train": ("twin.cli.train", "Learns from recorded calls which model a request needs."),
}
"""Name -> (module, short help). The module holds a click command in the attribute `command`."""


class _ReaderGone(Exception):
    """The reader of stdout (`head`, a pager) has seen enough."""


class LazyGroup(click.Group):
    """Imports a command's module only when that command is run or its own help is asked for."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click itself would leave with 1: "the answer is no"
            raise _ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command), f"{cmd_name} has no click command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for `--help`, from the table alone: nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, name="twin", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--repo",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="PATH",
    help="The repository to work on, or any folder inside it; default: the current folder.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="A configuration file; default: twin.toml or [tool.twin] of pyproject.toml.",
)
@click.version_option(__version__, prog_name="twin")
@click.pass_context
def cli(ctx: click.Context, repo: Path, config: Path | None) -> None:
    """Learns which files a task touches from a repository's own history, and proves it.

    \b
    Example:
      twin improve ~/src/project
      twin --repo ~/src/project locate "make the retry delay configurable"
    """
    ctx.obj = Door(repo=repo, config_file=config)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and leaves with its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A path need not be UTF-8 and a terminal need not know all of Unicode.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and gives its exit code: the one place where failures become sentences."""
    as_json = "--json" in _before_separator(arguments)
    try:
        code = cli.main(args=list(arguments), prog_name="twin", standalone_mode=False)
        sys.stdout.flush()  # a closed pipe shows here, not at interpreter exit
        return code if isinstance(code, int) else 0
    except TwinError as error:
        return _fail(type(error).__name__, str(error), error.exit_code, as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return 2
    except click.ClickException as error:
        return _fail("UsageError", _usage(error), 2, as_json)
    except (KeyboardInterrupt, click.Abort) as error:
        # A command that knows better what was kept says so in the error.
        message = str(error) or (
            "Interrupted; what was finished is kept, and the same command goes on from there."
        )
        return _fail("Interrupted", message, INTERRUPTED, as_json)
    except (_ReaderGone, BrokenPipeError):
        _abandon_stdout()
        return 0
    except OSError as error:
        return _os_failure(error, as_json)


def _os_failure(error: OSError, as_json: bool) -> int:
    where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"The disk is full{where}. Free some space and run the command again."
        return _fail(StoreFull.__name__, message, StoreFull.exit_code, as_json)
    if error.errno == errno.ENAMETOOLONG:
        message = f"No path can be as long as {os.fsdecode(error.filename or '')[:40]}... is."
        return _fail("UsageError", f"{message} Give a shorter one.", 2, as_json)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        message = f"No permission to read or write{where}. Change the permission or the path."
        return _fail(MissingRequirement.__name__, message, MissingRequirement.exit_code, as_json)
    raise error


def _fail(kind: str, message: str, code: int, as_json: bool) -> int:
    """Says what went wrong: JSON on stdout for programs, one sentence on stderr for people."""
    try:
        if as_json:
            click.echo(json.dumps({"error": {"kind": kind, "message": message}}))
        else:
            click.echo(f"twin: {message}", err=True)
    except BrokenPipeError:
        _abandon_stdout()
    return code


def _abandon_stdout() -> None:
    """Nothing more can be said there, and the interpreter must not try to at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: click.ClickException) -> str:
    """Click's message and where help is."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx else "twin"
    return f"{error.format_message().rstrip('.')}. See `{path} --help`."


def _before_separator(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments before a lone `--`: what follows it are no options."""
    arguments = list(arguments)
    return arguments[: arguments.index("--")] if "--" in arguments else arguments
