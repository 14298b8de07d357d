"""Why something failed, in one line."""

from __future__ import annotations

import re

_LONGEST = 200  # characters of a sentence


def brief(reason: str) -> str:
    """A reason in one line: of a traceback what was raised, of other texts the first line.

    >>> brief("rank 3 failed:\\nTraceback (most recent call last):\\n  File ...\\nValueError: no")
    'ValueError: no'
    """
    head, traceback, rest = reason.partition("Traceback (most recent call last):")
    lines = (rest if traceback else head).strip().splitlines() or [""]
    return lines[-1 if traceback else 0].strip()


def sentence(reason: str) -> str:
    """The first sentence of a reason, without its full stop, cut where it is long.

    >>> sentence("a.pt cannot be read. It was cut.")
    'a.pt cannot be read'
    """
    first = re.split(r"(?<=\w{2}[^\s.])[.;](?=\s|$)", reason.strip(), maxsplit=1)[0].rstrip(" .:;")
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST].rpartition(' ')[0] or first[:_LONGEST]} ..."


def why(failure: str) -> str:
    """Why an attempt failed, in one line: what was raised, and where item after item failed, that.

    >>> why("rank 0 failed; rows finished before are kept:\\n5 items failed one after another, the last so:\\nno")
    '5 items failed one after another, the last so: no'
    """
    text = re.sub(r"\Arank \d+ failed;[^\n]*:\n", "", failure)
    items = re.match(r"([^\n]* failed[^\n]*, the last[^\n]* so:)\n", text)
    return f"{items[1]} {brief(text[items.end() :])}" if items else brief(text)


def of_user(failure: str) -> str | None:
    """Of items that failed in the user's own code what is told of that, without its traceback; None of other failures.

    >>> of_user("every item failed, the last so:\\nthe loss: ValueError: no\\nTraceback (most recent call last):")
    'every item failed, the last so:\\nthe loss: ValueError: no'
    >>> of_user("every item failed, the last so:\\nTraceback (most recent call last):") is None
    True
    """
    text = re.sub(r"\Arank \d+ failed;[^\n]*:\n", "", failure)
    told = r"[^\n]* failed[^\n]*, the last[^\n]* so:\n(?!Traceback ).+?"
    found = re.match(rf"({told})\nTraceback \(most recent", text, re.DOTALL)
    return found[1] if found else None
