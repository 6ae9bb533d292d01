"""IMCL image by image, atom by atom, on NumPy float64. Labels: 1, 0 absent, -1 unknown."""

import numpy as np


def score(logit, c):
    """The asymmetric sigmoid as it is published."""
    u = logit + 0.5 * np.log(1 / c)
    return (np.exp(u) - np.exp(-u) / c) / (np.exp(u) + np.exp(-u))


def completed(scores, codes, c):
    """Scores (m, C), but 1 and -1/c where a label is known."""
    found = np.array(scores, dtype=float)
    for at in np.ndindex(found.shape):
        if codes[at] != -1:
            found[at] = 1 if codes[at] == 1 else -1 / c
    return found


def cosine(rest, target, atom):
    """What is left of a target along an atom, as a share of its length; 0 where there is no length."""
    lengths = np.linalg.norm(target) * np.linalg.norm(atom)
    return rest @ atom / lengths if lengths > 0 else 0.0


def fit(vectors, target):
    """Shares of vectors (k, D) in a target (D,), held small by a thousandth of the mean square of the vectors."""
    held = np.sqrt(1e-3 * np.mean([vector @ vector for vector in vectors]))
    longer = np.vstack([vectors.T, held * np.eye(len(vectors))])
    return np.linalg.lstsq(longer, np.concatenate([target, np.zeros(len(vectors))]), rcond=None)[0]


def pursuit(targets, atoms, weights, allowed, most):
    """Numbers of the atoms of one image, and its shares of them in each space.

    Targets and atoms are lists with a vector (D,) and a matrix (n, D) for each space.
    """
    chosen, left = [], list(targets)
    shares = [np.zeros(0) for _ in targets]
    while len(chosen) < most:
        best, gain = None, 1e-4
        for atom in range(len(allowed)):
            cosines = [cosine(rest, target, own[atom]) for rest, target, own in zip(left, targets, atoms, strict=True)]
            if not allowed[atom] or atom in chosen or min(cosines) <= -1e-2:
                continue
            explained = sum(
                weight / sum(weights) * max(each, 0) ** 2 for weight, each in zip(weights, cosines, strict=True)
            )
            if explained > gain:
                best, gain = atom, explained
        if best is None:
            break
        chosen.append(best)
        shares = [fit(own[chosen], target) for own, target in zip(atoms, targets, strict=True)]
        left = [target - share @ own[chosen] for target, share, own in zip(targets, shares, atoms, strict=True)]
    return chosen, shares


def graph_weights(codes, neighbours):
    """(C, C) weights at the start: those of a class are alike for itself and what it is most often present with."""
    classes = codes.shape[1]
    weights = np.zeros((classes, classes))
    for label in range(classes):
        together = [int(((codes[:, label] == 1) & (codes[:, other] == 1)).sum()) for other in range(classes)]
        others = sorted((other for other in range(classes) if other != label), key=lambda other: -together[other])
        kept = [other for other in others[:neighbours] if together[other] > 0]
        weights[label, [label, *kept]] = 1 / (1 + len(kept))
    return weights


def bce(logits, codes, unknown_as):
    """The mean over the labels that have a loss."""
    costs = []
    for logit, code in zip(logits.ravel(), codes.ravel(), strict=True):
        if code == 1:
            costs.append(np.log1p(np.exp(-logit)))
        elif code == 0 or unknown_as == "absent":
            costs.append(np.log1p(np.exp(logit)))
    return float(np.mean(costs)) if costs else 0.0


def costs(case, weights, *, c, most, label_weight, feature_weight):
    """For each image of a batch: what is left of its labels and of its features, and the number of its atoms.

    The case has logits (B, C), features (B, D), codes (B, C) and rows (B,) of the batch; the classifier's weights
    (C, D) and bias (C,); features (n, D), codes (n, C) and rows (n,) of the atoms, and which have been seen, (n,).
    """
    scores = score(case["atom_features"] @ case["classifier"].T + case["bias"], c)
    labels = completed(np.array([[own @ row for own in weights] for row in scores]), case["atom_codes"], c)
    own = completed(score(case["logits"], c), case["codes"], c)
    found = []
    for image, row in enumerate(case["rows"]):
        allowed = case["seen"] & (case["atom_rows"] != row)
        targets, atoms, kinds = [own[image]], [labels], [label_weight]
        if feature_weight > 0:
            targets, atoms = [*targets, case["features"][image]], [*atoms, case["atom_features"]]
            kinds.append(feature_weight)
        chosen, shares = pursuit(targets, atoms, kinds, allowed, most)
        left = [
            float(((target - share @ each[chosen]) ** 2).sum())
            for target, share, each in zip(targets, shares, atoms, strict=True)
        ]
        found.append([*(left if chosen else [0.0] * len(left)), *[0.0] * (2 - len(left)), len(chosen)])
    return np.array(found)
