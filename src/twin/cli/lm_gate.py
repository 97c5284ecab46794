"""`twin lm gate`: what must hold before more time is spent on a model."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twin import __version__
from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.lm_door import checkpoint_folder, models_folder, need_torch, sentences
from twin.errors import Refused

if TYPE_CHECKING:
    from twin.lm.evidence import Subject, Text
    from twin.lm.report import Report


@click.command(name="gate")
@click.argument("checkpoint")
@click.option(
    "--stage",
    type=click.Choice(["build", "train", "long", "scale"]),
    default="scale",
    show_default=True,
    help="What is about to happen: more of the gates are run from left to right.",
)
@click.option(
    "--text",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Text to judge by; default: the one it was trained on, the held-out part.",
)
@click.option("--against", metavar="CHECKPOINT", help="G3.6: another version to compare with.")
@click.option("--target", type=float, metavar="NATS", help="G5: the loss this scale must reach.")
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="G3: steps trained on the side where the model has no metrics; 0: none.",
)
@click.option("--recall", is_flag=True, help="Needle in a haystack and MQAR too; minutes.")
@click.option("--kernels", default="auto", show_default=True, help="native, chunked, reference.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help="Also writes a page with plots, in one file.",
)
@json_option
@pass_door
def command(door: Door, /, checkpoint: str, as_json: bool, html: Path | None, **given: Any) -> int:
    """Runs the gates G0 to G5 on a model and says pass, warn or fail for each check.

    CHECKPOINT is a model's name (`twin lm list`) or its folder. After building: G0 control tokens
    and kernels, G1 the forward pass. Before training also G2, the first predictions. Before a long
    run also G3 loss and gradients, G3.5 the states, G4 both pathways and what each part is worth.
    Before scaling up also G3.6 and G5.

    Exit code 1 if a gate fails.

    \b
    Example:
      twin lm gate shakespeare --stage long --html gates.html
      twin lm gate mine --against mine-before --target 1.45 --json
    """
    need_torch("A gate")
    with sentences():
        from twin.lm.evidence import load_subject
        from twin.lm.gating import Options, judge
        from twin.lm.report import as_dict, write_html

        subject = load_subject(checkpoint_folder(door, checkpoint), given["kernels"])
        other = given["against"]
        against = load_subject(checkpoint_folder(door, other)) if other else None
        options = Options(
            stage=given["stage"],
            steps=given["steps"],
            target=given["target"],
            recall=given["recall"],
            kernels=given["kernels"],
            seed=given["seed"],
            draw=html is not None,
        )
        with show.stages(quiet=as_json) as tell:
            report = judge(
                subject,
                _text(door, subject, given["text"]),
                options,
                against=against,
                made=f"Judged {show.when(time.time())} UTC by cognitive-twin {__version__}.",
                tell=tell,
            )
        if html is not None:
            write_html(report, html)
    if as_json:
        show.as_json(as_dict(report))
    else:
        _tell(report)
        if html is not None:
            show.say(f"Report: {html}")
    return Refused.exit_code if report.grade == "fail" else 0


def _text(door: Door, subject: "Subject", files: tuple[Path, ...]) -> "Text":
    from twin.lm.evidence import CORPORA, file_text, learnt_text

    return file_text(files) if files else learnt_text(subject, models_folder(door) / CORPORA)


def _tell(report: "Report") -> None:
    rows = [
        (one.grade, one.gate, one.check, one.value, one.thresholds, one.sentence)
        for one in report.verdicts
    ]
    title = f"{report.title}, gates before: {report.stage}"
    show.table(title, ("", "gate", "check", "value", "bands", "what it means"), rows)
    for table in report.tables:
        show.table(table.title, table.columns, table.rows, note=table.note)
    show.say(f"{report.grade}: {report.headline}")
