"""What the conformance kits share: numbered rules, evidence against them, and the verdict.

`twinline.transports.conformance` and `twinline.stores.conformance` have the rules. A rule is a
function that is given `Checks`, to say what it sees, and a bench, to work on. A rule that fails
does not keep the next ones from being checked, and one that hangs is given up with the stack of
where it stands, so that one run reports all that is wrong.
"""

import sys
import threading
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Generic, Literal, NoReturn, Protocol, TypeVar

from twinline.core.errors import TwinlineError

Progress = Callable[[int, int, str], None]
"""Called before each rule with how many are done, how many there are, and the rule's sentence."""
_SHOWN_EVIDENCE: Final = 5
_SHOWN_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """A rule that does not hold.

    Attributes:
        number: the rule's, in the kit's docstring.
        name: the rule's in one word, for programs.
        sentence: what should be so.
        evidence: what was seen instead, the first few of it.
    """

    number: int
    name: str
    sentence: str
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"rule {self.number} ({self.name}) does not hold: {self.sentence}"]
        return "\n  - ".join([*lines, *self.evidence])


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """What was checked.

    Attributes:
        subject: what it was checked of.
        rules: the names of the rules that hold.
        skipped: rules that could not be checked, with the reason.
        checks: how many single checks were made.
    """

    subject: str
    rules: tuple[str, ...]
    skipped: tuple[str, ...]
    checks: int

    def __str__(self) -> str:
        kept = f"{len(self.rules)} rule{'s' if len(self.rules) != 1 else ''}"
        head = f"{self.subject} keeps {kept} ({self.checks} checks)"
        return "\n".join([head, *(f"not checked: {skipped}" for skipped in self.skipped)])


class ConformanceError(TwinlineError):
    """Something does not keep its contract; the text lists every rule that does not hold.

    Attributes:
        failures: those rules, by number.
        report: what holds and was checked.
    """

    def __init__(self, failures: Sequence[Failure], report: ConformanceReport) -> None:
        self.failures = tuple(failures)
        self.report = report
        count = len(self.failures)
        known = count + len(report.rules)
        head = f"{report.subject} does not keep {count} of {known} rules"
        super().__init__("\n".join([head, *map(str, self.failures)]))


class NotChecked(Exception):
    """Raised by a rule that cannot be checked here, with the reason."""


class _Abandoned(Exception):
    """Nothing more can be seen of this rule; the evidence is noted already."""


class Checks:
    """Takes down what one rule sees.

    Attributes:
        count: how many checks were made.
        evidence: what was seen that should not be.
    """

    def __init__(self) -> None:
        self.count = 0
        self.evidence: list[str] = []

    def that(self, holds: object, evidence: str) -> bool:
        """Note evidence if something does not hold, go on, and return whether it does."""
        self.count += 1
        return True if holds else self.wrong(evidence)

    def wrong(self, evidence: str) -> Literal[False]:
        """Note evidence, and go on."""
        self.evidence.append(evidence)
        return False

    def equal(self, seen: object, expected: object, what: str) -> bool:
        """Note evidence if something is not as expected, go on, and return whether it is."""
        self.count += 1
        # What should be True or False is not 1 or 0.
        if seen == expected and (type(seen) is bool or type(expected) is not bool):
            return True
        return self.wrong(f"{what} should be {shown(expected)}, is {shown(seen)}")

    def raises(
        self, expected: type[Exception], call: Callable[[], object], what: str
    ) -> BaseException | None:
        """Note evidence if a call does not raise what it should; return what it raised."""
        try:
            result = call()
        except expected as error:
            self.count += 1
            return error
        except (NotChecked, _Abandoned):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is evidence
            self.wrong(f"{what} should raise {expected.__name__}, raises {failure(error)}")
            return error
        self.wrong(f"{what} should raise {expected.__name__}, returns {shown(result)}")
        return None

    def give_up(self, evidence: str) -> NoReturn:
        """Note evidence and end this rule: nothing more can be learned from it."""
        self.count += 1
        self.evidence.append(evidence)
        raise _Abandoned


class Bench(Protocol):
    """What a rule works on; made anew for each."""

    def close(self) -> None:
        """Release what the rule left open."""


B = TypeVar("B", bound=Bench)


@dataclass(frozen=True, slots=True)
class Rule(Generic[B]):
    """One thing that must be so.

    Attributes:
        number: in the kit's docstring.
        sentence: what must be so.
        check: sees whether it is.
    """

    number: int
    sentence: str
    check: Callable[[Checks, B], None]

    @property
    def name(self) -> str:
        """The rule in one word."""
        return self.check.__name__


def rule(number: int, sentence: str) -> Callable[[Callable[[Checks, B], None]], Rule[B]]:
    """Make a rule of a function."""
    return lambda check: Rule(number, sentence, check)


def rules_of(*rooms: ModuleType) -> tuple[Rule[Any], ...]:
    """Return the rules that modules define, by number."""
    found = (each for room in rooms for each in vars(room).values() if isinstance(each, Rule))
    return tuple(sorted(found, key=lambda each: each.number))


def check_rules(
    subject: str,
    rules: Sequence[Rule[B]],
    make_bench: Callable[[Rule[B]], B],
    *,
    only: Collection[str] | str = (),
    progress: Progress | None = None,
    patience: float,
) -> ConformanceReport:
    """Check rules, each on a bench of its own.

    Args:
        subject: what is checked, for the text.
        rules: by number.
        make_bench: called for each rule, in the rule's thread.
        only: the names of the rules to check; none means all.
        progress: called before each rule.
        patience: how many seconds a rule may take before it is given up.

    Raises:
        ValueError: ``only`` names a rule that there is not.
        ConformanceError: at least one rule does not hold.
    """
    names = {only} if isinstance(only, str) else set(only)
    unknown = names - {each.name for each in rules}
    if unknown:
        raise ValueError(f"there is no rule {', '.join(sorted(unknown))}")
    rules = [each for each in rules if not names or each.name in names]
    failures: list[Failure] = []
    holding: list[str] = []
    skipped: list[str] = []
    count = 0
    for done, each in enumerate(rules):
        if progress is not None:
            progress(done, len(rules), each.sentence)
        checks = Checks()
        reason = _check(each, make_bench, checks, patience)
        count += checks.count
        if checks.evidence:
            failures.append(Failure(each.number, each.name, each.sentence, _few(checks.evidence)))
        elif reason is not None:
            skipped.append(f"rule {each.number} ({each.name}): {reason}")
        else:
            holding.append(each.name)
    report = ConformanceReport(subject, tuple(holding), tuple(skipped), count)
    if failures:
        raise ConformanceError(failures, report)
    return report


def shown(value: object) -> str:
    """Return a value as text that fits into a line of evidence."""
    text = repr(value)
    cut = len(text) - _SHOWN_CHARACTERS
    return text if cut <= 0 else f"{text[:_SHOWN_CHARACTERS]}… ({cut} more characters)"


def failure(error: BaseException) -> str:
    """Return an exception and where it was raised as text for a line of evidence."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {str(error)[:_SHOWN_CHARACTERS]}{where}"


def _called_from(rule: Rule[B], error: BaseException) -> str:
    """Return where in the rule's own file the call was made that raised."""
    kit = rule.check.__code__.co_filename
    lines = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == kit]
    return f", by `{lines[-1].line}`" if lines else ""


def _few(evidence: Sequence[str]) -> tuple[str, ...]:
    more = len(evidence) - _SHOWN_EVIDENCE
    return (*evidence[:_SHOWN_EVIDENCE], *([f"and {more} more like these"] if more > 0 else []))


def _check(
    rule: Rule[B], make_bench: Callable[[Rule[B]], B], checks: Checks, patience: float
) -> str | None:
    """Check one rule in a thread of its own; return why it could not be, if so."""
    reasons: list[str] = []

    def run() -> None:
        try:
            bench = make_bench(rule)
            try:
                rule.check(checks, bench)
            finally:
                bench.close()
        except NotChecked as error:
            reasons.append(str(error))
        except _Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001 - a cancellation or an exit is evidence too
            checks.wrong(f"unexpected {failure(error)}{_called_from(rule, error)}")
        else:
            if not checks.count:
                checks.wrong("nothing was checked")

    # A thread, so that what hangs is reported and not waited for; a daemon, so that it can be left.
    thread = threading.Thread(target=run, name=f"rule {rule.number}", daemon=True)
    thread.start()
    thread.join(patience)
    if thread.is_alive():
        frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - no public way
        stack = "".join(traceback.format_stack(frame)[-4:]) if frame else "nowhere"
        checks.wrong(f"it does not end; after {patience:g} s it stands at\n{stack}")
    return reasons[0] if reasons else None
