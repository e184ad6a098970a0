"""The process that callgrind counts: `counted.py LOOP ROW=OPERATIONS…`, each a row inside one loop.

A row runs once for all that happens only once, then the process marks where the count begins, runs it again, and marks
the end: the clock of these rows (`rows/row.py`) is the mark. Prints a line of JSON for each row that ran, or failed.
"""

import gc
import json
import os
import sys

os.environ["WHILST_BENCH_CLOCK"] = "marks"

from child import settle_allocator
from loops import LOOPS
from rows import ROWS, Inside
from rows import row as row_module


def main() -> None:
    """Run the rows that the command line names."""
    settle_allocator()
    new_loop = LOOPS[sys.argv[1]].factory()
    for argument in sys.argv[2:]:
        name, _, wanted = argument.partition("=")
        row = ROWS[name]
        assert isinstance(row, Inside)
        try:
            # Twice: what the first run left is seen by the collector before the second, and by it alone.
            for count in (int(wanted) // 4, int(wanted)):
                gc.collect()
                gc.freeze()
                operations = row.workload(new_loop, count).operations
            told: dict[str, object] = {"row": name, "operations": operations, "marks": row_module.marks}
        except Exception as error:
            told = {"row": name, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), flush=True)
    # A loop's threads, or an extension's end, are not counted, and must not keep the process.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
