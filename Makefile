# The commands of the project. `make demo` and `make test` need git, make and Python 3.11 to 3.13, nothing else.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
DEMO := .venvs/demo
TEST := .venvs/test
LINE := .venvs/line
AUDIT := .venvs/audit
TYPINGS ?= ../shared/typings
# The interpreter that sees torch and the GPU; gpu-check installs nothing.
GPU_PYTHON ?= python3

# Hundreds of processes start here: without the bytecode each would compile the sources anew.
unexport PYTHONDONTWRITEBYTECODE

NEWEST := .venvs/newest
CONSTRAINTS := tools/constraints
PIN = $(AUDIT)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command 'make constraints' $(PINS)

.PHONY: help demo demo-model test coverage check gpu-check bench torture torture-full sbom audit docs pictures wheel constraints test-newest clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(DEMO)/.installed  ## a simulated lot through the real worker, a real broker and a report: build/demo/ (DESK=1: and the review desk)
	$(DEMO)/bin/python demo/run_demo.py --out build/demo $(if $(DESK),--desk)

test: $(TEST)/.installed  ## all default tests, three at a time: they wait for half of theirs
	$(TEST)/bin/python -m pytest --numprocesses 3 --dist worksteal

# Not part of `test`: on Python 3.11 it takes nearly twice the processor time.
coverage: $(TEST)/.installed  ## the same with coverage of lines and branches
	$(TEST)/bin/python -m pytest --numprocesses 3 --dist worksteal --cov --cov-report=term

# A release's cache starts as a copy of the plain one: only what touches TensorRT is looked at again.
check: $(TEST)/.installed  ## lint, format, types; calls of TensorRT 10 and 11 where their signatures are
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy
	@for release in trt10 trt11; do \
		if [ -d $(TYPINGS)/$$release ]; then \
			echo "mypy against $$release"; \
			[ -d .mypy_cache/$$release ] || { mkdir -p .mypy_cache/$$release && cp -R .mypy_cache/3.11 .mypy_cache/$$release; }; \
			MYPYPATH=$(TYPINGS)/$$release $(TEST)/bin/mypy -p edge --cache-dir .mypy_cache/$$release || exit 1; \
		else echo "mypy against $$release: skipped, $(TYPINGS)/$$release is not here"; fi; \
	done

gpu-check:  ## on an NVIDIA machine: kernel, bandwidth, networks, pipeline, training: build/gpu/ (WHEELS=DIR)
	$(GPU_PYTHON) tests/gpu/gpu_check.py --out build/gpu $(if $(WHEELS),--wheels $(WHEELS))

bench: $(TEST)/.installed  ## engines, replay and a plain script side by side: build/bench/
	$(TEST)/bin/python tests/bench/run_bench.py --out build/bench

torture: $(TEST)/.installed  ## every fault of docs/reliability.md against the real daemon, short: build/torture/ (TORTURE=OPTIONS)
	$(TEST)/bin/python -m tests.torture --column short $(TORTURE)

torture-full: $(TEST)/.installed  ## the same at full length (hours); goes on where it was cut off, writes docs/reliability.md
	$(TEST)/bin/python -m tests.torture --column long --resume --report docs/reliability.md $(TORTURE)

sbom: $(LINE)/.installed $(AUDIT)/.installed  ## software bill of materials of an installation (CycloneDX): build/sbom.json
	mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment $(LINE)/bin/python --pyproject pyproject.toml --output-reproducible \
		--output-format JSON --output-file build/sbom.json

audit: $(LINE)/.installed $(AUDIT)/.installed  ## known vulnerabilities of what an installation holds (asks PyPI)
	$(AUDIT)/bin/pip-audit --path "$$($(LINE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

demo-model: $(TEST)/.installed  ## train the demo networks from scratch and sign demo/model (about an hour on 2 cores)
	PATH="$(CURDIR)/$(TEST)/bin:$$PATH" $(TEST)/bin/python demo/train_demo_model.py

docs: $(TEST)/.installed  ## regenerate schemas, the settings table, the example and the tables of contents from the code
	$(TEST)/bin/python -m tools.docs

pictures: $(TEST)/.installed  ## take the pictures of README and docs/desk.md anew, in headless Chromium
	$(TEST)/bin/python -m tests.edge.validation.pictures --out docs
	$(TEST)/bin/python -m tests.edge.desk.pictures --out docs

wheel: $(TEST)/.installed  ## the wheel of the last commit, the same bytes wherever it is built: dist/
	rm -rf build/wheel && mkdir -p build/wheel dist
	git -c tar.umask=0022 archive HEAD | tar -x -C build/wheel
	umask 022; cd build/wheel && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(CURDIR)/$(TEST)/bin/python -m pip wheel \
		--quiet --no-deps --no-build-isolation --wheel-dir $(CURDIR)/dist .

# The second to last come with the versions of the first, so that a plant runs what the tests ran.
constraints: $(AUDIT)/.installed  ## pin what make and plants install; keeps pins that still fit (PINS=--upgrade: the newest)
	$(PIN) pyproject.toml --extra build --extra test --extra train --extra export --extra openvino --extra ray --extra desk \
		--output-file $(CONSTRAINTS)/test.txt
	$(PIN) pyproject.toml --extra build --extra openvino -c $(CONSTRAINTS)/test.txt --output-file $(CONSTRAINTS)/line.txt
	$(PIN) pyproject.toml --extra build --extra openvino --extra desk -c $(CONSTRAINTS)/test.txt --output-file $(CONSTRAINTS)/desk.txt
	$(PIN) pyproject.toml --extra build --extra demo --extra desk -c $(CONSTRAINTS)/test.txt --output-file $(CONSTRAINTS)/demo.txt
	$(PIN) pyproject.toml --extra build --extra audit -c $(CONSTRAINTS)/test.txt --output-file $(CONSTRAINTS)/audit.txt
	sed -n 's/^opencv-python==\([^ ]*\).*/opencv-python-headless==\1/p' $(CONSTRAINTS)/test.txt | \
		$(PIN) - --no-deps --output-file $(CONSTRAINTS)/headless.txt

test-newest: $(NEWEST)/.installed  ## the default tests with the newest release of every library, pinned nowhere
	$(NEWEST)/bin/python -m pytest --numprocesses 3 --dist worksteal

clean:  ## remove what was built, keep the environments
	rm -rf build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Environments hold the versions of tools/constraints/, checked by hash.
.venvs/%/.installed: $(CONSTRAINTS)/%.txt $(CONSTRAINTS)/headless.txt pyproject.toml demo/make_venv.sh
	@sh demo/make_venv.sh "$(PYTHON)" .venvs/$* $<

$(NEWEST)/.installed: pyproject.toml demo/make_venv.sh
	@sh demo/make_venv.sh "$(PYTHON)" $(NEWEST) '.[test,train,export,openvino,ray,desk]'
