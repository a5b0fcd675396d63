"""Commands without their libraries say what to install."""

import pytest

from op4ksr_core.app.cli import main
from op4ksr_core.optional import LIBRARIES, require


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["evaluate", "a", "--gt", "b"], "evaluate"),
        (["benchmark", "run", "a", "-o", "b"], "evaluate"),
        (["curate", "a", "-o", "b"], "curate"),
    ],
)
def test_missing_libraries_are_named(command, extra, monkeypatch, capsys):
    missing = LIBRARIES[extra][0]
    monkeypatch.setattr("op4ksr_core.optional.is_installed", lambda name: name != missing)
    assert main(command) == 2
    assert f"{missing} is not installed: pip install 'op4ksr[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize("extra", ["evaluate", "curate"])
def test_here_all_are_installed(extra):
    require(extra)
