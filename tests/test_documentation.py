"""The documentation: links, commands, module paths and examples are those of the program.

`python tests/test_documentation.py` writes the reference of commands anew, from the help of the program.
"""

import argparse
import ast
import doctest
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from rectal_nnformer.cli import build_parser

CHECKOUT = Path(__file__).parents[1]
DOCUMENTATION = CHECKOUT / "documentation"
COMMANDS_PAGE = DOCUMENTATION / "reference/commands.md"
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted(DOCUMENTATION.rglob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
SOURCES = ("rectal_nnformer", "trainers", "dataset_conversion", "tests")

COMMANDS_INTRODUCTION = """# Commands

`rectal_nnformer COMMAND --help` prints the same. Options are named as in nnU-Net where nnU-Net has them. Every `--help`
works before nnU-Net is set up.
"""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(CHECKOUT).as_posix())


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, content in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield content


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def target(page: Path, link: str) -> Path:
    name = link.partition("#")[0]
    return (page.parent / name).resolve() if name else page


def exists(dotted: str) -> bool:
    """Whether a module, or a name that is defined in one, exists; nothing is imported, which would take seconds."""
    path = CHECKOUT / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file() or path.name in names_in(path.parent)


def names_in(module: Path) -> set[str]:
    files = [module.with_suffix(".py"), module / "__init__.py", module / "__init__.pyi"]
    nodes = [node for file in files if file.is_file() for node in ast.parse(file.read_text(encoding="utf-8")).body]
    imported = [alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    defined = [node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assigned = [
        name.id
        for node in nodes
        for name in ast.walk(node)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(name, ast.Name)
    ]
    return {*imported, *defined, *assigned}


@every_page
def test_links_lead_somewhere(page):
    for link in links(page):
        assert target(page, link).exists(), link
        anchor = link.partition("#")[2]
        assert not anchor or anchor in anchors(target(page, link)), link


def test_every_page_is_reached_from_the_index():
    reached, waiting = set(), [DOCUMENTATION / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            waiting += [target(page, link) for link in links(page)]
    assert set(PAGES) <= reached | {CHECKOUT / "CHANGELOG.md"}
    assert DOCUMENTATION / "README.md" in {target(PAGES[0], link) for link in links(PAGES[0])}


@cache
def known_parser() -> argparse.ArgumentParser:
    return build_parser()


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: subparser
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, subparser in action.choices.items()
    }


def command_lines(block: str) -> Iterator[list[str]]:
    """The calls of rectal_nnformer in a block of shell lines, without those words."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in re.split(r"(?<=\s)\|+|&&|;|\$\(|\)\"", line):
            words = shlex.split(part.replace('eval "', ""), comments=True)
            if words[:1] == ["rectal_nnformer"]:
                yield words[1:]


@every_page
def test_commands_in_blocks_are_understood(page):
    parser = known_parser()
    for block in blocks(page, "bash", "sh"):
        for arguments in command_lines(block):
            parsed, rest = parser.parse_known_args(arguments)
            assert not rest or getattr(parsed, "pass_through", False), arguments


@every_page
def test_commands_in_the_text_and_their_options_exist(page):
    for span in code_spans(page):
        name, *words = span.split()
        if name != "rectal_nnformer" or not words or words[0] in ("COMMAND", "--help", "--version"):
            continue
        parser = known_parser()
        while words and words[0] in subcommands(parser):
            parser = subcommands(parser)[words.pop(0)]
        assert parser.prog != "rectal_nnformer", span
        if not parser.get_default("pass_through"):
            assert {word for word in words if word.startswith("-")} <= set(parser._option_string_actions), span


@every_page
def test_modules_and_files_that_are_named_exist(page):
    for span in code_spans(page):
        if re.fullmatch(r"(rectal_nnformer|trainers|dataset_conversion|tests|documentation|\.ci)/[\w./-]*", span):
            assert (CHECKOUT / span).exists(), span
        elif match := re.match(r"rectal_nnformer(\.\w+)+", span):
            assert exists(match[0]), span
        elif match := re.match(r"python -m (tests[\w.]+)", span):
            assert (CHECKOUT / match[1].replace(".", "/")).with_suffix(".py").is_file(), span


@every_page
def test_imports_in_python_blocks_work(page):
    for block in blocks(page, "python"):
        if ">>>" in block:
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("rectal_nnformer"):
                assert all(exists(f"{node.module}.{alias.name}") for alias in node.names), ast.unparse(node)


@every_page
def test_examples_print_what_they_say(page):
    for block in blocks(page, "python"):
        example = doctest.DocTestParser().get_doctest(block, {}, page.name, str(page), 0)
        assert doctest.DocTestRunner().run(example).failed == 0


@every_page
def test_trainers_that_are_named_exist(page):
    defined = {
        name
        for module in (CHECKOUT / "trainers").glob("nnUNetTrainer*.py")
        for name in re.findall(r"^class (\w+)", module.read_text(encoding="utf-8"), re.M)
    }
    named = set(
        re.findall(
            r"\bnnUNetTrainer(?:SMIT|SwinUNETR|SwinUNETRV2)_[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*",
            page.read_text(encoding="utf-8"),
        )
    )
    of_the_reader = {name for block in blocks(page, "python") for name in re.findall(r"^class (\w+)", block, re.M)}
    assert named <= defined | of_the_reader


def source_files() -> Iterator[Path]:
    for folder in SOURCES:
        yield from (CHECKOUT / folder).rglob("*.py")


def test_pages_that_the_code_names_exist():
    for path in source_files():
        for name in re.findall(r"documentation/[\w./-]+\.md", path.read_text(encoding="utf-8")):
            assert (CHECKOUT / name).is_file(), f"{path} names {name}"


def test_messages_that_are_explained_are_those_of_the_program():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in source_files() if path.parent.name != "tests"]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    texts = "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    page = (DOCUMENTATION / "reference/errors.md").read_text(encoding="utf-8")
    explained = page.partition("<!-- table: end -->")[2]  # of the table before, each row is a test
    rows = [row for row in re.findall(r"^\| ([^|]+) \|", explained, re.M) if row != "message" and "---" not in row]
    assert len(rows) > 5
    for row in rows:
        for part in row.split("..."):
            assert part.strip(" ',") in texts, row


def test_the_reference_of_commands_is_the_help():
    assert COMMANDS_PAGE.read_text(encoding="utf-8") == command_reference(), f"Run: python {Path(__file__).name}"


def command_reference() -> str:
    """Return the page of all commands and options."""
    sections = [COMMANDS_INTRODUCTION]
    for name, parser in subcommands(known_parser()).items():
        below = subcommands(parser)
        sections.append(_section("##", name, parser))
        sections += [_section("###", f"{name} {action}", subparser) for action, subparser in below.items()]
    return "\n".join(sections)


def _section(level: str, name: str, parser: argparse.ArgumentParser) -> str:
    summary = " ".join((parser.description or "").split("\n\n")[0].split())
    lines = [f"{level} {name}", "", summary[:1].upper() + summary[1:].rstrip(".") + "."]
    rows = [
        f"| {_invocation(action)} | {_meaning(action)} |"
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    ]
    if parser.usage:
        lines += ["", f"`{parser.usage % {'prog': parser.prog}}`"]
    if rows:
        lines += ["", "| option | meaning |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _invocation(action: argparse.Action) -> str:
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
    value = "" if action.nargs == 0 else action.metavar or choices
    if isinstance(value, tuple):
        value = " ".join(value)
    elif action.nargs == "+":
        value = f"{value} [...]"
    required = " (required)" if action.required and action.option_strings else ""
    names = [f"`{f'{option} {value}'.strip()}`" for option in action.option_strings] or [f"`{value}`"]
    return ", ".join(names) + required


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": "rectal_nnformer"}
    return re.sub(r"(<\w+>[\w.]*)", r"`\1`", text).replace("|", "\\|")


if __name__ == "__main__":
    COMMANDS_PAGE.write_text(command_reference(), encoding="utf-8")
