"""Write docs/failure-modes/ from the detectors' own texts, or check that the committed pages are fresh.

    python scripts/gen_failure_modes.py            write the pages
    python scripts/gen_failure_modes.py --check    compare only; names each stale page and exits with 1

What a kind of finding says of itself (`FindingKind`) is the one source of its page, of the explanations in the API and
of the links in alerts. To change a page, change the kind.
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from gradsight_insight.attribution import EXPLAINS, rank
from gradsight_insight.catalogue import KINDS
from gradsight_insight.kinds import FindingKind, Threshold

PAGES = Path(__file__).resolve().parent.parent / "docs" / "failure-modes"
MADE = (
    "<!-- Made by scripts/gen_failure_modes.py. To change this page, change what the kind says of itself. -->"
)
WIDTH = 118

INTRODUCTION = """\
A finding names something about a run that you should know: which failure mode, where, since when, on what evidence,
and what to do. Each kind has a page here; findings, alerts and the command line link to it. A page says what you see,
why it happens, from the cause through the mathematics to the model's behaviour, how it is detected and with which
thresholds, what looks the same and is something else, what you can do, and what gradsight does by itself.

Two rules run through all of them. *Statistics for curves, thresholds for layers*: a loss curve is noisy, so trends and
paired tests judge it, while a layer's gradient either arrives or does not. And *one cause, one finding*: one fault
shows in many numbers, so findings are put in the order from data to update to result, and what an earlier one explains
is linked to it as its consequence. The table is in that order.

Thresholds can be changed for a job, and a kind can be switched off, under `monitoring.detectors` of its spec. A finding
opens when its condition holds, and closes when it was not seen for 20 probes or 3 evaluations."""


def main() -> int:
    """Write or compare the pages; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed pages, write nothing"
    )
    check = parser.parse_args().check
    stale = stale_pages(PAGES)
    if not check:
        write(PAGES)
        return 0
    for name in stale:
        print(f"stale: docs/failure-modes/{name}: run `make failure-modes`", file=sys.stderr)
    return 1 if stale else 0


def pages() -> dict[str, str]:
    """Every page by its file name."""
    ordered = sorted(KINDS.values(), key=lambda kind: (rank(kind.name), kind.code))
    return {"README.md": index(ordered), **{kind.page: page(kind) for kind in ordered}}


def stale_pages(folder: Path) -> list[str]:
    """Pages that are missing, differ, or belong to no kind."""
    fresh = pages()
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    return sorted(name for name in {*fresh, *present} if fresh.get(name) != present.get(name))


def write(folder: Path) -> None:
    """Write all pages, and remove those that belong to no kind."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = pages()
    for path in folder.glob("*.md"):
        if path.name not in fresh:
            path.unlink()
    for name, text in fresh.items():
        (folder / name).write_text(text, encoding="utf-8")


def index(kinds: Sequence[FindingKind]) -> str:
    """The list of all kinds."""
    rows = [
        f"| [{kind.code}]({kind.page}) | {kind.title} | `{kind.name}` | {kind.severity} "
        f"| {_first_sentence(kind.you_see)} |"
        for kind in kinds
    ]
    head = ["| page | failure mode | kind | severity | you see |", "|---|---|---|---|---|"]
    return "\n\n".join(["# Failure modes", MADE, INTRODUCTION, "\n".join([*head, *rows])]) + "\n"


def page(kind: FindingKind) -> str:
    """The page of one kind; other kinds that it mentions by code are linked."""
    parts = [
        f"# {kind.title}",
        MADE,
        f"{kind.code} · kind `{kind.name}` · usually {kind.severity} · [all failure modes](README.md)",
        "## What you see",
        _filled(kind.you_see),
        "## Why it happens",
        _filled(kind.mechanism),
        "## How it is detected",
        _filled(kind.rule),
        *_thresholds(kind),
        "## What looks the same",
        _bullets(kind.look_alikes),
        "## What to do",
        _numbered(kind.actions),
        "## What gradsight does",
        _filled(kind.gradsight_does),
        *_repairs(kind),
        *_relations(kind),
        "## Sources",
        _bullets(kind.sources),
    ]
    head, *body = parts
    return "\n\n".join([head, *(_linked(part, kind) for part in body)]) + "\n"


def _linked(text: str, own: FindingKind) -> str:
    for kind in KINDS.values():
        if kind is not own:
            text = re.sub(rf"{kind.code}(?!-)", f"[{kind.code}]({kind.page})", text)
    return text


def _thresholds(kind: FindingKind) -> list[str]:
    if not kind.thresholds:
        return ["It has no thresholds: the condition holds or it does not."]
    rows = [_threshold_row(name, threshold) for name, threshold in kind.thresholds.items()]
    name, threshold = next(iter(kind.thresholds.items()))
    example = {"monitoring": {"detectors": {kind.name: {"thresholds": {name: threshold.default}}}}}
    return [
        "\n".join(["| threshold | default | allowed | meaning |", "|---|---|---|---|", *rows]),
        'To change one for a job, or with `"disabled": true` in its place to switch the kind off:',
        f"```json\n{json.dumps(example)}\n```",
    ]


def _threshold_row(name: str, threshold: Threshold) -> str:
    allowed = f"{threshold.low:g} to {threshold.high:g}"
    return f"| `{name}` | {threshold.default:g} | {allowed} | {threshold.meaning} |"


def _repairs(kind: FindingKind) -> list[str]:
    if not kind.repairs:
        return []
    tried = ", ".join(f"`{repair.upper()}`" for repair in kind.repairs)
    return [
        f"Repairs, in the order in which they are tried: {tried} ([what each does](../mitigation.md#repairs))."
    ]


def _relations(kind: FindingKind) -> list[str]:
    causes = [name for name, explained in EXPLAINS.items() if kind.name in explained]
    lines = []
    if causes:
        lines.append(f"It can be a consequence of {_links(causes)}.")
    if kind.name in EXPLAINS:
        lines.append(f"It can explain {_links(EXPLAINS[kind.name])}.")
    return ["## Causes and consequences", "\n\n".join(_filled(line) for line in lines)] if lines else []


def _links(names: Iterable[str]) -> str:
    # Every kind that explains or is explained is in the catalogue; a test holds this.
    known = sorted((KINDS[name] for name in names if name in KINDS), key=lambda kind: rank(kind.name))
    linked = [f"[{kind.title.lower()}]({kind.page})" for kind in known]
    return linked[0] if len(linked) == 1 else f"{', '.join(linked[:-1])} or {linked[-1]}"


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _bullets(texts: Sequence[str]) -> str:
    return "\n".join(_item("- ", text) for text in texts)


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(_item(f"{number}. ", text) for number, text in enumerate(texts, 1))


def _item(mark: str, text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _first_sentence(text: str) -> str:
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


if __name__ == "__main__":
    sys.exit(main())
