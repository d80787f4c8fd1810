"""What the code of a layer's method reads of its parameters, by its syntax tree.

It is loaded by `probe`, in a process that may have no kit to import.
"""

import ast
import inspect
import textwrap

# What says something of a blob's shape, and nothing of its diff.
_SHAPE = {"data", "shape", "num", "channels", "height", "width", "count", "reshape", "ndim"}


def ignores(function, position):
    """Whether a method computes something and never reads one of its parameters, but for a blob's data or shape.

    Args:
        function: the method.
        position: of the parameter, self not counted.

    Returns:
        False also where the code is not to be had, or does nothing.
    """
    tree = _tree(function)
    if tree is None or tree.args.vararg:
        return False
    names = [argument.arg for argument in (*tree.args.posonlyargs, *tree.args.args)]
    if len(names) <= position + 1 or not _writes(tree):
        return False
    name = names[position + 1]
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in (name, "locals")]
    return not any(_is_read(node, parents) for node in used)


def makes_scalar(function):
    """Whether a reshape gives its first top the shape (), as ``top[0].reshape()`` does."""
    tree = _tree(function)
    calls = [] if tree is None else [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(_name(call.func) == "reshape" and not call.args and not call.keywords for call in calls)


def _tree(function):
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


def _writes(tree):
    """Whether it changes anything: one that passes, or raises, has no gradient that could lack a factor."""
    assigned = (ast.Assign, ast.AugAssign)
    return any(
        (
            isinstance(node, assigned)
            and any(isinstance(part, (ast.Subscript, ast.Attribute)) for part in _targets(node))
        )
        or (isinstance(node, ast.Call) and _name(node.func) not in ("print", "NotImplementedError"))
        for node in ast.walk(tree)
    )


def _targets(node):
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _is_read(node, parents):
    """Whether more is done with a name than to ask for a blob's data or shape, or for the number of blobs."""
    above = parents.get(node)
    if isinstance(above, ast.Call) and _name(above.func) == "len":
        return False
    while isinstance(above, ast.Subscript) and above.value is node:
        node, above = above, parents.get(above)
    return not (isinstance(above, ast.Attribute) and above.value is node and above.attr in _SHAPE)


def _name(function):
    return getattr(function, "id", getattr(function, "attr", ""))
