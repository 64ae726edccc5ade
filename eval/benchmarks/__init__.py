"""Public exams in their official layouts, for data that the user brings; nothing is ever fetched."""

NAMES = (
    "causalvqa",
    "clevrer",
    "cophy",
    "grasp",
    "inflevel",
    "intphys",
    "intphys2",
    "mvp",
    "perceptiontest",
    "physics-iq",
    "physion",
    "shapestacks",
)
