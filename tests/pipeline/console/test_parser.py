"""Wrong use of the command line: what was given, what was meant, what is allowed, the next command; never a page of usage."""

import json

import pytest

from pipeline import cli
from pipeline.cli import main
from pipeline.console.exit_status import WRONG_INPUT

Printed = pytest.CaptureFixture[str]
COMMANDS = ", ".join(cli.make_parser()._commands())
OF_RUN = "--help, --json, --recipe, --run, --runs, --dry-run"


def refused(printed: Printed, *arguments: str) -> list[str]:
    """The lines of the message of a command that ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == WRONG_INPUT
    return printed.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exprot", "--recipe", "my recipe.yaml"], [
            "error: there is no such command", "  got: exprot; did you mean export?", f"  allowed: {COMMANDS}",
            "  next: t2t-edge export --recipe 'my recipe.yaml'",
        ]),
        (["Train"], [
            "error: there is no such command", "  got: Train; did you mean train?", f"  allowed: {COMMANDS}",
            "  next: t2t-edge train",
        ]),
        (["fly"], [
            "error: there is no such command", "  got: fly", f"  allowed: {COMMANDS}", "  next: t2t-edge --help",
        ]),
        (["run", "--recpie", "x"], [
            "error: t2t-edge run has no such option", "  got: --recpie; did you mean --recipe?", f"  allowed: {OF_RUN}",
            "  next: t2t-edge run --recipe x",
        ]),
        (["run", "--json", "-recipe=x"], [  # and the document, on stdout
            "error: t2t-edge run has no such option", "  got: -recipe; did you mean --recipe?", f"  allowed: {OF_RUN}",
            "  next: t2t-edge run --json --recipe=x",
        ]),
        (["run", "--explain"], [
            "error: t2t-edge run has no such option", "  got: --explain", f"  allowed: {OF_RUN}",
            "  next: t2t-edge run --help",
        ]),
        (["models", "t2t_vit_14"], [
            "error: an argument is left over", "  got: t2t_vit_14", "  allowed: options alone",
            "  next: t2t-edge models --help",
        ]),
        (["completion", "zhs"], [
            "error: there is no such shell", "  got: zhs; did you mean zsh?", "  allowed: bash, zsh",
            "  next: t2t-edge completion zsh",
        ]),
        ([], [
            "error: the following arguments are required: command", f"  allowed: {COMMANDS}", "  next: t2t-edge --help",
        ]),
        (["bundle", "--images", "many"], [
            "error: argument --images: invalid int value: 'many'", "  next: t2t-edge bundle --help",
        ]),
    ],
)  # fmt: skip
def test_the_whole_message(capsys: Printed, arguments: list[str], message: list[str]) -> None:
    assert refused(capsys, *arguments) == message


def test_an_option_before_its_command(capsys: Printed) -> None:
    """Without this, its value would be taken for the command."""
    lines = refused(capsys, "--run", "mine", "predict", "x.png")
    assert lines[:2] == ["error: t2t-edge has no such option", "  got: --run"]
    assert "those of a command behind its name" in lines[2]
    assert refused(capsys, "--verison")[-1] == "  next: t2t-edge --version"


def test_an_unknown_option_is_said_before_what_follows_from_it(capsys: Printed) -> None:
    assert "--tpo; did you mean --top?" in refused(capsys, "predict", "--tpo")[1]  # not: SOURCE is missing
    assert "-z" in refused(capsys, "predict", "-5", "a.png", "-z")[1]  # -5 is a value


def test_passwords_are_not_repeated(capsys: Printed) -> None:
    lines = refused(capsys, "predict", "--tpo", "3", "rtsp://user:secret@10.0.0.2/live")
    assert lines[-1] == "  next: t2t-edge predict --help" and not any("secret" in line for line in lines)


def test_beginnings_of_options_are_taken_as_ever() -> None:
    options = cli.make_parser().parse_args(["run", "--recip", "x.yaml", "--dry"])
    assert str(options.recipe) == "x.yaml" and options.dry_run


def test_what_stands_behind_two_dashes_is_no_option() -> None:
    assert cli.make_parser().parse_args(["predict", "--", "--tpo.png"]).paths == ["--tpo.png"]


def test_json_has_the_message_where_the_command_prints_one_document(capsys: Printed) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--json", "--recpie", "x"])
    assert json.loads(capsys.readouterr().out) == {
        "command": "run", "exit_status": WRONG_INPUT,
        "error": {
            "what": "t2t-edge run has no such option", "got": "--recpie; did you mean --recipe?", "allowed": OF_RUN,
            "next": "t2t-edge run --json --recipe x",
        },
    }  # fmt: skip
    with pytest.raises(SystemExit):
        main(["predict", "--json", "--tpo"])
    assert capsys.readouterr().out == ""  # its documents are lines, one for each image
