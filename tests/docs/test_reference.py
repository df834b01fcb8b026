"""The reference is complete: every option, setting, op, field, error code and public name.

Names of Python's are looked for in the code's docstrings and in the pages of `docs/api`, so that
no Sphinx is needed here; that the built pages have them is checked by `tox -e docs`.
"""

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import click
import public_names
import pytest
from docs_blocks import ROOT, blocks_of, pages

from twinline.cli.main import main
from twinline.cli.settings.model import Settings
from twinline.core.errors import ERROR_BY_CODE
from twinline.core.protocol import REQUEST_BY_OP, REQUESTS
from twinline.core.service import ChatService

DOCS = ROOT / "docs"
OF_EVERY_COMMAND = {"--help", "--help-all"}
# Modules that no other package needs to import; the rest is on the pages of docs/api.
INTERNAL = (
    "core.accounts",
    "core.admission",
    "core.addresses",
    "core.interrupts",
    "core.messages",
    "core.guesses",
    "core.hash_queue",
    "core.limit_states",
    "core.plugins",
    "core.settling",
    "core.receipts",
    "core.reloading",
    "core.shared_limits",
    "core.throttle",
    "core.tokens",
    "core.watches",
    "transports.binary.*",
    "transports.client.*",
    "transports.conformance.*",
    "transports.tls.*",
    "transports.web.*",
    "transports.connecting",
    "transports.foreign",
    "transports.listener.*",
    "transports.race",
    "transports.resolver",
    "transports.wakeup",
    "transports.websocket.*",
    "stores.conformance.*",
    "stores.memory.*",
    "stores.archive",
    "stores.backup",
    "stores.copying",
    "stores.rules",
    "stores.upkeep",
    "stores.postgresql",
    "stores.postgresql.*",
    "stores.shared",
    "stores.sql",
    "stores.shared.*",
    "stores.sql.*",
    "stores.sqlite.*",
    "stores.valkey.*",
)


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def sections(text: str, marks: str) -> dict[str, str]:
    """Return what stands under each heading of a level."""
    parts = re.split(rf"^{marks} (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# -- options and settings -------------------------------------------------------------------


def commands(
    command: click.Command = main, name: str = "twinline"
) -> Iterator[tuple[str, set[str]]]:
    """Yield every command that does something, with its long options."""
    context = click.Context(command, **command.context_settings)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from commands(found, f"{name} {each}")
    options = {
        option
        for parameter in command.get_params(context)
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--") and option not in OF_EVERY_COMMAND
    }
    if not isinstance(command, click.Group) or options:
        yield name, options


def missing_options(cli: str, settings: str) -> list[str]:
    """Return the options that are not told of in the part of their command."""
    parts = sections(cli, "###")
    missing = []
    for name, options in commands():
        part = parts.get(name)
        if part is None:
            missing.append(f"{name}: there is no part on it")
            continue
        part = part.split("\n## ")[0]
        for title, shared in parts.items():
            if f"(#{title.lower().replace(' ', '-')})" in part:
                part += shared
        if "(settings.md)" in part:
            part += settings
        missing += [
            f"{name} {option}"
            for option in sorted(options)
            if not re.search(rf"(?<![\w-]){option}(?![\w-])", part)
            # A switch of a setting is told of by its name: --insecure has --no-insecure too.
            and not (
                option.startswith("--no-")
                and option[5:].replace("-", "_") in Settings.model_fields
                and f"`--{option[5:]}`" in part
            )
        ]
    return missing


def test_every_option_is_in_the_part_of_its_command() -> None:
    cli = read("cli.md")
    if "\n### twinline serve\n" not in cli:
        pytest.skip("docs/cli.md has no reference of the commands, one part for each")
    assert missing_options(cli, read("settings.md")) == []


def test_an_option_that_is_missing_is_noticed() -> None:
    whole = "".join(
        f"### {name}\n\n" + "".join(f"- `{option}`\n" for option in sorted(options)) + "\n"
        for name, options in commands()
    )
    assert missing_options(whole, "") == []
    assert missing_options(whole.replace("- `--lines`\n", ""), "") == ["twinline send --lines"]
    assert missing_options(whole.replace("### twinline ping\n", ""), "") != []


def test_every_setting_has_a_row() -> None:
    text = read("settings.md")
    for name in Settings.model_fields:
        assert f"\n| `{name}` | `--" in text, name


# -- the protocol ---------------------------------------------------------------------------


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda each: each.op)
def test_every_op_has_its_fields_and_those_of_its_reply(request_type) -> None:
    parts = sections(read("protocol.md"), "###")
    for name, model in (
        (request_type.op, request_type),
        (request_type.reply.__name__, request_type.reply),
    ):
        for python_name, field in model.model_fields.items():
            told = field.alias or python_name
            assert f"\n| `{told}` |" in parts[name], f"{name}: {told}"


# -- error codes ----------------------------------------------------------------------------


def test_every_error_code_is_told_of_and_no_other() -> None:
    parts = sections(read("errors.md"), "##")
    assert list(parts) == list(ERROR_BY_CODE)
    for code, kind in ERROR_BY_CODE.items():
        word = "yes" if kind.retryable else "no"
        sentence, retryable, answers, to_do = re.fullmatch(
            r"\n(.+)\n\n- Retryable: (.+)\.\n- Answers: (.+)\.\n\n([\s\S]+)", parts[code]
        ).groups()
        assert sentence == inspect.getdoc(kind).partition("\n")[0]
        assert retryable == word
        assert f"\n| [`{code}`](#{code}) | {word} |" in read("errors.md")
        assert set(re.findall(r"`(\w+)`", answers)) <= set(REQUEST_BY_OP), code
        assert to_do.strip()


def test_the_ops_of_an_error_are_those_that_raise_it() -> None:
    parts = sections(read("errors.md"), "##")
    leaves = {kind.__name__: code for code, kind in ERROR_BY_CODE.items()}
    for op in REQUEST_BY_OP:
        told = inspect.getdoc(getattr(ChatService, op)).partition("Raises:\n")[2]
        for name in re.findall(r"\b[A-Z]\w+", told):
            answers = re.search(r"- Answers: (.+)\.", parts[leaves[name]])[1]
            named = set(re.findall(r"`(\w+)`", answers))
            if answers.startswith(("any", "`resume`, and every op")):
                continue
            assert (op in named) != answers.startswith("all but"), f"{leaves[name]} of {op}"


# -- names of Python's ----------------------------------------------------------------------


def told_by_its_source(module_name: str, path: list[str]) -> bool:
    """Return whether a name of a module, or a member of a class of it, has words of its own."""
    module = import_module(module_name)
    holder = getattr(module, path[0]) if len(path) > 1 else module
    name = path[-1]
    thing = getattr(holder, name) if len(path) == 1 else inspect.getattr_static(holder, name, None)
    if callable(thing) or isinstance(thing, property | staticmethod | classmethod):
        documented = getattr(thing, "__func__", getattr(thing, "fget", thing))
        if inspect.isroutine(documented) or isinstance(documented, type):
            return bool(inspect.getdoc(getattr(holder, name)))
    if path[1:] and name in getattr(holder, "model_fields", {}):
        return bool(holder.model_fields[name].description)
    bases = [holder] if inspect.ismodule(holder) else holder.__mro__[:-1]
    return any(
        re.search(rf"^    {name}( \(.*\))?: ", told_attributes(base), re.MULTILINE)
        or name in attributes_with_docstrings(inspect.getsource(base))
        for base in bases
        if getattr(base, "__module__", "twinline").startswith("twinline")
    )


def told_attributes(holder: object) -> str:
    return (inspect.getdoc(holder) or "").partition("Attributes:\n")[2]


def attributes_with_docstrings(source: str) -> set[str]:
    """Return the names that a body assigns and tells of in a string below."""
    (body,) = [ast.parse(source).body]
    if len(body) == 1 and isinstance(body[0], ast.ClassDef):
        body = body[0].body
    found = set()
    for node, following in itertools.pairwise(body):
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found |= set(public_names.assigned_names(node))
    return found


@pytest.mark.parametrize("module_name", public_names.documented())
def test_every_public_name_is_documented(module_name: str) -> None:
    written = re.findall(r"^\.\. py:data:: (\w+)$", all_api_pages(), re.MULTILINE)
    assert import_module(module_name).__doc__
    for full_name in public_names.public_names(module_name):
        path = full_name.removeprefix(module_name).strip(".").split(".")
        if path != [""] and path[0] not in written:
            assert told_by_its_source(module_name, path), full_name


def all_api_pages() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))


def test_every_module_is_public_or_known_to_be_internal() -> None:
    documented = public_names.documented()
    assert [] not in documented.values(), "a module is opened and nothing of it is picked"
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("core", "transports", "stores")
        for file in (ROOT / package).glob("**/*.py")
    }
    public = {name.removeprefix("twinline.") for name in documented}
    modules -= {"core", "transports", "stores"}
    internal = {name for name in modules if any(fnmatch(name, each) for each in INTERNAL)}
    assert sorted(modules - public - internal) == [], "add it to a page of docs/api, or to INTERNAL"


def test_what_is_public_is_found() -> None:
    names = set(public_names.public_names())
    for name in (
        "twinline.core.service.ChatService.watch",
        "twinline.core.protocol.Watch.after",
        "twinline.core.protocol.MAX_PAGE",
        "twinline.stores.registry.open_store",
        "twinline.transports.client.Client.messages",
        "twinline.transports.contract.ServerCodec.resolve",
    ):
        assert name in names
    assert not [name for name in names if name.rpartition(".")[2].startswith("_")]
    assert "twinline.transports.client.MAX_PAGE" not in names, "an import is not a name of its own"


def test_a_name_without_words_is_noticed() -> None:
    assert attributes_with_docstrings('A = 1\nB = 2\n"""Two."""\n') == {"B"}
    assert not told_by_its_source("twinline.core.locks", ["checking", "off"])


# -- the pages --------------------------------------------------------------------------------


def test_every_page_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = re.findall(r"\]\(((?!https?:)[^)#]+\.md)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / target).resolve() for target in targets]
    assert [page for page in sorted(DOCS.glob("**/*.md")) if page.resolve() not in seen] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks_of(text):
        text = text.replace(block.text, "")
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#([^)\s]+))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as Git hosts and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sources = "\n".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("**/test_*.py")
    )
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in sources, name
