"""The words that the training text is made of."""

from __future__ import annotations


def words(text: str) -> list[str]:
    """The words of a text, for lists that read better without quotes."""
    return text.split()


def phrases(text: str) -> list[str]:
    """The phrases of a text that are set apart by bars."""
    return text.split("|")


NUMBERS = words("one two three four five six seven eight nine ten eleven twelve")
ORDINALS = words("first second third fourth fifth sixth seventh eighth ninth tenth")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
SEASONS = words("spring summer autumn winter")
PLANETS = words("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune")
LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

CATEGORIES = {
    "color": words("red blue green yellow orange purple pink brown black white gray gold silver violet"),
    "animal": words("cat dog cow horse sheep pig goat mouse lion tiger bear wolf fox rabbit monkey elephant"),
    "bird": words("owl eagle duck hen goose swan crow robin parrot penguin"),
    "fish": words("salmon tuna cod trout shark herring carp eel"),
    "insect": words("ant bee fly wasp beetle moth cricket butterfly"),
    "fruit": words("apple banana pear plum cherry grape lemon peach mango kiwi melon fig"),
    "vegetable": words("carrot potato tomato onion pea bean cabbage corn spinach pumpkin"),
    "drink": words("water milk tea coffee juice lemonade cocoa soda"),
    "food": words("bread cheese rice soup pasta pizza cake egg butter honey"),
    "tree": words("oak pine birch maple elm willow beech cedar"),
    "flower": words("rose tulip daisy lily poppy violet sunflower orchid"),
    "shape": words("circle square triangle star oval heart diamond rectangle"),
    "tool": words("hammer saw drill axe spade rake knife wrench"),
    "toy": words("ball doll kite puzzle robot train drum yo-yo"),
    "vehicle": words("car bus train bike truck boat plane ship tram"),
    "sport": words("tennis football golf hockey rugby swimming running skiing"),
    "instrument": words("piano guitar violin flute drum trumpet harp cello"),
    "country": words("France Spain Italy Germany Japan China India Egypt Brazil Canada Mexico Norway"),
    "city": words("Paris London Rome Berlin Madrid Tokyo Cairo Oslo Vienna Lisbon"),
    "metal": words("iron gold silver copper tin lead zinc steel"),
    "job": words("teacher doctor farmer baker pilot nurse cook driver painter singer"),
    "room": words("kitchen bedroom bathroom hall cellar attic office garage"),
}

PLURALS = {
    "fish": "fish",
    "fruit": "fruits",
    "country": "countries",
    "city": "cities",
}

BOYS = words("Tom Ben Max Sam Leo Jack Paul Carl Adam Luke Mark Finn Noah Hugo Otto Bob Peter John Omar Ravi")
GIRLS = words("Ann Sue Mia Eva Zoe Lily Emma Nina Rosa Ella Lucy Ida Anna Vera Jane Alice Mary Kate Lena Yuki")
NAMES = [*BOYS, *GIRLS]

BRITISH = {"color": "colour", "gray": "grey", "favorite": "favourite"}


def plural(noun: str) -> str:
    """The plural of a category's name."""
    return PLURALS.get(noun, noun + "s")


def with_article(noun: str) -> str:
    """The noun behind `a` or `an`."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def british(text: str) -> str:
    """The text in British spelling, as far as the words here need it."""
    for american, spelling in BRITISH.items():
        text = text.replace(american, spelling).replace(american.capitalize(), spelling.capitalize())
    return text
