"""The pointing game, pixel by pixel."""

import math


def height_at(cells, y, x, height, width):
    """The bilinear value of a map (list of rows) at pixel (y, x) of a height x width image."""

    def between(pixel, pixels, count):
        position = min(max((pixel + 0.5) * count / pixels - 0.5, 0), count - 1)
        low = math.floor(position)
        return low, min(low + 1, count - 1), position - low

    top, bottom, down = between(y, height, len(cells))
    left, right, across = between(x, width, len(cells[0]))
    first = cells[top][left] + down * (cells[bottom][left] - cells[top][left])
    second = cells[top][right] + down * (cells[bottom][right] - cells[top][right])
    return first + across * (second - first)


def peak(cells, height, width):
    """x, y of the first highest pixel, row by row."""
    best, where = -math.inf, (0, 0)
    for y in range(height):
        for x in range(width):
            value = height_at(cells, y, x, height, width)
            if value > best:
                best, where = value, (x, y)
    return where


def is_hit(point, boxes, tolerance):
    """Whether any whole pixel within `tolerance` of the point lies in any of the boxes of whole pixels."""
    reach = math.ceil(tolerance)
    for x1, y1, x2, y2 in boxes:
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                x, y = point[0] + dx, point[1] + dy
                if dx * dx + dy * dy <= tolerance * tolerance and x1 <= x <= x2 and y1 <= y <= y2:
                    return True
    return False
