"""What a check has found, and all findings as text and fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """`status` is "OK", "WARN" (something is missing, slow or not checked) or "FAIL"."""

    name: str
    status: str
    text: str
    remedy: str = ""


Check = Callable[[], Iterable[Finding]]


def findings_of(checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """Every check's findings; one that ends in an error of any kind is a finding too."""
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Finding(name, "FAIL", text, "report this line with the output of --json")


def as_table(findings: Sequence[Finding]) -> str:
    """One line each, with the remedy below where there is one, and the sums."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:4}  {finding.name:{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':4}  {'':{width}}  -> {finding.remedy}")
    counts = [sum(f.status == status for f in findings) for status in ("OK", "WARN", "FAIL")]
    return "\n".join([*lines, "", "{} OK, {} WARN, {} FAIL".format(*counts)])


def as_fields(findings: Sequence[Finding]) -> dict[str, Any]:
    """For JSON."""
    return {"failed": any_failed(findings), "findings": [asdict(f) for f in findings]}


def any_failed(findings: Sequence[Finding]) -> bool:
    return any(finding.status == "FAIL" for finding in findings)
