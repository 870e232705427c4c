"""Prices: from the library's snapshot without a network, from a file, and what is assumed where one is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cost.prices import Prices, Rates, read_prices, route_prices
from holdfast.cost.usage import Usage
from holdfast.engine.routing import Route
from holdfast.errors import BadOption

MTOK = 1_000_000


def written(folder: Path, text: str, name: str = "prices.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_kind_of_token_is_billed_at_its_own_price():
    listed = Prices("m", Rates(input=1, output=2, cache_read=4, cache_write=8, cache_write_1h=16))
    kinds = ("input", "output", "cached", "written", "written_1h")
    assert [listed.money(Usage(**{kind: MTOK})) for kind in kinds] == [1, 2, 4, 8, 16]


def test_a_tier_is_for_the_whole_call_and_only_above_its_start():
    dear = Rates(2, 2, 2, 2, 2)
    listed = Prices("m", Rates(1, 1, 1, 1, 1), tiers=((1000, dear),))
    assert listed.money(Usage(input=600, cached=400)) == pytest.approx(1000 / MTOK)
    assert listed.money(Usage(input=600, cached=401)) == pytest.approx(2002 / MTOK)


def test_a_known_model_has_its_makers_shares():
    listed = read_prices("claude-sonnet-4-5")
    rates = listed.rates
    assert listed.caching == "explicit"
    shares = (rates.cache_read / rates.input, rates.cache_write / rates.input, rates.cache_write_1h / rates.input)
    assert shares == pytest.approx((0.1, 1.25, 2.0))
    assert listed.rates_of(10_000_000).input >= rates.input
    assert read_prices("anthropic/claude-sonnet-4-5").rates == rates


def test_a_model_that_only_reads_from_its_cache_caches_by_itself_and_says_so():
    listed = read_prices("gpt-5")
    assert listed.caching == "automatic"
    assert listed.notes == ("caching is automatic",)


def test_missing_cache_prices_follow_the_shares_and_are_said(tmp_path):
    listed = read_prices("m", written(tmp_path, '[models."m"]\ninput = 2\noutput = 3'))
    assert listed.rates == Rates(2, 3, 0.2, 2.5, 4)
    said = " ".join(listed.notes)
    assert all(word in said for word in ("cache_read", "cache_write", "cache_write_1h", "explicit"))


def test_the_file_goes_before_the_library_in_both_spellings(tmp_path):
    toml = written(tmp_path, '[models."gpt-5"]\ninput = 7\noutput = 8\ncache_read = 0\ncaching = "automatic"')
    json = written(tmp_path, '{"models": {"gpt-5": {"input": 7, "output": 8, "cache_read": 0}}}', "prices.json")
    assert read_prices("gpt-5", toml).rates == read_prices("gpt-5", json).rates == Rates(7, 8, 0, 8.75, 14)
    assert read_prices("claude-sonnet-4-5", toml) == read_prices("claude-sonnet-4-5")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[models."m"]\ninput = -1\noutput = 1', "models.m.input"),
        ('[models."m"]\ninput = "1"\noutput = 1', "models.m.input"),
        ('[models."m"]\ninput = nan\noutput = 1', "models.m.input"),
        ('[models."m"]\ninput = inf\noutput = 1', "models.m.input"),
        ('[models."m"]\ninput = 1', "models.m.output"),
        ('[models."m"]\ninput = 1\noutput = 1\ncache_wirte = 1', "models.m.cache_wirte"),
        ('[models."m"]\ninput = 1\noutput = 1\ncaching = "sometimes"', "models.m.caching"),
        ("models = 3", "models"),
        ("[model]\nx = 1", "models"),
        ("not toml", "TOML"),
        ("\x00", "TOML"),
    ],
)
def test_a_bad_price_file_is_refused_by_the_key_that_is_wrong(tmp_path, text, named):
    with pytest.raises(BadOption, match=named):
        read_prices("m", written(tmp_path, text))


@pytest.mark.parametrize("text", ["[]", "{", "null", "[" * 100_000])
def test_a_bad_json_file_is_refused(tmp_path, text):
    with pytest.raises(BadOption):
        read_prices("m", written(tmp_path, text, "prices.json"))


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "none.toml", tmp_path / "bytes.toml"):
        with pytest.raises(BadOption, match=path.name):
            read_prices("m", path)


@pytest.mark.parametrize(
    ("model", "hint"), [("claude-sonet-4-5", "claude-sonnet-4-5"), ("", "price-file"), ("x/y", "y")]
)
def test_an_unknown_model_is_refused_with_what_to_do(model, hint):
    with pytest.raises(BadOption, match=hint):
        read_prices(model)


def test_a_model_that_is_not_billed_by_tokens_is_refused():
    with pytest.raises(BadOption, match="no price per token"):
        read_prices("whisper-1")


def test_prices_are_found_without_a_network():
    code = (
        "import socket\n"
        "class Refused(socket.socket):\n"
        "    def connect(self, *args): raise SystemExit('network')\n"
        "socket.socket = Refused\n"
        "from holdfast.cost import read_prices\n"
        "assert read_prices('claude-sonnet-4-5').rates.input > 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_library_the_extra_is_named():
    code = (
        "import sys\n"
        "sys.modules['genai_prices'] = None\n"
        "from holdfast.cost import read_prices\n"
        "try:\n"
        "    read_prices('gpt-5')\n"
        "except Exception as error:\n"
        "    assert 'holdfast[cost]' in str(error), error\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_row_of_the_routing_table_has_its_own_prices_else_its_models():
    own = route_prices(Route(kind="openai", model="claude-sonnet-4-5", price_in=0.25, price_out=1.0))
    assert own.money(Usage(input=1_000_000, output=500_000)) == pytest.approx(0.75)
    assert route_prices(Route(kind="anthropic", model="claude-sonnet-4-5")) == read_prices("claude-sonnet-4-5")
    assert route_prices(Route(kind="local", model="smollm2-135m")).money(Usage(input=10**6, output=10**6)) == 0
    with pytest.raises(BadOption, match="knows no model"):
        route_prices(Route(kind="openai", model="nobody-knows"))
