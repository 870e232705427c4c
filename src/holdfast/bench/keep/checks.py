"""The checks of an answer, as a program of its own: it runs what the model wrote and says which facts were kept.

Reads one JSON object (`family`, `answer`, `values`) from a file and writes one with a truth value per fact. It imports
nothing of this package and runs isolated, since the answer is foreign code.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ASKED = "asked.json"
"""The file, in the folder in which the program runs."""
SECONDS = 2
"""Of processor time."""
MEMORY = 512 << 20
Values = Mapping[str, Any]
Verdict = dict[str, bool]
Call = tuple[str, tuple[Any, ...]]


def check_configuration(answer: str, values: Values) -> Verdict:
    """Compares the values of a JSON object, types included."""
    written = json.loads(answer)
    return {key: type(written.get(key)) is type(value) and written[key] == value for key, value in values.items()}


def check_signature(answer: str, values: Values) -> Verdict:
    """Calls the function below, at and above the limit."""
    world = _run(answer, lambda name: type(name, (Exception,), {}))
    name, function = _function(world, values["name"])
    code, limit = function.__code__, values["limit"]
    above = _error(function, limit + 1)
    return {
        "name": name == values["name"],
        "parameter": code.co_varnames[: code.co_argcount] == (values["parameter"],),
        "limit": above is not None and _value(function, limit) == limit,
        "error": above == values["error"],
    }


def check_fixtures(answer: str, values: Values) -> Verdict:
    """Runs the test against an order that remembers what it is asked and compared with."""
    calls: list[Call] = []
    compared: list[tuple[str, Any]] = []

    class Result:
        def __init__(self, name: str) -> None:
            self.name = name

        def __eq__(self, other: object) -> bool:
            compared.append((self.name, other))
            return True

        __hash__ = None  # type: ignore[assignment]

    class Order:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            return lambda *given: Result(name)

    def stand_in(name: str) -> Callable[..., Any]:
        return _recorder(name, calls, Order())

    _, function = _function(_run(answer, stand_in), "test_order_total")
    ended = _error(function) is None
    asked, against = compared[0] if compared else ("", None)
    return {
        "fixture": any(called == values["fixture"] for called, _ in calls),
        "sample": any(given == (values["sample"],) for _, given in calls),
        "method": ended and asked == values["method"],
        "total": ended and against == values["total"],
    }


def check_prohibition(answer: str, values: Values) -> Verdict:
    """Runs the function and looks at what it called, and with what."""
    calls: list[Call] = []

    def stand_in(name: str) -> Callable[..., Any]:
        return _recorder(name, calls, "rows")

    guarded = {name: stand_in(name) for name in values["forbidden"]}
    _, function = _function(_run(answer, stand_in, guarded), values["name"])
    failed = _error(function, "rows")
    called = {what for what, given in calls if given == ("rows",)}
    one, other = (instead in called for instead in values["instead"])
    clean = failed is None and bool(calls) and not any(what in values["forbidden"] for what, _ in calls)
    return {"first": one, "second": other, "prohibition": clean}


def check_unfinished_list(answer: str, values: Values) -> Verdict:
    """Compares the entries of the dict that the answer defines."""
    world = _run(answer, lambda name: name)
    tables = [value for key, value in world.items() if isinstance(value, dict) and not key.startswith("__")]
    table = tables[-1] if tables else ast.literal_eval(answer.strip())
    rest, entries = values["rest"], values["entries"]
    first = entries - len(rest) + 1
    kept = {f"entry {at}": table.get(code) == word for at, (code, word) in enumerate(rest.items(), first)}
    return kept | {"no other": len(table) == entries and set(rest) <= set(table)}


def _recorder(name: str, calls: list[Call], result: object) -> Callable[..., Any]:
    def record(*given: Any) -> object:
        calls.append((name, given))
        return result

    return record


def _run(answer: str, stand_in: Callable[[str], Any], guarded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Runs a program in which every unknown name has a stand-in, and returns its names."""
    tree = ast.parse(answer)
    tree.body = [line for line in tree.body if not isinstance(line, ast.Import | ast.ImportFrom)]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    unknown = {name for name in names - bound if not hasattr(builtins, name)}
    world: dict[str, Any] = {name: stand_in(name) for name in unknown} | dict(guarded or {})
    exec(compile(tree, "answer", "exec"), world)
    return world


def _function(world: Mapping[str, Any], name: str) -> tuple[str, Any]:
    """Returns the function of that name, or else the first that was defined."""
    functions = {
        key: value for key, value in world.items() if getattr(value, "__code__", None) and value.__name__ == key
    }
    return (name, functions[name]) if name in functions else next(iter(functions.items()))


def _error(function: Callable[..., Any], *given: Any) -> str | None:
    """Returns the class name of the error that a call raises; None if it raises none."""
    try:
        function(*given)
    except Exception as error:
        return type(error).__name__
    return None


def _value(function: Callable[..., Any], *given: Any) -> Any:
    try:
        return function(*given)
    except Exception:
        return None


CHECKS = {
    "configuration": check_configuration,
    "signature": check_signature,
    "fixtures": check_fixtures,
    "prohibition": check_prohibition,
    "unfinished_list": check_unfinished_list,
}


def main() -> None:
    """Judges the answer in `ASKED`; an answer that does not even run keeps nothing."""
    asked = json.loads(Path(ASKED).read_text())
    Path(ASKED).unlink()  # it holds what would be right
    verdict = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the answer prints is no verdict
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))
    try:
        found = {"facts": CHECKS[asked["family"]](asked["answer"], asked["values"]), "error": ""}
    except Exception as error:
        found = {"facts": {}, "error": f"{type(error).__name__}: {error}"[:200]}
    json.dump(found, verdict)
    verdict.close()


if __name__ == "__main__":
    main()
