"""What a program that a test starts finds around itself."""

import os


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """The environment variables, and these besides, without those that tracebacks, warnings and notes depend on.

    They must not depend on who runs the tests.
    """
    dropped = (
        "PYTHONWARNINGS",
        "PYTHONDEVMODE",
        "PYTHONASYNCIODEBUG",
        "WHILST_EXPLAIN",
        "FORCE_COLOR",
        "PYTHON_COLORS",
    )
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"} | (more or {})
