"""Class-aware sampling as a machine with a memory: cyclic iterators that live on from epoch to epoch."""


class Cycle:
    """Hands out its items one by one; after each pass `reorder(number of the pass)` says in which order they come."""

    def __init__(self, items, reorder):
        self.items, self.reorder = list(items), reorder
        self.passes, self.left = 0, []

    def next(self):
        if not self.left:
            self.left = [self.items[position] for position in self.reorder(self.passes)]
            self.passes += 1
        return self.left.pop(0)


def epochs(rows_of, count, draws, run, reorder):
    """Rows of `count` epochs of `draws` samples; `reorder(class or None, size, pass)` gives each pass its order."""
    kinds = Cycle(range(len(rows_of)), lambda number: reorder(None, len(rows_of), number))
    sizes = [len(own) for own in rows_of]
    rows = [
        Cycle(own, lambda number, label=label: reorder(label, sizes[label], number))
        for label, own in enumerate(rows_of)
    ]
    result = []
    for _ in range(count):
        epoch = []
        while len(epoch) < draws:
            label = kinds.next()
            for _ in range(run):
                if len(epoch) < draws:
                    epoch.append(rows[label].next())
        result.append(epoch)
    return result
