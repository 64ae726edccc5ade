"""All public benchmarks, by the names that the command line knows."""

from .causalvqa import CAUSALVQA
from .clevrer import CLEVRER
from .cophy import COPHY
from .grasp import GRASP
from .inflevel import INFLEVEL
from .intphys import INTPHYS
from .intphys2 import INTPHYS2
from .iphyre import IPHYRE
from .mvp import MVP
from .perceptiontest import PERCEPTIONTEST
from .physics_iq import PHYSICS_IQ
from .physion import PHYSION
from .shape import Benchmark
from .shapestacks import SHAPESTACKS

_ALL = (
    CAUSALVQA, CLEVRER, COPHY, GRASP, INFLEVEL, INTPHYS, INTPHYS2, IPHYRE, MVP, PERCEPTIONTEST, PHYSICS_IQ, PHYSION,
    SHAPESTACKS,
)  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
