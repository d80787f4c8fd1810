"""The seam to CuPy, as far as it can be tried without a GPU."""

import contextlib
from types import SimpleNamespace

import pytest

from pylayers.runtime.gpu import Gpu


@pytest.mark.parametrize(("owner", "current"), [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("error", [None, ValueError])
def test_the_gpu_that_owns_the_blob_is_current_and_then_the_callers_again(owner, current, error):
    now = [current]
    runtime = SimpleNamespace(
        pointerGetAttributes=lambda pointer: SimpleNamespace(device=owner),
        getDevice=lambda: now[0],
        setDevice=lambda device: now.__setitem__(0, device),
    )
    backend = Gpu()
    backend.cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    with contextlib.suppress(ValueError), backend.device_of(SimpleNamespace(_gpu_data_ptr=4096)) as device:
        assert device == now[0] == owner
        if error:
            raise error
    assert now[0] == current
