"""`pylayers doctor`: the modules of a net's Python layers, imported as the caffe command would."""

from typing import NamedTuple

from pylayers.tools.doctor import nearby
from pylayers.tools.doctor.environment import ask


class Module(NamedTuple):
    """What the probe says of a module of Python layers."""

    imported: bool
    names: list  # all names in it
    classes: dict  # from the name of a class to what `probe.classes` finds out about it
    failure: str  # why it is not imported, in a line
    detail: str  # the traceback
    folder: str  # where it was found, if that is not where Caffe would search
    file: str = ""  # the file, or the folder, that it is


def import_modules(all_nets):
    """Imports the modules of all Python layers, each in a process of its own.

    Args:
        all_nets: a list of `net.Net`.

    Returns:
        A dict from name to `Module`, and a list of folders: some modules are found only if these are searched first.
    """
    wanted, files = {}, {}
    for net in all_nets:
        for layer in net.python_layers():
            param = layer.param.python_param
            wanted.setdefault(param.module, {}).setdefault(param.layer, set()).add(param.param_str)
            files.setdefault(param.module, {}).update(dict.fromkeys(filter(None, (net.path, net.solver))))
    modules = {}
    for name, layers in wanted.items():
        layers = {layer: sorted(param_strs) for layer, param_strs in layers.items()}
        modules[name] = _import_module(name, layers, list(files[name]))
    return modules, sorted({module.folder for module in modules.values() if module.folder})


def _import_module(name, layers, files):
    if not name:
        return Module(False, [], {}, "python_param names no module", "", "")
    answer = ask("classes", name, layers)
    missing = (answer.found or {}).get("missing")
    folder = ""
    if missing and missing.split(".")[0] == name.split(".")[0]:
        folder = nearby.module_folder(name, *files) or ""
        if folder:
            answer = ask("classes", name, layers, first=[folder])
    if answer.found is None:
        return Module(False, [], {}, f"its import {answer.end}", answer.log.strip(), folder)
    if "traceback" in answer.found:
        return Module(False, [], {}, answer.found["error"], answer.found["traceback"].strip(), folder)
    return Module(True, answer.found["names"], answer.found["classes"], "", "", folder, answer.found["file"])
