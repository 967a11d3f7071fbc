PYTHON ?= python
export OMP_NUM_THREADS ?= 1

.PHONY: docs install test slow cover lint types floors check bench clean

install:
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev]"

test:
	$(PYTHON) -m pytest -q -ra

slow:
	$(PYTHON) -m pytest -q -ra -m slow

cover:
	$(PYTHON) -m pytest -q --cov --cov-report=term

lint:
	ruff check .
	ruff format --check .

types:
	mypy

floors:
	lint-imports

check: lint types floors test

docs:
	$(PYTHON) docs/tools/build.py build/docs

bench:
	set -e; for script in benchmarks/*.py; do $(PYTHON) $$script; done

clean:
	rm -rf build dist *.egg-info .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
