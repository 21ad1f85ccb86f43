"""Small image operations on 2-D arrays, in numpy: components, holes, dilation, blur, perimeter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


def components(mask: Mask, *, diagonal: bool = True) -> tuple[Labels, int]:
    """Number the connected components of a mask 1..count (0 outside it).

    Runs of each row are joined with the touching runs of the row above by union-find; `diagonal`
    makes pixels that share only a corner neighbours.
    """
    reach = 1 if diagonal else 0
    parent: list[int] = []
    runs: list[tuple[int, int, int, int]] = []

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    above: list[tuple[int, int, int]] = []
    padded = np.pad(mask, ((0, 0), (1, 1)))
    rows, edges = np.nonzero(padded[:, 1:] != padded[:, :-1])
    bounds = np.searchsorted(rows, np.arange(mask.shape[0] + 1)).tolist()
    columns = edges.tolist()
    for row in range(mask.shape[0]):
        turns = columns[bounds[row] : bounds[row + 1]]
        current: list[tuple[int, int, int]] = []
        for start, stop in zip(turns[::2], turns[1::2], strict=True):
            index = len(parent)
            parent.append(index)
            for other_start, other_stop, other in above:
                if other_start < stop + reach and start < other_stop + reach:
                    parent[root(other)] = root(index)
            current.append((start, stop, index))
            runs.append((row, start, stop, index))
        above = current
    labels = np.zeros(mask.shape, dtype=np.int32)
    numbers: dict[int, int] = {}
    for row, start, stop, index in runs:
        labels[row, start:stop] = numbers.setdefault(root(index), len(numbers) + 1)
    return labels, len(numbers)


def holes(mask: Mask) -> Mask:
    """Pixels outside a mask that it encloses (no 4-connected way to the picture's border)."""
    labels, count = components(~mask, diagonal=False)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    enclosed = np.ones(count + 1, dtype=bool)
    enclosed[border] = False
    enclosed[0] = False
    return enclosed[labels]


def dilate(mask: Mask, radius: int) -> Mask:
    """Grow a mask by a disc-like octagon of about `radius` pixels."""
    grown = mask
    for step in range(radius):
        padded = np.pad(grown, 1)
        near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        if step % 2:
            near = near | padded[:-2, :-2] | padded[2:, 2:] | padded[:-2, 2:] | padded[2:, :-2]
        grown = grown | near
    return grown


def erode(mask: Mask, radius: int) -> Mask:
    """Shrink a mask by about `radius` pixels; the world outside the picture counts as inside."""
    return ~dilate(~mask, radius)


def territories(labels: Labels, reach: int) -> Labels:
    """Give each unlabelled pixel within `reach` of a label the number of the nearest one."""
    grown = labels.copy()
    for _ in range(reach):
        padded = np.pad(grown, 1)
        near = np.maximum.reduce(
            [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        )
        grown = np.where(grown == 0, near, grown)
    return grown.astype(np.int32)


def local_maximum(values: Floats, radius: int) -> Floats:
    """Largest value in the square window of half side `radius` around each pixel."""
    window = 2 * radius + 1
    result = np.pad(values, radius, mode="edge")
    for axis in (0, 1):
        # Windows of 1, 2, 4 ... pixels, then the last two overlap to the width wanted.
        rows, width = np.swapaxes(result, 0, axis), 1
        while width < window:
            step = min(width, window - width)
            rows = np.maximum(rows[:-step], rows[step:])
            width += step
        result = np.swapaxes(rows, 0, axis)
    return result


def blur(values: Floats, sigma: float) -> Floats:
    """Gaussian blur of the first two axes, edges repeated; `sigma` in pixels."""
    radius = max(1, int(3 * sigma + 0.5))
    offsets = np.arange(-radius, radius + 1, dtype=np.float32)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    result = values.astype(np.float32)
    for axis in (0, 1):
        widths = [(0, 0)] * values.ndim
        widths[axis] = (radius, radius)
        padded = np.pad(result, widths, mode="edge")
        size = values.shape[axis]
        result = sum(
            weight * np.take(padded, range(start, start + size), axis=axis)
            for start, weight in enumerate(kernel.tolist())
        )
    return np.asarray(result, dtype=np.float32)


def perimeter(coverage: Floats, where: Mask) -> float:
    """Length in pixels of the edges of a coverage map within `where`.

    It is the total variation of the map (co-area formula) after a blur of one pixel, which leaves
    the length of straight edges as it is and takes away what noise would add.
    """
    smooth = blur(coverage, 1.0)
    down, right = np.gradient(smooth)
    return float(np.hypot(down, right)[where].sum())
