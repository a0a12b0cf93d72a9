# SPDX-License-Identifier: MIT
"""The ledger, and the callback that keeps it."""

from __future__ import annotations

import asyncio
import importlib
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mushishi_gateway_ledger import NANO, Budget, BudgetSpent, Ledger, Price, prompt_bound, to_nanodollars

DAY = 86400


class _Clock:
    def __init__(self, now: float = 1000 * DAY + 10.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def _ledger(path: Path, usd: float = 1.0, clock: _Clock | None = None) -> Ledger:
    return Ledger(path / "budgets.sqlite3", {"groq": Budget.read(usd, "1d")}, clock or _Clock())


def test_budget_reads_the_policys_form() -> None:
    assert Budget.read(0.1, "12h") == Budget(100_000_000, 43200)
    assert Budget.read(1, "30d").seconds == 30 * DAY
    for usd, period in ((1, "1w"), (1, "d"), (1, "0d"), (-1, "1d"), (1, "")):
        with pytest.raises(ValueError, match="budget"):
            Budget.read(usd, period)


def test_period_begins_at_midnight_utc() -> None:
    assert Budget.read(1, "1d").window(1000 * DAY + 5.5) == (1000 * DAY, 1001 * DAY)


def test_price_is_exact_and_rounded_up() -> None:
    price = Price.read({"input_cost_per_token": 0.6 / 1e6, "output_cost_per_token": 2.5 / 1e6})
    assert price is not None
    assert price.cost(1000, 500) == 600_000 + 1_250_000
    assert Price(Decimal("0.1"), Decimal(0)).cost(1, 0) == 1
    assert Price.read({"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}) is None
    assert Price.read({}) is None
    assert to_nanodollars(Decimal("0.0000000019")) == 1


def test_prompt_is_never_bounded_too_low() -> None:
    assert prompt_bound("é" * 10, 1, None) >= 20
    assert prompt_bound("x" * 10_000, 1, 128) == 128


def test_reservation_settles_and_releases(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    ledger.reserve("a", "groq", 600_000_000)
    assert ledger.spent("groq") == 600_000_000
    with pytest.raises(BudgetSpent) as refused:
        ledger.reserve("b", "groq", 400_000_001)
    assert refused.value.retry_after == DAY - 10
    ledger.settle("a", 5)
    ledger.settle("a", 9)
    ledger.release("a")
    assert ledger.spent("groq") == 5
    ledger.reserve("b", "groq", 400_000_001)
    ledger.release("b")
    ledger.release("nobody")
    assert ledger.spent("groq") == 5


def test_budget_of_nothing_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(BudgetSpent):
        _ledger(tmp_path, usd=0).reserve("a", "groq", 1)


def test_new_period_begins_with_nothing(tmp_path: Path) -> None:
    clock = _Clock()
    ledger = _ledger(tmp_path, clock=clock)
    ledger.reserve("a", "groq", NANO)
    clock.now += DAY
    ledger.reserve("b", "groq", NANO)
    assert ledger.spent("groq") == NANO


def test_what_was_counted_is_there_after_the_process_is_gone(tmp_path: Path) -> None:
    _ledger(tmp_path).reserve("a", "groq", 7)
    # Not closed: as after a kill.
    again = _ledger(tmp_path)
    assert again.spent("groq") == 7
    again.settle("a", 3)
    assert _ledger(tmp_path).spent("groq") == 3


@given(
    st.lists(
        st.tuples(st.sampled_from(["reserve", "settle", "release"]), st.integers(0, 5), st.integers(0, 40)), max_size=40
    )
)
def test_budget_is_never_passed(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "b", {"groq": Budget(100, DAY)}, _Clock())
    held: dict[str, int] = {}
    settled: set[str] = set()
    for number, (step, charge, amount) in enumerate(steps):
        name = f"{charge}"
        if step == "reserve":
            name = f"{charge}-{number}"
            fits = sum(held.values()) + amount <= 100
            try:
                ledger.reserve(name, "groq", amount)
            except BudgetSpent:
                assert not fits
            else:
                assert fits
                held[name] = amount
        elif step == "settle" and held:
            name = sorted(held)[charge % len(held)]
            cost = min(amount, held[name])
            ledger.settle(name, cost)
            if name not in settled:
                held[name] = cost
                settled.add(name)
        elif step == "release" and held:
            name = sorted(held)[charge % len(held)]
            ledger.release(name)
            if name not in settled:
                del held[name]
        assert ledger.spent("groq") == sum(held.values()) <= 100
    ledger.close()


CONFIG = """
mushishi:
  budgets:
    groq: {usd: 1.0, period: 1d}
"""
DEPLOYMENT = {
    "litellm_params": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "max_tokens": 1000},
    "model_info": {"id": "personal/groq", "provider": "groq", "max_input_tokens": 2000},
}
MESSAGES = [{"role": "user", "content": "word " * 10_000}]
WORST = 2000 * 1000 + 1000 * 2000


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    config = tmp_path / "hybrid.yaml"
    config.write_text(CONFIG)
    monkeypatch.setenv("MUSHISHI_GATEWAY_CONFIG", str(config))
    monkeypatch.setenv("MUSHISHI_GATEWAY_LEDGER", str(tmp_path / "budgets.sqlite3"))
    sys.modules.pop("mushishi_gateway_budget", None)
    return importlib.import_module("mushishi_gateway_budget")


def _reserve(module: Any, deployment: Any = DEPLOYMENT, **request: Any) -> Any:
    given = {"litellm_call_id": "c", **request}
    return asyncio.run(module.ledger.async_filter_deployments("personal.groq", [deployment], MESSAGES, given))


def _spent(module: Any) -> int:
    return int(module.ledger.ledger.spent("groq"))


def _success(module: Any, usage: Any, metadata: Any = None) -> None:
    params = {"model_info": {**DEPLOYMENT["model_info"], **DEPLOYMENT["litellm_params"]}, "metadata": metadata or {}}
    kwargs = {"litellm_call_id": "c", "litellm_params": params}
    asyncio.run(module.ledger.async_log_success_event(kwargs, SimpleNamespace(usage=usage), None, None))


USAGE = SimpleNamespace(prompt_tokens=100, completion_tokens=10)


def test_request_is_reserved_at_its_worst_and_settled_at_its_cost(module: Any) -> None:
    assert _reserve(module) == [DEPLOYMENT]
    assert _spent(module) == WORST
    _success(module, USAGE)
    assert _spent(module) == 100 * 1000 + 10 * 2000


def test_clients_own_bound_counts(module: Any) -> None:
    _reserve(module, max_tokens=1)
    assert _spent(module) == 2000 * 1000 + 2000


def test_answer_left_before_its_end_stays_at_its_worst(module: Any) -> None:
    _reserve(module)
    _success(module, USAGE, {"client_disconnected": True})
    _success(module, None)
    assert _spent(module) == WORST


def test_spent_budget_is_a_429_that_says_when(module: Any) -> None:
    module.ledger.ledger.reserve("all", "groq", NANO)
    with pytest.raises(sys.modules["litellm.exceptions"].RateLimitError, match=r"budget of provider groq .* begins in"):
        _reserve(module)


def test_backend_without_a_known_worst_case_is_refused(module: Any) -> None:
    for params in ({}, {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}):
        with pytest.raises(sys.modules["litellm.exceptions"].RateLimitError, match="is not known"):
            _reserve(module, {**DEPLOYMENT, "litellm_params": params})


def test_local_backends_and_providers_without_a_budget_are_not_counted(module: Any) -> None:
    for info in ({"id": "personal/gpu"}, {"id": "personal/kimi", "provider": "nvidia_nim"}):
        _reserve(module, {**DEPLOYMENT, "model_info": info})
    assert _spent(module) == 0


def _openai(name: str, **content: Any) -> type[Exception]:
    return type(name, (Exception,), {"__module__": "openai", **content})


def _wrapped(inner: BaseException, cause: BaseException | None = None) -> Exception:
    outer = Exception("litellm wraps it")
    inner.__cause__ = cause
    outer.__context__ = inner
    return outer


ConnectError = type("ConnectError", (Exception,), {})
ReadError = type("ReadError", (Exception,), {})


@pytest.mark.parametrize(
    ("error", "released"),
    [
        (_wrapped(_openai("InternalServerError", status_code=500)()), True),
        (_wrapped(_openai("RateLimitError", status_code=429)()), True),
        (_wrapped(_openai("APIStatusError", status_code=504)()), False),
        (_wrapped(_openai("APIConnectionError")(), ConnectError()), True),
        (_wrapped(_openai("APIConnectionError")(), ReadError()), False),
        (_wrapped(_openai("APITimeoutError")(), _wrapped(_openai("APIConnectionError")(), ConnectError())), False),
        (Exception("anything else"), False),
    ],
)
def test_only_what_the_provider_certainly_did_not_do_is_released(module: Any, error: Any, released: bool) -> None:
    _reserve(module)
    request = {"litellm_call_id": "c", "model_info": DEPLOYMENT["model_info"]}
    asyncio.run(module.ledger.async_post_call_failure_deployment_hook(request, error, None, fallback_depth=1))
    assert _spent(module) == (0 if released else WORST)


def test_bound_of_an_answer_has_one_name(module: Any) -> None:
    data = asyncio.run(module.ledger.async_pre_call_hook(None, None, {"max_completion_tokens": 5}, "completion"))
    assert data == {"max_tokens": 5}
