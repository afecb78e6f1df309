"""What a network says of images: views, windows and memory, against every step written out in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import correlate2d  # type: ignore[import-untyped]
from torch import nn

from engine.errors import RunError
from engine.inference import WINDOWS_AT_ONCE, Inference, Manner
from engine.model import IMAGENET_MEAN, IMAGENET_STD, build_model
from engine.schema import ModelTable
from engine.views import DEFAULT, IDENTITY, View, parse_views
from engine.windows import predict_in_windows, starts

Array = NDArray[np.float64]
Size = tuple[int, int]

CPU = torch.device("cpu")
DEVICES = [CPU, torch.device("cuda")] if torch.cuda.is_available() else [CPU]
EIGHT = [View(mirrored, turns) for mirrored in (False, True) for turns in range(4)]
MEAN, STD = (0.4, 0.6, 0.2), (0.2, 0.25, 0.3)
CLASSES = 3


class Encoder(nn.Module):
    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.output_stride = output_stride


class Network(nn.Module):
    """Two convolutions that know left from right and up from down; `side` 1 makes each pixel answer for itself.

    `shown` are the shapes of its batches. It raises what CUDA does for a batch of more than `most`.
    """

    def __init__(self, side: int = 3, *, seed: int = 0, stride: int = 32, most: int = 10**6) -> None:
        super().__init__()
        self.encoder = Encoder(stride)
        self.first, self.second = (nn.Conv2d(*planes, side, padding=side // 2) for planes in ((3, 4), (4, CLASSES)))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 if side == 3 else 1))
        self.most = most
        self.shown: list[tuple[int, ...]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.shown.append(tuple(images.shape))
        answer: torch.Tensor = self.second(self.first(images).relu())
        return answer

    def in_float64(self, image: Array) -> Array:
        """(3, H, W) to logits (C, H, W)."""
        return convolved(np.maximum(convolved(image, self.first), 0), self.second)


class Slope(nn.Module):
    """Logits that are the image's own channels: a slope in, a slope out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(32)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


class Forgetful(Network):
    """With dropout, which only training may use."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.dropout(super().forward(images))
        return answer


def convolved(image: Array, layer: nn.Conv2d) -> Array:
    weight, bias = (parameter.detach().cpu().numpy().astype(np.float64) for parameter in (layer.weight, layer.bias))
    planes = [sum(correlate2d(plane, kernel, mode="same") for plane, kernel in zip(image, kernels, strict=True)) for kernels in weight]
    return np.stack(planes) + bias[:, None, None]


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0))


def line_weights(length: int, wanted: int) -> Array:
    """(wanted, length): bilinear interpolation between pixel centres along one side, the border's pixels going on."""
    weights = np.zeros((wanted, length))
    for row in range(wanted):
        place = min(max((row + 0.5) * length / wanted - 0.5, 0), length - 1)
        before = min(int(place), max(length - 2, 0))
        weights[row, before] += 1 - (place - before)
        weights[row, min(before + 1, length - 1)] += place - before
    return weights


def interpolated(maps: Array, size: Size) -> Array:
    return np.stack([line_weights(plane.shape[0], size[0]) @ plane @ line_weights(plane.shape[1], size[1]).T for plane in maps])


def padded_logits(network: Network, image: Array) -> Array:
    height, width = image.shape[1:]
    stride = network.encoder.output_stride
    whole = np.pad(image, ((0, 0), (0, -height % stride), (0, -width % stride)))
    return network.in_float64(whole)[:, :height, :width]


def gaussian(window: int) -> Array:
    line = [np.exp(-0.5 * ((place - (window - 1) / 2) / (window / 8)) ** 2) for place in range(window)]
    return np.maximum(np.outer(line, line), 1e-3)


def blended(network: Network, image: Array, window: int, overlap: float) -> Array:
    """Probabilities (C, H, W) as the weighted mean over windows; a smaller image is padded to one."""
    height, width = image.shape[1:]
    whole = np.pad(image, ((0, 0), (0, max(window - height, 0)), (0, max(window - width, 0))))
    total, weights = np.zeros((CLASSES, *whole.shape[1:])), np.zeros(whole.shape[1:])
    for top in starts(whole.shape[1], window, overlap):
        for left in starts(whole.shape[2], window, overlap):
            here = (slice(top, top + window), slice(left, left + window))
            total[:, *here] += softmax(padded_logits(network, whole[:, *here])) * gaussian(window)
            weights[here] += gaussian(window)
    return (total / weights)[:, :height, :width]


def of_one_view(network: Network, image: NDArray[np.uint8], view: View, manner: Manner, input_size: Size | None) -> Array:
    """Probabilities (C, H, W) of uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    bright = np.clip(image.astype(np.float64) * view.brightness, 0, 255)
    normal = ((bright / 255 - MEAN) / STD).transpose(2, 0, 1)
    base = (height, width) if input_size is None else input_size
    small = interpolated(normal, (round(base[0] * view.scale), round(base[1] * view.scale)))
    mirrored = small[:, :, ::-1] if view.mirrored else small
    turned = np.rot90(mirrored, view.turns, (1, 2))
    answer = blended(network, turned, manner.window, manner.overlap) if manner.window else padded_logits(network, turned)
    upright = np.rot90(answer, -view.turns, (1, 2))
    back = interpolated(upright[:, :, ::-1] if view.mirrored else upright, (height, width))
    return back if manner.window else softmax(back)


def expected(network: Network, images: torch.Tensor, manner: Manner, input_size: Size | None = None) -> Array:
    """Probabilities (N, C, H, W): the mean over views, image by image and view by view."""
    return np.stack(
        [
            np.mean([of_one_view(network, image, view, manner, input_size) for view in manner.views], axis=0)
            for image in images.cpu().numpy()
        ]
    )


def pictures(count: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    """Smooth in places and noisy in others, uint8 (N, H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 5 + 1, width // 5 + 1, 3)).repeat(5, axis=1).repeat(5, axis=2)
    noise = rng.integers(-40, 40, (count, height, width, 3))
    return torch.from_numpy(np.clip(coarse[:, :height, :width] + noise, 0, 255).astype(np.uint8))


def inference(
    network: nn.Module,
    manner: Manner | None = None,
    input_size: Size | None = None,
    device: torch.device = CPU,
    told: list[str] | None = None,
) -> Inference:
    tell = (told if told is not None else []).append
    return Inference(network, MEAN, STD, input_size, device, "fp32", manner or Manner(), tell)


def probabilities(network: nn.Module, images: torch.Tensor, manner: Manner | None = None, input_size: Size | None = None) -> torch.Tensor:
    return inference(network, manner, input_size)(images, plain=False).probabilities


def assert_equal(found: torch.Tensor | None, wanted: Array | torch.Tensor, tolerance: float = 1e-4) -> None:
    assert found is not None
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.cpu().numpy(), np.asarray(wanted), rtol=0, atol=tolerance)


MANNERS = {
    "plain": (Manner(), None),
    "default views": (Manner(parse_views(DEFAULT)), None),
    "all eight symmetries": (Manner(tuple(EIGHT)), None),
    "every kind": (Manner(parse_views("rot90,scale=0.5/1.3,brightness=0.7/1/1.6")), None),
    "scaled to what it was trained with": (Manner(parse_views("hflip,scale=0.75/1")), (48, 40)),
    "turned, and trained with a size that is not square": (Manner(parse_views("rot90")), (30, 64)),
    "windows": (Manner(window=32, overlap=0.5), None),
    "windows and views": (Manner(parse_views("vflip,rot90,scale=0.5/1.5"), 32, 0.25), None),
}


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("case", MANNERS)
def test_probabilities_equal_each_view_worked_out_alone(case: str, device: torch.device) -> None:
    manner, input_size = MANNERS[case]
    network, images = Network(), pictures(2, 37, 53)
    # CUDA's convolutions round their inputs to TF32.
    tolerance = 1e-4 if device.type == "cpu" else 5e-3
    seen = inference(network, manner, input_size, device)(images.to(device), plain=True)
    wanted = expected(network, images, manner, input_size)
    alone = expected(network, images, Manner((IDENTITY,), manner.window, manner.overlap), input_size)
    assert_equal(seen.probabilities, wanted, tolerance)
    assert_equal(seen.plain, alone, tolerance)
    assert_equal(seen.probabilities.sum(dim=1), np.ones((2, 37, 53)), 1e-5)
    # Without this the views could be left out, and nobody would notice.
    assert manner.views == (IDENTITY,) or np.abs(wanted - alone).max() > 0.05


def test_views_of_a_real_network_are_averaged_as_probabilities() -> None:
    table = ModelTable(type="Unet", encoder_name="resnet18", encoder_weights="none")
    network, _ = build_model(table, CLASSES)
    network.eval()
    images = pictures(2, 64, 96)
    found = Inference(network, IMAGENET_MEAN, IMAGENET_STD, None, CPU, "fp32", Manner(parse_views("hflip")), print)(images, plain=False)
    shown = ((images / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(0, 3, 1, 2)
    with torch.no_grad():
        plain, mirrored = network(shown).softmax(1), network(shown.flip(3)).softmax(1).flip(3)
    assert (plain - mirrored).abs().max() > 1e-3
    assert_equal(found.probabilities, (plain + mirrored) / 2)


@pytest.mark.parametrize("size", [(37, 53), (64, 32), (5, 9)], ids=str)
@pytest.mark.parametrize("view", EIGHT, ids=str)
def test_mirrors_and_turns_change_nothing_for_a_network_that_sees_single_pixels(view: View, size: Size) -> None:
    network, images = Network(side=1), pictures(2, *size)
    assert_equal(probabilities(network, images, Manner((view,))), probabilities(network, images), 1e-6)
    assert_equal(probabilities(network, images, Manner((view,)), (24, 56)), probabilities(network, images, input_size=(24, 56)), 1e-6)


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75, 1.25, 2.0, 4.0])
def test_scaling_changes_nothing_of_a_constant_image(scale: float) -> None:
    network = Network(side=1)
    images = torch.tensor([30, 200, 90], dtype=torch.uint8).expand(1, 33, 47, 3).contiguous()
    assert_equal(probabilities(network, images, Manner((View(scale=scale),))), probabilities(network, images), 1e-6)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25, 2.0])
def test_scaling_does_not_shift_an_image(scale: float) -> None:
    """Bilinear interpolation leaves a slope as it is, but where its end is: half a pixel's shift would show."""
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(48), indexing="ij")
    images = torch.stack([2 * rows + 3 * columns, 200 - 4 * rows, 3 * columns + 20], dim=-1)[None].to(torch.uint8)
    network = Slope()
    inside = (..., slice(3, -3), slice(3, -3))
    found, plain = probabilities(network, images, Manner((View(scale=scale),))), probabilities(network, images)
    assert_equal(found[inside], plain[inside], 1e-5)
    assert (plain[..., 1:, 1:] - plain[..., :-1, :-1])[inside].abs().mean() > 1e-3


def test_brightness_is_changed_before_normalisation_and_clipped_to_what_a_pixel_holds() -> None:
    network = Network()
    images = pictures(2, 33, 47) // 4 * 4
    for factor in (0.25, 0.75, 1.25, 2.0, 4.0):
        brighter = (images.double() * factor).clamp(0, 255)
        if factor == 1.25 or factor < 1:
            assert torch.equal(brighter, brighter.round())
        found = probabilities(network, images, Manner((View(brightness=factor),)))
        assert_equal(found, probabilities(network, brighter.to(torch.uint8)), 1e-6)
    assert (images.int() * 2 > 255).any()


def test_brightness_leaves_the_callers_images_alone() -> None:
    images = pictures(1, 32, 32)
    before = images.clone()
    probabilities(Network(), images, Manner(parse_views("brightness=0.5/2")))
    assert torch.equal(images, before)


@pytest.mark.parametrize(("stride", "multiple"), [(8, 32), (32, 32), (64, 64)])
@pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 64), (65, 130)], ids=str)
def test_any_size_is_padded_for_the_network_and_cropped_back(size: Size, stride: int, multiple: int) -> None:
    network = Network(stride=stride)
    found = probabilities(network, pictures(2, *size))
    assert tuple(found.shape) == (2, CLASSES, *size)
    (shown,) = network.shown
    assert shown == (2, 3, *(-(-side // multiple) * multiple for side in size))


def test_a_network_sees_the_size_it_was_trained_with_unless_windows_are_asked_for() -> None:
    network, images = Network(), pictures(1, 100, 140)
    assert probabilities(network, images, Manner((IDENTITY, View(scale=0.5))), (64, 96)).shape == (1, CLASSES, 100, 140)
    assert network.shown == [(1, 3, 64, 96), (1, 3, 32, 64)]
    network.shown.clear()
    probabilities(network, images, Manner(window=64, overlap=0.0), (64, 96))
    assert network.shown == [(6, 3, 64, 64)]


@pytest.mark.parametrize(
    ("text", "compared", "views"), [("hflip,rot90", True, 4), ("hflip,rot90", False, 4), ("scale=0.75/1.25", True, 3), ("", True, 1)]
)
def test_the_plain_image_is_shown_once(text: str, compared: bool, views: int) -> None:
    network = Network()
    inference(network, Manner(parse_views(text)))(pictures(3, 32, 32), plain=compared)
    assert sum(count for count, *_ in network.shown) == 3 * views


def test_the_plain_answer_is_not_given_where_it_is_not_asked_for() -> None:
    run = inference(Network(), Manner(parse_views("hflip")))
    assert run(pictures(1, 32, 32), plain=False).plain is None


def test_the_plain_answer_is_not_the_views_sum() -> None:
    """The mean is taken in place: it must not be taken in the plain answer's place."""
    network, images = Network(), pictures(1, 32, 32)
    seen = inference(network, Manner((IDENTITY, View(mirrored=True))))(images, plain=True)
    assert_equal(seen.plain, probabilities(network, images), 1e-6)
    assert seen.plain is not None
    assert not torch.allclose(seen.plain, seen.probabilities, atol=0.01)


def test_a_network_that_comes_in_training_mode_predicts_as_in_evaluation() -> None:
    images = pictures(2, 32, 32)
    network = Forgetful().train()
    assert_equal(probabilities(network, images), probabilities(Network(), images), 0)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@given(length=st.integers(1, 3000), window=st.integers(1, 700), overlap=st.floats(0, 0.99))
@settings(deadline=None)
def test_windows_cover_every_pixel_and_share_what_was_asked_for(length: int, window: int, overlap: float) -> None:
    found = starts(length, window, overlap)
    assert found[0] == 0
    assert found[-1] == max(length - window, 0)
    steps = np.diff(found)
    assert (steps > 0).all()
    # Neighbours share `window - step` pixels. A step is a pixel at least, whatever the overlap.
    assert all(step == 1 or window - step >= overlap * window - 1e-6 for step in steps)
    assert all(step <= window for step in steps)
    assert steps.size == 0 or steps.max() - steps.min() <= 1


@given(length=st.integers(1, 3000), window=st.integers(1, 700), overlap=st.floats(0, 0.99))
@settings(deadline=None)
def test_no_window_could_be_left_out(length: int, window: int, overlap: float) -> None:
    step = max(int(window * (1 - overlap)), 1)
    found = starts(length, window, overlap)
    assert len(found) == 1 or (len(found) - 2) * step < length - window


def test_places_of_windows_written_out() -> None:
    assert starts(100, 100, 0.5) == starts(40, 100, 0.5) == [0]
    assert starts(200, 100, 0.5) == [0, 50, 100]
    assert starts(201, 100, 0.5) == [0, 34, 67, 101]
    assert starts(200, 100, 0.0) == [0, 100]
    assert starts(7, 4, 0.99) == [0, 1, 2, 3]


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    window=st.integers(4, 40),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    together=st.integers(1, 9),
)
@settings(deadline=None)
def test_a_pixels_own_answer_is_the_same_through_windows(height: int, width: int, window: int, overlap: float, together: int) -> None:
    images = torch.randn(2, CLASSES, height, width, generator=torch.Generator().manual_seed(height * 61 + width))
    sizes: list[tuple[int, ...]] = []

    def predict(crops: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(crops.shape))
        return crops.softmax(dim=1)

    assert_equal(predict_in_windows(images, predict, window, overlap, together), images.softmax(dim=1), 1e-6)
    padded = max(height, window), max(width, window)
    assert sum(size[0] for size in sizes) == 2 * len(starts(padded[0], window, overlap)) * len(starts(padded[1], window, overlap))
    assert all(size[0] <= together and size[1:] == (CLASSES, window, window) for size in sizes)


@pytest.mark.parametrize("size", [(32, 32), (33, 70), (20, 90), (20, 20), (1, 40)], ids=str)
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.75])
def test_windows_are_blended_by_a_gaussian(size: Size, overlap: float) -> None:
    network, images = Network(), pictures(2, *size)
    manner = Manner(window=32, overlap=overlap)
    assert_equal(probabilities(network, images, manner), expected(network, images, manner))


def test_the_middle_of_a_window_outweighs_the_rim_of_its_neighbour() -> None:
    """Each window answers with its own number. In the middle of the first, the second has a rim; past its end nobody else does."""
    numbers = iter([1.0, 2.0, 3.0])
    found = predict_in_windows(
        torch.zeros(1, 3, 32, 64), lambda crops: torch.stack([torch.full((1, 32, 32), next(numbers)) for _ in crops]), 32, 0.5, 2
    )[0, 0]
    assert_equal(found[:, :16], torch.ones(32, 16), 1e-6)
    assert_equal(found[:, 48:], torch.full((32, 16), 3.0), 1e-6)
    assert found[16, 16] < 1.01
    assert found[16, 23:25].mean() == pytest.approx(1.5)
    assert (found[16, 16:48].diff() >= 0).all()


def test_an_image_smaller_than_a_window_is_padded_with_the_mean_colour() -> None:
    network, images = Network(), pictures(1, 20, 40)
    padded = torch.tensor([102, 153, 51], dtype=torch.uint8).expand(1, 64, 64, 3).clone()
    padded[:, :20, :40] = images
    assert_equal(probabilities(network, images, Manner(window=64)), probabilities(network, padded)[..., :20, :40], 1e-5)
    assert network.shown == [(1, 3, 64, 64)] * 2


def told_halvings(counts: Sequence[int], size: str) -> list[str]:
    return [f"out of GPU memory: from now on {count} images of {size} at once" for count in counts]


@pytest.mark.parametrize("text", ["", "hflip,rot90,scale=0.5/1"])
@pytest.mark.parametrize(("most", "halved"), [(8, []), (7, [4]), (3, [4, 2]), (1, [4, 2, 1])])
def test_batches_that_do_not_fit_are_halved_and_told_once(most: int, halved: list[int], text: str) -> None:
    manner = Manner(parse_views(text))
    network, told, images = Network(most=most), [], pictures(8, 33, 47)
    run = inference(network, manner, told=told)
    first = run(images, plain=True)
    assert told == told_halvings(halved, "33x47")
    network.shown.clear()
    second = run(images, plain=True)
    assert told == told_halvings(halved, "33x47")
    fits = halved[-1] if halved else 8
    assert [shape[0] for shape in network.shown] == [fits] * (8 // fits * len(manner.views))
    with_room = inference(Network(), manner)(images, plain=True)
    for found in (first, second):
        assert_equal(found.probabilities, with_room.probabilities, 1e-6)
        assert_equal(found.plain, with_room.plain, 1e-6)


def test_halving_an_odd_batch_leaves_no_image_out() -> None:
    network, told, images = Network(most=3), [], pictures(7, 32, 40)
    found = inference(network, told=told)(images, plain=False).probabilities
    assert told == told_halvings([3], "32x40")
    assert [shape[0] for shape in network.shown] == [3, 3, 1]
    assert_equal(found, expected(network, images, Manner()))


def test_a_short_batch_of_larger_images_is_halved_from_its_own_number() -> None:
    network, told = Network(most=4), []
    run = inference(network, told=told)
    run(pictures(8, 32, 32), plain=False)
    network.most = 1
    larger = pictures(2, 64, 64)
    assert_equal(run(larger, plain=False).probabilities, expected(network, larger, Manner()))
    assert told == [*told_halvings([4], "32x32"), *told_halvings([1], "64x64")]


def test_the_size_that_is_told_is_the_one_that_the_network_sees() -> None:
    told: list[str] = []
    inference(Network(most=2), input_size=(64, 96), told=told)(pictures(4, 33, 47), plain=False)
    assert told == told_halvings([2], "64x96")


def test_windows_that_do_not_fit_are_halved_too() -> None:
    manner = Manner(parse_views("hflip"), 32, 0.5)
    network, told, images = Network(most=3), [], pictures(2, 70, 90)
    found = inference(network, manner, (16, 16), told=told)(images, plain=False).probabilities
    assert WINDOWS_AT_ONCE == 16
    assert told == told_halvings([8, 4, 2], "32x32")
    assert max(shape[0] for shape in network.shown) == 2
    assert_equal(found, probabilities(Network(), images, manner), 1e-6)


def test_a_single_image_that_does_not_fit_ends_with_what_to_do() -> None:
    told: list[str] = []
    with pytest.raises(RunError) as failed:
        inference(Network(most=0), told=told)(pictures(2, 33, 47), plain=True)
    assert str(failed.value) == "out of GPU memory with a single image of 33x47. Predict it in windows: --window 512"
    assert told == told_halvings([1], "33x47")


def test_a_single_window_that_does_not_fit_ends_with_what_to_do() -> None:
    with pytest.raises(RunError) as failed:
        inference(Network(most=0), Manner(window=64))(pictures(1, 100, 120), plain=False)
    assert str(failed.value) == "out of GPU memory with a single image of 64x64. Choose a smaller --window"


def test_an_error_that_is_not_about_memory_is_not_taken_for_one() -> None:
    told: list[str] = []
    network = Network()
    network.second = nn.Conv2d(5, CLASSES, 1)
    with pytest.raises(RuntimeError, match="channels") as failed:
        inference(network, told=told)(pictures(2, 32, 32), plain=False)
    assert not isinstance(failed.value, torch.OutOfMemoryError)
    assert told == []


def test_trying_an_image_on_says_plainly_that_it_does_not_fit() -> None:
    told: list[str] = []
    inference(Network(most=1), told=told).try_on(pictures(1, 40, 40))
    with pytest.raises(torch.OutOfMemoryError):
        inference(Network(most=0), told=told).try_on(pictures(1, 40, 40))
    assert told == []
