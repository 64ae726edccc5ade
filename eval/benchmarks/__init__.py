"""Public exams in their official layouts, for data that the user brings or that is played here; never fetched."""

NAMES = (
    "causalvqa",
    "clevrer",
    "cophy",
    "grasp",
    "inflevel",
    "intphys",
    "intphys2",
    "iphyre",
    "mvp",
    "perceptiontest",
    "physics-iq",
    "physion",
    "shapestacks",
)
LIVE = "iphyre"  # makes its own data
