"""Labels that follow by a hierarchy, one rule after another until nothing changes. Codes: 1, 0, -1."""


def follow(rows, parents):
    """Rows with what follows.

    `parents` has, for each class number, the set of numbers directly above it; all classes are numbered.
    """
    found = [list(row) for row in rows]
    for row in found:
        while True:
            before = list(row)
            for child, above in parents.items():
                for parent in above:
                    if row[child] == 1:
                        row[parent] = 1
            if row == before:
                break
        while True:
            before = list(row)
            for child, above in parents.items():
                if row[child] == -1 and any(row[parent] == 0 for parent in above):
                    row[child] = 0
            if row == before:
                break
    return found
