# `make demo` and `make test` set up what they need; the plain commands are in the README.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check kafka-jars clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/installed

demo: setup  ## broker, worker, trainer and made-up clicks, for a minute or so
	$(BIN)/nextclick demo

test: setup kafka-jars  ## every test; those that need Apache Kafka are skipped, with the reason, without Java or Maven
	$(BIN)/pytest -m 'not kafka' --numprocesses auto --dist loadfile
	$(BIN)/pytest -m kafka

check: setup  ## what CI runs, without the broker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m 'not kafka' --numprocesses 4 --dist loadfile

kafka-jars: setup
	-$(BIN)/python -m deploy.kafka_jars

clean:
	rm -rf $(VENV) deploy/kafka/libs
