"""The mathematics against loops that write the definitions out, entry by entry."""

from collections.abc import Callable

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genserve.domain.lora import LoraKind
from genserve.pipelines.lora_maths import Change, IllShaped, change_of
from tests.pipelines.loras import chance, randn

Array = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float64]]
sizes = st.integers(1, 5)


def whole(change: Change, strength: float = 1.0) -> Array:
    """All of the change, in two cuts: what is cut must be what is whole."""
    matrix = torch.zeros(change.rows, change.columns)
    cut = change.rows // 2
    for first, last in ((0, cut), (cut, change.rows)):
        if last > first:
            change.add_to(matrix[first:last], strength, first)
    return matrix.numpy().astype(numpy.float64)


def drawn(seed: int, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    by = chance(seed)
    return {name: randn(*shape, by=by, scale=1) for name, shape in shapes.items()}


def filled(shape: tuple[int, ...], entry: Callable[..., float]) -> Array:
    made = numpy.zeros(shape)
    for index in numpy.ndindex(*shape):
        made[index] = entry(*index)
    return made


@given(sizes, sizes, sizes, st.integers(0, 99), st.floats(-4, 4))
def test_lora(rows: int, columns: int, rank: int, seed: int, alpha: float):
    factors = drawn(seed, up=(rows, rank), down=(rank, columns))
    factors["alpha"] = torch.tensor(alpha)
    up, down = factors["up"].numpy(), factors["down"].numpy()
    expected = filled(
        (rows, columns),
        lambda o, i: alpha / rank * sum(up[o, r] * down[r, i] for r in range(rank)),
    )
    change = change_of(LoraKind.LORA, factors, None)
    numpy.testing.assert_allclose(whole(change), expected, atol=1e-5)
    numpy.testing.assert_allclose(whole(change, -0.5), -0.5 * expected, atol=1e-5)


@settings(max_examples=40)
@given(sizes, sizes, sizes, sizes, st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_convolution_with_a_factor_in_the_middle(
    rows: int, channels: int, rank: int, inner: int, height: int, width: int, seed: int
):
    factors = drawn(
        seed,
        up=(rows, rank, 1, 1),
        mid=(rank, inner, height, width),
        down=(inner, channels, 1, 1),
    )
    up, mid, down = (factors[name].numpy() for name in ("up", "mid", "down"))
    expected = filled(
        (rows, channels, height, width),
        lambda o, i, x, y: sum(
            up[o, p, 0, 0] * mid[p, q, x, y] * down[q, i, 0, 0]
            for p in range(rank)
            for q in range(inner)
        ),
    )
    change = change_of(LoraKind.LORA, factors, None)
    numpy.testing.assert_allclose(whole(change), expected.reshape(rows, -1), atol=1e-4)


@settings(max_examples=50)
@given(sizes, sizes, sizes, st.integers(0, 99))
def test_loha(rows: int, columns: int, rank: int, seed: int):
    shapes = {"a": (rows, rank), "b": (rank, columns)}
    factors = drawn(seed, **{f"hada_w{n}_{e}": shapes[e] for n in (1, 2) for e in "ab"})
    factors["alpha"] = torch.tensor(2.0)
    one, two = (
        numpy.asarray(factors[f"hada_w{n}_a"]) @ numpy.asarray(factors[f"hada_w{n}_b"])
        for n in (1, 2)
    )
    expected = filled((rows, columns), lambda o, i: 2.0 / rank * one[o, i] * two[o, i])
    change = change_of(LoraKind.LOHA, factors, None)
    numpy.testing.assert_allclose(whole(change), expected, atol=1e-4)


@settings(max_examples=30)
@given(sizes, sizes, sizes, st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_loha_of_a_convolution_by_tucker(
    rows: int, channels: int, rank: int, height: int, width: int, seed: int
):
    shapes = {"w{}_a": (rank, rows), "w{}_b": (rank, channels), "t{}": (rank, rank, height, width)}
    factors = drawn(seed, **{f"hada_{k.format(n)}": s for n in (1, 2) for k, s in shapes.items()})

    def side(n: int, o: int, i: int, x: int, y: int) -> float:
        core, a, b = (factors[f"hada_{k}"].numpy() for k in (f"t{n}", f"w{n}_a", f"w{n}_b"))
        return float(
            sum(core[p, q, x, y] * a[p, o] * b[q, i] for p in range(rank) for q in range(rank))
        )

    expected = filled(
        (rows, channels, height, width),
        lambda o, i, x, y: side(1, o, i, x, y) * side(2, o, i, x, y),
    )
    change = change_of(LoraKind.LOHA, factors, None)
    numpy.testing.assert_allclose(whole(change), expected.reshape(rows, -1), atol=1e-3)


@settings(max_examples=60)
@given(
    st.tuples(sizes, sizes),
    st.tuples(sizes, sizes),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    sizes,
    st.sampled_from(["whole", "pair"]),
    st.sampled_from(["whole", "pair", "tucker"]),
    st.integers(0, 99),
)
def test_lokr(
    first: tuple[int, int],
    second: tuple[int, int],
    kernel: tuple[int, int],
    rank: int,
    how_one: str,
    how_two: str,
    seed: int,
):
    (h, m), (k, n) = first, second
    shapes: dict[str, tuple[int, ...]] = {}
    if how_one == "whole":
        shapes["lokr_w1"] = (h, m)
    else:
        shapes |= {"lokr_w1_a": (h, rank), "lokr_w1_b": (rank, m)}
    if how_two == "whole":
        shapes["lokr_w2"] = (k, n, *kernel)
    elif how_two == "pair":
        size = n * kernel[0] * kernel[1]
        shapes |= {"lokr_w2_a": (k, rank), "lokr_w2_b": (rank, size)}
    else:
        core = (rank, rank, *kernel)
        shapes |= {"lokr_t2": core, "lokr_w2_a": (rank, k), "lokr_w2_b": (rank, n)}
    factors = drawn(seed, **shapes)
    values = {name: tensor.numpy() for name, tensor in factors.items()}
    one = values.get("lokr_w1")
    if one is None:
        one = values["lokr_w1_a"] @ values["lokr_w1_b"]
    two = values.get("lokr_w2")
    if how_two == "pair":
        two = (values["lokr_w2_a"] @ values["lokr_w2_b"]).reshape(k, n, *kernel)
    elif how_two == "tucker":
        a, b, t = values["lokr_w2_a"], values["lokr_w2_b"], values["lokr_t2"]
        two = filled(
            (k, n, *kernel),
            lambda o, i, x, y: sum(
                t[p, q, x, y] * a[p, o] * b[q, i] for p in range(rank) for q in range(rank)
            ),
        )
    assert two is not None
    factors["alpha"] = torch.tensor(3.0)
    scale = 1.0 if (how_one, how_two) == ("whole", "whole") else 3.0 / rank
    expected = filled(
        (h * k, m * n, *kernel),
        lambda o, i, x, y: scale * one[o // k, i // n] * two[o % k, i % n, x, y],
    )
    change = change_of(LoraKind.LOKR, factors, None)
    assert (change.rows, change.columns) == (h * k, m * n * kernel[0] * kernel[1])
    numpy.testing.assert_allclose(whole(change), expected.reshape(h * k, -1), atol=1e-3)


def test_without_alpha_the_scale_is_one_and_a_given_one_wins():
    factors = drawn(1, up=(3, 2), down=(2, 4))
    product = (factors["up"] @ factors["down"]).numpy()
    numpy.testing.assert_allclose(
        whole(change_of(LoraKind.LORA, factors, None)), product, atol=1e-6
    )
    half = change_of(LoraKind.LORA, factors, 0.5)
    numpy.testing.assert_allclose(whole(half), 0.5 * product, atol=1e-6)


def test_half_precision_factors_are_multiplied_in_full_precision():
    factors = {name: t.half() for name, t in drawn(1, up=(64, 32), down=(32, 64)).items()}
    exact = factors["up"].double() @ factors["down"].double()
    change = change_of(LoraKind.LORA, factors, None)
    numpy.testing.assert_allclose(whole(change), exact.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shapes", "factor"),
    [
        ("lora", {"up": (4, 2), "down": (3, 4)}, "down"),
        ("lora", {"up": (4,), "down": (3, 4)}, "up"),
        ("lora", {"up": (4, 2, 3, 3), "down": (2, 4)}, "up"),
        ("lora", {"up": (4, 2), "mid": (3, 2, 3, 3), "down": (2, 4)}, "mid"),
        ("lora", {"up": (4, 2), "mid": (2, 2), "down": (2, 4)}, "mid"),
        ("lora", {"up": (4, 2), "down": (2, 4), "alpha": (3,)}, "alpha"),
        ("loha", {"w1_a": (4, 2), "w1_b": (3, 5), "w2_a": (4, 2), "w2_b": (2, 5)}, "hada_w1_b"),
        ("loha", {"w1_a": (4, 2), "w1_b": (2, 5), "w2_a": (3, 2), "w2_b": (2, 5)}, "hada_w2_a"),
        ("loha", {"w1_a": (4, 2, 1), "w1_b": (2, 5), "w2_a": (4, 2), "w2_b": (2, 5)}, "hada_w1_a"),
        ("lokr", {"w1": (4,), "w2": (2, 5)}, "lokr_w1"),
        ("lokr", {"w1": (4, 2), "w2_a": (2, 3), "w2_b": (2, 3)}, "lokr_w2_b"),
        ("lokr", {"w1": (4, 2), "t2": (2, 2, 3), "w2_a": (3, 3), "w2_b": (2, 3)}, "lokr_t2"),
    ],
)
def test_factors_that_do_not_go_together_are_named(
    kind: str, shapes: dict[str, tuple[int, ...]], factor: str
):
    start = {"lora": "", "loha": "hada_", "lokr": "lokr_"}[kind]
    factors = drawn(0, **{start + name: shape for name, shape in shapes.items()})
    with pytest.raises(IllShaped) as wrong:
        change_of(LoraKind(kind), factors, None)
    assert wrong.value.factor == factor
