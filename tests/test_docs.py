"""The documentation builds without a warning, and its code runs."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxgmm

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs").glob("tutorial_*.md"))
PAGES = sorted({*(ROOT / "docs").glob("*.md")} - {*TUTORIALS})
# how far a printed number may be from the page's; another rounding gives another chain of NUTS
PRINTED, OF_CHAINS = 0.05, 0.5
DECIMAL = re.compile(r"-?\d+\.\d*")
# names whose example is elsewhere: a function makes what they are, or they only label results
WITHOUT_EXAMPLE = {
    *("EM", "CAVI", "SVI", "Squarem", "Annealed", "NaturalSVI", "NaturalGradient"),
    *("Algorithm", "Result", "Selection", "State", "Status", "Stats", "Potentials"),
    *("Mixture", "Moments", "Interval", "Estimate", "Product"),
}


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def printing_blocks(page: Path) -> list[tuple[str, str]]:
    """The code blocks, each with the text block behind it, in which is what it prints."""
    pattern = r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?"
    return re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_site_builds_without_a_warning(tmp_path: Path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "reference" / "index.html").read_text()
    missing = [name for name in jaxgmm.__all__ if f'id="jaxgmm.{name}"' not in reference]
    assert not missing
    # what code it shows is marked as code, and it needs nothing from a network
    assert "Example:" not in reference
    elsewhere = re.compile(r"<(?:script|img)[^>]*src=.https?:|<link[^>]*https?:")
    assert not [p for p in tmp_path.rglob("*.html") if elsewhere.search(p.read_text())]


@pytest.mark.slow
def test_the_code_of_every_page_runs(tmp_path: Path):
    """In a fresh process, as a reader would have it: float32, warnings and all."""
    program = "".join(
        f"print({page.name!r}, flush=True)\nexec({chr(10).join(blocks(page))!r}, {{}})\n"
        for page in PAGES
    )
    assert len(program) > 3000
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_says(page: Path):
    """As above, a process for each; decimals nearly, and counts of lanes and iterations not."""
    pairs = printing_blocks(page)
    assert [code for code, _ in pairs] == blocks(page)
    program = f"""
import contextlib, io, json
names, printed = {{}}, []
for code in {[code for code, _ in pairs]!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""
    env = os.environ | {"XLA_FLAGS": ""}  # see conftest.py
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    atol = OF_CHAINS if page.stem == "tutorial_numpyro" else PRINTED
    for (_, said), found in zip(pairs, json.loads(done.stdout.splitlines()[-1]), strict=True):
        words, found_words = (re.sub(r"[-\d.\s\[\]]+", " ", text).strip() for text in (said, found))
        assert found_words == words, found
        numbers, own = (np.array(DECIMAL.findall(text), float) for text in (said, found))
        np.testing.assert_allclose(own, numbers, 1e-5, atol, err_msg=found)


def test_every_public_name_is_documented_with_an_example():
    for name in jaxgmm.__all__:
        thing = getattr(jaxgmm, name)
        text = inspect.getdoc(thing)
        assert text, name
        assert text.split("\n")[0].endswith((".", ":")), name
        if name not in WITHOUT_EXAMPLE:
            assert "Example:" in text, name


def test_the_readme_names_pages_and_files_that_exist():
    for text in ((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), target
        for target in re.findall(r"`((?:examples|benchmarks|docs|tests)/[\w/.]*)`", text):
            assert (ROOT / target).exists(), target
