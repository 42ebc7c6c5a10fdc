"""Writes the support-intents data set: what customers of an invented shoe shop ask its support desk.

    python generate.py --seed 7 --out DIR

Writes `last_week.train.csv`, `this_week.train.csv` and `test.csv` (columns: id, text, intent, category).
The same seed gives the same bytes. `phrases/<category>.json` holds the templates of every intent, in separate
sets for last week, this week and test; `slots.json` what fills them. In a template, `[a|b]` is a choice and
`{shoe}` a slot.

Read from top to bottom: `main`, `generate`, one split, one utterance.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
COLUMNS = ("id", "text", "intent", "category")

# Rows per intent. Last week the desk saw little of returns and sizing, and only in the usual words; this week
# a return portal and a wide-fit line were launched, and customers wrote about them.
LAUNCHED = ("returns", "sizing")
LAST_WEEK_ROWS = {"launched": 64, "other": 101}
NEW_ROWS = {"launched": 66, "other": 17}
TEST_ROWS = {"launched": 40, "other": 30}

LABEL_NOISE = 0.01  # share of training rows that carry the label of another intent; test rows never do


class Row(NamedTuple):
    """One line of a file: the fields in the order of `COLUMNS`."""

    id: str
    text: str
    intent: str
    category: str


class Intent(NamedTuple):
    """One intent and its templates. `this_week` is empty where nothing new was launched."""

    name: str
    category: str
    last_week: tuple[str, ...]
    this_week: tuple[str, ...]
    test: tuple[str, ...]


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description="Write the support-intents data set.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE, help="folder (default: this one)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in generate(arguments.seed).items():
        write_csv(arguments.out / name, rows)


def generate(seed: int) -> dict[str, list[Row]]:
    """All three files as {file name: rows}. Raises ValueError if test wordings are in training."""
    intents = load_intents()
    check_templates_are_disjoint(intents)
    seen: set[str] = set()
    # The test rows come first, so that they stay the same when training phrases are added.
    test = make_split(intents, "test", seed, seen)
    last_week = add_label_noise(make_split(intents, "last_week", seed, seen), intents, seed)
    new = add_label_noise(make_split(intents, "this_week", seed, seen), intents, seed)
    return {"last_week.train.csv": last_week, "this_week.train.csv": last_week + new, "test.csv": test}


def load_intents() -> list[Intent]:
    """Every intent of `phrases/*.json`, in the order of the files' names."""
    intents = []
    for path in sorted((HERE / "phrases").glob("*.json")):
        bank = json.loads(path.read_text(encoding="utf-8"))
        for name, sets in bank["intents"].items():
            last_week, test = tuple(sets["last_week"]), tuple(sets["test"])
            intents.append(Intent(name, bank["category"], last_week, tuple(sets.get("this_week", ())), test))
    return intents


def check_templates_are_disjoint(intents: Iterable[Intent]) -> None:
    """No wording of a test template is one of a training template, whatever the case and punctuation."""
    intents = list(intents)
    trained = {wording for intent in intents for wording in wordings(intent.last_week + intent.this_week)}
    tested = {wording for intent in intents for wording in wordings(intent.test)}
    if both := sorted(trained & tested):
        raise ValueError(f"wordings in a training set and in the test set: {both}; reword one of the two")


def wordings(templates: Iterable[str]) -> Iterator[str]:
    """Every wording the templates can take: alternatives chosen, slots left open, letters and digits only."""
    for template in templates:
        parts = re.split(r"\[([^\]]*)\]", template)
        for chosen in product(*(part.split("|") if odd % 2 else [part] for odd, part in enumerate(parts))):
            yield normalised("".join(chosen))


def normalised(text: str) -> str:
    """`text` as its lower-case words (braces of slots kept): what counts as the same text here."""
    return " ".join(re.findall(r"[\w{}]+", text.lower()))


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write `rows` under a header line, UTF-8 with line feeds on every platform."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


# --- one split


def make_split(intents: Iterable[Intent], split: str, seed: int, seen: set[str]) -> list[Row]:
    """The shuffled rows of one split. `seen` holds every text so far; none is used a second time."""
    counts = {"last_week": LAST_WEEK_ROWS, "this_week": NEW_ROWS, "test": TEST_ROWS}[split]
    found: list[tuple[str, Intent]] = []
    for intent in intents:
        writer = Customer(Random(f"{seed}/{split}/{intent.name}"), "test" if split == "test" else "train")
        count = counts["launched" if intent.category in LAUNCHED else "other"]
        templates = getattr(intent, split) or intent.last_week
        found += [(text, intent) for text in distinct_texts(writer, templates, count, seen)]
    Random(f"{seed}/{split}/order").shuffle(found)
    return [
        Row(f"{split}-{number:04}", text, intent.name, intent.category)
        for number, (text, intent) in enumerate(found, 1)
    ]


def distinct_texts(writer: Customer, templates: tuple[str, ...], count: int, seen: set[str]) -> Iterator[str]:
    """`count` new texts, every template used about equally often. Raises ValueError if they run dry."""
    for attempt in range(count * 50):
        if attempt % len(templates) == 0:
            order = writer.random.sample(templates, len(templates))
        text = writer.utterance(order[attempt % len(templates)])
        if normalised(text) in seen:
            continue
        seen.add(normalised(text))
        yield text
        count -= 1
        if count == 0:
            return
    raise ValueError(f"the templates ran dry, {count} texts short; add templates or slots: {templates}")


def add_label_noise(rows: list[Row], intents: list[Intent], seed: int) -> list[Row]:
    """`rows`, a share of `LABEL_NOISE` labelled with another intent and its category, as annotators slip."""
    random = Random(f"{seed}/label noise/{rows[0].id}")
    noisy = list(rows)
    for index in random.sample(range(len(rows)), round(LABEL_NOISE * len(rows))):
        wrong = random.choice([intent for intent in intents if intent.name != rows[index].intent])
        noisy[index] = rows[index]._replace(intent=wrong.name, category=wrong.category)
    return noisy


# --- one utterance


class Customer:
    """Writes utterances from templates: fills slots, adds what people add, types as people type."""

    def __init__(self, random: Random, split: str) -> None:
        self.random = random
        slots: dict[str, Any] = json.loads((HERE / "slots.json").read_text(encoding="utf-8"))
        self.values: dict[str, list[str]] = slots["values"]
        self.openers: list[str] = slots["openers"]
        self.contexts: list[str] = slots[split]["contexts"]
        self.closers: list[str] = slots[split]["closers"]
        self.abbreviations: dict[str, str] = slots["abbreviations"]
        self.neighbour_keys: dict[str, str] = slots["neighbour_keys"]

    def utterance(self, template: str) -> str:
        """One text: the filled template, often with an opener, a context or a closer, as people type."""
        random = self.random
        parts = [template]
        if random.random() < 0.12:
            parts.insert(0, random.choice(self.contexts))
        if random.random() < 0.15:
            parts.append(random.choice(self.closers) + random.choice([".", "!", ""]))
        if random.random() < 0.28:
            parts.insert(0, random.choice(self.openers) + random.choice([",", "!", "", " -"]))
        return self.type_as_people_do(self.fill(self.join(parts)))

    def join(self, parts: list[str]) -> str:
        """Sentences in a row, sometimes run on without an end."""
        if len(parts) > 1 and self.random.random() < 0.2:
            return self.random.choice([" ", ", "]).join(part.rstrip(".!?,- ") for part in parts)
        return " ".join(parts)

    def fill(self, template: str) -> str:
        """The template with choices made and slots filled.

        A text speaks of one `shoe` and one `order`; the values of all other slots differ from each other.
        """
        chosen = re.sub(r"\[([^\]]*)\]", lambda match: self.random.choice(match[1].split("|")), template)
        subjects: dict[str, str] = {}

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name in subjects and name in ("shoe", "order"):
                return subjects[name]
            while (text := self.slot(name)) in subjects.values():
                pass
            subjects[f"{name} {len(subjects)}" if name in subjects else name] = text
            return text

        return re.sub(r" +", " ", re.sub(r"\{(\w+)\}", value, chosen)).strip()

    def pick(self, name: str) -> str:
        """One of the listed values of a slot."""
        return self.random.choice(self.values[name])

    def slot(self, name: str) -> str:
        """A value for the slot `name`: made up here, or one of the listed values."""
        random, pick = self.random, self.pick
        match name:
            case "shoe" | "shoe2":
                shoe = pick("model") if random.random() < 0.65 else pick("generic")
                return f"{pick('colour')} {shoe}" if random.random() < 0.25 else shoe
            case "size" | "size2":
                return random.choice(
                    [pick("eu"), pick("eu"), f"EU {pick('eu')}", f"UK {pick('uk')}", f"US {pick('us')}"]
                )
            case "size_eu":
                return random.choice(["EU ", "eu", "European "]) + pick("eu")
            case "order":
                return random.choice(["#", "SO-", "", "no. "]) + str(random.randrange(10_000, 99_999))
            case "date":
                day, month = random.randrange(1, 29), pick("month")
                return random.choice([f"{day} {month}", f"{day}/{random.randrange(1, 13)}", f"{month} {day}"])
            case "price":
                euros = random.randrange(25, 190)
                return random.choice([f"€{euros}.95", f"£{euros}", f"{euros} euros", f"{euros},90 €"])
            case "email":
                return f"{pick('name').lower().replace('ë', 'e')}{random.randrange(100)}@example.org"
        return pick(name)

    def type_as_people_do(self, text: str) -> str:
        """Casing, punctuation, abbreviations and typos of a hurried writer."""
        random = self.random
        if random.random() < 0.2:
            text = self.abbreviate(text)
        if random.random() < 0.4:
            text = text.lower()
        elif random.random() < 0.02:
            text = text.upper()
        if random.random() < 0.35:
            text = text.rstrip(".!?")
        elif random.random() < 0.08:
            text = text.rstrip(".!?") + random.choice(["!!", "??", "...", "?!", " :("])
        if random.random() < 0.15:
            text = re.sub(r"(?<=\w)[,.] ", " ", text).replace("'", "")
        for _ in range(random.choice([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])):
            text = self.mistype(text)
        return text

    def abbreviate(self, text: str) -> str:
        """Most of the words that have a usual short form, shortened."""

        def short(match: re.Match[str]) -> str:
            word = match[0]
            return self.abbreviations.get(word.lower(), word) if self.random.random() < 0.7 else word

        return re.sub(r"[\w']+", short, text)

    def mistype(self, text: str) -> str:
        """One slip inside a word of at least four letters: swapped, dropped, doubled or the key beside."""
        words = list(re.finditer(r"[A-Za-z]{4,}", text))
        if not words:
            return text
        word = self.random.choice(words)
        at = self.random.randrange(word.start() + 1, word.end() - 1)
        letter, after = text[at], text[at + 1]
        beside = self.random.choice(self.neighbour_keys.get(letter.lower(), letter))
        slip = self.random.choice([after + letter, after, letter + letter + after, beside + after])
        return text[:at] + slip + text[at + 2 :]


if __name__ == "__main__":
    main()
