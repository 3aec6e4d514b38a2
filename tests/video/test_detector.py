"""The network: what the streams show, equal scores at any batch size, weights that do not fit are refused."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import SamplingConfig
from model.heads import Decision, KernelHead, LinearHead, Projection
from model.training.export import WEIGHTS_NAME, export_weights
from model.training.video import SCENE, build_feature_network, build_recipe, build_scene_network, resize_positions
from model.video.detector import VideoDetector, fold_batch_norms, load_detector
from model.video.prepare import load_preparation
from model.video.scene import SceneNetwork
from model.video.traces import STREAMS, FeatureNetwork
from model.video.views import PATCHES, RESIZED, BarConfig, ViewConfig
from model.weights import WeightsError, load_manifest

BACKBONE = "tf_efficientnet_lite0"
VIEWS = ViewConfig(num_resized=2, size=64, resized_size=64)
CPU = torch.device("cpu")
READS = {
    "traces": ("patch", "resized"), "scenes": ("scene",), "class_tokens": ("class_tokens",), "linear": ("scene",),
}  # fmt: skip


def _views(count: int, seed: int = 0) -> torch.Tensor:
    """Smooth random views with a little motion and noise, uint8 (count, 2, 64, 64, 3)."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 9, 9)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(65, 65), mode="bicubic").clamp(0, 255)
    pair = torch.stack([smooth[:, :, :64, :64], smooth[:, :, 1:, 1:]], dim=1).permute(0, 1, 3, 4, 2)
    return (pair + torch.from_numpy(rng.normal(0, 3, pair.shape))).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with made-up heads over two streams and scenes."""
    folder = tmp_path_factory.mktemp("weights")
    streams = ("colours", "difference")
    features = build_feature_network(BACKBONE, streams)
    rng = np.random.default_rng(0)
    scene = build_scene_network(Path(__file__).parents[2] / "weights" / "video" / WEIGHTS_NAME)
    sizes = {"patch": features.num_features, "resized": features.num_features // 2}
    sizes |= {"scene": scene.num_features, "class_tokens": scene.num_class_features}

    def made_up_head(num_features: int, places: int, support: int, scale: float) -> KernelHead:
        return KernelHead(
            Projection(rng.normal(0, 0.02, (num_features, places)).astype(np.float32), rng.normal(size=places)),
            support=rng.normal(size=(support, places)),
            coefficients=rng.normal(size=support),
            kernel_scale=scale,
            intercept=0.25,
        )

    heads: dict[str, KernelHead | LinearHead] = {
        "traces": made_up_head(sizes["patch"] + sizes["resized"], 5, 7, 0.1),
        "scenes": made_up_head(sizes["scene"], 4, 6, 0.2),
        "class_tokens": made_up_head(sizes["class_tokens"], 3, 8, 0.3),
        "linear": LinearHead(rng.normal(0, 0.02, sizes["scene"]), 0.75),
    }
    recipe = replace(
        build_recipe(Path(__file__).parents[2] / "weights" / "video" / WEIGHTS_NAME),
        input={"sampling": asdict(SamplingConfig()), "bars": asdict(BarConfig()), "views": asdict(VIEWS)},
        architecture={"backbone": BACKBONE, "streams": streams, "scene": SCENE},
        networks={"features": features, "scene": scene},
    )
    export_weights(folder, recipe, Decision(heads, READS, -0.3), sizes=sizes, made={})
    return folder


@pytest.fixture(scope="module")
def detector(weights: Path) -> VideoDetector:
    return load_detector(weights, CPU)


def _features(detector: VideoDetector, views: torch.Tensor) -> dict[str, np.ndarray]:
    """Of one clip's patches, then resized views."""
    kinds = ((PATCHES, views[:4]), (RESIZED, views[4:]))
    return {kind: detector.features(part, kind).numpy() for kind, part in kinds}


@pytest.mark.parametrize("kind", [PATCHES, RESIZED])
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_features_do_not_depend_on_the_batch(detector: VideoDetector, batch: int, kind: str) -> None:
    views = _views(6)
    whole = detector.features(views, kind)
    parts = torch.cat([detector.features(part, kind) for part in views.split(batch)])
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


def test_a_clips_features_are_those_of_its_views(detector: VideoDetector) -> None:
    views = _views(VIEWS.num_views)
    flat = np.concatenate([views[:4].numpy().ravel(), views[4:, :1].numpy().ravel()])
    given, expected = detector.clip_features(flat), _features(detector, views)
    assert {kind: len(part) for kind, part in given.items()} == {PATCHES: 4, RESIZED: 2}
    for kind, part in expected.items():
        np.testing.assert_allclose(given[kind], part, atol=1e-4, rtol=1e-4)


def test_a_large_resized_view_is_shrunk_for_the_convolutions(weights: Path) -> None:
    """They were trained on 224 pixels, and are fused for even maps only, which 336 pixels do not give."""
    network = FeatureNetwork(backbone=BACKBONE, streams=("colours",))
    views = torch.zeros(2, 1, 336, 336, 3, dtype=torch.uint8)
    views[:, :, :168] = 255
    pictures = network.render(views)
    assert pictures.shape == (2, 3, 224, 224)
    assert pictures[..., :110, :].numpy() == pytest.approx(1.0) and pictures[..., 114:, :].numpy() == pytest.approx(
        -127 / 128
    )


def test_score_is_the_documented_formula(detector: VideoDetector, weights: Path) -> None:
    """Of the arrays as the file has them, in plain loops: means over views, linear maps, kernels, a sum."""
    from safetensors.numpy import load_file

    views = _views(VIEWS.num_views)
    traces = FeatureNetwork(backbone=BACKBONE, streams=("colours", "difference")).eval()
    scenes = build_scene_network(weights / WEIGHTS_NAME)
    tensors = {name: array.astype(np.float64) for name, array in load_file(weights / WEIGHTS_NAME).items()}
    state = load_file(weights / WEIGHTS_NAME)
    prefix = "features."
    traces.load_state_dict(
        {n.removeprefix(prefix): torch.from_numpy(array) for n, array in state.items() if n.startswith(prefix)}
    )
    with torch.inference_mode():
        patch, resized = traces(views[:4]).double().numpy(), traces(views[4:], num_streams=1).double().numpy()
        scene = scenes(views[4:]).double().numpy()

    def mapped(rows: np.ndarray, layer: str) -> np.ndarray:
        return np.array([tensors[f"{layer}.weight"] @ row for row in rows]).mean(axis=0)

    def kernel(name: str, scale: float, place: np.ndarray) -> float:
        head = zip(tensors[f"machines.{name}.coefficients"], tensors[f"machines.{name}.support"], strict=True)
        return 0.25 + sum(weight * np.exp(-scale * np.sum((support - place) ** 2)) for weight, support in head)

    place = mapped(patch, "as_patch") + mapped(resized, "as_resized") + tensors["as_patch.bias"]
    expected = kernel("traces", 0.1, place)
    expected += kernel("scenes", 0.2, mapped(scene, "as_scene") + tensors["as_scene.bias"])
    tokens = scene[:, : 768 * len(SCENE["class_tokens"])]
    expected += kernel("class_tokens", 0.3, mapped(tokens, "as_class_tokens") + tensors["as_class_tokens.bias"])
    expected += float(mapped(scene, "linear")[0] + tensors["linear.bias"][0]) - 0.3
    assert detector.score(_features(detector, views)) == pytest.approx(expected, abs=1e-3)


def test_view_scores_are_those_of_clips_whose_views_are_all_alike(detector: VideoDetector) -> None:
    views = _views(VIEWS.num_views)
    features = _features(detector, views)
    scores = detector.view_scores(features)
    like_the_second_patch = {**features, PATCHES: np.repeat(features[PATCHES][1:2], 4, axis=0)}
    assert scores[PATCHES][1] == pytest.approx(detector.score(like_the_second_patch), abs=1e-4)
    assert scores[RESIZED].shape == (2,) and scores[RESIZED][0] != scores[RESIZED][1]


def test_content_of_another_size_is_refused(detector: VideoDetector) -> None:
    with pytest.raises(ValueError, match=f"views of 5 bytes; a clip has {VIEWS.num_bytes}"):
        detector.split(np.zeros(5, np.uint8))


def test_a_scene_is_described_by_the_blocks_that_are_named() -> None:
    """Class tokens first, by block, then mean and deviation of the other tokens, by block."""
    network = build_scene_network(Path(__file__).parents[2] / "weights" / "video" / WEIGHTS_NAME)
    transformer, views = network.transformer, _views(2)
    after: list[torch.Tensor] = []
    with torch.inference_mode():
        scene = network(views)
        tokens = transformer.norm_pre(transformer._pos_embed(transformer.patch_embed(network.render(views))))
        for block in transformer.blocks:  # every token after every block, the last one too
            tokens = block(tokens)
            after.append(tokens)
    assert len(after) == 10
    parts = [after[number - 1][:, 0] for number in (6, 7, 8, 9, 10)]
    for number in (6, 8):
        others = after[number - 1][:, 1:]
        parts += [others.mean(dim=1), others.std(dim=1, correction=0)]
    torch.testing.assert_close(scene, torch.cat(parts, dim=1), atol=1e-4, rtol=1e-4)
    assert network.num_features == scene.shape[1] == 9 * 768 and network.num_class_features == 5 * 768


def test_the_transformer_sees_the_scene_not_the_size() -> None:
    """Tokens' statistics of a view and of the same view at half its size are closer than those of two scenes."""
    network = build_scene_network(Path(__file__).parents[2] / "weights" / "video" / WEIGHTS_NAME)
    assert network.size == SCENE["size"] and len(network.transformer.blocks) == max(SCENE["class_tokens"])
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (2, 3, 6, 6)).astype(np.float32))
    large = torch.nn.functional.interpolate(coarse, size=(448, 448), mode="bicubic").clamp(0, 255)
    small = torch.nn.functional.interpolate(large, size=(224, 224), mode="area")
    with torch.inference_mode():
        one, other = (network(part.permute(0, 2, 3, 1)[:, None]) for part in (large, small))
    assert one.shape == (2, network.num_features)
    assert torch.nn.functional.cosine_similarity(one, other).min() > 0.999
    # A few large channels make all pictures alike by that measure; the distance between two scenes tells more.
    assert (one - other).norm(dim=1).max() < 0.3 * (one[0] - one[1]).norm()


def test_position_embeddings_follow_the_size_of_the_picture() -> None:
    """CLIP has them for 224 pixels: places in between get what lies between, the class token keeps its own."""
    network = SceneNetwork(**SCENE | {"class_tokens": [1], "statistics": [1], "size": 336})
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 14), torch.linspace(0, 1, 14), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).reshape(1, 196, 2)
    embeddings = torch.cat([torch.full((1, 1, 2), 7.0), places], dim=1)
    larger = resize_positions(embeddings, network)
    assert larger.shape == (1, 1 + 21 * 21, 2) and larger[0, 0].tolist() == [7.0, 7.0]
    grid = larger[0, 1:].reshape(21, 21, 2)
    assert grid[10, 10].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all() and (grid[:, 1:, 1] > grid[:, :-1, 1]).all()
    torch.testing.assert_close(resize_positions(larger, network), larger)


def test_without_resized_views_a_score_is_still_had(weights: Path, tmp_path: Path) -> None:
    """As the benchmark's memory run asks."""
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["input"]["views"] |= {"num_patches": 1, "num_resized": 0}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    detector = load_detector(tmp_path, CPU)
    content = _views(1).numpy().ravel()
    assert detector.split(content).keys() == {PATCHES}
    assert np.isfinite(detector.score(detector.clip_features(content)))


def test_a_file_without_the_transformer_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not hold the transformer .*weights/video/detector.safetensors"):
        build_scene_network(tmp_path / "nothing.safetensors")
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights / WEIGHTS_NAME)
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != "scene.transformer.cls_token"}, tmp_path / "w"
    )
    with pytest.raises(ValueError, match="cls_token"):
        build_scene_network(tmp_path / "w")


def test_folding_keeps_the_function() -> None:
    network = FeatureNetwork(backbone=BACKBONE, streams=("colours",)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    views = _views(2)
    with torch.inference_mode():
        before = network(views)
        folded = fold_batch_norms(copy.deepcopy(network))
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(folded(views), before, atol=1e-4, rtol=1e-3)
    assert before.shape == (2, network.num_features)


def test_streams_show_what_they_are_named_for() -> None:
    flat = torch.full((1, 3, 64, 64), 100.0)
    blocks = torch.rand(1, 3, 32, 32).mul(255).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert STREAMS["difference"](blocks, blocks).abs().max() == 0
    assert STREAMS["upsampling"](blocks, flat).abs().max() == 0  # what was doubled in size leaves no residual
    assert STREAMS["upsampling"](blocks.roll(1, 3), flat).abs().max() > 0.5
    assert STREAMS["colours"](flat, flat).unique().tolist() == pytest.approx([(100 - 127) / 128])
    motion = blocks - blocks.mean()
    slow, fast = STREAMS["difference"](flat, flat + motion), STREAMS["difference"](flat, flat + 2 * motion)
    assert float(slow.std()) == pytest.approx(float(fast.std()), rel=0.05)  # amplitude is taken out


def test_an_unknown_stream_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown streams \['sound'\]; valid streams"):
        FeatureNetwork(backbone=BACKBONE, streams=("sound",))


def test_damaged_and_missing_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(weights, tmp_path / "copy")
    file = folder / "detector.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="SHA-256"):
        load_detector(folder, CPU)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="git lfs pull"):
        load_detector(folder, CPU)
    file.unlink()
    with pytest.raises(WeightsError, match="cannot read"):
        load_detector(folder, CPU)


def test_weights_of_another_architecture_are_refused(weights: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(weights, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text())
    heads = manifest["heads"]
    for wrong, message in (
        (heads | {"traces": heads["traces"] | {"reads": ["patch"]}}, "reads .* features|no head of the manifest has"),
        (heads | {"tones": {"reads": ["scene"]}}, "tones.weight"),
        ({name: head for name, head in heads.items() if name != "linear"}, "no head of the manifest has .*linear.bias"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | {"heads": wrong}))
        with pytest.raises(WeightsError, match=f"does not fit the architecture.*({message})"):
            load_detector(folder, CPU)


def test_the_committed_weights_load(repository: Path) -> None:
    manifest = load_manifest(repository / "weights" / "video")
    detector = load_detector(repository / "weights" / "video", CPU)
    config = detector.view_config
    assert config == load_preparation(manifest.path.parent).views
    views = np.random.default_rng(0).integers(0, 256, config.num_bytes, np.uint8)
    score = detector.score(detector.clip_features(views))
    assert np.isfinite(score)
    assert abs(score) < 50
    assert (config.size, config.resized_size) == (224, manifest.architecture["scene"]["size"])


def test_the_scene_s_network_gives_the_same_when_prepared_for_a_cpu(repository: Path) -> None:
    """With the committed weights: activations that are sigmoids of scaled values among them."""
    plain = build_scene_network(repository / "weights" / "video" / WEIGHTS_NAME)
    prepared = copy.deepcopy(plain)
    prepared.prepare_for_cpu(torch.float32)
    assert all(isinstance(block.mlp.act, torch.nn.SiLU) for block in prepared.transformer.blocks)
    pictures = plain.render(_views(2))
    with torch.inference_mode():
        torch.testing.assert_close(prepared.statistics(pictures), plain.statistics(pictures), atol=1e-4, rtol=1e-4)
