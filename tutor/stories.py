"""Small stories, put together from sentences that agree with one another."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .example import Example, capitalized
from .words import BOYS, GIRLS, NAMES, phrases, with_article, words

HEROES = words("cat dog mouse rabbit bear fox bird frog horse robot boy girl duck lion owl")
LOOKS = words("small big young old brave shy happy clever funny quiet kind hungry")
PLACES = phrases(
    "in a small house|in a big forest|near the sea|on a farm|in a quiet village|under an old tree|by the river|"
    "in a red barn|at the edge of the town|on a green hill|in a warm kitchen|behind the school"
)
PASTIMES = phrases(
    "sleep in the sun|run in the grass|play with a ball|look at the stars|sing songs|read old books|swim in the lake|"
    "eat cake|climb trees|watch the rain|dance in the garden|listen to the wind|jump over stones|paint flowers|"
    "count the clouds|tell jokes"
)
TIMES = phrases(
    "One day|One morning|One evening|Last night|Yesterday|In the summer|On a cold day|On a rainy day|Today|"
    "After breakfast|On Sunday|In the winter"
)
FINDS = phrases(
    "a red ball|a golden key|a little box|an old map|a blue feather|a shiny stone|a lost hat|a warm blanket|"
    "a tiny door|a big apple|a broken toy|a letter|a silver bell|a green bottle|a basket of fruit|a wooden boat"
)
WHERES = phrases(
    "in the garden|under the bed|behind a tree|on the road|near the river|in the snow|by the window|in the kitchen|"
    "on the beach|at the market|in the forest|next to the gate"
)
FEELINGS = phrases("happy|very happy|surprised|proud|a little afraid|excited|curious|sleepy|glad|not sad at all")
ENDS = phrases(
    "Then {they} went home.|In the evening {they} slept well.|It was a very good day.|"
    "{They} laughed and laughed.|And {they} never forgot that day.|From then on {they} were best friends.|"
    "That night the moon was bright.|Everyone was happy.|Then it was time for bed."
)


@dataclass(frozen=True)
class Voice:
    """How a story speaks of its hero."""

    subject: str
    """`I`, `he` or `she`."""
    being: str
    having: str
    possessive: str
    verb_ending: str
    """What the present tense adds to a verb."""


FIRST_PERSON = Voice("I", "am", "have", "my", "")
HE = Voice("he", "is", "has", "his", "s")
SHE = Voice("she", "is", "has", "her", "s")


def story(rng: Random) -> Example:
    """A story in plain text, told by its hero or about it."""
    opening, rest = _told(rng, rng.choice(HEROES))
    return Example("stories", opening, " " + rest)


def chat_story(rng: Random) -> Example:
    """A story that was asked for in a chat."""
    hero = rng.choice(HEROES)
    form = rng.choice(("Tell me a story about {}.", "Write a story about {}.", "Tell a short story about {}."))
    opening, rest = _told(rng, hero)
    return Example("stories", form.format(with_article(hero)), f"{opening} {rest}", chat=True)


def _told(rng: Random, hero: str) -> tuple[str, str]:
    if rng.random() < 0.5:
        return _opening_in_first_person(rng, hero), _body(rng, FIRST_PERSON, rng.choice(NAMES))
    name = rng.choice({"boy": BOYS, "girl": GIRLS}.get(hero, NAMES))
    opening = rng.choice(
        (
            f"Once upon a time there was {with_article(rng.choice(LOOKS))} {hero} called {name}.",
            f"Once there was {with_article(hero)} called {name}.",
            f"{name} was {with_article(rng.choice(LOOKS))} {hero}.",
            f"There once was {with_article(hero)} who was called {name}.",
        )
    )
    return opening, _body(rng, HE if name in BOYS else SHE, name)


def _opening_in_first_person(rng: Random, hero: str) -> str:
    plain = f"I am {with_article(hero)}."
    return rng.choice((plain, plain, f"I am {with_article(rng.choice(LOOKS))} {hero}."))


def _body(rng: Random, voice: Voice, name: str) -> str:
    friend = rng.choice([other for other in NAMES if other != name])
    sentences = [
        *rng.sample(_description(rng, voice, name, friend), rng.choice((1, 2, 2))),
        *_event(rng, voice, friend),
        _ending(rng, voice),
    ]
    return " ".join(sentences)


def _description(rng: Random, voice: Voice, name: str, friend: str) -> list[str]:
    """Sentences about the hero, any of which may stand."""
    subject, ending = capitalized(voice.subject), voice.verb_ending
    first, second = rng.sample(PASTIMES, 2)
    sentences = [
        f"{subject} live{ending} {rng.choice(PLACES)}.",
        f"{subject} like{ending} to {first} and to {second}.",
        f"{capitalized(voice.possessive)} best friend is {friend}.",
        f"Every day {voice.subject} {rng.choice(('want', 'love', 'need'))}{ending} to {first}.",
        f"{subject} {voice.having} a friend called {friend}.",
        f"{subject} {voice.being} always {rng.choice(LOOKS)}.",
    ]
    return [*sentences, f"My name is {name}."] if voice is FIRST_PERSON else sentences


def _event(rng: Random, voice: Voice, friend: str) -> list[str]:
    """What happened, and what it did to the hero."""
    find, time = rng.choice(FINDS), rng.choice(TIMES)
    was = capitalized(f"{voice.subject} was {rng.choice(FEELINGS)}.")
    happened = rng.choice(
        (
            f"{time} {voice.subject} found {find} {rng.choice(WHERES)}.",
            f"{time} {friend} came and gave {_object(voice)} {find}.",
            f"{time} {voice.subject} lost {find} {rng.choice(WHERES)}, but {friend} found it.",
            f"{time} {_and(voice, friend)} saw {find} {rng.choice(WHERES)}.",
            f"{time} {voice.subject} wanted to {rng.choice(PASTIMES)} with {friend}.",
        )
    )
    said = rng.choice(('"Look at that!" said {}.', '"Thank you!" {} said.', '"What a day!" said {}.'))
    extra = rng.choice(([], [said.format(friend)], [f"{friend} was {rng.choice(FEELINGS)}, too."]))
    return [happened, was, *extra]


def _and(voice: Voice, friend: str) -> str:
    return f"{friend} and I" if voice is FIRST_PERSON else f"{voice.subject} and {friend}"


def _object(voice: Voice) -> str:
    return {"I": "me", "he": "him"}.get(voice.subject, "her")


def _ending(rng: Random, voice: Voice) -> str:
    they = "we" if voice is FIRST_PERSON else "they"
    return rng.choice(ENDS).format(they=they, They=capitalized(they))
