"""Definitions of this package with everything that they use, as one piece of source that stands alone."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from opensloth.script_parts.source import Definition, Module, load

Key = tuple[str, int]
"""A definition: its module and the line where it begins."""
Name = tuple[str, str]
"""A module and the name of something in it."""


class Carried:
    """The source of `roots` and of what they use from this package; what they use from others are `imports`.

    Where two definitions have the same name, or one has a name of `reserved`, all but a root get their module's name
    behind it. `replaced` gives other source for some. `also` are modules beside this package's that are carried too.
    Raises ValueError for what cannot be carried.
    """

    def __init__(
        self,
        roots: Sequence[Name],
        reserved: Collection[str] = (),
        replaced: Mapping[Name, str] | None = None,
        also: Collection[str] = (),
    ) -> None:
        self._outside: dict[str, str] = {}
        self._also = also
        self._loaded: dict[str, Module] = {}
        self._replaced = dict(replaced or {})
        self._found: dict[Key, tuple[Module, Definition]] = {}
        self._names: dict[Key, dict[str, str]] = {}
        first = [self._need(*root) for root in roots]
        self._choose_names(set(first), {*reserved, *self._outside})

    @property
    def imports(self) -> list[str]:
        """Import statements, one for each name that is used."""
        return sorted(set(self._outside.values()))

    @property
    def source(self) -> str:
        """All definitions, those of a module together, each module behind those that it needs."""
        parts: list[str] = []
        for module in self._in_order():
            definitions = sorted(self._definitions_of(module), key=lambda found: found.first)
            own = [found.render(self._name, module) for found in definitions if not found.repeated]
            if own:
                parts += [f"# {module.purpose}\n{own[0]}", *own[1:]]
        return "\n\n\n".join(parts)

    def _need(self, module_name: str, name: str) -> Key:
        module, found = self._resolve(module_name, name)
        key = (module.name, found.first)
        if key not in self._found:
            self._found[key] = (module, found)
            for other, attribute in self._uses(module, found):
                self._need(other, attribute)
        return key

    def _load(self, name: str) -> Module:
        if name not in self._loaded:
            self._loaded[name] = load(name)
        return self._loaded[name]

    def _in_order(self) -> list[Module]:
        """The modules, each behind those that it imports."""
        ordered: dict[str, Module] = {}

        def visit(module: Module) -> None:
            for other, _ in module.inside.values():
                if other in self._loaded and other != module.name:
                    visit(self._loaded[other])
            ordered.setdefault(module.name, module)

        for module in self._loaded.values():
            visit(module)
        return list(ordered.values())

    def _resolve(self, module_name: str, name: str) -> tuple[Module, Definition]:
        """Where `name` of a module is defined, which may be another module that it is imported from."""
        module = self._load(module_name)
        if (module_name, name) in self._replaced:
            return module, module.definitions[name].replaced(self._replaced[module_name, name])
        if name in module.definitions:
            return module, module.definitions[name]
        if name in module.inside:
            other, attribute = module.inside[name]
            if attribute is not None:
                return self._resolve(other, attribute)
        raise ValueError(f"{module_name} defines no {name}")

    def _uses(self, module: Module, found: Definition) -> Iterator[Name]:
        """What a definition uses of carried modules; notes what it imports from others."""
        for node in ast.walk(found.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                if self._carries(getattr(node, "module", None) or node.names[0].name):
                    raise ValueError(f"{module.name}:{node.lineno} imports inside a function")
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                other, attribute = module.inside.get(node.value.id, ("", ""))
                if other and attribute is None:
                    yield other, node.attr
            elif isinstance(node, ast.Name):
                yield from self._used_name(module, node.id)

    def _used_name(self, module: Module, name: str) -> Iterator[Name]:
        if name in module.definitions:
            yield module.name, name
        elif name in module.inside:
            other, attribute = module.inside[name]
            if attribute is not None:
                yield other, attribute
        elif name in module.outside:
            statement = self._outside.setdefault(name, module.outside[name])
            if statement != module.outside[name]:
                raise ValueError(f"{name} is both `{statement}` and `{module.outside[name]}`")

    def _carries(self, module: str) -> bool:
        return module.partition(".")[0] == "opensloth" or module in self._also

    def _choose_names(self, roots: set[Key], taken: set[str]) -> None:
        """A name for each definition: its own, unless another one has it."""
        owners: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self._found, key=lambda key: key not in roots):
            module, found = self._found[key]
            self._names[key] = {}
            for name in found.names:
                same = found.names == (name,) and found.shape in owners[name]
                if not owners[name] and (name not in taken or key in roots):
                    chosen = name
                elif same:
                    chosen = name
                    found.repeated = True
                else:
                    chosen = f"{name}_{module.name.rpartition('.')[2]}"
                    module.refuse_locals(name, self._definitions_of(module))
                owners[name].append(found.shape)
                self._names[key][name] = chosen

    def _definitions_of(self, module: Module) -> list[Definition]:
        return [found for at, found in self._found.values() if at is module]

    def _name(self, module_name: str, name: str) -> str:
        module, found = self._resolve(module_name, name)
        return self._names.get((module.name, found.first), {}).get(name, name)
