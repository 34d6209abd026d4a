"""What one can ask how to do: verbs, objects, and the steps of any deed."""

from pipeline.embedded.vocabulary import words
from pipeline.embedded.vocabulary.topics import TOPICS

MATERIAL_TOPICS = ("tools", "clothes", "musical instruments", "vegetables", "fruits", "flowers")

ALLOWED_VERBS = words(
    """
    paint repair clean wash polish move lift carry build draw measure decorate photograph wrap
    pack open close dry dust fill weigh store mend restore describe sketch label cover warm
    arrange buy sell admire adjust align assemble attach balance bless borrow brush bundle
    catalogue check choose clear climb collect compare connect copy count deliver design detach
    dip display donate double drain drape empty engrave enlarge enter examine exchange explore
    extend fasten feel fetch film find finish fit fix float fold follow frame gather give glue
    grease greet grow guard hang heat hoist hold identify imagine import improve inspect insure
    invent iron join keep knit lay lead lease lend light load loosen lower lubricate mark match
    memorize mix model mount name notice number observe oil organize outline patch pick place plan
    plaster position praise prepare present preserve press price print produce protect pull push
    raise rate reach recognize record recycle reduce refill reinforce remember renovate rent
    replace reserve resize return reuse review rinse roll rotate sand save scan scrub seal search
    secure select send separate sew shake shape share sharpen shine shorten show smell smooth soak
    soften sort split sponge stack stamp steady steam steer straighten strap strengthen stretch
    study support survey suspend sweep swing tape test thicken tighten tilt tow trace track trade
    transport treat trim tune twist unfold unpack unwrap upgrade use value varnish view visit
    watch wax wear weave widen wipe
    """
)
FORBIDDEN_VERBS = words(
    """
    steal forge poison smash burn hijack sabotage vandalize smuggle counterfeit wreck destroy loot
    damage ruin crush curse hex bewitch shatter ransack raid snatch plunder torch flood spoil
    scratch slash stain rob deface
    """
)
OBJECTS: dict[str, tuple[str, ...]] = {
    "train": (
        *words(
            """
            fence wagon lamp table chair door window roof barn bridge clock mirror basket bucket
            kettle pot bowl plate cup bottle jar box chest trunk cupboard shelf bed pillow blanket
            curtain carpet candle letter book map painting statue crown ring coin purse key bell
            flag tent rope net sail anchor wheel saddle cage nest garden well fountain mill oven
            stove tower castle cabin shed stable path wall floor desk drawer bench stool
            """
        ),
        *(thing for topic in MATERIAL_TOPICS for thing in TOPICS[topic]),
    ),
    "val": words(
        """
        cradle toy doll kite puppet puzzle radio camera telephone engine pipe pump tank barrel
        """
    ),
    "test": words(
        """
        crate parcel ticket poster sign portrait vase tray jug broom mat kennel pond cottage
        """
    ),
}
"""Held-out objects are never asked about in training; plain text speaks of all of them alike."""

ADJECTIVES = words("dusty new big small round heavy wooden broken")

STEPS: tuple[tuple[str, str], ...] = (
    ("wait for the rain", "waited for the rain"),
    ("find a quiet place", "found a quiet place"),
    ("look at the {thing}", "looked at the {thing}"),
    ("put on thick gloves", "put on thick gloves"),
    ("ask a friend", "asked a friend"),
    ("count to ten", "counted to ten"),
    ("take a deep breath", "took a deep breath"),
    ("bring a lantern", "brought a lantern"),
    ("walk around the {thing}", "walked around the {thing}"),
    ("read the manual", "read the manual"),
    ("make a plan", "made a plan"),
    ("switch on the light", "switched on the light"),
    ("touch the {thing}", "touched the {thing}"),
    ("turn the {thing} around", "turned the {thing} around"),
    ("eat some bread", "ate some bread"),
    ("go to the market", "went to the market"),
    ("call the neighbour", "called the neighbour"),
    ("write a note", "wrote a note"),
    ("choose a sunny day", "chose a sunny day"),
    ("stay until the evening", "stayed until the evening"),
    ("take the {thing} outside", "took the {thing} outside"),
    ("think about it twice", "thought about it twice"),
    ("listen to the wind", "listened to the wind"),
    ("sit down for a while", "sat down for a while"),
    ("stand behind the {thing}", "stood behind the {thing}"),
    ("borrow a ladder", "borrowed a ladder"),
)
"""Each as an order and in the past."""
