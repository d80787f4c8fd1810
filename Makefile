# Every target does its own set-up: Debian packages, Caffe, Python packages, all into .venv.
#   make PYTHON=/path/to/python   uses the Caffe which that Python imports, instead of building one
#   make CAFFE='--with-opencv'    passes options to docker/build_caffe.sh
#   make image IMAGE='--help'     passes options to docker/image.sh
.DEFAULT_GOAL := setup
.PHONY: setup demo bench test test-gpu test-caffe lint format clean distclean image image-gpu image-test image-gpu-test image-caffe-test

VENV := .venv
PYTHON :=
CAFFE :=
IMAGE :=
READY := $(VENV)/.ready
READY_TO_TEST := $(VENV)/.ready-to-test
PIP := $(VENV)/bin/python -m pip install -q --disable-pip-version-check
# Where matplotlib keeps its list of fonts, and CuPy its kernels: else in folders of the user's.
export MPLCONFIGDIR := $(CURDIR)/build/matplotlib
export CUPY_CACHE_DIR := $(CURDIR)/build/cupy

# With PYTHON or CAFFE given, the script looks again whether the virtual environment fits.
ifneq ($(PYTHON)$(CAFFE),)
.PHONY: $(VENV)/.caffe
endif

setup: $(READY)

$(VENV)/.caffe: docker/build_caffe.sh docker/cuda.sh docker/boost_python.sh docker/caffe_wrapper.sh docker/requirements.txt $(wildcard docker/patches/*)
	docker/build_caffe.sh --venv $(VENV) $(if $(PYTHON),--python '$(PYTHON)') $(CAFFE)
	@touch $@

$(READY): $(VENV)/.caffe setup.py
	@echo "==> installing pylayers and its tools"
	@# As a path: pip's own way would lose the package in the folder that holds a clone called pylayers.
	@$(PIP) --config-settings editable_mode=compat -e '.[numba,lmdb,demo]'
	@touch $@

# CuPy and NVIDIA's packages are among these, 470 MB: with them the tests compile the CUDA kernels, which takes no GPU.
$(READY_TO_TEST): $(READY)
	@echo "==> installing what the tests need"
	@$(PIP) --config-settings editable_mode=compat -e '.[test]'
	@# With PYTHON=... pip may find ruff in that Python's folders, where its command is not ours.
	@test -x $(VENV)/bin/ruff || $(PIP) --ignore-installed --no-deps 'ruff==0.14.*'
	@touch $@

demo: $(READY)
	$(VENV)/bin/python demo/train.py

# nproc heeds OMP_NUM_THREADS, which is no property of the machine.
bench: $(READY)
	@mkdir -p benchmarks
	$(VENV)/bin/python -m pylayers bench \
	    --json "benchmarks/$$(uname -m)-$$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)cores.json"

# A few processes, and not one for each core of a large machine: the losses' own threads need the cores too.
test: $(READY_TO_TEST)
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4

# These fail, and are not skipped, where there is no GPU. The environment must have CuPy: the extra cuda12 or cuda13.
test-gpu: $(READY_TO_TEST)
	PYLAYERS_TEST_GPU=1 $(VENV)/bin/python -m pytest -m gpu

test-caffe: $(READY)
	$(VENV)/bin/python docker/caffe_tests.py

# The images need nothing of the virtual environment.
image:
	docker/image.sh build cpu $(IMAGE)

image-gpu:
	docker/image.sh build gpu $(IMAGE)

image-test:
	docker/image.sh test cpu $(IMAGE)

image-gpu-test:
	docker/image.sh test gpu $(IMAGE)

image-caffe-test:
	docker/image.sh build caffe-test $(IMAGE)

# ShellCheck reads the other scripts in docker/ with those that include them.
lint: $(READY_TO_TEST)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/shellcheck -x $(addprefix docker/,build_caffe.sh image.sh image_step.sh caffe_wrapper.sh) docker/bundle/caffe.sh tests/gpu/run_bundle.sh .ci/run

format: $(READY_TO_TEST)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# With what other clones share: the finished builds of Caffe.
distclean: clean
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/pylayers"
