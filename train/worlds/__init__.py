"""MuJoCo worlds: paired data (clips, questions, exact answers) made from a scenario and a seed, nothing else."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # mujoco picks its GL library once, when it is first imported
os.environ.setdefault("LP_NUM_THREADS", "0")  # 64x64 frames: llvmpipe's threads cost more than they bring

from .generate import Spec, Summary, generate
from .scenarios import SCENARIOS
from .shifts import SHIFTS
from .violations import PROPERTIES, generate_violations

__all__ = ["PROPERTIES", "SCENARIOS", "SHIFTS", "Spec", "Summary", "generate", "generate_violations"]
