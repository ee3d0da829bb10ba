"""The house: folders are layers, an import points only downwards, and a family is known by name in
its own file and the registry alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "jaxgmm"

# From the bottom to the top; those of one row know nothing of each other.
LAYERS = (
    ("_numerics",),
    ("_estep",),
    ("_stream",),
    ("_model",),
    ("_lane",),
    ("_algorithms", "_mixture"),
    ("_fit",),
    ("_inference",),
    ("_export", "algebra", "numpyro", "plot", "sklearn", "stats", "views"),
    ("__init__.py",),
)
RANK = {name: i for i, row in enumerate(LAYERS) for name in row}
FILES = sorted(PACKAGE.rglob("*.py"))
# Bridges to a package of the same name: the only modules that may import these.
BRIDGES = {
    "pyarrow": "_stream",
    "sklearn": "sklearn",
    "matplotlib": "plot",
    "arviz": "_export",
    "orbax": "_export",
}


def room(path: Path) -> str:
    """The folder of the package that a file lies in, or ``__init__.py`` itself."""
    return path.relative_to(PACKAGE).parts[0]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules that a file imports, and whether that is as the file is loaded."""
    tree = ast.parse(path.read_text())
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node in top


def target(name: str) -> Path | None:
    """The file of the package that an import of this name loads."""
    parts = name.split(".")
    if parts[0] != "jaxgmm":
        return None
    for n in range(len(parts), 0, -1):
        place = PACKAGE.joinpath(*parts[1:n])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.exists() and file != PACKAGE.with_suffix(".py"):
                return file
    return None


def test_the_package_is_folders():
    modules = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert {name for name in modules if "." in name} == {"__init__.py", "py.typed"}
    assert {name for name in modules if "." not in name} == set(RANK) - {"__init__.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path):
    own = room(path)
    for name, _ in imports(path):
        file = target(name)
        if file is None or room(file) == own:
            continue
        assert RANK[room(file)] < RANK[own], f"{path} imports {name}"


def test_no_circle():
    edges = {path: {target(name) for name, loads in imports(path) if loads} for path in FILES}
    # a package's __init__ is loaded before its modules, which may import one another
    done: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        assert path not in above, " -> ".join(str(p.relative_to(PACKAGE)) for p in (*above, path))
        if path in done:
            return
        for other in edges[path] - {None, path}:
            visit(other, (*above, path))  # type: ignore[arg-type]
        done.add(path)

    for path in FILES:
        visit(path, ())


def test_every_folder_says_its_idea():
    for path in PACKAGE.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text, path
        assert len(text) > 40, path


def test_other_packages_are_imported_by_their_bridges_alone():
    for path in FILES:
        for name, _ in imports(path):
            bridge = BRIDGES.get(name.split(".")[0])
            assert bridge is None or room(path) == bridge, f"{path} imports {name}"


def test_a_family_is_known_by_its_name_in_its_own_file_and_the_registry_alone():
    from jaxgmm._model import families

    known = "|".join(family.__name__ for family in families.ALL)
    names = re.compile(rf"\b({known})\b")
    for path in FILES:
        place = path.relative_to(PACKAGE)
        if place.parts[:2] in (("_model", "components"), ("_model", "weights")):
            own = [family.__name__ for family in families.ALL if family.__module__ == module(path)]
        elif place in (Path("_model/families.py"), Path("__init__.py")):
            continue
        else:
            own = []
        code = without_words(path.read_text())
        found = {name for name in names.findall(code)} - set(own)
        assert not found, f"{path} knows {found}"


def module(path: Path) -> str:
    return ".".join(("jaxgmm", *path.relative_to(PACKAGE).with_suffix("").parts))


def without_words(source: str) -> str:
    """Code without its docstrings, strings and comments."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def test_files_are_short():
    lengths = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert lengths[-1] <= 330
    assert lengths[len(lengths) // 2] <= 130
