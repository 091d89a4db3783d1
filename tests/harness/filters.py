"""Random filters of VikingDB's API, each with what it means for a row, said plainly."""

import math

BOUNDS = {
    "gt": lambda value, limit: value > limit,
    "gte": lambda value, limit: value >= limit,
    "lt": lambda value, limit: value < limit,
    "lte": lambda value, limit: value <= limit,
}
# Two ends of a range, the lower one first.
ENDS = [("gt", "lt"), ("gte", "lte"), ("gt", "lte"), ("gte", "lt")]


def has_one_of(row, name, wanted):
    """Whether a field has one of some values, or a list one of them as an element."""
    value = row[name]
    if isinstance(value, list):
        return any(element in wanted for element in value)
    return value is not None and value in wanted


class Filters:
    """Filters of one collection. A filter is a pair: what is sent, and a function of a row.

    `matched` are the fields that have values to match, `ranged` those that have ranges, `planes`
    pairs of fields that are the coordinates of points, and `absent` values that no row has.
    """

    def __init__(self, rng, rows, matched, ranged, planes, absent):
        self.rng, self.absent = rng, absent
        self.matched, self.ranged, self.planes = matched, ranged, planes
        self.values = {name: self._values(rows, name) for name in {*matched, *ranged}}
        self.points = {
            plane: [
                tuple(row[name] for name in plane)
                for row in rows
                if all(row[name] is not None for name in plane)
            ]
            for plane in planes
        }

    @staticmethod
    def _values(rows, name):
        """The values of a field, in order."""
        values = [row[name] for row in rows if row[name] is not None]
        if isinstance(values[0], list):
            values = [element for value in values for element in value]
        return sorted(set(values))

    def some(self, name):
        """Values to match a field with: a few of those that it has, and now and then another."""
        values = self.values[name]
        chosen = self.rng.sample(values, self.rng.randrange(1, max(2, min(6, len(values)))))
        if name in self.absent and self.rng.random() < 0.5:
            chosen.insert(0, self.absent[name])
        return chosen

    def must(self, op, name):
        wanted = self.some(name)
        tree = {"op": op, "field": name, "conds": wanted}
        return tree, lambda row: has_one_of(row, name, wanted) == (op == "must")

    def range(self, op, name, *bounds):
        """Limits are values that some rows have, so that it counts whether a bound is within.

        The first of two is the lower one in a range, and the higher one outside of a range.
        """
        values = self.values[name]
        middle = len(values) // 2
        low = values[self.rng.randrange(len(values) // 5, middle)]
        high = values[self.rng.randrange(middle, len(values) * 4 // 5)]
        limits = [low, high] if op == "range" else [high, low]
        if len(bounds) == 1:
            limits = [self.rng.choice(limits)]
        given = dict(zip(bounds, limits, strict=True))
        join = all if op == "range" else any

        def matches(row):
            value = row[name]
            if value is None:
                return False
            return join(BOUNDS[bound](value, limit) for bound, limit in given.items())

        return {"op": op, "field": name, **given}, matches

    def circle(self, op, plane):
        """Somewhere around a row; in the plane of whole numbers that row is on the edge."""
        first, second = plane
        x, y = self.rng.choice(self.points[plane])
        if isinstance(x, int) and isinstance(y, int):
            dx, dy, radius = self.rng.choice([(3, 4, 5), (-4, 3, 5), (-6, -8, 10), (0, 2, 2)])
        else:
            dx, dy = self.rng.uniform(-2, 2), self.rng.uniform(-2, 2)
            radius = math.hypot(dx, dy) + self.rng.uniform(0.1, 1)
        center = [x + dx, y + dy]

        def matches(row):
            if row[first] is None or row[second] is None:
                return False
            distance = (row[first] - center[0]) ** 2 + (row[second] - center[1]) ** 2
            return (distance <= radius * radius) == (op == "range")

        return {"op": op, "field": [first, second], "center": center, "radius": radius}, matches

    def joined(self, op, *parts):
        tree = {"op": op, "conds": [tree for tree, _ in parts]}
        tests = [test for _, test in parts]
        join = {"and": all, "or": any}[op]
        return tree, lambda row: join(test(row) for test in tests)

    def leaf(self):
        kind = self.rng.choice(["must", "range", "circle"])
        if kind == "must":
            return self.must(self.rng.choice(["must", "must_not"]), self.rng.choice(self.matched))
        op = self.rng.choice(["range", "range_out"])
        if kind == "circle":
            return self.circle(op, self.rng.choice(self.planes))
        bounds = self.rng.choice([*ENDS, *((bound,) for bound in BOUNDS)])
        return self.range(op, self.rng.choice(self.ranged), *bounds)

    def tree(self, depth):
        """Operators in operators, so deep at the most."""
        if depth and self.rng.random() < 0.6:
            parts = [self.tree(depth - 1) for _ in range(self.rng.randrange(1, 4))]
            return self.joined(self.rng.choice(["and", "or"]), *parts)
        return self.leaf()

    def map(self, *names):
        """The older form: fields are all to match, values any, and a single one may stand alone."""
        wanted = {name: self.some(name) for name in names}
        given = {
            name: values[0] if len(values) == 1 and self.rng.random() < 0.5 else values
            for name, values in wanted.items()
        }
        return given, lambda row: all(has_one_of(row, name, wanted[name]) for name in names)

    def every_leaf(self):
        """Each operator on each field that it takes, a range with each bound and with both ends."""
        for name in self.matched:
            for op in ("must", "must_not"):
                yield self.must(op, name)
        for number, name in enumerate(self.ranged):
            for place, op in enumerate(("range", "range_out")):
                yield self.range(op, name, *ENDS[(number + 2 * place) % len(ENDS)])
                # All four of each operator where there are two fields or more.
                for shift in range(0, 4, 2):
                    yield self.range(op, name, list(BOUNDS)[(number + shift) % 4])
        for plane in self.planes:
            for op in ("range", "range_out"):
                yield self.circle(op, plane)

    def every_join(self):
        """Both joins, alone and in each other."""
        for outer, inner in [("and", "or"), ("or", "and")]:
            yield self.joined(outer, self.leaf(), self.leaf())
            yield self.joined(outer, self.joined(inner, self.leaf(), self.leaf()), self.leaf())
            deep = self.joined(inner, self.joined(outer, self.leaf(), self.leaf()), self.leaf())
            yield self.joined(outer, deep, self.leaf())
