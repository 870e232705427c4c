"""The live page in a real browser, as a user meets it."""

import re
import threading
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from shown_sessions import Shown, ShownHost, serving, worked
from starlette.testclient import TestClient

from holdfast.errors import BadInput
from holdfast.server.http.app import create_app
from holdfast.server.http.auth import digest
from holdfast.server.http.settings import Settings
from holdfast.server.protocol import FactResult
from waiting import PATIENCE

CHROMIUM = Path("/usr/bin/chromium")
ARGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SOURCE = Path(__file__).parents[2] / "src" / "holdfast"
PAGES = [SOURCE / folder / "page" for folder in ("server", "proxy", "web")]
ATTACK = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>'


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    playwright.expect.set_options(timeout=1000 * PATIENCE)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(ARGS))
        yield browser
        browser.close()


@pytest.fixture
def expect(browser):
    from playwright.sync_api import expect

    return expect


@pytest.fixture
def said():
    """What the page says on its console."""
    return []


@pytest.fixture
def tab(browser, said):
    """A tab whose script must not fail and may not say anything but what a browser says of a refused request."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert [text for text in said if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def host():
    return ShownHost(worked("s-1"), worked("s-2", 2))


@pytest.fixture
def url(host):
    with serving(host) as address:
        yield address


def card(tab, session):
    return tab.locator("article").filter(has_text=session)


def width(locator):
    return locator.bounding_box()["width"]


def choose(tab, session, turn):
    card(tab, session).locator(".raw > div").nth(turn - 1).click()
    return card(tab, session).locator(".evidence")


def test_sessions_appear_as_bars_of_blocks_with_their_numbers_and_their_curve(tab, url, host, expect):
    tab.goto(url)
    shown, row = card(tab, "s-1"), host.shown["s-1"].row()
    expect(tab.locator("#state")).to_have_text("Live")
    expect(shown.locator(".raw > div")).to_have_count(row["turns"])
    expect(shown.locator(".caption.said")).to_have_text(f"Said {row['tokens']:,} tokens")
    expect(shown.locator(".kept")).to_have_text(f"Held {row['slots']:,} slots")
    expect(shown.locator(".numbers")).to_contain_text("Compactions2")
    for bar in (".raw", ".held"):
        fates = {made.get_attribute("data-fate") for made in shown.locator(f"{bar} > div").all()}
        assert fates == {"verbatim", "compacted", "lost", "repaired"}
    share = width(shown.locator(".held")) / width(shown.locator(".raw"))
    assert share == pytest.approx(row["slots"] / row["tokens"], abs=0.01)
    expect(shown.locator("svg .compaction")).to_have_count(2)
    assert "2,568 tokens were said" in shown.locator("svg").get_attribute("aria-label")


def test_the_curve_rises_with_every_turn_and_falls_at_a_compaction(tab, url, host):
    tab.goto(url)
    card(tab, "s-1").locator("svg").wait_for()

    def heights(line):
        points = card(tab, "s-1").locator(f"svg .{line}").get_attribute("points").split()
        return [-float(point.split(",")[1]) for point in points]

    held, said = heights("held-line"), heights("said-line")
    falls = [i for i in range(1, len(held)) if held[i] < held[i - 1]]
    assert falls == [i for i, point in enumerate(host.shown["s-1"].rounds, 1) if point["compacted"]]
    assert said == sorted(said)


def test_a_click_on_a_block_shows_its_raw_text_its_fate_and_what_was_lost_there(tab, url, host, expect):
    tab.goto(url)
    evidence = choose(tab, "s-1", 6)
    expect(evidence.locator("pre")).to_have_text(host.shown["s-1"].turns[5][1].strip())
    expect(evidence.locator("h3")).to_contain_text("Turn 6 · observation · 145 tokens held in 18 slots")
    expect(evidence.locator(".fate")).to_contain_text("some of its facts are lost")
    expect(evidence.locator(".facts")).to_have_text("lost: date 2024-03-02")
    choose(tab, "s-1", 30)
    expect(evidence.locator(".fate")).to_contain_text("Kept word for word")
    expect(evidence.locator(".facts")).to_have_text("")
    evidence.get_by_role("button", name="Close").click()
    expect(evidence).to_be_hidden()


def test_without_a_gate_the_page_does_not_say_that_nothing_was_lost(tab, expect):
    made = worked()
    host = ShownHost(made)
    told = host.session
    host.session = lambda *asked: {**told(*asked), "evidence": {}}
    with serving(host) as url:
        tab.goto(url)
        expect(choose(tab, "s-1", 3).locator(".fate")).to_contain_text("what it lost was not measured")


def test_the_keyboard_reaches_every_block_and_every_button(tab, url, expect):
    tab.goto(url)
    shown = card(tab, "s-1")
    shown.locator(".raw > div").first.wait_for()
    tab.get_by_role("button", name="API key…").focus()
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("listbox").first).to_be_focused()
    first = tab.locator("article").first
    for key, chosen in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("End", -1), ("Home", 0)):
        tab.keyboard.press(key)
        expect(first.locator(".raw > div").nth(chosen)).to_have_attribute("aria-selected", "true")
        expect(first.locator(".raw > [aria-selected=true]")).to_have_count(1)
    for name in ("Compact now", "Undo", "Export", "Delete", "Pin this turn", "Close"):
        tab.keyboard.press("Tab")
        expect(first.get_by_role("button", name=name)).to_be_focused()
    tab.keyboard.press("Enter")
    expect(first.locator(".raw")).to_be_focused()
    expect(first.locator(".evidence")).to_be_hidden()


def test_compact_now_makes_the_bar_shorter_and_undo_makes_it_long_again(tab, url, host, expect):
    tab.goto(url)
    shown, held = card(tab, "s-1"), card(tab, "s-1").locator(".held")
    expect(shown.locator(".held > div")).to_have_count(30)
    before = width(held)
    shown.get_by_role("button", name="Compact now").click()
    expect(shown.locator(".told")).to_have_text("Compacted: 2,568 tokens in 562 slots.")
    expect(shown.locator("svg .compaction")).to_have_count(3)
    assert width(held) < before / 2
    shown.get_by_role("button", name="Undo").click()
    expect(shown.locator(".told")).to_have_text("Taken back: 1,194 slots held.")
    expect(shown.locator(".held > div").nth(25)).to_have_attribute("data-fate", "verbatim")
    assert width(held) == pytest.approx(before)
    expect(card(tab, "s-2").get_by_role("button", name="Undo")).to_be_disabled()


def test_what_the_server_refuses_is_said_on_the_card(tab, url, host, expect):
    def compact(*_asked):
        raise BadInput(f"no room for {ATTACK}")

    host.compact = compact
    tab.goto(url)
    card(tab, "s-1").get_by_role("button", name="Compact now").click()
    expect(card(tab, "s-1").locator(".told.bad")).to_have_text(f"no room for {ATTACK}")
    expect(card(tab, "s-1").get_by_role("button", name="Compact now")).to_be_enabled()


def test_a_turn_is_pinned_and_unpinned(tab, url, host, expect):
    tab.goto(url)
    evidence = choose(tab, "s-1", 8)
    evidence.get_by_role("button", name="Pin this turn").click()
    expect(evidence.get_by_role("button", name="Unpin this turn")).to_be_enabled()
    expect(card(tab, "s-1").locator(".raw > [data-pinned]")).to_have_count(1)
    assert host.shown["s-1"].pinned == {8}
    evidence.get_by_role("button", name="Unpin this turn").click()
    expect(card(tab, "s-1").locator(".raw > [data-pinned]")).to_have_count(0)
    assert host.shown["s-1"].pinned == set()


def test_export_downloads_the_session(tab, url, host):
    tab.goto(url)
    with tab.expect_download() as waiting:
        card(tab, "s-1").get_by_role("button", name="Export").click()
    assert waiting.value.suggested_filename == "s-1.holdfast-session"
    assert Path(waiting.value.path()).read_bytes() == host.export("s-1", "")


def test_sessions_come_change_and_go_without_a_reload(tab, url, host, expect):
    tab.goto(url)
    expect(tab.locator("article")).to_have_count(2)
    choose(tab, "s-1", 6)
    host.shown["s-3"] = worked("s-3", 1)
    expect(tab.locator("article")).to_have_count(3)
    expect(tab.locator("article").first).to_contain_text("s-3")  # new ones on top, and the others stay in their order
    host.shown["s-1"].say("user", "and now the docs")
    expect(card(tab, "s-1").locator(".raw > div")).to_have_count(31)
    expect(card(tab, "s-1").locator(".raw > div").nth(5)).to_have_attribute("aria-selected", "true")
    host.drop("s-2", "")
    expect(tab.locator("article")).to_have_count(2)


def test_many_sessions_are_shown_a_page_at_a_time(tab, expect):
    with serving(ShownHost(*(worked(f"n-{n}", 1) for n in range(30)))) as url:
        tab.goto(url)
        expect(tab.locator("article")).to_have_count(20)
        tab.get_by_role("button", name="Show more of 30 sessions").click()
        expect(tab.locator("article")).to_have_count(30)
        expect(tab.locator("#more")).to_be_hidden()


def test_a_session_on_disk_stays_there_until_its_blocks_are_asked_for(tab, url, host, expect):
    host.shown["s-1"].resident = False
    tab.goto(url)
    expect(card(tab, "s-2").locator("svg")).to_be_visible()
    expect(card(tab, "s-1").locator(".said")).to_have_text("Said 2,568 tokens")
    assert not host.shown["s-1"].resident
    card(tab, "s-1").get_by_role("button", name="On disk").click()
    expect(card(tab, "s-1").locator(".raw > div")).to_have_count(30)
    expect(card(tab, "s-1").get_by_role("button", name="On disk")).to_be_hidden()


def test_text_of_a_session_is_text_whatever_it_says(tab, expect):
    made = Shown("id-<img src=x onerror=window.owned=1>")
    made.say("task", ATTACK)
    made.say("observation", f"{ATTACK} " * 4)
    made.say("action", ATTACK)
    made.say("observation", "done")
    made.facts = [FactResult(turn=2, kind=ATTACK, text=ATTACK, fate="lost")]
    made.compact()
    with serving(ShownHost(made)) as url:
        tab.goto(url)
        shown = tab.locator("article")
        expect(shown.locator("h2")).to_have_text(ATTACK)
        shown.locator(".raw > div").nth(1).click()
        expect(shown.locator("pre")).to_contain_text(ATTACK)
        expect(shown.locator(".facts")).to_have_text(f"lost: {ATTACK} {ATTACK}")
        shown.locator(".raw > div").nth(2).click()
        expect(shown.locator("pre")).to_contain_text("shell")
        shown.get_by_role("button", name="Compact now").click()
        expect(shown.locator(".told")).to_contain_text("Compacted")
        assert tab.locator("img, article script").count() == 0
        assert tab.evaluate("window.owned") is None


def test_markup_cannot_be_made_from_text_even_by_a_mistake_in_the_page(tab, url, said):
    tab.goto(url)
    refused = "element => { try { element.innerHTML = '<b>x</b>'; return 'made' } catch (error) { return error.name } }"
    assert tab.locator("main").evaluate(refused) == "TypeError"
    assert "TrustedHTML" in said.pop()


def test_a_server_with_keys_is_asked_with_the_key_of_this_tab_alone(tab, expect):
    key = "sk-right"
    host = ShownHost(worked("s-1", key=digest(key)))
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    with serving(host, Settings(keys=frozenset([digest(key)]))) as url:
        tab.goto(url)
        expect(tab.get_by_label("API key", exact=True)).to_be_focused()
        expect(tab.locator("article")).to_have_count(0)
        for given, told in (("sk-wrong", "this API key is not known here"), (key, "")):
            tab.get_by_label("API key", exact=True).fill(given)
            tab.keyboard.press("Enter")
            expect(tab.locator("#key-told")).to_contain_text(told)
        expect(card(tab, "s-1").locator("svg")).to_be_visible()
        expect(tab.locator("#key")).to_be_hidden()
        assert tab.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        assert not any(key in address for address in asked)
        tab.reload()
        expect(card(tab, "s-1")).to_be_visible()


def test_sessions_under_keys_alone_open_the_field_and_say_so(tab, expect):
    with serving(ShownHost(worked("s-9", 2, digest("mine")))) as url:
        tab.goto(url)
        expect(tab.locator("#locked")).to_have_text("Sessions exist under API keys: enter yours.")
        expect(tab.get_by_label("API key", exact=True)).to_be_focused()
        expect(tab.locator("#empty")).to_be_hidden()
        tab.get_by_label("API key", exact=True).fill("mine")
        tab.keyboard.press("Enter")
        expect(card(tab, "s-9")).to_be_visible()
        expect(tab.locator("#key")).to_be_hidden()


def test_a_stranger_with_a_key_is_not_told_of_other_keys(tab, expect):
    with serving(ShownHost(worked("s-9", 2, digest("mine")))) as url:
        tab.goto(url)
        tab.get_by_label("API key", exact=True).fill("another")
        tab.keyboard.press("Enter")
        expect(tab.locator("#empty")).to_be_visible()
        expect(tab.locator("#locked")).to_be_hidden()


def test_forks_stand_under_their_session_with_titles_of_their_own(tab, host, url, expect):
    for name, parent, words in (("f-1", "s-1", "Try sqlite"), ("f-2", "f-1", "Try postgres")):
        host.shown[name] = worked(name, 2)
        host.shown[name].parent = parent
        host.shown[name].say("user", words)
    tab.goto(url)
    family = tab.locator(".family").filter(has=card(tab, "f-1"))
    expect(family.locator("summary")).to_have_text("2 forks")
    expect(family.locator(".root h2")).to_contain_text("Make the flaky date tests")
    for name, title in (("f-1", "Fork 1: Try sqlite"), ("f-2", "Fork 2: Try postgres")):
        expect(family.locator(".forks article").filter(has_text=name).locator("h2")).to_have_text(re.compile(title))
    expect(tab.locator(".family")).to_have_count(2)
    host.drop("s-1", "")  # the forks of a session that is gone stay
    expect(tab.locator(".root").filter(has=card(tab, "f-1"))).to_be_visible()
    expect(card(tab, "f-2").locator(".raw > div").first).to_be_visible()


def test_a_busy_session_keeps_its_picture_and_says_what_it_does(tab, host, url, expect):
    host.shown["s-1"].activities = ["answering"]
    tab.goto(url)
    expect(card(tab, "s-1").locator(".hint")).to_contain_text("answers")
    expect(card(tab, "s-1").locator(".raw > div")).to_have_count(30)
    expect(card(tab, "s-1").locator("svg")).to_be_visible()


def test_compact_now_says_what_it_waits_for(tab, host, url, expect):
    go, real = threading.Event(), host.compact

    def compact(*asked):
        assert go.wait(PATIENCE)
        return real(*asked)

    host.compact = compact
    host.shown["s-1"].activities = ["answering"]
    tab.goto(url)
    told = card(tab, "s-1").locator(".told")
    card(tab, "s-1").get_by_role("button", name="Compact now").click()
    expect(told).to_have_text("Waits for the answer that is being generated…")
    host.shown["s-1"].activities = []
    host.shown["s-2"].activities = ["compacting"]
    expect(told).to_contain_text("Waits for the compaction of “Make the flaky date tests")
    host.shown["s-2"].activities, host.shown["s-1"].activities = [], ["compacting"]
    expect(told).to_have_text("Compacting…")
    go.set()
    expect(told).to_contain_text("Compacted: 2,568 tokens")


def test_a_compaction_that_is_taken_over_is_announced(tab, host, url, expect):
    tab.goto(url)
    expect(tab.locator("article")).to_have_count(2)
    expect(tab.locator(".toast")).to_have_count(0)
    host.shown["s-1"].compact()
    expect(tab.locator(".toast")).to_contain_text("Make the flaky date tests")
    expect(tab.locator(".toast")).to_contain_text("1,194 slots became 562")


def test_a_session_is_deleted_only_after_a_second_click(tab, host, url, expect):
    tab.goto(url)
    button = card(tab, "s-1").locator("[data-do=delete]")
    button.click()
    expect(button).to_have_text("Delete for good?")
    card(tab, "s-1").get_by_role("button", name="Export").focus()
    expect(button).to_have_text("Delete")
    assert "s-1" in host.shown
    button.click()
    button.click()
    expect(tab.locator("article")).to_have_count(1)
    assert "s-1" not in host.shown


def test_on_a_server_without_keys_another_key_shows_other_sessions(tab, expect):
    with serving(ShownHost(worked("s-1"), worked("s-9", 2, digest("mine")))) as url:
        tab.goto(url)
        expect(card(tab, "s-1")).to_be_visible()
        for key, shown in (("mine", "s-9"), ("", "s-1")):
            tab.get_by_role("button", name="API key…").click()
            tab.get_by_label("API key", exact=True).fill(key)
            tab.get_by_role("button", name="Show my sessions").click()
            expect(card(tab, shown)).to_be_visible()
            expect(tab.locator("article")).to_have_count(1)


def test_without_a_session_the_page_says_how_to_point_an_agent_here(tab, expect):
    with serving(ShownHost()) as url:
        tab.goto(url)
        expect(tab.locator("#empty")).to_contain_text(f"OPENAI_BASE_URL={url}/v1")
        expect(tab.locator("#empty")).to_contain_text(re.compile(f"ANTHROPIC_BASE_URL={url}$", re.MULTILINE))
        expect(tab.locator("#legend")).to_be_hidden()


def test_a_server_that_goes_away_is_said_and_found_again(tab, host, expect):
    with ExitStack() as first:
        url = first.enter_context(serving(host))
        tab.goto(url)
        expect(tab.locator("#state")).to_have_text("Live")
    expect(tab.locator("#state")).to_contain_text("Not live")
    expect(tab.locator("article")).to_have_count(2)  # what was known stays in sight
    host.shown["s-3"] = worked("s-3", 1)
    with serving(host, port=urlsplit(url).port):
        expect(tab.locator("#state")).to_have_text("Live")
        expect(tab.locator("article")).to_have_count(3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [375, 1400])
def test_nothing_is_wider_than_the_window_and_the_theme_is_followed(browser, url, host, size, scheme):
    host.shown["s-1"].turns[1] = ("task", "x" * 500)
    context = browser.new_context(viewport={"width": size, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(url)
    choose(tab, "s-1", 2).locator("pre").get_by_text("xxx").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") == size
    red = int(re.findall(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor"))[0])
    assert (red > 128) == (scheme == "light")
    context.close()


def test_every_file_of_the_page_is_served_with_a_policy_and_needs_no_key():
    client = TestClient(create_app(ShownHost(), Settings(keys=frozenset([digest("k")]))), base_url="http://127.0.0.1")
    names = {file.name for page in (PAGES[0], PAGES[2]) for file in page.iterdir()}
    assert {"index.html", "page.css", "page.js"} <= names
    for path in ("/", *(f"/page/{name}" for name in names)):
        answer = client.get(path)
        assert answer.status_code == 200, path
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert (policy["default-src"], policy["script-src"], policy["frame-ancestors"]) == (
            "'none'",
            "'self'",
            "'none'",
        )
        assert "unsafe" not in str(policy)
        assert answer.headers["x-content-type-options"] == "nosniff"
    for name, status in (("page.py", 404), ("..%2Fauth.py", 400), ("%00", 404), ("nothing.js", 404)):
        assert client.get(f"/page/{name}").status_code == status


def test_the_page_loads_nothing_from_elsewhere_and_has_no_way_from_text_to_markup():
    for file in (file for page in PAGES for file in page.iterdir()):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text), file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son\w+=|style=", text)
