"""A real console, real agents on fakes of the kernel, and a real Chromium that looks at them."""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.browser.looking import axe, width
from tests.browser.machines import Machines
from tests.consoles import PreparedConsole
from tests.handout import hand_out
from tests.ports import free_port

PASSWORD = "correct horse battery"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",  # the tests' own pages, and root has no sandbox
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

PATIENCE = 40_000
"""Milliseconds, on a machine that has other work."""

expect.set_options(timeout=PATIENCE)

NOTHING_IS_CLICKED_BEFORE_SCRIPTS_RUN = """
const root = () => document.documentElement?.style;
const hold = new MutationObserver(() => root()?.setProperty("pointer-events", "none"));
hold.observe(document, { childList: true });
document.addEventListener("DOMContentLoaded", () => (hold.disconnect(), root()?.removeProperty("pointer-events")));
"""
"""Playwright waits with a click until something can be hit: a page on its way would take it, and do nothing yet."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    absent = pytest.mark.skip(reason="no Chromium on this machine: apt-get install -y --no-install-recommends chromium")
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.xdist_group("browser"))  # a module's console, machines and Chromium are costly
            if CHROMIUM is None:
                item.add_marker(absent)


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    """A console from nothing, with nobody in it yet."""
    listen, tls_listen, discovery = (f"127.0.0.1:{free_port()}" for _ in range(3))
    running = PreparedConsole(
        tmp_path_factory.mktemp("console"), listen=listen, tls_listen=tls_listen, plain_discovery=discovery
    )
    handed_out = running.directory / "agent"
    handed_out.mkdir()
    hand_out(handed_out)  # whether this tree has one built or not
    running.env["KUBESPAN_AGENT_FILES"] = str(handed_out)
    running.env["DISCOVERY_URL"] = f"http://127.0.0.1:{free_port()}"  # where nothing listens
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def machines():
    """No machine yet; those that are made end with the module."""
    made = Machines()
    yield made
    made.close()


@pytest.fixture(scope="module")
def chromium():
    """A browser for one module: Playwright keeps an event loop running, which no asyncio test may meet."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=3 * PATIENCE)
        yield browser
        browser.close()


class Browser:
    """Somebody's browser; whatever a page complains of is a fault of the test that opened it."""

    def __init__(self, chromium, url, **context):
        self.url = url
        self.context = chromium.new_context(base_url=url, **context)
        self.context.set_default_timeout(PATIENCE)
        self.context.add_init_script(NOTHING_IS_CLICKED_BEFORE_SCRIPTS_RUN)
        self.page = self.context.new_page()
        self.complaints = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)

    def _hear(self, message):
        # Chromium itself reports each answer of 400 and more, and each socket that the console's restart closed.
        if (
            message.type == "error"
            and "Failed to load resource" not in message.text
            and "WebSocket" not in message.text
        ):
            self.complaints.append(message.text)

    def sign_in(self):
        self.page.goto("/login/")
        self.page.get_by_label("User name").fill("alice")
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign in", exact=True).click()
        expect(self.page.get_by_role("heading", name="Overview")).to_be_visible()
        return self

    def confirm(self):
        """Show once more who one is, where that is asked."""
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Confirm").click()

    def check(self):
        """Note what axe finds, light and dark, and what reaches beyond the screen: told when the browser is closed."""
        self.page.wait_for_load_state()  # a click that leads here has only begun it
        self.complaints += [f"{self.page.url}: {wrong}" for wrong in axe(self.page) + width(self.page)]

    def close(self):
        self.context.close()
        assert not self.complaints, "\n".join(self.complaints)


def press(page, *keys):
    """Press keys one after another, once the page's scripts run."""
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    for key in keys:
        page.keyboard.press(key)


@pytest.fixture
def open_browser(chromium, console):
    """Browsers, closed after the test."""
    opened = []

    def open_one(**context):
        opened.append(Browser(chromium, console.url, **context))
        return opened[-1]

    yield open_one
    for browser in opened:
        browser.close()


@pytest.fixture(scope="module")
def administrator(console):
    """An administrator made by the command, for tests that are not about the first page."""
    make_administrator(console)


def make_administrator(console):
    console.call(
        "createsuperuser", "--noinput", "--username", "alice", "--email", "",
        env={"DJANGO_SUPERUSER_PASSWORD": PASSWORD},
    )  # fmt: skip


def read_code(console):
    """The first administrator's code, from what the console printed."""
    return re.search(r"one-time code: (\S+)", console.log.read_text())[1]
