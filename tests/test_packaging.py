"""What the package says that it needs."""

import re
import tomllib
from pathlib import Path

import pytest

import hvae_jax as hj
from hvae_jax import cli

ROOT = Path(__file__).parents[1]


def test_the_lowest_versions_that_are_tested_are_those_that_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [
        *project["dependencies"],
        *(one for name in ("bench", "photo", "science", "dev") for one in extras[name]),
    ]
    lowest = dict(re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / "constraints-lowest.txt").read_text(), re.MULTILINE))
    for requirement in declared:
        found = re.match(r"([\w-]+)>=([\d.]+)", requirement)
        if found:  # but the package's own extras
            name, version = found[1].replace("_", "-"), found[2]
            assert (lowest[name] + ".0.0").startswith(version + "."), requirement


def test_version_and_citation_are_the_projects():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert hj.__version__ in (version, "0+unknown")
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [version]


@pytest.mark.parametrize(
    ("words", "found"), [("hvae-jax re", ["restore"]), ("hvae-jax restore --uncert", ["--uncertainty"])]
)
def test_a_shell_completes_commands_and_options(words, found, monkeypatch, capfd):
    monkeypatch.setenv("_HVAE_JAX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        cli.main([])
    assert capfd.readouterr().out.split() == found
