"""The record of a trace as one HTML page, which needs nothing else: no network, no other file, no server.

The page's parts lie in `viewer/` beside this module: a skeleton, a style sheet, and JavaScript without a build step, which is
joined here in the order of `SCRIPTS`. Nothing of the data can become markup or run: the record is JSON in which `<`, `>` and
`&` are escaped, the page makes text nodes of it, and its policy admits only this very script and this very style sheet, by
their digests.
"""

import base64
import hashlib
import html
import json
import os

_FOLDER = os.path.join(os.path.dirname(__file__), "viewer")

# The later ones use the earlier ones.
SCRIPTS = (
    "units.js",
    "kinds.js",
    "model.js",
    "rows.js",
    "path.js",
    "view.js",
    "search.js",
    "dom.js",
    "paint.js",
    "tree.js",
    "story.js",
    "summary.js",
    "app.js",
    "input.js",
    "main.js",
)


def page(record: dict[str, object]) -> str:
    """One self-contained HTML page that shows `record`, which is a trace's in format 1 (docs/tracing.md)."""
    style = _part("page.css")
    script = "\n".join(map(_part, SCRIPTS))
    program = str(record.get("program") or "a program")
    parts = {
        "POLICY": (
            f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:;"
            " base-uri 'none'; form-action 'none'"
        ),
        "TITLE": html.escape(f"{program.rpartition('/')[2]} — trace by whilst")
        .encode("utf-8", "replace")
        .decode(),
        "STYLE": style,
        "RECORD": _json(record),
        "SCRIPT": script,
    }
    # Split once, so that a part in which such a mark stands is left as it is.
    pieces = _part("page.html").split("@@")
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def _part(name: str) -> str:
    with open(os.path.join(_FOLDER, name), encoding="utf-8") as file:
        return file.read()


def _digest(text: str) -> str:
    """A source for a policy that admits an element with exactly this text (CSP level 2, 7.17 "script-src")."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(record: dict[str, object]) -> str:
    """JSON that can stand in a `script` element: no `</script` and no `<!--` can be in it, and nothing beyond ASCII.

    ASCII also because a name may hold what no UTF-8 can say: the surrogates by which Python keeps undecodable bytes of a path.
    """
    text = json.dumps(record, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
