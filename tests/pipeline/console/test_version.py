"""`--version`: of the installed package, else of the checkout; and never looked up when nobody asks."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.cli import main
from pipeline.console import version as of_ours


def test_it_is_the_installed_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"t2t-edge {version('t2t-edge')}\n"


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(of_ours, "version", missing)


@pytest.mark.usefixtures("uninstalled")
def test_a_checkout_that_is_not_installed_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"t2t-edge \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.usefixtures("uninstalled")
def test_a_project_without_a_version_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_ours, "PROJECT", tmp_path / "pyproject.toml")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(RuntimeError, match="names no version"):
        of_ours.our_version()


def test_it_is_in_the_help_and_looked_up_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_ours, "our_version", lambda: pytest.fail("nobody asked"))
    assert "--version" in cli.make_parser().format_help()
