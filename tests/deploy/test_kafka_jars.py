from pathlib import Path

import pytest

from deploy.errors import BrokerError
from deploy.kafka_jars import KAFKA_VERSION, fetch_jars, find_jars, find_java

BROKER_JAR = f"kafka_2.13-{KAFKA_VERSION}.jar"


def program(folder: Path, name: str, script: str) -> None:
    """Put an executable into a folder that is to be the whole search path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the only one on the search path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.usefixtures("search_path")
def test_a_machine_without_java_is_told_what_to_install() -> None:
    with pytest.raises(BrokerError, match=r"needs Java and no `java` .*install a Java 17"):
        find_java()


@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_292", "16-ea"])
def test_an_older_java_is_refused_with_its_version(search_path: Path, version: str) -> None:
    program(search_path, "java", f"echo 'openjdk version \"{version}\"' >&2")

    with pytest.raises(BrokerError, match=f"java is {version}: install a Java 17"):
        find_java()


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_java_17_and_later_are_taken(search_path: Path, version: str) -> None:
    program(search_path, "java", f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")

    assert find_java() == str(search_path / "java")


def test_a_folder_without_the_jars_says_how_to_fetch_them(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=f"no Apache Kafka {KAFKA_VERSION} in .*fetch its jars with\n  mvn -f"):
        find_jars(tmp_path)


@pytest.mark.usefixtures("search_path")
def test_jars_that_are_there_are_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / BROKER_JAR).touch()

    assert fetch_jars(tmp_path) == tmp_path


@pytest.mark.usefixtures("search_path")
def test_a_machine_without_maven_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="install maven"):
        fetch_jars(tmp_path / "libs")


def test_a_failing_maven_shows_what_it_said_and_leaves_nothing(search_path: Path, tmp_path: Path) -> None:
    program(search_path, "mvn", "echo '[ERROR] no route to the registry'; exit 1")

    with pytest.raises(BrokerError, match="no route to the registry"):
        fetch_jars(tmp_path / "libs")
    assert list((tmp_path / "libs").iterdir()) == []


def test_fetched_jars_end_up_in_the_folder(search_path: Path, tmp_path: Path) -> None:
    # The last argument is -DoutputDirectory=FOLDER.
    program(search_path, "mvn", f'for last; do :; done; : > "${{last#*=}}/{BROKER_JAR}"; : > "${{last#*=}}/a.jar"')

    libs = fetch_jars(tmp_path / "libs")
    assert sorted(jar.name for jar in libs.iterdir()) == ["a.jar", BROKER_JAR]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("fetching-")] == []


def test_a_maven_that_brings_something_else_is_an_error(search_path: Path, tmp_path: Path) -> None:
    program(search_path, "mvn", "exit 0")

    with pytest.raises(BrokerError, match=f"no Apache Kafka {KAFKA_VERSION}"):
        fetch_jars(tmp_path / "libs")
