"""The page in Chromium, on a node that serves: what it shows, what it does, what goes wrong."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from gslice.core import audit
from tests.node import kill_and_wait
from tests.process.traffic import Traffic
from tests.ui.pages import WAIT_MS, opened

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
expect.set_options(timeout=WAIT_MS)

SHADOW = ["plan", "start", "load", "warm", "swap", "drain", "exit", "done"]


def row(page: Any, name: str) -> Any:
    return page.locator(f"tr[data-function={name}]")


def show(page: Any, name: str) -> Any:
    """Opens a function; its part of the page."""
    row(page, name).locator("a.name").click()
    return page.locator(".function-detail")


def effective(site: Any) -> str:
    return f"{site.node.function('wave').share_effective_percent:.1f}"


def picture(red: int, green: int, blue: int) -> dict[str, Any]:
    """A file of one colour, larger than the model's pictures."""
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("RGB", (80, 50), (red, green, blue)).save(file, "PNG")
    return {"name": "picture.png", "mimeType": "image/png", "buffer": file.getvalue()}


# ---- what it shows -------------------------------------------------------------------------------


def test_the_node_at_a_glance(page, site) -> None:
    status = site.node.status()
    expect(page.locator("#node")).to_contain_text(f"{status.version}, serving")
    for device in status.devices:
        expect(page.locator(f"[data-device='{device.name}'] .map .segment")).not_to_have_count(0)
    segment = page.locator("[data-device='cuda:0'] .segment")
    expect(segment).to_contain_text("wave")
    expect(segment).to_contain_text(effective(site))
    expect(page.locator("[data-device='cuda:0']")).to_contain_text("limited by mps")
    expect(row(page, "broken")).to_contain_text("failed")
    expect(row(page, "broken")).to_contain_text("nowhere.onnx")
    expect(page.locator(".events li[data-kind=load]").first).to_be_visible()


def test_figures_move_while_requests_come(page, site) -> None:
    expect(row(page, "wave").locator(".rate")).to_have_text("0")
    with Traffic(site.node, "wave", clients=1):
        expect(row(page, "wave").locator(".rate")).not_to_have_text("0")
        expect(row(page, "wave").locator(".promise")).to_contain_text("ms")
        detail = show(page, "wave")
        line = detail.locator("figure").nth(1).locator("path.line").first
        expect(line).to_have_attribute("d", re.compile(r"M.+L.+"))
        expect(detail.locator(".figures")).to_contain_text("Answered")


def test_a_function_that_cannot_be_loaded(page) -> None:
    detail = show(page, "broken")
    expect(detail.locator(".detail-head .state")).to_have_text("failed")
    expect(detail.locator("p.problem").nth(1)).to_contain_text("nowhere.onnx")
    expect(detail.locator("#share")).to_be_disabled()
    expect(detail.locator(".preview")).to_contain_text("only a function that serves is resized")


def test_a_function_that_is_not_there(page, site) -> None:
    page.goto(f"{site.url}#/f/nobody")
    expect(page.get_by_text("There is no such function now.")).to_be_visible()


def test_a_profile_and_its_knee(page, site) -> None:
    """At the load one share was timed; a measurement shows as soon as it is done."""
    detail = show(page, "colours")
    expect(detail.locator(".curve")).to_contain_text("Only one share has been measured")
    with site.node.control() as control:
        *_, last = control.profile("colours", [50, 100], [1])
    expect(detail.locator(".curve path.knee")).to_have_count(len(last.result.curves))
    expect(detail.locator(".curve")).to_contain_text("Knees: 1 row:")


# ---- a resize ------------------------------------------------------------------------------------


def test_a_resize_and_its_stages(page, browser, site) -> None:
    before = effective(site)
    detail = show(page, "wave")
    slider = detail.locator("#share")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(detail.locator("output")).to_contain_text("30")
    expect(detail.locator(".preview")).to_contain_text("shadow: wave 25% -> 30%")
    assert site.node.function("wave").share_granted_percent == 25
    with opened(browser, f"{site.url}#/f/wave") as other:
        expect(other.locator(".share-now")).to_contain_text("25")
        site.marker.touch()
        detail.get_by_role("button", name="Resize to 30").click()
        with site.gate.open("wb"):  # the shadow is being set up
            expect(detail.locator(".stages .now")).to_have_attribute("data-stage", "load")
            expect(detail.locator("[data-stage=start]")).to_have_class(re.compile("passed"))
            expect(page.locator("[data-device='cuda:0'] .segment.shadowed")).to_be_visible()
            expect(page.locator("[data-device='cuda:0'] .segment")).to_contain_text(before)
        site.marker.unlink()
        expect(detail.locator("[data-stage=done]")).to_have_class(re.compile("passed"))
        stages = detail.locator(".stages li")
        names = [each.get_attribute("data-stage") for each in stages.all()]
        assert names == SHADOW
        expect(detail.locator(".resize")).to_contain_text("by a shadow")
        after = effective(site)
        assert after != before
        expect(page.locator("[data-device='cuda:0'] .segment")).to_contain_text(after)
        expect(page.locator(".events li[data-kind=swap]").first).to_be_visible()
        expect(other.locator("[data-stage=swap]")).to_have_class(re.compile("passed"))
        expect(other.locator(".share-now")).to_contain_text(after)
    assert site.node.function("wave").share_granted_percent == 30
    (ordered,) = (
        each for each in audit.newest(site.node.state_dir, 100) if each["what"] == "resize"
    )
    assert (ordered["who"]["name"], ordered["who"]["via"]) == ("anonymous", "web page")
    assert (ordered["detail"], ordered["outcome"]) == ("30%", "done")


def test_a_resize_that_is_refused(page, site) -> None:
    detail = show(page, "colours")
    detail.locator("#share").fill("90")
    expect(detail.locator(".preview")).to_contain_text("more than its share limit")
    detail.get_by_role("button", name="Resize to 90").click()
    expect(detail.get_by_role("alert").filter(has_text="more than its share limit")).to_be_visible()
    assert site.node.function("colours").share_granted_percent == 30


# ---- trying a function ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("colour", "scale", "colours", "top", "score"),
    [
        ((255, 0, 0), "unit", "rgb", "0", "1"),
        ((0, 51, 0), "raw", "rgb", "1", "51"),
        ((255, 0, 0), "signed", "bgr", "2", "1"),
    ],
)
def test_a_picture_is_classified(
    page, colour: tuple[int, int, int], scale: str, colours: str, top: str, score: str
) -> None:
    trial = show(page, "colours").locator(".try")
    expect(trial.locator("legend")).to_contain_text("FP32 [any, 3, 32, 32]")
    trial.get_by_label("Picture for x").set_input_files(picture(*colour))
    trial.get_by_label("Numbers").select_option(scale)
    trial.get_by_label("Colours").select_option(colours)
    expect(trial.locator("canvas")).to_be_visible()
    trial.get_by_role("button", name="Run").click()
    first = trial.locator("[data-output=y] table tr").first
    expect(first.locator("th")).to_have_text(top)
    number = first.locator(".number")
    expect(number).to_have_text("100.0\u2009%" if scale == "unit" else score)
    expect(trial).to_contain_text("answered in")


def test_texts(page) -> None:
    trial = show(page, "words").locator(".try")
    trial.get_by_label("How x is given").select_option("lines")
    trial.get_by_label("Text of x").fill("grüße\nwelt")
    trial.get_by_role("button", name="Run").click()
    expect(trial.locator("[data-output=y] li")).to_have_text(["grüße!", "welt!"])


def test_numbers(page) -> None:
    trial = show(page, "wave").locator(".try")
    numbers = trial.get_by_label("Numbers of x")
    numbers.fill("[[7], [-8]]")
    trial.get_by_role("button", name="Run").click()
    expect(trial.locator("[data-output=y]")).to_contain_text("from -8 to 7")
    for text, words in (
        ("[[7], [8, 9]]", "not all of the same length"),
        ("[7]", "the shape [1] is not [any, 1]"),
        ("[[7]", "not JSON"),
    ):
        numbers.fill(text)
        trial.get_by_role("button", name="Run").click()
        expect(trial.get_by_role("alert")).to_contain_text(words)


# ---- what goes wrong -----------------------------------------------------------------------------


def test_a_daemon_that_is_away(page, site) -> None:
    expect(page.locator("#node")).to_contain_text("serving")
    site.node.kill_daemon()
    banner = page.get_by_role("status").filter(has_text="the daemon is away")
    expect(banner).to_be_visible()
    trial = show(page, "words").locator(".try")  # requests need no daemon
    trial.get_by_label("How x is given").select_option("lines")
    trial.get_by_label("Text of x").fill("a\nb")
    trial.get_by_role("button", name="Run").click()
    expect(trial.locator("[data-output=y] li")).to_have_text(["a!", "b!"])
    site.node.start()
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#node")).to_contain_text("serving")


def test_a_front_end_that_dies(page, site) -> None:
    expect(page.locator("#node")).to_contain_text("serving")
    (rest,) = (each for each in site.node.status().frontends if each.kind == "rest")
    kill_and_wait(rest.pid)
    expect(page.locator("#banner")).to_be_hidden()
    with Traffic(site.node, "wave", clients=1):
        expect(row(page, "wave").locator(".rate")).not_to_have_text("0")


# ---- keyboard, size, theme -----------------------------------------------------------------------


def test_by_keyboard_alone(page) -> None:
    expect(row(page, "wave")).to_be_visible()
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("wor")
    expect(row(page, "wave")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(row(page, "wave")).to_be_visible()
    page.keyboard.press("ArrowDown")
    first, second = (
        page.locator(".functions a.name").nth(0),
        page.locator(".functions a.name").nth(1),
    )
    expect(first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(second).to_be_focused()
    name = second.inner_text()
    page.keyboard.press("Enter")
    expect(page.locator(".detail-head h2")).to_have_text(name)
    page.keyboard.press("Escape")
    expect(second).to_be_focused()
    page.keyboard.press("?")
    expect(page.locator("#help-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help-dialog")).to_be_hidden()


def test_dark_and_light(browser, site) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, site.url, color_scheme="dark") as page:
        dark = page.evaluate(paper)
        page.keyboard.press("t")
        light = page.evaluate(paper)
        assert dark != light
        page.reload()
        assert page.evaluate(paper) == light  # it is remembered
        page.keyboard.press("t")
        assert page.evaluate(paper) == dark


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off(browser, site, width: int) -> None:
    with opened(browser, site.url, viewport={"width": width, "height": 800}) as page:
        expect(row(page, "wave")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        show(page, "colours")
        expect(page.locator(".try fieldset")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_that_can_be_used_has_a_name(page) -> None:
    show(page, "colours")
    expect(page.locator(".try fieldset")).to_be_visible()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, a, [role=img]')]
            .filter((each) => each.checkVisibility())
            .filter((each) => !(each.getAttribute('aria-label') || each.textContent.trim()
              || each.labels?.length))
            .map((each) => each.outerHTML)"""
    )
    assert nameless == []


def test_drain_and_back(page, site) -> None:
    device = page.locator("[data-device='cuda:0']")
    device.get_by_role("button", name="Drain").click()
    device.get_by_role("button", name="No").click()
    assert not any(each.drained for each in site.node.status().devices)
    device.get_by_role("button", name="Drain").click()
    device.get_by_role("button", name="Yes").click()
    expect(device.locator(".mark")).to_have_text("drained")
    device.get_by_role("button", name="Undrain").click()
    expect(device.locator(".mark")).to_have_count(0)
