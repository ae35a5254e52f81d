"""Selection rules in plain Python, and the layouts that tests of pruners draw."""

import math

from hypothesis import strategies as st

from vla_prune_ros.pruning.layout import Layout


def best(scores, ids, count):
    """Highest score first, lower id first among equals."""
    return sorted(ids, key=lambda i: (-scores[i], i))[:count]


def cosine_distance(a, b):
    """1 - cosine; 1 where either is zero."""
    length = math.hypot(*a) * math.hypot(*b)
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 1.0


def max_min(distance, ids, count):
    """Farthest nearest neighbour first, then farthest from all picks; lower id among equals.

    :param distance: of two ids.
    """
    picked = []
    for _ in range(count):
        scores = {
            i: min((distance(i, j) for j in (picked or ids) if j != i), default=math.inf)
            for i in ids
            if i not in picked
        }
        picked.append(max(scores, key=lambda i: (scores[i], -i)))
    return picked


@st.composite
def layouts(draw):
    """A layout of 1 to 3 cameras, and a budget for each."""
    cameras = tuple('abc')[: draw(st.integers(1, 3))]
    layout = Layout(
        cameras=cameras,
        patches=draw(st.integers(2, 9)),
        proprio=draw(st.integers(0, 1)),
        prompt=draw(st.integers(11, 20)),
        slots=draw(st.integers(1, 8)),
        time=draw(st.integers(0, 1)),
    )
    return layout, tuple(draw(st.integers(1, layout.patches)) for _ in cameras)
