"""are verbs and nouns of the field, and docstrings are plain sentences."""

import ast
import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])

IRREGULAR = """
told made held kept said found known given taken seen sent drawn left built spoken written chosen heard bound
paid brought lost meant met shown begun gone grown done laid led dealt thrown worn torn understood
fallen risen broken swept struck hung stuck
"""
NOT_PARTICIPLES = """
feed embed need seed speed exceed proceed succeed shed unneeded
quantized chunked expected retained untouched informed tiered bundled refused referenced
"""
"""Words that end like a participle and are none, and adjectives of the field."""
OPENERS = re.compile(r"(What|Where|Whether|How|Who|Whose|When|Which|Why|If|That|Nothing|The same|Same|Told|Made)\b")
"""Words that open a fragment or a riddle, and no sentence."""
ONE_WORD = re.compile(r"_*[A-Z][a-z]+")
THIRD_PERSON = re.compile(r"[A-Z][a-z-]*s\b")
NOUNS = """
Tokens Lines Spans Bytes Sessions Messages Facts Rules Words Slots Keys Values Pieces Blocks Rows
Errors Results Sections Events Types Ids Queries Heads Layers Seconds Costs Models Methods Positions
Contexts Files Options Claims This Its Headers Parts Segments Items Characters Weights States Scores
Pairs Points Objects Ratios Probes Windows Texts
"""
"""Words that look like a verb in the third person and are none."""
ERRORS = {"Failed", "Lost"}
"""Errors that are part of the Python API under these names."""


def participle(word):
    return word in IRREGULAR.split() or (word.endswith("ed") and len(word) > 3 and word not in NOT_PARTICIPLES.split())


def definitions(tree, kind):
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def is_property(function):
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def field_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for field, doc in pairwise(body) if isinstance(body, list) else ():
            text = doc.value.value if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) else None
            if isinstance(field, ast.AnnAssign) and isinstance(text, str):
                yield text


def offences(path):
    """Names that are participles, and docstrings that are no sentences."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = definitions(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    classes = definitions(tree, ast.ClassDef)
    names = [f.name for f in functions if not is_property(f) and not f.name.startswith("__")]
    yield from (name for name in names if participle(name.strip("_").split("_")[0]))
    named = [c.name for c in classes if c.name not in ERRORS and ONE_WORD.fullmatch(c.name)]
    yield from (name for name in named if participle(name.strip("_").lower()))
    yield from (word for word in path.stem.split("_")[:1] if participle(word))
    docs = [ast.get_docstring(node) or "" for node in (tree, *functions, *classes)]
    yield from (doc for doc in (*docs, *field_docstrings(tree)) if OPENERS.match(doc))
    verbs = [ast.get_docstring(f) or "" for f in functions if not is_property(f)]
    yield from (v for v in verbs if v and (not THIRD_PERSON.match(v) or v.split()[0] in NOUNS.split()))


def test_names_are_no_participles_and_docstrings_are_sentences():
    assert FILES
    assert [f"{path.relative_to(ROOT)}: {offence}" for path in FILES for offence in offences(path)] == []
