"""`genserve doctor`: looks at everything that the server needs and says what is to be done."""

import typer

from genserve.cli.exits import Exit
from genserve.cli.options import AsJson, ConfigFile, DataDir, Url, load
from genserve.cli.output import show_json

MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "red")}


def doctor(
    url: Url = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine and this installation; ends with 1 when something must be done."""
    config = load(config_file, data_dir)

    from genserve.cli.checks import compute, machine, service
    from genserve.cli.checks.finding import Finding, Verdict

    found: list[Finding] = []
    for group in (machine.check(config), compute.check(), service.check(config, url)):
        for finding in group:
            found.append(finding)
            if not as_json:
                _show(finding.subject, finding.verdict, finding.found, finding.remedy)
    problems = sum(finding.verdict is Verdict.PROBLEM for finding in found)
    if as_json:
        show_json(
            [
                {
                    "subject": finding.subject,
                    "verdict": finding.verdict,
                    "found": finding.found,
                    "remedy": finding.remedy,
                }
                for finding in found
            ]
        )
    elif problems:
        typer.echo(f"\n{problems} to be done, as said above")
    if problems:
        raise typer.Exit(Exit.FAILED)


def _show(subject: str, verdict: str, found: str, remedy: str) -> None:
    word, colour = MARKS[verdict]
    mark = typer.style(f"{word:8}", fg=colour, bold=verdict == "problem")
    typer.echo(f"{mark}{subject:14}{found}" + (f"\n{'':22}→ {remedy}" if remedy else ""))
