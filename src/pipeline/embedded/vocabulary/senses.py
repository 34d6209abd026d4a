"""Words with two senses: what tells a sense, and what is then said of the thing."""

from typing import NamedTuple

from pipeline.embedded.vocabulary import phrases


class Sense(NamedTuple):
    """One meaning of a word.

    Attributes:
        name: of the sense.
        cues: what tells it.
        predicates: what is said of the thing then.
    """

    name: str
    cues: tuple[str, ...]
    predicates: tuple[str, ...]


def _sense(name: str, cues: str, predicates: str) -> Sense:
    return Sense(name, phrases(cues), phrases(predicates))


SENSES: dict[str, tuple[Sense, Sense]] = {
    "apple": (
        _sense(
            "fruit",
            "the orchard, a sweet pie, fresh juice, the harvest, ripe pears, a fruit salad",
            "tasted sweet, fell from the branch, was ripe and juicy, had a red skin",
        ),
        _sense(
            "company",
            "new computers, the stock market, mobile phones, clever engineers, "
            "a software firm, laptops",
            "sold many devices, hired more workers, made a large profit, opened an office",
        ),
    ),
    "orange": (
        _sense(
            "fruit",
            "fresh lemons, a fruit basket, a glass of juice, the breakfast table, vitamins, "
            "the grove",
            "was peeled and eaten, tasted sour, had many seeds, was squeezed for a drink",
        ),
        _sense(
            "colour",
            "a paint box, the painter, dyed wool, the rainbow, coloured pencils, the new wallpaper",
            "looked warm next to blue, was mixed from red and yellow, glowed on the canvas, "
            "was too bright for the wall",
        ),
    ),
    "bank": (
        _sense(
            "money",
            "a loan, gold coins, the cashier, a savings account, unpaid bills, the rich customer",
            "closed its counter, paid interest, kept the money in a safe, lent them cash",
        ),
        _sense(
            "river",
            "a fishing rod, the deep river, muddy water, the swans, a small canoe, the flood",
            "was covered with reeds, was steep and slippery, was washed away, had soft grass",
        ),
    ),
    "bat": (
        _sense(
            "animal",
            "a dark cave, the night sky, sharp ears, the old barn, furry animals, moths",
            "flew without a sound, hung upside down, caught insects, spread its wings",
        ),
        _sense(
            "sport",
            "the baseball team, a hard ball, the cricket match, the pitcher, the stadium, "
            "a home run",
            "was made of wood, cracked in two, hit the ball, was too heavy to swing",
        ),
    ),
    "spring": (
        _sense(
            "season",
            "the end of winter, melting snow, April weather, young birds, the month of May, "
            "the first flowers",
            "brought warmer days, came early that year, made the meadows green, lasted until June",
        ),
        _sense(
            "coil",
            "a broken mattress, the watchmaker, a metal part, the old machine, the toolbox, "
            "a rusty clock",
            "was bent steel, snapped under the load, was stretched too far, had to be oiled",
        ),
    ),
    "crane": (
        _sense(
            "bird",
            "the marsh, white feathers, wild geese, a nest, the lake in autumn, flocks",
            "stood on one leg, laid two eggs, flew south, ate a frog",
        ),
        _sense(
            "machine",
            "the building site, heavy bricks, the tall scaffold, steel beams, cement, "
            "the harbour workers",
            "lifted the container, needed a new engine, lowered its hook, was switched off",
        ),
    ),
    "mouse": (
        _sense(
            "animal",
            "the hungry cat, a piece of cheese, a hole in the floor, a trap, tiny paws, the pantry",
            "squeaked loudly, nibbled the crumbs, hid its tail, ran from the kitten",
        ),
        _sense(
            "device",
            "the keyboard, a computer screen, the desktop, a video game, "
            "the office printer, new software",
            "needed a battery, had two buttons, moved the pointer, lost its cable",
        ),
    ),
    "seal": (
        _sense(
            "animal",
            "the icy sea, a polar bear, the zoo, cold waves, the rocky coast, whales",
            "dived for herring, lay on the ice, barked at its pup, swam with its flippers",
        ),
        _sense(
            "stamp",
            "an old letter, the royal court, red wax, a treaty, the notary, an official document",
            "was pressed on the envelope, showed a lion, proved who signed, was carefully broken",
        ),
    ),
    "palm": (
        _sense(
            "tree",
            "a tropical island, coconuts, the desert oasis, the sandy beach, a hammock, dates",
            "grew very tall, swayed in the breeze, had long leaves, gave some shade",
        ),
        _sense(
            "hand",
            "five fingers, a fortune teller, the wrist, warm gloves, a firm handshake, the thumb",
            "was sweaty, had deep lines, held a coin, hurt after the clapping",
        ),
    ),
    "bark": (
        _sense(
            "tree",
            "an oak forest, the woodcutter, tree trunks, roots and twigs, a beaver, the carpenter",
            "peeled off in strips, was brown and rough, protected the wood, was full of beetles",
        ),
        _sense(
            "dog",
            "a guard dog, the puppy, the kennel, a leash, the poodle, barking hounds",
            "woke the neighbours, was heard far away, frightened the thief, sounded angry",
        ),
    ),
    "match": (
        _sense(
            "fire",
            "a candle, the campfire, the cold stove, a cigar, the fireplace, smoke",
            "burned his fingers, went out in the wind, lit the lantern, gave a small flame",
        ),
        _sense(
            "game",
            "two football teams, the referee, tennis players, a packed stadium, "
            "the champion, the goalkeeper",
            "ended in a draw, lasted ninety minutes, was won by the visitors, began with a whistle",
        ),
    ),
    "ring": (
        _sense(
            "jewel",
            "a wedding, the bride, a jeweller, diamonds, the engagement, a gold necklace",
            "sparkled on her finger, was set with a ruby, cost a fortune, was polished silver",
        ),
        _sense(
            "boxing",
            "two boxers, a fight, the wrestlers, heavy punches, the knockout, leather gloves",
            "had ropes on all sides, was full of sweat, was surrounded by fans, "
            "stood under bright lamps",
        ),
    ),
    "plant": (
        _sense(
            "green",
            "the gardener, a flower pot, fertile soil, a watering can, the greenhouse, seeds",
            "grew new buds, withered in the sun, needed rain, bloomed in pink",
        ),
        _sense(
            "factory",
            "steel workers, heavy industry, the trade union, assembly lines, a night shift, "
            "chemicals",
            "employed hundreds of people, produced cars, was shut by its owners, ran day and night",
        ),
    ),
}
