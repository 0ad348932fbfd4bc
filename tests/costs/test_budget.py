"""Budgets: parsing of units, and error messages."""

import pytest

from nas.costs import Budget
from nas.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency<=80ms, memory<=1.2GB, params<=600M", Budget(80, 1200, 600e6)),
        ("latency < 0.08 s", Budget(latency_ms=80)),
        ("memory<=512MiB", Budget(memory_mb=536.870912)),
        ("params<=1_000_000", Budget(params=1e6)),
        ("generation<=5s; latency<=900us", Budget(latency_ms=0.9, generation_s=5)),
        ("", Budget()),
    ],
)
def test_parse(text, expected):
    assert Budget.parse(text).bounds() == pytest.approx(expected.bounds())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latncy<=80ms", "did you mean 'latency'"),
        ("latency<=80", "the unit of latency must be one of us, ms, s, not 'no unit'"),
        ("memory<=1.2XB", "not 'XB'"),
        ("latency>=80ms", "write it like latency<=80ms"),
        ("latency<=80ms, latency<=90ms", "bounded twice"),
        ("params<=0", "must be above 0"),
    ],
)
def test_invalid_budgets(text, message):
    with pytest.raises(BudgetError, match=message):
        Budget.parse(text)


def test_text_reads_back():
    budget = Budget(80, 1200, 600e6, 5)
    assert Budget.parse(str(budget)) == budget


def test_percent_of_the_most_expensive():
    largest = Budget(latency_ms=200, params=1e6)
    assert Budget.parse("latency<=40%, params<=300K", largest) == Budget(latency_ms=80, params=300e3)
    with pytest.raises(BudgetError, match="bound on memory in %"):
        Budget.parse("memory<=40%", largest)
    with pytest.raises(BudgetError, match="needs the largest latency of the space"):
        Budget.parse("latency<=40%")
