"""What questions about worlds say: phrasings of outcomes and of their negations, reasons, and how to ask for them."""

TOUCH = (
    "Will the red object touch the yellow object?",
    "Will the red object touch the yellow one?",
    "Will they touch?",
    "Will the red thing make contact with the yellow thing?",
    "Will the red and the yellow object touch each other?",
    "Is there going to be contact between red and yellow?",
    "Does the red object reach the yellow object?",
)
NO_TOUCH = (
    "Will the red and the yellow object not touch?",
    "Will the red object stay clear of the yellow one?",
    "Does the red object never reach the yellow one?",
    "Do the red and the yellow object stay apart?",
    "Will the yellow object be left untouched by the red one?",
)
"""Of every scenario in which red touches yellow or does not; each adds its own."""

# (scenario, fact) -> (phrasings of the fact, phrasings of its negation)
PREDICTIVE: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("towers", "falls"): (
        (
            "Will the tower fall?",
            "Is the tower going to fall?",
            "Will the stack of blocks collapse?",
            "Does the tower fall over?",
            "Is this stack unstable?",
            "Will any of the blocks fall?",
            "Is the tower about to topple?",
            "Will it fall?",
            "Will the tower come down?",
            "Is the stack going to tip over?",
            "Will this structure fall down?",
            "Is the pile of blocks about to collapse?",
            "Will the blocks tumble down?",
        ),
        (
            "Will the tower stay standing?",
            "Is the tower stable?",
            "Will the stack of blocks hold?",
            "Will the tower not fall?",
            "Is the tower going to remain upright?",
            "Will it stay up?",
            "Is this stack stable?",
            "Does the structure hold?",
            "Will the blocks stay stacked?",
            "Will all of the blocks stay where they are?",
        ),
    ),
    ("collide", "touches"): (
        (
            "Will the red object touch the yellow object?",
            "Will the red object touch the yellow one?",
            "Will they touch?",
            "Is the red object going to hit the yellow object?",
            "Do the red and the yellow object collide?",
            "Will the red thing make contact with the yellow thing?",
            "Will the yellow object be hit by the red one?",
            "Will the red and the yellow object touch each other?",
            "Is there going to be contact between red and yellow?",
            "Does the red object reach the yellow object?",
            "Will the red one bump into the yellow one?",
            "Will red hit yellow?",
        ),
        (
            "Will the red object miss the yellow object?",
            "Will the red and the yellow object not touch?",
            "Will the red object stay clear of the yellow one?",
            "Does the red object never reach the yellow one?",
            "Do the red and the yellow object stay apart?",
            "Is the red object going to miss the yellow one?",
            "Will the red thing not hit the yellow thing?",
            "Will the yellow object be left untouched by the red one?",
        ),
    ),
    ("roll", "drops"): (
        (
            "Will the object on the ramp fall off the table?",
            "Will it drop over the edge?",
            "Is the moving object going to fall off the ledge?",
            "Will the object leave the table?",
            "Does the object fall over the ledge?",
            "Will it fall off the table?",
            "Is it going to go over the edge?",
            "Will the moving object drop off the table?",
            "Does it fall down?",
        ),
        (
            "Will the object stay on the table or the ramp?",
            "Will it stop before the edge?",
            "Is the object going to stay up on the table?",
            "Will the object not fall off the ledge?",
            "Will it not go over the edge?",
            "Does it stop before the ledge?",
            "Will the moving object stay up?",
        ),
    ),
    ("dominoes", "last_falls"): (
        (
            "Will the last domino fall?",
            "Will the {last} domino fall?",
            "Is the chain of dominoes going to reach the {last} one?",
            "Does the {last} domino get knocked over?",
            "Is the {last} domino going to fall?",
            "Will the last domino be knocked down?",
            "Will the chain reaction get to the end?",
        ),
        (
            "Will the last domino stay standing?",
            "Will the {last} domino stay upright?",
            "Will the {last} domino not fall?",
            "Is the chain of dominoes going to stop before the {last} one?",
            "Does the {last} domino stay standing?",
            "Will the chain reaction stop before the end?",
            "Will the last domino remain upright?",
        ),
    ),
    ("contain", "contained"): (
        (
            "Will the object end up inside the container?",
            "Will it land in the box?",
            "Is the falling object going to stay in the open box?",
            "Does the object end inside the container?",
            "Will the {mover} object be inside the container in the end?",
            "Will the container catch the object?",
            "Does it land inside?",
            "Will the dropped object fall into the container?",
            "Is the {mover} object going to end up in the box?",
        ),
        (
            "Will the object miss the container?",
            "Will it end up outside the box?",
            "Is the object going to end outside the container?",
            "Will the {mover} object not end inside the container?",
            "Does it land outside?",
            "Will the object fall beside the box?",
            "Is the {mover} object going to miss the box?",
            "Will the container fail to catch it?",
        ),
    ),
    ("occlude", "comes_out"): (
        (
            "Will the object come out from behind the screen?",
            "Will it reappear on the other side?",
            "Is the {mover} object going to come out again?",
            "Does the object pass all the way behind the screen?",
            "Will we see the {mover} object on the far side of the screen?",
            "Will the object reappear?",
            "Is it going to come out on the other side?",
            "Does the {mover} object emerge from behind the screen?",
            "Will it come back into view on the far side?",
        ),
        (
            "Will the object fail to come out from behind the screen?",
            "Will it not reappear on the other side?",
            "Is the {mover} object going to stop before it comes out?",
            "Will the object never reach the far side of the screen?",
            "Will it not come out on the other side?",
            "Does the {mover} object never emerge from behind the screen?",
            "Will the object not come back into view on the far side?",
        ),
    ),
    ("drop", "touches"): (
        (
            *TOUCH,
            "Will the red object land on the yellow one?",
            "Is the falling red object going to touch the yellow one?",
            "Will the falling object end up against the yellow one at some time?",
            "Does the falling red object hit the yellow object?",
        ),
        (
            *NO_TOUCH,
            "Will the falling red object not touch the yellow one?",
            "Will the red object come down clear of the yellow one?",
            "Is the falling object going to miss the yellow one?",
        ),
    ),
    ("support", "falls"): (
        (
            "Will the plank tip over?",
            "Is the plank going to tip?",
            "Will anything fall down?",
            "Will the structure collapse?",
            "Is something about to fall?",
            "Does the plank lose its balance?",
            "Will the plank come down?",
            "Is the plank unstable?",
        ),
        (
            "Will the plank stay in balance?",
            "Is the plank supported?",
            "Will everything stay in place?",
            "Will the structure hold?",
            "Does the plank stay up?",
            "Will nothing fall down?",
            "Is the plank stable?",
        ),
    ),
    ("link", "touches"): (
        (
            *TOUCH,
            "Will the red ring get to the yellow object?",
            "Does the ring reach the yellow object?",
            "Is the red ring going to touch the yellow object?",
            "Will the sliding ring hit the yellow one?",
        ),
        (
            *NO_TOUCH,
            "Will the red ring not get to the yellow object?",
            "Does the ring stop before the yellow object, or pass it by?",
            "Is the red ring going to stay clear of the yellow object?",
        ),
    ),
    ("drape", "touches"): (
        (
            *TOUCH,
            "Will the red cloth touch the yellow object?",
            "Is the cloth going to lie on the yellow object?",
            "Does the falling cloth touch the yellow object?",
            "Will the cloth come down on the yellow object?",
        ),
        (
            *NO_TOUCH,
            "Will the red cloth not touch the yellow object?",
            "Is the cloth going to stay clear of the yellow object?",
            "Will the falling cloth leave the yellow object untouched?",
        ),
    ),
    ("mass", "touches"): (
        (
            *TOUCH,
            "Will the red object be pushed as far as the yellow one?",
            "Does the push carry the red object to the yellow one?",
        ),
        (
            *NO_TOUCH,
            "Will the red object come to rest before it is at the yellow one?",
            "Is the push too weak to carry the red object to the yellow one?",
        ),
    ),
    ("friction", "touches"): (
        (
            *TOUCH,
            "Will the red object slide all the way to the yellow one?",
            "Does the red object slide as far as the yellow one?",
        ),
        (
            *NO_TOUCH,
            "Will the red object come to rest before it is at the yellow one?",
            "Does the red object stop short of the yellow one?",
        ),
    ),
    ("elasticity", "touches"): (
        (
            *TOUCH,
            "Will the red ball bounce against the yellow wall?",
            "Does the ball hit the yellow wall?",
        ),
        (
            *NO_TOUCH,
            "Will the red ball bounce over the yellow wall?",
            "Does the ball clear the yellow wall?",
        ),
    ),
}

HIDDEN_PROPERTIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mass": (
        (
            "Is the red object heavy?",
            "Is the red object heavier than the one that hits it?",
            "Is the red object hard to push?",
            "Does the red object have much mass?",
        ),
        (
            "Is the red object light?",
            "Is the red object lighter than the one that hits it?",
            "Is the red object easy to push?",
        ),
    ),
    "friction": (
        (
            "Does friction slow the red object down much?",
            "Is there much friction under the red object?",
            "Does the red object rub hard against the floor?",
        ),
        (
            "Is the red object slippery?",
            "Is there little friction under the red object?",
            "Does the red object slide easily?",
        ),
    ),
    "elasticity": (
        (
            "Is the red ball bouncy?",
            "Does the red ball bounce well?",
            "Is the red ball elastic?",
            "Does the ball keep most of its speed when it bounces?",
        ),
        (
            "Does the red ball bounce badly?",
            "Is the red ball dull rather than bouncy?",
            "Does the ball lose most of its speed when it bounces?",
        ),
    ),
}
"""Of each hidden property: phrasings of its being large, and of its being small."""

REASONS: dict[str, dict[str, str]] = {
    "collide": {
        "meets": "The red object reaches the place where the yellow one is",
        "passes": "The red object passes beside the yellow one",
        "stops": "The red object stops before it reaches the yellow one",
        "blocked": "Another object is in the way",
    },
    "roll": {
        "over the edge": "It is fast enough to go over the edge",
        "stops on the table": "It loses its speed on the table",
        "stays on the ramp": "Friction holds it on the ramp",
    },
    "dominoes": {
        "reaches": "Each domino reaches the next one",
        "gap": "A gap is wider than a domino is tall",
        "first stays": "The push on the first domino is too weak",
    },
    "contain": {
        "between the walls": "It comes down between the walls",
        "outside the walls": "It comes down outside the walls",
    },
    "occlude": {
        "fast enough": "It is fast enough to pass the screen",
        "stops behind": "It stops behind the screen",
        "stops before": "It stops before the screen",
    },
    "drop": {
        "on it": "The red object falls straight on the yellow one",
        "after a turn": "The red object gets to the yellow one after it has hit something else",
        "turned away": "Something else turns the red object away or stops it",
        "beside": "The red object comes down beside the yellow one",
    },
    "support": {
        "supported": "The centre of mass of all that is carried lies over the support",
        "unsupported": "The centre of mass of all that is carried lies beyond the support",
    },
    "link": {
        "meets": "The ring gets to the place where the yellow object is",
        "held back": "The post inside the ring holds it back",
        "stops": "The ring loses its speed before it gets there",
        "passes": "The ring passes beside the yellow object",
    },
    "drape": {
        "over it": "The cloth comes down over the yellow object",
        "held up": "Something taller holds the cloth up",
        "beside": "The cloth comes down beside the yellow object",
    },
    "mass": {
        "heavy": "The red object is too heavy to be pushed that far",
        "light": "The red object is light enough to be pushed that far",
    },
    "friction": {
        "rough": "Much friction stops the red object on the way",
        "slick": "There is too little friction to stop the red object on the way",
    },
    "elasticity": {
        "lively": "The ball keeps enough speed to bounce over the wall",
        "dull": "The ball loses too much speed to bounce over the wall",
    },
}
WHY: dict[str, tuple[str, ...]] = {
    "towers": (
        "What decides whether the tower falls?",
        "Why will the tower fall or stand?",
        "Which reason explains what will happen to the tower?",
    ),
    "collide": ("Why will they touch or not touch?", "What decides whether the red object hits the yellow one?"),
    "roll": ("Why will the object fall or stay?", "What decides whether it goes over the edge?"),
    "dominoes": ("Why will the last domino fall or stand?", "What decides how far the chain gets?"),
    "contain": ("Why will it end inside or outside?", "What decides whether the container catches it?"),
    "occlude": ("Why will it come out or not?", "What decides whether the object reappears?"),
    "drop": ("Why will they touch or not touch?", "What decides whether the falling object touches the yellow one?"),
    "support": ("Why will the plank tip or stay?", "What decides whether the plank stays up?"),
    "link": ("Why will they touch or not touch?", "What decides whether the ring gets to the yellow object?"),
    "drape": ("Why will they touch or not touch?", "What decides whether the cloth touches the yellow object?"),
    "mass": ("Why will they touch or not touch?", "What decides whether the red object gets to the yellow one?"),
    "friction": ("Why will they touch or not touch?", "What decides whether the red object gets to the yellow one?"),
    "elasticity": ("Why will they touch or not touch?", "What decides whether the ball hits the yellow wall?"),
}
