"""What of each protocol is there: every endpoint and field, yes or no, and the test that shows it.

    python -m tests.helpers.protocol_table > docs/protocols.md

`tests/pipeline/server/test_protocols.py` holds this table, the page, the schemas, the routes and
the tests together.
"""

from __future__ import annotations

import sys

from tests.helpers.ollama_endpoints import OLLAMA_ENDPOINTS
from tests.helpers.openai_endpoints import ANTHROPIC_ENDPOINTS, OPENAI_ENDPOINTS
from tests.helpers.protocol_endpoint import ABSENT, IGNORED, REFUSED

HEAD = """# Protocols

Every endpoint and field of [Ollama's API](https://docs.ollama.com/api), of chat completions,
completions, embeddings, responses, models and files of
[OpenAI's](https://platform.openai.com/docs/api-reference), and of
[Anthropic's](https://docs.anthropic.com/en/api/messages) messages: whether it is there, and a test
that shows it; paths are in `tests/pipeline/server` unless they begin with `tests/`. What is ignored
changes nothing here; what is refused is answered with status 400.
`python -m tests.helpers.protocol_table` writes this page, and `test_protocols.py` holds it to the
code.
"""

ENDPOINTS = [*OLLAMA_ENDPOINTS, *OPENAI_ENDPOINTS, *ANTHROPIC_ENDPOINTS]


def page() -> str:
    """The page as Markdown."""
    lines = [HEAD]
    for protocol in ("Ollama", "OpenAI", "Anthropic"):
        lines += [f"## {protocol}", ""]
        for endpoint in (each for each in ENDPOINTS if each.protocol == protocol):
            lines += [f"### `{endpoint.route}`", "", f"{_shown(endpoint.evidence)}", ""]
            rows = [*endpoint.fields.items()]
            rows += [
                (f"{name}` (of our own) `", why) for name, why in endpoint.extra_fields.items()
            ]
            if rows:
                lines += ["| field | |", "| --- | --- |"]
                lines += [f"| `{name}` | {_shown(why)} |".replace(" ``", "") for name, why in rows]
                lines.append("")
    return "\n".join(lines)


def _shown(evidence: str) -> str:
    """How the page shows a test, or a reason why there is none."""
    for kind in (IGNORED, REFUSED, ABSENT):
        if evidence.startswith(kind):
            return evidence
    outside = evidence.removeprefix("../")  # of tests/pipeline/server, which the others are in
    return f"yes: `{evidence if outside == evidence else f'tests/pipeline/{outside}'}`"


if __name__ == "__main__":
    sys.stdout.write(page())
