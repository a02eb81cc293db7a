"""What the model knows: families of facts, each asked in several ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from .example import Example, capitalized
from .words import CATEGORIES, DAYS, LETTERS, MONTHS, NUMBERS, with_article, words

LARGEST_NUMBER = 100


@dataclass(frozen=True)
class Family:
    """Facts of one kind: every key may be asked in every way, and every fact stands in one sentence."""

    task: str
    """The row of the model card's table."""
    questions: tuple[str, ...]
    """Ways to ask, with `{}` for the key."""
    opening: str
    """The sentence of the answer up to the value, with `{}` for the key."""
    values: Mapping[str, str]
    """The value for each key."""

    def sentence(self, key: str) -> tuple[str, str]:
        """The sentence up to the value, and the rest of it."""
        return capitalized(self.opening.format(key)), f" {self.values[key]}."


def neighbours(items: Sequence[str], step: int, *, cyclic: bool = True) -> dict[str, str]:
    """For each item the one that lies `step` behind it; at the ends of a list that is not cyclic there is none."""
    reach = range(len(items)) if cyclic else range(max(0, -step), len(items) - max(0, step))
    return {items[index]: items[(index + step) % len(items)] for index in reach}


def _order(kind: str, items: Sequence[str], *, cyclic: bool = True) -> list[Family]:
    """What comes after and before each of the items."""
    return [
        Family(
            "before and after",
            (
                f"Which {kind} comes {side} {{}}?",
                f"What comes {side} {{}}?",
                f"What {kind} comes {side} {{}}?",
                f"What is the {kind} {side} {{}}?",
                f"Tell me the {kind} {side} {{}}.",
            ),
            f"{capitalized(side)} {{}} comes",
            neighbours(items, step, cyclic=cyclic),
        )
        for side, step in (("after", 1), ("before", -1))
    ]


OPPOSITES = dict(
    pair.split("-")
    for pair in words(
        "hot-cold big-small tall-short fast-slow old-young good-bad day-night up-down left-right happy-sad wet-dry "
        "hard-soft light-dark full-empty open-closed early-late loud-quiet rich-poor thick-thin clean-dirty yes-no "
        "black-white in-out on-off strong-weak long-short near-far high-low first-last sweet-sour"
    )
)
COLORS = {
    "grass": "green",
    "the sky": "blue",
    "snow": "white",
    "coal": "black",
    "blood": "red",
    "a banana": "yellow",
    "the sun": "yellow",
    "a carrot": "orange",
    "the night": "black",
    "a leaf": "green",
    "milk": "white",
    "a tomato": "red",
    "a lemon": "yellow",
    "chocolate": "brown",
    "a frog": "green",
    "a pig": "pink",
    "an elephant": "gray",
    "the sea": "blue",
    "a cherry": "red",
    "a plum": "purple",
    "a strawberry": "red",
    "gold": "yellow",
    "a swan": "white",
    "a crow": "black",
}
SOUNDS = dict(
    pair.split("-")
    for pair in words(
        "cow-moo dog-woof cat-meow sheep-baa duck-quack pig-oink horse-neigh mouse-squeak lion-roar bee-buzz owl-hoot "
        "hen-cluck wolf-howl snake-hiss frog-croak crow-caw"
    )
)
LEGS = {
    **dict.fromkeys(words("dog cat horse cow pig sheep lion tiger mouse rabbit bear wolf fox elephant frog"), "four"),
    **dict.fromkeys(words("bird duck hen man woman owl eagle penguin"), "two"),
    **dict.fromkeys(words("ant bee fly beetle wasp butterfly"), "six"),
    **dict.fromkeys(words("fish snake shark worm"), "no"),
    "spider": "eight",
}
CAPITALS = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Egypt": "Cairo",
    "England": "London",
    "Norway": "Oslo",
    "Austria": "Vienna",
    "Portugal": "Lisbon",
    "Greece": "Athens",
    "Russia": "Moscow",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Canada": "Ottawa",
}
YOUNG = dict(
    pair.split("-")
    for pair in words(
        "dog-puppy cat-kitten cow-calf horse-foal sheep-lamb duck-duckling hen-chick lion-cub bear-cub pig-piglet "
        "goat-kid frog-tadpole swan-cygnet goose-gosling"
    )
)
HOMES = {
    **dict.fromkeys(words("fish shark salmon whale crab"), "in the water"),
    **dict.fromkeys(words("cow horse pig sheep hen"), "on a farm"),
    **dict.fromkeys(words("owl squirrel fox bear deer"), "in the forest"),
    **dict.fromkeys(words("dog cat man woman"), "in a house"),
    "bee": "in a hive",
    "bird": "in a nest",
    "camel": "in the desert",
}
KINDS = {
    item: with_article(name)
    for name, items in CATEGORIES.items()
    if name in words("color animal fruit vegetable drink tool flower city country metal sport")
    for item in items
}
THINGS = {item: kind for item, kind in KINDS.items() if item in CATEGORIES["animal"] + CATEGORIES["tool"]}
NAMED_KINDS = {item: kind for item, kind in KINDS.items() if item not in THINGS}

FAMILIES = (
    Family(
        "opposites",
        (
            "What is the opposite of {}?",
            "Tell me the opposite of {}.",
            "Which word is the opposite of {}?",
            "Give me the opposite of {}.",
        ),
        "the opposite of {} is",
        OPPOSITES | {value: key for key, value in OPPOSITES.items() if value != "short"},
    ),
    Family(
        "colors of things",
        (
            "What color is {}?",
            "What colour is {}?",
            "What is the color of {}?",
            "What is the colour of {}?",
            "Which color is {}?",
            "Tell me the color of {}.",
        ),
        "{} is",
        COLORS,
    ),
    Family(
        "animals",
        ("What does a {} say?", "What sound does a {} make?", "Which sound does a {} make?", "How does a {} sound?"),
        "a {} says",
        SOUNDS,
    ),
    Family(
        "animals",
        ("How many legs does a {} have?", "How many legs has a {}?", "Tell me how many legs a {} has."),
        "a {} has",
        {key: value + " legs" for key, value in LEGS.items()},
    ),
    Family(
        "animals",
        ("What is a young {} called?", "What is a baby {} called?", "What do you call a young {}?"),
        "a young {} is called a",
        YOUNG,
    ),
    Family("animals", ("Where does a {} live?", "Where do you find a {}?"), "a {} lives", HOMES),
    Family(
        "capitals",
        (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "Tell me the capital of {}.",
            "Name the capital of {}.",
        ),
        "the capital of {} is",
        CAPITALS,
    ),
    Family("kinds", ("What is {}?", "What kind of thing is {}?", "Tell me what {} is."), "{} is", NAMED_KINDS),
    Family("kinds", ("What is a {}?", "What kind of thing is a {}?", "Tell me what a {} is."), "a {} is", THINGS),
    *_order("day", DAYS),
    *_order("month", MONTHS),
    *_order("letter", LETTERS, cyclic=False),
    *_order("number", [str(number) for number in range(LARGEST_NUMBER + 1)], cyclic=False),
    *_order("number", NUMBERS, cyclic=False),
)


def question(rng: Random) -> Example:
    """A fact asked in a chat, answered by a whole sentence."""
    family, key = _fact(rng)
    return Example(family.task, rng.choice(family.questions).format(key), "".join(family.sentence(key)), chat=True)


def plain_question(rng: Random) -> Example:
    """A fact asked in plain text, in the form that people use for few-shot prompts."""
    asked = question(rng)
    form = rng.choice(("Question: {}\nAnswer:", "Q: {}\nA:"))
    return Example(asked.task, form.format(asked.prompt), " " + asked.answer)


def statement(rng: Random) -> Example:
    """The sentence of a fact, to be completed in plain text."""
    family, key = _fact(rng)
    opening, rest = family.sentence(key)
    return Example("statements", opening, rest)


def _fact(rng: Random) -> tuple[Family, str]:
    family = rng.choice(FAMILIES)
    return family, rng.choice(list(family.values))
