"""Looks names up in a table, and says what the table holds when a name is not in it."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of that name.

    Args:
      table: the entries by name.
      name: the name that a user gave.
      what: what the table holds, for the error ("model").

    Raises:
      ValueError: there is no such entry; the text lists the names and the closest one.
    """
    if name not in table:
        raise ValueError(unknown(what, name, table))
    return table[name]


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The text of the error for a name that is none of `known`."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown {what} {name!r}; expected one of {', '.join(map(repr, known))}.{hint}"
