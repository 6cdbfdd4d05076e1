"""A kernel's own source with what is decided before it runs resolved: branches, constants, and calls that hold them.

An exported kernel is made from the code that the library launches, so that the two cannot drift apart. Every step keeps
the meaning; what cannot be resolved stays as it is written.
"""

from __future__ import annotations

import ast
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fusetune.code.source import KernelSource, source_of
from fusetune.code.tidy import tidied

Statements = list[ast.stmt]
Node = TypeVar("Node", bound=ast.AST)


class Specialized:
    """A kernel after specialization: `parameters` are those that it still uses, `helpers` the functions it calls."""

    def __init__(
        self,
        source: KernelSource,
        body: Statements,
        parameters: Sequence[str],
        helpers: Sequence[KernelSource],
    ) -> None:
        self.source, self.body, self.parameters, self.helpers = source, body, tuple(parameters), tuple(helpers)

    @property
    def constexprs(self) -> tuple[str, ...]:
        """The parameters that are compile-time constants."""
        return tuple(name for name in self.parameters if name in self.source.constexprs)


def specialize(kernel: Any, constants: Mapping[str, Any]) -> Specialized:
    """The kernel with these of its compile-time constants resolved; parameters that nothing needs any more are gone."""
    return _specialized(getattr(kernel, "fn", kernel), tuple(sorted(constants.items())))


@functools.cache
def _specialized(kernel: Any, items: tuple[tuple[str, Any], ...]) -> Specialized:
    # Nobody changes what this gives, and many modules have a kernel in common.
    source, constants = source_of(kernel), dict(items)
    functions: dict[str, KernelSource] = {}
    # First the branches, so that what is left tells which names are taken, and which variables never change.
    first = _Scope(source, source.body, dict(constants), set(), functions, inlines=False)
    body = _Resolver(first).block(source.body)
    taken = set(_names(body)) | set(source.parameters)
    body = _Resolver(_Scope(source, body, dict(constants), taken, functions)).block(body)
    body = tidied(body, source.parameters, functions)
    used = set(_names(body))
    parameters = [name for name in source.parameters if name in used]
    return Specialized(source, body, parameters, _helpers(body, functions))


class _NotInlinableError(Exception):
    """A call that has to stay one."""


class _Scope:
    """What names stand for within one function: constants, other expressions, or tuples of them."""

    def __init__(
        self,
        source: KernelSource,
        body: Sequence[ast.stmt],
        constants: dict[str, Any],
        taken: set[str],
        functions: dict[str, KernelSource],
        *,
        inlines: bool = True,
    ) -> None:
        self.source, self.body, self.constants, self.inlines = source, body, constants, inlines
        self.taken, self.functions = taken, functions
        self._stores = _stores(body)
        self.others: dict[str, ast.expr] = {}
        self.tuples: dict[str, list[ast.expr]] = {}

    def is_settled(self, name: str) -> bool:
        """Whether a variable gets its value once, and never again."""
        return name not in self.source.parameters and self._stores[name] == 1

    def never_changes(self, name: str) -> bool:
        """Whether a name means the same throughout."""
        return self._stores[name] == 0

    def is_done_with(self, name: str, call: ast.Call) -> bool:
        """Whether a variable of this very function is read by a call for the last time, so that it may be changed."""
        if name in self.source.parameters or name in self.others or _count([call], name) != 1:
            return False
        if any(name in _names(elements) for elements in self.tuples.values()):
            return False
        # All that is left of a function has the lines of its source.
        loops = (node for one in self.body for node in ast.walk(one) if isinstance(node, ast.For | ast.While))
        if any(loop.lineno <= call.lineno <= (loop.end_lineno or loop.lineno) for loop in loops):
            return False
        names = (node for one in self.body for node in ast.walk(one) if isinstance(node, ast.Name))
        return all(node.id != name or node.lineno <= (call.end_lineno or call.lineno) for node in names)


class _Resolver(ast.NodeTransformer):
    """Resolves statements and expressions of one scope."""

    def __init__(self, scope: _Scope) -> None:
        self.scope = scope

    def block(self, statements: Sequence[ast.stmt]) -> Statements:
        """The statements that are left, up to the first return."""
        made: Statements = []
        for statement in statements:
            made += self._statement(copied(statement))
            if made and isinstance(made[-1], ast.Return):
                break
        return made

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name, or what it stands for."""
        scope = self.scope
        if isinstance(node.ctx, ast.Load) and node.id in scope.constants:
            return ast.copy_location(ast.Constant(scope.constants[node.id]), node)
        if node.id in scope.others:
            other = copied(scope.others[node.id])
            if isinstance(other, ast.Name):
                other.ctx = type(node.ctx)()
            return ast.copy_location(other, node)
        if isinstance(node.ctx, ast.Load) and node.id in scope.tuples:
            elements = [copied(element) for element in scope.tuples[node.id]]
            return ast.copy_location(ast.Tuple(elements, ast.Load()), node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """A call; that of a function of the project is remembered."""
        callee = self.scope.source.function(node.func)
        if callee is not None:
            self.scope.functions[callee.name] = callee
        made = self.generic_visit(node)
        assert isinstance(made, ast.expr)
        if isinstance(made, ast.Call) and ast.unparse(made.func) == "tl.cdiv" and _is(made.args[-1], 1):
            return made.args[0]
        return made

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """An element, or what it is where the tuple is known."""
        made = self.generic_visit(node)
        assert isinstance(made, ast.expr)
        if isinstance(made, ast.Subscript) and isinstance(made.value, ast.Tuple):
            place = made.slice.value if isinstance(made.slice, ast.Constant) else None
            return made.value.elts[place] if isinstance(place, int) else made
        return made

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Resolve the parts, then fold what is a constant by now."""
        node = super().generic_visit(node)
        return _folded(node) if isinstance(node, ast.expr) else node

    def _statement(self, statement: ast.stmt) -> Statements:
        if isinstance(statement, ast.If):
            return self._if(statement)
        if isinstance(statement, ast.For | ast.While):
            statement.body = self.block(statement.body)
            header = "iter" if isinstance(statement, ast.For) else "test"
            setattr(statement, header, self.visit(getattr(statement, header)))
            return [statement]
        if isinstance(statement, ast.Assign):
            return self._assign(statement)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            inlined = self._inlined(statement.value, [], statement)
            if inlined is not None:
                return inlined
        return [self.visit(statement)]

    def _if(self, statement: ast.If) -> Statements:
        test = self.visit(statement.test)
        if isinstance(test, ast.Constant):
            chosen = self.block(statement.body if test.value else statement.orelse)
            if chosen:
                _comment_from(statement, chosen[0])
            return chosen
        statement.test = test
        statement.body, statement.orelse = self.block(statement.body), self.block(statement.orelse)
        if not statement.body and statement.orelse:
            statement.test = ast.copy_location(ast.UnaryOp(ast.Not(), test), test)
            statement.body, statement.orelse = statement.orelse, []
        return [statement] if statement.body else []

    def _assign(self, statement: ast.Assign) -> Statements:
        (target,) = statement.targets[:1]
        value = statement.value
        if self.scope.inlines and isinstance(target, ast.Name) and self._stands_for(target.id, value):
            return []
        if self.scope.inlines and isinstance(target, ast.Name) and isinstance(value, ast.Tuple):
            self.scope.tuples[target.id] = [self.visit(element) for element in value.elts]
            return []
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Name) and value.id in self.scope.tuples:
            return self._unpack(target, self.scope.tuples[value.id])
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and all(map(self._is_element, value.elts)):
            return self._unpack(target, [self.visit(element) for element in value.elts])
        if isinstance(value, ast.Call):
            targets = target.elts if isinstance(target, ast.Tuple) else [target]
            if all(isinstance(one, ast.Name) for one in targets):
                names = [str(self.visit(one).id) for one in targets if isinstance(one, ast.Name)]
                inlined = self._inlined(value, names, statement)
                if inlined is not None:
                    return inlined
        return [self.visit(statement)]

    def _is_element(self, value: ast.expr) -> bool:
        """Whether an expression is an element of a known tuple."""
        known = isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id
        return known in self.scope.tuples

    def _stands_for(self, name: str, value: ast.expr) -> bool:
        """Whether a variable is but another name for a constant, or for what never changes; it is one from here on."""
        scope = self.scope
        if not scope.is_settled(name):
            return False
        value = self.visit(copied(value))
        if isinstance(value, ast.Constant) and not isinstance(value.value, bool | str):
            scope.constants[name] = value.value
            scope.others.pop(name, None)
            return True
        if isinstance(value, ast.Name) and scope.never_changes(value.id) and value.id in scope.source.parameters:
            scope.others[name] = value
            return True
        return False

    def _unpack(self, target: ast.Tuple, elements: Sequence[ast.expr]) -> Statements:
        """Let names stand for the elements of a known tuple, or assign to those that change later."""
        made: Statements = []
        changed = _assigned(self.scope.body, but=target)
        for name, element in zip(target.elts, elements, strict=True):
            assert isinstance(name, ast.Name)
            if name.id not in changed:
                self.scope.others.pop(name.id, None)
            if isinstance(element, ast.Name) and element.id == name.id:
                continue
            if name.id in changed:
                made.append(ast.copy_location(ast.Assign([name], copied(element)), target))
            elif isinstance(element, ast.Constant):
                self.scope.constants[name.id] = element.value
            else:
                self.scope.others[name.id] = element
        return made

    def _inlined(self, call: ast.Call, targets: Sequence[str], statement: ast.stmt) -> Statements | None:
        """The statements that a call comes to, where it hands on what is decided already; else None."""
        callee = self.scope.source.function(call.func)
        if callee is None or not self.scope.inlines:
            return None
        arguments = self._bound(callee, call)
        decided = any(
            (isinstance(value, ast.Constant) and isinstance(value.value, bool | str)) or isinstance(value, ast.Tuple)
            for value in arguments.values()
        )
        if not decided:
            return None
        try:
            made = self._body_of(callee, arguments, targets, call)
        except _NotInlinableError:
            return None
        if made:
            _comment_from(statement, made[0])
        return made

    def _bound(self, callee: KernelSource, call: ast.Call) -> dict[str, ast.expr]:
        arguments = dict(zip(callee.parameters, (self.visit(copied(value)) for value in call.args), strict=False))
        arguments |= {str(one.arg): self.visit(copied(one.value)) for one in call.keywords}
        return arguments

    def _body_of(
        self, callee: KernelSource, arguments: Mapping[str, ast.expr], targets: Sequence[str], call: ast.Call
    ) -> Statements:
        outer = self.scope
        constants = {name: value.value for name, value in arguments.items() if isinstance(value, ast.Constant)}
        first = _Scope(callee, callee.body, constants, set(), outer.functions, inlines=False)
        body = _Resolver(first).block(callee.body)
        scope = _Scope(callee, body, {}, set(outer.taken), outer.functions)
        before: Statements = []
        changed = _assigned(body)
        for name, value in arguments.items():
            if isinstance(value, ast.Constant) and name not in changed:
                scope.constants[name] = value.value
            elif isinstance(value, ast.Tuple):
                scope.tuples[name] = value.elts
            elif self._can_stand(name, value, body, changed, targets, call):
                scope.others[name] = value
            else:
                own = self._own_name(name, targets)
                scope.others[name] = ast.Name(own, ast.Load())
                scope.taken.add(own)
                before.append(_assignment([own], value))
        for name in sorted(changed - set(arguments)):
            own = self._own_name(name, targets)
            if own != name:
                scope.others[name] = ast.Name(own, ast.Load())
            scope.taken.add(own)
        made = _Resolver(scope).block(body)
        last = made.pop() if made and isinstance(made[-1], ast.Return) else None
        if any(isinstance(node, ast.Return) for one in made for node in ast.walk(one)):
            raise _NotInlinableError
        return before + made + self._returned(last, targets)

    def _can_stand(
        self,
        name: str,
        value: ast.expr,
        body: Sequence[ast.stmt],
        changed: set[str],
        targets: Sequence[str],
        call: ast.Call,
    ) -> bool:
        """Whether an argument can be written wherever a callee's parameter stands."""
        if isinstance(value, ast.Name):
            return name not in changed or list(targets) == [value.id] or self.scope.is_done_with(value.id, call)
        return name not in changed and _count(body, name) <= 1

    def _returned(self, last: ast.stmt | None, targets: Sequence[str]) -> Statements:
        value = last.value if isinstance(last, ast.Return) else None
        if not targets:
            return []
        if value is None:
            raise _NotInlinableError
        if isinstance(value, ast.Name) and list(targets) == [value.id]:
            return []
        made = _assignment(targets, value)
        if last is not None:
            ast.copy_location(made, last)
            _comment_from(last, made)
        return [made]

    def _own_name(self, name: str, targets: Sequence[str]) -> str:
        """A name for a callee's variable that means nothing else here."""
        if name not in self.scope.taken or name in targets:
            return name
        number = 2
        while f"{name}_{number}" in self.scope.taken:
            number += 1
        return f"{name}_{number}"


def copied(node: Node) -> Node:
    """A node with all that is below it, and whatever is noted of them: copy.deepcopy takes five times as long."""
    made = type(node).__new__(type(node))
    for name, value in vars(node).items():
        if isinstance(value, list):
            vars(made)[name] = [copied(one) if isinstance(one, ast.AST) else one for one in value]
        elif isinstance(value, ast.AST):
            vars(made)[name] = copied(value)
        else:
            vars(made)[name] = value
    return made


def _folded(node: ast.expr) -> ast.expr:
    """A comparison, a logical or an arithmetic expression with constants in short; others as they are."""
    if isinstance(node, ast.BoolOp):
        return _folded_logic(node)
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp):
        parts = [node.operand]
    else:
        return node
    if not all(isinstance(part, ast.Constant) for part in parts):
        return _without_identity(node) if isinstance(node, ast.BinOp) else node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return node  # 2**31 says more than its digits.
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node  # -1 is one already.
    code = compile(ast.fix_missing_locations(ast.Expression(copied(node))), "", "eval")
    return ast.copy_location(ast.Constant(eval(code, {})), node)


def _without_identity(node: ast.BinOp) -> ast.expr:
    """An integer expression without what changes nothing: x * 1, x // 1 and 0 + x are x; x % 1 and 0 * x are 0."""
    operator, left, right = node.op, node.left, node.right
    if isinstance(operator, ast.Mult | ast.FloorDiv) and _is(right, 1):
        return left
    if isinstance(operator, ast.Add) and _is(left, 0):
        return right
    if isinstance(operator, ast.Mod) and _is(right, 1):
        return ast.copy_location(ast.Constant(0), node)
    if isinstance(operator, ast.Mult) and _is(left, 0):
        return ast.copy_location(ast.Constant(0), node)
    return node


def _is(node: ast.expr, value: int) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value == value


def _folded_logic(node: ast.BoolOp) -> ast.expr:
    decides = isinstance(node.op, ast.Or)
    open_parts = []
    for part in node.values:
        if not isinstance(part, ast.Constant):
            open_parts.append(part)
        elif bool(part.value) == decides:
            return ast.copy_location(ast.Constant(decides), node)
    if not open_parts:
        return ast.copy_location(ast.Constant(not decides), node)
    if len(open_parts) == 1:
        return open_parts[0]
    node.values = open_parts
    return node


def _assignment(targets: Sequence[str], value: ast.expr) -> ast.Assign:
    names: list[ast.expr] = [ast.Name(name, ast.Store()) for name in targets]
    target = names[0] if len(names) == 1 else ast.Tuple(names, ast.Store())
    return ast.fix_missing_locations(ast.Assign([target], value))


def _comment_from(origin: ast.stmt, first: ast.stmt) -> None:
    """Let the comment above a statement go to what came of it."""
    comment = getattr(origin, "comment", "")
    own = getattr(first, "comment", "")
    if comment and comment != own:
        first.comment = f"{comment}\n{own}".strip("\n")  # type: ignore[attr-defined]


def _names(body: Sequence[ast.AST]) -> Iterator[str]:
    for one in body:
        for node in ast.walk(one):
            if isinstance(node, ast.Name):
                yield node.id


def _count(body: Sequence[ast.AST], name: str) -> int:
    return sum(found == name for found in _names(body))


def _assigned(body: Sequence[ast.stmt], but: ast.Tuple | None = None) -> set[str]:
    """The names that statements give a value to, those of one unpacking left out."""
    skipped = {id(node) for node in ast.walk(but)} if but is not None else set()
    places = {ast.dump(but)} if but is not None else set()
    found: set[str] = set()
    for one in body:
        for node in ast.walk(one):
            if isinstance(node, ast.Tuple) and ast.dump(node) in places:
                skipped |= {id(inner) for inner in ast.walk(node)}
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in skipped:
                found.add(node.id)
    return found


def _stores(body: Sequence[ast.stmt]) -> Counter[str]:
    """How often statements give each name a value; a change in place counts twice, since it needs one before."""
    count: Counter[str] = Counter()
    for one in body:
        for node in ast.walk(one):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                count[node.id] += 1
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                count[node.target.id] += 1
    return count


def _helpers(body: Sequence[ast.stmt], functions: Mapping[str, KernelSource]) -> list[KernelSource]:
    """The functions that statements still call, each after those that it calls itself."""
    found: dict[str, KernelSource] = {}

    def collect(statements: Sequence[ast.stmt], known: Mapping[str, KernelSource]) -> None:
        for one in statements:
            for node in ast.walk(one):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id in found:
                    continue
                callee = known.get(node.func.id)
                if callee is not None:
                    called = (inner for inner in map(callee.function, _calls(callee.body)) if inner is not None)
                    collect(callee.body, {inner.name: inner for inner in called})
                    found[callee.name] = callee

    collect(body, functions)
    return list(found.values())


def _calls(body: Sequence[ast.stmt]) -> Iterator[ast.expr]:
    for one in body:
        for node in ast.walk(one):
            if isinstance(node, ast.Call):
                yield node.func
