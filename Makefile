# Every target works as the first and only command in a fresh clone: it makes .venv and installs what it needs.
# Kept to what GNU make 3.81 knows, which is what macOS ships.

PYTHON ?= python3
PRESET ?=
SEEDS  ?= 0
ARGS   ?=
TORCH  ?=
FOLDER ?=
CATALOGUE ?=
PIXELS ?= $(if $(filter paper,$(PRESET)),128,32)
BINNING ?= 1
METHODS ?=
PROBLEM ?=
OUT ?=
RUN ?=

# A variable that is misspelt would do nothing, in silence.
KNOWN := PYTHON PRESET SEEDS ARGS TORCH FOLDER CATALOGUE PIXELS BINNING METHODS PROBLEM OUT RUN
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(if $(filter-out $(KNOWN),$(GIVEN)),$(error unknown variable $(firstword $(filter-out $(KNOWN),$(GIVEN))); there are: $(KNOWN)))
# So would one that no target of the command looks at.
RUNS := manifolds manifolds-ablations manifolds-growth manifolds-audit manifolds-sweep mnist-grass mnist-grass-ablations mnist-grass-scale galaxies galaxies-separate
OWN_DATA := galaxies galaxies-separate galaxies-data
OF_PRESET := $(RUNS) galaxies-data
OF_SEEDS  := $(filter-out manifolds-sweep mnist-grass-scale,$(RUNS))
OF_METHODS := $(filter-out manifolds-growth manifolds-sweep mnist-grass-scale galaxies-separate,$(RUNS))
OF_OUT    := $(RUNS)
EXAMPLES  := graffiti heartbeats
OF_ARGS   := $(RUNS) $(EXAMPLES) galaxies-data split-gibbs gpu-check lock notebooks test test-all publish
OF_FOLDER := $(OWN_DATA)
OF_CATALOGUE := $(OWN_DATA)
OF_PIXELS  := $(OWN_DATA)
OF_BINNING := $(OWN_DATA)
OF_PROBLEM := $(OF_METHODS) galaxies-separate
OF_RUN     := publish report pretrained
GOALS := $(or $(MAKECMDGOALS),help)
$(foreach name,$(filter-out PYTHON TORCH,$(GIVEN)),$(if $(strip $($(name))),$(if $(filter $(OF_$(name)),$(GOALS)),,$(error $(name)= says nothing to make $(GOALS); it is for $(OF_$(name))))))
$(if $(filter-out cpu,$(TORCH)),$(error TORCH=$(TORCH) is not known: TORCH=cpu takes PyTorch's CPU wheels, without it those of PyPI are taken))
$(if $(strip $(FOLDER)),,$(foreach name,CATALOGUE $(if $(filter galaxies-data,$(GOALS)),,PIXELS BINNING),$(if $(filter $(name),$(GIVEN)),$(if $(strip $($(name))),$(error $(name)= is of your own mosaics, and needs FOLDER= too)))))
# The user's command, to be told again.
export AGAIN := $(strip $(MAKECMDGOALS) $(foreach name,$(filter-out PYTHON,$(GIVEN)),$(name)="$($(name))"))

VENV  := .venv
BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One line in place of the screen that pip fills; all of its words are kept.
install = @$(PIP) $(1) 2>$(VENV)/pip.log || { if grep -qE 'NameResolutionError|NewConnectionError|ConnectTimeoutError|ProxyError' $(VENV)/pip.log; \
	  then echo "pip cannot reach its package index (see $(VENV)/pip.log): when there is a network, run make $$AGAIN again"; \
	  else echo "pip: $$(grep . $(VENV)/pip.log | tail -n 1) (all of it: $(VENV)/pip.log)"; fi >&2; exit 1; }
READY := $(VENV)/.installed
DEV   := $(VENV)/.installed-dev
GALAXIES := $(VENV)/.installed-galaxies
FLAGS  = $(if $(strip $(PRESET)),--preset $(PRESET)) --seeds $(SEEDS) $(if $(strip $(METHODS)),--methods $(METHODS)) $(if $(strip $(PROBLEM)),--problem $(PROBLEM)) $(if $(strip $(OUT)),--out "$(OUT)") $(if $(strip $(OWN) $(ARGS)),-- $(OWN) $(ARGS))

# Large pages of memory, where Linux has them on offer: on a CPU, U-Nets train faster with them.
$(RUNS): export GLIBC_TUNABLES := $(or $(GLIBC_TUNABLES),glibc.malloc.hugetlb=1)

.DEFAULT_GOAL := help
.PHONY: help setup lock test test-all lint format gpu-check manifolds manifolds-ablations manifolds-growth manifolds-audit manifolds-sweep mnist-grass mnist-grass-ablations mnist-grass-scale galaxies galaxies-separate galaxies-data split-gibbs graffiti heartbeats notebooks data publish pretrained demo report tables figures readme docs clean

help: ## this list [1 s]
	@echo "make TARGET [PRESET=smoke|cpu|gpu|paper] [SEEDS=\"0 1 2\"] [ARGS=\"settings.training.steps=200 ...\"] [PYTHON=python3.12] [TORCH=cpu]"
	@echo "OUT=folder takes a run's results, in place of results/runs; make publish RUN=... makes committed ones of them."
	@echo "METHODS=\"joint mixture\" and PROBLEM=full run no other methods and problems. PRESET defaults to cpu on every device: its results are published. TORCH=cpu installs PyTorch's CPU wheels (no CUDA download)."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## a minute's look: the pretrained models separate fresh observations; pictures in results/demo/index.html [1 min]
	@HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.pretrained.demo

setup: $(READY) ## make .venv and install everything that a run needs [2-10 min once, mostly download]

# The locks name everything, hence --no-deps. PyPI's torch has its hashes there, with the CUDA libraries that it needs. Another
# build of that version (+cpu) has not: it comes from PyTorch's index with TORCH=cpu, or from where pip is told to look.
LOCKED := --no-deps --require-hashes -r
VERSION = $$(grep -o '^torch==[^ ]*' requirements-torch.txt)
OTHER_BUILD = $(BIN)/python -m pip install --dry-run --no-deps $(VERSION) 2>/dev/null | grep -q '^Would install torch-.*+\|already satisfied: torch==.*+'
$(READY): requirements-torch.txt requirements.txt pyproject.toml
	$(if $(shell $(PYTHON) -c 'import sys; print("good" * ((3, 11) <= sys.version_info < (3, 15)))' 2>/dev/null),,$(error Python 3.11 to 3.14 is needed, and '$(PYTHON)' is not: try make $(AGAIN) PYTHON=python3.12))
	@echo "Installing into $(VENV): a few minutes the first time."
	@$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(call install,--no-deps --index-url https://download.pytorch.org/whl/cpu $(VERSION))
else
	$(call install,$$($(OTHER_BUILD) && echo --no-deps $(VERSION) || echo $(LOCKED) requirements-torch.txt))
endif
	$(call install,$(LOCKED) requirements.txt)
	$(call install,--no-deps --no-build-isolation -e .)
	@touch $@

$(GALAXIES): requirements-galaxies.txt $(READY)
	$(call install,$(LOCKED) requirements-galaxies.txt)
	@touch $@

$(DEV): requirements-dev.txt $(GALAXIES)
	@echo "Installing the tools for tests and lint."
	$(call install,$(LOCKED) requirements-dev.txt)
	@touch $@

# Locked versions stay where pyproject.toml allows them. What only PyPI's torch needs is kept apart: see above.
COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --quiet -o $(VENV)/lock.txt
OF_TORCH := /^[a-z]/ { torch = /^(torch=|triton=|cuda-|nvidia-)/ }
lock: export UV_CUSTOM_COMPILE_COMMAND = make lock
lock: $(DEV) ## resolve pyproject.toml into requirements*.txt; ARGS=--upgrade takes the newest versions [10 s]
	@cat requirements-torch.txt requirements-dev.txt > $(VENV)/lock.txt
	@$(COMPILE) $(ARGS) --extra dev
	@awk '$(OF_TORCH) torch || /^#/' $(VENV)/lock.txt > requirements-torch.txt
	@awk '$(OF_TORCH) !torch' $(VENV)/lock.txt > requirements-dev.txt
	@$(COMPILE) --extra experiments --extra examples --extra galaxies
	@awk '$(OF_TORCH) !torch' $(VENV)/lock.txt > requirements-galaxies.txt
	@$(COMPILE) --extra experiments --extra examples
	@awk '$(OF_TORCH) !torch' $(VENV)/lock.txt > requirements.txt

test: $(DEV) ## run the tests, a file of them per core at a time; ARGS goes to pytest [6 min on two cores]
	@$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-all: $(DEV) ## the same with those that take minutes: before any larger change is called done
	@$(BIN)/python -m pytest -n auto --dist loadfile -m "" $(ARGS)

lint: $(DEV) ## ruff (rules, annotations, format) and mypy, strict, on mvss, experiments and examples [30 s]
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(DEV) ## let ruff sort imports and format the code [1 s]
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format .

manifolds: $(READY) ## the 1D-manifold table and figures, all methods [smoke: 1 min; cpu: see docs/experiments.md]
	@$(BIN)/python -m experiments.manifolds $(FLAGS)

manifolds-ablations: $(READY) ## the same with what each part of the method gives
	@$(BIN)/python -m experiments.manifolds --ablations $(FLAGS)

manifolds-growth: $(READY) ## cost against the numbers of observations and sources [cpu: 2 min]
	@$(BIN)/python -m experiments.manifolds growth $(FLAGS)

manifolds-audit: $(READY) ## calibration (4,096 observations x 100 draws) and log p of candidates [cpu: 30 min a seed]
	@$(BIN)/python -m experiments.manifolds --audit $(FLAGS)

manifolds-sweep: $(READY) ## tune the baselines on seeds of their own [cpu: 20 min]
	@$(BIN)/python -m experiments.manifolds sweep $(FLAGS)

mnist-grass: $(READY) ## digits on grass, neither ever seen clean, all methods [smoke: 2 min; cpu: see docs/experiments.md]
	@$(BIN)/python -m experiments.mnist_grass $(FLAGS)

mnist-grass-ablations: $(READY) ## what each part of the method gives, as the paper's Table 6 [smoke: 2 min; cpu: hours]
	@$(BIN)/python -m experiments.mnist_grass --ablations $(FLAGS)

mnist-grass-scale: $(READY) ## scores against the number of mixtures, up to 11,000 of seed 100's digits; ARGS=mnist=openml, or a file or folder [smoke: 3 min; cpu: hours]
	@$(BIN)/python -m experiments.mnist_grass scale $(FLAGS)

# Of a user's own mosaics, where FOLDER= names them.
galaxies galaxies-separate: OWN = $(if $(strip $(FOLDER)),problems=[archive] pixels=$(PIXELS))

galaxies: $(READY) $(if $(strip $(FOLDER)),galaxies-data) ## galaxies without their neighbours, real and simulated, or those on mosaics in FOLDER= [CATALOGUE=] [smoke: 2 min; cpu: see docs/experiments.md]
	@$(BIN)/python -m experiments.galaxies $(FLAGS)

galaxies-separate: $(READY) ## separated-PROBLEM.h5 of what make galaxies has learned; PROBLEM=real by default [5 min]
	@$(BIN)/python -m experiments.galaxies.separate $(FLAGS)

galaxies-data: $(GALAXIES) ## cut stamps of PIXELS=32 pixels (128 for PRESET=paper), each BINNING=1 of the mosaics' across, from the mosaics in FOLDER= around the positions in CATALOGUE= or what is detected; without FOLDER downloads 4 GB [min a mosaic]
	@$(BIN)/python -m experiments.galaxies.archive.cut $(if $(FOLDER),"$(FOLDER)") $(if $(CATALOGUE),"$(CATALOGUE)") --pixels $(PIXELS) --binning $(BINNING) $(if $(strip $(OWN)),,$(ARGS))

split-gibbs: $(READY) ## bias of split Gibbs beside exact posteriors of mixtures, at three settings; ARGS=--publish writes results/split_gibbs [2 min]
	@$(BIN)/python -m experiments.split_gibbs $(ARGS)

graffiti: $(READY) ## a worked example by the command mvss: paint on a brick wall; ARGS=--small is a look [10 min; small: 20 s]
	@$(BIN)/python -m examples.graffiti $(ARGS)

heartbeats: $(READY) ## the same of signals: a child's heartbeat beneath its mother's, with gaps [10 min; small: 20 s]
	@$(BIN)/python -m examples.heartbeats $(ARGS)

# The .py of a pair is what is edited. tqdm would say at each import that it has no widgets.
notebooks: export PYTHONWARNINGS = ignore:IProgress not found
notebooks: $(DEV) ## run notebooks/; ARGS=--overwrite keeps what comes out [2 min]
	@$(BIN)/python -m jupytext --quiet --update --to ipynb notebooks/*.py
	@$(BIN)/python -m pytest -p no:cacheprovider --nbmake --nbmake-timeout=300 $(ARGS) notebooks/*.ipynb

data: $(READY) ## what data there is, what is missing and how to get it; downloads nothing [5 s]
	@$(BIN)/python -m experiments.data_status

publish: $(READY) ## copy what is committed of the finished run RUN=results/runs/<experiment>/<preset> into results/ [10 s]
	$(if $(strip $(RUN)),,$(error publish needs RUN=, such as RUN=results/runs/manifolds/cpu))
	@$(BIN)/python -m experiments.core.publish "$(RUN)" $(ARGS)

pretrained: $(READY) ## make pretrained/ of finished runs RUN="results/runs/<experiment>/cpu ...": models to try, with their cards [2 min]
	$(if $(strip $(RUN)),,$(error pretrained needs RUN=, such as RUN=results/runs/manifolds/cpu))
	@$(BIN)/python -m experiments.pretrained.build $(RUN)

report: $(READY) ## a page of all results to look at, results/report/index.html; RUN="folder ..." shows those of runs [20 s]
	@$(BIN)/python -m experiments.report.page $(RUN)

tables: $(READY) ## write table.json and table.md of all published results again, from their metrics.jsonl [5 s]
	@$(BIN)/python -m experiments.report.rebuild

figures: $(READY) ## draw the figures of all published results again, from the draws and metrics.jsonl that are committed [2 min]
	@$(BIN)/python -m experiments.report.redraw

readme: $(READY) ## write results and times into README and docs from the published table.json and times.json of the cpu preset [5 s]
	@$(BIN)/python -m experiments.report.readme
	@$(BIN)/python -m experiments.core.targets

gpu-check: $(READY) ## small runs on a GPU beside the CPU's; a lap of presets gpu, first steps of presets paper; ARGS=--cpu tries it [10 min]
	@$(BIN)/python -m experiments.gpu_check $(ARGS)

docs: $(DEV) ## build the pages of docs/ into site/, strictly and without a network: open site/index.html [20 s]
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs:    site/index.html (to search them, too: $(BIN)/python -m http.server -d site)"

# By name: what else lies here may be anybody's. A lock file may be of a run in another environment.
clean: ## remove caches and results/runs (runs, their checkpoints and tables), unless a run is going on [3 s]
ifeq ($(wildcard $(BIN)/python),)
	@if [ -L results/runs ]; then echo "clean: results/runs is a link: remove what you mean there, or the link, yourself" >&2; exit 2; fi
	@if [ -d results/runs ] && [ -n "$$(find results/runs -name lock)" ]; then \
	  echo "clean: a run holds $$(find results/runs -name lock | head -n 1): end it, or remove that file if no run is going on" >&2; exit 2; fi
	@rm -rf results/runs
else
	@if [ -d results/runs ]; then $(BIN)/python -m experiments.core.clean; fi
endif
	@rm -rf .pytest_cache .mypy_cache .ruff_cache build dist site *.egg-info
	@find mvss experiments examples docs tests -name __pycache__ -type d -prune -exec rm -rf {} +
