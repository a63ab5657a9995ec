"""Formulas over the scores of several graders, as OpenAI's `calculate_output` has them: `0.7 * a + 0.3 * max(b, c)`."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

MAX_FORMULA = 2048
_OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, tuple[Callable[..., float], int, int]] = {
    "min": (min, 2, 64),
    "max": (max, 2, 64),
    "abs": (abs, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "exp": (math.exp, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "log": (math.log, 1, 1),
}
"""By name: the function, and the least and greatest number of what it takes."""
KNOWN = f"+ - * / ^ and {', '.join(_FUNCTIONS)}"


class FormulaProblem(ValueError):
    """The formula cannot be read or, with these scores, has no value; the message says why."""


class Formula:
    """A formula that was read; `names` are the scores that it takes. Raises FormulaProblem."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_FORMULA:
            raise FormulaProblem(f"the formula is longer than {MAX_FORMULA} characters")
        try:
            self._tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
            self.names = frozenset(_names(self._tree))
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            reason = str(error) if isinstance(error, FormulaProblem) else f"it is no formula; it may use {KNOWN}"
            raise FormulaProblem(f"{text[:80]!r}: {reason}") from None

    def __call__(self, scores: Mapping[str, float]) -> float:
        """Its value; raises FormulaProblem where there is none (a division by zero, the root of a negative number)."""
        try:
            value = _value(self._tree, scores)
        except (ArithmeticError, ValueError) as error:
            raise FormulaProblem(f"the formula has no value for these scores: {error}") from None
        if isinstance(value, complex) or not math.isfinite(value):
            raise FormulaProblem(f"the formula gives {value}, which is no score")
        return float(value)


def _names(node: ast.AST) -> set[str]:
    """The scores that a tree takes; raises FormulaProblem for anything that is not arithmetic."""
    match node:
        case ast.Constant(value=bool() | complex()):
            raise FormulaProblem("it holds a value that is no number")
        case ast.Constant(value=int() | float()):
            return set()
        case ast.Name(id=name):
            return {name}
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _names(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _names(left) | _names(right)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            _, least, most = _FUNCTIONS[name]
            if not least <= len(args) <= most:
                raise FormulaProblem(f"{name} takes {least if least == most else f'{least} or more'} values")
            return set().union(*map(_names, args))
    raise FormulaProblem(f"it holds {ast.unparse(node)[:40]!r}; it may use {KNOWN}")


def _value(node: ast.AST, scores: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return scores[name]
        case ast.UnaryOp(op=op, operand=operand):
            value = _value(operand, scores)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, scores), _value(right, scores))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name][0](*(_value(arg, scores) for arg in args))
    raise AssertionError(node)
