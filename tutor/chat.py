"""Small talk, commands and conversations, and the wrappers that make questions less uniform."""

from __future__ import annotations

from random import Random

from .example import Example, capitalized
from .words import CATEGORIES, DAYS, MONTHS, NAMES, SEASONS, british, plural, words

TALK = {
    "Hello! How can I help you?": (
        "Hello",
        "Hello!",
        "Hi",
        "Hi!",
        "Hi there!",
        "Hello there!",
        "Hello, Tutor!",
        "Hey!",
        "Good morning!",
        "Good evening!",
    ),
    "My name is Tutor.": (
        "What is your name?",
        "What's your name?",
        "Tell me your name.",
        "How are you called?",
        "Who are you?",
        "May I ask your name?",
        "Do you have a name?",
    ),
    "I am fine, thank you.": ("How are you?", "How are you today?", "How do you do?", "Are you well?"),
    "You are welcome!": ("Thank you.", "Thank you!", "Thanks!", "Thanks a lot!", "Many thanks!"),
    "Goodbye!": ("Goodbye!", "Bye!", "Bye bye!", "See you!", "Good night!", "See you tomorrow!"),
    "I am a small language model.": (
        "What are you?",
        "Are you a robot?",
        "Are you a human?",
        "Are you a person?",
        "Tell me about yourself.",
    ),
    "I can add, make lists, write JSON and tell stories.": (
        "What can you do?",
        "How can you help me?",
        "Can you help me?",
        "What do you know?",
        "Help!",
    ),
    "There are seven days in a week.": ("How many days are in a week?", "How many days does a week have?"),
    "There are twelve months in a year.": ("How many months are in a year?", "How many months does a year have?"),
    ", ".join(DAYS): ("Name the days of the week.", "List the days of the week.", "What are the days of the week?"),
    ", ".join(MONTHS): ("Name the months of the year.", "List the months.", "What are the months of the year?"),
    ", ".join(SEASONS): ("Name the seasons.", "List the four seasons.", "What are the seasons?"),
    ", ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ"): ("Say the alphabet.", "Tell me the alphabet.", "Recite the alphabet."),
}
WRAPPERS = ("{} Please.", "Please: {}", "Hello! {}", "I have a question. {}", "Tutor, {}")
SYSTEMS = (
    "You are a helpful tutor.",
    "You are a helpful assistant.",
    "You are Tutor, a small language model.",
    "Answer in one sentence.",
    "Be brief.",
)
COUNTED = {"two": 2, "three": 3, "four": 4, "five": 5}


def talk(rng: Random) -> Example:
    """A greeting or a question about the model itself."""
    answer = rng.choice(list(TALK))
    return Example("small talk", rng.choice(TALK[answer]), answer, chat=True)


def naming(rng: Random) -> Example:
    """A request for some things of one kind: the first ones of their list."""
    name = rng.choice(list(CATEGORIES))
    word = rng.choice(list(COUNTED))
    form = rng.choice(("Name {} {}.", "List {} {}.", "Tell me {} {}.", "Give me {} {}."))
    request = form.format(word, plural(name))
    if rng.random() < 0.5:
        request = british(request)
    return Example("naming", request, ", ".join(CATEGORIES[name][: COUNTED[word]]), chat=True)


def introduction(rng: Random) -> list[Example]:
    """A conversation in which the user's name is told and asked for."""
    name = rng.choice(NAMES)
    told = rng.choice(("My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I am {}.")).format(name)
    asked = rng.choice(("What is my name?", "What's my name?", "Do you know my name?", "Who am I?"))
    return [
        Example("names", told, f"Nice to meet you, {name}!", chat=True),
        Example("names", asked, f"Your name is {name}.", chat=True),
    ]


def liking(rng: Random) -> list[Example]:
    """A conversation in which the user tells and asks what he likes."""
    name = rng.choice(words("color animal fruit drink food sport toy"))
    item = rng.choice(CATEGORIES[name])
    told = rng.choice(("I like {}.", "I love {}.")).format(item)
    return [
        Example("names", told, f"{capitalized(item)} is {rng.choice(('nice', 'nice', 'great'))}!", chat=True),
        Example("names", rng.choice(("What do I like?", "Do you know what I like?")), f"You like {item}.", chat=True),
    ]


def wrapped(rng: Random, question: str) -> str:
    """The question as other people would type it: lower case, without its mark, or with a kind word."""
    if question[-1] not in ".?!" or question.count(" ") == 0:
        return question
    form = rng.choice(("lower", "bare", "both", "kind"))
    if form == "kind":
        return rng.choice(WRAPPERS).format(question)
    lowered = question[:1].lower() + question[1:] if form != "bare" else question
    return lowered if form == "lower" else lowered[:-1]
