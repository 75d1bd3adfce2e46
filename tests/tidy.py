"""Checks what no other linter does: sizes, banned calls, seams, generated code, documents.

`python tests/tidy.py` prints one line for each finding and exits with 1 if there are any;
`python tests/tidy.py --write` first writes the tables of the documents anew from the code. Needs
the package importable and nothing built. Its numbers are the style of this project: a function of
70 lines fits a screen, a file of 500 lines fits a head.
"""

from __future__ import annotations

import ast
import errno
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
LINE_COLUMNS_MAX = 100

# A clock, chance or I/O in these would let the members of a cluster drift apart.
PURE = ("src/dfs/commands", "src/dfs/store", "src/dfs/paths")
IMPURE_CALL = re.compile(
    r"(time\.\w+|random\.\w+|secrets\.\w+|uuid\.\w+|os\.urandom|(datetime\.)*(now|utcnow|today)"
    r"|open|print|input)"
)
OUTPUT = "src/dfs/cli/output.py"
QUEUES = {"Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"}
RUST_UNBOUNDED = re.compile(r"\b(unbounded(_channel)?|mpsc::channel)(::<[^()]*>)?\(\)")
RUST_FUNCTION = re.compile(
    r'( *)(pub(\([a-z ]+\))? )?((const|async|unsafe|extern "C") )*fn (?P<name>\w+)'
)
GO_FUNCTION = re.compile(r"()func (\([^)]*\) )?(?P<name>\w+)")
# Where Rust may know Python: one file for each seam.
PYO3_FILES = {
    "engine/src/lib.rs",
    "engine/src/seam/mod.rs",
    "engine/src/seam/contents.rs",
    "engine/src/seam/lying.rs",
    "engine/src/seam/turn.rs",
    "engine/src/mount/seam.rs",
    "engine/src/records/seam/mod.rs",
    "engine/src/records/seam/parts.rs",
}


# ---- files ---------------------------------------------------------------------------------------
def name(path: Path) -> str:
    """The path as findings show it."""
    return path.relative_to(ROOT).as_posix()


def sources(suffix: str, *folders: str) -> Iterator[Path]:
    """The hand-written files of a kind."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob(f"*{suffix}")):
            if "_pb2" not in path.name and not {"target", ".work"} & set(path.parts):
                yield path


def parsed(*folders: str) -> Iterator[tuple[str, str, ast.Module]]:
    """(name, text, tree) of each Python file."""
    for path in sources(".py", *folders):
        text = path.read_text()
        yield name(path), text, ast.parse(text)


# ---- sizes ---------------------------------------------------------------------------------------
def check_sizes() -> Iterator[str]:
    """Files and lines; the contracts that are only signatures and words may be long."""
    python = [*sources(".py", "src", "tests", "bench"), *sources(".pyi", "src")]
    for path in [*python, *sources(".rs", "engine"), *sources(".go", "bench")]:
        lines = path.read_text().splitlines()
        if len(lines) > FILE_LINES_MAX and path.suffix != ".pyi":
            yield f"{name(path)}: {len(lines)} lines; make it a folder of {FILE_LINES_MAX} each"
        for number, line in enumerate(lines, 1):
            if len(line) > LINE_COLUMNS_MAX:
                yield f"{name(path)}:{number}: {len(line)} columns of {LINE_COLUMNS_MAX}"


def check_functions() -> Iterator[str]:
    """Lengths of functions in all languages."""
    for where, _, tree in parsed("src", "tests", "bench"):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from too_long(where, node.lineno, node.name, (node.end_lineno or 0) + 1)
    for path in [*sources(".rs", "engine"), *sources(".go", "bench")]:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            if found := (RUST_FUNCTION if path.suffix == ".rs" else GO_FUNCTION).match(line):
                end = next(
                    (i for i, s in enumerate(lines[number:], number + 1) if s == found[1] + "}"),
                    number,
                )
                one_line = line.rstrip().endswith((";", "}"))
                after = number if one_line else end + 1
                yield from too_long(name(path), number, found["name"], after)


def too_long(where: str, line: int, function: str, end: int) -> Iterator[str]:
    """`end` is the first line behind the function."""
    if end - line > FUNCTION_LINES_MAX:
        yield f"{where}:{line}: {function} has {end - line} lines of {FUNCTION_LINES_MAX}"


# ---- what may not be called ----------------------------------------------------------------------
def called(node: ast.Call) -> str:
    """The dotted name of what is called, as written; "" for anything else."""
    return ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def excused(lines: list[str], number: int, word: str) -> bool:
    """The line, or the comment right above it, says `word`."""
    above = number - 2
    if word in lines[number - 1]:
        return True
    while above >= 0 and lines[above].lstrip().startswith(("#", "//")):
        if word in lines[above]:
            return True
        above -= 1
    return False


def check_calls() -> Iterator[str]:
    """Impure calls in pure modules, prints, sleeping tests, queues without a bound."""
    for where, text, tree in parsed("src", "tests"):
        lines = text.splitlines()
        waiting = waiting_helpers(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            call, place = called(node), f"{where}:{node.lineno}"
            if where.startswith(PURE) and IMPURE_CALL.fullmatch(call):
                yield f"{place}: {call} in a pure module; the entry carries what apply needs"
            if call == "print" and where.startswith("src") and where != OUTPUT:
                yield f"{place}: print; use {OUTPUT} or logging"
            if call in ("time.sleep", "asyncio.sleep") and where.startswith("tests"):
                zero = [ast.unparse(a) for a in node.args] == ["0"]
                if node.lineno not in waiting and not zero:
                    yield f"{place}: {call}; wait for a condition instead (wait_until)"
            bounded = node.args or node.keywords
            endless = call.split(".")[-1] in QUEUES and (not bounded or "SimpleQueue" in call)
            if endless and not excused(lines, node.lineno, "bounded:"):
                yield f"{place}: {call} without a bound (or a `bounded:` comment)"


def waiting_helpers(tree: ast.Module) -> set[int]:
    """The lines of the functions whose job is to wait for a condition."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("wait_until")
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }


def check_excepts() -> Iterator[str]:
    """A handler for everything raises again, or a comment says which boundary it guards."""
    for where, text, tree in parsed("src", "tests", "bench"):
        lines = text.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type else ""
            if not re.search(r"^$|\b(Base)?Exception\b", caught):
                continue
            raises = any(isinstance(n, ast.Raise) for s in node.body for n in ast.walk(s))
            if not raises and not excused(lines, node.lineno, "boundary:"):
                yield f"{where}:{node.lineno}: except {caught} swallows bugs (no `boundary:`)"


def check_rust() -> Iterator[str]:
    """Python only at the seams, a reason for each `unsafe`, a bound for each channel."""
    for path in sources(".rs", "engine/src"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            place, code = f"{name(path)}:{number}", line.split("//")[0]
            if re.search(r"\bpyo3\b", code) and name(path) not in PYO3_FILES:
                yield f"{place}: pyo3 outside the seams ({', '.join(sorted(PYO3_FILES))})"
            if re.search(r"\bunsafe (\{|impl\b)", code) and not excused(lines, number, "SAFETY:"):
                yield f"{place}: unsafe without a SAFETY comment right above"
            if RUST_UNBOUNDED.search(code) and not excused(lines, number, "bounded:"):
                yield f"{place}: a channel without a bound (or a `bounded:` comment)"


# ---- one source for each fact --------------------------------------------------------------------
def check_versions() -> Iterator[str]:
    """The version and the features of the engine stand in two places each."""
    cargo = re.search(r'^version = "(.*)"', (ROOT / "engine/Cargo.toml").read_text(), re.MULTILINE)
    for where, text, _ in parsed("src"):
        stated = re.search(r'^(?:__version__|VERSION)\b[^=\n]*= "(.*)"', text, re.MULTILINE)
        if stated and cargo and stated[1] != cargo[1]:
            yield f"{where}: version {stated[1]}, but engine/Cargo.toml has {cargo[1]}"
    features = "python"
    for where in ("tools/setup", "Makefile"):
        if f"--features {features}" not in (ROOT / where).read_text():
            yield f"{where}: builds the engine with other features than {features}"


def check_protobuf() -> Iterator[str]:
    """The generated code is what the .proto files say."""
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [ROOT / "tools/proto", folder], capture_output=True, text=True, check=False
        )
        if run.returncode:
            yield f"tools/proto: {run.stderr.strip()}"
            return
        for path in sorted(Path(folder).rglob("*_pb2*")):
            mine = ROOT / "src" / path.relative_to(folder)
            if not mine.exists() or mine.read_bytes() != path.read_bytes():
                yield f"{name(mine)}: not what proto/ says; run make proto"


# ---- documents -----------------------------------------------------------------------------------
def cell(text: str) -> str:
    """Text as one cell of a Markdown table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def table(head: str, rows: list[list[str]]) -> str:
    """A Markdown table; `head` has its columns with | between."""
    columns = [h.strip() for h in head.split("|")]
    lines = [columns, ["---"] * len(columns), *[[cell(c) for c in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def first_sentence(text: str | None) -> str:
    """Of a docstring."""
    return re.split(r"(?<=[.])\s", (text or "").strip() + " ", maxsplit=1)[0]


USER_LIMITS = ("keys and values", "messages", "watches", "store")
"""The sections of limits.py that a user may run into."""


SECTION = re.compile(r"# ---- (.*?) -*$")


def limits() -> Iterator[tuple[str, str, str]]:
    """(section, constant, reason) of each constant of limits.py."""
    text = (ROOT / "src/dfs/limits.py").read_text()
    lines = enumerate(text.splitlines(), 1)
    sections = {n: found[1] for n, line in lines if (found := SECTION.match(line))}
    body = ast.parse(text).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            reason = str(after.value.value) if said else ""  # type: ignore[union-attr]
            section = max((n, name) for n, name in sections.items() if n < node.lineno)[1]
            yield section, node.target.id, reason


def check_limits() -> Iterator[str]:
    """Every limit has its reason."""
    for _, limit, reason in limits():
        if not reason:
            yield f"src/dfs/limits.py: {limit} has no reason (a string below it)"


def table_limits() -> str:
    """The limits that a user may meet."""
    import dfs.limits

    return table("limit | value | reason", [
        [f"`{limit}`", value(limit, getattr(dfs.limits, limit)), reason]
        for section, limit, reason in limits()
        if section in USER_LIMITS
    ])


def value(limit: str, number: int) -> str:
    """A limit as people write it."""
    for shift, unit in ((20, "MiB"), (10, "KiB")):
        if "BYTES" in limit and number >= 1 << shift and number % (1 << shift) == 0:
            return f"{number >> shift:,} {unit}"
    return f"{number:,}"


def table_errors() -> str:
    """Each class of errors.py with its numbers."""
    import grpc

    import dfs.errors

    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    rows = []
    for kind in dfs.errors.ALL:
        row = kind.row
        rows.append([
            f"`{kind.__name__}`", first_sentence(kind.__doc__), row.reason, codes[row.code],
            errno.errorcode[row.errno], str(row.http), str(row.exit), "yes" if row.retry else "no",
        ])
    return table("error | when | reason | gRPC code | errno | HTTP | exit | safe to retry", rows)


def table_settings() -> str:
    """Each setting of config.py."""
    import dfs.config

    rows = [
        [
            f"`{row.flag}`", f"`{row.variable}`", f"`{row.name}`", row.default or "(none)",
            ", ".join(row.used_by), row.doc,
        ]
        for row in dfs.config.rows()
    ]
    return table("flag | variable | dfs.yaml | default | of | meaning", rows)


def table_commands() -> str:
    """Each command of the command line."""
    from dfs.cli.parsing import COMMANDS

    return table("command | what it does", [[f"`dfs {c}`", row.doc] for c, row in COMMANDS.items()])


TABLES: dict[str, Callable[[], str]] = {
    "limits": table_limits, "errors": table_errors, "settings": table_settings,
    "commands": table_commands,
}
TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(?:.*?\n)??(<!-- end of table -->)", re.DOTALL)


def documents() -> list[Path]:
    """The documents at the top of the repository and of the benchmarks."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("bench/*.md")])


def check_tables(write: bool = False) -> Iterator[str]:
    """Tables between `<!-- table: NAME -->` and `<!-- end of table -->` are what the code says."""
    found = set()
    for path in documents():
        text = path.read_text()
        found |= {match[2] for match in TABLE.finditer(text)}
        fresh = TABLE.sub(lambda match: match[1] + TABLES[match[2]]() + "\n" + match[3], text)
        if fresh != text and write:
            path.write_text(fresh)
        elif fresh != text:
            yield f"{name(path)}: a table is not what the code says; run make tables"
    for missing in sorted(TABLES.keys() - found):
        yield f"no document has the table of {missing}"


def check_links() -> Iterator[str]:
    """Links between files of the repository lead somewhere."""
    for path in documents():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                yield f"{name(path)}: links to {target}, which does not exist"


def plain(text: str) -> str:
    """Text without its line breaks."""
    return " ".join(text.split())


def promises() -> Iterator[tuple[str, str]]:
    """(test, paragraph) of SEMANTICS.md: each paragraph that promises is followed by its test."""
    text = (ROOT / "SEMANTICS.md").read_text()
    for match in re.finditer(r"((?:^(?![#<|]).+\n)+)\n?<!-- test: (\S+) -->", text, re.MULTILINE):
        yield match[2], plain(match[1])


def docstrings() -> dict[str, str]:
    """Of each test: "tests/…/test_x.py::test_y" → docstring."""
    return {
        f"{where}::{node.name}": plain(ast.get_docstring(node) or "")
        for where, _, tree in parsed("tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def check_promises() -> Iterator[str]:
    """Each promise of SEMANTICS.md is the docstring of exactly one test, word for word."""
    if not (ROOT / "SEMANTICS.md").exists():
        yield "SEMANTICS.md: missing"
        return
    tests = docstrings()
    marked = list(promises())
    if len(marked) != (ROOT / "SEMANTICS.md").read_text().count("<!-- test: "):
        yield "SEMANTICS.md: a `<!-- test: … -->` does not stand right behind one paragraph"
    for test, paragraph in marked:
        if test not in tests:
            yield f"SEMANTICS.md: there is no test {test}"
        elif tests[test] != paragraph:
            yield f"SEMANTICS.md: not the docstring of {test}: {tests[test][:60]!r}…"


CHECKS = (
    check_sizes, check_functions, check_calls, check_excepts, check_rust, check_versions,
    check_limits, check_protobuf, check_tables, check_links, check_promises,
)


def main(arguments: list[str]) -> int:
    """Runs all checks; the count of findings decides the exit code."""
    sys.path.insert(0, str(ROOT / "src"))
    if arguments == ["--write"]:
        list(check_tables(write=True))
    findings = [finding for check in CHECKS for finding in check()]
    for finding in findings:
        sys.stdout.write(finding + "\n")
    sys.stdout.write(f"tidy: {len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
