"""Claims about the objectives: each learns, none sees what it must tell, SIGReg knows a normal when it sees one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2Model

from foretell.perception.encoder import grid_of, open_model, tiny_config
from foretell.perception.published import trunk
from foretell.train import learner
from foretell.train.learner import FRESH, OBJECTIVES, build, encoder_for, learn
from foretell.train.masks import Mask, ahead, multiblock, tubes
from foretell.train.objectives import Student, patches, pixels_hidden, pixels_next, sigreg, sketch
from foretell.train.pretrain import draw, run
from foretell.train.recipes import PretrainRecipe
from foretell.train.recipes import tiny_encoder as tiny


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims of equality are made in fp32."""
    monkeypatch.setattr(learner, "train_dtype", lambda: torch.float32)


@pytest.fixture(scope="module")
def clips() -> NDArray[np.uint8]:
    """Clips of smooth colours that drift."""
    rng = np.random.default_rng(0)
    start, drift = rng.uniform(0, 160, (24, 1, 1, 1, 3)), rng.uniform(-5, 5, (24, 1, 1, 1, 3))
    ramp = np.linspace(0, 60, 16)[:, None, None] * np.ones((1, 16, 3))
    return (start + drift * np.arange(12)[:, None, None, None] + ramp).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fresh encoders on disk, for clips and for single frames."""
    root = tmp_path_factory.mktemp("encoders")
    shapes = {"clips": {}, "pictures": {"frames_per_clip": 1, "tubelet_size": 1}}
    for name, shape in shapes.items():
        torch.manual_seed(0)
        VJEPA2Model(VJEPA2Config(**tiny_config().to_diff_dict() | shape)).save_pretrained(root / name)
    kinds = {name: one.kind for name, one in OBJECTIVES.items() if one.kind is not VJEPA2Model}
    for name, kind in kinds.items():
        torch.manual_seed(0)
        FRESH[kind](tiny_config()).save_pretrained(root / name)
    return {name: root / name for name in (*shapes, *kinds)}


def recipe_for(objective: str) -> PretrainRecipe:
    return replace(tiny(), objective=objective, steps=40, lr=2e-3, batch=8)


def places_of(objective: str, starts: dict[str, Path]) -> tuple[Path, Path | None]:
    """Where this objective starts, and its frozen teacher."""
    start = starts.get(objective, starts["pictures" if OBJECTIVES[objective].pictures else "clips"])
    return start, starts["clips"] if OBJECTIVES[objective].teacher == "frozen" else None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_a_batch_by_heart(
    objective: str, clips: NDArray[np.uint8], starts: dict[str, Path]
) -> None:
    recipe = recipe_for(objective)
    learner = build(recipe, *places_of(objective, starts))
    config = learner.student.model.config
    batch = draw(0, clips, np.arange(len(clips)), config, recipe)
    values = [learn(learner, step, *batch, recipe)["loss"] for step in range(recipe.steps)]
    assert np.isfinite(values).all() and np.mean(values[-5:]) < 0.9 * values[0]
    assert (learner.student.head is not None) == (OBJECTIVES[objective].pixels and objective not in starts)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_runs_from_files_to_an_ordinary_encoder_folder(
    objective: str, clips: NDArray[np.uint8], starts: dict[str, Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "clips.npy", clips)
    start, teacher = places_of(objective, starts)
    recipe = replace(tiny(), objective=objective, held_out=2)
    encoder = run(tmp_path / "clips.npy", tmp_path / "run", recipe, init=start, teacher=teacher)
    assert not torch.equal(weight(encoder), weight(start))
    if teacher is not None:
        assert torch.equal(weight(teacher), weight(starts["clips"]))
    assert OBJECTIVES[objective].words in (encoder / "training.json").read_text()


def weight(folder: Path) -> Tensor:
    """Of the first layer."""
    model = open_model(folder)
    layers = model.encoder.layer if isinstance(model, VJEPA2Model) else trunk(model).layers
    return next(one.weight for one in layers[0].modules() if isinstance(one, torch.nn.Linear))


def test_the_order_of_the_data_does_not_depend_on_the_objective(clips: NDArray[np.uint8]) -> None:
    rows = np.arange(len(clips))
    seen = [
        draw(3, clips, rows, tiny_config(), recipe_for(name))[0] for name, one in OBJECTIVES.items() if not one.pictures
    ]
    assert all(torch.equal(one, seen[0]) for one in seen)


def test_patches_are_each_tokens_pixels_standardised() -> None:
    config = tiny_config()
    pixels = torch.randn(2, 8, 3, 16, 16)
    tokens = patches(pixels, config)
    assert tokens.shape == (2, 64, 2 * 4 * 4 * 3)
    raw = pixels[1, 2:4, :, 4:8, 8:12]  # tubelet 1, row 1, column 2
    wanted = (raw - raw.mean()) / (raw.var() + 1e-6).sqrt()
    place = 1 * 16 + 1 * 4 + 2
    torch.testing.assert_close(tokens[1, place].sort().values, wanted.flatten().sort().values)


def told(student: Student, loss: object, pixels: Tensor, mask: Mask) -> Tensor:
    """What the student says of the pixels, caught on its way into the loss."""
    caught: list[Tensor] = []
    assert student.head is not None and callable(loss)
    hook = student.head.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    loss(student, pixels, mask)
    hook.remove()
    return caught[0]


@torch.no_grad()
def test_hidden_pixels_are_told_without_being_seen() -> None:
    student = Student(VJEPA2Model(tiny_config()), pixels=True).eval()
    mask = tubes(np.random.default_rng(0), (4, 4, 4), 2, 0.75)
    pixels = torch.randn(2, 8, 3, 16, 16)
    shown = torch.zeros(2, 64).scatter(1, mask.context, 1.0).bool().reshape(2, 4, 1, 4, 1, 4, 1)
    shown = shown.expand(2, 4, 2, 4, 4, 4, 4).reshape(2, 8, 1, 16, 16)
    changed = pixels.where(shown, pixels + 1)
    before, after = (told(student, pixels_hidden, given, mask) for given in (pixels, changed))
    torch.testing.assert_close(before, after)
    assert not torch.allclose(before, told(student, pixels_hidden, pixels.where(~shown, pixels + 1), mask))


@torch.no_grad()
def test_the_next_tubelet_is_told_from_earlier_ones_alone() -> None:
    student = Student(VJEPA2Model(tiny_config()), pixels=True).eval()
    mask, pixels = ahead((4, 4, 4), 1), torch.randn(1, 8, 3, 16, 16)
    changed = pixels.clone()
    changed[:, 4:6] += 1  # tubelet 2, which is told from tubelets 0 and 1
    before, after = (told(student, pixels_next, given, mask).unflatten(1, (3, 16)) for given in (pixels, changed))
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_multiblock_leaves_something_to_see_of_a_small_picture() -> None:
    for seed in range(60):
        assert multiblock(np.random.default_rng(seed), (1, 4, 4), 8).context.shape[1] >= 1


def test_multiblock_hides_four_blocks_of_a_picture() -> None:
    for seed in range(20):
        mask = multiblock(np.random.default_rng(seed), (1, 8, 8), 3)
        blocks = mask.target.chunk(mask.blocks, dim=1)
        assert len(blocks) == 4 and mask.context.shape[1] > 8
        for row in range(3):
            assert not set(mask.context[row].tolist()) & set(mask.target[row].tolist())
            for block in blocks:
                y, x = block[row] // 8, block[row] % 8
                tall, wide = int(y.max() - y.min()) + 1, int(x.max() - x.min()) + 1
                assert tall * wide == len(block[row].unique()) and 6 <= tall * wide <= 16
    with pytest.raises(ValueError, match="for pictures"):
        multiblock(np.random.default_rng(0), (4, 8, 8), 3)


def test_tubes_hide_the_same_places_in_every_tubelet() -> None:
    mask = tubes(np.random.default_rng(0), (4, 8, 8), 5, 0.9)
    assert mask.context.shape == (5, 4 * 6) and mask.target.shape == (5, 4 * 58)
    for row in mask.context.unflatten(1, (4, 6)) % 64:
        assert (row == row[0]).all()
    assert not torch.equal(mask.context[0], mask.context[1])
    with pytest.raises(ValueError, match="nothing follows"):
        ahead((1, 8, 8), 2)


def test_sigreg_is_least_for_a_standard_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(4000, 16, generator=generator)
    directions = sketch(16, 64, seed=0, step=0)
    values = {
        "normal": normal, "wide": 2 * normal, "shifted": normal + 1, "collapsed": 0 * normal,
        "flat": normal * torch.tensor([1.0] * 4 + [0.0] * 12), "two lumps": normal + 3 * normal[:, :1].sign(),
    }  # fmt: skip
    scores = {name: float(sigreg(value, directions)) for name, value in values.items()}
    assert scores["normal"] < 0.002 and all(scores[name] > 5 * scores["normal"] for name in values if name != "normal")
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(64))
    assert torch.equal(directions, sketch(16, 64, 0, 0)) and not torch.equal(directions, sketch(16, 64, 0, 1))


def test_sigreg_alone_spreads_what_had_collapsed() -> None:
    torch.manual_seed(0)
    features = (0.01 * torch.randn(256, 8)).requires_grad_(True)
    optimizer = torch.optim.Adam([features], lr=0.05)
    for step in range(200):
        loss = sigreg(features, sketch(8, 32, 0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    spread = features.detach().std(dim=0)
    assert ((spread > 0.7) & (spread < 1.3)).all()


HALF = """
import sys
import torch
import torch.distributed as dist
from foretell.train.objectives import sigreg, sketch

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
features = torch.load(f"{folder}/features.pt", weights_only=True).chunk(2)[rank].clone().requires_grad_(True)
value = sigreg(features, sketch(8, 32, 0, 0))
value.backward()
torch.save({"value": value.detach(), "grad": features.grad}, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_sigreg_on_two_ranks_is_sigreg_of_all_samples(tmp_path: Path) -> None:
    features = torch.randn(64, 8, generator=torch.Generator().manual_seed(1)) * 0.5
    torch.save(features, tmp_path / "features.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", HALF, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = sigreg(features.requires_grad_(True), sketch(8, 32, 0, 0))
    whole.backward()
    torch.testing.assert_close(halves[0]["value"], whole.detach())
    assert features.grad is not None
    # Data-parallel training averages the ranks' gradients: a rank's own is twice its share of the whole.
    torch.testing.assert_close(torch.cat([half["grad"] for half in halves]) / 2, features.grad)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"objective": "vicreg"}, "not one of vjepa"),
        ({"objective": "salt"}, "pass --teacher"),
        ({"objective": "mae"}, "encoder=nano_picture"),
        *(
            ({"objective": name, "encoder": "nano_picture"}, "single frames: set objective=ijepa or causal_share=0")
            for name in ("vjepa", "vjepa_dense", "lejepa", "salt")
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(changes: dict[str, str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build(replace(tiny(), **changes), None)  # type: ignore[arg-type]


def test_a_start_of_another_kind_is_refused(starts: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="holds a VJEPA2Model, objective videomae_published trains a VideoMAEForPre"):
        build(recipe_for("videomae_published"), starts["clips"])
    with pytest.raises(ValueError, match="holds a ViTMAEForPreTraining, objective ijepa trains a VJEPA2Model"):
        build(recipe_for("ijepa"), starts["mae_published"])


def test_blocks_alone_can_be_hidden_of_a_picture() -> None:
    recipe = replace(recipe_for("vjepa"), encoder="nano_picture", causal_share=0.0)
    grid = grid_of(encoder_for(recipe, None).config)
    masks = [OBJECTIVES["vjepa"].draw(np.random.default_rng(seed), grid, 4, recipe) for seed in range(20)]
    assert all(mask.context.shape[1] and mask.target.shape[1] for mask in masks)


def test_a_teacher_of_another_shape_is_refused(starts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layers and grid \(48, 3, \(1, 4, 4\)\).* learns \(48, 3, \(4, 4, 4\)\)"):
        build(recipe_for("salt"), starts["clips"], starts["pictures"])
    deep = VJEPA2Config(**tiny_config().to_diff_dict() | {"num_hidden_layers": 4})
    VJEPA2Model(deep).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\(48, 4, .* learns \(48, 3, .*of the same shape"):
        build(recipe_for("salt"), starts["clips"], tmp_path)
