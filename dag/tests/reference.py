"""Writes tests/reference.tsv: random expressions, and what Python's fractions make of them.

    python3 dag/tests/reference.py > dag/tests/reference.tsv

Columns: the expression; the value as it must be printed, or the byte of the leftmost `/` that
divides by zero; the value as a decimal of 12 places, half to even. Python's own parser is not used:
the tree is generated, written as text and evaluated, so that nothing here shares a grammar with
the crate.
"""

import random
from fractions import Fraction

random.seed(20)
PARAMETERS = {"a": Fraction(2), "b": Fraction(1, 3), "größe": Fraction(-7, 4), "z": Fraction(0)}


class Fails(Exception):
    def __init__(self, at):
        self.at = at


def number():
    kind = random.randrange(9)
    n = random.choice([0, 1, 2, 3, 10, 99, 123, 65536, random.randrange(10**6)])
    if kind == 0:
        places = random.randrange(1, 6)
        digits = str(random.randrange(10**6))
        return digits + "." + f"{n % 10**places:0{places}d}", Fraction(int(digits)) + Fraction(
            n % 10**places, 10**places
        )
    if kind == 1:
        return f".{n}", Fraction(n, 10 ** len(str(n)))
    if kind == 2:
        exponent = random.randrange(-12, 13)
        return f"{n}e{exponent}", n * Fraction(10) ** exponent
    if kind == 3:
        return f"{n:_}", Fraction(n)
    if kind == 4:
        return f"00{n}.", Fraction(n)
    if kind == 5:
        big = random.randrange(10**40)
        return str(big), Fraction(big)
    return str(n), Fraction(n)


def tree(size):
    if size == 0:
        if random.random() < 0.3:
            name = random.choice(list(PARAMETERS))
            return ("leaf", name, PARAMETERS[name])
        return ("leaf", *number())
    if random.random() < 0.1:
        return ("sign", tree(size - 1))
    left = random.randrange(size)
    return (random.choice("+-*/"), tree(left), tree(size - 1 - left))


BINDS = {"leaf": 4, "sign": 3, "*": 2, "/": 2, "+": 1, "-": 1}


def write(node, out, at_least):
    """Appends to the list of bytes `out`; gives the tree with each operator's place."""
    kind = node[0]
    opened = BINDS[kind] < at_least or random.random() < 0.05
    if opened:
        out.extend(b"(")
    if random.random() < 0.1:
        out.extend(b" ")
    if kind == "leaf":
        out.extend(node[1].encode())
        placed = node
    elif kind == "sign":
        out.extend(b"-")
        placed = ("sign", write(node[1], out, 3))
    else:
        left = write(node[1], out, BINDS[kind])
        at = len(out)
        out.extend(kind.encode())
        placed = (kind, left, write(node[2], out, BINDS[kind] + 1), at)
    if opened:
        out.extend(b")")
    return placed


def value(node):
    kind = node[0]
    if kind == "leaf":
        return node[2]
    if kind == "sign":
        return -value(node[1])
    failures, values = [], []
    for operand in node[1:3]:
        try:
            values.append(value(operand))
        except Fails as failure:
            failures.append(failure.at)
    if failures:
        raise Fails(min(failures))
    left, right = values
    if kind == "/":
        if right == 0:
            raise Fails(node[3])
        return left / right
    return left + right if kind == "+" else left - right if kind == "-" else left * right


def decimal(fraction, places):
    """Python rounds fractions half to even."""
    scaled = round(abs(fraction) * 10**places)
    sign = "-" if fraction < 0 and scaled else ""
    digits = f"{scaled:0{places + 1}d}"
    return sign + (digits[:-places] + "." + digits[-places:] if places else digits)


def printed(fraction):
    rest, twos, fives = fraction.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest == 1:
        return decimal(fraction, max(twos, fives))
    return f"{fraction.numerator}/{fraction.denominator}"


for case in range(1500):
    out = bytearray()
    placed = write(tree(min(case // 25, random.randrange(30))), out, 0)
    try:
        result = value(placed)
        print(out.decode(), printed(result), decimal(result, 12), sep="\t")
    except Fails as failure:
        print(out.decode(), f"/{failure.at}", "", sep="\t")
