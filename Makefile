# make pretrain   set everything up and train on real video for a few minutes
# make test       set everything up, lint, and run the whole suite
# make help       all targets

VENV   ?= .venv
VIDEOS ?= data/clips
RUN    ?= runs/$(notdir $(VIDEOS:/=))
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inl')
TEST_SOURCES := $(wildcard tests/native/*.cpp tests/emulator/*.cpp tests/emulator/*.h tests/emulator/*.cuh \
    benchmarks/instructions/*.cpp benchmarks/instructions/jobs/*)
LIBRARY := stor_ops/_cpu.so
PRETRAIN_FLAGS ?=
BENCH ?=

# Another torch that a wheel built here is tried under.
ABI_TORCH ?= 2.13.0
ABI_VENV  ?= .venv-abi
ABI_TESTS := tests/test_import.py $(sort $(wildcard tests/test_sampling*.py tests/test_overlap*.py \
             tests/test_views.py tests/test_crop_resize*.py tests/test_info_nce.py tests/test_info_nce_cpu.py))

.PHONY: help setup pretrain test lint format abi-check kernel-report gpu-check bench clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: requirements-dev.txt
	@echo "== creating $(VENV) and installing $< (several GB the first time)"
	python3 -m venv $(VENV)
	$(PIP) install --quiet -r $<
	@touch $@

$(LIBRARY): $(SOURCES) setup.py pyproject.toml $(VENV)/.installed
	@echo "== building stor_ops (log: build/build.log)"
	@mkdir -p build
	@$(PIP) install --verbose --no-build-isolation --no-deps -e . > build/build.log 2>&1 \
	    || { tail -40 build/build.log; exit 1; }
	@grep -E '^ *stor_ops: ' build/build.log
	@touch $@

setup: $(LIBRARY)  ## create .venv, install everything, build
	@$(PYTHON) -m stor_ops.info

data/clips/.fetched: training/sample_clips.py | $(VENV)/.installed
	@echo "== fetching sample clips"
	$(PYTHON) -m training.sample_clips $(@D)
	@touch $@

pretrain: $(LIBRARY) $(if $(filter data/clips,$(VIDEOS)),data/clips/.fetched)  ## train the tiny preset; VIDEOS=folder takes your own videos
	@echo "== pretraining on $(VIDEOS) into $(RUN); run again to resume, remove $(RUN) to start anew"
	$(PYTHON) -m training.pretrain tiny --data.videos $(VIDEOS) --run.out $(RUN) --run.resume $(PRETRAIN_FLAGS)

test: lint data/clips/.fetched  ## lint, then the whole suite
	@echo "== tests"
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile

lint: $(LIBRARY)  ## ruff, mypy, clang-format
	@echo "== lint"
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(SOURCES) $(TEST_SOURCES)

format: $(VENV)/.installed  ## rewrite Python and C++ in the project's style
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format
	$(VENV)/bin/clang-format -i $(SOURCES) $(TEST_SOURCES)

$(ABI_VENV)/.installed: Makefile
	python3 -m venv $(ABI_VENV)
	$(ABI_VENV)/bin/pip install --quiet --disable-pip-version-check torch==$(ABI_TORCH) \
	    numpy pybind11 pytest hypothesis
	@touch $@

abi-check: $(LIBRARY) $(ABI_VENV)/.installed  ## sdist, wheel, and its tests under another torch
	@echo "== testing the wheel under torch $(ABI_TORCH)"
	rm -rf build/lib build/bdist* build/sdist build/wheel
	$(PYTHON) setup.py --quiet sdist --dist-dir build/sdist
	$(PIP) wheel --quiet --no-build-isolation --no-deps -w build/wheel build/sdist/stor_ops-*.tar.gz
	ls build/wheel/stor_ops-*-py3-none-*.whl
	$(ABI_VENV)/bin/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps build/wheel/*.whl
	cd $(ABI_VENV) && bin/python -c "import stor_ops, torch; print(stor_ops.__file__, torch.__version__); \
	    assert torch.__version__.startswith('$(ABI_TORCH)') and '$(ABI_VENV)' in stor_ops.__file__"
	cd $(ABI_VENV) && bin/python -m pytest -q -p no:cacheprovider $(ABI_TESTS:%=../%)

$(VENV)/.bench: requirements-bench.txt $(VENV)/.installed
	@echo "== installing the peers that the benchmarks compare with"
	$(PIP) install --quiet -r $<
	@touch $@

bench: $(LIBRARY) $(VENV)/.bench  ## time every op beside its peers, on an idle machine; BENCH="info_nce --cases 8192"
	$(PYTHON) -m benchmarks.run $(BENCH)

kernel-report: $(LIBRARY)  ## compiler budgets and memory traffic of the CUDA kernels; needs no GPU
	$(PYTHON) -m benchmarks.kernels.budgets
	-$(PYTHON) -m benchmarks.kernels.traffic

gpu-check: $(LIBRARY)  ## on a machine with a GPU: its tests, sanitizers and benchmarks, into one JSON
	$(PYTHON) -m benchmarks.gpu_check

clean:  ## remove what was built; keeps .venv, data and runs
	rm -rf build dist *.egg-info stor_ops/*.so
