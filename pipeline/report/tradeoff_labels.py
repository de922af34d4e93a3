"""Where the trade-off picture's labels go: beside their markers, clear of each other."""

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels
Point = tuple[float, float]


def place_labels(
    anchors: list[Point],
    sizes: list[tuple[float, float]],
    bounds: Box,
    strokes: list[Box],
    radius: float,
    gap: float,
) -> list[Point]:
    """Centres for labels of the given (width, height) beside markers of `radius` at `anchors`; all in pixels.

    Greedy, then improved label by label: each takes the place nearest its marker with the least overlap of the other
    labels, of any marker, and of what is outside `bounds`; crossing one of `strokes` is worth a small detour.
    """
    clear = radius + gap
    markers = [(x - radius, y - radius, x + radius, y + radius) for x, y in anchors]
    places: list[Point | None] = [None] * len(anchors)
    for _ in range(4):
        for index, (anchor, size) in enumerate(zip(anchors, sizes, strict=True)):
            others = [_box(place, sizes[i], gap) for i, place in enumerate(places) if i != index and place is not None]
            taken = others + markers
            places[index] = min(
                _candidates(anchor, size, clear),
                key=lambda place: (
                    _cost(place, anchor, size, taken, bounds, gap)
                    + 4 * clear * sum(_overlap(_box(place, size, 0), stroke) > 0 for stroke in strokes)
                ),
            )
    return [place for place in places if place is not None]


def _candidates(anchor: Point, size: tuple[float, float], clear: float) -> list[Point]:
    """Centres all around the marker, `clear` of it and then further out; right, left, above and below come first."""
    width, height = size
    found = []
    for distance in (clear, 2.5 * clear, 4.5 * clear, 7 * clear, 10 * clear):
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            reach = distance if x == 0 or y == 0 else distance * 0.75
            found.append((anchor[0] + x * (reach + width / 2), anchor[1] + y * (reach + height / 2)))
    return found


def _box(centre: Point, size: tuple[float, float], gap: float) -> Box:
    x, y, half_width, half_height = *centre, size[0] / 2 + gap / 2, size[1] / 2 + gap / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _cost(place: Point, anchor: Point, size: tuple[float, float], taken: list[Box], bounds: Box, gap: float) -> float:
    """Pixels of distance; what is covered or outside costs more than any distance does, by its share of the label."""
    box = _box(place, size, gap)
    area = (box[2] - box[0]) * (box[3] - box[1])
    covered = sum(_overlap(box, other) for other in taken) + area - _overlap(box, bounds)
    beside = max(abs(place[0] - anchor[0]) - size[0] / 2, 0) + max(abs(place[1] - anchor[1]) - size[1] / 2, 0)
    return beside + (200 + 2000 * covered / area if covered > 1e-6 * area else 0)


def _overlap(a: Box, b: Box) -> float:
    """Common area, square pixels."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
