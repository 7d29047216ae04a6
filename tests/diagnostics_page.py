"""The tables of docs/diagnostics.md, from the catalogue of quantities.

python -m tests.diagnostics_page    # writes them, each below its mark in the page
"""

import pathlib
import re

from ntk_train.spectrum.quantities import CATALOGUE

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "diagnostics.md"
MARK = re.compile(r"(?<=<!-- quantities: )(\w+)( -->\n\n)((?:\|.*\n)*)")
COLUMNS = {
    "definition": "definition",
    "range": "range",
    "meaning": "what it means",
    "source": "source",
    "traps": "traps",
}


def table(needs):
    """The quantities of one kind in Markdown, without the columns that all of them leave empty."""
    entries = [entry for entry in CATALOGUE if entry.needs == needs]
    columns = [key for key in COLUMNS if any(getattr(entry, key) for entry in entries)]
    rows = [["tag", *(COLUMNS[key] for key in columns)]]
    source = None
    for entry in entries:
        tag = f"layer/*/{entry.name}" if entry.of_layer else entry.name
        cells = {key: getattr(entry, key) or "-" for key in columns}
        cells["range"] += f" ({entry.unit})" if entry.unit else ""
        if entry.source and entry.source == source:
            cells["source"] = "as above"
        source = entry.source
        rows.append([f"`{tag}`", *cells.values()])
    head, *body = (f"| {' | '.join(row)} |\n" for row in rows)
    return head + "|---" * (len(columns) + 1) + "|\n" + "".join(body)


def page(text):
    """The page with the tables as they should be."""
    return MARK.sub(lambda found: found[1] + found[2] + table(found[1]), text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
