# SPDX-License-Identifier: MIT
"""The terminal picker: a mode is chosen, looked at, switched to and watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Step
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, DataTable, Footer, ProgressBar, Static

from sovereignctl import documents, preview
from sovereignctl.attempt import DONE, Ended, How, attempt
from sovereignctl.card import Card
from sovereignctl.follow import Follow, clock
from sovereignctl.say import mib

#: Between two drawings of a switch under way, seconds.
TICK = 0.25


class Question(ModalScreen["str | None"]):
    """Shows a text and waits for one of the answers; Escape is none of them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel"),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]

    def __init__(self, text: str, answers: Sequence[tuple[str, str]], leave: str = "Cancel") -> None:
        super().__init__()
        self._text, self._answers, self._leave = text, answers, leave

    def compose(self) -> ComposeResult:
        """The text over its buttons."""
        with Vertical(classes="box"):
            yield Static(self._text, markup=False, classes="words")
            with Horizontal(classes="buttons"):
                for name, words in self._answers:
                    yield Button(words, id=f"answer-{name}", compact=True)
                yield Button(self._leave, id="leave", compact=True)

    def on_mount(self) -> None:
        """Nothing is begun by a second press of Enter: who wants it moves to it."""
        self.query_one("#leave", Button).focus()

    @on(Button.Pressed)
    def pressed(self, event: Button.Pressed) -> None:
        """An answer, or none."""
        name = event.button.id or ""
        self.dismiss(name.removeprefix("answer-") if name.startswith("answer-") else None)

    def action_leave(self) -> None:
        """None of them."""
        self.dismiss(None)


class Switching(ModalScreen[Ended]):
    """A switch under way: phase, elapsed, what is left; it can be called off."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "call_off", "Call it off")]

    def __init__(self, card: Card, target: str, how: How, now: Callable[[], float]) -> None:
        super().__init__()
        self._card, self._target, self._how, self._now = card, target, how, now
        self._follow, self._lock = Follow(), threading.Lock()
        self._said: list[str] = []
        self.cancel = threading.Event()

    def compose(self) -> ComposeResult:
        """The bar, the times, the phases so far."""
        with Vertical(classes="box"):
            yield Static(f"Switching to {self._target}", classes="title")
            yield ProgressBar(total=100, show_eta=False, id="bar")
            yield Static("", markup=False, id="times")
            yield Static("", markup=False, id="phases")
            with Horizontal(classes="buttons"):
                yield Button("Call it off", id="call-off", compact=True)

    def on_mount(self) -> None:
        """Begin, and draw now and then."""
        self.set_interval(TICK, self.draw)
        self.begin()

    @work(thread=True, exclusive=True, group="switch")
    def begin(self) -> None:
        """The switch, beside the screen."""
        end = attempt(self._card, self._target, self._how, self._heard, self.cancel)
        self.app.call_from_thread(self.dismiss, end)

    def _heard(self, step: Step) -> None:
        with self._lock:
            self._follow.step(step, self._now())
            title = self._follow.shown(self._now()).title
            if self._said[-1:] != [title]:
                self._said.append(title)

    def draw(self) -> None:
        """What is known now."""
        with self._lock:
            shown, said = self._follow.shown(self._now()), self._said[-8:]
        self.query_one("#bar", ProgressBar).update(progress=shown.share * 100)
        times = f"{shown.times}\nit is called off at its next step" if self.cancel.is_set() else shown.times
        self.query_one("#times", Static).update(times)
        self.query_one("#phases", Static).update("\n".join([*said[:-1], *(f"> {last}" for last in said[-1:])]))

    @on(Button.Pressed, "#call-off")
    def action_call_off(self) -> None:
        """It goes back at its next step."""
        self.cancel.set()
        self.query_one("#call-off", Button).disabled = True
        self.draw()


class Modes(DataTable[str]):
    """A row for each mode; what Enter does stands in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "Switch")]


class Picker(App[int]):
    """All modes, with budget and measured use; the one that is there; what a switch would do."""

    TITLE = "sovereignctl"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "look", "Look again"),
        Binding("q", "quit", "Quit"),
    ]
    CSS = """
    Screen { layout: vertical; }
    #card { padding: 0 1; text-style: bold; }
    Modes { height: auto; max-height: 60%; margin: 1 1; }
    #about { padding: 0 1; height: auto; }
    ModalScreen { align: center middle; }
    .box { width: 90%; max-width: 100; height: auto; max-height: 90%; border: round $primary; padding: 1 2; }
    .words { height: auto; }
    .title { text-style: bold; }
    .buttons { height: auto; margin-top: 1; }
    .buttons Button { margin-right: 2; }
    #times, #phases { height: auto; }
    """

    def __init__(self, card: Card, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._reach, self._now = card, now
        self._status: Mapping[str, Any] | None = None
        self._code = DONE

    def compose(self) -> ComposeResult:
        """The card, the modes, what is said of the one under the cursor."""
        yield Static("asking the machine …", markup=False, id="card")
        yield Modes(cursor_type="row", id="modes")
        yield Static("", markup=False, id="about")
        yield Footer()

    def on_mount(self) -> None:
        """Columns first, rows when the machine has answered."""
        table = self.query_one(Modes)
        for head in ("", "mode", "budget", "measured", "takes", "who holds the card"):
            table.add_column(head, key=head or "mark")
        table.focus()
        self.action_look()

    # ---- looking
    @work(thread=True, exclusive=True, group="look")
    def action_look(self) -> None:
        """Ask the machine, beside the screen."""
        try:
            found = self._reach.status()
        except SovereignError as error:
            self.call_from_thread(self._no, error, "refused")
            return
        self.call_from_thread(self._show, found)

    def _show(self, found: Mapping[str, Any]) -> None:
        if not self.query(Modes):
            # The person has left while the machine was asked.
            return
        self._status = found
        table = self.query_one(Modes)
        row = table.cursor_row
        table.clear()
        for name, mode in found["modes"].items():
            takes = "-" if mode["expected_seconds"] is None else clock(mode["expected_seconds"])
            mark = "*" if name == found["mode"] else " "
            cells = (mark, name, mib(mode["vram_mib"]), mib(mode["peak_mib"]), takes, ", ".join(mode["tenants"]) or "-")
            table.add_row(*cells, key=name)
        table.move_cursor(row=row)
        self.query_one("#card", Static).update("\n".join(self._card_words(found)))
        self._about()

    @staticmethod
    def _card_words(found: Mapping[str, Any]) -> list[str]:
        memory = found["card"] and found["card"]["memory_mib"]
        taken = f"{memory['used']} of {memory['total']} MiB are taken" if memory else "no card answers"
        lines = [f"mode {found['mode'] or 'not known'}, {taken}"]
        lines += [f"at work: {what}" for what in found["busy_reasons"]]
        lines += [f"not known: {what}" for what in found["problems"]]
        if found["progress"]:
            lines.append(f"a switch is under way: {found['progress']['who']}")
        elif found["intent"]:
            lines.append(f"a switch to {found['intent']['target']} did not end: the next one goes on from there")
        return lines

    def _under_cursor(self) -> str | None:
        table = next(iter(self.query(Modes)), None)
        if table is None or not table.row_count:
            return None
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    @on(Modes.RowHighlighted)
    def _about(self) -> None:
        name = self._under_cursor()
        if name and self._status:
            self.query_one("#about", Static).update("\n".join(preview.about(name, self._status)))

    # ---- switching
    @on(Modes.RowSelected)
    def chosen(self) -> None:
        """What would be done for the mode under the cursor, asked of the machine."""
        name = self._under_cursor()
        if name:
            self._plan(name)

    @work(thread=True, exclusive=True, group="look")
    def _plan(self, name: str) -> None:
        try:
            found = documents.plan(self._reach.plan(name), self._reach.status())
        except SovereignError as error:
            self.call_from_thread(self._no, error, "refused")
            return
        self.call_from_thread(self._ask, name, found)

    def _ask(self, name: str, plan: Mapping[str, Any]) -> None:
        if not plan["changed"]:
            self.notify(f"{name} serves already.", markup=False)
            return

        def answered(on_busy: str | None) -> None:
            if on_busy is not None:
                how = How(on_busy=on_busy, who="sovereignctl pick")
                self.push_screen(Switching(self._reach, name, how, self._now), lambda end: self._ended(name, end))

        self.push_screen(Question(*preview.question(plan)), answered)

    def _ended(self, name: str, end: Ended | None) -> None:
        if end is None:
            return
        self._code = end.code
        if end.error:
            self._no(end.error, end.result.outcome if end.result else "refused")
        else:
            self.notify(preview.end(name, end), markup=False)
        self.action_look()

    def _no(self, error: SovereignError, outcome: str) -> None:
        text = preview.failure(error.thing, error.seen, error.remedy, outcome)
        self.push_screen(Question(text, [], leave="Close"))

    async def action_quit(self) -> None:
        """Nobody leaves in the middle of a switch: it is called off, and its end awaited."""
        if isinstance(self.screen, Switching):
            self.screen.action_call_off()
            return
        self.exit(self._code)


def run(card: Card) -> int:
    """Until the person leaves; the exit status of the last switch."""
    return Picker(card).run() or DONE
