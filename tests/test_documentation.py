"""README and documentation: every public name is in the reference, every command and every example runs."""

import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer

import benchmarks.__main__
import conversion.cli
from hvae_jax import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("start", "photographs", "conversion"))]
"""Pages whose commands need nothing but what is in the repository, and seconds."""

MODULES = ("", ".operators", ".restoration", ".images", ".metrics", ".photographs", ".training", ".tuning")
GENERATED = ("gallery", "results", "repository")
"""Folders of docs that its build makes."""


def named(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page):
    """What a page has people type, as words."""
    for block in blocks(page, "(?:sh|bash)"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|", line):
                words = shlex.split(re.sub(r"[<>] *\S+", "", part), comments=True)
                if words:
                    yield words[1:] if words[0] == "srun" else words


def public():
    """The public names, and what they name."""
    for suffix in MODULES:
        module = importlib.import_module("hvae_jax" + suffix)
        names = getattr(module, "__all__", None)
        if names is None:
            names = [name for name, value in inspect.getmembers(module, inspect.isfunction) if name[0] != "_"]
            names = [name for name in names if getattr(module, name).__module__ == module.__name__]
        for name in names:
            value = getattr(module, name)
            if not isinstance(value, types.ModuleType):
                yield f"{module.__name__}.{name}", value


def documented():
    """What the reference describes, by its full name."""
    for page in sorted((ROOT / "docs/api").glob("*.rst")):
        module = ""
        for kind, name in re.findall(r"^\.\. (\w+):: ([\w.]+)$", page.read_text(), re.MULTILINE):
            if kind == "currentmodule":
                module = name + "."
            elif kind in ("autofunction", "autoclass", "autoexception", "autodata"):
                yield name if name.count(".") else module + name


def found(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_public_name_is_in_the_reference_once():
    entries = list(documented())
    assert len(entries) == len(set(entries))
    described = [found(name) for name in entries]
    missing = [name for name, value in public() if not any(value is one for one in described)]
    assert not missing
    assert len(described) > 100


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(GENERATED):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_have_options_that_exist(page):
    for words in commands(page):
        match words:
            case [_, *options] if "--help" in options:
                continue
            case ["hvae-jax", *arguments]:
                group = typer.main.get_command(cli.app)
                context = group.make_context("hvae-jax", list(arguments))
                name, command, rest = group.resolve_command(context, list(arguments))
                command.make_context(name, rest, parent=context)
            case ["hvae-jax-convert", *arguments]:
                typer.main.get_command(conversion.cli.app).make_context("hvae-jax-convert", list(arguments))
            case ["python", "-m", "benchmarks", *arguments]:
                with contextlib.suppress(ModuleNotFoundError):  # of PyTorch, say
                    benchmarks.__main__.parser(arguments[0]).parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_compiles(page):
    for block in blocks(page, "python"):
        compile(block, named(page), "exec")


def test_each_script_of_the_gallery_has_a_title_and_measures():
    scripts = sorted((ROOT / "examples").glob("plot_*.py"))
    assert len(scripts) >= 10
    for script in scripts:
        title, line, *_ = script.read_text().removeprefix('"""\n').splitlines()
        assert line == "=" * len(title), script.name
        assert "print(" in script.read_text(), script.name
        assert "show(" in script.read_text(), script.name


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that has what a clone has, to run in."""
    for name in ("examples", "hvae_jax", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SHELL = """
hvae-jax() {{ {python} -m hvae_jax "$@"; }}
hvae-jax-convert() {{ {python} -m conversion "$@"; }}
pip() {{ :; }}
pytest() {{ :; }}
"""


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=named)
def test_commands_run(page, clone):
    # As users have it: what one command compiled, the next one finds.
    cache = {"HVAE_JAX_NO_COMPILE_CACHE": "", "HVAE_JAX_CACHE": str(clone / "cache")}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **cache}
    for block in blocks(page, "(?:sh|bash)"):
        if re.search(r"\b(PHOTOS|DATA)\b|-m benchmarks", block):
            continue
        script = SHELL.format(python=shlex.quote(sys.executable)) + block
        line = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(line, cwd=clone, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of deepinv's own
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=named)
def test_python_runs(page, clone):
    (clone / "out").mkdir()
    for block in blocks(page, "python"):
        if "import deepinv" in block and importlib.util.find_spec("deepinv") is None:  # the extra peers
            continue
        exec(compile(block, named(page), "exec"), {"__name__": "example"})
