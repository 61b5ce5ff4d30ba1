"""What a check of `genserve doctor` finds."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Whether something must be done."""

    OK = "ok"
    NOTE = "note"
    """Works, but worth knowing."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what was found, and what to do about it."""

    subject: str
    verdict: Verdict
    found: str
    remedy: str = ""


def ok(subject: str, found: str) -> Finding:
    """Nothing to be done."""
    return Finding(subject, Verdict.OK, found)


def note(subject: str, found: str, remedy: str) -> Finding:
    """Works; `remedy` would make it better."""
    return Finding(subject, Verdict.NOTE, found, remedy)


def problem(subject: str, found: str, remedy: str) -> Finding:
    """Does not work; `remedy` says what to do."""
    return Finding(subject, Verdict.PROBLEM, found, remedy)
