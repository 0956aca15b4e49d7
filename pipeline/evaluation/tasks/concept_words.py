"""Words of captions by what they mean: kinds of subjects, and things that can be asked for.

The tables were written by hand for everyday captions. A thing has three lists: its name with an
article, words that say it is there, and words that leave open whether it is: wider ones, near ones,
and places where it is often not worth a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from reellama.pipeline.evaluation.captioned_clips import words_of

SubjectKind = Literal["person", "animal", "vehicle", "place", "thing"]

_MAN = "man men guy guys gentleman gentlemen male males father dad grandfather groom king"
_WOMAN = (
    "woman women lady ladies female females mother mom grandmother bride queen actress girlfriend"
)
_CHILD = "child children kid kids toddler toddlers baby babies infant infants"
_YOUNG = "boy boys girl girls teen teens teenager teenagers youth youths"
_ANYONE = (
    "person persons people someone somebody human humans adult adults crowd couple couples family"
    " families team teams player players actor actors artist artists athlete athletes audience"
    " band biker bikers boxer boxers chef chefs climber climbers coach competitor contestant"
    " contestants cook cowboy cyclist cyclists dancer dancers doctor driver drummer fan fans"
    " fighter fighters friend friends goalie golfer guitarist gymnast hiker hikers host hosts"
    " instructor interviewer jockey journalist judge judges model models musician musicians"
    " narrator newscaster officer performer performers photographer pitcher presenter reporter"
    " rider riders runner runners scientist singer singers skateboarder skateboarders skater"
    " skaters skier skiers snowboarder snowboarders soldier soldiers speaker student students"
    " surfer surfers swimmer swimmers teacher tourist tourists wrestler wrestlers worker workers"
    " bicyclist bicyclists motorcyclist hand hands face he she they his her policeman policemen"
    " cop cops cowboys priest priests brides diver divers kayaker kayakers president announcer"
    " anchor crew bridesmaids lifeguard clown referee"
)
_DOG = (
    "dog dogs puppy puppies hound hounds greyhound greyhounds retriever labrador terrier poodle"
    " dalmatian collie beagle husky bulldog dachshund pug"
)
_CAT = "cat cats kitten kittens kitty"
_HORSE = "horse horses pony ponies stallion mare foal"
_BIRD = (
    "bird birds duck ducks goose geese seagull seagulls gull gulls parrot parrots eagle owl"
    " pigeon pigeons swan swans penguin penguins hen rooster flamingo ostrich heron egret"
)
_OTHER_ANIMALS = (
    "animal animals pet pets cow cows bull sheep goat goats pig pigs monkey monkeys ape gorilla"
    " elephant elephants lion lions tiger tigers leopard cheetah bear bears panda deer wolf fox"
    " rabbit rabbits squirrel mouse rat snake snakes lizard turtle turtles frog frogs shark sharks"
    " whale whales dolphin dolphins seal octopus insect insects bee bees butterfly spider camel"
    " donkey zebra giraffe kangaroo calf steer beaver buffalo"
)
# A dish as often as an animal: they answer nothing.
_EATEN = "chicken chickens fish lamb crab crabs turkey meat"
_CAR = "car cars automobile automobiles sedan taxi taxis cab"
_BOAT = "boat boats canoe canoes kayak kayaks sailboat sailboats ship ships raft yacht ferry"
_MOTORCYCLE = "motorcycle motorcycles motorbike motorbikes motorcyclist motorcyclists motocross"
_BICYCLE = "bicycle bicycles bicyclist bicyclists cyclist cyclists"
_OTHER_VEHICLES = (
    "vehicle vehicles truck trucks van bus buses jeep suv tractor train trains tram airplane"
    " airplanes plane planes jet helicopter helicopters aircraft spaceship spacecraft rocket bike"
    " bikes scooter atv tank ambulance"
)
_PLACES = (
    "city town village street road highway building buildings house houses room kitchen bathroom"
    " bedroom mountain mountains hill hills beach ocean sea lake river waterfall forest woods"
    " jungle desert island landscape scenery sky sunset field park garden valley canyon stadium"
    " church castle temple bridge planet earth space scene nature"
)
_FOOD = (
    "food foods meal meat bread cake pizza soup salad rice pasta noodles sandwich burger fruit"
    " fruits vegetable vegetables potato potatoes onion onions tomato tomatoes egg eggs cheese"
    " dough shrimp dessert"
)
_THINGS = (
    f"{_FOOD} thing things object objects item items dish dishes ball phone phones smartphone"
    " laptop computer screen tv television machine engine robot toy toys doll dolls book box"
    " bag bottle bottles cup glass bowl pan pot table chair bed guitar piano instrument clock watch"
    " shirt shoe shoes dress clothes hat flower flowers tree trees plant plants paper graph map"
    " diagram logo text product products device gadget tool knife gun guns money ring makeup"
    " marker pen pens towel block blocks drawer lid spoon cube"
)

_WORDS_OF_KINDS: dict[SubjectKind, str] = {
    "person": f"{_MAN} {_WOMAN} {_CHILD} {_YOUNG} {_ANYONE}",
    "animal": f"{_DOG} {_CAT} {_HORSE} {_BIRD} {_OTHER_ANIMALS}",
    "vehicle": f"{_CAR} {_BOAT} {_MOTORCYCLE} {_BICYCLE} {_OTHER_VEHICLES}",
    "place": _PLACES,
    "thing": _THINGS,
}
# Possessives and parts say that somebody is there, and not that they are the subject.
_NOT_SUBJECTS = {"he", "she", "they", "his", "her", "hand", "hands", "face"}
_KIND_OF_WORD: dict[str, SubjectKind] = {
    word: kind
    for kind in reversed(_WORDS_OF_KINDS)  # of a word in two lists the earlier kind counts
    for word in _WORDS_OF_KINDS[kind].split()
    if word not in _NOT_SUBJECTS
}


def kind_of(text: str) -> SubjectKind | None:
    """The kind of the first word that has one: what a caption is about; None for none.

    >>> kind_of("A man rides a horse"), kind_of("Nothing moves.")
    ('person', None)
    """
    return next((_KIND_OF_WORD[word] for word in words_of(text) if word in _KIND_OF_WORD), None)


@dataclass(frozen=True)
class Thing:
    """What can be asked for: "Is there a dog?".

    Attributes:
        words: say that it is there.
        open_words: leave it open; a caption without any of both says that it is not there.
    """

    name: str
    words: frozenset[str]
    open_words: frozenset[str]

    def in_caption(self, caption: str) -> bool | None:
        """Whether the thing is there, as far as one caption says; None where that is open."""
        found = set(words_of(caption))
        if found & self.words:
            return True
        return None if found & self.open_words else False


def _thing(name: str, words: str, open_words: str) -> Thing:
    return Thing(name, frozenset(words.split()), frozenset(open_words.split()))


_PEOPLE = _WORDS_OF_KINDS["person"]
_CARTOONS = "cartoon cartoons animated animation character characters game minecraft doll dolls"
_ANIMALS = "animal animals pet pets creature creatures"
_WATERS = "water waters wave waves sea ocean lake river pool pond stream creek"
_SPORT = (
    "play plays playing played player players game games match sport sports football basketball"
    " baseball soccer tennis volleyball rugby golf cricket hockey pong kick kicks throw throws goal"
    " goalie court pitch score"
)
_ROADS = "road street highway traffic parking race races racing racer drive drives driving driver"

THINGS = (
    _thing("a person", _PEOPLE, f"{_CARTOONS} arm arms leg legs finger fingers"),
    _thing("a man", _MAN, f"{_ANYONE} {_YOUNG} {_CARTOONS}"),
    _thing("a woman", _WOMAN, f"{_ANYONE} {_YOUNG} {_CARTOONS}"),
    _thing("a child", _CHILD, f"{_YOUNG} {_CARTOONS} people family crowd student students"),
    _thing(
        "an animal", _WORDS_OF_KINDS["animal"], f"{_CARTOONS} {_EATEN} creature creatures farm zoo"
    ),
    _thing("a dog", _DOG, f"{_ANIMALS} {_CARTOONS} wolf fox sled"),
    _thing("a cat", _CAT, f"{_ANIMALS} {_CARTOONS} lion tiger leopard cheetah"),
    _thing(
        "a horse", _HORSE, f"{_ANIMALS} {_CARTOONS} rodeo jockey donkey zebra cowboy carriage polo"
    ),
    _thing("a bird", _BIRD, f"{_ANIMALS} {_CARTOONS} {_EATEN} flock wings feather"),
    _thing("a car", _CAR, f"{_ROADS} {_CARTOONS} {_OTHER_VEHICLES} city"),
    _thing("a boat", _BOAT, f"{_WATERS} {_CARTOONS} vehicle vessel sail sailing rowing harbor"),
    _thing("a bicycle", _BICYCLE, f"bike bikes biker bikers biking {_ROADS} {_CARTOONS} city"),
    _thing(
        "a motorcycle",
        _MOTORCYCLE,
        f"bike bikes biker bikers atv scooter dirt vehicle vehicles {_ROADS} {_CARTOONS} city",
    ),
    _thing("a ball", "ball balls", f"{_SPORT} {_CARTOONS} toy toys"),
    _thing(
        "food",
        _FOOD,
        f"cook cooking kitchen eat eats eating dish dishes recipe pan pot bowl"
        f" restaurant table oil sauce ingredient ingredients mixing {_CARTOONS}",
    ),
    _thing(
        "snow",
        "snow snowy",
        "ski skis skiing skier skiers snowboard snowboarder snowboarding"
        " winter ice icy sled slope mountain mountains cold",
    ),
    _thing(
        "water",
        _WATERS,
        "beach shore coast swim swims swimming swimmer boat boats surf surfs"
        " surfing surfer surfboard fountain splash splashes splashing wet fish fishing rain bath"
        f" dive diving dives kayak canoe ship island bridge waterfall cook cooking {_CARTOONS}",
    ),
    _thing(
        "a guitar",
        "guitar guitars guitarist",
        "instrument instruments band music musician"
        f" musicians musical concert song sing sings singing stage bass {_CARTOONS}",
    ),
)


def said_by(thing: Thing, captions: Iterable[str]) -> tuple[float, float]:
    """The shares of captions that say the thing is there, and that leave it open."""
    verdicts = [thing.in_caption(caption) for caption in captions]
    return verdicts.count(True) / len(verdicts), verdicts.count(None) / len(verdicts)
