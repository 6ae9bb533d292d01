"""Long-tail figures, entry by entry with plain lists. Codes: 1 present, anything else is not."""


def frequencies(truth):
    """Rows with each class, rows without it, and the share of the rows with j that have k too (0 where none has j)."""
    rows = [[entry == 1 for entry in row] for row in truth]
    classes = range(len(truth[0]))
    having = [sum(row[k] for row in rows) for k in classes]
    lacking = [sum(not row[k] for row in rows) for k in classes]
    shared = [[sum(row[j] and row[k] for row in rows) for k in classes] for j in classes]
    conditional = [[shared[j][k] / having[j] if having[j] else 0.0 for k in classes] for j in classes]
    return having, lacking, conditional


def exponential(classes, largest, imbalance):
    """Each target is the one before it, times the same factor; the last is largest / imbalance."""
    factor = imbalance ** (-1 / (classes - 1))
    targets = [float(largest)]
    while len(targets) < classes:
        targets.append(targets[-1] * factor)
    return targets


def pareto(classes, largest, imbalance):
    """The density 6 / x^7 between x = 1 and the x that 1 % of the distribution lie above, moved to the two ends."""
    end = (1 / 0.01) ** (1 / 6)
    density = [6 / (1 + (end - 1) * r / (classes - 1)) ** 7 for r in range(classes)]
    low, high = min(density), max(density)
    smallest = largest / imbalance
    return [smallest + (largest - smallest) * (value - low) / (high - low) for value in density]


def deviation(truth, rows, targets):
    """Sum over classes of |positives among the rows - target| / target, classes without a target left out."""
    total = 0.0
    for k, target in enumerate(targets):
        if target:
            total += abs(sum(truth[row][k] == 1 for row in rows) - target) / target
    return total


def chosen(truth, targets, rng):
    """Rows for the rarest class first, each measured by the whole deviation; `rng` draws their order."""
    rows = []

    def has(row, label):
        return truth[row][label] == 1

    def count(label):
        return sum(has(row, label) for row in rows)

    for label in sorted(range(len(targets)), key=lambda label: targets[label]):
        order = rng.permutation([row for row in range(len(truth)) if has(row, label)]).tolist()
        for row in order:
            falls = row not in rows and deviation(truth, [*rows, row], targets) < deviation(truth, rows, targets)
            if falls and count(label) < targets[label]:
                rows.append(row)
        if order and not count(label):
            rows.append(min(order, key=lambda row: deviation(truth, [*rows, row], targets)))
    for row in rng.permutation(sorted(rows)).tolist():
        rest = [one for one in rows if one != row]
        alone = any(has(row, label) and count(label) == 1 for label in range(len(targets)))
        if not alone and deviation(truth, rest, targets) < deviation(truth, rows, targets):
            rows = rest
    return sorted(rows)
