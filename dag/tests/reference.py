"""Writes tests/reference.tsv: random expressions, and what Python's fractions and floats make of them.

    python3 dag/tests/reference.py > dag/tests/reference.tsv

Five columns, and a line for each expression:

    expression
    parameters   a=2 größe=-7/4
    value        as it must be printed, or an error: its kind, the byte it begins at and its length
    decimal      the value with 12 places, half to even
    float        the same in 64-bit floating point, in the order of the source, with 17 digits; or an error

Python's own parser is not used: the tree is generated, written as text and evaluated, so that nothing
here shares a grammar with the crate. Texts that are wrong are made by doing something to a right one
that has one known consequence.
"""

import math
import random
from fractions import Fraction

random.seed(20)
EXPRESSIONS, WRONG = 5000, 1000
NAMES = ["a", "b", "_x1", "größe", "名", "z"]
SIZES = [Fraction(2), Fraction(-1), Fraction(0), Fraction(1, 3), Fraction(-7, 4), Fraction(10**20), Fraction(1, 8)]


class Fails(Exception):
    def __init__(self, kind, at):
        self.kind, self.at = kind, at

    def __str__(self):
        return f"{self.kind} {self.at} 1"


def parameters():
    given = {name: random.choice(SIZES + [Fraction(random.randrange(-99, 99), random.randrange(1, 99))]) for name in NAMES}
    return {name: given[name] for name in random.sample(NAMES, random.randrange(1, len(NAMES)))}


def number():
    kind = random.randrange(9)
    n = random.choice([0, 1, 2, 3, 10, 99, 123, 65536, random.randrange(10**6)])
    if kind == 0:
        places = random.randrange(1, 6)
        digits = str(random.randrange(10**6))
        fraction = f"{n % 10**places:0{places}d}"
        return f"{digits}.{fraction}", int(digits) + Fraction(int(fraction), 10**places)
    if kind == 1:
        return f".{n}", Fraction(n, 10 ** len(str(n)))
    if kind == 2:
        exponent = random.choice([-170, 160]) if random.random() < 0.02 else random.randrange(-12, 13)
        return random.choice([f"{n}e{exponent}", f"{n}.E{exponent:+}"]), n * Fraction(10) ** exponent
    if kind == 3:
        return f"{n:_}", Fraction(n)
    if kind == 4:
        return f"00{n}.", Fraction(n)
    if kind == 5:
        big = random.randrange(10**24)
        return str(big), Fraction(big)
    return str(n), Fraction(n)


def tree(size, given):
    if size == 0:
        if random.random() < 0.3:
            name = random.choice(list(given))
            return ("leaf", name, given[name])
        return ("leaf", *number())
    if random.random() < 0.1:
        return ("sign", tree(size - 1, given))
    left = random.randrange(size)
    return (random.choice("+-*/"), tree(left, given), tree(size - 1 - left, given))


def chain(length, given):
    """What re-association works on: a long chain of one kind, some of its operands chains of the other."""
    operators = random.choice(["+-", "*/", "+", "*", "-", "/"])
    other = "*/" if operators[0] in "+-" else "+-"
    whole = tree(0, given)
    for _ in range(length):
        operand = tree(0, given)
        if random.random() < 0.3:
            operand = (random.choice(other), operand, tree(random.randrange(2), given))
        sides = (whole, operand) if random.random() < 0.8 else (operand, whole)
        whole = (random.choice(operators), *sides)
        if random.random() < 0.05:
            whole = ("sign", whole)
    return whole


BINDS = {"leaf": 4, "sign": 3, "*": 2, "/": 2, "+": 1, "-": 1}


def write(node, out, at_least):
    """Appends to the list of bytes `out`; gives the tree with each operator's and number's place."""
    kind = node[0]
    opened = BINDS[kind] < at_least or random.random() < 0.05
    if opened:
        out.extend(b"(")
    if random.random() < 0.1:
        out.extend(random.choice([" ", "  ", "\u00a0", "\u3000"]).encode())
    if kind == "leaf":
        placed = (*node, len(out))
        out.extend(node[1].encode())
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


def value(node, leaf, is_good):
    """The value over any kind of number, or the leftmost failure of all."""
    kind = node[0]
    if kind == "leaf":
        return leaf(node[2])
    if kind == "sign":
        return -value(node[1], leaf, is_good)
    failures, values = [], []
    for operand in node[1:3]:
        try:
            values.append(value(operand, leaf, is_good))
        except Fails as failure:
            failures.append(failure)
    if failures:
        raise min(failures, key=lambda failure: failure.at)
    left, right = values
    if kind == "/" and right == 0:
        raise Fails("division-by-zero", node[3])
    result = {"+": lambda: left + right, "-": lambda: left - right, "*": lambda: left * right, "/": lambda: left / right}[kind]()
    if not is_good(result):
        raise Fails("not-finite", node[3])
    return result


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


def attempt(compute):
    try:
        return compute()
    except Fails as failure:
        return failure


def line(text, given, exact, places, floating):
    values = " ".join(f"{name}={fraction}" for name, fraction in given.items())
    print(text, values, exact, places, floating, sep="\t")


def right(case):
    given = parameters()
    shape = chain(random.randrange(2, 24), given) if case % 5 == 4 else tree(min(case // 25, random.randrange(20)), given)
    out = bytearray()
    placed = write(shape, out, 0)
    exact = attempt(lambda: value(placed, lambda number: number, lambda _: True))
    floating = attempt(lambda: value(placed, float, math.isfinite))
    if isinstance(floating, float):
        floating = f"{floating:.17g}"
    if isinstance(exact, Fails):
        line(out.decode(), given, exact, "", floating)
    else:
        line(out.decode(), given, printed(exact), decimal(exact, 12), floating)


def wrong(case):
    """A right text with one thing done to it, and the error that the thing makes: kind, byte, length."""
    given = parameters()
    out = bytearray()
    write(tree(random.randrange(1, 12), given), out, 0)
    text = out.decode()
    end = len(out)
    name, unknown = next(iter(given)), "größte"
    made = [
        (text + ")", f"unmatched-parenthesis {end} 1"),
        ("(" + text, "unclosed-parenthesis 0 1"),
        (text + "+", f"unexpected-end {end + 1} 0"),
        (text + "*-(", f"unexpected-end {end + 3} 0"),
        ("/" + text, "expected-operand 0 1"),
        (text + "*/2", f"expected-operand {end + 1} 1"),
        (text + "-()", f"expected-operand {end + 2} 1"),
        (text + " 7.5", f"expected-operator {end + 1} 3"),
        (f"({text}) (1)", f"expected-operator {end + 3} 1"),
        (text + " 名", f"expected-operator {end + 1} 3"),
        (text + " ¿ 1", f"unexpected-character {end + 1} 2"),
        (text + "+ %", f"unexpected-character {end + 2} 1"),
        (text + "+1.2.3", f"malformed-number {end + 1} 5"),
        (text + "-2e+", f"malformed-number {end + 1} 3"),
        (text + "*1__0", f"malformed-number {end + 1} 4"),
        (text + "/.", f"malformed-number {end + 1} 1"),
        (text + f"+{name} (1)", f"reserved-call {end + 1} {len(name.encode())}"),
        (text + "+1e-10001", f"too-many-digits {end + 1} 8"),
        (f"{unknown}*({text})", f"unknown-parameter 0 {len(unknown.encode())}"),
        (text + f" - {unknown}/0", f"unknown-parameter {end + 3} {len(unknown.encode())}"),
        (" " * (case % 4), f"empty-expression {case % 4} 0"),
    ]
    text, error = made[case % len(made)]
    line(text, given, error, "", error)


for case in range(EXPRESSIONS):
    right(case)
for case in range(WRONG):
    wrong(case)
