"""Tables of a report in the terminal; names from outside are escaped."""

from typing import TYPE_CHECKING

from sttrain.bench.blocks import Block
from sttrain.errors import printable

if TYPE_CHECKING:
    from rich.table import Table


def block_table(block: Block) -> "Table":
    """Return a block as a table for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(printable(block.title)), title_justify="left")
    for number, header in enumerate(block.headers):
        name = escape(printable(header))
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in block.rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table
