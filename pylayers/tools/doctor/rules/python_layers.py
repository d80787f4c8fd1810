"""Python layers: their module, their class, its methods, their param_str."""

import os

from pylayers.caffe_nets import kit
from pylayers.tools.doctor import nearby
from pylayers.tools.doctor.finding import nearest, rule
from pylayers.tools.doctor.probe import CALLED, CALLED_BY_ARRAY_LOSS_LAYER

TOPIC = "Python layers"


@rule(TOPIC)
def module_path(net):
    """What: a module that lies in the current folder or beside the net, where the caffe command does not look for it.
    Why: Caffe adds no folder of its own to Python's module path.
    Write: ``PYTHONPATH=FOLDER`` in the environment.
    """
    for layer in net.python_layers():
        name = layer.param.python_param.module
        folder = net.modules[name].folder
        if folder:
            here = "the current folder" if folder == os.getcwd() else folder
            yield net.error(
                layer,
                ("python_param", "module"),
                f"the module {name} lies in {here}, where the caffe command does not look for it",
                f"PYTHONPATH={os.path.relpath(folder)} in the environment, such as "
                f"PYTHONPATH={os.path.relpath(folder)} caffe train ...",
            )


@rule(TOPIC)
def module_import(net):
    """What: a module that cannot be imported.
    Why: Caffe shows no more than ``SystemError: NULL result without error``; the finding has the traceback.
    Write: a ``module`` that ``python -c 'import ...'`` imports from any folder.
    """
    for layer in net.python_layers():
        name = layer.param.python_param.module
        if not net.modules[name].imported:
            yield net.error(
                layer,
                ("python_param", "module"),
                f"the module {name!r} cannot be imported: {net.modules[name].failure}",
                "a module that python -c 'import ...' imports, from any folder" if name else 'module: "pylayers"',
                net.modules[name].detail,
            )


@rule(TOPIC)
def layer_class(net):
    """What: a class that the module does not have, or that is no subclass of caffe.Layer.
    Why: Caffe takes the name in ``layer`` as it is; the kit's classes end in Layer.
    Write: ``layer: "EuclideanLossLayer"``, or the name that the finding gives.
    """
    for layer in net.python_layers():
        param = layer.param.python_param
        module = net.modules[param.module]
        if not module.imported:
            continue
        found = net.described(layer)
        if found is None:
            near = [name for name in (param.layer, f"{param.layer}Layer") if name in module.names]
            near = near or list(filter(None, [nearest(param.layer, module.names)]))
            known = ", ".join(name for name in module.names if name.endswith("Layer")) or "no class named ...Layer"
            found = f"the module {param.module} has no {param.layer or 'layer without a name'}"
            write = f'layer: "{near[0]}"' if near else f"a class of the module; it has {known}"
            more, instead = _other_pylayers(net, module) if param.module == "pylayers" else ("", "")
            yield net.error(layer, ("python_param", "layer"), found + more, instead or write)
        elif not found["is_layer"]:
            yield net.error(
                layer,
                ("python_param", "layer"),
                f"{param.layer} of {param.module} is no subclass of caffe.Layer",
                f"class {param.layer}(caffe.Layer):",
            )


def _other_pylayers(net, module):
    """What a second module called pylayers has to do with a class that is missing, and what to write; "" for none."""
    if not module.file.startswith(kit.FOLDER + os.sep):
        return f"; it is {module.file}, which comes before the kit", kit.shadow_words(module.file)[1]
    parent = os.path.realpath(os.path.dirname(kit.FOLDER))
    folder = nearby.module_folder("pylayers", net.path, *filter(None, [net.solver]), but=parent)
    if folder is None:
        return "", ""
    place = os.path.relpath(folder)
    write = f"another name for {place}/pylayers, such as my_layers, and module: "
    return f"; it is the kit, and not the one in {place}", f'{write}"my_layers" with PYTHONPATH={place}'


@rule(TOPIC)
def method_signature(net):
    """What: a method that Caffe or the kit's base class calls, and that is missing or has other parameters.
    Why: Caffe calls methods by position. Parameters that change places compute something else, without an error.
    Write: ``def backward(self, top, propagate_down, bottom):``, or the line that the finding gives.
    """
    for layer in net.python_layers():
        for name, method in (net.described(layer) or {}).get("methods", {}).items():
            parameters = ", ".join(method["expected"]) or "nothing"
            write = f"def {name}({', '.join(('self', *method['expected']))}):"
            base = "ArrayLossLayer" if name in CALLED_BY_ARRAY_LOSS_LAYER else "LossLayer"
            caller = "Caffe" if name in CALLED else base
            place = f"{layer.param.python_param.module}.{layer.param.python_param.layer}"
            is_backward = name.startswith(("backward", "gradients"))
            if method["problem"] == "parameters":
                found = f"{place} has {method['found']} at {method['at']}; {caller} calls it with {parameters}"
                yield net.error(layer, ("python_param", "layer"), found, write)
            elif method["problem"] == "missing" and (not is_backward or (net.phase == "train" and layer.runs_backward)):
                yield net.error(layer, ("python_param", "layer"), f"{place} has no method {name}", write)


@rule(TOPIC)
def param_str(net):
    """What: a ``param_str`` that the layer refuses.
    Why: the kit reads it as strict JSON, and takes the options of the class alone.
    Write: the key and value that the message asks for.
    """
    for layer in net.python_layers():
        param = layer.param.python_param
        error = (net.described(layer) or {}).get("param_str_errors", {}).get(param.param_str)
        if error:
            yield net.error(layer, ("python_param", "param_str"), error, "")


@rule(TOPIC)
def multi_gpu(net):
    """What: a Python layer in a net that is trained on several GPUs.
    Why: the caffe command refuses such nets: its GPUs are threads, and Python has one lock.
    Write: ``--gpu 0``, or ``mpirun -n 2 pylayers train --gpu local``, one process a GPU.
    """
    several = net.gpus == "all" or (net.gpus and "," in net.gpus)
    for layer in net.python_layers()[:1] if several and net.phase == "train" else ():
        report = net.warning if net.gpus == "all" else net.error
        found = f"Python layers do not work with caffe train --gpu {net.gpus}"
        found += ", if that is more than one GPU" if net.gpus == "all" else ""
        count = net.gpus.count(",") + 1 if several and net.gpus != "all" else "N"
        write = f"--gpu 0, or mpirun -n {count} pylayers train --solver ... --gpu {net.gpus.replace('all', 'local')}"
        yield report(layer, ("type",), found, write)
