# Every target does its own set-up: Debian packages, Caffe, Python packages, all into .venv.
#   make PYTHON=/path/to/python   uses the Caffe which that Python imports, instead of building one
#   make CAFFE='--with-opencv'    passes options to docker/build_caffe.sh
#   make image IMAGE='--no-cache' passes options to docker build
.DEFAULT_GOAL := setup
.PHONY: setup demo bench bench-train test test-gpu test-caffe lint format clean distclean wheel image image-gpu image-test image-gpu-test

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

$(VENV)/.caffe: docker/build_caffe.sh $(wildcard docker/caffe/*.* docker/caffe/*/*.* docker/caffe/*/*/*.*)
	docker/build_caffe.sh --venv $(VENV) $(if $(PYTHON),--caffe-of '$(PYTHON)') $(CAFFE)
	@touch $@

$(READY): $(VENV)/.caffe setup.py
	@echo "==> installing pylayers and its tools"
	@# As a path: pip's own way would lose the package in the folder that holds a clone called pylayers.
	@$(PIP) --config-settings editable_mode=compat -e '.[numba,lmdb,mpi,demo]'
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

bench-train: $(READY_TO_TEST)
	$(VENV)/bin/python benchmarks/train.py \
	    --json "benchmarks/train-$$(uname -m)-$$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)cores.json"

# A few processes, and not one for each core of a large machine: the losses' own threads need the cores too.
test: $(READY_TO_TEST)
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4

# These fail, and are not skipped, where there is no GPU. The environment must have CuPy: the extra cuda12 or cuda13.
test-gpu: $(READY_TO_TEST)
	PYLAYERS_TEST_GPU=1 $(VENV)/bin/python -m pytest -m gpu

test-caffe: $(READY)
	$(VENV)/bin/python tests/docker/run_caffe_tests.py

# Caffe's wheel and the kit's own, in dist/, in place of older ones. Nothing is installed but what builds them.
wheel:
	@rm -rf build/dist build/wheel build/lib build/bdist.*
	docker/build_caffe.sh --wheel build/dist $(CAFFE)
	@python3 -m venv build/wheel
	build/wheel/bin/python -m pip wheel -q --disable-pip-version-check --no-deps -w build/dist .
	@mkdir -p dist && rm -f dist/bvlc_caffe-*.whl dist/pylayers-*.whl && mv build/dist/*.whl dist/ && ls dist/*.whl

# The images need nothing of the virtual environment. DOCKER_BUILDKIT: for a Docker older than 23.
BUILD_IMAGE := DOCKER_BUILDKIT=1 docker build -f docker/Dockerfile

image:
	$(BUILD_IMAGE) --target cpu -t pylayers:cpu $(IMAGE) .

image-gpu:
	$(BUILD_IMAGE) --target gpu -t pylayers:gpu $(IMAGE) .

image-test: image
	$(BUILD_IMAGE) --target test --build-arg KIND=cpu -t pylayers:cpu-test $(IMAGE) .
	tests/docker/run_image.sh cpu

image-gpu-test: image-gpu
	$(BUILD_IMAGE) --target test --build-arg KIND=gpu -t pylayers:gpu-test $(IMAGE) .
	tests/docker/run_image.sh gpu

# ShellCheck reads the other scripts in docker/ with those that include them.
lint: $(READY_TO_TEST)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/shellcheck -x docker/build_caffe.sh tests/docker/run_image.sh tests/docker/run_wheel.sh tests/gpu/run_wheel.sh .ci/run .ci/engine.sh .ci/images.sh

format: $(READY_TO_TEST)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# With what other clones share: the finished builds of Caffe.
distclean: clean
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/pylayers"
